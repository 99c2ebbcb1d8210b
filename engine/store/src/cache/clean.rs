//! Eviction: by age, for the size of the cache, and for the free space of its disk.
//!
//! What was read longest ago goes first. What is in use stays, in whichever process: a file that anybody has open or mapped (the
//! kernel tells, see [`is_sole_user`]), one that is lent, one that is being read or fetched, and one that somebody
//! [holds](super::CachedFile::hold). To know that of others' files, each process closes what it has not read for a minute.
//!
//! Cleaning beside other processes is safe: who finds a file opens it, and reads it to the end even if it loses its name
//! meanwhile; and nobody lends a file while it is evicted, since that takes the same lock.
//!
//! One pass looks at each file of the directory, and keeps in memory only as many of the oldest as it wants to evict.

use std::collections::{BinaryHeap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, unlinkat};

use super::age::{Seconds, seconds};
use super::disk::name;
use super::scan::{Listed, Named, scan};
use super::sole::is_sole_user;
use super::usage::{Limits, Space, blocks};
use super::{Cache, FileKey, VerifiedFile, lock};

/// Whether anything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanMode {
    /// It is.
    Remove,
    /// It is only said what would be.
    DryRun,
}

/// What cleaning came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files that were there.
    pub files: u64,
    /// What they took of the disk, in bytes.
    pub bytes: u64,
    /// Files that were evicted, or would be.
    pub evicted_files: u64,
    /// What they took.
    pub evicted_bytes: u64,
    /// Files that would have been, but are in use.
    pub busy_files: u64,
    /// What they take.
    pub busy_bytes: u64,
}

/// What is in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Files.
    pub files: u64,
    /// What they take of the disk, in bytes.
    pub bytes: u64,
    /// What this process is writing, in bytes.
    pub writing: u64,
    /// How long ago the oldest of them was read.
    pub oldest: Option<Duration>,
    /// What is free on the disk, in bytes.
    pub free: u64,
    /// What is to stay free, in bytes.
    pub min_free: u64,
}

/// What became of a file that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Evicted(u64),
    Busy(u64),
    Gone,
}

/// A file that may go; the greatest one was read last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    read: Seconds,
    bytes: u64,
    size: u64,
    named: Named,
}

/// One pass over the directory.
pub(super) struct Pass<'a> {
    /// What was read before goes.
    pub(super) older_than: Option<Seconds>,
    /// So many bytes of the oldest go.
    pub(super) bytes: u64,
    pub(super) mode: CleanMode,
    /// Found to be in use by an earlier pass.
    pub(super) busy: &'a mut HashSet<Named>,
}

impl Cache {
    /// Evicts what is older than the limits say, and then as much as it takes to keep the others. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn clean(&self, limits: &Limits, mode: CleanMode) -> io::Result<Cleaned> {
        let mut fruitless = lock(&self.cleaning);
        let mut busy = HashSet::new();
        let now = self.options.clock.now();
        let age = limits.older_than.map(seconds);
        let older_than = age.map(|age| now.saturating_sub(age));
        let pass = Pass { older_than, bytes: 0, mode, busy: &mut busy };
        let mut cleaned = self.pass(pass)?;
        loop {
            let gone = if mode == CleanMode::DryRun { cleaned.evicted_bytes } else { 0 };
            let bytes = self.excess_of(limits, gone)?;
            if bytes == 0 {
                break;
            }
            // In a dry run, what goes by age is older than anything else: it is counted again, as a part of what goes.
            let bytes = bytes + gone;
            let again = self.pass(Pass { older_than: None, bytes, mode, busy: &mut busy })?;
            cleaned.busy_files += again.busy_files;
            cleaned.busy_bytes += again.busy_bytes;
            if mode == CleanMode::DryRun {
                let is_enough = again.evicted_bytes >= bytes || again.busy_files == 0;
                cleaned.evicted_files = again.evicted_files;
                cleaned.evicted_bytes = again.evicted_bytes;
                if is_enough {
                    break;
                }
                continue;
            }
            cleaned.evicted_files += again.evicted_files;
            cleaned.evicted_bytes += again.evicted_bytes;
            if again.evicted_files + again.busy_files == 0 {
                break;
            }
        }
        *fruitless = None;
        Ok(cleaned)
    }

    /// Looks at all that is there. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn inventory(&self) -> io::Result<Inventory> {
        let before = self.usage.before_scan();
        let mut found = Inventory::default();
        let mut oldest = Seconds::MAX;
        scan(self.disk.root(), |Listed { named, stat }| {
            found.files += 1;
            found.bytes += blocks(&stat);
            oldest = oldest.min(self.last_read(&named, &stat));
        })?;
        self.usage.correct(before, found.bytes);
        found.writing = self.usage.claimed();
        let age = self.options.clock.now().saturating_sub(oldest);
        found.oldest = (found.files > 0).then(|| Duration::from_secs(age.into()));
        let space = Space::of(self.disk.root(), self.usage.limits().min_free)?;
        (found.free, found.min_free) = (space.free, space.min_free);
        Ok(found)
    }

    /// How much is more than these limits allow, if so much went.
    fn excess_of(&self, limits: &Limits, gone: u64) -> io::Result<u64> {
        let for_size =
            limits.size.map_or(0, |size| self.usage.total().saturating_sub(gone).saturating_sub(size));
        let space = Space::of(self.disk.root(), limits.min_free)?;
        Ok(for_size.max(space.min_free.saturating_sub(space.free.saturating_add(gone))))
    }

    /// Looks at all files, and evicts what the pass is for.
    pub(super) fn pass(&self, pass: Pass<'_>) -> io::Result<Cleaned> {
        let before = self.usage.before_scan();
        let mut cleaned = Cleaned::default();
        let mut heap = BinaryHeap::new();
        let mut held = 0_u64;
        let size = self.usage.limits().size.unwrap_or(u64::MAX);
        let (busy, mode) = (pass.busy, pass.mode);
        scan(self.disk.root(), |Listed { named, stat }| {
            let bytes = blocks(&stat);
            cleaned.files += 1;
            cleaned.bytes += bytes;
            if busy.contains(&named) {
                return;
            }
            // One that leaves no room for any other is not worth all of them.
            let read = if bytes > size { 0 } else { self.last_read(&named, &stat) };
            let size_of_file = u64::try_from(stat.st_size).unwrap_or(0);
            let candidate = Candidate { read, bytes, size: size_of_file, named };
            if pass.older_than.is_some_and(|moment| read < moment) {
                cleaned.count(self.evict(&candidate, mode), candidate.named, busy);
            } else if pass.bytes > 0 {
                held += bytes;
                heap.push(candidate);
                while heap.peek().is_some_and(|youngest: &Candidate| held - youngest.bytes >= pass.bytes) {
                    held -= heap.pop().map_or(0, |youngest| youngest.bytes);
                }
            }
        })?;
        self.usage.correct(before, cleaned.bytes);
        for candidate in heap.into_sorted_vec() {
            if cleaned.evicted_bytes >= pass.bytes {
                break;
            }
            cleaned.count(self.evict(&candidate, mode), candidate.named, busy);
        }
        if mode == CleanMode::Remove {
            self.counters.evicted_files.add(cleaned.evicted_files);
        }
        Ok(cleaned)
    }

    /// When a file of the directory was read last, as far as this process knows.
    fn last_read(&self, named: &Named, stat: &Stat) -> Seconds {
        let noted = Seconds::try_from(stat.st_mtime.max(0)).unwrap_or(Seconds::MAX);
        let id = match named {
            Named::Content(id) => id,
            Named::Pack(key) => return self.packs.last_read(key).map_or(noted, |open| open.max(noted)),
        };
        let key = FileKey { id: *id, size: u64::try_from(stat.st_size).unwrap_or(0) };
        let open = lock(&self.files).open.peek(&key).map(|file| file.last_read().at());
        open.map_or(noted, |open| open.max(noted))
    }

    /// Takes the name of a file away, if nobody uses it.
    fn evict(&self, candidate: &Candidate, mode: CleanMode) -> Fate {
        let id = match &candidate.named {
            Named::Content(id) => id,
            Named::Pack(key) => return self.packs.evict(key, candidate.bytes, mode),
        };
        let key = FileKey { id: *id, size: candidate.size };
        let name = name(id);
        // It is either open here and not used, or it is opened now: then another who has it open is seen.
        let file = {
            let mut files = lock(&self.files);
            if files.held.contains_key(&key) {
                return Fate::Busy(candidate.bytes);
            }
            match files.open.peek(&key) {
                // Whoever wants it has to wait for this lock.
                Some(file) if is_idle(file) && file.is_free() => match mode {
                    CleanMode::DryRun => {
                        file.unlock_unless_lent();
                        return Fate::Evicted(candidate.bytes);
                    }
                    CleanMode::Remove => files.open.pop(&key).map(|file| file.file().clone()),
                },
                Some(_) => return Fate::Busy(candidate.bytes),
                None => None,
            }
        };
        let file = match file {
            Some(file) => file,
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match openat(self.disk.root(), &name, flags, Mode::empty()) {
                    Ok(file) => Arc::new(File::from(file)),
                    Err(rustix::io::Errno::AGAIN) => return Fate::Busy(candidate.bytes),
                    Err(_) => return Fate::Gone,
                }
            }
        };
        // Nobody can lend it from here on: the lock ends when it is closed.
        if !lock_file(&file) || !is_sole_user(&file) {
            return Fate::Busy(candidate.bytes);
        }
        if mode == CleanMode::DryRun {
            return Fate::Evicted(candidate.bytes);
        }
        if !self.disk.leads_to(id, &file) || unlinkat(self.disk.root(), &name, AtFlags::empty()).is_err() {
            return Fate::Gone;
        }
        let bytes = fstat(&file).map_or(candidate.bytes, |stat| blocks(&stat));
        self.disk.forget(id);
        self.usage.subtract(bytes);
        Fate::Evicted(bytes)
    }
}

/// Whether nobody in this process uses a file, its table of open files aside, which has to be locked.
pub(super) fn is_idle(file: &Arc<VerifiedFile>) -> bool {
    Arc::strong_count(file) == 1
}

/// Takes the lock that lending takes.
fn lock_file(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

impl VerifiedFile {
    /// Whether no other process and no program uses it, and none has lent it. One that is free is locked.
    fn is_free(&self) -> bool {
        if !lock_file(self.file()) {
            return false;
        }
        let is_free = is_sole_user(self.file());
        if !is_free {
            self.unlock_unless_lent();
        }
        is_free
    }

    fn unlock_unless_lent(&self) {
        if lock(&self.loan).is_none() {
            let _ = flock(self.file(), FlockOperation::Unlock);
        }
    }

    /// Whether a program may have it mapped that got it from this process.
    pub(super) fn is_lent_and_used(&self) -> bool {
        lock(&self.loan).is_some() && !is_sole_user(self.file())
    }
}

impl Cleaned {
    fn count(&mut self, fate: Fate, named: Named, busy: &mut HashSet<Named>) {
        match fate {
            Fate::Evicted(bytes) => {
                self.evicted_files += 1;
                self.evicted_bytes += bytes;
            }
            Fate::Busy(bytes) => {
                busy.insert(named);
                self.busy_files += 1;
                self.busy_bytes += bytes;
            }
            Fate::Gone => {}
        }
    }
}
