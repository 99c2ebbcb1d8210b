//! What a case about mounting has in its hands: the frontend, and filesystems in memory that tell what was asked
//! of them.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use tokio::runtime::Runtime;

use crate::mounted::{Mounted, all_users};
use crate::process::{Job, Role, this_program};
use crate::user::User;

/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bench of a case about mounting.
pub(crate) struct Rig<'a> {
    frontend: &'static dyn Frontend,
    job: &'a Job,
    dir: PathBuf,
    pub(crate) runtime: Runtime,
    mounts: AtomicUsize,
}

impl<'a> Rig<'a> {
    /// Mounts are made below `dir`.
    pub(crate) fn new(frontend: &'static dyn Frontend, job: &'a Job, dir: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        Self { frontend, job, dir: dir.to_owned(), runtime, mounts: AtomicUsize::new(0) }
    }

    pub(crate) fn frontend(&self) -> &'static dyn Frontend {
        self.frontend
    }

    /// A directory to work in; what is left in it is removed.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Mounts an empty memfs, open to all.
    pub(crate) fn memfs(&self, options: MemFsOptions) -> MemMount<'_> {
        self.mount(MemFs::new(options), &all_users()).expect("mounted")
    }

    /// Mounts a memfs on a directory of its own.
    pub(crate) fn mount(&self, fs: MemFs, options: &MountOptions) -> Result<MemMount<'_>, MountError> {
        let fs = Arc::new(fs);
        let at = self.dir.join(format!("mount{}", self.mounts.fetch_add(1, Ordering::Relaxed)));
        let vfs: Arc<dyn Vfs> = Arc::clone(&fs) as _;
        let mounted = Mounted::new(self.frontend, vfs, &at, &self.job.dir, options, self.runtime.handle())?;
        Ok(MemMount { mounted, at, fs, rig: self })
    }

    /// Waits for what happens if nothing hangs.
    #[track_caller]
    pub(crate) fn wait_for<T>(&self, what: &str, happens: impl Future<Output = T>) -> T {
        let in_time = async { tokio::time::timeout(PATIENCE, happens).await };
        self.runtime.block_on(in_time).unwrap_or_else(|_| panic!("it never happened: {what}"))
    }

    /// Starts the process of this case that uses what is at `at`.
    pub(crate) fn user(&self, at: &Path) -> User {
        let mut command = Command::new(this_program());
        self.give_use(&mut command, at);
        User::start(command)
    }

    /// Makes the program that `command` starts in the end the one that uses what is at `at`.
    pub(crate) fn give_use(&self, command: &mut Command, at: &Path) {
        Job { role: Role::Use, at: at.to_owned(), ..self.job.clone() }.give_to(command);
    }
}

/// A mounted memfs.
pub(crate) struct MemMount<'a> {
    mounted: Mounted,
    at: PathBuf,
    pub(crate) fs: Arc<MemFs>,
    rig: &'a Rig<'a>,
}

impl MemMount<'_> {
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    pub(crate) fn mount(&self) -> &dyn Mount {
        self.mounted.mount()
    }

    /// Drops the [`Mount`], and nothing else.
    pub(crate) fn drop_mount(&mut self) {
        self.mounted.drop_mount();
    }

    pub(crate) fn unmount(&self) -> Result<(), MountError> {
        self.rig.runtime.block_on(self.mount().unmount(false))
    }

    pub(crate) fn detach(&self) {
        self.rig.runtime.block_on(self.mount().unmount(true)).expect("detached");
        assert!(!self.is_mounted());
    }

    /// Waits for the end of the mount.
    pub(crate) fn wait_until_unmounted(&self) {
        self.rig.wait_for("the mount ends", self.mount().unmounted());
    }

    /// Unmounts as soon as nobody uses it any more.
    pub(crate) fn unmount_eventually(&self) {
        // What a process has closed, or held when it ended, may be in use for a moment longer.
        eventually("it is unused", || match self.unmount() {
            Ok(()) => true,
            Err(MountError::Busy(_)) => false,
            Err(error) => panic!("{error}"),
        });
        assert!(!self.is_mounted());
    }

    pub(crate) fn is_mounted(&self) -> bool {
        mount_line(self.path()).is_some()
    }
}

/// The line of a mount point in the mount table; the last one, if several are on top of each other.
pub(crate) fn mount_line(at: &Path) -> Option<String> {
    let at = at.to_str().expect("a temporary directory has a plain name");
    let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
    table.lines().rfind(|line| line.split(' ').nth(1) == Some(at)).map(str::to_owned)
}

/// Waits for what the kernel does later (forgets, releases of closed files).
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
