//! Several stors with the same objects.

use std::sync::Arc;

use crate::Store;

/// Stors that hold the same objects.
#[derive(Debug)]
pub struct Mirror {
    stors: Vec<Arc<dyn Store>>,
}

/// How a stor did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gave the right bytes.
    Good,
    /// It gave none.
    Failed,
    /// It gave wrong ones.
    Corrupt,
}

impl Mirror {
    /// Those of `stors`.
    pub fn new(stors: Vec<Arc<dyn Store>>) -> Self {
        Self { stors }
    }

    /// All of them, the one to ask first at the front.
    pub fn in_order(&self) -> Vec<Arc<dyn Store>> {
        self.stors.clone()
    }

    /// Tells how a stor of [`Mirror::in_order`] did.
    pub fn report(&self, stor: &Arc<dyn Store>, outcome: Outcome) {
        tracing::trace!(stor = stor.name(), ?outcome, "used");
    }
}
