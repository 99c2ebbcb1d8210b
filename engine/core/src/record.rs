//! What is read from a mount, in the order of the first read: what a start-up profile is made of.
//!
//! Nothing is noted unless somebody records, and then for one at a time. Only reads that reach the filesystem are seen, so whoever begins
//! makes the kernel drop what it has in memory ([`AysFs::held_files`], [`Overlay::held_files`]), and meanwhile no file of the base is
//! opened to pass through. One that passes through already, and is opened again, counts as read from end to end.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use aysfs_flist::{Kind, NodeRef};
use aysfs_vfs::Ino;

use crate::edition::Edition;
use crate::profile::{FirstRead, Profile};
use crate::{AysFs, Overlay};

/// Up to this size, in bytes, a file is one chunk: whoever reads some of it needs it all.
const WHOLE: u64 = 1 << 20;

/// How many reads are noted: an application that starts needs some thousands.
const MOST: usize = 1 << 20;

/// Where the reads of a mount are noted, if somebody wants to know them.
#[derive(Default)]
pub struct Recorder {
    notes: ArcSwapOption<Notes>,
    is_taken: AtomicBool,
}

/// Reads are noted until this is dropped.
#[derive(Debug)]
pub struct Recording(Arc<Recorder>);

/// What was read so far.
#[derive(Default)]
pub(crate) struct Notes(Mutex<State>);

#[derive(Default)]
struct State {
    reads: Vec<FirstRead>,
    files: HashMap<Ino, Seen>,
    bytes: u64,
}

/// What was read of a file.
#[derive(Default)]
struct Seen {
    /// Sorted, and apart from each other.
    parts: Vec<Range<u64>>,
    /// The last of its reads.
    last: Option<usize>,
}

impl Recorder {
    /// Notes what is read from now on; `None` if somebody does already.
    pub fn begin(self: &Arc<Self>) -> Option<Recording> {
        if self.is_taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.notes.store(Some(Arc::default()));
        Some(Recording(self.clone()))
    }

    /// What was read since somebody began to record; `None` if nobody does.
    pub fn profile(&self) -> Option<Profile> {
        let notes = self.notes.load_full()?;
        let reads = notes.state().reads.clone();
        Some(Profile { reads })
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_on(&self) -> bool {
        self.notes.load().is_some()
    }
}

impl Recording {
    /// How many files were read, and how many bytes of them.
    pub fn seen(&self) -> (u64, u64) {
        self.0.notes.load().as_ref().map_or((0, 0), |notes| {
            let state = notes.state();
            (state.files.len() as u64, state.bytes)
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.0.notes.store(None);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("is_on", &self.is_on()).finish_non_exhaustive()
    }
}

impl Notes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a read of a file of so many bytes.
    fn read(&self, ino: Ino, size: u64, part: Range<u64>, path: impl FnOnce() -> Option<Vec<u8>>) {
        let part = if size <= WHOLE { 0..size } else { part.start..part.end.min(size) };
        if part.is_empty() {
            return;
        }
        let mut state = self.state();
        let State { reads, files, bytes } = &mut *state;
        let seen = files.entry(ino).or_default();
        let known = seen.last.map(|last| reads[last].path.clone());
        let gaps = seen.add(part);
        if gaps.is_empty() {
            return;
        }
        let Some(path) = known.or_else(path) else { return };
        for gap in gaps {
            *bytes += gap.end - gap.start;
            match seen.last.filter(|last| reads[*last].range.end == gap.start) {
                Some(last) => reads[last].range.end = gap.end,
                None if reads.len() < MOST => {
                    seen.last = Some(reads.len());
                    reads.push(FirstRead { path: path.clone(), range: gap });
                }
                None => {}
            }
        }
    }
}

impl Seen {
    /// What of a part was not read before.
    fn add(&mut self, part: Range<u64>) -> Vec<Range<u64>> {
        // Those that it meets, or touches.
        let first = self.parts.partition_point(|known| known.end < part.start);
        let behind = self.parts.partition_point(|known| known.start <= part.end);
        let (mut gaps, mut at) = (Vec::new(), part.start);
        let mut joined = part.clone();
        for known in &self.parts[first..behind] {
            if at < known.start {
                gaps.push(at..known.start);
            }
            at = at.max(known.end);
            joined = joined.start.min(known.start)..joined.end.max(known.end);
        }
        if at < part.end {
            gaps.push(at..part.end);
        }
        self.parts.splice(first..behind, [joined]);
        gaps
    }
}

impl AysFs {
    /// Where its reads are noted, if somebody wants to know them.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The files that the kernel may have content of: what it has of them is read unseen.
    pub fn held_files(&self) -> Vec<Ino> {
        let shown = self.shown();
        let is_file = |ino: &Ino| shown.find(*ino).is_ok_and(|(_, of)| of.kind() == Kind::Regular);
        self.held.all().filter(is_file).collect()
    }

    /// Notes a read, if somebody wants to know.
    pub(crate) fn note_read(&self, edition: &Edition, of: &NodeRef<'_>, ino: Ino, part: Range<u64>) {
        if let Some(notes) = &*self.recorder.notes.load() {
            notes.read(ino, of.size(), part, || edition.base.index().path(of.number()).ok());
        }
    }

    /// The same of a file that somebody reads without asking, or all of.
    pub(crate) fn note_read_of_all(&self, ino: Ino) {
        if self.recorder.is_on()
            && let Ok((edition, of)) = self.shown().find(ino)
        {
            self.note_read(edition, &of, ino, 0..of.size());
        }
    }
}

impl Overlay {
    /// Where reads of what is below the local changes are noted, if somebody wants to know them.
    pub fn recorder(&self) -> &Arc<Recorder> {
        self.lower().recorder()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 10 << 20;

    fn recorded(reads: &[(u64, u64, Range<u64>)]) -> Vec<(String, Range<u64>)> {
        let recorder = Arc::<Recorder>::default();
        let recording = recorder.begin().expect("nobody else");
        for (ino, size, part) in reads {
            let notes = recorder.notes.load_full().expect("it is on");
            notes.read(Ino(*ino), *size, part.clone(), || Some(format!("f{ino}").into_bytes()));
        }
        let reads = recorder.profile().expect("it is on").reads;
        assert_eq!(
            recording.seen().1,
            reads.iter().map(|read| read.range.end - read.range.start).sum::<u64>()
        );
        reads.into_iter().map(|read| (String::from_utf8(read.path).expect("ASCII"), read.range)).collect()
    }

    #[test]
    fn files_are_in_the_order_of_the_first_read_and_small_ones_whole() {
        let reads =
            [(2, 100, 10..20), (1, LARGE, 0..4096), (2, 100, 50..60), (1, LARGE, 0..4096), (3, 0, 0..10)];
        let expected = [("f2".to_owned(), 0..100), ("f1".to_owned(), 0..4096)];
        assert_eq!(recorded(&reads), expected);
        assert_eq!(recorded(&[(1, WHOLE, 5..6)]), [("f1".to_owned(), 0..WHOLE)]);
        assert_eq!(recorded(&[(1, LARGE, LARGE - 5..LARGE + 100)]), [("f1".to_owned(), LARGE - 5..LARGE)]);
    }

    #[test]
    fn what_was_read_in_pieces_is_joined_and_nothing_is_told_twice() {
        let f1 = |range| ("f1".to_owned(), range);
        let read = |parts: &[Range<u64>]| {
            recorded(&parts.iter().map(|part| (1, LARGE, part.clone())).collect::<Vec<_>>())
        };
        assert_eq!(read(&[0..10, 10..20, 20..30]), [f1(0..30)]);
        assert_eq!(read(&[0..10, 20..30, 5..25]), [f1(0..10), f1(20..30), f1(10..20)]);
        assert_eq!(
            read(&[20..30, 40..50, 10..60]),
            [f1(20..30), f1(40..50), f1(10..20), f1(30..40), f1(50..60)]
        );
        assert_eq!(read(&[10..20, 12..15, 10..20, 5..10]), [f1(10..20), f1(5..10)]);
    }

    #[test]
    fn one_records_at_a_time_and_nothing_is_kept_of_the_one_before() {
        let recorder = Arc::<Recorder>::default();
        assert!(!recorder.is_on() && recorder.profile().is_none());
        let recording = recorder.begin().expect("nobody else");
        assert!(recorder.begin().is_none());
        let notes = recorder.notes.load_full().expect("it is on");
        notes.read(Ino(1), 7, 0..1, || Some(b"f".to_vec()));
        assert_eq!(recording.seen(), (1, 7));
        drop(recording);
        assert!(!recorder.is_on());
        assert_eq!(recorder.begin().expect("nobody else").seen(), (0, 0));
    }
}
