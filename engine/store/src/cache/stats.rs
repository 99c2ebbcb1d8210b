//! What the cache did.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals since the cache was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CacheStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The running totals.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> CacheStats {
                CacheStats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads answered without waiting.
    hits,
    /// Reads that waited for a fetch.
    misses,
    /// Bytes that reads were answered with.
    read_bytes,
    /// Chunks asked of a stor, each time it was asked.
    fetches,
    /// Stored bytes that arrived from stors.
    stored_bytes,
    /// Plain bytes of chunks that were verified.
    plain_bytes,
    /// Rounds over all stors after a round in which each of them failed.
    retries,
    /// Bodies from stors that were not what they should be.
    verification_failures,
    /// Files of the cache hashed again before they were trusted.
    reverified,
    /// Files of the cache that were not what they should be.
    damaged_files,
    /// Chunks kept in memory because the cache directory could not be written.
    read_through,
    /// Incomplete files given up in favour of others.
    evicted_partials,
    /// Files evicted for their age or for room.
    evicted_files,
}

/// A total that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}
