//! What a mount fetches before anybody reads it: `prefetch` of its config.
//!
//! In the background, beside whatever is asked for, for as long as it is mounted; and again when it shows another flist. It is a
//! convenience: what fails is said once, and not tried again, since whoever reads it fetches it by himself.

use std::path::Path;
use std::sync::Arc;

use aysfs_config::Prefetch;
use aysfs_engine::warm::{Ended, Pace, Progress, StartError, WarmError, Warmed, Warming};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::about::Shows;

/// Fetches what nobody has asked for yet, until it is dropped.
pub(crate) struct Prefetching {
    task: JoinHandle<()>,
    another: Arc<Notify>,
}

impl Prefetching {
    /// Begins at once; nothing if nothing is wanted.
    pub(crate) fn start(what: Prefetch, point: &Path, shows: &Shows) -> Option<Self> {
        let everything = match what {
            Prefetch::None => return None,
            Prefetch::Start => false,
            Prefetch::All => true,
        };
        let another = Arc::<Notify>::default();
        let (point, shows, notified) = (point.to_owned(), shows.clone(), another.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = prefetch(&point, &shows, everything) => notified.notified().await,
                    () = notified.notified() => {}
                }
            }
        });
        Some(Self { task, another })
    }

    /// Whom to tell when another flist is shown.
    pub(crate) fn another(&self) -> Arc<Notify> {
        self.another.clone()
    }

    /// Gives up what is under way.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Prefetching {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn prefetch(point: &Path, shows: &Shows, everything: bool) {
    // Held no longer than it takes: a reload is to drop what it replaces.
    let Some(warming) = shows.warming() else { return };
    match warming.start().await {
        Ok(bytes) => debug!(bytes, "{}: what is read first is here", point.display()),
        Err(error @ StartError::TooLarge { .. }) => {
            info!("{}: what is read first is not prefetched: {error}", point.display());
        }
        Err(error @ StartError::Missing(_)) => {
            warn!("{}: prefetching has ended, and reads fetch by themselves: {error}", point.display());
            return;
        }
    }
    if everything {
        tell(point, warm(&warming).await);
    }
}

async fn warm(warming: &Warming) -> Result<Warmed, WarmError> {
    let progress = Arc::<Progress>::default();
    warming.warm(&[Vec::new()], Pace::Background, &progress).await
}

fn tell(point: &Path, warmed: Result<Warmed, WarmError>) {
    let point = point.display();
    match warmed {
        Ok(Warmed { files, bytes, failed_files: 0, ended: Ended::Complete, .. }) => {
            info!(files, bytes, "{point}: all content is in the cache");
        }
        Ok(Warmed { fetched_files, ended: Ended::Full, .. }) => {
            info!(fetched_files, "{point}: prefetching has ended: there is no more room in the cache");
        }
        Ok(Warmed { failed_files, failed, ended, .. }) => {
            let first = failed.first().map(|failed| failed.why.as_str()).unwrap_or_default();
            warn!(
                failed_files,
                "{point}: prefetching has ended ({ended}), and not everything was fetched: {first}"
            );
        }
        Err(error) => warn!("{point}: not everything is prefetched: {error}"),
    }
}
