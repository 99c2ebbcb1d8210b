//! What may be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use aysfs_benches::mounts::LIBS;
use aysfs_benches::proxy::{Bandwidth, Link};
use clap::Parser;

use crate::row::Row;

/// Measures cold starts: real programs on new mounts with empty caches, and a network before the stor.
#[derive(Debug, Parser)]
#[command(name = "cold")]
pub(crate) struct Options {
    /// Round-trip time to the stor, such as 20ms (repeatable).
    #[arg(long, value_name = "TIME", default_values = ["0ms", "20ms"], value_parser = round_trip)]
    rtt: Vec<Duration>,

    /// How fast bytes come from the stor, and how fast they go to it, such as 1Gbit [default: as fast as they can].
    #[arg(long, value_name = "SPEED")]
    bandwidth: Option<Bandwidth>,

    /// Measure this only (repeatable).
    #[arg(long, value_name = "ROW", value_enum)]
    only: Vec<Row>,

    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,

    /// FUSE library.
    #[arg(long, default_value = LIBS[0], value_parser = LIBS)]
    pub(crate) lib: String,

    /// Measure the Rust compiler also where there is little free space for its copies.
    #[arg(long)]
    pub(crate) rust: bool,

    /// The command to measure [default: `aysfs` in the directory that cargo builds into].
    #[arg(long, value_name = "FILE")]
    pub(crate) aysfs: Option<PathBuf>,

    /// What cargo gives to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The networks to measure on.
    pub(crate) fn links(&self) -> Vec<Link> {
        let link = |round_trip: &Duration| Link { round_trip: *round_trip, bandwidth: self.bandwidth };
        self.rtt.iter().map(link).collect()
    }

    /// What to measure, in the order of the table.
    pub(crate) fn rows(&self) -> Vec<Row> {
        Row::ALL.into_iter().filter(|row| self.only.is_empty() || self.only.contains(row)).collect()
    }
}

fn round_trip(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    milliseconds.map(Duration::from_millis).ok_or_else(|| "write milliseconds, such as 20ms".into())
}
