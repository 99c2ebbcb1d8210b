//! Which requests are under way, so that an interrupt finds the one it is about.
//!
//! The kernel sends an interrupt while a request is anywhere: not yet looked at by another thread, on its first poll,
//! waiting on the runtime, or answered a moment ago (Documentation/filesystems/fuse/fuse.rst, "Interrupting filesystem
//! operations"). Each request is noted before its first poll and taken off after its answer, so what is not noted is one
//! of the two ends, and the kernel is asked to try again: it knows which.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::{AbortHandle, JoinHandle};

/// What an interrupt does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// It ends it, if it waits.
    EndIt,
    /// Nothing: an answer that the caller does not get would leave it guessing what has happened.
    AreIgnored,
}

/// What an interrupt has to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is dealt with.
    Yes,
    /// Nobody knows that request, yet or any more.
    No,
}

/// The requests of a mount that have no answer yet, by the kernel's number.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<HashMap<u64, Stage>>);

#[derive(Debug)]
enum Stage {
    /// Not to be interrupted.
    Immune,
    /// On its first poll.
    Polled,
    /// On the runtime.
    Waiting(AbortHandle),
    /// Ended by an interrupt, or about to be.
    Interrupted,
}

impl Requests {
    /// Notes a request that was read.
    pub(crate) fn begin(&self, number: u64, interrupts: Interrupts) {
        let stage = match interrupts {
            Interrupts::EndIt => Stage::Polled,
            Interrupts::AreIgnored => Stage::Immune,
        };
        self.lock().insert(number, stage);
    }

    /// Notes that a request waits. Without effect if it has been answered meanwhile.
    pub(crate) fn wait(&self, number: u64, task: &JoinHandle<()>) {
        let mut requests = self.lock();
        match requests.get_mut(&number) {
            Some(stage @ Stage::Polled) => *stage = Stage::Waiting(task.abort_handle()),
            Some(Stage::Interrupted) => {
                drop(requests);
                task.abort();
            }
            Some(Stage::Immune | Stage::Waiting(_)) | None => {}
        }
    }

    /// Ends a request that waits, or that turns out to.
    pub(crate) fn interrupt(&self, number: u64) -> Found {
        let mut requests = self.lock();
        let Some(stage) = requests.get_mut(&number) else { return Found::No };
        if let Stage::Immune = stage {
            return Found::Yes;
        }
        let before = std::mem::replace(stage, Stage::Interrupted);
        // A task that is dropped comes back here.
        drop(requests);
        if let Stage::Waiting(task) = before {
            task.abort();
        }
        Found::Yes
    }

    /// Whether an interrupt has ended a request.
    pub(crate) fn interrupted(&self, number: u64) -> bool {
        matches!(self.lock().get(&number), Some(Stage::Interrupted))
    }

    /// Takes a request off that was answered.
    pub(crate) fn end(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::runtime::Runtime;

    use super::*;

    const NUMBER: u64 = 8;

    fn waiting(runtime: &Runtime) -> JoinHandle<()> {
        runtime.spawn(pending())
    }

    fn was_aborted(runtime: &Runtime, task: JoinHandle<()>) -> bool {
        runtime.block_on(task).expect_err("it never ends by itself").is_cancelled()
    }

    #[test]
    fn a_waiting_request_is_ended() {
        let runtime = Runtime::new().expect("a runtime");
        let requests = Requests::default();
        requests.begin(NUMBER, Interrupts::EndIt);
        let task = waiting(&runtime);
        requests.wait(NUMBER, &task);
        assert!(!requests.interrupted(NUMBER));
        assert_eq!(requests.interrupt(NUMBER), Found::Yes);
        assert!(requests.interrupted(NUMBER) && was_aborted(&runtime, task));
    }

    #[test]
    fn an_interrupt_on_the_first_poll_ends_the_request_if_it_has_to_wait() {
        let runtime = Runtime::new().expect("a runtime");
        let requests = Requests::default();
        requests.begin(NUMBER, Interrupts::EndIt);
        assert_eq!(requests.interrupt(NUMBER), Found::Yes);
        let task = waiting(&runtime);
        requests.wait(NUMBER, &task);
        assert!(was_aborted(&runtime, task));
    }

    #[test]
    fn only_known_requests_are_found() {
        let requests = Requests::default();
        assert_eq!(requests.interrupt(NUMBER), Found::No);
        requests.begin(NUMBER, Interrupts::EndIt);
        requests.end(NUMBER);
        assert_eq!(requests.interrupt(NUMBER), Found::No);
    }

    #[test]
    fn a_request_that_is_not_to_be_interrupted_goes_on() {
        let runtime = Runtime::new().expect("a runtime");
        let requests = Requests::default();
        requests.begin(NUMBER, Interrupts::AreIgnored);
        let task = waiting(&runtime);
        requests.wait(NUMBER, &task);
        assert_eq!(requests.interrupt(NUMBER), Found::Yes);
        assert!(!requests.interrupted(NUMBER) && !task.is_finished());
        task.abort();
    }

    #[test]
    fn a_request_that_was_answered_before_it_was_known_to_wait_leaves_nothing() {
        let runtime = Runtime::new().expect("a runtime");
        let requests = Requests::default();
        requests.begin(NUMBER, Interrupts::EndIt);
        let task = waiting(&runtime);
        requests.end(NUMBER);
        requests.wait(NUMBER, &task);
        assert!(requests.lock().is_empty());
        task.abort();
    }
}
