//! Buffers that are used again: chunks are large, and who asks the system for fresh memory for each pays for every page of it.

use std::sync::Mutex;

use super::lock;

/// How many are kept, and how large they may be.
const KEPT: usize = 4;
const LARGEST: usize = 4 << 20;

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for so many bytes.
    pub(super) fn take(&self, bytes: u64) -> Vec<u8> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(LARGEST);
        let mut free = lock(&self.0);
        // The smallest that is large enough, or else the largest.
        let fit = (0..free.len()).min_by_key(|n| {
            let capacity = free[*n].capacity();
            (capacity < bytes, if capacity < bytes { usize::MAX - capacity } else { capacity })
        });
        let mut buffer = fit.map(|n| free.swap_remove(n)).unwrap_or_default();
        drop(free);
        buffer.reserve(bytes);
        buffer
    }

    /// Gives one back.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = lock(&self.0);
        if free.len() < KEPT && (1..=LARGEST).contains(&buffer.capacity()) {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_fits_is_used_again() {
        let buffers = Buffers::default();
        for bytes in [10_000, 1_000_000, 100_000] {
            buffers.give(Vec::with_capacity(bytes));
        }
        assert_eq!(buffers.take(50_000).capacity(), 100_000);
        assert_eq!(buffers.take(50_000).capacity(), 1_000_000);
        assert!(buffers.take(50_000).capacity() >= 50_000);
        buffers.give(Vec::with_capacity(LARGEST + 1));
        assert_eq!(buffers.take(1).capacity(), Vec::<u8>::with_capacity(1).capacity().max(8), "a fresh one");
    }
}
