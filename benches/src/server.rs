//! A mount in a process of its own: its memory is its own, and reading the mount cannot wait for itself.
//!
//! The process is this program with other arguments. It ends when its standard input does, so that no mount outlives the
//! benchmark, however that ends.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aysfs_vfs::Mount;
use rustix::mount::UnmountFlags;

use crate::memory;

const MOUNTED: &str = "mounted\n";

/// A process that serves a mount until it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    point: PathBuf,
    /// From the start of the process to the mount.
    pub ready: Duration,
}

impl Server {
    /// Runs this program with `arguments`, which must make it [`serve`] a mount on `point`.
    ///
    /// # Panics
    /// If it does not.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, point: &Path) -> Self {
        let start = Instant::now();
        let mut process = Command::new(env::current_exe().expect("the path of this program"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the benchmark, which then ends this process in its own time.
            .process_group(0)
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a pipe");
        assert_eq!(line, MOUNTED, "the mount failed");
        Self { process, point: point.to_owned(), ready: start.elapsed() }
    }

    /// A line of the status of the process, in MB.
    pub fn memory(&self, key: &str) -> f64 {
        memory(&self.process.id().to_string(), key) as f64 / 1e6
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
        // A server that crashed leaves its mount.
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).ok();
    }
}

/// Serves a mount until standard input ends: what the process does.
///
/// # Panics
/// If it cannot be unmounted.
pub async fn serve(mount: Box<dyn Mount>) {
    print!("{MOUNTED}");
    io::Write::flush(&mut io::stdout()).expect("a pipe");
    let end = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    end.await.expect("no panic").expect("a pipe");
    mount.unmount(true).await.expect("unmounted");
    mount.unmounted().await;
}
