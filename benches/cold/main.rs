//! What users of such a filesystem feel: the time from a mount with an empty cache to a program that runs, over a network.
//!
//! `make bench-cold`, or `cargo bench -p aysfs-benches --bench cold -- OPTIONS` once `cargo build --release` has built the command that
//! it measures. It runs the real `aysfs stor` and `aysfs mount`, with a proxy between them that is as slow as a network
//! ([`aysfs_benches::proxy`]).
//!
//! Each figure is of a new mount with an empty cache. Variants are measured in turn, several times over, and beside them in
//! the same run a yardstick through the same proxy: what nobody can do without. The page cache of the stor is warm: what is measured is not
//! its disk.

mod bench;
mod goals;
mod http;
mod options;
mod process;
mod report;
mod row;
mod trees;
mod variant;
mod yardstick;

use std::process::ExitCode;

use anyhow::bail;
use aysfs_workload::Stop;
use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use self::bench::Dirs;
use self::options::Options;

/// Ends what no future waits for any more.
static STOP: Stop = Stop::new();

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cold: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    // Removed when all is over: a runtime is dropped when its blocking tasks have ended, which may still write here.
    let dirs = Dirs::make()?;
    let runtime = Runtime::new()?;
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Dropping the benchmark ends all processes, and their mounts.
        tokio::select! {
            done = bench::run(options, &dirs) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    STOP.stop();
    done
}
