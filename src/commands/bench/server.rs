//! One mount at a time, in a process of its own.
//!
//! The process that measures must not be the one that serves: a thread that waits for a file of a mount would keep that
//! mount's end of `/dev/fuse` open, and neither could ever end if it had to be killed. The server ends when its standard
//! input does, so that no mount outlives the one who measures, however that ends.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use aysfs_vfs::{Mount, MountError, MountOptions, Passthrough, Vfs};
use tokio::runtime::Handle;

use super::data::Layout;
use super::measure::Column;
use crate::cli::{BenchServeArgs, Mode};
use crate::frontends::frontend;
use crate::mount_points::{self, Detach};
use crate::signals::Signals;

/// What the server says when the mount answers; anything else is the reason why it does not.
const MOUNTED: &str = "mounted";

/// How long a server may take to unmount. Only ends one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mount that is served by another process until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    point: PathBuf,
}

impl Server {
    /// Mounts the packed tree, as the column says, on the mount point of the layout; returns when it answers.
    pub(crate) fn start(column: Column, layout: &Layout) -> anyhow::Result<Self> {
        // This program, also if its file has been replaced meanwhile.
        let process = Command::new("/proc/self/exe")
            // What goes wrong is seen by who measures; that a library could not answer while it is unmounted is nothing wrong.
            .args(["bench-serve", column.lib.as_str(), column.mode.name(), "--log-level", "0"])
            .arg(layout.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the one who measures, who then ends this process in its own time.
            .process_group(0)
            .spawn()
            .context("cannot start a process")?;
        let mut server = Self { process, point: layout.point() };
        let mut said = String::new();
        BufReader::new(server.process.stdout.as_mut().context("it is piped")?).read_line(&mut said)?;
        match said.trim() {
            MOUNTED => Ok(server),
            "" => anyhow::bail!("the process that was to serve it ended"),
            reason => anyhow::bail!("{reason}"),
        }
    }

    /// How many answers the server has written so far, as far as the kernel counts (`CONFIG_TASK_IO_ACCOUNTING`).
    pub(crate) fn answers(&self) -> Option<u64> {
        let counters = fs::read_to_string(format!("/proc/{}/io", self.process.id())).ok()?;
        counters.lines().find_map(|line| line.strip_prefix("syscw: "))?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let start = Instant::now();
        while let Ok(None) = self.process.try_wait() {
            if start.elapsed() > PATIENCE {
                drop(self.process.kill());
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // One that was killed leaves its mount, and lives until nobody waits for it any more.
        drop(mount_points::unmount(&self.point, Detach::Lazily));
        drop(self.process.wait());
    }
}

/// `aysfs bench-serve`: what that process does.
pub(crate) async fn serve(args: BenchServeArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let mount = match mount(args).await {
        Ok(mount) => mount,
        Err(error) => {
            println!("{}", format!("{error:#}").replace('\n', " "));
            return Ok(());
        }
    };
    println!("{MOUNTED}");
    let end_of_input = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        _ = end_of_input => {}
        _ = signals.next() => {}
    }
    match mount.unmount(false).await {
        // Nobody is to be waited for: who still reads gets an error when this process ends.
        Err(MountError::Busy(_)) => Ok(mount.unmount(true).await?),
        unmounted => Ok(unmounted?),
    }
}

async fn mount(args: BenchServeArgs) -> anyhow::Result<Box<dyn Mount>> {
    let layout = Layout::at(args.dir);
    let vfs: Arc<dyn Vfs> = match args.mode {
        Mode::ReadOnly => Arc::new(layout.filesystem().await?),
        Mode::Overlay => Arc::new(layout.changeable().await?),
    };
    let options = MountOptions {
        source: "aysfs-bench".into(),
        read_only: args.mode == Mode::ReadOnly,
        passthrough: Passthrough::Auto,
        ..MountOptions::default()
    };
    Ok(frontend(args.lib).mount(vfs, &layout.point(), &options, &Handle::current())?)
}
