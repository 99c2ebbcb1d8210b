//! A content that is not, or not yet, a verified file: which of its chunks are there, and which are on their way.
//!
//! Lock order: the cache's table of files, then a partial's state. Nothing waits while it holds either.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, ready};

use super::age::Seconds;
use super::disk::{Disk, PartialFile};
use super::error::FetchError;
use super::memory::MemoryChunk;
use super::run;
use super::sparse::Region;
use super::verified::VerifiedFile;
use super::{append_at, lock};
use crate::Content;

/// Something under way that any number of readers may wait for, and that ends whether or not one does.
pub(super) type Task<T> = Shared<BoxFuture<'static, T>>;

/// The fetch of one chunk.
pub(super) type ChunkTask = Task<Result<Arrived, FetchError>>;

/// The check of a whole file, which ends with its name.
pub(super) type Publication = Task<Result<Arc<VerifiedFile>, FetchError>>;

/// Where a verified chunk is.
#[derive(Clone, Debug)]
pub(super) enum Arrived {
    /// In the partial's file.
    InFile,
    /// Here.
    InMemory(Arc<MemoryChunk>),
}

/// The answer to the wish for a chunk.
pub(super) enum Want {
    /// It is there.
    Ready(Arrived),
    /// It is on its way.
    Pending(ChunkTask),
}

/// What serves as a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// One in the file only: the directory can be written (again).
    InFile,
    /// One in memory as well.
    InMemory,
}

/// Whether anything is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Chunks are missing in the file.
    Incomplete,
    /// So few that they are worth being fetched, whether or not anybody asks. Said once.
    MostlyThere,
    /// This was the last one.
    Complete,
}

/// How far from the last read the next one may be in a file that is read in order.
const DISORDER: u64 = 1 << 20;

/// How many bytes are fetched ahead of a reader in order: so many times what he has read in order, up to what keeps a link of 1 GB/s and
/// 20 ms busy. A program that maps its libraries reads in order for a while, too, and not to the end.
const AHEAD_TIMES: u64 = 2;
const AHEAD_MAX: u64 = 24 << 20;

/// When no more than this part of its chunks is missing, the rest of a file is fetched, too.
const MOSTLY_THERE: usize = 4;

pub(super) struct Partial {
    content: Content,
    /// The check of a file that the cache directory had, to wait for before anything is fetched.
    doubt: Option<Task<()>>,
    last_read: AtomicU32,
    sequence: Mutex<Sequence>,
    state: Mutex<State>,
}

/// How far a reader in order has come.
#[derive(Debug, Default)]
struct Sequence {
    /// The end of what was read in order, and how much of it was read.
    end: u64,
    amount: u64,
    /// The first chunk that was not begun to be fetched ahead.
    next: usize,
}

struct State {
    file: Option<Arc<PartialFile>>,
    slots: Box<[Slot]>,
    /// Whether a fetch, which may have failed, has begun to write a slot's part of the file.
    touched: Box<[bool]>,
    /// How many slots are not [`Slot::InFile`].
    absent: usize,
    /// Somebody fetches what is missing.
    is_finished_by_somebody: bool,
    publication: Option<Publication>,
}

#[derive(Clone)]
enum Slot {
    Missing,
    Fetching(ChunkTask),
    InFile,
    InMemory(Weak<MemoryChunk>),
}

impl Partial {
    pub(super) fn new(content: Content, doubt: Option<Task<()>>) -> Self {
        let absent = content.chunks.len();
        let state = State {
            file: None,
            slots: vec![Slot::Missing; absent].into(),
            touched: vec![false; absent].into(),
            absent,
            is_finished_by_somebody: false,
            publication: None,
        };
        Self {
            content,
            doubt,
            last_read: AtomicU32::new(0),
            sequence: Mutex::default(),
            state: Mutex::new(state),
        }
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// Somebody reads it.
    pub(super) fn touch(&self, now: Seconds) {
        self.last_read.store(now, Ordering::Relaxed);
    }

    pub(super) fn last_read(&self) -> Seconds {
        self.last_read.load(Ordering::Relaxed)
    }

    /// The check to wait for, unless it has ended: then this file has failed it.
    pub(super) fn doubt(&self) -> Option<Task<()>> {
        self.doubt.as_ref().filter(|doubt| doubt.peek().is_none()).cloned()
    }

    /// The chunks that overlap with a part of the file.
    pub(super) fn chunks(&self, part: &Range<u64>) -> Range<usize> {
        let chunks = &self.content.chunks;
        chunks.partition_point(|chunk| chunk.plain.end <= part.start)
            ..chunks.partition_point(|chunk| chunk.plain.start < part.end)
    }

    /// The chunks to fetch beside those of a part that is read now: the more, the longer somebody reads in order. The kernel's own
    /// readahead asks for parts that are not quite in order.
    pub(super) fn ahead(&self, part: &Range<u64>) -> Range<usize> {
        let chunks = self.chunks(part);
        let mut sequence = lock(&self.sequence);
        let Sequence { end, amount, next } = &mut *sequence;
        let is_in_order = part.start <= *end + DISORDER && part.end + DISORDER > *end && *amount > 0;
        if !is_in_order {
            *sequence = Sequence { end: part.end, amount: part.end - part.start, next: chunks.end };
            return 0..0;
        }
        *end = part.end.max(*end);
        *amount += part.end - part.start;
        let ahead = (AHEAD_TIMES * *amount).min(AHEAD_MAX);
        // Not a chunk at a time.
        let is_enough = *end + ahead - (ahead / 2).min(run::LENGTH);
        if self.content.chunks.get(*next).is_none_or(|chunk| chunk.plain.start > is_enough) {
            return 0..0;
        }
        let begun = (*next).max(chunks.end)..self.chunks(&(*end..*end + ahead)).end;
        *next = begun.start.max(begun.end);
        begun
    }

    /// Whether a chunk is neither there nor on its way.
    pub(super) fn lacks(&self, index: usize) -> bool {
        matches!(lock(&self.state).slots[index], Slot::Missing)
    }

    /// Asks for a chunk; `start` begins its fetch if nobody did.
    pub(super) fn want(&self, index: usize, accept: Accept, start: impl FnOnce() -> ChunkTask) -> Want {
        let slot = &mut lock(&self.state).slots[index];
        match slot {
            Slot::InFile => return Want::Ready(Arrived::InFile),
            Slot::InMemory(chunk) if accept == Accept::InMemory => {
                if let Some(chunk) = chunk.upgrade() {
                    return Want::Ready(Arrived::InMemory(chunk));
                }
            }
            // One that was given up half-way (a panic) has not settled its slot.
            Slot::Fetching(task) if !matches!(task.peek(), Some(Err(_))) => {
                return Want::Pending(task.clone());
            }
            Slot::Missing | Slot::Fetching(_) | Slot::InMemory(_) => {}
        }
        let task = start();
        *slot = Slot::Fetching(task.clone());
        Want::Pending(task)
    }

    /// Notes how the fetch of a chunk ended.
    pub(super) fn settle(&self, index: usize, ended: &Result<Arrived, FetchError>) -> Progress {
        let mut state = lock(&self.state);
        state.slots[index] = match ended {
            Ok(Arrived::InFile) => Slot::InFile,
            Ok(Arrived::InMemory(chunk)) => Slot::InMemory(Arc::downgrade(chunk)),
            Err(_) => Slot::Missing,
        };
        state.absent -= usize::from(matches!(ended, Ok(Arrived::InFile)));
        let is_used = |slot: &Slot| matches!(slot, Slot::InFile | Slot::Fetching(_));
        if !state.slots.iter().any(is_used) {
            // What it holds is of no use to anybody, and the disk may be full because of it.
            state.file = None;
            state.touched.fill(false);
        }
        if state.absent == 0 {
            return Progress::Complete;
        }
        let is_mostly_there = ended.is_ok() && state.absent <= state.slots.len() / MOSTLY_THERE;
        if is_mostly_there && !std::mem::replace(&mut state.is_finished_by_somebody, true) {
            return Progress::MostlyThere;
        }
        Progress::Incomplete
    }

    /// The file to write a chunk to, made when it is first needed, and what the chunk's part of it holds.
    pub(super) fn file(&self, index: usize, disk: &Disk) -> io::Result<(Arc<PartialFile>, Region)> {
        let mut state = lock(&self.state);
        let file = match &state.file {
            Some(file) => file.clone(),
            None => state.file.insert(Arc::new(disk.create(self.content.size)?)).clone(),
        };
        let touched = std::mem::replace(&mut state.touched[index], true);
        Ok((file, if touched { Region::Soiled } else { Region::Fresh }))
    }

    /// Appends a part of the file whose chunks are there.
    pub(super) fn read(&self, part: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        let file = lock(&self.state).file.clone().ok_or(io::ErrorKind::NotFound)?;
        append_at(file.file(), part, bytes)
    }

    /// Notes that the file needs no check: it was published with its only chunk.
    pub(super) fn published(&self, ended: Result<Arc<VerifiedFile>, FetchError>) {
        lock(&self.state).publication = Some(ready(ended).boxed().shared());
    }

    /// The check of the whole file, if all its chunks are there; `start` begins it if nobody did.
    pub(super) fn publication(
        &self,
        start: impl FnOnce(Arc<PartialFile>) -> Publication,
    ) -> Option<Publication> {
        let mut state = lock(&self.state);
        let file = state.file.clone().filter(|_| state.absent == 0)?;
        Some(state.publication.get_or_insert_with(|| start(file)).clone())
    }

    /// The fetches that have not ended.
    pub(super) fn under_way(&self) -> Vec<ChunkTask> {
        let state = lock(&self.state);
        let tasks = state.slots.iter().filter_map(|slot| match slot {
            Slot::Fetching(task) => Some(task.clone()),
            Slot::Missing | Slot::InFile | Slot::InMemory(_) => None,
        });
        tasks.collect()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.doubt().is_none()
            && !lock(&self.state).slots.iter().any(|slot| matches!(slot, Slot::Fetching(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::age::Clock;
    use super::super::error::Reason;
    use super::super::seal::Boot;
    use super::super::usage::{Limits, Usage};
    use super::*;

    #[test]
    fn a_fetch_that_failed_keeps_no_room_on_the_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let usage = Arc::new(Usage::new(Limits::default()));
        let disk = Disk::open(directory.path(), Boot::with_id("now"), Clock::default(), usage);
        let disk = disk.expect("a cache");
        let content = Content::v1([7; 16], 5000);
        let error = || FetchError::new(content.id, Reason::NoRoom);
        let partial = Partial::new(content.clone(), None);
        let file = Arc::downgrade(&partial.file(0, &disk).expect("a file").0);
        partial.settle(0, &Err(error()));
        assert!(file.upgrade().is_none());
        let (file, region) = partial.file(0, &disk).expect("another file");
        assert!(matches!(region, Region::Fresh));
        partial.settle(0, &Ok(Arrived::InFile));
        assert!(lock(&partial.state).file.is_some());
        drop(file);
    }
}
