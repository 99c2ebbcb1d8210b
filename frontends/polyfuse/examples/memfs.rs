//! Mounts an empty memfs: `memfs DIRECTORY` serves until it is unmounted.
//!
//! As root it honours devices, set-uid bits and all users, as test suites for filesystems need it.

use std::path::Path;
use std::sync::Arc;

use aysfs_frontend_polyfuse::Polyfuse;
use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{Frontend, MountOptions};
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn std::error::Error>> {
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
    let mount = Polyfuse.mount(Arc::new(MemFs::default()), Path::new(&at), &options, runtime.handle())?;
    runtime.block_on(mount.unmounted());
    Ok(())
}
