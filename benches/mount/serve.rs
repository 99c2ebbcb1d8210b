//! The mounts that are compared.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_benches::packed;
use aysfs_benches::server::{self, Server};
use aysfs_engine::{Overlay, Upper};
use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::{Frontend, MountOptions, Vfs};
use tokio::runtime::{Handle, Runtime};
use url::Url;

/// The first argument of the process that serves a mount.
pub(crate) const COMMAND: &str = "serve-a-mount";

/// What may be done with a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is read without messages for open.
    ReadOnly,
    /// It can be written, and cached files are passed through.
    Overlay,
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
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
        let fs = packed::filesystem(Path::new(&flist), stor, Path::new(&backend)).await;
        let fs: Arc<dyn Vfs> = match mode {
            Mode::ReadOnly => Arc::new(fs),
            Mode::Overlay => {
                let upper = Upper::open(Path::new(&backend), Path::new(&point)).expect("local changes");
                Arc::new(Overlay::new(fs, upper).expect("local changes"))
            }
        };
        let read_only = mode == Mode::ReadOnly;
        let options = MountOptions { read_only, allow_other: true, ..MountOptions::default() };
        let mount = Fuser.mount(fs, Path::new(&point), &options, &Handle::current());
        server::serve(mount.expect("a mount")).await;
    });
}
