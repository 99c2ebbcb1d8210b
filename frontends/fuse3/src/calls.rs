//! How a message becomes a call, and the call exactly one answer.

use std::future::Future;
use std::sync::Arc;

use aysfs_vfs::{ErrorKind, Ino, Result, Started, Vfs, kernel, start};
use fuse3::raw::Request;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::interrupts::Interrupts;

/// The calls of a mount.
pub(crate) struct Calls {
    vfs: Arc<dyn Vfs>,
    runtime: Handle,
    interrupts: Interrupts,
}

/// What an interrupt (a signal to the calling program) does to a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Nothing: what the call changes must not be left half done, and programs do not expect that it fails for a signal.
    Finish,
    /// The call is dropped, and the program gets `EINTR`.
    Drop,
}

impl Calls {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, runtime: Handle) -> Self {
        Self { vfs, runtime, interrupts: Interrupts::default() }
    }

    pub(crate) fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    /// Passes on the interrupt for a message; whether its call waits.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        self.interrupts.interrupt(unique)
    }

    /// Runs the call of a message; its error, logged if it has a story, is the answer.
    pub(crate) async fn run<T, F>(
        &self,
        request: Request,
        operation: &'static str,
        ino: u64,
        on_interrupt: OnInterrupt,
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
    ) -> fuse3::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let outcome = match start(&self.runtime, call(Arc::clone(&self.vfs))) {
            Started::Ready(outcome) => outcome,
            Started::Waiting(call) => self.wait(request, call, on_interrupt).await,
            Started::Panicked => Err(ErrorKind::Io.into()),
        };
        outcome.map_err(|error| kernel::errno(operation, Ino(ino), &error).raw_os_error().into())
    }

    async fn wait<T>(
        &self,
        request: Request,
        mut call: JoinHandle<Result<T>>,
        on_interrupt: OnInterrupt,
    ) -> Result<T> {
        let interrupt = self.interrupts.expect(request.unique);
        let ended = tokio::select! {
            ended = &mut call => ended,
            () = interrupt.come(), if on_interrupt == OnInterrupt::Drop => {
                call.abort();
                // It may have ended meanwhile: then what it did is done, and is answered.
                match call.await {
                    Err(gone) if gone.is_cancelled() => return Err(ErrorKind::Interrupted.into()),
                    ended => ended,
                }
            }
        };
        // It panicked, which was reported there; or the runtime of the one who mounted is gone.
        ended.unwrap_or_else(|_| Err(ErrorKind::Io.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use aysfs_vfs::memfs::MemFs;
    use tokio::sync::oneshot;

    use super::*;

    const REQUEST: Request = Request { unique: 2, uid: 0, gid: 0, pid: 0 };

    fn calls() -> Calls {
        Calls::new(Arc::new(MemFs::default()), Handle::current())
    }

    async fn interrupted(calls: &Calls) {
        while !calls.interrupt(REQUEST.unique) {
            tokio::task::yield_now().await;
        }
    }

    fn errno(errno: rustix::io::Errno) -> Option<fuse3::Errno> {
        Some(errno.raw_os_error().into())
    }

    #[tokio::test]
    async fn a_call_that_is_ready_cannot_be_interrupted() {
        let calls = calls();
        let call = calls.run(REQUEST, "read", 1, OnInterrupt::Drop, |_| async { Ok(7) });
        assert_eq!(call.await.ok(), Some(7));
        assert!(!calls.interrupt(REQUEST.unique));
    }

    #[tokio::test]
    async fn an_interrupt_ends_a_call_that_waits() {
        let calls = calls();
        let call = calls.run(REQUEST, "read", 1, OnInterrupt::Drop, |_| pending::<Result<()>>());
        let (answer, ()) = tokio::join!(call, interrupted(&calls));
        assert_eq!(answer.err(), errno(rustix::io::Errno::INTR));
        assert!(!calls.interrupt(REQUEST.unique));
    }

    #[tokio::test]
    async fn a_change_that_waits_is_finished() {
        let calls = calls();
        let (go_on, wait) = oneshot::channel();
        let call = calls.run(REQUEST, "write", 1, OnInterrupt::Finish, |_| async {
            wait.await.map_err(|_| ErrorKind::Io.into())
        });
        let interrupt = async {
            interrupted(&calls).await;
            // Known, so that the kernel does not send it again and again; and without effect.
            interrupted(&calls).await;
            go_on.send(7).expect("it still waits");
        };
        let (answer, ()) = tokio::join!(call, interrupt);
        assert_eq!(answer.ok(), Some(7));
    }

    #[tokio::test]
    async fn a_panic_is_answered() {
        let calls = calls();
        for waits in [false, true] {
            let call = calls.run(REQUEST, "read", 1, OnInterrupt::Drop, |_| async move {
                if waits {
                    tokio::task::yield_now().await;
                }
                panic!("a bug in the filesystem")
            });
            let answer: fuse3::Result<()> = call.await;
            assert_eq!(answer.err(), errno(rustix::io::Errno::IO));
        }
    }
}
