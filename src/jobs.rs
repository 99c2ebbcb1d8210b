//! Jobs: work that is done on a schedule, and when somebody asks for it.
//!
//! - A job never overlaps with itself. Moments of its schedule that pass while it runs, or while the machine is suspended, are
//!   not made up for: it is then due at once, and one time only.
//! - Who asks for a run ([`Asking::run_now`]) gets one that begins after he has asked; all who ask while one runs share the
//!   next. The schedule goes on from the end of each run, whatever it was for.
//! - A run that fails, or panics, is logged, and told to those who asked for it. When to try again is the schedule's business,
//!   or the work's own.
//! - A job ends when its [`Job`] is dropped: a run is given up where it waits, so what it does must bear that. What it has
//!   handed to a thread that blocks goes on.
//!
//! The time comes from a [`Clock`], so that a test of a week takes no time.

#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::anyhow;
use aysfs_config::Schedule;
use futures::FutureExt;
use jiff::{SignedDuration, Zoned};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// How often the clock is looked at, at least: a timer does not notice that the clock was set, or that the machine was
/// suspended.
const LOOK: SignedDuration = SignedDuration::from_secs(60);

/// What time it is, for those who wait for a time.
pub(crate) trait Clock: Send + Sync + 'static {
    /// The time, in the time zone that schedules are about.
    fn now(&self) -> Zoned;

    /// Returns at this time, or earlier if the clock was set back or the timer is coarse: whoever waits looks again.
    fn sleep_until(&self, moment: &Zoned) -> impl Future<Output = ()> + Send;
}

/// The clock and the time zone of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Zoned {
        Zoned::now()
    }

    async fn sleep_until(&self, moment: &Zoned) {
        // In the past: at once.
        let left = Duration::try_from(self.now().duration_until(moment)).unwrap_or_default();
        tokio::time::sleep(left).await;
    }
}

/// Work that is done until this is dropped; what a run results in can be had by asking for one.
pub(crate) struct Job<T> {
    task: JoinHandle<()>,
    asking: Asking<T>,
}

/// How to ask a job for a run. Cheap to clone; keeps no job alive.
pub(crate) struct Asking<T> {
    name: &'static str,
    questions: mpsc::WeakSender<Question<T>>,
}

type Question<T> = oneshot::Sender<anyhow::Result<T>>;

impl<T: Clone + Send + 'static> Job<T> {
    /// Does `work` whenever `schedule` says, for the first time at its first moment from now on; without one, only when somebody
    /// asks. `name` is for the log.
    pub(crate) fn start<W, R>(
        name: &'static str,
        schedule: impl Into<Option<Schedule>>,
        clock: impl Clock,
        work: W,
    ) -> Self
    where
        W: FnMut() -> R + Send + 'static,
        R: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        // The queue is short, and who finds it full waits.
        let (sender, questions) = mpsc::channel(16);
        let asking = Asking { name, questions: sender.downgrade() };
        let agenda = Agenda::new(schedule, clock);
        Self { task: tokio::spawn(run(name, agenda, questions, sender, work)), asking }
    }

    /// How to ask it for a run.
    pub(crate) fn asking(&self) -> Asking<T> {
        self.asking.clone()
    }

    /// Gives up a run where it waits, and returns when that is over.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        // It was cancelled, which is what was wanted.
        let _ = (&mut self.task).await;
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T> Asking<T> {
    /// Has the work done from its beginning, after the run that is under way if there is one.
    ///
    /// # Errors
    /// The job's own, and that it has ended.
    pub(crate) async fn run_now(&self) -> anyhow::Result<T> {
        let ended = || anyhow!("{}: this process is about to end", self.name);
        let questions = self.questions.upgrade().ok_or_else(ended)?;
        let (question, answer) = oneshot::channel();
        questions.send(question).await.map_err(|_| ended())?;
        // Else it would keep a job alive that is to end.
        drop(questions);
        answer.await.map_err(|_| ended())?
    }
}

impl<T> Clone for Asking<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, questions: self.questions.clone() }
    }
}

impl<T> fmt::Debug for Asking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The life of a job. It holds one `_sender`, so that the queue of questions stays open for as long as it lives.
async fn run<T, W, R>(
    name: &'static str,
    mut agenda: Agenda<impl Clock>,
    mut questions: mpsc::Receiver<Question<T>>,
    _sender: mpsc::Sender<Question<T>>,
    mut work: W,
) where
    T: Clone,
    W: FnMut() -> R,
    R: Future<Output = anyhow::Result<T>>,
{
    loop {
        let mut asked = Vec::new();
        tokio::select! {
            () = agenda.due() => {}
            question = questions.recv() => asked.extend(question),
        }
        // Who asks from here on has asked after the beginning.
        while let Ok(question) = questions.try_recv() {
            asked.push(question);
        }
        debug!("{name}: begins");
        let result = AssertUnwindSafe(async { work().await }).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(anyhow!("it panicked: this is a bug of aysfs")));
        match &result {
            Ok(_) => debug!("{name}: done"),
            Err(error) => warn!("{name}: {error:#}"),
        }
        for question in asked {
            // One who does not wait any more has no need to know.
            let _ = question.send(match &result {
                Ok(value) => Ok(value.clone()),
                Err(error) => Err(anyhow!("{error:#}")),
            });
        }
        agenda.begin_anew();
    }
}

/// When the next run is due.
struct Agenda<C> {
    /// `None`: only when somebody asks.
    schedule: Option<Schedule>,
    clock: C,
    /// The latest time that the clock has shown.
    seen: Zoned,
    /// `None`: never again.
    next: Option<Zoned>,
}

impl<C: Clock> Agenda<C> {
    fn new(schedule: impl Into<Option<Schedule>>, clock: C) -> Self {
        let (schedule, seen) = (schedule.into(), clock.now());
        let next = schedule.as_ref().and_then(|schedule| schedule.next_after(&seen));
        Self { schedule, clock, seen, next }
    }

    /// The schedule goes on from now.
    fn begin_anew(&mut self) {
        self.look();
        self.next = self.schedule.as_ref().and_then(|schedule| schedule.next_after(&self.seen));
    }

    /// Looks at the clock. One that was set back a little, as somebody does who keeps time, is believed when it has caught up:
    /// no moment comes twice. One that was set back by more was wrong before.
    fn look(&mut self) -> Look {
        let now = self.clock.now();
        if now.duration_until(&self.seen) > LOOK {
            debug!("the clock was set back from {} to {now}", self.seen);
            self.seen = now;
            return Look::SetBack;
        }
        if now > self.seen {
            self.seen = now;
        }
        Look::Goes
    }

    /// Returns when a run is due. Nothing is lost if it is not waited for to the end.
    async fn due(&mut self) {
        loop {
            if self.look() == Look::SetBack {
                self.begin_anew();
            }
            let Some(next) = &self.next else { return std::future::pending().await };
            if self.seen >= *next {
                return;
            }
            let soon = self.seen.checked_add(LOOK).unwrap_or_else(|_| next.clone());
            self.clock.sleep_until(next.min(&soon)).await;
        }
    }
}

/// What somebody finds who looks at a clock again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Goes,
    SetBack,
}
