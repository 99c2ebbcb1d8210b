//! What programs do with a tree.

use std::fs::{self, DirEntry, File};
use std::hint::black_box;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aysfs_benches::Random;
use memmap2::Mmap;

use crate::tree::{FILES, LARGE, NAMES, file, large};

/// How many places are read at random.
const PLACES: u64 = 200_000;
const PAGE: u64 = 4096;
/// How much is read at once in sequence: what `cat` and `cp` ask for.
const PIECE: usize = 128 << 10;

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
    Random(u64),
    /// Maps the large file and adds up all of its words.
    Map,
}

impl Workload {
    /// How long it takes in the tree at `root`.
    pub(crate) fn time(self, root: &Path) -> Duration {
        let start = Instant::now();
        self.run(root).expect("a tree that can be read");
        start.elapsed()
    }

    fn run(self, root: &Path) -> io::Result<()> {
        match self {
            Self::Walk => check(walk(root, &|entry| entry.metadata().map(drop))?, NAMES as u64),
            Self::Find => check(walk(root, &|_| Ok(()))?, NAMES as u64),
            Self::Stat => (0..FILES).try_for_each(|number| {
                black_box(fs::symlink_metadata(file(root, number))?);
                Ok(())
            }),
            Self::ReadSmall => read_small(root, 0..FILES),
            Self::Sequential => sequential(&large(root)),
            Self::Random(threads) => random(&large(root), threads),
            Self::Map => {
                let sum = map(&File::open(large(root))?)?.chunks_exact(8).fold(0_u64, |sum, word| {
                    sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("eight bytes")))
                });
                black_box(sum);
                Ok(())
            }
        }
    }

    /// The time per item, or the bytes per second.
    pub(crate) fn figure(self, time: Duration) -> String {
        let items = match self {
            Self::Walk | Self::Find => NAMES as f64,
            Self::Stat | Self::ReadSmall => FILES as f64,
            Self::Random(_) => PLACES as f64,
            Self::Sequential | Self::Map => {
                return format!("{:.2} GB/s", LARGE as f64 / time.as_secs_f64() / 1e9);
            }
        };
        format!("{:.2} µs", time.as_secs_f64() / items * 1e6)
    }
}

/// Opens, reads and closes small files.
pub(crate) fn read_small(root: &Path, numbers: Range<usize>) -> io::Result<()> {
    let mut content = Vec::with_capacity(256 << 10);
    for number in numbers {
        content.clear();
        File::open(file(root, number))?.read_to_end(&mut content)?;
        check(u64::from(content.starts_with(b"# unit")), 1)?;
    }
    Ok(())
}

fn walk(directory: &Path, visit: &impl Fn(&DirEntry) -> io::Result<()>) -> io::Result<u64> {
    let mut seen = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        seen += 1;
        visit(&entry)?;
        if entry.file_type()?.is_dir() {
            seen += walk(&entry.path(), visit)?;
        }
    }
    Ok(seen)
}

fn sequential(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return check(total, LARGE),
            n => total += n as u64,
        }
    }
}

fn random(path: &Path, threads: u64) -> io::Result<()> {
    let file = File::open(path)?;
    thread::scope(|scope| {
        let readers = (0..threads).map(|seed| {
            let file = &file;
            scope.spawn(move || {
                let (mut random, mut page) = (Random(seed), [0; 4096]);
                (0..PLACES / threads)
                    .try_for_each(|_| file.read_exact_at(&mut page, random.below(LARGE / PAGE) * PAGE))
            })
        });
        let readers: Vec<_> = readers.collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("no panic"))
    })
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: nobody changes the files of the benchmark.
    unsafe { Mmap::map(file) }
}

/// What reads something else than it should is not measured.
fn check(found: u64, expected: u64) -> io::Result<()> {
    if found == expected { Ok(()) } else { Err(io::Error::other(format!("{found} instead of {expected}"))) }
}
