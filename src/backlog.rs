//! What waits to be pushed, as `aysfs status`, `/metrics` and the status page tell it.
//!
//! Whoever pushes a mount implements [`Pushed`], and `mounts.rs` puts it into [`About`](crate::about::About). Nothing here counts or pushes.

use serde::{Deserialize, Serialize};

/// What waits at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backlog {
    /// Files whose last content is not in the stor yet.
    pub(crate) pending: u64,
    /// For how long the oldest of them has been waiting.
    pub(crate) oldest_seconds: Option<u64>,
    /// Why the last push left files behind.
    pub(crate) why: Option<String>,
}

/// A mount whose changes are pushed.
pub(crate) trait Pushed: Send + Sync {
    /// What waits now. It is asked whenever somebody looks: it looks up numbers that are known, and walks no tree.
    fn backlog(&self) -> Backlog;
}
