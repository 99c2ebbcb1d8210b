//! Eviction: by age, for the size of the cache, and for the free space of its disk.
//!
//! What was read longest ago goes first. What is in use stays, in whichever process: a file that anybody has open or mapped (the
//! kernel tells, see [`is_sole_user`]), one that is lent, one that is being read or fetched, and one that somebody
//! [holds](CachedFile::hold). To know that of others' files, each process closes what it has not read for a minute.
//!
//! Cleaning beside other processes is safe: who finds a file opens it, and reads it to the end even if it loses its name
//! meanwhile; and nobody lends a file while it is evicted, since that takes the same lock.
//!
//! Eviction begins when it is needed, not only on a schedule: who writes claims room before, and if that brings the cache near its
//! size, the [`Upkeep`] evicts in the background. If there is no room at all, who writes evicts himself; and if there is none
//! to be had, the content is read through, as on a full disk.
//!
//! One pass looks at each file of the directory, and keeps in memory only as many of the oldest as it wants to evict.

use std::collections::{BinaryHeap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat, unlinkat};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::age::Seconds;
use super::disk::name;
use super::scan::{Listed, scan};
use super::sole::is_sole_user;
use super::usage::{Claim, Limits, Space, blocks};
use super::{Cache, CachedFile, FileKey, MinFree, PartialKey, VerifiedFile, lock};
use crate::ContentId;

/// How long a file that nobody reads is kept open.
const IDLE: Duration = Duration::from_secs(60);

/// How often the upkeep looks at what is open and how full the disk is.
const TICK: Duration = Duration::from_secs(10);

/// After how many ticks it writes down when files were read that are in use all the time.
const NOTE_EVERY: u32 = 60;

/// How far the times of reads in the directory may be behind, of files that are closed and of those that are in use.
const BEHIND: Duration = Duration::from_secs(60);
pub(super) const FAR_BEHIND: Duration = Duration::from_secs(3600);

/// How long after eviction found nothing nobody tries it again.
const FRUITLESS: Duration = Duration::from_secs(2);

/// How often one who writes tries to get room that others are faster to take.
const TRIES: usize = 3;

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

/// How badly somebody needs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// He can read through.
    IfThereIsRoom,
    /// Nothing else will do.
    AtAnyRate,
}

/// What became of a file that was to go.
enum Fate {
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
    id: ContentId,
}

/// One pass over the directory.
struct Pass<'a> {
    /// What was read before goes.
    older_than: Option<Seconds>,
    /// So many bytes of the oldest go.
    bytes: u64,
    mode: CleanMode,
    /// Found to be in use by an earlier pass.
    busy: &'a mut HashSet<ContentId>,
}

/// The time at which eviction found nothing the last time.
pub(super) type Fruitless = Option<Instant>;

impl Cache {
    /// Evicts what is older than the limits say, and then as much as it takes to keep the others. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn clean(&self, limits: &Limits, mode: CleanMode) -> io::Result<Cleaned> {
        let mut fruitless = lock(&self.cleaning);
        let mut busy = HashSet::new();
        let now = self.options.clock.now();
        let age = limits.older_than.map(|age| Seconds::try_from(age.as_secs()).unwrap_or(Seconds::MAX));
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
        scan(self.disk.root(), |Listed { id, stat }| {
            found.files += 1;
            found.bytes += blocks(&stat);
            oldest = oldest.min(self.last_read(&id, &stat));
        })?;
        self.usage.correct(before, found.bytes);
        found.writing = self.usage.claimed();
        let age = self.options.clock.now().saturating_sub(oldest);
        found.oldest = (found.files > 0).then(|| Duration::from_secs(age.into()));
        let space = Space::of(self.disk.root(), self.usage.limits().min_free)?;
        (found.free, found.min_free) = (space.free, space.min_free);
        Ok(found)
    }

    /// Does in the background what keeps the cache within its limits, until it is dropped. Within a tokio runtime.
    pub fn upkeep(self: &Arc<Self>) -> Upkeep {
        let cache = Arc::downgrade(self);
        let wanted = self.eviction_wanted.clone();
        let task = tokio::spawn(async move {
            let mut is_counted = false;
            for tick in 1_u32.. {
                let Some(cache) = cache.upgrade() else { return };
                let kept = tokio::task::spawn_blocking(move || {
                    if !is_counted {
                        cache.inventory()?;
                    }
                    cache.close_idle();
                    if tick.is_multiple_of(NOTE_EVERY) {
                        cache.note_reads(FAR_BEHIND);
                    }
                    cache.evict_excess()
                });
                match kept.await {
                    Ok(Ok(())) => is_counted = true,
                    Ok(Err(error)) => tracing::warn!("the cache cannot be cleaned: {error}"),
                    Err(_) => return,
                }
                let _ = tokio::time::timeout(TICK, wanted.notified()).await;
            }
        });
        Upkeep { cache: self.clone(), task }
    }

    /// Claims room in the directory for one who is about to write; `None`: there is none, and none can be made.
    pub(super) async fn claim(self: &Arc<Self>, length: u64, need: Need) -> Option<Claim> {
        let size = self.usage.limits().size;
        for _ in 0..TRIES {
            if let Some(claim) = self.try_claim(length) {
                if self.usage.excess(0) > 0 {
                    self.eviction_wanted.notify_one();
                }
                return Some(claim);
            }
            if size.is_some_and(|size| length > size) {
                // All that is there could go, and it would not help.
                break;
            }
            let cache = self.clone();
            let made = tokio::task::spawn_blocking(move || cache.make_room(length)).await;
            if !made.unwrap_or(false) {
                break;
            }
        }
        (need == Need::AtAnyRate).then(|| self.usage.claim_anyway(length))
    }

    fn try_claim(&self, length: u64) -> Option<Claim> {
        let claim = self.usage.claim(length)?;
        let is_short = !self.space_fits(length);
        self.is_short_of_space.store(is_short, Ordering::Relaxed);
        (!is_short).then_some(claim)
    }

    /// Whether who wants to write so much would find no room now, as far as that is known without asking the disk.
    pub(super) fn is_tight(&self, length: u64) -> bool {
        self.is_short_of_space.load(Ordering::Relaxed) || !self.usage.fits(length)
    }

    fn space_fits(&self, length: u64) -> bool {
        let min_free = self.usage.limits().min_free;
        // The disk itself says so when it is full.
        min_free == MinFree::Bytes(0)
            || Space::of(self.disk.root(), min_free).is_ok_and(|space| space.fits(length))
    }

    /// Evicts until so much can be claimed; returns whether it can.
    fn make_room(&self, length: u64) -> bool {
        let mut fruitless = lock(&self.cleaning);
        // One who was here before may have made enough for all.
        if self.usage.fits(length) && self.space_fits(length) {
            return true;
        }
        if fruitless.is_some_and(|at| at.elapsed() < FRUITLESS) {
            return false;
        }
        let evicted = self.evict_while(|| self.excess(length));
        let is_made = self.usage.fits(length) && self.space_fits(length);
        *fruitless = (!is_made).then(Instant::now);
        if let Err(error) = evicted {
            tracing::warn!("the cache cannot be cleaned: {error}");
        }
        is_made
    }

    /// Evicts so much because the disk is full, whatever the limits are; returns whether anything went. Blocks.
    pub fn make_space(&self, bytes: u64) -> bool {
        let mut fruitless = lock(&self.cleaning);
        if fruitless.is_some_and(|at| at.elapsed() < FRUITLESS) {
            return false;
        }
        let mut left = bytes;
        let mut evicted = 0;
        let mut busy = HashSet::new();
        while left > 0 {
            let pass = Pass { older_than: None, bytes: left, mode: CleanMode::Remove, busy: &mut busy };
            let Ok(cleaned) = self.pass(pass) else { break };
            if cleaned.evicted_files + cleaned.busy_files == 0 {
                break;
            }
            evicted += cleaned.evicted_bytes;
            left = left.saturating_sub(cleaned.evicted_bytes);
        }
        if evicted == 0 {
            *fruitless = Some(Instant::now());
        } else {
            tracing::info!("the disk is full: evicted {evicted} bytes from the cache");
        }
        evicted > 0
    }

    /// What [`Upkeep`] does when the cache comes near its limits.
    fn evict_excess(&self) -> io::Result<()> {
        if self.excess(0) == 0 {
            return Ok(());
        }
        let mut fruitless = lock(&self.cleaning);
        // While all of it is in use, each one who writes would have it looked at again.
        if fruitless.is_some_and(|at| at.elapsed() < TICK / 2) {
            return Ok(());
        }
        self.evict_while(|| self.excess(0))?;
        *fruitless = (self.excess(0) > 0).then(Instant::now);
        Ok(())
    }

    fn excess(&self, urgent: u64) -> u64 {
        let limits = self.usage.limits();
        let for_space = match limits.min_free {
            MinFree::Bytes(0) => 0,
            min_free => Space::of(self.disk.root(), min_free).map_or(0, |space| space.excess(urgent)),
        };
        self.usage.excess(urgent).max(for_space)
    }

    /// How much is more than these limits allow, if so much went.
    fn excess_of(&self, limits: &Limits, gone: u64) -> io::Result<u64> {
        let for_size =
            limits.size.map_or(0, |size| self.usage.total().saturating_sub(gone).saturating_sub(size));
        let space = Space::of(self.disk.root(), limits.min_free)?;
        Ok(for_size.max(space.min_free.saturating_sub(space.free.saturating_add(gone))))
    }

    /// Evicts for as long as there is an excess, and something to evict.
    fn evict_while(&self, excess: impl Fn() -> u64) -> io::Result<()> {
        let mut busy = HashSet::new();
        self.give_up_partials();
        loop {
            let bytes = excess();
            if bytes == 0 {
                return Ok(());
            }
            let pass = Pass { older_than: None, bytes, mode: CleanMode::Remove, busy: &mut busy };
            let cleaned = self.pass(pass)?;
            tracing::debug!(?cleaned, "evicted from the cache");
            if cleaned.evicted_files + cleaned.busy_files == 0 {
                return Ok(());
            }
        }
    }

    /// Gives up what was fetched of files that nobody has read for a while: it has no name, so no pass finds it.
    fn give_up_partials(&self) {
        let idle_since = self.options.clock.now().saturating_sub(seconds(IDLE));
        let mut files = lock(&self.files);
        let idle: Vec<_> = files
            .partials
            .iter()
            .filter(|(_, partial)| Arc::strong_count(partial) == 1 && partial.is_idle())
            .filter(|(_, partial)| partial.last_read() < idle_since)
            .map(|(_, partial)| PartialKey(partial.content().clone()))
            .collect();
        for key in idle {
            files.partials.pop(&key);
            self.counters.evicted_partials.add(1);
        }
    }

    /// Looks at all files, and evicts what the pass is for.
    fn pass(&self, pass: Pass<'_>) -> io::Result<Cleaned> {
        let before = self.usage.before_scan();
        let mut cleaned = Cleaned::default();
        let mut heap = BinaryHeap::new();
        let mut held = 0_u64;
        let size = self.usage.limits().size.unwrap_or(u64::MAX);
        let (busy, mode) = (pass.busy, pass.mode);
        scan(self.disk.root(), |Listed { id, stat }| {
            let bytes = blocks(&stat);
            cleaned.files += 1;
            cleaned.bytes += bytes;
            if busy.contains(&id) {
                return;
            }
            // One that leaves no room for any other is not worth all of them.
            let read = if bytes > size { 0 } else { self.last_read(&id, &stat) };
            let candidate = Candidate { read, bytes, size: u64::try_from(stat.st_size).unwrap_or(0), id };
            if pass.older_than.is_some_and(|moment| read < moment) {
                cleaned.count(self.evict(&candidate, mode), id, busy);
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
            cleaned.count(self.evict(&candidate, mode), candidate.id, busy);
        }
        if mode == CleanMode::Remove {
            self.counters.evicted_files.add(cleaned.evicted_files);
        }
        Ok(cleaned)
    }

    /// When a file of the directory was read last, as far as this process knows.
    fn last_read(&self, id: &ContentId, stat: &Stat) -> Seconds {
        let noted = Seconds::try_from(stat.st_mtime.max(0)).unwrap_or(Seconds::MAX);
        let key = FileKey { id: *id, size: u64::try_from(stat.st_size).unwrap_or(0) };
        let open = lock(&self.files).open.peek(&key).map(|file| file.last_read().at());
        open.map_or(noted, |open| open.max(noted))
    }

    /// Takes the name of a file away, if nobody uses it.
    fn evict(&self, candidate: &Candidate, mode: CleanMode) -> Fate {
        let key = FileKey { id: candidate.id, size: candidate.size };
        let name = name(&candidate.id);
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
        if !self.disk.leads_to(&candidate.id, &file)
            || unlinkat(self.disk.root(), &name, AtFlags::empty()).is_err()
        {
            return Fate::Gone;
        }
        let bytes = fstat(&file).map_or(candidate.bytes, |stat| blocks(&stat));
        self.disk.forget(&candidate.id);
        self.usage.subtract(bytes);
        Fate::Evicted(bytes)
    }

    /// Closes what nobody has read for a while, so that other processes can see that it is not in use.
    pub(super) fn close_idle(&self) {
        let idle_since = self.options.clock.now().saturating_sub(seconds(IDLE));
        let is_unread = |file: &VerifiedFile| file.last_read().at() < idle_since;
        // The ones that were not read for the longest time are at the end.
        let files = lock(&self.files);
        let unread = files.open.iter().rev().take_while(|(_, file)| is_unread(file));
        let unread: Vec<_> = unread.map(|(key, _)| *key).collect();
        drop(files);
        for key in unread {
            // One at a time: others are not to wait for all of them.
            let mut files = lock(&self.files);
            if let Some(file) = files.open.peek(&key)
                && is_idle(file)
                && is_unread(file)
                && !file.is_lent_and_used()
            {
                self.note_read(&key.id, file, BEHIND);
                files.open.pop(&key);
            }
        }
    }

    /// Writes down when the files that are open were read.
    pub(super) fn note_reads(&self, tolerance: Duration) {
        let due = |(_, file): &(&FileKey, &Arc<VerifiedFile>)| file.last_read().unnoted(tolerance).is_some();
        let due: Vec<_> = lock(&self.files).open.iter().filter(due).map(|(key, _)| *key).collect();
        for key in due {
            if let Some(file) = lock(&self.files).open.peek(&key).filter(|file| is_idle(file)) {
                self.note_read(&key.id, file, tolerance);
            }
        }
    }

    /// The same of one that is not kept open any more.
    pub(super) fn note_closed(&self, id: &ContentId, file: &Arc<VerifiedFile>) {
        if is_idle(file) {
            self.note_read(id, file, BEHIND);
        }
    }

    /// The same of one that nobody uses, nor can begin to: who does may give it away.
    fn note_read(&self, id: &ContentId, file: &VerifiedFile, tolerance: Duration) {
        if let Some(at) = file.last_read().unnoted(tolerance)
            && !file.is_watched()
        {
            match self.disk.note_read(id, file.file(), at) {
                Ok(()) => file.last_read().note(at),
                Err(error) => tracing::debug!("{id}: cannot note when it was read: {error}"),
            }
        }
    }
}

/// Whether nobody in this process uses a file, its table of open files aside, which has to be locked.
fn is_idle(file: &Arc<VerifiedFile>) -> bool {
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
    fn is_lent_and_used(&self) -> bool {
        lock(&self.loan).is_some() && !is_sole_user(self.file())
    }
}

fn seconds(time: Duration) -> Seconds {
    Seconds::try_from(time.as_secs()).unwrap_or(Seconds::MAX)
}

impl Cleaned {
    fn count(&mut self, fate: Fate, id: ContentId, busy: &mut HashSet<ContentId>) {
        match fate {
            Fate::Evicted(bytes) => {
                self.evicted_files += 1;
                self.evicted_bytes += bytes;
            }
            Fate::Busy(bytes) => {
                busy.insert(id);
                self.busy_files += 1;
                self.busy_bytes += bytes;
            }
            Fate::Gone => {}
        }
    }
}

/// The work in the background that keeps a cache within its limits. When it is dropped it ends, and what is known about reads is
/// written down.
pub struct Upkeep {
    cache: Arc<Cache>,
    task: JoinHandle<()>,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.task.abort();
        self.cache.note_reads(BEHIND);
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// Content that is not evicted while this lives: somebody has it open, and reads it through the cache.
pub struct Held {
    cache: Arc<Cache>,
    key: FileKey,
}

impl CachedFile {
    /// Keeps the content from being evicted, now and when it has been fetched.
    pub fn hold(&self) -> Held {
        let key = FileKey::of(&self.content);
        *lock(&self.cache.files).held.entry(key).or_default() += 1;
        Held { cache: self.cache.clone(), key }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut files = lock(&self.cache.files);
        if let Some(count) = files.held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                files.held.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("id", &self.key.id).finish_non_exhaustive()
    }
}
