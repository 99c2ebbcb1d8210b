//! What waits to be pushed, as `aysfs status`, `/metrics` and the status page tell it.

use std::sync::Weak;
use std::time::SystemTime;

use aysfs_engine::push::{PushStatus, Pusher};
use serde::{Deserialize, Serialize};

use crate::about::About;

/// What waits at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backlog {
    /// Files whose last content is not in the stor yet.
    pub(crate) pending: u64,
    /// How long ago the oldest of them was changed.
    pub(crate) oldest_seconds: Option<u64>,
    /// Why they were left behind.
    pub(crate) why: Option<String>,
    /// How long ago a push succeeded last.
    #[serde(default)]
    pub(crate) pushed_seconds: Option<u64>,
    /// The version of the flist that was pushed last.
    #[serde(default)]
    pub(crate) version: Option<u64>,
}

impl Backlog {
    /// What waits now, of a mount that is pushed: its local changes are looked at.
    pub(crate) async fn now(about: &About) -> Option<Self> {
        let pusher = about.pusher.as_ref().and_then(Weak::upgrade)?;
        Some(match pusher.status().await {
            Ok(status) => Self::of(status),
            Err(error) => Self { why: Some(format!("{error:#}")), ..Self::of(pusher.known()) },
        })
    }

    /// What was found to wait by whoever looked last.
    pub(crate) fn known(about: &About) -> Option<Self> {
        let pusher = about.pusher.as_ref().and_then(Weak::<Pusher>::upgrade)?;
        Some(Self::of(pusher.known()))
    }

    fn of(status: PushStatus) -> Self {
        let since = |moment| SystemTime::now().duration_since(moment).unwrap_or_default().as_secs();
        let oldest = status.pending.first();
        Self {
            pending: status.pending.len() as u64,
            oldest_seconds: oldest.map(|file| since(file.since)),
            why: status.last_error.or_else(|| oldest.and_then(|file| file.why.clone())),
            pushed_seconds: status.last_success.map(since),
            version: status.version,
        }
    }
}
