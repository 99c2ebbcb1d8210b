//! A filesystem in memory behind a frontend, for test suites that are programs of their own.

use std::path::Path;
use std::sync::Arc;

use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{Frontend, MountOptions};
use tokio::runtime::Runtime;

/// Mounts an empty filesystem on the directory that the command line names, and serves it until it is unmounted.
///
/// As root it honours devices, set-uid bits and all users, as test suites for filesystems need it.
///
/// # Errors
/// Without a directory, and if it cannot be mounted on.
pub fn serve_memfs(frontend: &dyn Frontend) -> Result<(), Box<dyn std::error::Error>> {
    let at = std::env::args_os().nth(1).ok_or("usage: memfs DIRECTORY")?;
    let root = rustix::process::geteuid().is_root();
    let options = MountOptions {
        source: "memfs".into(),
        allow_other: root,
        suid: root,
        dev: root,
        ..MountOptions::default()
    };
    let runtime = Runtime::new()?;
    let mount = frontend.mount(Arc::new(MemFs::default()), Path::new(&at), &options, runtime.handle())?;
    runtime.block_on(mount.unmounted());
    Ok(())
}
