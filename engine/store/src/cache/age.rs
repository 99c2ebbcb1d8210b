//! When content was read last.
//!
//! The kernel's own access times lie: on most systems they are a day late (`relatime`) or never change (`noatime`), and whoever
//! copies the cache directory changes them all. So each open file remembers the second of its last read, and the mtime of
//! the file in the directory, which means nothing else, is set to it now and then: when the file is closed, and once an hour while
//! it is in use. That survives a restart, and other processes with the same directory see it. The seal names the mtime, so that
//! it is renewed with it, if it was whole until then (see [`Seal`](super::seal::Seal)).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, in seconds since 1970.
pub(super) type Seconds = u32;

/// What time it is, to the second: cheap enough to be asked at every read. Tests move theirs.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead: Arc<AtomicI64>,
}

impl Clock {
    pub(super) fn now(&self) -> Seconds {
        let now = clock_gettime(ClockId::RealtimeCoarse).tv_sec + self.ahead.load(Ordering::Relaxed);
        Seconds::try_from(now.max(0)).unwrap_or(Seconds::MAX)
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.ahead.fetch_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// A time as a difference of moments.
pub(super) fn seconds(time: Duration) -> Seconds {
    Seconds::try_from(time.as_secs()).unwrap_or(Seconds::MAX)
}

/// The last read of an open file.
#[derive(Debug)]
pub(super) struct LastRead {
    clock: Clock,
    at: AtomicU32,
    /// What the file says in the directory.
    noted: AtomicU32,
}

impl LastRead {
    /// Of a file that is opened to be read.
    pub(super) fn new(clock: &Clock, noted: Seconds) -> Self {
        Self { at: AtomicU32::new(clock.now()), noted: AtomicU32::new(noted), clock: clock.clone() }
    }

    /// It is read now.
    pub(super) fn touch(&self) {
        let now = self.clock.now();
        // Mostly it is known: what is not written does not move from one core to the other.
        if self.at.load(Ordering::Relaxed) != now {
            self.at.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn at(&self) -> Seconds {
        self.at.load(Ordering::Relaxed)
    }

    /// When it was, if the directory is more than `tolerance` behind.
    pub(super) fn unnoted(&self, tolerance: Duration) -> Option<Seconds> {
        let at = self.at();
        let behind = u64::from(at.saturating_sub(self.noted.load(Ordering::Relaxed)));
        (behind > tolerance.as_secs()).then_some(at)
    }

    /// The directory knows this one now.
    pub(super) fn note(&self, at: Seconds) {
        self.noted.store(at, Ordering::Relaxed);
    }
}
