//! What is done with the tree, and how it is shown.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use aysfs_workload::work::{self, Hint};
use aysfs_workload::{Stop, Tree};
use memmap2::Mmap;

/// How many places are read at random.
const PLACES: usize = 200_000;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Lists all directories, and stats each entry.
    Walk,
    /// Lists all directories.
    Find,
    /// Stats all small files by their paths.
    Stat,
    /// Opens, reads and closes all small files.
    ReadSmall,
    /// Reads the large file from its start to its end.
    Sequential,
    /// Reads pages of the large file at random, on as many threads.
    Random(usize),
    /// Maps the large file and adds up all of its words.
    Map,
}

/// How much was done, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    amount: u64,
    pub(crate) time: Duration,
}

impl Workload {
    /// Does it once; `None` if it was stopped.
    pub(crate) fn run(self, tree: &Tree, stop: &Stop) -> Option<Done> {
        let places = if let Self::Random(_) = self { work::places(tree, PLACES) } else { Vec::new() };
        let start = Instant::now();
        let amount = match self {
            Self::Walk => work::list_and_stat(tree, stop),
            Self::Find => work::list(tree, stop),
            Self::Stat => work::stat(tree, stop),
            Self::ReadSmall => work::read_small(tree, 0..tree.shape.files, stop),
            Self::Sequential => work::sequential(tree, stop),
            Self::Random(threads) => work::random(tree, threads, &places, Hint::Nothing, stop),
            Self::Map => add_up(tree),
        };
        let time = start.elapsed();
        if stop.is_stopped() {
            return None;
        }
        Some(Done { amount: amount.expect("a tree that can be read"), time })
    }

    /// The time per item, or the bytes per second.
    pub(crate) fn figure(self, done: Done) -> String {
        let (amount, seconds) = (done.amount as f64, done.time.as_secs_f64());
        match self {
            Self::Sequential | Self::Map => format!("{:.2} GB/s", amount / seconds / 1e9),
            Self::Walk | Self::Find | Self::Stat | Self::ReadSmall | Self::Random(_) => {
                format!("{:.2} µs", seconds / amount * 1e6)
            }
        }
    }
}

fn add_up(tree: &Tree) -> io::Result<u64> {
    let map = map(&File::open(tree.large())?)?;
    let sum = map
        .chunks_exact(8)
        .fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("eight bytes"))));
    black_box(sum);
    Ok(map.len() as u64)
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: nobody changes the files of the benchmark.
    unsafe { Mmap::map(file) }
}
