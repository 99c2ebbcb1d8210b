//! Reading through: where chunks go while the cache directory cannot be written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;

/// The unit in which memory is counted.
const PAGE: u64 = 4096;

/// Verified chunks in memory: never more than a fixed amount, those that are still being decoded included.
#[derive(Debug)]
pub(super) struct Memory {
    pages: u32,
    free: Arc<Semaphore>,
    /// The latest ones, oldest first; they make room for new ones.
    kept: Mutex<VecDeque<Arc<MemoryChunk>>>,
}

/// A chunk in memory.
#[derive(Debug)]
pub(super) struct MemoryChunk {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl MemoryChunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(pages as usize));
        Self { pages, free, kept: Mutex::default() }
    }

    /// Whether a chunk of this length can be kept at all.
    pub(super) fn could_hold(&self, length: u64) -> bool {
        length.div_ceil(PAGE) <= u64::from(self.pages)
    }

    /// Waits for room for a chunk of this length; `None` if there can never be enough.
    pub(super) async fn reserve(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        let pages = u32::try_from(length.div_ceil(PAGE)).ok().filter(|pages| *pages <= self.pages)?;
        {
            let mut kept = lock(&self.kept);
            while self.free.available_permits() < pages as usize && kept.pop_front().is_some() {}
        }
        self.free.clone().acquire_many_owned(pages).await.ok()
    }

    /// Gives up all chunks that nobody uses.
    pub(super) fn clear(&self) {
        lock(&self.kept).clear();
    }

    /// Keeps a chunk for as long as the room is not needed for others.
    pub(super) fn keep(&self, bytes: Vec<u8>, room: OwnedSemaphorePermit) -> Arc<MemoryChunk> {
        let chunk = Arc::new(MemoryChunk { bytes, _room: room });
        lock(&self.kept).push_back(chunk.clone());
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn old_chunks_make_room_for_new_ones() {
        let memory = Memory::new(3 * PAGE);
        let mut chunks = Vec::new();
        for n in 0..5 {
            let room = memory.reserve(PAGE).await.expect("room");
            chunks.push(Arc::downgrade(&memory.keep(vec![n; 4096], room)));
        }
        let alive: Vec<_> = chunks.iter().map(|chunk| chunk.upgrade().is_some()).collect();
        assert_eq!(alive, [false, false, true, true, true]);
    }

    #[tokio::test]
    async fn more_than_all_is_never_had() {
        let memory = Memory::new(3 * PAGE);
        assert!(memory.reserve(3 * PAGE).await.is_some());
        assert!(memory.reserve(3 * PAGE + 1).await.is_none());
    }

    #[tokio::test]
    async fn a_chunk_in_use_is_waited_for() {
        let memory = Memory::new(PAGE);
        let room = memory.reserve(1).await.expect("room");
        let used = memory.keep(vec![0], room);
        let waiting = memory.reserve(1);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(used);
        assert!(waiting.await.is_some());
    }
}
