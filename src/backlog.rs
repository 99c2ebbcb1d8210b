//! What waits to be pushed, as `aysfs status`, `/metrics` and the status page tell it.

use std::sync::Weak;
use std::time::{Duration, SystemTime};

use aysfs_engine::push::{PushStatus, Pusher};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::about::About;

/// How long local changes are looked at.
const PATIENCE: Duration = Duration::from_secs(1);

/// For how long what was found is told again.
const FRESH: Duration = Duration::from_secs(1);

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
    /// What waits, of a mount that is pushed: its local changes are looked at, unless somebody has done so a moment ago. Where that takes
    /// long, what was known before is told.
    pub(crate) async fn now(about: &About) -> Option<Self> {
        let pusher = about.pusher.as_ref().and_then(Weak::<Pusher>::upgrade)?;
        Some(match timeout(PATIENCE, pusher.status(FRESH)).await {
            Ok(Ok(status)) => Self::of(status),
            Ok(Err(error)) => Self { why: Some(format!("{error:#}")), ..Self::of(pusher.known()) },
            Err(_) => Self::of(pusher.known()),
        })
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
