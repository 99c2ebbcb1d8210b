//! In which order content is packed: first what a profile names, then all files in the order of the tree.
//!
//! Entries are read again and again for it, and none is kept but those that a profile names.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;

use aysfs_flist::{Entry, Kind};

use super::error::UploadError;
use super::feed::{SMALL, Task, Wanted};
use crate::profile::{FirstRead, Profile};

/// What is to be done, in order.
pub(crate) struct Tasks {
    /// What comes into start packs; `None`: there are none.
    pub(super) start: Option<Vec<Task>>,
    others: Box<dyn Iterator<Item = Result<Task, UploadError>> + Send>,
}

impl Tasks {
    /// Without start packs.
    pub(crate) fn new(tasks: impl Iterator<Item = Task> + Send + 'static) -> Self {
        Self { start: None, others: Box::new(tasks.map(Ok)) }
    }
}

impl IntoIterator for Tasks {
    type Item = Result<Task, UploadError>;
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        match self.start {
            None => self.others,
            Some(start) => {
                let start = start.into_iter().chain(std::iter::once(Task::EndStart)).map(Ok);
                Box::new(start.chain(self.others))
            }
        }
    }
}

/// Whether content has to be stored for this entry, and it does not say yet where.
fn needs_content(entry: &Entry) -> bool {
    entry.kind == Kind::Regular && entry.link.is_none() && entry.content.is_none() && entry.size > 0
}

/// The file of an entry, if its content has to be stored.
pub(super) fn wanted(position: usize, entry: &Entry) -> Option<Wanted> {
    needs_content(entry).then(|| Wanted { position, path: entry.path.clone(), size: entry.size })
}

/// What is to be done to pack all entries that `read` reads; and how many paths of the profile lead to none of their regular files.
///
/// Small files are packed as a whole where the profile names them first. Of a large one that is where all chunks lie that the profile
/// names at all; the others follow in the order of the tree.
pub(super) fn tasks<R>(read: impl Fn() -> R, profile: Option<&Profile>) -> io::Result<(Tasks, usize)>
where
    R: Iterator<Item = io::Result<Entry>> + Send + 'static,
{
    let (mut start, mut packed, mut unknown) = (None, HashSet::new(), HashSet::new());
    if let Some(Profile { reads }) = profile {
        let Named { positions, mut files } = named(&read, reads)?;
        let mut ranges: HashMap<usize, Vec<Range<u64>>> = HashMap::new();
        let mut order = Vec::new();
        for FirstRead { path, range } in reads {
            let Some(position) = positions.get(path).copied() else {
                unknown.insert(path);
                continue;
            };
            let known = ranges.entry(position).or_insert_with(|| {
                order.push(position);
                Vec::new()
            });
            known.push(range.clone());
        }
        let mut tasks = Vec::new();
        for position in order {
            let Some(file) = files.remove(&position) else { continue };
            if file.size > SMALL {
                tasks.push(Task::Parts(file, ranges.remove(&position).unwrap_or_default()));
            } else {
                packed.insert(position);
                tasks.push(Task::Whole(file));
            }
        }
        start = Some(tasks);
    }
    let others = read().enumerate().filter_map(move |(position, entry)| match entry {
        Ok(_) if packed.contains(&position) => None,
        Ok(entry) => wanted(position, &entry).map(|file| Ok(Task::Whole(file))),
        Err(error) => Some(Err(UploadError::Spool(error))),
    });
    Ok((Tasks { start, others: Box::new(others) }, unknown.len()))
}

/// The regular files that a profile names.
struct Named {
    /// By path; a link leads to its file.
    positions: HashMap<Vec<u8>, usize>,
    /// Those whose content has to be stored, by position.
    files: HashMap<usize, Wanted>,
}

fn named<R>(read: impl Fn() -> R, reads: &[FirstRead]) -> io::Result<Named>
where
    R: Iterator<Item = io::Result<Entry>>,
{
    let named: HashSet<&[u8]> = reads.iter().map(|read| &read.path[..]).collect();
    let mut linked: HashSet<Vec<u8>> = HashSet::new();
    for entry in read() {
        let entry = entry?;
        linked.extend(entry.link.filter(|_| named.contains(&entry.path[..])));
    }
    let (mut positions, mut files): (HashMap<Vec<u8>, usize>, _) = (HashMap::new(), HashMap::new());
    for (position, entry) in read().enumerate() {
        let entry = entry?;
        let path = &entry.path;
        if entry.kind != Kind::Regular || !(named.contains(&path[..]) || linked.contains(path)) {
            continue;
        }
        match &entry.link {
            // A link comes after its file.
            Some(link) => drop(positions.get(link).copied().map(|file| positions.insert(path.clone(), file))),
            None => drop(positions.insert(path.clone(), position)),
        }
        files.extend(wanted(position, &entry).map(|file| (position, file)));
    }
    Ok(Named { positions, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Entry {
        Entry { size, ..Entry::new(path, Kind::Regular) }
    }

    /// What is to be done, and how many paths are unknown.
    fn shown(entries: &[Entry], profile: Option<&Profile>) -> (Vec<String>, usize) {
        let entries = entries.to_vec();
        let (tasks, unknown) = tasks(|| entries.clone().into_iter().map(Ok), profile).expect("memory");
        let name = |file: &Wanted| String::from_utf8(file.path.clone()).expect("ASCII");
        let show = |task| match task {
            Task::Whole(file) => name(&file),
            Task::Parts(file, ranges) => format!("{} {ranges:?}", name(&file)),
            Task::EndStart => "end".into(),
        };
        (tasks.into_iter().map(|task| show(task.expect("memory"))).collect(), unknown)
    }

    #[test]
    fn what_a_profile_names_comes_first() {
        let link = Entry { link: Some(b"b".into()), ..file("z", 5) };
        let entries = [file("a", 5), file("b", 5), file("empty", 0), file("large", 2 << 20), link];
        assert_eq!(shown(&entries, None).0, ["a", "b", "large"]);
        let reads =
            [("large", 5..9), ("z", 0..5), ("gone", 0..1), ("large", 0..1), ("b", 0..5), ("gone", 1..2)];
        let reads = reads.map(|(path, range)| FirstRead { path: path.into(), range });
        let (tasks, unknown) = shown(&entries, Some(&Profile { reads: reads.into() }));
        assert_eq!(tasks, ["large [5..9, 0..1]", "b", "end", "a", "large"]);
        assert_eq!(unknown, 1);
    }

    #[test]
    fn entries_that_cannot_be_read_are_no_end() {
        let read = || [Ok(file("a", 5)), Err(io::Error::other("damaged"))].into_iter();
        let (tasks, _) = tasks(read, None).expect("no profile, so nothing is read yet");
        let mut tasks = tasks.into_iter();
        assert!(matches!(tasks.next(), Some(Ok(Task::Whole(_)))));
        assert!(matches!(tasks.next(), Some(Err(UploadError::Spool(_)))));
    }
}
