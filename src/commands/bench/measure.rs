//! Measuring: rounds in which every column does all work on new mounts, with the plain directory as its neighbour in time.
//!
//! The machine does other things, too. So what can be repeated is done in the directory and in the mount in turn, for a while, and
//! the fastest times count: they are those that nothing came between. A ratio is always one of two neighbours, and of the rounds
//! the median counts: a machine that is slower for a while is slower for both.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aysfs_config::Lib;
use aysfs_workload::{Stop, Tree};
use indicatif::ProgressBar;

use super::data::Data;
use super::server::Server;
use super::workload::{Pass, Place, Speed, Workload};
use crate::cli::Mode;

/// How long something is repeated, together with its neighbour.
const ENOUGH: Duration = Duration::from_millis(60);

/// Less than so many messages for each read means that the kernel reads by itself what it has not cached.
const PASSES_THROUGH: f64 = 0.5;

/// A library and a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) lib: Lib,
    pub(crate) mode: Mode,
}

/// What was measured of a column.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) column: Column,
    pub(crate) samples: Vec<Sample>,
    /// What the directory did meanwhile.
    pub(crate) native: Vec<(Workload, f64)>,
    /// Messages for each read of a page that the kernel had not cached, where that could be counted.
    pub(crate) messages: Vec<f64>,
    /// Why it could not be measured.
    pub(crate) failure: Option<String>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) workload: Workload,
    pub(crate) pass: Pass,
    /// Of the directory, meanwhile. Per second, as everything here.
    pub(crate) native: f64,
    pub(crate) speed: f64,
}

impl Measured {
    /// Whether the kernel reads cached files without asking; `None` if that is not known.
    pub(crate) fn passthrough(&self) -> Option<bool> {
        median(&self.messages).map(|messages| messages < PASSES_THROUGH)
    }
}

/// What there is to do.
pub(crate) struct Bench<'a> {
    pub(crate) data: &'a Data,
    pub(crate) columns: Vec<Column>,
    pub(crate) runs: u32,
    pub(crate) stop: &'a Stop,
    pub(crate) bar: &'a ProgressBar,
}

impl Bench<'_> {
    pub(crate) fn run(&self) -> anyhow::Result<Vec<Measured>> {
        let layout = &self.data.layout;
        let native = Place::new(self.data.tree.clone(), layout.new_files());
        let mounted = Place::new(Tree::at(layout.point(), self.data.tree.shape), layout.point());
        let mut measured: Vec<Measured> = self.columns.iter().map(|column| Measured::new(*column)).collect();
        self.bar.set_length(u64::from(self.runs) * (Workload::ALL.len() * measured.len()) as u64);
        for _ in 0..self.runs {
            for workload in Workload::ALL {
                for column in &mut measured {
                    self.bar.set_message(format!("{}: {}", column.column.name(), workload.name()));
                    if column.failure.is_none() {
                        let done = self.sample(workload, column, &native, &mounted);
                        if self.stop.is_stopped() {
                            bail!("stopped");
                        }
                        column.failure = done.err().map(|error| format!("{error:#}"));
                    }
                    self.bar.inc(1);
                }
            }
        }
        Ok(measured)
    }

    /// Measures all passes on a new mount, and the directory before and between.
    fn sample(
        &self,
        workload: Workload,
        column: &mut Measured,
        native: &Place,
        mounted: &Place,
    ) -> anyhow::Result<()> {
        if !workload.runs_in(column.column.mode) {
            return Ok(());
        }
        let run = |place: &Place, pass| {
            let done = workload.run(place, pass, self.stop);
            done.with_context(|| format!("{} in {}", workload.name(), place.tree.root.display()))
        };
        let mut directory = run(native, Pass::Again)?;
        let server = Server::start(column.column, &self.data.layout)?;
        let before = server.answers();
        let first = run(mounted, Pass::First)?;
        if let (Workload::Random(1), Some(before), Some(after)) = (workload, before, server.answers()) {
            column.messages.push(after.saturating_sub(before) as f64 / first.amount as f64);
        }
        let begin = Instant::now();
        let mut again: Option<Speed> = None;
        for _ in 0..workload.repeats() {
            directory = directory.faster(run(native, Pass::Again)?);
            let done = run(mounted, Pass::Again)?;
            again = Some(again.map_or(done, |fastest| fastest.faster(done)));
            if begin.elapsed() >= ENOUGH {
                break;
            }
        }
        let again = again.unwrap_or(first);
        let native = directory.per_second();
        column.native.push((workload, native));
        for pass in workload.passes() {
            let speed = match pass {
                Pass::First if workload.writes() => first.faster(again),
                Pass::First => first,
                Pass::Again => again,
            };
            column.samples.push(Sample { workload, pass: *pass, native, speed: speed.per_second() });
        }
        Ok(())
    }
}

impl Column {
    pub(crate) fn name(self) -> String {
        format!("{} {}", self.lib, self.mode.name())
    }
}

impl Measured {
    fn new(column: Column) -> Self {
        Self { column, samples: Vec::new(), native: Vec::new(), messages: Vec::new(), failure: None }
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        _ => Some(sorted[half - 1].midpoint(sorted[half])),
    }
}
