//! How long ago something was, also if the machine was suspended meanwhile: `std::time::Instant` stands still then, and the
//! clocks of others do not.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A moment since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// This one.
    pub fn now() -> Self {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        // Neither is ever negative.
        let (secs, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
        Self(Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_goes_on_as_fast_as_the_other_clock() {
        let (since, other) = (BootTime::now(), Instant::now());
        while other.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        assert!(since.elapsed() >= Duration::from_millis(2) && since < BootTime::now());
    }
}
