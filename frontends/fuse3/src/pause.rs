//! A moment in which a session has a connection, and does nothing with it.
//!
//! fuse3 calls `ready` between the first message and the others, and waits for its return: meanwhile the session's descriptor
//! is open for certain.

use tokio::sync::oneshot;

/// The session's side.
pub(crate) struct Pause {
    begins: oneshot::Sender<()>,
    over: oneshot::Receiver<()>,
}

/// The other side: the pause is over when it is dropped.
pub(crate) struct Paused {
    begins: oneshot::Receiver<()>,
    _over: oneshot::Sender<()>,
}

/// A pause to come.
pub(crate) fn pause() -> (Pause, Paused) {
    let (begin, begins) = oneshot::channel();
    let (_over, over) = oneshot::channel();
    (Pause { begins: begin, over }, Paused { begins, _over })
}

impl Pause {
    /// Begins the pause, and returns when it is over.
    pub(crate) async fn hold(self) {
        if self.begins.send(()).is_ok() {
            // The other side sends nothing, it goes.
            let _ = self.over.await;
        }
    }
}

impl Paused {
    /// Waits until the session is held; false if it will never be.
    pub(crate) async fn session_is_held(&mut self) -> bool {
        (&mut self.begins).await.is_ok()
    }
}
