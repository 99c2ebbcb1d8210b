//! Packs, as far as they are here: sparse files of stored bytes, where small files are read from.
//!
//! A small file is not worth a file of its own in the cache: to make one costs many times what it costs to decode it. So what is
//! fetched of a pack is kept as it is stored, in a file of the pack's name and length below `packs/`, and a reader decodes
//! and verifies what it needs at each read. Invariants:
//!
//! - nothing of such a file is trusted, not even that it is there: what does not decode to its digest is fetched again;
//! - bytes are believed to be there if this process has written them, or the file had no hole there when it was opened;
//! - several processes may write the same file: they write the same bytes.
//!
//! What is fetched beside what was asked for is decided here, too (see [`Readahead`]).

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;
use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_OMIT, fallocate, fstat,
    ftruncate, futimens, mkdirat, openat, seek, statat, unlinkat,
};
use rustix::io::Errno;
use tokio::sync::watch;

use super::age::{Clock, LastRead, Seconds};
use super::clean::{CleanMode, Fate};
use super::disk::is_ours;
use super::readahead::Readahead;
use super::sole::is_sole_user;
use super::spans::Spans;
use super::usage::{Usage, blocks};
use super::verified::Name;
use super::{append_at, lock};
use crate::{Chunk, Content, Key, Part, Store};

/// Where the files are.
pub(super) const DIRECTORY: &str = "packs";

/// The size, in bytes, from which on a file of a pack has a file of its own. It is also the least that is lent.
const SMALL: u64 = 64 << 10;

/// How much before what is missing is fetched with it at most, in bytes: who wants that waits for it, 1 ms on a link of 1 Gbit/s.
const BEHIND: u64 = 128 << 10;

/// The block of nearly every filesystem, in bytes.
const BLOCK: u64 = 4096;

/// How many are kept open.
const OPEN: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The packs of a cache.
#[derive(Debug)]
pub(super) struct Packs {
    root: Arc<OwnedFd>,
    clock: Clock,
    usage: Arc<Usage>,
    open: Mutex<LruCache<Key, Arc<Pack>>>,
}

/// A pack.
pub(super) struct Pack {
    key: Key,
    length: u64,
    file: File,
    last_read: LastRead,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    present: Spans,
    /// What was there, and is not needed any more: chunks that have become files. Nobody fetches it ahead.
    released: Spans,
    /// What was fetched by this process, and who sent it.
    sent: Vec<(Range<u64>, Arc<dyn Store>)>,
    windows: Vec<Window>,
    readahead: Readahead,
}

/// A part of a pack that is on its way.
#[derive(Clone, Debug)]
struct Window {
    range: Range<u64>,
    progress: Progress,
}

/// Up to where the bytes of a window are there; the sender is gone when there will be no more.
pub(super) type Progress = watch::Receiver<u64>;

/// Where a part of a pack is.
#[derive(Debug)]
pub(super) enum Whereabouts {
    /// In the file, as far as is known. If so, this is to be fetched next.
    Here { ahead: Option<Begun> },
    /// On its way: what is missing first arrives with this, up to here.
    Coming(Progress, u64),
    /// Nowhere; this fetches it.
    Missing(Begun),
    /// Nowhere, and nobody is to fetch it like this.
    Absent,
}

/// What is asked of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// All of it, and what is likely to be read next.
    Fetch,
    /// What is there, or about to be.
    Look,
}

/// A window that somebody has to fetch now: others wait for it.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) range: Range<u64>,
    pub(super) progress: watch::Sender<u64>,
}

impl Packs {
    pub(super) fn new(root: Arc<OwnedFd>, clock: Clock, usage: Arc<Usage>) -> Self {
        Self { root, clock, usage, open: Mutex::new(LruCache::new(OPEN)) }
    }

    /// A pack; its file is made if there is none.
    pub(super) fn open(&self, key: &Key, length: u64) -> io::Result<Arc<Pack>> {
        let mut open = lock(&self.open);
        if let Some(pack) = open.get(key).filter(|pack| pack.length == length) {
            return Ok(pack.clone());
        }
        let (file, present, noted) = self.open_file(key, length)?;
        let state = State { present, ..State::default() };
        let last_read = LastRead::new(&self.clock, noted);
        let pack = Arc::new(Pack { key: key.clone(), length, file, last_read, state: Mutex::new(state) });
        if let Some((_, closed)) = open.push(key.clone(), pack.clone()) {
            closed.note_read(Duration::ZERO);
        }
        Ok(pack)
    }

    fn open_file(&self, key: &Key, length: u64) -> io::Result<(File, Spans, Seconds)> {
        let name = file_name(key);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&self.root, &name, flags, Mode::RUSR | Mode::WUSR).map(File::from);
        let mut file = match open() {
            Err(Errno::NOENT) => {
                mkdirat(&self.root, DIRECTORY, Mode::RWXU)?;
                open()?
            }
            opened => opened?,
        };
        if !is_ours(&fstat(&file)?) {
            unlinkat(&self.root, &name, AtFlags::empty())?;
            file = open()?;
        }
        let stat = fstat(&file)?;
        if !is_ours(&stat) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let noted = Seconds::try_from(stat.st_mtime.max(0)).unwrap_or(Seconds::MAX);
        if u64::try_from(stat.st_size) == Ok(length) {
            let present = data(&file, length, blocks(&stat));
            return Ok((file, present, noted));
        }
        self.usage.subtract(blocks(&stat));
        ftruncate(&file, 0)?;
        ftruncate(&file, length)?;
        Ok((file, Spans::default(), noted))
    }

    /// Whether a part of a pack is here, as far as is known. Makes nothing.
    pub(super) fn contains(&self, key: &Key, part: &Part) -> bool {
        let is_known = lock(&self.open).contains(key)
            || statat(&self.root, file_name(key), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        is_known && self.open(key, part.pack).is_ok_and(|pack| pack.has(&part.range))
    }

    /// When a pack was read last, as far as this process knows.
    pub(super) fn last_read(&self, key: &Key) -> Option<Seconds> {
        lock(&self.open).peek(key).map(|pack| pack.last_read.at())
    }

    /// Takes the name of a pack away, if nobody uses it.
    pub(super) fn evict(&self, key: &Key, bytes: u64, mode: CleanMode) -> Fate {
        let mut open = lock(&self.open);
        let file = match open.peek(key) {
            Some(pack) if Arc::strong_count(pack) > 1 => return Fate::Busy(bytes),
            Some(pack) => pack.file.try_clone().ok(),
            None => openat(
                &self.root,
                file_name(key),
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map(File::from)
            .ok(),
        };
        let Some(file) = file else { return Fate::Gone };
        if !is_sole_user(&file) {
            return Fate::Busy(bytes);
        }
        if mode == CleanMode::DryRun {
            return Fate::Evicted(bytes);
        }
        open.pop(key);
        let name = Name { root: self.root.clone(), name: file_name(key) };
        if !name.leads_to(&file) || unlinkat(&self.root, &name.name, AtFlags::empty()).is_err() {
            return Fate::Gone;
        }
        let bytes = fstat(&file).map_or(bytes, |stat| blocks(&stat));
        self.usage.subtract(bytes);
        Fate::Evicted(bytes)
    }

    /// Closes those that nobody has read since, so that other processes can see that they are not in use.
    pub(super) fn close_idle(&self, idle_since: Seconds, tolerance: Duration) {
        let mut open = lock(&self.open);
        let is_idle = |pack: &Arc<Pack>| Arc::strong_count(pack) == 1 && pack.last_read.at() < idle_since;
        let idle: Vec<_> =
            open.iter().filter(|(_, pack)| is_idle(pack)).map(|(key, _)| key.clone()).collect();
        for key in idle {
            if let Some(pack) = open.pop(&key) {
                pack.note_read(tolerance);
            }
        }
    }

    /// Writes down when those that are open were read.
    pub(super) fn note_reads(&self, tolerance: Duration) {
        lock(&self.open).iter().for_each(|(_, pack)| pack.note_read(tolerance));
    }
}

impl Pack {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Where a part of it is, and what is to be done to have it.
    pub(super) fn find(&self, range: &Range<u64>, wish: Wish) -> Whereabouts {
        let mut state = self.state();
        let Some(gap) = state.present.gap(range) else {
            let ahead = match wish {
                Wish::Fetch => state.readahead.hit(range, self.length).and_then(|ahead| state.begin(ahead)),
                Wish::Look => None,
            };
            return Whereabouts::Here { ahead };
        };
        if let Some(Window { range: coming, progress }) = state.coming(gap.start) {
            return Whereabouts::Coming(progress, range.end.min(coming.end));
        }
        if wish == Wish::Look {
            return Whereabouts::Absent;
        }
        // Somebody needs it after all.
        state.released.remove(range);
        let end = state.readahead.miss(&gap, self.length);
        // What lies just before it is as likely to be read.
        let known = state.known();
        let start = known.end_before(gap.start).max(gap.start.saturating_sub(BEHIND));
        match state.begin(start..end) {
            Some(begun) => Whereabouts::Missing(begun),
            None => Whereabouts::Absent,
        }
    }

    /// What is to be fetched to have all of a part, whoever reads what of it; nothing if it was there, or is on its way.
    pub(super) fn begin(&self, range: Range<u64>) -> Option<Begun> {
        self.state().begin(range)
    }

    /// Waits for what is on its way of a part; returns whether all of it has been there then.
    pub(super) async fn arrived(&self, range: &Range<u64>) -> bool {
        loop {
            let coming = {
                let state = self.state();
                let Some(gap) = state.arrived().gap(range) else { return true };
                state.coming(gap.start)
            };
            let Some(Window { range: coming, mut progress }) = coming else { return false };
            let until = range.end.min(coming.end);
            if progress.wait_for(|arrived| *arrived >= until).await.is_err() {
                return false;
            }
        }
    }

    /// Whether a part of it is there, as far as is known.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        self.state().present.contains(range)
    }

    /// Stored bytes that are there.
    pub(super) fn read(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        self.last_read.touch();
        let mut bytes = Vec::new();
        append_at(&self.file, range.clone(), &mut bytes)?;
        Ok(bytes)
    }

    /// Keeps bytes that have arrived.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        let range = offset..offset + bytes.len() as u64;
        let mut state = self.state();
        state.released.remove(&range);
        state.present.insert(range);
        Ok(())
    }

    /// Gives the room of a part back to the disk, as far as it is whole blocks; returns how much.
    pub(super) fn release(&self, range: &Range<u64>) -> u64 {
        let blocks = range.start.next_multiple_of(BLOCK)..range.end - range.end % BLOCK;
        if blocks.is_empty() {
            return 0;
        }
        let mut state = self.state();
        state.present.remove(&blocks);
        state.released.insert(blocks.clone());
        drop(state);
        let length = blocks.end - blocks.start;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, punch, blocks.start, length).map_or(0, |()| length)
    }

    /// A window has ended, with so much of it from this stor.
    pub(super) fn ended(&self, window: &Range<u64>, arrived: u64, stor: Option<&Arc<dyn Store>>) {
        let mut state = self.state();
        state.windows.retain(|known| known.range != *window);
        if let Some(stor) = stor.filter(|_| arrived > 0) {
            state.sent.push((window.start..window.start + arrived, stor.clone()));
        }
    }

    /// What is there of a part is wrong, and is to be fetched again. Returns who has sent it to this process; what was found in the
    /// directory is not believed any more then.
    pub(super) fn reject(&self, range: &Range<u64>) -> Option<Arc<dyn Store>> {
        let mut state = self.state();
        let sent = state.sent.iter().find(|(sent, _)| sent.contains(&range.start));
        match sent.map(|(_, stor)| stor.clone()) {
            Some(stor) => {
                state.present.remove(range);
                Some(stor)
            }
            None => {
                let mut sent = Spans::default();
                state.sent.iter().for_each(|(range, _)| sent.insert(range.clone()));
                state.present = sent;
                state.present.remove(range);
                None
            }
        }
    }

    fn note_read(&self, tolerance: Duration) {
        let Some(at) = self.last_read.unnoted(tolerance) else { return };
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let read = Timespec { tv_sec: at.into(), tv_nsec: 0 };
        match futimens(&self.file, &Timestamps { last_access: omitted, last_modification: read }) {
            Ok(()) => self.last_read.note(at),
            Err(error) => tracing::debug!("pack {}: cannot note when it was read: {error}", self.key),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// What has arrived, whether or not it is still there.
    fn arrived(&self) -> Spans {
        let mut arrived = self.present.clone();
        arrived.extend(&self.released);
        arrived
    }

    /// The window that brings a byte.
    fn coming(&self, at: u64) -> Option<Window> {
        self.windows.iter().find(|window| window.range.contains(&at)).cloned()
    }

    /// What has arrived, or is on its way.
    fn known(&self) -> Spans {
        let mut known = self.arrived();
        self.windows.iter().for_each(|window| known.insert(window.range.clone()));
        known
    }

    /// Notes that the first part of a range that has not arrived, nor is on its way, is about to be fetched.
    fn begin(&mut self, range: Range<u64>) -> Option<Begun> {
        let range = self.known().gap(&range)?;
        let (sender, progress) = watch::channel(range.start);
        self.windows.push(Window { range: range.clone(), progress });
        Some(Begun { range, progress: sender })
    }
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pack").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The chunk that a file is which is read from its pack, and has no file of its own in the cache.
pub(super) fn small(content: &Content) -> Option<&Chunk> {
    match &*content.chunks {
        [chunk] if chunk.part.is_some() && content.size < SMALL => Some(chunk),
        _ => None,
    }
}

/// The name of a pack's file.
fn file_name(key: &Key) -> String {
    format!("{DIRECTORY}/{key}")
}

/// What of a file is no hole. A filesystem that does not tell claims all of it: then nothing is known.
fn data(file: &File, length: u64, blocks: u64) -> Spans {
    let mut spans = Spans::default();
    let mut at = 0;
    while at < length {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else { break };
        let Ok(end) = seek(file, SeekFrom::Hole(start)) else { break };
        if start >= end {
            break;
        }
        spans.insert(start..end.min(length));
        at = end;
    }
    if blocks < length && spans.contains(&(0..length)) { Spans::default() } else { spans }
}

#[cfg(test)]
mod tests {
    use super::super::usage::Limits;
    use super::*;

    const LENGTH: u64 = 16 << 20;

    fn packs(directory: &std::path::Path) -> Packs {
        let root = openat(rustix::fs::CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let usage = Arc::new(Usage::new(Limits::default()));
        Packs::new(Arc::new(root.expect("there")), Clock::default(), usage)
    }

    fn key() -> Key {
        Key::sha256([7; 32])
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let pack = packs(directory.path()).open(&key(), LENGTH).expect("opened");
        assert!(matches!(pack.find(&(5000..6000), Wish::Look), Whereabouts::Absent));
        pack.write(4096, &[1; 8192]).expect("written");
        assert!(matches!(pack.find(&(5000..6000), Wish::Look), Whereabouts::Here { ahead: None }));
        drop(pack);
        let again = packs(directory.path()).open(&key(), LENGTH).expect("opened");
        assert!(again.has(&(4096..12288)) && !again.has(&(4096..12289)) && !again.has(&(4095..4096)));
        assert_eq!(again.read(&(5000..5003)).expect("there"), [1; 3]);
        // Nobody in particular has sent it.
        assert!(again.reject(&(5000..6000)).is_none());
        assert!(!again.has(&(8192..8193)), "nothing of it is believed");
    }

    #[test]
    fn what_is_not_such_a_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let packs = packs(directory.path());
        let path = directory.path().join(file_name(&key()));
        std::fs::create_dir(directory.path().join(DIRECTORY)).expect("made");
        let target = directory.path().join("target");
        std::fs::write(&target, "precious").expect("written");
        std::os::unix::fs::symlink(&target, &path).expect("made");
        packs.open(&key(), LENGTH).expect_err("no link is followed");
        std::fs::remove_file(&path).expect("removed");
        std::fs::hard_link(&target, &path).expect("made");
        let pack = packs.open(&key(), LENGTH).expect("replaced");
        pack.write(0, b"stored").expect("written");
        assert_eq!(std::fs::read(&target).expect("there"), b"precious");
        drop(pack);
        std::fs::write(&path, "of another length").expect("written");
        let fresh = self::packs(directory.path()).open(&key(), LENGTH).expect("opened");
        assert!(!fresh.has(&(0..1)));
    }

    #[test]
    fn a_window_is_fetched_once_and_others_wait_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let pack = packs(directory.path()).open(&key(), LENGTH).expect("opened");
        const START: u64 = 1 << 20;
        let find = |start, end, wish| pack.find(&(START + start..START + end), wish);
        let Whereabouts::Missing(begun) = find(1000, 2000, Wish::Fetch) else { panic!("missing") };
        assert!(begun.range.start == START + 1000 - BEHIND && begun.range.end > START + 2000);
        let Whereabouts::Coming(_, until) = find(1500, 1600, Wish::Look) else { panic!("on its way") };
        assert_eq!(until, START + 1600);
        let end = begun.range.end;
        let Whereabouts::Coming(_, until) = pack.find(&(end - 1..end + 1), Wish::Look) else {
            panic!("begun")
        };
        assert_eq!(until, end, "the rest is asked for after that");
        pack.write(begun.range.start, &[1; 5000]).expect("written");
        pack.ended(&begun.range, 5000, None);
        let arrived = begun.range.start + 5000;
        assert!(matches!(pack.find(&(arrived - 1..arrived), Wish::Look), Whereabouts::Here { .. }));
        assert!(matches!(pack.find(&(arrived - 1..arrived + 1), Wish::Look), Whereabouts::Absent));
        let Whereabouts::Missing(next) = pack.find(&(arrived + 10..arrived + 20), Wish::Fetch) else {
            panic!("missing")
        };
        assert_eq!(next.range.start, arrived, "nothing is fetched twice");
    }

    #[test]
    fn what_is_released_takes_no_room_and_is_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let pack = packs(directory.path()).open(&key(), LENGTH).expect("opened");
        pack.write(0, &[1; 100_000]).expect("written");
        assert_eq!(pack.release(&(5000..9000)), 0, "no whole block");
        assert_eq!(pack.release(&(5000..50_000)), 40_960);
        assert!(pack.has(&(0..8192)) && !pack.has(&(8192..8193)) && pack.has(&(49_152..100_000)));
        let allocated = blocks(&fstat(&pack.file).expect("stat"));
        assert!(allocated <= 100_000 - 40_960 + 2 * BLOCK, "{allocated}");
        assert!(pack.begin(0..100_000).is_none(), "nobody fetches it ahead");
        let Whereabouts::Missing(begun) = pack.find(&(20_000..30_000), Wish::Fetch) else {
            panic!("it is needed after all")
        };
        assert_eq!(begun.range, 20_000..30_000);
    }

    #[test]
    fn what_is_in_use_is_not_evicted() {
        let directory = tempfile::tempdir().expect("a directory");
        let (packs, other) = (packs(directory.path()), packs(directory.path()));
        let evict = |packs: &Packs| packs.evict(&key(), 0, CleanMode::Remove);
        let pack = packs.open(&key(), LENGTH).expect("opened");
        pack.write(0, &[1; 4096]).expect("written");
        assert!(matches!(evict(&packs), Fate::Busy(_)));
        assert!(matches!(evict(&other), Fate::Busy(_)), "another process has it open");
        drop(pack);
        assert!(matches!(packs.evict(&key(), 4096, CleanMode::DryRun), Fate::Evicted(4096)));
        assert!(matches!(evict(&packs), Fate::Evicted(4096)));
        assert!(matches!(evict(&packs), Fate::Gone));
        assert!(!packs.open(&key(), LENGTH).expect("opened").has(&(0..1)));
    }
}
