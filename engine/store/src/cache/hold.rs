//! Content that somebody keeps from being evicted.

use std::fmt;
use std::sync::Arc;

use super::packs::{Pack, small};
use super::{Cache, CachedFile, FileKey, lock};

/// Content that is not evicted while this lives: somebody has it open, and reads it through the cache.
pub struct Held {
    cache: Arc<Cache>,
    key: FileKey,
    /// That of a small file: one that is in use stays.
    _pack: Option<Arc<Pack>>,
}

impl CachedFile {
    /// Keeps the content from being evicted, now and when it has been fetched.
    pub fn hold(&self) -> Held {
        let key = FileKey::of(&self.content);
        *lock(&self.cache.files).held.entry(key).or_default() += 1;
        let pack = small(&self.content).and_then(|chunk| self.cache.pack_of(chunk));
        Held { cache: self.cache.clone(), key, _pack: pack }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut files = lock(&self.cache.files);
        if let Some(count) = files.held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                files.held.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("id", &self.key.id).finish_non_exhaustive()
    }
}
