//! Content into the cache before anybody reads it: what is read first at a start, some paths, or everything.
//!
//! The base is walked twice: once to know how much there is to do, and whether there is room for it (`warm/walk.rs`), and once to
//! do it, in the order of the tree. A pack of which most is wanted is fetched whole, in a few large requests; what is wanted of any other
//! is fetched like what a reader asks for. What is fetched is verified here: each small file is decoded once.
//!
//! What is in the cache already is passed over, so a run that was cut short is gone on with by another one. Nothing is remembered
//! between runs, and what is kept in memory does not grow with the number of files, but for a digest of each large one.

mod walk;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Corrupt, Node};
use aysfs_store::{Cache, FetchError, Key, Mirror};
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use self::walk::{Batch, File, Walk};
use crate::base::{Base, BaseError};
use crate::trace::names;
use crate::{AysFs, Overlay};

/// How many start packs are fetched at the same time: while one ends, the next has begun.
const START_PACKS: usize = 2;

/// How many files of a batch are fetched at the same time.
const FILES: usize = 8;

/// Batches that are ready for their turn.
const READY: usize = 2;

/// After so many files in a row for which no stor could be reached, nobody believes that the next one fares better.
const OUTAGE: u32 = 8;

/// How many failures are told one by one.
const TOLD: usize = 1000;

/// The content of a base, to be brought into a cache. It keeps neither the filesystem nor its local changes.
#[derive(Debug)]
pub struct Warming {
    base: Arc<Base>,
    cache: Arc<Cache>,
    stors: Arc<Mirror>,
}

/// How much is done at the same time, and at whose expense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Somebody waits for it: what was read longest ago makes room for it.
    Asked,
    /// Nobody does: behind others, and only where there is room left.
    Background,
}

impl Pace {
    /// How many batches are fetched at the same time.
    fn batches(self) -> usize {
        match self {
            Self::Asked => 4,
            Self::Background => 1,
        }
    }
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Files and plain bytes that were found.
    pub files_found: AtomicU64,
    /// See above.
    pub bytes_found: AtomicU64,
    /// Files and plain bytes that are dealt with, for good or ill.
    pub files_done: AtomicU64,
    /// See above.
    pub bytes_done: AtomicU64,
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmed {
    /// What was to be in the cache: each file once, and plain bytes.
    pub files: u64,
    /// See above.
    pub bytes: u64,
    /// What of it was fetched, or looked at because its pack was.
    pub fetched_files: u64,
    /// See above.
    pub fetched_bytes: u64,
    /// How many files could not be fetched.
    pub failed_files: u64,
    /// The first of them.
    pub failed: Vec<Failed>,
    /// How it ended.
    pub ended: Ended,
}

/// What could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Where it is in the flist.
    pub path: Vec<u8>,
    /// Why.
    pub why: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each file was dealt with.
    Complete,
    /// No stor could be reached.
    Outage,
    /// The cache is full: in the background, nothing is evicted for what nobody has asked for.
    Full,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The compiled flist is damaged.
    #[error(transparent)]
    Damaged(#[from] BaseError),
    /// There is nothing at a path.
    #[error("there is no /{} in the flist", .0.escape_ascii())]
    NotListed(Vec<u8>),
    /// The cache would have to evict what it has just fetched.
    #[error(
        "{needed} bytes are needed in the cache, and it has room for {room}: name fewer paths, or let it grow (cache_size, \
         cache_min_free, or room on the disk)"
    )]
    NoRoom {
        /// What all of it takes.
        needed: u64,
        /// What the cache may take.
        room: u64,
    },
    /// The cache directory could not be looked at.
    #[error("the cache cannot be looked at: {0}")]
    Cache(#[from] std::io::Error),
    /// The program is about to end.
    #[error("it was given up")]
    Aborted,
}

/// Why what is read first is not here.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It would take the place of everything else.
    #[error("it takes {bytes} bytes, and the cache may have {size}")]
    TooLarge {
        /// All start packs together.
        bytes: u64,
        /// The limit.
        size: u64,
    },
    /// A stor has not given it, or the cache directory has not taken it.
    #[error("pack {0} could not be fetched")]
    Missing(Key),
}

impl From<Corrupt> for WarmError {
    fn from(error: Corrupt) -> Self {
        Self::Damaged(error.into())
    }
}

impl From<JoinError> for WarmError {
    fn from(_: JoinError) -> Self {
        Self::Aborted
    }
}

impl AysFs {
    /// What is shown now, to be brought into the cache.
    pub fn warming(&self) -> Warming {
        Warming { base: self.base(), cache: self.cache().clone(), stors: self.stors().clone() }
    }
}

impl Overlay {
    /// What is below the local changes now, to be brought into the cache.
    pub fn warming(&self) -> Warming {
        self.lower().warming()
    }
}

impl Warming {
    /// Fetches the packs that the flist names as those to begin with, in its order; returns how many bytes they have.
    ///
    /// # Errors
    /// [`StartError`]: the rest is not tried then. What is read is fetched all the same.
    pub async fn start(&self) -> Result<u64, StartError> {
        let start = &self.base.index().header().start;
        let packs: Vec<_> = start.iter().filter_map(|pack| self.base.packs().get(pack)).cloned().collect();
        let bytes = packs.iter().fold(0, |sum: u64, (_, length)| sum.saturating_add(*length));
        if let Some(size) = self.cache.limits().size.filter(|size| bytes > *size) {
            return Err(StartError::TooLarge { bytes, size });
        }
        let mut fetched = stream::iter(packs)
            .map(|(key, length)| async move { (self.cache.fetch_pack(&key, length, &self.stors).await, key) })
            .buffered(START_PACKS);
        while let Some((is_here, key)) = fetched.next().await {
            if !is_here {
                return Err(StartError::Missing(key));
            }
        }
        Ok(bytes)
    }

    /// Brings the content of these paths, and of what is below them, into the cache; the path of everything is empty. What is under way
    /// is given up when this is dropped.
    ///
    /// # Errors
    /// [`WarmError`], before anything is fetched. Files that cannot be fetched are no error: see [`Warmed`].
    pub async fn warm(
        &self,
        paths: &[Vec<u8>],
        pace: Pace,
        progress: &Arc<Progress>,
    ) -> Result<Warmed, WarmError> {
        let roots = paths.iter().map(|path| self.find(path)).collect::<Result<Vec<_>, _>>()?;
        let (sender, mut batches) = mpsc::channel(READY);
        let (base, cache, found) = (self.base.clone(), self.cache.clone(), progress.clone());
        let walked = tokio::task::spawn_blocking(move || {
            let mut walk = Walk::plan(base, cache.clone(), roots, &found, || sender.is_closed())?;
            if pace == Pace::Asked {
                let room = cache.capacity(cache.inventory()?.bytes);
                let needed = walk.space();
                if needed > room {
                    return Err(WarmError::NoRoom { needed, room });
                }
            } else if cache.limits().size.is_some() {
                // So that it is known how much is there.
                cache.inventory()?;
            }
            // It ends early if nobody takes any more.
            walk.batches(&found, |batch| sender.blocking_send(batch).is_ok())?;
            Ok(())
        });
        let run = Arc::new(Run {
            base: self.base.clone(),
            cache: self.cache.clone(),
            stors: self.stors.clone(),
            progress: progress.clone(),
            failures: Mutex::default(),
            outage: AtomicU32::new(0),
            fetched_files: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
        });
        let mut under_way = JoinSet::new();
        let mut ended = Ended::Complete;
        while let Some(batch) = batches.recv().await {
            while under_way.len() >= pace.batches() {
                under_way.join_next().await;
            }
            if run.is_outage() {
                ended = Ended::Outage;
                break;
            }
            if pace == Pace::Background && self.cache.spare_room() < batch.space {
                ended = Ended::Full;
                break;
            }
            under_way.spawn(run.clone().fetch(batch));
        }
        drop(batches);
        while under_way.join_next().await.is_some() {}
        walked.await??;
        if run.is_outage() {
            ended = Ended::Outage;
        }
        let failures = std::mem::take(&mut *run.failures());
        Ok(Warmed {
            files: progress.files_found.load(Ordering::Relaxed),
            bytes: progress.bytes_found.load(Ordering::Relaxed),
            fetched_files: run.fetched_files.load(Ordering::Relaxed),
            fetched_bytes: run.fetched_bytes.load(Ordering::Relaxed),
            failed_files: failures.count,
            failed: failures.first,
            ended,
        })
    }

    fn find(&self, path: &[u8]) -> Result<Node, WarmError> {
        let index = self.base.index();
        let mut at = Node::ROOT;
        for name in names(path) {
            let is_directory = index.node(at)?.kind() == aysfs_flist::Kind::Directory;
            let child = if is_directory { index.lookup(at, name)? } else { None };
            at = child.ok_or_else(|| WarmError::NotListed(path.to_vec()))?;
        }
        Ok(at)
    }
}

/// What all batches share.
struct Run {
    base: Arc<Base>,
    cache: Arc<Cache>,
    stors: Arc<Mirror>,
    progress: Arc<Progress>,
    failures: Mutex<Failures>,
    /// For how many files in a row no stor could be reached.
    outage: AtomicU32,
    fetched_files: AtomicU64,
    fetched_bytes: AtomicU64,
}

#[derive(Default)]
struct Failures {
    count: u64,
    first: Vec<Failed>,
}

impl Run {
    async fn fetch(self: Arc<Self>, batch: Batch) {
        if let Some((key, length)) = &batch.whole_pack {
            // If that fails, each file tells what was wrong with it.
            self.cache.fetch_pack(key, *length, &self.stors).await;
        }
        let files = stream::iter(batch.files);
        files.for_each_concurrent(FILES, |file| self.keep(file)).await;
    }

    async fn keep(&self, file: File) {
        if self.is_outage() {
            return;
        }
        let size = file.content.size;
        match self.cache.file(&file.content, &self.stors).keep().await {
            Ok(()) => {
                self.outage.store(0, Ordering::Relaxed);
                self.fetched_files.fetch_add(1, Ordering::Relaxed);
                self.fetched_bytes.fetch_add(size, Ordering::Relaxed);
            }
            Err(error) => self.failed(file.node, &error),
        }
        self.progress.done(size);
        // What was there already took no time in which others could do anything.
        tokio::task::yield_now().await;
    }

    fn failed(&self, node: Node, error: &FetchError) {
        if error.is_outage() {
            self.outage.fetch_add(1, Ordering::Relaxed);
        }
        let mut failures = self.failures();
        failures.count += 1;
        if failures.first.len() < TOLD {
            let path = self.base.index().path(node).unwrap_or_default();
            failures.first.push(Failed { path, why: error.to_string() });
        }
    }

    fn is_outage(&self) -> bool {
        self.outage.load(Ordering::Relaxed) >= OUTAGE
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn found(&self, size: u64) {
        self.files_found.fetch_add(1, Ordering::Relaxed);
        self.bytes_found.fetch_add(size, Ordering::Relaxed);
    }

    fn done(&self, size: u64) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
        self.bytes_done.fetch_add(size, Ordering::Relaxed);
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::Outage => "no stor could be reached",
            Self::Full => "the cache is full",
        })
    }
}
