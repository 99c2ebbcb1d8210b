//! The mounts that are compared.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_benches::packed;
use aysfs_benches::server::{self, Server};
use aysfs_engine::Mode;
use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::{Frontend, MountOptions};
use tokio::runtime::{Handle, Runtime};
use url::Url;

/// The first argument of the process that serves a mount.
pub(crate) const COMMAND: &str = "serve-a-mount";

/// What to mount, and where.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Read-only mounts are read without messages for open, others with passthrough.
    pub(crate) mode: Mode,
    /// The flist.
    pub(crate) flist: PathBuf,
    /// The stor.
    pub(crate) stor: Url,
    /// The directory of the backend.
    pub(crate) backend: PathBuf,
    /// The mount point.
    pub(crate) point: PathBuf,
}

impl Setup {
    /// Mounts it.
    pub(crate) fn mount(&self) -> Server {
        let mode = format!("{:?}", self.mode);
        let words = [COMMAND, mode.as_str(), self.stor.as_str()].map(OsStr::new);
        let paths = [&self.flist, &self.backend, &self.point].map(|path| path.as_os_str());
        Server::start([words, paths].concat(), &self.point)
    }
}

/// Serves a mount: what the process does.
pub(crate) fn serve(arguments: Vec<String>) {
    let [mode, stor, flist, backend, point] = arguments.try_into().expect("what `mount` gives");
    let modes = [Mode::ReadOnly, Mode::Overlay];
    let mode = modes.into_iter().find(|known| format!("{known:?}") == mode).expect("a mode");
    Runtime::new().expect("a runtime").block_on(async {
        let stor = stor.parse().expect("a URL");
        let fs = packed::filesystem(Path::new(&flist), stor, Path::new(&backend), mode).await;
        let options = MountOptions { read_only: true, allow_other: true, ..MountOptions::default() };
        let mount = Fuser.mount(Arc::new(fs), Path::new(&point), &options, &Handle::current());
        server::serve(mount.expect("a mount")).await;
    });
}
