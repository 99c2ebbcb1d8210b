//! How much of a pack is fetched beside what was asked for.
//!
//! Packs are in the order of the tree, so what is read next often lies behind. Like the kernel's readahead for files: who asks for what is
//! behind the last window gets one of twice the size, and when he is half through it the next one is begun, before he has to
//! wait for it. Who asks for something elsewhere gets more if the last window was of use: a program that starts reads here and
//! there, but much of a pack before long; one that looks up single files does not.

use std::ops::Range;

/// The first window, in bytes: of a link of 1 Gbit/s it takes 4 ms.
const FIRST: u64 = 512 << 10;

/// The largest.
const LARGEST: u64 = 4 << 20;

/// Who skips no more than this is still reading in order.
const SKIP: u64 = 128 << 10;

/// A window with this many reads was worth more than was fetched.
const OF_USE: u32 = 2;

/// What was asked of one pack until now.
#[derive(Debug, Default)]
pub(super) struct Readahead {
    /// The size of the last window, and where it ends.
    size: u64,
    end: u64,
    /// Reads since then that found what they wanted.
    hits: u32,
}

impl Readahead {
    /// A part is missing: up to where to fetch from it on.
    pub(super) fn miss(&mut self, missing: &Range<u64>, length: u64) -> u64 {
        let is_in_order = (self.end..=self.end + SKIP).contains(&missing.start) && self.end > 0;
        if is_in_order || self.hits >= OF_USE {
            self.size *= 2;
        }
        self.size = self.size.clamp(FIRST, LARGEST);
        self.hits = 0;
        self.end = missing.start.saturating_add(self.size).min(length).max(missing.end);
        self.end
    }

    /// A part was there: what to fetch next, if this is a reader in order who has come near the end of the last window.
    pub(super) fn hit(&mut self, part: &Range<u64>, length: u64) -> Option<Range<u64>> {
        self.hits = self.hits.saturating_add(1);
        let is_near = part.start < self.end && part.end > self.end.saturating_sub(self.size / 2);
        if !is_near || self.end >= length {
            return None;
        }
        self.size = (self.size * 2).clamp(FIRST, LARGEST);
        let next = self.end..self.end.saturating_add(self.size).min(length);
        self.end = next.end;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 16 << 20;

    /// Reads `parts` in order; returns the windows, and how often a reader had to wait for one.
    fn read(parts: impl Iterator<Item = Range<u64>>) -> (Vec<Range<u64>>, usize) {
        let mut readahead = Readahead::default();
        let (mut windows, mut misses): (Vec<Range<u64>>, _) = (Vec::new(), 0);
        for part in parts {
            let is_there = |at: u64| windows.iter().any(|window| window.contains(&at));
            if is_there(part.start) && is_there(part.end - 1) {
                windows.extend(readahead.hit(&part, LENGTH));
            } else {
                misses += 1;
                windows.push(part.start..readahead.miss(&part, LENGTH));
            }
        }
        (windows, misses)
    }

    #[test]
    fn who_reads_in_order_waits_once() {
        let (windows, misses) = read((0..LENGTH / 1000).map(|n| n * 1000..(n + 1) * 1000));
        assert_eq!((misses, windows[0].end), (1, FIRST));
        assert!(windows.len() < 8, "{windows:?}");
        assert!(windows.is_sorted_by(|a, b| a.end == b.start));
    }

    #[test]
    fn who_skips_a_little_still_reads_in_order() {
        let (windows, misses) = read((0..LENGTH / 100_000).map(|n| n * 100_000..n * 100_000 + 1000));
        assert!(misses <= 2 && windows.len() < 10, "{misses} {windows:?}");
    }

    #[test]
    fn who_looks_up_single_files_gets_no_more_each_time() {
        let (windows, _) = read((0..8).map(|n| (3 * n % 8) * (2 << 20)).map(|at| at..at + 1000));
        assert!(windows.iter().all(|window| window.end - window.start == FIRST), "{windows:?}");
    }

    #[test]
    fn who_reads_much_here_and_there_gets_more_and_more() {
        let mut places: Vec<_> = (0..200).map(|n| n * 40_000).collect();
        fastrand::Rng::with_seed(3).shuffle(&mut places);
        let (windows, misses) = read(places.into_iter().map(|at| at..at + 1000));
        assert!(misses < 20, "{misses} {windows:?}");
    }

    #[test]
    fn a_part_that_is_larger_than_a_window_is_one() {
        let mut readahead = Readahead::default();
        assert_eq!(readahead.miss(&(10..(6 << 20)), LENGTH), 6 << 20);
        assert_eq!(readahead.miss(&(LENGTH - 5..LENGTH), LENGTH), LENGTH);
    }
}
