//! Keeping the caches of backends clean: near their limits always, by age on a schedule.
//!
//! One cleaner for each cache, however many mounts share it. What to evict, and what not to, is the cache's business
//! ([`aysfs_store::cache`]); what it came to is told here, to the log and to who asks over the control socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aysfs_config::{ByteSize, MinFree, Schedule};
use aysfs_store::Cache;
use aysfs_store::cache::{self, CleanMode, Inventory, Limits, Upkeep};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::jobs::{Job, WallClock};

/// How the cache of a backend is kept clean.
#[derive(Clone, Debug)]
pub(crate) struct Cleaning {
    pub(crate) limits: Limits,
    pub(crate) schedule: Schedule,
}

impl Cleaning {
    pub(crate) fn new(
        schedule: Schedule,
        older_than: Option<Duration>,
        size: Option<ByteSize>,
        min_free: MinFree,
    ) -> Self {
        let limits = Limits {
            size: size.map(|ByteSize(bytes)| bytes),
            min_free: cache_min_free(min_free),
            older_than,
        };
        Self { limits, schedule }
    }
}

/// The same in the words of the cache.
pub(crate) fn cache_min_free(min_free: MinFree) -> cache::MinFree {
    match min_free {
        MinFree::Percent(percent) => cache::MinFree::Percent(percent),
        MinFree::Bytes(ByteSize(bytes)) => cache::MinFree::Bytes(bytes),
    }
}

/// Keeps one cache clean until it is dropped.
pub(crate) struct Cleaner {
    _job: Job<Cleaned>,
    _upkeep: Upkeep,
}

/// The caches to keep clean, by the directory of their backend.
pub(crate) type Caches = BTreeMap<PathBuf, (Arc<Cache>, Schedule)>;

/// Keeps caches clean from now on.
pub(crate) fn start(caches: Caches) -> Vec<Cleaner> {
    let cleaners = caches.into_iter().map(|(backend, (cache, schedule))| {
        let upkeep = cache.upkeep();
        let clean_all = move || {
            let (cache, backend) = (cache.clone(), backend.clone());
            async move {
                let cleaned = clean(&cache, cache.limits(), CleanMode::Remove).await?;
                if cleaned.evicted_files > 0 {
                    info!(
                        files = cleaned.evicted_files,
                        bytes = cleaned.evicted_bytes,
                        "cleaned the cache in {}",
                        backend.display()
                    );
                }
                Ok(cleaned)
            }
        };
        Cleaner { _job: Job::start("cleaning the cache", schedule, WallClock, clean_all), _upkeep: upkeep }
    });
    cleaners.collect()
}

/// Cleans a cache, now.
pub(crate) async fn clean(cache: &Arc<Cache>, limits: Limits, mode: CleanMode) -> anyhow::Result<Cleaned> {
    let cache = cache.clone();
    let cleaned = tokio::task::spawn_blocking(move || cache.clean(&limits, mode)).await??;
    let cache::Cleaned { files, bytes, evicted_files, evicted_bytes, busy_files, busy_bytes } = cleaned;
    Ok(Cleaned { files, bytes, evicted_files, evicted_bytes, busy_files, busy_bytes })
}

/// Looks at what is in a cache.
pub(crate) async fn inventory(cache: &Arc<Cache>) -> anyhow::Result<Stat> {
    let (looked_at, limits) = (cache.clone(), cache.limits());
    let Inventory { files, bytes, writing, oldest, free, min_free } =
        tokio::task::spawn_blocking(move || looked_at.inventory()).await??;
    Ok(Stat {
        files,
        bytes,
        writing,
        oldest: oldest.map(|age| age.as_secs()),
        free,
        cache_size: limits.size,
        min_free,
        older_than: limits.older_than.map(|age| age.as_secs()),
    })
}

/// What `aysfs cache clean` tells. Sizes are what files take of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cleaned {
    /// What was there.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What went, or would have gone.
    pub(crate) evicted_files: u64,
    pub(crate) evicted_bytes: u64,
    /// What was to go, and is in use.
    pub(crate) busy_files: u64,
    pub(crate) busy_bytes: u64,
}

/// What `aysfs cache stat` tells. Sizes are in bytes, times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What is being written at the moment.
    pub(crate) writing: u64,
    /// How long ago the file was read that was not read for the longest time.
    pub(crate) oldest: Option<u64>,
    /// What is free on the disk.
    pub(crate) free: u64,
    /// The limits.
    pub(crate) cache_size: Option<u64>,
    pub(crate) min_free: u64,
    pub(crate) older_than: Option<u64>,
}

/// Limits in place of those that a cache has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instead {
    /// Seconds since the last read.
    pub(crate) older_than: Option<u64>,
    /// Bytes.
    pub(crate) size: Option<u64>,
    pub(crate) min_free: Option<Free>,
}

/// How much of the disk is to stay free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Free {
    Percent(u8),
    Bytes(u64),
}

impl Instead {
    /// The limits that hold: these where there are any, and the others of `limits`.
    pub(crate) fn of(self, limits: Limits) -> Limits {
        let min_free = self.min_free.map(|free| match free {
            Free::Percent(percent) => cache::MinFree::Percent(percent),
            Free::Bytes(bytes) => cache::MinFree::Bytes(bytes),
        });
        Limits {
            older_than: self.older_than.map(Duration::from_secs).or(limits.older_than),
            size: self.size.or(limits.size),
            min_free: min_free.unwrap_or(limits.min_free),
        }
    }
}
