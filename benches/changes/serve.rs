//! The mounts that are compared: in mode OL, each in a process of its own.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use aysfs_benches::packed;
use aysfs_benches::server::{self, Server};
use aysfs_engine::{Overlay, Upper};
use aysfs_frontend_fuse3::Fuse3;
use aysfs_frontend_fuser::Fuser;
use aysfs_frontend_polyfuse::Polyfuse;
use aysfs_vfs::{Frontend, MountOptions};
use tokio::runtime::{Handle, Runtime};
use url::Url;

/// The first argument of the process that serves a mount.
pub(crate) const COMMAND: &str = "serve-a-mount";

/// The words for the frontends.
pub(crate) const LIBS: [&str; 3] = ["fuser", "fuse3", "polyfuse"];

/// What to mount, and where.
pub(crate) struct Setup<'a> {
    /// One of [`LIBS`].
    pub(crate) lib: &'static str,
    pub(crate) flist: &'a Path,
    pub(crate) stor: &'a Url,
    /// The directory of the backend.
    pub(crate) backend: &'a Path,
    /// The mount point.
    pub(crate) point: &'a Path,
}

impl Setup<'_> {
    /// Mounts it.
    pub(crate) fn mount(&self) -> Server {
        let words = [COMMAND, self.lib, self.stor.as_str()].map(OsStr::new);
        let paths = [self.flist, self.backend, self.point].map(Path::as_os_str);
        Server::start([words, paths].concat(), self.point)
    }
}

/// Serves a mount: what the process does.
pub(crate) fn serve(arguments: Vec<String>) {
    let [lib, stor, flist, backend, point] = arguments.try_into().expect("what `mount` gives");
    let frontend: &dyn Frontend = match lib.as_str() {
        "fuse3" => &Fuse3,
        "polyfuse" => &Polyfuse,
        _ => &Fuser,
    };
    let (backend, point) = (Path::new(&backend), Path::new(&point));
    Runtime::new().expect("a runtime").block_on(async {
        let base = packed::filesystem(Path::new(&flist), stor.parse().expect("a URL"), backend).await;
        let upper = Upper::open(backend, point).expect("a place for changes");
        let fs = Overlay::new(base, upper).expect("a view");
        let options = MountOptions { allow_other: true, ..MountOptions::default() };
        let mount = frontend.mount(Arc::new(fs), point, &options, &Handle::current());
        server::serve(mount.expect("a mount")).await;
    });
}
