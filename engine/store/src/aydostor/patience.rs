//! How long a call waits, and when it is repeated.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Fault;

/// The patience of one call: it lasts `deadline` from the last byte that moved.
///
/// A failed attempt is repeated after a pause that doubles each time, with jitter so that many readers of a stor
/// that comes back do not return at the same instant. Nothing is repeated that would end after the deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Duration,
    waiting_since: Instant,
    /// Failures since a byte moved.
    failures: u32,
    repeats: u32,
    repeats_max: u32,
}

impl Patience {
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);

    /// At most `repeats_max` repeats, however much arrives between them.
    pub(crate) fn new(deadline: Duration, repeats_max: u32) -> Self {
        Self { deadline, waiting_since: Instant::now(), failures: 0, repeats: 0, repeats_max }
    }

    /// Whether there was more than one attempt.
    pub(crate) fn has_repeated(&self) -> bool {
        self.repeats > 0
    }

    /// What the user has set.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// How much longer to wait for the next byte.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.waiting_since.elapsed())
    }

    /// The wait begins now: time in which nobody asked for a byte does not count.
    pub(crate) fn begin_wait(&mut self) {
        self.waited_since(Instant::now());
    }

    /// The wait began then.
    pub(crate) fn waited_since(&mut self, instant: Instant) {
        self.waiting_since = instant;
    }

    /// A byte moved.
    pub(crate) fn progress(&mut self) {
        self.begin_wait();
        self.failures = 0;
    }

    /// Pauses before the next attempt.
    ///
    /// # Errors
    /// `fault` itself when there is no use in another attempt, or no time for it.
    pub(crate) async fn pause(&mut self, fault: Fault) -> Result<(), Fault> {
        let pause = Self::FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST_PAUSE);
        let pause = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        if !fault.is_transient() || self.repeats == self.repeats_max || pause >= self.left() {
            return Err(fault);
        }
        self.repeats += 1;
        self.failures += 1;
        tracing::debug!(%fault, ?pause, "the stor call is repeated");
        sleep(pause).await;
        Ok(())
    }

    /// Waits for `answer` as long as the patience lasts.
    pub(crate) async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, Fault> {
        tokio::time::timeout(self.left(), answer).await.map_err(|_| Fault::Silent(self.deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> Fault {
        Fault::Unavailable("down".into())
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_end_within_the_deadline() {
        let deadline = Duration::from_secs(30);
        let began = Instant::now();
        let mut patience = Patience::new(deadline, u32::MAX);
        let mut attempts = 1;
        while patience.pause(down()).await.is_ok() {
            attempts += 1;
        }
        assert!(began.elapsed() < deadline);
        assert!((8..=20).contains(&attempts), "{attempts}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_byte_moves() {
        let mut patience = Patience::new(Duration::from_secs(30), u32::MAX);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            patience.pause(down()).await.expect("there is time");
            pauses.push(before.elapsed());
        }
        assert!(pauses[3] > pauses[0] * 2, "{pauses:?}");
        patience.progress();
        let before = Instant::now();
        patience.pause(down()).await.expect("there is time");
        assert!(before.elapsed() <= Patience::FIRST_PAUSE + Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_repeated() {
        let mut patience = Patience::new(Duration::from_secs(30), u32::MAX);
        assert!(patience.pause(Fault::NotFound).await.is_err());
        let mut tired = Patience::new(Duration::from_secs(30), 1);
        assert!(tired.pause(down()).await.is_ok());
        assert!(tired.pause(down()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_deadline() {
        let began = Instant::now();
        let patience = Patience::new(Duration::from_secs(3), 0);
        let answer = patience.wait(std::future::pending::<()>()).await;
        assert!(matches!(answer, Err(Fault::Silent(limit)) if limit == Duration::from_secs(3)));
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
