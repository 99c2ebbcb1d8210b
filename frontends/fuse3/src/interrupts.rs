//! Calls that wait, and the interrupts that may come for them.
//!
//! A call that is ready at its first poll never gets here. An interrupt may come before its call does: it is not kept,
//! but the kernel is told to send it again (`EAGAIN`), which it does for as long as the call has no answer. So each call
//! that waits must be here, even if no interrupt can end it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The calls of a mount that wait, by the number of their message.
#[derive(Default)]
pub(crate) struct Interrupts {
    waiting: Mutex<HashMap<u64, Arc<Notify>>>,
}

/// A call's claim to its interrupt.
pub(crate) struct Expected<'a> {
    interrupts: &'a Interrupts,
    unique: u64,
    come: Arc<Notify>,
}

impl Interrupts {
    /// From now on until it is dropped, the interrupt for this message comes here.
    pub(crate) fn expect(&self, unique: u64) -> Expected<'_> {
        let come = Arc::new(Notify::new());
        self.lock().insert(unique, Arc::clone(&come));
        Expected { interrupts: self, unique, come }
    }

    /// Interrupts the call of a message; whether it is here.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        match self.lock().get(&unique) {
            Some(come) => {
                come.notify_one();
                true
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected<'_> {
    /// Returns when the interrupt has come, even if it did so before.
    pub(crate) async fn come(&self) {
        self.come.notified().await;
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.interrupts.lock().remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn interrupts_come_to_the_call_that_waits() {
        let interrupts = Interrupts::default();
        assert!(!interrupts.interrupt(7), "too early");
        let call = interrupts.expect(7);
        assert!(interrupts.interrupt(7) && !interrupts.interrupt(8));
        call.come().await;
        drop(call);
        assert!(!interrupts.interrupt(7), "too late");
    }
}
