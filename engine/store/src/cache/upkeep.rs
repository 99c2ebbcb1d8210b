//! The work in the background that keeps a cache within its limits, and what it knows about reads in the directory.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::age::seconds;
use super::clean::is_idle;
use super::{Cache, FileKey, VerifiedFile, lock};
use crate::ContentId;

/// How long a file that nobody reads is kept open.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How often the upkeep looks at what is open and how full the disk is.
pub(super) const TICK: Duration = Duration::from_secs(10);

/// After how many ticks it writes down when files were read that are in use all the time.
const NOTE_EVERY: u32 = 60;

/// How far the times of reads in the directory may be behind, of files that are closed and of those that are in use.
const BEHIND: Duration = Duration::from_secs(60);
const FAR_BEHIND: Duration = Duration::from_secs(3600);

/// The work in the background that keeps a cache within its limits. When it is dropped it ends, and what is known about reads is
/// written down.
pub struct Upkeep {
    cache: Arc<Cache>,
    task: JoinHandle<()>,
}

impl Cache {
    /// Does in the background what keeps the cache within its limits, until it is dropped. Within a tokio runtime.
    pub fn upkeep(self: &Arc<Self>) -> Upkeep {
        let cache = Arc::downgrade(self);
        let wanted = self.eviction_wanted.clone();
        let task = tokio::spawn(async move {
            let (mut is_counted, mut has_failed) = (false, false);
            for tick in 1_u32.. {
                let Some(cache) = cache.upgrade() else { return };
                let kept = tokio::task::spawn_blocking(move || {
                    if !is_counted {
                        cache.inventory()?;
                    }
                    cache.close_idle();
                    if tick.is_multiple_of(NOTE_EVERY) {
                        cache.note_reads(FAR_BEHIND);
                    }
                    cache.evict_excess()
                });
                match kept.await {
                    Ok(Ok(())) => (is_counted, has_failed) = (true, false),
                    // It is tried again; once is enough for the log.
                    Ok(Err(error)) => {
                        if !has_failed {
                            tracing::warn!("the cache cannot be cleaned: {error}");
                        }
                        has_failed = true;
                    }
                    Err(_) => return,
                }
                let _ = tokio::time::timeout(TICK, wanted.notified()).await;
            }
        });
        Upkeep { cache: self.clone(), task }
    }

    /// Closes what nobody has read for a while, so that other processes can see that it is not in use.
    pub(super) fn close_idle(&self) {
        let idle_since = self.options.clock.now().saturating_sub(seconds(IDLE));
        self.packs.close_idle(idle_since, BEHIND);
        let is_unread = |file: &VerifiedFile| file.last_read().at() < idle_since;
        // The ones that were not read for the longest time are at the end.
        let files = lock(&self.files);
        let unread = files.open.iter().rev().take_while(|(_, file)| is_unread(file));
        let unread: Vec<_> = unread.map(|(key, _)| *key).collect();
        drop(files);
        for key in unread {
            // One at a time: others are not to wait for all of them.
            let mut files = lock(&self.files);
            if let Some(file) = files.open.peek(&key)
                && is_idle(file)
                && is_unread(file)
                && !file.is_lent_and_used()
            {
                self.note_read(&key.id, file, BEHIND);
                files.open.pop(&key);
            }
        }
    }

    /// Writes down when the files that are open were read.
    pub(super) fn note_reads(&self, tolerance: Duration) {
        self.packs.note_reads(tolerance);
        let due = |(_, file): &(&FileKey, &Arc<VerifiedFile>)| file.last_read().unnoted(tolerance).is_some();
        let due: Vec<_> = lock(&self.files).open.iter().filter(due).map(|(key, _)| *key).collect();
        for key in due {
            if let Some(file) = lock(&self.files).open.peek(&key).filter(|file| is_idle(file)) {
                self.note_read(&key.id, file, tolerance);
            }
        }
    }

    /// The same of one that is not kept open any more.
    pub(super) fn note_closed(&self, id: &ContentId, file: &Arc<VerifiedFile>) {
        if is_idle(file) {
            self.note_read(id, file, BEHIND);
        }
    }

    /// The same of one that nobody uses, nor can begin to: who does may give it away.
    fn note_read(&self, id: &ContentId, file: &VerifiedFile, tolerance: Duration) {
        if let Some(at) = file.last_read().unnoted(tolerance)
            && !file.is_watched()
        {
            match self.disk.note_read(id, file.file(), at) {
                Ok(()) => file.last_read().note(at),
                Err(error) => tracing::debug!("{id}: cannot note when it was read: {error}"),
            }
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.task.abort();
        self.cache.note_reads(BEHIND);
    }
}

impl fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upkeep").field("cache", &self.cache).finish_non_exhaustive()
    }
}
