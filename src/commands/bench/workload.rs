//! What is measured: kinds of work, and how fast one is done in a place.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aysfs_workload::work::{self, Hint};
use aysfs_workload::{Stop, Tree};

use crate::cli::Mode;

/// How many pages are read at random at most: each may be a message.
const PAGES: usize = 4000;
/// How many files are made.
const NEW_FILES: usize = 1000;
/// How much is written at most, in bytes: it may be kept in memory.
const MOST_WRITTEN: u64 = 256 << 20;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Sequential,
    /// With so many threads.
    Random(usize),
    Stat,
    Find,
    ReadSmall,
    Create,
    Write,
}

/// In what a speed is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Megabytes,
    Operations,
}

/// What the kernel knows of the files before the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// Nothing: they are those of a new mount.
    First,
    /// What it could learn by doing the same before.
    Again,
}

impl Workload {
    pub(crate) const ALL: [Self; 8] = [
        Self::Sequential,
        Self::Random(1),
        Self::Random(4),
        Self::Stat,
        Self::Find,
        Self::ReadSmall,
        Self::Create,
        Self::Write,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential read",
            Self::Random(1) => "4 KiB random read",
            Self::Random(_) => "same, 4 threads",
            Self::Stat => "stat",
            Self::Find => "find",
            Self::ReadSmall => "open, read, close",
            Self::Create => "create",
            Self::Write => "sequential write",
        }
    }

    /// The name for scripts.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Sequential => "sequential-read",
            Self::Random(1) => "random-read",
            Self::Random(_) => "random-read-4-threads",
            Self::Stat => "stat",
            Self::Find => "find",
            Self::ReadSmall => "open-read-close",
            Self::Create => "create",
            Self::Write => "sequential-write",
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Sequential | Self::Write => Unit::Megabytes,
            Self::Random(_) | Self::Stat | Self::Find | Self::ReadSmall | Self::Create => Unit::Operations,
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Write)
    }

    /// What is measured of it: what was never there before cannot be done again.
    pub(crate) fn passes(self) -> &'static [Pass] {
        if self.writes() { &[Pass::First] } else { &[Pass::First, Pass::Again] }
    }

    /// Whether it can be done in this mode.
    pub(crate) fn runs_in(self, mode: Mode) -> bool {
        !self.writes() || mode == Mode::Overlay
    }

    /// Does it once at `place`.
    pub(crate) fn run(self, place: &Place, pass: Pass, stop: &Stop) -> io::Result<Speed> {
        let start = Instant::now();
        let amount = self.once(place, pass, stop)?;
        let speed = Speed { amount, time: start.elapsed() };
        if self == Self::Write {
            fs::remove_file(place.new_file())?;
        }
        Ok(speed)
    }

    /// How often it may be repeated in one place. Files that were made are left: some filesystems avoid inodes that were freed a
    /// moment ago, and what is measured next would be how they look for others.
    pub(crate) fn repeats(self) -> usize {
        if self == Self::Create { 2 } else { usize::MAX }
    }

    fn once(self, place: &Place, pass: Pass, stop: &Stop) -> io::Result<u64> {
        let tree = &place.tree;
        // A page that is not there is to be asked for alone.
        let hint = if pass == Pass::First { Hint::Random } else { Hint::Nothing };
        match self {
            Self::Sequential => work::sequential(tree, stop),
            Self::Random(threads) => work::random(tree, threads, &place.pages, hint, stop),
            Self::Stat => work::stat(tree, stop),
            Self::Find => work::list(tree, stop),
            Self::ReadSmall => work::read_small(tree, 0..tree.shape.files, stop),
            Self::Create => {
                let directory = tempfile::tempdir_in(&place.new_files)?.keep();
                work::create(&directory, NEW_FILES, stop)
            }
            Self::Write => work::write(&place.new_file(), tree.shape.large.min(MOST_WRITTEN), stop),
        }
    }
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Megabytes => "MB/s",
            Self::Operations => "op/s",
        }
    }

    /// A speed in this unit.
    pub(crate) fn of(self, speed: f64) -> f64 {
        match self {
            Self::Megabytes => speed / 1e6,
            Self::Operations => speed,
        }
    }
}

impl Pass {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Again => "again",
        }
    }
}

/// Where work is done.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) tree: Tree,
    /// The pages of the large file that are read at random.
    pages: Vec<u64>,
    /// A directory for new files.
    new_files: PathBuf,
}

impl Place {
    /// A place with this tree, where new files are made in the directory `new_files`.
    pub(crate) fn new(tree: Tree, new_files: PathBuf) -> Self {
        Self { pages: work::places(&tree, PAGES), tree, new_files }
    }

    fn new_file(&self) -> PathBuf {
        self.new_files.join("new.bin")
    }
}

/// How much was done in which time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// Bytes or operations.
    pub(crate) amount: u64,
    time: Duration,
}

impl Speed {
    pub(crate) fn faster(self, other: Self) -> Self {
        if other.per_second() > self.per_second() { other } else { self }
    }

    pub(crate) fn per_second(self) -> f64 {
        // Nothing takes no time at all.
        self.amount as f64 / self.time.as_secs_f64().max(1e-9)
    }
}
