//! A mount in a process of its own: its memory is its own, and reading the mount cannot wait for itself.
//!
//! The process ends when its standard input does, so that no mount outlives the benchmark, however that ends.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aysfs_benches::memory;
use aysfs_engine::load::{self, Request, Source};
use aysfs_engine::{AysFs, Mode};
use aysfs_flist::ParseOptions;
use aysfs_frontend_fuser::Fuser;
use aysfs_store::{Cache, CacheOptions, Mirror, StorOptions};
use aysfs_vfs::{Frontend, MountOptions};
use rustix::mount::UnmountFlags;
use tokio::runtime::{Handle, Runtime};
use url::Url;

/// The first argument of the process that serves a mount.
pub(crate) const COMMAND: &str = "serve-a-mount";

/// The namespace of the objects.
pub(crate) const NAMESPACE: &str = "bench";

/// How the kernel opens files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    /// Without a message.
    Stateless,
    /// With a message, and passthrough to the cached file.
    Passthrough,
}

/// What to mount, and where.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// How the kernel opens files.
    pub(crate) opens: Opens,
    /// The flist.
    pub(crate) flist: PathBuf,
    /// The stor.
    pub(crate) stor: Url,
    /// The directory of the backend.
    pub(crate) backend: PathBuf,
    /// The mount point.
    pub(crate) point: PathBuf,
}

/// A mount while it is served.
pub(crate) struct Mounted {
    server: Child,
    point: PathBuf,
    /// From the start of the process to the mount.
    pub(crate) ready: Duration,
}

impl Setup {
    /// Mounts it.
    pub(crate) fn mount(&self) -> Mounted {
        let start = Instant::now();
        let mut server = Command::new(env::current_exe().expect("the path of this program"))
            .args([COMMAND, &format!("{:?}", self.opens), self.stor.as_str()])
            .args([&self.flist, &self.backend, &self.point])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the benchmark, which then ends this process in its own time.
            .process_group(0)
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "mounted\n", "the mount failed");
        Mounted { server, point: self.point.clone(), ready: start.elapsed() }
    }
}

impl Mounted {
    /// A line of the status of its process, in MB.
    pub(crate) fn memory(&self, key: &str) -> f64 {
        memory(&self.server.id().to_string(), key) as f64 / 1e6
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        self.server.wait().ok();
        // A server that crashed leaves its mount.
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).ok();
    }
}

/// Serves a mount: what the process does.
pub(crate) fn serve(arguments: Vec<String>) {
    let [opens, stor, flist, backend, point] = arguments.try_into().expect("what `mount` gives");
    let runtime = Runtime::new().expect("a runtime");
    let backend = Path::new(&backend);
    let base = Source::File(flist.into());
    runtime.block_on(async {
        let stor = StorOptions::new(stor.parse().expect("a URL"));
        let request = Request { source: base, parse: ParseOptions::default(), trusted_keys: Vec::new() };
        let stors = [stor];
        let base = load::load(&request, &stors, stors[0].deadline, backend).await.expect("a flist");
        let cache = Cache::open(&backend.join("cache"), CacheOptions::default()).expect("a cache");
        let stor = aysfs_store::open(&stors[0], &NAMESPACE.parse().expect("a name")).expect("a stor");
        let mode = if opens == format!("{:?}", Opens::Stateless) { Mode::ReadOnly } else { Mode::Overlay };
        let vfs = Arc::new(AysFs::new(base, cache, Arc::new(Mirror::new(stor, [])), mode));
        let options = MountOptions { read_only: true, allow_other: true, ..MountOptions::default() };
        let mount = Fuser.mount(vfs, Path::new(&point), &options, &Handle::current()).expect("a mount");
        println!("mounted");
        let end = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        end.await.expect("no panic").expect("a pipe");
        mount.unmount(true).await.expect("unmounted");
        mount.unmounted().await;
    });
}
