//! A pack while it is made: stored chunks one after the other, in memory.
//!
//! Where a pack ends is decided by what is in it, not by where it began: so after a change somewhere in a tree, the packs behind it
//! are soon the same again.

use super::known::Id;

/// Before this length no pack ends by content.
const SHORTEST: u64 = 8 << 20;

/// No pack becomes longer, unless it is a start pack.
const LONGEST: u64 = 24 << 20;

/// No start pack becomes longer.
const LONGEST_START: u64 = 64 << 20;

/// Of how many bytes beyond the shortest length one ends a pack. With the other two limits, packs have 16 MiB on average.
const BETWEEN_ENDS: u64 = 10 << 20;

/// What a pack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// What is read first: as long as may be, and ended by whoever fills it.
    Start,
    /// Content in the order of the tree.
    Data,
}

/// The pack that is being made.
#[derive(Debug, Default)]
pub(super) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Its length so far.
    pub(super) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether it has to end before a chunk of this length.
    pub(super) fn is_full(&self, stored: u64, purpose: Purpose) -> bool {
        let longest = match purpose {
            Purpose::Start => LONGEST_START,
            Purpose::Data => LONGEST,
        };
        !self.bytes.is_empty() && self.length() + stored > longest
    }

    /// Adds a stored chunk; returns where it begins.
    pub(super) fn add(&mut self, stored: &[u8]) -> u32 {
        if self.bytes.is_empty() {
            // Memory that is not touched is not taken.
            self.bytes.reserve(usize::try_from(LONGEST).unwrap_or_default());
        }
        let offset = self.bytes.len().try_into().expect("a pack is shorter than 4 GiB");
        self.bytes.extend_from_slice(stored);
        offset
    }

    /// Whether it ends after the chunk that was added last.
    pub(super) fn ends_with(&self, id: &Id, stored: u64) -> bool {
        self.length() >= SHORTEST && ends_pack(id, stored)
    }

    /// The bytes of the pack, if there are any; another one begins.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }
}

/// Chosen by content, for one chunk in so many that the next one is some [`BETWEEN_ENDS`] bytes away.
fn ends_pack(id: &Id, stored: u64) -> bool {
    let (choice, _) = id.split_first_chunk().expect("a digest has 32 bytes");
    u128::from(u64::from_le_bytes(*choice)) * u128::from(BETWEEN_ENDS) < u128::from(stored) << 64
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn id(number: u32) -> Id {
        Sha256::digest(number.to_le_bytes()).into()
    }

    /// The packs of chunks of 10 kB, as the numbers that end them.
    fn ends(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u64)> {
        let (mut builder, mut ends) = (Builder::default(), Vec::new());
        let stored = [0; 10_000];
        let mut last = 0;
        for number in numbers {
            if builder.is_full(10_000, Purpose::Data) {
                ends.push((last, builder.end().expect("full").len() as u64));
            }
            last = number;
            builder.add(&stored);
            if builder.ends_with(&id(number), 10_000) {
                ends.push((number, builder.end().expect("not empty").len() as u64));
            }
        }
        ends
    }

    #[test]
    fn packs_have_sixteen_mebibytes_on_average() {
        let ends = ends(0..200_000);
        assert!(ends.iter().all(|(_, length)| (SHORTEST..=LONGEST).contains(length)));
        let average = ends.iter().map(|(_, length)| length).sum::<u64>() / ends.len() as u64;
        assert!((14 << 20..18 << 20).contains(&average), "{average}");
    }

    #[test]
    fn after_a_change_packs_end_where_they_did() {
        let (before, after) = (ends(0..50_000), ends((0..10).chain(20..50_000)));
        let same = before.iter().filter(|end| after.contains(end)).count();
        assert!(same * 10 > before.len() * 8, "{same} of {}", before.len());
    }
}
