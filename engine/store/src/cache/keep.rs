//! Bringing content into a cache before anybody reads it, and whether there is room for that.

use super::error::{FetchError, Reason};
use super::packs::small;
use super::usage::Space;
use super::{Cache, CachedFile};
use crate::Content;

impl Cache {
    /// Whether a content is kept in its pack, as it is stored, and not in a file of its own.
    pub fn keeps_in_pack(&self, content: &Content) -> bool {
        small(content).is_some()
    }

    /// How much can be added before anything has to be evicted, in bytes, as far as the counters know: exactly after an
    /// [`inventory`](Self::inventory). Asks the disk.
    pub fn spare_room(&self) -> u64 {
        let limits = self.usage.limits();
        let of_size =
            limits.size.map_or(u64::MAX, |size| before_eviction(size).saturating_sub(self.usage.total()));
        // A disk that does not answer cannot be written either.
        let of_disk = Space::of(self.disk.root(), limits.min_free);
        of_size.min(of_disk.map_or(0, |space| space.free.saturating_sub(space.min_free)))
    }

    /// How large it may become before it evicts what was fetched last, in bytes, when it takes `taken` now.
    pub fn capacity(&self, taken: u64) -> u64 {
        let limits = self.usage.limits();
        let of_disk = Space::of(self.disk.root(), limits.min_free);
        let of_disk = of_disk.map_or(0, |space| space.free.saturating_sub(space.min_free));
        limits.size.map_or(u64::MAX, before_eviction).min(taken.saturating_add(of_disk))
    }
}

/// Up to where a cache of this size evicts nothing.
fn before_eviction(size: u64) -> u64 {
    size - size / 16
}

impl CachedFile {
    /// Fetches what is missing, verifies all of it, and leaves it in the cache: to be called when it is to stay there, not to read it.
    ///
    /// # Errors
    /// If no stor gives it, and if the cache cannot keep it.
    pub async fn keep(&self) -> Result<(), FetchError> {
        if small(&self.content).is_none() {
            return self.fetch_all().await.map(drop);
        }
        let length = usize::try_from(self.content.size).unwrap_or(usize::MAX);
        self.read(0, length).await?;
        match self.cache.contains(&self.content) {
            true => Ok(()),
            false => Err(FetchError::new(self.content.id, Reason::NoRoom)),
        }
    }
}
