//! Which inodes the kernel holds, of a filesystem that keeps nothing else for them.
//!
//! A base that was replaced is kept as long as the kernel holds a number that only this base knows. So lookups are counted, and
//! `forget` takes them back. What the first base has is counted in an array, of which only those parts exist that were looked
//! at: a count costs one addition. What came later is in a map.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use aysfs_vfs::Ino;

/// How many counts are made at once.
const PART: usize = 512;

/// How many lookups of each inode the kernel holds.
#[derive(Debug)]
pub(crate) struct Held {
    first: Vec<OnceLock<Box<[AtomicU64]>>>,
    later: Mutex<HashMap<Ino, u64>>,
}

impl Held {
    /// Nothing is held; the first base has so many inodes.
    pub(crate) fn new(inodes: usize) -> Self {
        let parts = (inodes + 1).div_ceil(PART);
        Self { first: (0..parts).map(|_| OnceLock::new()).collect(), later: Mutex::default() }
    }

    /// One lookup more.
    pub(crate) fn count(&self, ino: Ino) {
        match self.part(ino) {
            Some((part, at)) => {
                let counts = part.get_or_init(|| (0..PART).map(|_| AtomicU64::new(0)).collect());
                counts[at].fetch_add(1, Ordering::Relaxed);
            }
            None => *self.later().entry(ino).or_default() += 1,
        }
    }

    /// So many lookups less.
    pub(crate) fn forget(&self, ino: Ino, count: u64) {
        match self.part(ino) {
            Some((part, at)) => {
                if let Some(counts) = part.get() {
                    let less = |held: u64| Some(held.saturating_sub(count));
                    counts[at].fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
                }
            }
            None => {
                let mut later = self.later();
                if let Some(held) = later.get_mut(&ino) {
                    *held = held.saturating_sub(count);
                    if *held == 0 {
                        later.remove(&ino);
                    }
                }
            }
        }
    }

    /// Whether the kernel holds it.
    pub(crate) fn is_held(&self, ino: Ino) -> bool {
        match self.part(ino) {
            Some((part, at)) => part.get().is_some_and(|counts| counts[at].load(Ordering::Relaxed) > 0),
            None => self.later().contains_key(&ino),
        }
    }

    /// Those that it holds.
    pub(crate) fn all(&self) -> impl Iterator<Item = Ino> {
        let parts = self.first.iter().enumerate().filter_map(|(n, part)| Some((n, part.get()?)));
        let held = parts.flat_map(|(n, part)| {
            let counts = part.iter().enumerate().filter(|(_, count)| count.load(Ordering::Relaxed) > 0);
            counts.map(move |(at, _)| Ino((n * PART + at) as u64))
        });
        let later: Vec<_> = self.later().keys().copied().collect();
        held.chain(later)
    }

    fn part(&self, ino: Ino) -> Option<(&OnceLock<Box<[AtomicU64]>>, usize)> {
        let ino = usize::try_from(ino.0).ok()?;
        Some((self.first.get(ino / PART)?, ino % PART))
    }

    fn later(&self) -> MutexGuard<'_, HashMap<Ino, u64>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::LATER;

    #[test]
    fn an_inode_is_held_until_all_its_lookups_are_taken_back() {
        let held = Held::new(1000);
        for ino in [Ino(1), Ino(512), Ino(1000), Ino(LATER), Ino(LATER + 1)] {
            assert!(!held.is_held(ino));
            held.forget(ino, 1);
            held.count(ino);
            held.count(ino);
            held.forget(ino, 1);
            assert!(held.is_held(ino), "{ino}");
            held.forget(ino, 1);
            assert!(!held.is_held(ino), "{ino}");
        }
        assert!(held.later().is_empty());
    }
}
