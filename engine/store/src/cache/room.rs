//! Room for one who is about to write: claimed before, and made if there is none.
//!
//! Who claims near a limit wakes the eviction in the background ([`Upkeep`](super::Upkeep)). Who finds no room evicts himself, and all
//! who wait meanwhile find what he has made. If there is none to be had, content is read through, as on a full disk.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::age::{Seconds, seconds};
use super::clean::{CleanMode, Pass};
use super::upkeep::{IDLE, TICK};
use super::usage::{Claim, Space};
use super::{Cache, MinFree, PartialKey, lock};

/// How long after eviction found nothing nobody tries it again.
const FRUITLESS: Duration = Duration::from_secs(2);

/// How much more than is needed goes when the disk is full, at least.
const LEAST_ROOM: u64 = 4 << 20;

/// How often one who writes tries to get room that others are faster to take.
pub(super) const TRIES: usize = 3;

/// How badly somebody needs a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// He can read through.
    IfThereIsRoom,
    /// Nothing else will do.
    AtAnyRate,
}

/// The time at which eviction found nothing the last time.
pub(super) type Fruitless = Option<Instant>;

/// Whether a disk says that it is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Cache {
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
        let has_given_up = self.give_up_partials(Seconds::MAX) > 0;
        let mut fruitless = lock(&self.cleaning);
        if fruitless.is_some_and(|at| at.elapsed() < FRUITLESS) {
            return has_given_up;
        }
        // More than that: not each one who writes is to look at all files, and a disk that is full needs some room for itself.
        let total = Space::of(self.disk.root(), MinFree::default()).map_or(0, |space| space.total);
        let mut left = bytes.saturating_add((total / 100).max(LEAST_ROOM));
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
        evicted > 0 || has_given_up
    }

    /// Writes so much; where the disk is full, again when other content has made room for it. Blocks.
    pub(super) fn write_with_room<T>(
        &self,
        bytes: u64,
        mut write: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut tries = 0..TRIES;
        loop {
            match write() {
                Err(error) if is_full(&error) && tries.next().is_some() && self.make_space(bytes) => {}
                written => return written,
            }
        }
    }

    /// What [`Upkeep`] does when the cache comes near its limits.
    pub(super) fn evict_excess(&self) -> io::Result<()> {
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

    /// Evicts for as long as there is an excess, and something to evict.
    fn evict_while(&self, excess: impl Fn() -> u64) -> io::Result<()> {
        let mut busy = HashSet::new();
        self.give_up_partials(self.options.clock.now().saturating_sub(seconds(IDLE)));
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

    /// Gives up what was fetched of files that nobody has read since: it has no name, so no pass finds it. Returns of how many.
    fn give_up_partials(&self, idle_since: Seconds) -> usize {
        let mut files = lock(&self.files);
        let idle: Vec<_> = files
            .partials
            .iter()
            .filter(|(_, partial)| Arc::strong_count(partial) == 1 && partial.is_idle())
            .filter(|(_, partial)| partial.last_read() < idle_since)
            .map(|(_, partial)| PartialKey(partial.content().clone()))
            .collect();
        for key in &idle {
            files.partials.pop(key);
            self.counters.evicted_partials.add(1);
        }
        idle.len()
    }
}
