//! Failed reads, remembered for a moment.
//!
//! When reading ahead fails, the kernel does not believe it: it asks once more, at once, for the page that the
//! program wants (`filemap_read_folio`). If that were tried again, a program would wait twice as long for a stor as
//! the deadline allows.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aysfs_vfs::Ino;

/// How soon the kernel asks again, at most.
const MOMENT: Duration = Duration::from_millis(100);

/// The reads of a mount that have just failed.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<Ino, Failure>>);

#[derive(Debug)]
struct Failure {
    part: Range<u64>,
    at: Instant,
}

impl Failures {
    /// Notes that a part of a file could not be read.
    pub(crate) fn note(&self, ino: Ino, part: Range<u64>) {
        self.note_at(Instant::now(), ino, part);
    }

    /// Whether a read that begins here is a failed one once more.
    pub(crate) fn knows(&self, ino: Ino, offset: u64) -> bool {
        self.knows_at(Instant::now(), ino, offset)
    }

    fn note_at(&self, now: Instant, ino: Ino, part: Range<u64>) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, failure| failure.is_recent(now));
        failures.insert(ino, Failure { part, at: now });
    }

    fn knows_at(&self, now: Instant, ino: Ino, offset: u64) -> bool {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&ino).is_some_and(|failure| failure.is_recent(now) && failure.part.contains(&offset))
    }
}

impl Failure {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < MOMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_known_where_it_was_and_not_for_long() {
        let (failures, start) = (Failures::default(), Instant::now());
        failures.note_at(start, Ino(7), 4096..8192);
        assert!(failures.knows_at(start, Ino(7), 4096));
        assert!(failures.knows_at(start + MOMENT / 2, Ino(7), 8191));
        assert!(!failures.knows_at(start, Ino(7), 8192), "another part");
        assert!(!failures.knows_at(start, Ino(8), 4096), "another file");
        assert!(!failures.knows_at(start + MOMENT, Ino(7), 4096), "the next read tries again");
        failures.note_at(start + MOMENT, Ino(8), 0..1);
        assert_eq!(failures.0.lock().expect("not poisoned").len(), 1, "what is old is forgotten");
    }
}
