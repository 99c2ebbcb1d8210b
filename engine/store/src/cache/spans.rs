//! Which bytes of a file are there.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes, as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(BTreeMap<u64, u64>);

impl Spans {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // The last that begins at its end, or before, and does not end before it begins.
        while let Some((&known, &known_end)) = self.0.range(..=end).next_back()
            && known_end >= start
        {
            (start, end) = (start.min(known), end.max(known_end));
            self.0.remove(&known);
        }
        self.0.insert(start, end);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|(start, end)| self.insert(*start..*end));
    }

    pub(super) fn remove(&mut self, range: &Range<u64>) {
        while !range.is_empty()
            && let Some((&start, &end)) = self.0.range(..range.end).next_back()
            && end > range.start
        {
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
            if start < range.start {
                self.0.insert(start, range.start);
            }
        }
    }

    /// The first part of a range that is not in it, up to what is; nothing if all of it is.
    pub(super) fn gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let before = self.0.range(..=range.start).next_back();
        let start = before.map_or(range.start, |(_, end)| range.start.max(*end));
        if start >= range.end {
            return None;
        }
        let end = self.0.range(start..range.end).next().map_or(range.end, |(next, _)| *next);
        Some(start..end)
    }

    /// Where the last range ends that begins before; 0 if there is none.
    pub(super) fn end_before(&self, at: u64) -> u64 {
        self.0.range(..at).next_back().map_or(0, |(_, end)| *end)
    }

    pub(super) fn contains(&self, range: &Range<u64>) -> bool {
        self.gap(range).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_bytes_that_were_put_in() {
        const LENGTH: u64 = 40;
        const BYTES: usize = 40;
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let (mut spans, mut bytes) = (Spans::default(), [false; BYTES]);
            for _ in 0..rng.u32(1..12) {
                let (a, b) = (rng.u64(0..=LENGTH), rng.u64(0..=LENGTH));
                let range = a.min(b)..a.max(b);
                let insert = rng.u8(..4) > 0;
                if insert {
                    spans.insert(range.clone())
                } else {
                    spans.remove(&range)
                }
                bytes[usize::try_from(range.start).expect("small")
                    ..usize::try_from(range.end).expect("small")]
                    .fill(insert);
            }
            let has = |at: u64| bytes[usize::try_from(at).expect("small")];
            let ends: Vec<_> = spans.0.iter().flat_map(|(start, end)| [*start, *end]).collect();
            assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
            for start in 0..LENGTH {
                if start > 0 && !has(start) && !has(start - 1) {
                    let before = (0..start).rev().find(|at| has(*at)).map_or(0, |at| at + 1);
                    assert_eq!(spans.end_before(start), before);
                }
                for end in start..=LENGTH {
                    let gap = (start..end)
                        .find(|at| !has(*at))
                        .map(|first| first..(first..end).find(|at| has(*at)).unwrap_or(end));
                    assert_eq!(spans.gap(&(start..end)), gap, "{spans:?} {start}..{end}");
                }
            }
        }
    }
}
