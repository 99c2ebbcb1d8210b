//! The tree that lines make: the rules that take the whole list, and the rows of the index to come.
//!
//! Lines come in any order: a directory that no line has named yet is made when something is put below it, and
//! takes the attributes of its own line should one follow. What is kept per entry are a [`Record`] and a
//! [`Name`], not the entry.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use zerocopy::little_endian::{I64, U16, U32, U64};

use crate::entry::{Content, Entry, Kind, ObjectKey, Owner, Place, Table, Timestamp, V1Keys};
use crate::error::{Problem, Reason, shown};
use crate::index::format::{
    ContentTag, Md5Row, ObjectRow, PlaceRow, Record, Run, SegmentRow, Slice, TableRow, XattrRow,
};
use crate::limits::MAX_ENTRIES;
use crate::line::Line;
use crate::path;

/// A name in a directory, as it was read.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    /// The directory: a row of the nodes.
    pub(crate) parent: u32,
    /// Where its bytes are in the names: one byte of length, then the bytes.
    pub(crate) text: u32,
    /// What it leads to: a row of the nodes.
    pub(crate) node: u32,
    /// The line that names it, or the first line that puts something below it.
    line: u32,
    origin: Origin,
}

/// Why a name is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A line names it.
    Listed,
    /// Something is below it, and no line has named it so far.
    Implied,
}

/// Nodes and names in the order of the lines, and the side tables that records refer to.
///
/// Records of directories hold the parent; where their names are is not known before the end.
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Record>,
    /// The first one is that of the root.
    pub(crate) names: Vec<Name>,
    pub(crate) text: Vec<u8>,
    pub(crate) blobs: Vec<u8>,
    pub(crate) users: Owners,
    pub(crate) groups: Owners,
    pub(crate) md5: Vec<Md5Row>,
    pub(crate) objects: Vec<ObjectRow>,
    pub(crate) places: Vec<PlaceRow>,
    pub(crate) tables: Vec<TableRow>,
    /// The packs that places are in: their rows.
    pub(crate) packs: HashMap<ObjectKey, u32>,
    pub(crate) xattr_runs: Vec<Run>,
    pub(crate) xattrs: Vec<XattrRow>,
    pub(crate) segment_runs: Vec<Run>,
    pub(crate) segments: Vec<SegmentRow>,
    pub(crate) total_size: u64,
    /// Rows of `names`, by parent and text.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Known sets of extended attributes, and 1 + their row of `xattr_runs`.
    xattr_sets: HashMap<XattrSet, u32>,
    /// The directory of the last line: the next line is most likely in it, too.
    last_parent: (Vec<u8>, u32),
    max_entries: usize,
}

/// Names and values.
type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

const ROOT: u32 = 0;

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            names: Vec::new(),
            text: vec![0],
            blobs: Vec::new(),
            users: Owners::default(),
            groups: Owners::default(),
            md5: Vec::new(),
            objects: Vec::new(),
            places: Vec::new(),
            tables: Vec::new(),
            packs: HashMap::new(),
            xattr_runs: Vec::new(),
            xattrs: Vec::new(),
            segment_runs: Vec::new(),
            segments: Vec::new(),
            total_size: 0,
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            xattr_sets: HashMap::new(),
            last_parent: (Vec::new(), ROOT),
            max_entries: MAX_ENTRIES,
        };
        let root =
            tree.record(&Entry::new("", Kind::Directory)).expect("an empty tree has room for its root");
        tree.nodes.push(Record { nlink: U32::new(2), ..root });
        tree.names.push(Name { parent: ROOT, text: 0, node: ROOT, line: 0, origin: Origin::Implied });
        tree
    }

    /// Adds what a line says.
    pub(crate) fn add(&mut self, line: &Line) -> Result<(), Problem> {
        let number = u32::try_from(line.number).unwrap_or(u32::MAX);
        self.place(&line.entry, number).map_err(|reason| {
            let column = match reason {
                Reason::LinkMissing(_) | Reason::LinkToDirectory(_) => line.link_column,
                _ => 1,
            };
            Problem { column, reason }
        })
    }

    /// The bytes of a name.
    pub(crate) fn name(&self, name: &Name) -> &[u8] {
        let start = name.text as usize;
        let length = usize::from(self.text[start]);
        &self.text[start + 1..=start + length]
    }

    fn place(&mut self, entry: &Entry, line: u32) -> Result<(), Reason> {
        let known = if entry.path.is_empty() {
            Ok(0)
        } else {
            let (parent_path, name) = path::split(&entry.path);
            let parent = self.directory(parent_path, line)?;
            self.find(parent, name).ok_or((parent, name))
        };
        match known {
            Ok(row) => self.describe(row as usize, entry, line),
            Err((parent, name)) => {
                let node = match &entry.link {
                    Some(link) => self.linked(link)?,
                    None => self.new_node(parent, entry)?,
                };
                self.new_name(Name { parent, text: 0, node, line, origin: Origin::Listed }, name)
            }
        }
    }

    /// Gives an implied directory the attributes of its own line.
    fn describe(&mut self, row: usize, entry: &Entry, line: u32) -> Result<(), Reason> {
        let known = self.names[row];
        if known.origin == Origin::Listed {
            return Err(Reason::Duplicate { path: shown(&entry.path), first: known.line.into() });
        }
        if entry.kind != Kind::Directory || entry.link.is_some() {
            return Err(Reason::NotDirectory { path: shown(&entry.path), line: known.line.into() });
        }
        let Record { nlink, c, .. } = self.nodes[known.node as usize];
        self.nodes[known.node as usize] = Record { nlink, c, ..self.record(entry)? };
        self.names[row] = Name { line, origin: Origin::Listed, ..known };
        Ok(())
    }

    /// The directory at `path`; it and its parents are made where they are missing.
    fn directory(&mut self, path: &[u8], line: u32) -> Result<u32, Reason> {
        if path == self.last_parent.0 {
            return Ok(self.last_parent.1);
        }
        let mut node = ROOT;
        let mut end = 0;
        for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            end += component.len() + usize::from(end > 0);
            node = match self.find(node, component) {
                Some(row) => {
                    let Name { node, line, .. } = self.names[row as usize];
                    if self.nodes[node as usize].kind != Kind::Directory.code() {
                        return Err(Reason::ParentNotDirectory {
                            parent: shown(&path[..end]),
                            line: line.into(),
                        });
                    }
                    node
                }
                None => {
                    let implied = self.new_node(node, &Entry::new("", Kind::Directory))?;
                    let name = Name { parent: node, text: 0, node: implied, line, origin: Origin::Implied };
                    self.new_name(name, component)?;
                    implied
                }
            };
        }
        self.last_parent.0.clear();
        self.last_parent.0.extend(path);
        self.last_parent.1 = node;
        Ok(node)
    }

    /// The node of an earlier entry that is not a directory.
    fn linked(&self, path: &[u8]) -> Result<u32, Reason> {
        let mut node = ROOT;
        for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            let row = self.find(node, component).ok_or_else(|| Reason::LinkMissing(shown(path)))?;
            node = self.names[row as usize].node;
        }
        if self.nodes[node as usize].kind == Kind::Directory.code() {
            return Err(Reason::LinkToDirectory(shown(path)));
        }
        Ok(node)
    }

    /// The row of a name.
    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let is_it = |row: &u32| {
            let known = &self.names[*row as usize];
            known.parent == parent && self.name(known) == name
        };
        self.table.find(self.hasher.hash_one((parent, name)), is_it).copied()
    }

    fn new_name(&mut self, name: Name, text: &[u8]) -> Result<(), Reason> {
        // The root is not an entry.
        if self.names.len() > self.max_entries {
            return Err(Reason::TooManyEntries);
        }
        let hash = self.hasher.hash_one((name.parent, text));
        let length = u8::try_from(text.len()).map_err(|_| Reason::NameTooLong)?;
        let name = Name { text: row_number(self.text.len())?, ..name };
        self.text.push(length);
        self.text.extend(text);
        let row = row_number(self.names.len())?;
        self.names.push(name);
        let (names, texts, hasher) = (&self.names, &self.text, &self.hasher);
        self.table.insert_unique(hash, row, |row| {
            let name = &names[*row as usize];
            let start = name.text as usize;
            hasher.hash_one((name.parent, &texts[start + 1..=start + usize::from(texts[start])]))
        });
        let counts = if self.nodes[name.node as usize].kind == Kind::Directory.code() {
            name.parent
        } else {
            name.node
        };
        self.nodes[counts as usize].nlink += 1;
        Ok(())
    }

    fn new_node(&mut self, parent: u32, entry: &Entry) -> Result<u32, Reason> {
        let mut record = self.record(entry)?;
        record.c = U32::new(parent);
        if entry.kind == Kind::Directory {
            record.nlink = U32::new(2);
        }
        let node = row_number(self.nodes.len())?;
        self.nodes.push(record);
        self.total_size = self.total_size.saturating_add(entry.size);
        Ok(node)
    }

    /// The record of an entry, without what its place in the tree decides.
    fn record(&mut self, entry: &Entry) -> Result<Record, Reason> {
        let (mut a, mut b, mut content) = (0, 0, ContentTag::None);
        match entry.kind {
            Kind::Regular => {
                (content, a) = self.content(entry.content, &entry.v1_keys)?;
                b = self.segment_run(entry)?;
            }
            Kind::Symlink => {
                let target = self.blob(&entry.target)?;
                (a, b) = (target.offset.get(), target.length.get());
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (a, b) = (major, minor),
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        let size = if entry.kind == Kind::Symlink { entry.target.len() as u64 } else { entry.size };
        let xattrs = self.xattr_run(&entry.xattrs)?;
        let Timestamp { secs: mtime, nanos: mtime_nanos } = entry.mtime;
        let Timestamp { secs: ctime, nanos: ctime_nanos } = entry.ctime;
        Ok(Record {
            size: U64::new(size),
            mtime: I64::new(mtime),
            ctime: I64::new(ctime),
            mtime_nanos: U32::new(mtime_nanos),
            ctime_nanos: U32::new(ctime_nanos),
            user: U32::new(self.users.row(&entry.user)?),
            group: U32::new(self.groups.row(&entry.group)?),
            nlink: U32::ZERO,
            perm: U16::new(entry.perm),
            kind: entry.kind.code(),
            content: content as u8,
            a: U32::new(a),
            b: U32::new(b),
            c: U32::ZERO,
            xattrs: U32::new(xattrs),
        })
    }

    fn content(&mut self, content: Option<Content>, keys: &V1Keys) -> Result<(ContentTag, u32), Reason> {
        Ok(match content {
            None => (ContentTag::None, 0),
            Some(Content::V1(md5)) => {
                let (user_key, store_key) = (self.blob(&keys.user)?, self.blob(&keys.store)?);
                (ContentTag::V1, push(&mut self.md5, Md5Row { md5, user_key, store_key })?)
            }
            Some(Content::Object { sha256, key: ObjectKey::Md5(md5) }) => {
                let mut key = [0; 32];
                key[..md5.len()].copy_from_slice(&md5);
                (ContentTag::ObjectMd5, push(&mut self.objects, ObjectRow { sha256, key })?)
            }
            Some(Content::Object { sha256, key: ObjectKey::Sha256(key) }) => {
                (ContentTag::ObjectSha256, push(&mut self.objects, ObjectRow { sha256, key })?)
            }
            Some(Content::Pack { sha256, at }) => {
                let place = self.pack_place(sha256, at)?;
                (ContentTag::Pack, push(&mut self.places, place)?)
            }
            Some(Content::Chunks { sha256, table: Table { sha256: table, length, at } }) => {
                let place = self.pack_place(table, at)?;
                (
                    ContentTag::Chunks,
                    push(&mut self.tables, TableRow { sha256, table: place, length: length.into() })?,
                )
            }
        })
    }

    fn pack_place(&mut self, sha256: [u8; 32], at: Place) -> Result<PlaceRow, Reason> {
        let Place { pack, offset, stored } = at;
        let next = row_number(self.packs.len())?;
        let row = *self.packs.entry(pack).or_insert(next);
        Ok(PlaceRow {
            sha256,
            offset: offset.into(),
            stored: stored.into(),
            pack: row.into(),
            zero: U32::ZERO,
        })
    }

    /// 1 + the row of the data segments of a sparse file; 0 for a file without holes.
    fn segment_run(&mut self, entry: &Entry) -> Result<u32, Reason> {
        let Some(data) = &entry.data else { return Ok(0) };
        let run =
            Run { first: row_number(self.segments.len())?.into(), count: row_number(data.len())?.into() };
        self.segments
            .extend(data.iter().map(|data| SegmentRow { start: data.start.into(), end: data.end.into() }));
        Ok(push(&mut self.segment_runs, run)? + 1)
    }

    /// 1 + the row of a set of attributes; 0 for none.
    fn xattr_run(&mut self, set: &[(Vec<u8>, Vec<u8>)]) -> Result<u32, Reason> {
        if set.is_empty() {
            return Ok(0);
        }
        if let Some(run) = self.xattr_sets.get(set) {
            return Ok(*run);
        }
        let run = Run { first: row_number(self.xattrs.len())?.into(), count: row_number(set.len())?.into() };
        for (name, value) in set {
            let row = XattrRow { name: self.blob(name)?, value: self.blob(value)? };
            self.xattrs.push(row);
        }
        let run = push(&mut self.xattr_runs, run)? + 1;
        self.xattr_sets.insert(set.to_vec(), run);
        Ok(run)
    }

    /// Keeps bytes among the blobs.
    pub(crate) fn blob(&mut self, bytes: &[u8]) -> Result<Slice, Reason> {
        let slice =
            Slice { offset: row_number(self.blobs.len())?.into(), length: row_number(bytes.len())?.into() };
        self.blobs.extend(bytes);
        Ok(slice)
    }
}

/// Users or groups, each once.
#[derive(Default)]
pub(crate) struct Owners {
    pub(crate) all: Vec<Owner>,
    rows: HashMap<Owner, u32>,
}

impl Owners {
    fn row(&mut self, owner: &Owner) -> Result<u32, Reason> {
        if let Some(row) = self.rows.get(owner) {
            return Ok(*row);
        }
        let row = push(&mut self.all, owner.clone())?;
        self.rows.insert(owner.clone(), row);
        Ok(row)
    }
}

fn push<T>(rows: &mut Vec<T>, row: T) -> Result<u32, Reason> {
    let number = row_number(rows.len())?;
    rows.push(row);
    Ok(number)
}

fn row_number(count: usize) -> Result<u32, Reason> {
    u32::try_from(count).map_err(|_| Reason::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_entries_is_limited() {
        let mut tree = Tree { max_entries: 3, ..Tree::new() };
        let mut add = |number, path: &str| {
            tree.add(&Line { number, entry: Entry::new(path, Kind::Fifo), link_column: 1 })
        };
        assert_eq!(add(1, "a/b"), Ok(()));
        assert_eq!(add(2, "c"), Ok(()));
        let problem = add(3, "d").expect_err("one too many");
        assert_eq!(
            problem.reason.to_string(),
            "the flist has more than 100000000 entries (unlisted parents count)"
        );
    }
}
