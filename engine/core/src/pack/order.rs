//! In which order content is packed: first what a profile names, then all files in the order of the tree.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use aysfs_flist::{Entry, Kind};

use super::feed::{SMALL, Task, Wanted};
use crate::profile::{FirstRead, Profile};

/// Whether content has to be stored for this entry, and it does not say yet where.
fn needs_content(entry: &Entry) -> bool {
    entry.kind == Kind::Regular && entry.link.is_none() && entry.content.is_none() && entry.size > 0
}

fn wanted(position: usize, entry: &Entry) -> Wanted {
    Wanted { position, path: entry.path.clone(), size: entry.size }
}

/// What is to be done to pack all of these entries; and how many paths of the profile lead to none of their regular files.
///
/// Small files are packed as a whole where the profile names them first. Of a large one that is where all chunks lie that the profile
/// names at all; the others follow in the order of the tree.
pub(super) fn tasks(entries: &[Entry], profile: Option<&Profile>) -> (Vec<Task>, usize) {
    let (mut tasks, mut packed, mut unknown) = (Vec::new(), HashSet::new(), HashSet::new());
    if let Some(Profile { reads }) = profile {
        let positions = positions(entries, reads);
        let mut ranges: HashMap<usize, Vec<Range<u64>>> = HashMap::new();
        let mut order = Vec::new();
        for FirstRead { path, range } in reads {
            let Some(position) = positions.get(&path[..]).copied() else {
                unknown.insert(path);
                continue;
            };
            let known = ranges.entry(position).or_insert_with(|| {
                order.push(position);
                Vec::new()
            });
            known.push(range.clone());
        }
        for position in order {
            let (entry, ranges) = (&entries[position], ranges.remove(&position).unwrap_or_default());
            if !needs_content(entry) {
                continue;
            }
            if entry.size > SMALL {
                tasks.push(Task::Parts(wanted(position, entry), ranges));
            } else {
                packed.insert(position);
                tasks.push(Task::Whole(wanted(position, entry)));
            }
        }
        tasks.push(Task::EndStart);
    }
    let others = entries.iter().enumerate();
    let others = others.filter(|(position, entry)| needs_content(entry) && !packed.contains(position));
    tasks.extend(others.map(|(position, entry)| Task::Whole(wanted(position, entry))));
    (tasks, unknown.len())
}

/// Where the regular files are that a profile names; a link leads to its file.
fn positions<'a>(entries: &'a [Entry], reads: &[FirstRead]) -> HashMap<&'a [u8], usize> {
    let named: HashSet<&[u8]> = reads.iter().map(|read| &read.path[..]).collect();
    let links: HashSet<&[u8]> = entries
        .iter()
        .filter(|entry| named.contains(&entry.path[..]))
        .filter_map(|entry| entry.link.as_deref())
        .collect();
    let mut positions: HashMap<&[u8], usize> = HashMap::new();
    for (position, entry) in entries.iter().enumerate() {
        let path = &entry.path[..];
        if entry.kind != Kind::Regular || !(named.contains(path) || links.contains(path)) {
            continue;
        }
        match &entry.link {
            // A link comes after its file.
            Some(link) => drop(positions.get(&link[..]).copied().map(|file| positions.insert(path, file))),
            None => drop(positions.insert(path, position)),
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry { size, ..Entry::new(path, Kind::Regular) }
    }

    fn shown(tasks: &[Task]) -> Vec<String> {
        let name = |file: &Wanted| String::from_utf8(file.path.clone()).expect("ASCII");
        let show = |task: &Task| match task {
            Task::Whole(file) => name(file),
            Task::Parts(file, ranges) => format!("{} {ranges:?}", name(file)),
            Task::EndStart => "end".into(),
        };
        tasks.iter().map(show).collect()
    }

    #[test]
    fn what_a_profile_names_comes_first() {
        let link = Entry { link: Some(b"b".into()), ..file("z", 5) };
        let entries = [file("a", 5), file("b", 5), file("empty", 0), file("large", 2 << 20), link];
        assert_eq!(shown(&tasks(&entries, None).0), ["a", "b", "large"]);
        let reads =
            [("large", 5..9), ("z", 0..5), ("gone", 0..1), ("large", 0..1), ("b", 0..5), ("gone", 1..2)];
        let reads = reads.map(|(path, range)| FirstRead { path: path.into(), range });
        let (tasks, unknown) = tasks(&entries, Some(&Profile { reads: reads.into() }));
        assert_eq!(shown(&tasks), ["large [5..9, 0..1]", "b", "end", "a", "large"]);
        assert_eq!(unknown, 1);
    }
}
