//! A newer flist for a mount: at SIGUSR1, when `aysfs reload` asks, and on the schedule of `flist_refresh`.
//!
//! All or nothing: the list is fetched and checked as it is at a mount, signature and version included, and compiled; only then is
//! what is shown replaced, and the kernel told what to drop. Whatever goes wrong before, the old list stays.
//!
//! Each mount that has a flist has one [`Job`], so a list is never loaded twice at the same time, and who asks while it is loaded
//! gets what is there after he has asked. A list in a file is not looked at by itself: whoever writes it says when it is whole.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use aysfs_config::Schedule;
use aysfs_engine::load::{self, Request};
use aysfs_engine::{Changes, RebaseError};
use aysfs_store::StorOptions;
use aysfs_vfs::Mount;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::Signal;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::about::Shows;
use crate::jobs::{Asking, Job, WallClock};

/// What a reload has changed: names, in the flists, whether or not local changes hide them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) changed: u64,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, changed } = self;
        match self {
            Self { added: 0, removed: 0, changed: 0 } => f.write_str("unchanged"),
            _ => write!(f, "{added} added, {removed} removed, {changed} changed"),
        }
    }
}

/// What it takes to reload the flist of one mount.
pub(crate) struct Reloading {
    pub(crate) point: PathBuf,
    pub(crate) flist: Request,
    pub(crate) stors: Vec<StorOptions>,
    pub(crate) deadline: Duration,
    /// Directory of the backend.
    pub(crate) backend: PathBuf,
    pub(crate) shows: Shows,
    pub(crate) mount: Weak<dyn Mount>,
    pub(crate) is_gone: Arc<AtomicBool>,
    /// To be told when another list is shown.
    pub(crate) prefetch: Option<Arc<Notify>>,
}

/// Reloads the flist of a mount on a schedule, if there is one, and whenever it is asked.
pub(crate) fn start(reloading: Reloading, refresh: Option<Schedule>) -> Job<Reloaded> {
    let reloading = Arc::new(reloading);
    Job::start("reloading a flist", refresh, WallClock, move || reload(reloading.clone()))
}

async fn reload(of: Arc<Reloading>) -> anyhow::Result<Reloaded> {
    let point = of.point.display();
    if of.is_gone.load(Ordering::Relaxed) {
        return Ok(Reloaded::default());
    }
    let kept = || format!("{point}: the flist that was mounted stays");
    let loaded = load::reload(&of.flist, &of.stors, of.deadline, &of.backend).await.with_context(kept)?;
    let (shows, mount) = (of.shows.clone(), of.mount.clone());
    let rebased = tokio::task::spawn_blocking(move || {
        let load::Loaded { base, acceptance } = loaded;
        let Some(changes) = shows.rebase(base) else { return Ok(Ok(Changes::default())) };
        let changes = changes?;
        if let Err(error) = acceptance.keep() {
            warn!("the new flist is mounted, and cannot be remembered: {error}");
        }
        let told = mount.upgrade().map_or(Ok(()), |mount| changes.tell(&*mount));
        Ok::<_, RebaseError>(told.map(|()| changes))
    });
    let told = rebased.await?.with_context(kept)?;
    let changes = told.with_context(|| {
        format!("{point}: the new flist is mounted, but the kernel may show some of the old one for a day: mount again")
    })?;
    let reloaded = Reloaded { added: changes.added, removed: changes.removed, changed: changes.changed };
    if reloaded != Reloaded::default() {
        info!("{point}: another flist: {reloaded}");
        if let Some(prefetch) = &of.prefetch {
            prefetch.notify_one();
        }
    }
    Ok(reloaded)
}

/// Reloads all of these at each `signal`, until it is dropped.
pub(crate) struct AtSignal(JoinHandle<()>);

impl AtSignal {
    pub(crate) fn start(mut signal: Signal, all: Vec<Asking<Reloaded>>) -> Self {
        Self(tokio::spawn(async move {
            while signal.recv().await.is_some() {
                info!("SIGUSR1: reloading {} flists", all.len());
                // What goes wrong is in the log already.
                join_all(all.iter().map(Asking::run_now)).await;
            }
        }))
    }
}

impl Drop for AtSignal {
    fn drop(&mut self) {
        self.0.abort();
    }
}
