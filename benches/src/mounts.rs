//! The mounts that are measured, each in a process of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_engine::{Overlay, Upper};
use aysfs_frontend_fuse3::Fuse3;
use aysfs_frontend_fuser::Fuser;
use aysfs_frontend_polyfuse::Polyfuse;
use aysfs_vfs::{Frontend, MountOptions, Vfs};
use tokio::runtime::{Handle, Runtime};
use url::Url;

use crate::packed;
use crate::server::{self, Server};

/// The first argument of the process that serves a mount.
pub const COMMAND: &str = "serve-a-mount";

/// The words for the frontends.
pub const LIBS: [&str; 3] = ["fuser", "fuse3", "polyfuse"];

/// What may be done with a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is read without messages for open.
    ReadOnly,
    /// It can be written, and cached files are passed through.
    Overlay,
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One of [`LIBS`].
    pub lib: &'static str,
    /// What may be done with it.
    pub mode: Mode,
    /// The flist.
    pub flist: PathBuf,
    /// The stor.
    pub stor: Url,
    /// The directory of the backend.
    pub backend: PathBuf,
    /// The mount point.
    pub point: PathBuf,
}

impl Setup {
    /// Mounts it.
    pub fn mount(&self) -> Server {
        let mode = format!("{:?}", self.mode);
        let words = [COMMAND, self.lib, mode.as_str(), self.stor.as_str()].map(OsStr::new);
        let paths = [&self.flist, &self.backend, &self.point].map(|path| path.as_os_str());
        Server::start(words.iter().chain(&paths), &self.point)
    }
}

/// Serves a mount: what the process does.
///
/// # Panics
/// If it cannot.
pub fn serve(arguments: Vec<String>) {
    let [lib, mode, stor, flist, backend, point] = arguments.try_into().expect("what `mount` gives");
    let frontends: [&dyn Frontend; 3] = [&Fuser, &Fuse3, &Polyfuse];
    let frontend = frontends.into_iter().find(|frontend| frontend.name() == lib).expect("a library");
    let modes = [Mode::ReadOnly, Mode::Overlay];
    let mode = modes.into_iter().find(|known| format!("{known:?}") == mode).expect("a mode");
    let (backend, point) = (Path::new(&backend), Path::new(&point));
    Runtime::new().expect("a runtime").block_on(async {
        let stor = stor.parse().expect("a URL");
        let fs = packed::filesystem(Path::new(&flist), stor, backend).await;
        let fs: Arc<dyn Vfs> = match mode {
            Mode::ReadOnly => Arc::new(fs),
            Mode::Overlay => {
                let upper = Upper::open(backend, point).expect("local changes");
                Arc::new(Overlay::new(fs, upper).expect("local changes"))
            }
        };
        let read_only = mode == Mode::ReadOnly;
        let options = MountOptions { read_only, allow_other: true, ..MountOptions::default() };
        let mount = frontend.mount(fs, point, &options, &Handle::current());
        server::serve(mount.expect("a mount")).await;
    });
}
