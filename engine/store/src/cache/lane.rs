//! How many fetches run at once.
//!
//! The limit is one for each mirror, so that a stor that does not answer holds up nobody but its own readers. A fetch
//! in the queue waits for as long as bytes arrive for those before it, however many they are; only a silent lane
//! makes it give up.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::lock;
use crate::Mirror;

/// The lanes of all mirrors in use.
#[derive(Debug)]
pub(super) struct Lanes {
    width: usize,
    lanes: Mutex<Vec<(Weak<Mirror>, Arc<Lane>)>>,
}

/// The queue before one mirror.
#[derive(Debug)]
pub(super) struct Lane {
    permits: Arc<Semaphore>,
    last_byte: Mutex<Instant>,
}

impl Lanes {
    pub(super) fn new(width: usize) -> Self {
        Self { width, lanes: Mutex::default() }
    }

    pub(super) fn of(&self, mirror: &Arc<Mirror>) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some((_, lane)) = lanes.iter().find(|(known, _)| known.as_ptr() == Arc::as_ptr(mirror)) {
            return lane.clone();
        }
        lanes.retain(|(known, _)| known.strong_count() > 0);
        let lane = Arc::new(Lane {
            permits: Arc::new(Semaphore::new(self.width)),
            last_byte: Mutex::new(Instant::now()),
        });
        lanes.push((Arc::downgrade(mirror), lane.clone()));
        lane
    }
}

impl Lane {
    /// Waits for a place; `None` if nothing moves for as long as `deadline`.
    pub(super) async fn enter(&self, deadline: Duration) -> Option<OwnedSemaphorePermit> {
        let entered = Instant::now();
        let place = self.permits.clone().acquire_owned();
        tokio::pin!(place);
        loop {
            let until = entered.max(self.last_byte()) + deadline;
            if let Ok(place) = timeout_at(until, &mut place).await {
                return place.ok();
            }
            if self.last_byte() + deadline <= Instant::now() {
                return None;
            }
        }
    }

    /// When a byte arrived for any fetch of this lane.
    pub(super) fn last_byte(&self) -> Instant {
        *lock(&self.last_byte)
    }

    /// Notes that a byte arrived.
    pub(super) fn moves(&self) {
        *lock(&self.last_byte) = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::MemStore;

    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_queue_waits_for_as_long_as_bytes_arrive() {
        let mirror = Arc::new(Mirror::new(Arc::new(MemStore::new()), []));
        let lanes = Lanes::new(1);
        let lane = lanes.of(&mirror);
        let place = lane.enter(DEADLINE).await.expect("free");
        let began = Instant::now();
        let queued = lane.enter(DEADLINE);
        tokio::pin!(queued);
        for _ in 0..10 {
            assert!(futures::poll!(&mut queued).is_pending());
            advance(Duration::from_secs(20)).await;
            lanes.of(&mirror).moves();
        }
        assert!(queued.await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(230));
        drop(place);
        assert!(lane.enter(DEADLINE).await.is_some());
    }
}
