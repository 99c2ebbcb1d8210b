//! Jobs on a simulated clock.

mod weeks;

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::bail;
use futures::poll;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, Semaphore};

use super::*;

/// A clock that is always as late as those who wait for it want it to be, until it stands still.
#[derive(Clone)]
struct SimulatedClock(Arc<State>);

struct State {
    now: Mutex<Zoned>,
    end: Zoned,
    is_over: Notify,
}

impl SimulatedClock {
    fn new(start: Zoned, end: Zoned) -> Self {
        Self(Arc::new(State { now: Mutex::new(start), end, is_over: Notify::new() }))
    }

    fn set(&self, now: Zoned) {
        *self.0.now.lock().expect("not poisoned") = now;
    }

    fn pass(&self, time: &str) {
        let now = self.now() + time.parse::<SignedDuration>().expect("a duration");
        self.set(now);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Zoned {
        self.0.now.lock().expect("not poisoned").clone()
    }

    async fn sleep_until(&self, moment: &Zoned) {
        if *moment > self.0.end {
            self.0.is_over.notify_one();
            std::future::pending::<()>().await;
        }
        self.set(moment.clone());
    }
}

fn at(text: &str) -> Zoned {
    text.parse::<DateTime>().expect("a time").to_zoned(TimeZone::UTC).expect("in range")
}

fn schedule(text: &str) -> Schedule {
    text.parse().expect("a schedule")
}

/// The moments of a day at which a job begins that does `work` each time.
async fn moments(text: &str, mut work: impl FnMut(&SimulatedClock, usize) + Send + 'static) -> Vec<String> {
    let clock = SimulatedClock::new(at("2024-05-01T00:00:00"), at("2024-05-02T00:00:00"));
    let begun = Arc::<Mutex<Vec<String>>>::default();
    let (log, own) = (begun.clone(), clock.clone());
    let job = Job::start("test", schedule(text), clock.clone(), move || {
        let number = {
            let mut log = log.lock().expect("not poisoned");
            log.push(own.now().strftime("%T").to_string());
            log.len()
        };
        work(&own, number);
        async { Ok(()) }
    });
    clock.0.is_over.notified().await;
    job.stop().await;
    std::mem::take(&mut *begun.lock().expect("not poisoned"))
}

#[tokio::test]
async fn a_run_that_takes_longer_than_the_period_is_followed_by_the_next_moment() {
    let long = |clock: &SimulatedClock, _| clock.pass("PT2H30M");
    assert_eq!(moments("0 */6 * * *", |_, _| {}).await, ["06:00:00", "12:00:00", "18:00:00", "00:00:00"]);
    assert_eq!(moments("0 0-6 * * *", long).await, ["01:00:00", "04:00:00", "00:00:00"]);
    assert_eq!(moments("@every 9h", long).await, ["09:00:00", "20:30:00"], "so long after the last run");
}

#[tokio::test]
async fn moments_that_a_suspended_machine_missed_are_one_run() {
    // The clock goes on where the machine is awake again, in the middle of an hour.
    let sleepy = |clock: &SimulatedClock, number| match number {
        2 => clock.pass("PT20H30M"),
        _ => {}
    };
    assert_eq!(moments("0 * * * *", sleepy).await, ["01:00:00", "02:00:00", "23:00:00", "00:00:00"]);

    // While it waits.
    let clock = SimulatedClock::new(at("2024-05-01T00:00:00"), at("2024-05-01T00:30:00"));
    let mut agenda = Agenda::new(schedule("0 * * * *"), clock.clone());
    assert!(poll!(pin!(agenda.due())).is_pending());
    clock.set(at("2024-05-01T05:12:00"));
    assert!(poll!(pin!(agenda.due())).is_ready());
    agenda.begin_anew();
    assert_eq!(agenda.next, Some(at("2024-05-01T06:00:00")));
}

#[tokio::test]
async fn a_clock_that_is_set_back_neither_doubles_a_moment_nor_stops_the_job() {
    let clock = SimulatedClock::new(at("2024-05-01T11:59:30"), at("2024-05-01T13:00:00"));
    let mut agenda = Agenda::new(schedule("0 * * * *"), clock.clone());
    agenda.due().await;
    clock.set(at("2024-05-01T11:59:40"));
    agenda.begin_anew();
    assert_eq!(agenda.next, Some(at("2024-05-01T13:00:00")), "it was 12 already");

    clock.set(at("2014-05-01T00:10:00"));
    agenda.due().await;
    assert_eq!(clock.now(), at("2014-05-01T01:00:00"), "and not ten years later");
}

#[tokio::test]
async fn a_failure_and_a_panic_are_told_and_the_schedule_goes_on() {
    let clock = SimulatedClock::new(at("2024-05-01T00:00:00"), at("2024-05-01T00:00:00"));
    let runs = Arc::<AtomicUsize>::default();
    let count = runs.clone();
    let job = Job::start("test", schedule("@hourly"), clock, move || {
        let run = count.fetch_add(1, Ordering::Relaxed);
        async move {
            match run {
                0 => bail!("no luck"),
                1 => panic!("worse"),
                _ => Ok(run),
            }
        }
    });
    let asking = job.asking();
    let told = asking.run_now().await.expect_err("it fails");
    assert_eq!(told.to_string(), "no luck");
    let told = asking.run_now().await.expect_err("it panics");
    assert_eq!(told.to_string(), "it panicked: this is a bug of aysfs");
    assert_eq!(asking.run_now().await.expect("it works"), 2);
}

#[tokio::test]
async fn who_asks_gets_a_run_that_begins_after_he_has_asked() {
    let clock = SimulatedClock::new(at("2024-05-01T00:00:00"), at("2024-05-01T00:00:00"));
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let runs = Arc::<AtomicUsize>::default();
    let job = {
        let (begun, gate, runs) = (begun.clone(), gate.clone(), runs.clone());
        Job::start("test", schedule("@hourly"), clock, move || {
            let (begun, gate) = (begun.clone(), gate.clone());
            let run = runs.fetch_add(1, Ordering::Relaxed);
            async move {
                begun.add_permits(1);
                gate.acquire().await.expect("open").forget();
                Ok(run)
            }
        })
    };
    let asking = job.asking();
    let first = tokio::spawn({
        let asking = asking.clone();
        async move { asking.run_now().await }
    });
    begun.acquire().await.expect("open").forget();
    let [mut second, mut third] = [(); 2].map(|()| Box::pin(asking.run_now()));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    gate.add_permits(1);
    assert_eq!(first.await.expect("asked").expect("done"), 0);
    begun.acquire().await.expect("open").forget();
    gate.add_permits(1);
    assert_eq!((second.await.expect("done"), third.await.expect("done")), (1, 1), "one run for both");

    let fourth = asking.run_now();
    let mut fourth = pin!(fourth);
    assert!(poll!(&mut fourth).is_pending());
    begun.acquire().await.expect("open").forget();
    job.stop().await;
    assert_eq!(fourth.await.expect_err("given up").to_string(), "test: this process is about to end");
    asking.run_now().await.expect_err("it has ended");
    assert_eq!(runs.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_wall_clock_does_not_wait_for_the_past() {
    let now = WallClock.now();
    WallClock.sleep_until(&(&now - SignedDuration::from_hours(1))).await;
    let soon = &now + SignedDuration::from_millis(20);
    WallClock.sleep_until(&soon).await;
    assert!(WallClock.now() >= soon);
}
