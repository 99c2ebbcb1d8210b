//! What programs do with a tree of files, and a tree to do it with: the work that `aysfs bench` and the benchmarks
//! measure.
//!
//! Nothing here knows what lies behind the files, and nothing measures time: each kind of [`work`] is done once in a
//! directory, and returns how much was done.
//!
//! Invariants:
//! - a [`Tree`] of one [`Shape`] is the same in every run, wherever it is;
//! - work that finds something else than it should fails, so that it is not measured;
//! - work under way ends soon after [`Stop::stop`].

mod machine;
mod random;
mod tree;
pub mod work;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

pub use machine::Machine;
pub use random::{Random, source_code};
pub use tree::{Shape, Tree};

/// Ends what is under way, from another thread.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// One that lets everything go on.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Ends it.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if it is to end.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`].
    pub fn check(&self) -> io::Result<()> {
        if self.is_stopped() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}
