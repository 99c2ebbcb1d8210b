//! What was read of files, on disk: it comes nearly in the order of the tree, and is needed exactly in it.
//!
//! So it is sorted in memory piece by piece, and the pieces are merged when they are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use aysfs_flist::{Content, ObjectKey, Place as Listed, Table};

use super::error::{UploadError, blocking};
use super::found::{put_time, take_time};
use super::known::Place;
use super::placed::Placed;
use super::read::{FileContent, Version};
use super::spool::{Fields, Records, Section, Spool, put_all, put_bytes, put_number, put_option};

/// How many bytes are sorted at a time.
const SORTED: usize = 8 << 20;

/// Takes what was read of files, by the positions of their entries, in any order.
#[derive(Debug)]
pub(super) struct Results {
    /// As in [`Found`](super::found::Found).
    links: Arc<[(usize, usize)]>,
    spool: Spool,
    sorted: Vec<Section>,
    /// What was added last: positions, and where the rest is in the bytes.
    recent: Vec<(usize, Range<usize>)>,
    bytes: Vec<u8>,
}

impl Results {
    /// Whatever is told of a file is told of its further names, `links`, too.
    pub(super) fn new(spool: Spool, links: Arc<[(usize, usize)]>) -> Self {
        Self { links, spool, sorted: Vec::new(), recent: Vec::new(), bytes: Vec::new() }
    }

    /// Adds what was read of a file. Each is added once.
    pub(super) fn add(&mut self, position: usize, file: &FileContent<Placed>) {
        let start = self.bytes.len();
        put(&mut self.bytes, file);
        let record = start..self.bytes.len();
        let links = &self.links[self.links.partition_point(|(file, _)| *file < position)..];
        let links = links.iter().take_while(|(file, _)| *file == position).map(|(_, link)| *link);
        self.recent.extend(std::iter::once(position).chain(links).map(|position| (position, record.clone())));
    }

    /// Has what was added on disk, if it is much.
    pub(super) async fn settled(mut self) -> Result<Self, UploadError> {
        if self.bytes.len() + size_of_val(&self.recent[..]) < SORTED {
            return Ok(self);
        }
        blocking(move || self.sort().map(|()| self).map_err(UploadError::Spool)).await
    }

    fn sort(&mut self) -> io::Result<()> {
        self.recent.sort_unstable_by_key(|(position, _)| *position);
        for (position, record) in self.recent.drain(..) {
            self.spool.add(|to| {
                put_number(to, position as u64);
                to.extend(&self.bytes[record]);
            })?;
        }
        self.bytes.clear();
        self.sorted.push(self.spool.end_section()?);
        Ok(())
    }

    /// All of them can be read.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        self.sort()?;
        Ok(Sorted(self.sorted))
    }
}

/// What was read of files.
#[derive(Debug)]
pub(super) struct Sorted(Vec<Section>);

impl Sorted {
    /// All of it, with the positions of the entries, in the order of these.
    pub(super) fn files(&self) -> io::Result<Files> {
        let mut files =
            Files { pieces: self.0.iter().map(Section::records).collect(), next: BinaryHeap::new() };
        for piece in 0..files.pieces.len() {
            files.read(piece)?;
        }
        Ok(files)
    }
}

/// What was read of files, while it is merged.
#[derive(Debug)]
pub(super) struct Files {
    pieces: Vec<Records>,
    /// The next one of each piece.
    next: BinaryHeap<Next>,
}

/// The next file of a piece.
#[derive(Debug)]
struct Next {
    position: usize,
    piece: usize,
    file: FileContent<Placed>,
}

impl Files {
    /// The next file, if it is that of this entry.
    pub(super) fn of(&mut self, position: usize) -> io::Result<Option<FileContent<Placed>>> {
        match self.next.peek() {
            Some(next) if next.position == position => Ok(self.take()?.map(|(_, file)| file)),
            _ => Ok(None),
        }
    }

    fn take(&mut self) -> io::Result<Option<(usize, FileContent<Placed>)>> {
        let Some(Next { position, piece, file }) = self.next.pop() else { return Ok(None) };
        self.read(piece)?;
        Ok(Some((position, file)))
    }

    fn read(&mut self, piece: usize) -> io::Result<()> {
        let next = self.pieces[piece].next(|fields| {
            let position = fields.number_as();
            Next { position, piece, file: take(fields) }
        });
        self.next.extend(next?);
        Ok(())
    }
}

impl Iterator for Files {
    type Item = io::Result<(usize, FileContent<Placed>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

/// The greatest is what comes next.
impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        other.position.cmp(&self.position)
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Next {}

fn put(to: &mut Vec<u8>, FileContent { content, version }: &FileContent<Placed>) {
    let Version { size, mtime, ctime, data } = version;
    put_number(to, *size);
    put_time(to, *mtime);
    put_time(to, *ctime);
    put_option(to, data.as_deref(), |to, data| {
        put_all(to, data, |to, range| {
            put_number(to, range.start);
            put_number(to, range.end);
        });
    });
    put_option(to, *content, put_placed);
}

fn take(fields: &mut Fields<'_>) -> FileContent<Placed> {
    let (size, mtime, ctime) = (fields.number(), take_time(fields), take_time(fields));
    let data = fields.option(|fields| fields.all(|fields| fields.number()..fields.number()));
    let content = fields.option(take_placed);
    FileContent { content, version: Version { size, mtime, ctime, data } }
}

fn put_placed(to: &mut Vec<u8>, placed: Placed) {
    match placed {
        Placed::Listed(Content::V1(md5)) => {
            to.push(0);
            to.extend(md5);
        }
        Placed::Listed(Content::Object { sha256, key }) => {
            to.push(1);
            to.extend(sha256);
            put_key(to, key);
        }
        Placed::Listed(Content::Pack { sha256, at }) => {
            to.push(2);
            to.extend(sha256);
            put_listed(to, at);
        }
        Placed::Listed(Content::Chunks { sha256, table: Table { sha256: table, length, at } }) => {
            to.push(3);
            to.extend(sha256);
            to.extend(table);
            put_number(to, length);
            put_listed(to, at);
        }
        Placed::Chunk { sha256, at } => {
            to.push(4);
            to.extend(sha256);
            put_place(to, at);
        }
        Placed::Chunks { sha256, table, length, at } => {
            to.push(5);
            to.extend(sha256);
            to.extend(table);
            put_number(to, length);
            put_place(to, at);
        }
    }
}

fn take_placed(fields: &mut Fields<'_>) -> Placed {
    match fields.byte() {
        0 => Placed::Listed(Content::V1(fields.array())),
        1 => Placed::Listed(Content::Object { sha256: fields.array(), key: take_key(fields) }),
        2 => Placed::Listed(Content::Pack { sha256: fields.array(), at: take_listed(fields) }),
        3 => {
            let sha256 = fields.array();
            let table = Table { sha256: fields.array(), length: fields.number(), at: take_listed(fields) };
            Placed::Listed(Content::Chunks { sha256, table })
        }
        4 => Placed::Chunk { sha256: fields.array(), at: take_place(fields) },
        5 => Placed::Chunks {
            sha256: fields.array(),
            table: fields.array(),
            length: fields.number(),
            at: take_place(fields),
        },
        other => unreachable!("nothing is written as {other}"),
    }
}

fn put_place(to: &mut Vec<u8>, Place { pack, offset, stored }: Place) {
    for number in [pack, offset, stored] {
        put_number(to, number);
    }
}

fn take_place(fields: &mut Fields<'_>) -> Place {
    Place { pack: fields.number_as(), offset: fields.number_as(), stored: fields.number_as() }
}

fn put_listed(to: &mut Vec<u8>, Listed { pack, offset, stored }: Listed) {
    put_key(to, pack);
    put_number(to, offset);
    put_number(to, stored);
}

fn take_listed(fields: &mut Fields<'_>) -> Listed {
    Listed { pack: take_key(fields), offset: fields.number(), stored: fields.number() }
}

fn put_key(to: &mut Vec<u8>, key: ObjectKey) {
    match key {
        ObjectKey::Md5(digest) => put_bytes(to, &digest),
        ObjectKey::Sha256(digest) => put_bytes(to, &digest),
    }
}

fn take_key(fields: &mut Fields<'_>) -> ObjectKey {
    let digest = fields.bytes();
    let sha256 = || digest.try_into().map(ObjectKey::Sha256);
    digest.try_into().map(ObjectKey::Md5).or_else(|_| sha256()).expect("a digest of one of them")
}

#[cfg(test)]
mod tests {
    use aysfs_flist::Timestamp;

    use super::*;

    fn file(size: usize, content: Option<Placed>) -> FileContent<Placed> {
        let time = |secs| Timestamp { secs, nanos: 5 };
        let data = [None, Some(vec![]), Some(vec![0..5, 7..u64::MAX])][size % 3].clone();
        let version = Version { size: size as u64, mtime: time(-2), ctime: time(3), data };
        FileContent { content, version }
    }

    /// Every way to say where something is.
    fn places() -> Vec<Option<Placed>> {
        let (sha256, length) = ([1; 32], u64::MAX);
        let at = Place { pack: u32::MAX, offset: 2, stored: 3 };
        let listed = Listed { pack: ObjectKey::Md5([4; 16]), offset: u64::MAX, stored: 6 };
        let table =
            Table { sha256: [7; 32], length, at: Listed { pack: ObjectKey::Sha256([8; 32]), ..listed } };
        let contents = [
            Content::V1([9; 16]),
            Content::Object { sha256, key: ObjectKey::Md5([10; 16]) },
            Content::Pack { sha256, at: listed },
            Content::Chunks { sha256, table },
        ];
        let own = [Placed::Chunk { sha256, at }, Placed::Chunks { sha256, table: [11; 32], length, at }];
        std::iter::once(None)
            .chain(contents.map(|content| Some(Placed::Listed(content))))
            .chain(own.map(Some))
            .collect()
    }

    #[test]
    fn results_come_back_in_the_order_of_the_tree() {
        let links = Arc::from([(2, 5), (2, 90), (8, 9)]);
        let spool = Spool::new(&std::env::temp_dir(), None).expect("a file");
        let mut results = Results::new(spool, Arc::clone(&links));
        let mut expected = std::collections::BTreeMap::new();
        for (number, place) in places().into_iter().cycle().take(60).enumerate() {
            // Each once, in no order; none of a name that is a link.
            let position = number * 37 % 61 + 10 * usize::from(number % 2 == 0) * 10;
            if [5, 9, 90].contains(&position) || expected.contains_key(&position) {
                continue;
            }
            let file = || file(number, place);
            results.add(position, &file());
            expected.insert(position, file());
            for (_, link) in links.iter().filter(|(file, _)| *file == position) {
                expected.insert(*link, file());
            }
            if number % 7 == 0 {
                results.sort().expect("written");
            }
        }
        let sorted = results.finish().expect("written");
        let files: io::Result<Vec<_>> = sorted.files().expect("readable").collect();
        assert!(files.expect("readable").into_iter().eq(expected));
        let mut files = sorted.files().expect("readable");
        let found = (0..200).filter(|position| files.of(*position).expect("readable").is_some());
        assert!(found.eq(expected_positions(&sorted)));
    }

    fn expected_positions(sorted: &Sorted) -> Vec<usize> {
        sorted.files().expect("readable").map(|file| file.expect("readable").0).collect()
    }
}
