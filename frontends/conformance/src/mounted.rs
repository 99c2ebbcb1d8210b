//! A filesystem that is mounted by a frontend, unmounted whatever happens.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;

/// Where the mounts of a trial are noted, below its directory.
pub(crate) const CONNECTIONS: &str = "connections";

/// How what all users may use is mounted.
pub(crate) fn all_users() -> MountOptions {
    MountOptions { allow_other: true, suid: true, dev: true, ..MountOptions::default() }
}

/// A mount. The fields end in this order.
pub(crate) struct Mounted {
    mount: Option<Box<dyn Mount>>,
    runtime: Handle,
    at: PathBuf,
    note: PathBuf,
}

impl Mounted {
    /// Mounts `vfs` on `at`, for the trial in `dir`.
    pub(crate) fn new(
        frontend: &dyn Frontend,
        vfs: Arc<dyn Vfs>,
        at: &Path,
        dir: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Self, MountError> {
        fs::DirBuilder::new().mode(0o755).recursive(true).create(at).expect("a directory");
        let mount = frontend.mount(vfs, at, options, runtime)?;
        let note = note(dir, at);
        Ok(Self { mount: Some(mount), runtime: runtime.clone(), at: at.to_owned(), note })
    }

    pub(crate) fn mount(&self) -> &dyn Mount {
        self.mount.as_deref().expect("it is there until it is dropped")
    }

    /// Drops the frontend's mount; the guard remains.
    pub(crate) fn drop_mount(&mut self) {
        self.mount.take();
    }

    /// Unmounts, whoever uses it, and waits until its last user is gone.
    pub(crate) fn unmount(self) {
        self.runtime.block_on(async {
            self.mount().unmount(true).await.expect("unmounted");
            self.mount().unmounted().await;
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.mount.take();
        // Fails where nothing is mounted any more, which is what is wanted.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.note);
    }
}

/// Notes the number by which the kernel knows the mount, for [`abort_connections`].
fn note(dir: &Path, at: &Path) -> PathBuf {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let root = statx(CWD, at, flags, StatxFlags::empty()).expect("it is mounted");
    let note = dir.join(CONNECTIONS).join(root.stx_dev_minor.to_string());
    fs::write(&note, "").expect("noted");
    note
}

/// Lets all requests to the mounts of a trial fail: those of a process that waits for its own answer can be ended
/// in no other way.
pub(crate) fn abort_connections(dir: &Path) {
    const ABORT: &str = "at=/sys/fs/fuse/connections; \
        mountpoint -q $at || mount -t fusectl fusectl $at || exit; \
        for connection; do [ ! -e $at/$connection ] || echo 1 > $at/$connection/abort || exit; done";
    let Ok(notes) = fs::read_dir(dir.join(CONNECTIONS)) else { return };
    let connections = notes.filter_map(|note| Some(note.ok()?.file_name()));
    let aborted =
        Command::new("unshare").args(["--mount", "sh", "-c", ABORT, "sh"]).args(connections).output();
    match aborted {
        Ok(output) if output.status.success() => {}
        other => eprintln!("cannot abort the connections of {}: {other:?}", dir.display()),
    }
}
