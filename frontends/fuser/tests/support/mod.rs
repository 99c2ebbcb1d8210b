//! A memfs on a temporary mount point, unmounted whatever happens.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Longer than anything here takes; only what would hang forever meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted memfs. The fields end in this order.
pub struct Mounted {
    pub mount: Option<Box<dyn Mount>>,
    pub fs: Arc<MemFs>,
    pub runtime: Runtime,
    at: MountPoint,
}

/// A directory that is not a mount point any more when it is removed.
struct MountPoint(TempDir);

impl Drop for MountPoint {
    fn drop(&mut self) {
        // Fails where nothing is mounted, which is what is wanted.
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

impl Mounted {
    pub fn of(options: MemFsOptions) -> Self {
        Self::new(options, &MountOptions::default())
    }

    pub fn new(fs: MemFsOptions, options: &MountOptions) -> Self {
        Self::mount(MemFs::new(fs), options).expect("mounted")
    }

    pub fn mount(fs: MemFs, options: &MountOptions) -> Result<Self, MountError> {
        let at = MountPoint(tempfile::tempdir().expect("a mount point"));
        let runtime = Runtime::new().expect("a runtime");
        let fs = Arc::new(fs);
        let mount = Fuser.mount(Arc::clone(&fs) as _, at.0.path(), options, runtime.handle())?;
        Ok(Self { mount: Some(mount), fs, runtime, at })
    }

    pub fn path(&self) -> &Path {
        self.at.0.path()
    }

    pub fn mount_ref(&self) -> &dyn Mount {
        self.mount.as_deref().expect("mounted")
    }

    pub fn is_mounted(&self) -> bool {
        let path = self.path().to_str().expect("a temporary directory has a plain name");
        mount_table().lines().any(|line| line.split(' ').nth(1) == Some(path))
    }

    /// Waits for the end of the mount.
    pub fn wait_until_unmounted(&self) {
        let ended = async { tokio::time::timeout(PATIENCE, self.mount_ref().unmounted()).await };
        self.runtime.block_on(ended).expect("the mount ends");
    }
}

pub fn mount_table() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("the mount table")
}

/// Waits for what the kernel does later (forgets, releases of closed files).
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
