//! Directories of the base that were moved, when the base is a list that was made of these very changes.
//!
//! A redirect is a path of the base that there was when the directory was moved. In a list that a commit has made of it, the
//! directory is where it was moved to, and what is at the old path is something else, or nothing. So a mark of ours tells of
//! which list the path is, and a committed list tells what it was made from and which directories have another path there. Where
//! both are known the path is translated; where one is not (another list, a redirect that the kernel made) it is taken as it
//! is, as the kernel does.

use aysfs_flist::{Ancestor, MAX_ANCESTORS, MAX_MOVED};
use aysfs_vfs::Result;

use super::World;
use super::at::At;
use super::marks::Mark;
use crate::base::Base;

/// Longest path that the kernel takes, with its NUL and the leading `/`.
const PATH_MAX: usize = 4096;

impl World {
    /// Marks a directory, before it is moved, with the path that it has in the base.
    pub(super) fn mark_as_moved(&self, at: &At, path: &[u8]) -> Result<()> {
        // The other one counts only beside the redirect that it names, so a crash in between leaves one that does not count.
        self.upper.set_mark(at, Mark::Redirect, path)?;
        let list = [hex::encode(self.base().index().list_digest()).as_bytes(), b" ", path].concat();
        self.upper.set_mark(at, Mark::List, &list)
    }

    /// The path in a base of what a redirect names; `None` if it leads nowhere.
    pub(super) fn translated(&self, base: &Base, at: &At, redirect: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let Some(mark) = self.upper.mark(at, Mark::List)? else { return Ok(Some(redirect)) };
        let Some(list) = mark.strip_suffix(&*redirect).and_then(|mark| mark.strip_suffix(b" ")) else {
            return Ok(Some(redirect));
        };
        let ancestors = &base.index().header().ancestors;
        let is_it = |sha256: &[u8; 32]| hex::encode(sha256).as_bytes() == list;
        // The newest, if it was the same list twice.
        let Some(first) = ancestors.iter().rposition(|ancestor| is_it(&ancestor.sha256)) else {
            return Ok(Some(redirect));
        };
        let Some(path) = redirect.strip_prefix(b"/") else { return Ok(Some(redirect)) };
        let path = follow_all(path.to_vec(), &ancestors[first..]);
        if path.is_none() {
            tracing::warn!(
                "a redirect in {} leads nowhere: its path in the flist is too long: {}",
                self.upper.path().display(),
                redirect.escape_ascii()
            );
        }
        Ok(path.map(|path| [b"/", &*path].concat()))
    }
}

/// What a list tells of its origin that is made of this base and the changes, where these directories have another path.
pub(crate) fn ancestors(base: &Base, moved: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<Ancestor> {
    let index = base.index();
    let mut ancestors = index.header().ancestors.clone();
    ancestors.push(Ancestor { sha256: index.list_digest(), moved });
    keep_newest(&mut ancestors);
    ancestors
}

/// Forgets the oldest, since a list has room for so many only. A redirect that is a path of one of those means afterwards what it
/// means to the kernel.
fn keep_newest(ancestors: &mut Vec<Ancestor>) {
    let lines =
        |ancestors: &[Ancestor]| ancestors.iter().map(|ancestor| 1 + ancestor.moved.len()).sum::<usize>();
    let mut kept = &ancestors[ancestors.len().saturating_sub(MAX_ANCESTORS)..];
    while let [_, newer @ ..] = kept
        && lines(kept) > MAX_MOVED
    {
        kept = newer;
    }
    let forgotten = ancestors.len() - kept.len();
    ancestors.drain(..forgotten);
}

/// Where a path is after the moves of one list after another; `None` if it becomes too long for one. No honest list makes it
/// so, and one that lets it grow with each step could ask for any amount of memory.
fn follow_all(path: Vec<u8>, ancestors: &[Ancestor]) -> Option<Vec<u8>> {
    ancestors.iter().try_fold(path, |path, ancestor| {
        Some(follow(&path, &ancestor.moved)).filter(|path| path.len() + 2 <= PATH_MAX)
    })
}

/// Where a path is after these moves: the longest old path that it is at or below decides.
fn follow(path: &[u8], moved: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let below = |old: &[u8]| match path.strip_prefix(old)? {
        rest @ ([] | [b'/', ..]) => Some(rest.to_vec()),
        _ => None,
    };
    let candidates = moved.iter().filter_map(|(old, new)| Some((old.len(), new, below(old)?)));
    match candidates.max_by_key(|(length, ..)| *length) {
        Some((_, new, rest)) => [&**new, &*rest].concat(),
        None => path.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_old_path_decides() {
        let moved: Vec<(Vec<u8>, Vec<u8>)> = [("a", "b"), ("b", "a"), ("a/x", "x"), ("a/x/kept", "a/x/kept")]
            .map(|(old, new)| (old.into(), new.into()))
            .to_vec();
        for (old, new) in [
            ("a", "b"),
            ("b", "a"),
            ("b/deep/er", "a/deep/er"),
            ("a/x", "x"),
            ("a/x/y", "x/y"),
            ("a/xy", "b/xy"),
            ("a/x/kept", "a/x/kept"),
            ("ab", "ab"),
            ("other", "other"),
        ] {
            assert_eq!(follow(old.as_bytes(), &moved), new.as_bytes(), "{old}");
        }
    }

    #[test]
    fn a_path_that_grows_without_end_leads_nowhere() {
        let moved: Vec<(Vec<u8>, Vec<u8>)> = vec![("a".into(), "a/a".into())];
        let grow = |times| {
            follow_all(b"a".to_vec(), &vec![Ancestor { sha256: [0; 32], moved: moved.clone() }; times])
        };
        assert_eq!(grow(3).as_deref(), Some(&b"a/a/a/a"[..]));
        assert_eq!(grow(2046).map(|path| path.len()), Some(4093));
        assert_eq!(grow(2047), None);
        assert_eq!(grow(10_000), None);
    }

    #[test]
    fn of_very_many_ancestors_the_newest_are_kept() {
        let ancestor = |number: usize, moved| {
            let mut sha256 = [0; 32];
            sha256[..8].copy_from_slice(&number.to_le_bytes());
            Ancestor { sha256, moved: vec![(Vec::new(), Vec::new()); moved] }
        };
        let all: Vec<_> = (0..MAX_ANCESTORS + 2).map(|number| ancestor(number, 0)).collect();
        let mut kept = all.clone();
        keep_newest(&mut kept);
        assert_eq!(kept, all[2..]);

        let mut kept = vec![ancestor(0, 1), ancestor(1, MAX_MOVED - 2), ancestor(2, 0)];
        keep_newest(&mut kept);
        assert_eq!(kept.len(), 2, "the lines are counted");
    }
}
