//! What was asked of each stor of a mirror, and how it answered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Outcome;

/// Totals of one stor since its mirror was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorStats {
    /// [`Store::name`](crate::Store::name).
    pub name: String,
    /// Chunks that it was asked for, each time it was asked.
    pub requests: u64,
    /// Those of them that it had failed to give before.
    pub retries: u64,
    /// Stored bytes that arrived from it.
    pub bytes: u64,
    /// Requests that it did not answer as a stor should. That it does not have an object is an answer.
    pub failures: u64,
    /// Bodies that were not what they should be.
    pub verification_failures: u64,
    /// Whether others are asked before it, since it failed not long ago.
    pub stands_back: bool,
}

/// Whether a stor is asked for something once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    First,
    Again,
}

/// The running totals.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    requests: AtomicU64,
    retries: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    verification_failures: AtomicU64,
}

impl Traffic {
    pub(super) fn asked(&self, asked: Asked) {
        self.requests.fetch_add(1, Relaxed);
        if asked == Asked::Again {
            self.retries.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn received(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => {}
            Outcome::Failed => {
                self.failures.fetch_add(1, Relaxed);
            }
            Outcome::Corrupt => {
                self.verification_failures.fetch_add(1, Relaxed);
            }
        }
    }

    pub(super) fn stats(&self, name: &str, stands_back: bool) -> StorStats {
        StorStats {
            name: name.to_owned(),
            requests: self.requests.load(Relaxed),
            retries: self.retries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            verification_failures: self.verification_failures.load(Relaxed),
            stands_back,
        }
    }
}
