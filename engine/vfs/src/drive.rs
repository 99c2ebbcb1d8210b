//! Running a request: inline when it can be answered at once, on the runtime when it has to wait.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Polls `request` once on the calling thread, and moves it to `runtime` only if it is pending.
///
/// `request` must end by sending its own reply. Returns the task of a request that had to wait, which a
/// frontend that sees interrupts may abort: dropping a call of [`Vfs`](crate::Vfs) must never hurt anyone but
/// its caller.
///
/// The first poll runs inside the runtime's context (timers and sockets work) but outside of its scheduler, so
/// a request that is ready costs one allocation and no task switch. A waker that is told of progress between
/// the two polls is not needed: the runtime polls again as soon as the task is spawned.
///
/// A request that panics ends alone, on either thread: what it owned is dropped, so a reply that answers with
/// an error when it is dropped does so, and the thread that serves the mount goes on.
pub fn drive<F>(runtime: &Handle, request: F) -> Option<JoinHandle<()>>
where
    F: Future<Output = ()> + Send + 'static,
{
    match start(runtime, request) {
        Started::Waiting(task) => Some(task),
        Started::Ready(()) | Started::Panicked => None,
    }
}

/// How a request fared at its first poll.
#[derive(Debug)]
pub enum Started<T> {
    /// It is done.
    Ready(T),
    /// It waits, and goes on as this task.
    Waiting(JoinHandle<T>),
    /// It panicked, and is gone.
    Panicked,
}

/// Does what [`drive`] does for a request that returns its reply, for a library that sends it.
pub fn start<F>(runtime: &Handle, request: F) -> Started<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let _inside = runtime.enter();
    let mut request = Box::pin(request);
    let first_poll = || request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    match panic::catch_unwind(AssertUnwindSafe(first_poll)) {
        Ok(Poll::Ready(reply)) => Started::Ready(reply),
        Ok(Poll::Pending) => Started::Waiting(runtime.spawn(request)),
        Err(_) => {
            tracing::error!("a request panicked; it is answered with an error");
            Started::Panicked
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ready_request_runs_on_the_calling_thread() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (sender, receiver) = mpsc::channel();
        let task = drive(runtime.handle(), async move {
            sender.send(thread::current().id()).expect("the receiver waits");
        });
        assert!(task.is_none());
        assert_eq!(receiver.recv().expect("sent"), thread::current().id());
    }

    #[test]
    fn a_panic_ends_the_request_only() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (sender, receiver) = mpsc::channel::<()>();
        let task = drive(runtime.handle(), async move {
            let _owned = sender;
            panic!("a bug in the filesystem");
        });
        assert!(task.is_none());
        receiver.recv().expect_err("what the request owned is dropped");
    }

    #[test]
    fn a_waiting_request_does_not_hold_up_the_caller() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (sender, receiver) = mpsc::channel();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let task = drive(runtime.handle(), async move {
            gate.await.expect("the gate is opened");
            tokio::time::sleep(Duration::from_millis(1)).await;
            sender.send(()).expect("the receiver waits");
        });
        assert!(task.is_some());
        assert!(receiver.try_recv().is_err());
        open.send(()).expect("the request waits");
        receiver.recv().expect("the request ends");
    }
}
