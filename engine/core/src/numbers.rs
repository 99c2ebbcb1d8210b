//! Which inode number each node of a base has.
//!
//! In the first base that a filesystem shows it is the node's position, plus one. In one that replaces it, what did not change
//! keeps the number that it had, and what is new gets one that was never used. Runs of nodes whose numbers follow each other
//! are kept as one: so what this takes depends on how much two lists differ, not on how long they are.

use std::ops::Range;

use aysfs_flist::Node;
use aysfs_vfs::Ino;

/// The first number of what only a later base has: behind all positions, and behind what a filesystem with local changes
/// counts up from 2^33 for what is made there.
pub(crate) const LATER: u64 = 1 << 40;

/// Of each node its inode number, and back.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// All nodes, in order.
    by_node: Vec<Run>,
    /// The same, sorted by inode number.
    by_ino: Vec<Run>,
    /// Behind all numbers that only later bases have, or had.
    next: u64,
}

/// Nodes that follow each other, and so do their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    node: u32,
    ino: u64,
    length: u32,
}

impl Numbers {
    /// Those of the first base: positions.
    pub(crate) fn first(nodes: usize) -> Self {
        let length = u32::try_from(nodes).expect("an index has less than 2^32 nodes");
        let all = vec![Run { node: 0, ino: Ino::ROOT.0, length }];
        Self { by_ino: all.clone(), by_node: all, next: LATER }
    }

    /// Those that are given, by node, where `None` is to have a number that was never used; no two are the same.
    pub(crate) fn after(before: &Self, kept: &[Option<Ino>]) -> Self {
        let mut next = before.next;
        let inos = kept.iter().map(|kept| match kept {
            Some(ino) => ino.0,
            None => {
                next += 1;
                next - 1
            }
        });
        let mut by_node: Vec<Run> = Vec::new();
        for (node, ino) in (0..).zip(inos) {
            match by_node.last_mut() {
                Some(run) if run.ino + u64::from(run.length) == ino => run.length += 1,
                _ => by_node.push(Run { node, ino, length: 1 }),
            }
        }
        by_node.shrink_to_fit();
        let mut by_ino = by_node.clone();
        by_ino.sort_unstable_by_key(|run| run.ino);
        Self { by_node, by_ino, next }
    }

    /// The number of a node of this base.
    pub(crate) fn ino(&self, node: Node) -> Ino {
        let behind = self.by_node.partition_point(|run| run.node <= node.0);
        let run = &self.by_node[behind.saturating_sub(1)];
        Ino(run.ino + u64::from(node.0 - run.node))
    }

    /// The node with a number, if this base has it.
    pub(crate) fn node(&self, ino: Ino) -> Option<Node> {
        let behind = self.by_ino.partition_point(|run| run.ino <= ino.0);
        let run = self.by_ino.get(behind.checked_sub(1)?)?;
        let offset = u32::try_from(ino.0 - run.ino).ok().filter(|offset| *offset < run.length)?;
        Some(Node(run.node + offset))
    }

    /// The numbers that these have and the others have not.
    pub(crate) fn without(&self, others: &Self) -> Vec<Range<u64>> {
        let mut rest: Vec<Range<u64>> = Vec::new();
        let mut others = others.by_ino.iter().peekable();
        for run in &self.by_ino {
            let (mut at, end) = (run.ino, run.end());
            while at < end {
                match others.peek() {
                    Some(other) if other.end() <= at => drop(others.next()),
                    Some(other) if other.ino <= at => at = other.end(),
                    Some(other) if other.ino < end => {
                        rest.push(at..other.ino);
                        at = other.ino;
                    }
                    _ => {
                        rest.push(at..end);
                        at = end;
                    }
                }
            }
        }
        rest
    }
}

impl Run {
    /// The number behind its last.
    fn end(&self) -> u64 {
        self.ino + u64::from(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(inos: &[u64]) -> Numbers {
        let kept: Vec<_> = inos.iter().map(|ino| Some(Ino(*ino))).collect();
        Numbers::after(&Numbers::first(0), &kept)
    }

    #[test]
    fn each_node_has_its_number_and_each_number_its_node() {
        for inos in [vec![1, 2, 3, 4], vec![1, LATER, 2, 3, 9, 5], vec![1], vec![1, 7, 6, 5, LATER + 3]] {
            let numbers = of(&inos);
            for (node, ino) in (0..).zip(&inos) {
                assert_eq!(numbers.ino(Node(node)), Ino(*ino), "{inos:?}");
                assert_eq!(numbers.node(Ino(*ino)), Some(Node(node)), "{inos:?}");
            }
            for ino in [0, 4, 8, 10, LATER + 1, LATER + 4, u64::MAX] {
                assert_eq!(numbers.node(Ino(ino)).is_some(), inos.contains(&ino), "{inos:?} {ino}");
            }
        }
    }

    #[test]
    fn the_first_base_is_numbered_by_position_and_takes_one_run() {
        let numbers = Numbers::first(1_000_000);
        assert_eq!((numbers.ino(Node(0)), numbers.ino(Node(999_999))), (Ino::ROOT, Ino(1_000_000)));
        assert_eq!(numbers.node(Ino(1_000_000)), Some(Node(999_999)));
        assert_eq!((numbers.node(Ino(0)), numbers.node(Ino(1_000_001))), (None, None));
        let same: Vec<u64> = (1..=1_000_000).collect();
        assert_eq!(of(&same).by_node, numbers.by_node);
    }

    #[test]
    fn numbers_that_are_gone_are_told_and_never_used_again() {
        let first = Numbers::first(3);
        let kept = |inos: &[u64]| -> Vec<_> {
            inos.iter().map(|ino| Some(Ino(*ino)).filter(|ino| ino.0 > 0)).collect()
        };
        let second = Numbers::after(&first, &kept(&[1, 0, 3, 0]));
        assert_eq!([second.ino(Node(1)), second.ino(Node(3))], [Ino(LATER), Ino(LATER + 1)]);
        assert_eq!(first.without(&second), std::iter::once(2..3).collect::<Vec<_>>());
        let third = Numbers::after(&second, &kept(&[1, LATER, 3]));
        assert_eq!(second.without(&third), std::iter::once(LATER + 1..LATER + 2).collect::<Vec<_>>());
        assert_eq!(Numbers::after(&third, &kept(&[1, 0])).ino(Node(1)), Ino(LATER + 2));
        assert!(third.without(&third).is_empty());
        let many = of(&[1, 2, 3, 4, 5, LATER, LATER + 1, LATER + 7]);
        let few = of(&[1, LATER + 8, 3, 4, LATER + 1]);
        assert_eq!(many.without(&few), [2..3, 5..6, LATER..LATER + 1, LATER + 7..LATER + 8]);
    }
}
