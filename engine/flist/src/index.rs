//! A flist compiled for lookups: an immutable file that is mapped at mount, so that mounting again costs next to
//! nothing, and memory is used only for what is looked at.
//!
//! An index is trusted when its checksum was verified since this boot, and made again when it is damaged, of
//! another version, or of another list. On top of that, no accessor believes an offset: whatever the bytes are,
//! it ends with the truth or with [`Corrupt`].

mod build;
mod file;
pub(crate) mod format;
mod key;
mod shelf;
mod stamp;
mod walk;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use self::format::{
    ContentTag, Dentry, Md5Row, ObjectRow, PackRow, PlaceRow, Record, Run, Section, SegmentRow, TableRow,
    XattrRow,
};
use self::key::Key;
use self::shelf::Shelf;
pub use self::walk::Entries;
use crate::entry::{
    Content, Dialect, Header, Kind, ObjectKey, Owner, Place, Table, TimeOrder, Timestamp, V1Keys,
};
use crate::error::FlistError;
use crate::limits::MAX_DEPTH;
use crate::parse::ParseOptions;
use crate::source::Source;

/// The number of an inode of an index: always the same for the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub u32);

impl Node {
    /// The root directory.
    pub const ROOT: Self = Self(0);
}

/// Where an index came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The list was parsed.
    Compiled,
    /// It was there from an earlier mount.
    Reused,
}

/// An index whose bytes contradict each other. It is distrusted from then on: the next mount makes it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index {} is damaged ({what}): mount again to rebuild it", .path.display())]
pub struct Corrupt {
    path: PathBuf,
    what: &'static str,
}

/// A compiled flist.
///
/// Shared by all that read it; every method takes `&self` and a few memory accesses, unless a page of the file
/// has to be read from the disk.
pub struct Index {
    path: PathBuf,
    map: Mmap,
    sections: [Range<usize>; Section::COUNT],
    dialect: Dialect,
    times: TimeOrder,
    header: Header,
    users: Vec<Owner>,
    groups: Vec<Owner>,
    list: [u8; 32],
    total_size: u64,
}

impl Index {
    /// Parses a list and keeps its index in `dir`, replacing one that is there. It takes seconds for a large
    /// list: nothing for a thread that serves others.
    ///
    /// # Errors
    /// A broken rule of the list, or trouble with reading it or with writing to `dir`.
    pub fn compile<'a>(
        source: impl Into<Source<'a>>,
        options: &ParseOptions,
        dir: &Path,
    ) -> Result<Self, FlistError> {
        let source = source.into();
        let mut raw = source.open().map_err(|error| FlistError::Read { file: source.name(), error })?;
        let shelf = Shelf { dir, now: SystemTime::now() };
        shelf.compile(&source, &mut raw, options).map(|(_, index)| index)
    }

    /// The index of a list: the one in `dir` if there is one and it is sound, or a new one.
    ///
    /// A local list that is unchanged (by inode, size, mtime and ctime) is not even read. The index of what the
    /// same list was before is removed.
    ///
    /// # Errors
    /// As [`compile`](Self::compile). A damaged index is no error.
    pub fn open_or_compile<'a>(
        source: impl Into<Source<'a>>,
        options: &ParseOptions,
        dir: &Path,
    ) -> Result<(Self, Provenance), FlistError> {
        Shelf { dir, now: SystemTime::now() }.open_or_compile(&source.into(), options)
    }

    /// How the list was written.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// How its times were read.
    pub fn times(&self) -> TimeOrder {
        self.times
    }

    /// What the list says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The SHA-256 of the list, as it is stored.
    pub fn list_digest(&self) -> [u8; 32] {
        self.list
    }

    /// The users that own something; [`NodeRef::user`] is a position in it.
    pub fn users(&self) -> &[Owner] {
        &self.users
    }

    /// The groups that own something; [`NodeRef::group`] is a position in it.
    pub fn groups(&self) -> &[Owner] {
        &self.groups
    }

    /// How many inodes there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.rows::<Record>(Section::Nodes).len()
    }

    /// The bytes of all regular files, each counted once.
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// The root directory.
    pub fn root(&self) -> Node {
        Node::ROOT
    }

    /// An inode.
    ///
    /// # Errors
    /// [`Corrupt`], also for a number that this index never gave out.
    pub fn node(&self, node: Node) -> Result<NodeRef<'_>, Corrupt> {
        let record = self.record(node)?;
        let device = (record.a.get(), record.b.get());
        let kind = Kind::from_code(record.kind, device).ok_or_else(|| self.corrupt("an unknown type"))?;
        let nanos = [record.mtime_nanos.get(), record.ctime_nanos.get()];
        if record.user.get() as usize >= self.users.len()
            || record.group.get() as usize >= self.groups.len()
            || nanos.iter().any(|nanos| *nanos >= Timestamp::NANOS)
        {
            return Err(self.corrupt("a bad inode"));
        }
        Ok(NodeRef { index: self, node, record, kind })
    }

    /// What `name` in the directory `dir` leads to; nothing, if `dir` is no directory.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn lookup(&self, dir: Node, name: &[u8]) -> Result<Option<Node>, Corrupt> {
        let children = self.children(dir)?;
        let mut rest = children.dentries;
        while !rest.is_empty() {
            let middle = rest.len() / 2;
            match name.cmp(self.name(&rest[middle], children.names)?) {
                std::cmp::Ordering::Equal => return Ok(Some(Node(rest[middle].node.get()))),
                std::cmp::Ordering::Less => rest = &rest[..middle],
                std::cmp::Ordering::Greater => rest = &rest[middle + 1..],
            }
        }
        Ok(None)
    }

    /// The names in a directory, sorted by their bytes; none, if `dir` is no directory.
    ///
    /// # Errors
    /// [`Corrupt`]; so do the names themselves.
    pub fn children(&self, dir: Node) -> Result<Children<'_>, Corrupt> {
        let record = self.record(dir)?;
        let mut dentries: &[Dentry] = &[];
        if record.kind == Kind::Directory.code() {
            let first = record.a.get() as usize;
            let rows = self.rows::<Dentry>(Section::Dentries);
            let rows = rows.get(first..first.saturating_add(record.b.get() as usize));
            dentries = rows.ok_or_else(|| self.corrupt("a directory without its names"))?;
        }
        Ok(Children { index: self, dentries, names: self.rows(Section::Names) })
    }

    /// The name at position `k` of a directory, in the order of [`children`](Self::children).
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn child_at(&self, dir: Node, k: usize) -> Result<Option<(&[u8], Node)>, Corrupt> {
        self.children(dir)?.nth(k).transpose()
    }

    /// Where an inode is, without a leading `/`: the first of its names. Meant for messages: it searches the
    /// directories on the way.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn path(&self, node: Node) -> Result<Vec<u8>, Corrupt> {
        let (mut node, mut names) = (node, Vec::new());
        while node != Node::ROOT {
            let parent = self.node(node)?.parent();
            let mut children = self.children(parent)?;
            let name = loop {
                match children.next().transpose()? {
                    Some((name, child)) if child == node => break name,
                    Some(_) => {}
                    None => return Err(self.corrupt("an inode without a name")),
                }
            };
            names.push(name);
            if names.len() > MAX_DEPTH {
                return Err(self.corrupt("a directory inside itself"));
            }
            node = parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Whether anything has a POSIX ACL.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn has_acls(&self) -> Result<bool, Corrupt> {
        // Equal sets of attributes are kept once, so these are far fewer than there are inodes.
        for row in self.rows::<XattrRow>(Section::Xattrs) {
            let name =
                self.blob(row.name).ok_or_else(|| self.corrupt("an extended attribute without its name"))?;
            if name.starts_with(b"system.posix_acl_") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The encrypted v1 objects, and what opens them.
    ///
    /// # Errors
    /// [`Corrupt`], one by one.
    pub fn v1_keys(&self) -> impl Iterator<Item = Result<([u8; 16], V1Keys), Corrupt>> {
        let rows = self.rows::<Md5Row>(Section::Md5).iter();
        let encrypted = rows.filter(|row| row.user_key.length.get() > 0 || row.store_key.length.get() > 0);
        encrypted.map(|row| Ok((row.md5, self.keys_of(row)?)))
    }

    fn keys_of(&self, row: &Md5Row) -> Result<V1Keys, Corrupt> {
        let key = |slice| {
            self.blob(slice).map(<[u8]>::to_vec).ok_or_else(|| self.corrupt("a key outside of the blobs"))
        };
        Ok(V1Keys { user: key(row.user_key)?, store: key(row.store_key)? })
    }

    /// The whole tree as entries, parents first, names in order. The first name of a file describes it, the
    /// others are links to it.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(self)
    }

    fn place(&self, row: &PlaceRow) -> Result<Place, Corrupt> {
        let pack: &PackRow = self.row(Section::Packs, row.pack.get(), "content in an unknown pack")?;
        Ok(Place { pack: pack.key(), offset: row.offset.get(), stored: row.stored.get() })
    }

    fn record(&self, node: Node) -> Result<&Record, Corrupt> {
        self.row(Section::Nodes, node.0, "an unknown inode")
    }

    fn row<T>(&self, section: Section, row: u32, what: &'static str) -> Result<&T, Corrupt>
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
    {
        self.rows(section).get(row as usize).ok_or_else(|| self.corrupt(what))
    }

    /// The rows of run number `run - 1`.
    fn run<T>(&self, runs: Section, rows: Section, run: u32) -> Result<&[T], Corrupt>
    where
        T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
    {
        let run: &Run = self.row(runs, run - 1, "an unknown run")?;
        let first = run.first.get() as usize;
        let rows = self.rows(rows).get(first..first.saturating_add(run.count.get() as usize));
        rows.ok_or_else(|| self.corrupt("a run without its rows"))
    }

    fn name<'a>(&self, dentry: &Dentry, names: &'a [u8]) -> Result<&'a [u8], Corrupt> {
        let name = names.get(dentry.name.get() as usize..).and_then(|rest| {
            let (length, rest) = rest.split_first()?;
            rest.get(..usize::from(*length))
        });
        name.ok_or_else(|| self.corrupt("a name outside of the names"))
    }

    fn corrupt(&self, what: &'static str) -> Corrupt {
        // Without its seal, the next mount compares it with its checksum.
        fs::remove_file(Key::seal_of(&self.path)).ok();
        Corrupt { path: self.path.clone(), what }
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("path", &self.path).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// An inode of an [`Index`].
#[derive(Clone, Copy)]
pub struct NodeRef<'a> {
    index: &'a Index,
    node: Node,
    record: &'a Record,
    kind: Kind,
}

impl<'a> NodeRef<'a> {
    /// Its number.
    pub fn number(&self) -> Node {
        self.node
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Permission bits, set-uid, set-gid and sticky.
    pub fn perm(&self) -> u16 {
        self.record.perm.get() & 0o7777
    }

    /// Owning user: a position in [`Index::users`], always a valid one.
    pub fn user(&self) -> usize {
        self.record.user.get() as usize
    }

    /// Owning group: a position in [`Index::groups`], always a valid one.
    pub fn group(&self) -> usize {
        self.record.group.get() as usize
    }

    /// Length in bytes: of a regular file, or of the target of a symlink; zero for anything else.
    pub fn size(&self) -> u64 {
        self.record.size.get()
    }

    /// Last change of the content.
    pub fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.record.mtime.get(), nanos: self.record.mtime_nanos.get() }
    }

    /// Last change of the inode.
    pub fn ctime(&self) -> Timestamp {
        Timestamp { secs: self.record.ctime.get(), nanos: self.record.ctime_nanos.get() }
    }

    /// Number of names; of a directory, two more than it has subdirectories.
    pub fn nlink(&self) -> u32 {
        self.record.nlink.get()
    }

    /// The directory that holds it: of a file with several names, the directory of the first. The root's is the
    /// root.
    pub fn parent(&self) -> Node {
        Node(self.record.c.get())
    }

    /// Where the content of a regular file is; `None` for an empty file, and for anything else.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn content(&self) -> Result<Option<Content>, Corrupt> {
        let Self { index, record, .. } = self;
        let row = record.a.get();
        let what = "content without its hash";
        let object = || index.row::<ObjectRow>(Section::Objects, row, what);
        let tag = ContentTag::from_byte(record.content).ok_or_else(|| index.corrupt(what))?;
        Ok(Some(match tag {
            ContentTag::None => return Ok(None),
            ContentTag::V1 => Content::V1(index.row::<Md5Row>(Section::Md5, row, what)?.md5),
            ContentTag::ObjectMd5 => {
                let ObjectRow { sha256, key } = *object()?;
                let (md5, _) = key.split_first_chunk().ok_or_else(|| index.corrupt(what))?;
                Content::Object { sha256, key: ObjectKey::Md5(*md5) }
            }
            ContentTag::ObjectSha256 => {
                let ObjectRow { sha256, key } = *object()?;
                Content::Object { sha256, key: ObjectKey::Sha256(key) }
            }
            ContentTag::Pack => {
                let place: &PlaceRow = index.row(Section::Places, row, what)?;
                Content::Pack { sha256: place.sha256, at: index.place(place)? }
            }
            ContentTag::Chunks => {
                let TableRow { sha256, table, length } = index.row(Section::Tables, row, what)?;
                let at = index.place(table)?;
                let table = Table { sha256: table.sha256, length: length.get(), at };
                Content::Chunks { sha256: *sha256, table }
            }
        }))
    }

    /// What opens the content, if that is an encrypted v1 object.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn v1_keys(&self) -> Result<V1Keys, Corrupt> {
        if ContentTag::from_byte(self.record.content) != Some(ContentTag::V1) {
            return Ok(V1Keys::default());
        }
        let row = self.index.row(Section::Md5, self.record.a.get(), "content without its hash")?;
        self.index.keys_of(row)
    }

    /// The target of a symlink; empty for anything else.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn target(&self) -> Result<&'a [u8], Corrupt> {
        if self.kind != Kind::Symlink {
            return Ok(&[]);
        }
        let slice = format::Slice { offset: self.record.a, length: self.record.b };
        self.index.blob(slice).ok_or_else(|| self.index.corrupt("a symlink without its target"))
    }

    /// The parts of a sparse file that are not holes, in order; `None` for a file without holes, and for
    /// anything else.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn data(&self) -> Result<Option<impl ExactSizeIterator<Item = Range<u64>> + use<'a>>, Corrupt> {
        let run = self.record.b.get();
        if self.kind != Kind::Regular || run == 0 {
            return Ok(None);
        }
        let rows = self.index.run(Section::SegmentRuns, Section::Segments, run)?;
        Ok(Some(rows.iter().map(|row: &SegmentRow| row.start.get()..row.end.get())))
    }

    /// Whether it has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.record.xattrs.get() != 0
    }

    /// Its extended attributes, name and value, in the order of the list.
    ///
    /// # Errors
    /// [`Corrupt`]; so do the attributes themselves.
    pub fn xattrs(&self) -> Result<Xattrs<'a>, Corrupt> {
        let rows = match self.record.xattrs.get() {
            0 => &[],
            run => self.index.run(Section::XattrRuns, Section::Xattrs, run)?,
        };
        Ok(Xattrs { index: self.index, rows: rows.iter() })
    }
}

impl fmt::Debug for NodeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRef")
            .field("number", &self.node.0)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The names in a directory: see [`Index::children`].
#[derive(Clone)]
pub struct Children<'a> {
    index: &'a Index,
    dentries: &'a [Dentry],
    names: &'a [u8],
}

impl<'a> Children<'a> {
    fn child(&self, dentry: &Dentry) -> Result<(&'a [u8], Node), Corrupt> {
        Ok((self.index.name(dentry, self.names)?, Node(dentry.node.get())))
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = Result<(&'a [u8], Node), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        self.nth(0)
    }

    fn nth(&mut self, k: usize) -> Option<Self::Item> {
        let dentry = self.dentries.get(k);
        self.dentries = self.dentries.get(k + 1..).unwrap_or_default();
        dentry.map(|dentry| self.child(dentry))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.dentries.len(), Some(self.dentries.len()))
    }
}

impl ExactSizeIterator for Children<'_> {}

impl fmt::Debug for Children<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Children").field("len", &self.dentries.len()).finish_non_exhaustive()
    }
}

/// The extended attributes of an inode: see [`NodeRef::xattrs`].
#[derive(Clone)]
pub struct Xattrs<'a> {
    index: &'a Index,
    rows: std::slice::Iter<'a, XattrRow>,
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        Some(match (self.index.blob(row.name), self.index.blob(row.value)) {
            (Some(name), Some(value)) => Ok((name, value)),
            _ => Err(self.index.corrupt("an extended attribute without its bytes")),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for Xattrs<'_> {}

impl fmt::Debug for Xattrs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xattrs").field("len", &self.rows.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
