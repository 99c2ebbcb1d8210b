//! The filesystem that the kernel sees.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aysfs_flist::{Kind, NodeRef};
use aysfs_store::{Cache, CachedFile, Content, FetchError, Mirror};
use aysfs_vfs::{
    Attr, Caller, Caps, Created, DirEntry, DirSink, Entry, Error, ErrorKind, FallocateMode, Fh, FileKind,
    FileRange, Ino, KernelCache, Lookup, Name, OpenFlags, Opened, RenameMode, Result, SeekWhence, SetAttr,
    SetXattrMode, StatFs, Vfs,
};
use bytes::Bytes;

use crate::base::{self, Base, damaged};
use crate::edition::{Edition, Item, Shown};
use crate::failures::Failures;
use crate::held::Held;
use crate::listed::content_id;
use crate::record::Recorder;

/// How many bits of the cookie of a listing tell the position.
const POSITION_BITS: u32 = 40;

/// How many bases cookies tell apart: as many as fit into a positive number.
const COOKIE_SERIALS: u64 = 1 << 20;

/// The read-only filesystem: a base, and the cache that has or fetches its content.
///
/// It is stateless: since nothing changes before a [`rebase`](Self::rebase), the kernel may read without opening anything, and is allowed to
/// believe everything for a day.
#[derive(Debug)]
pub struct AysFs {
    shown: ArcSwap<Shown>,
    /// Held while a base is replaced.
    pub(crate) rebasing: Mutex<()>,
    pub(crate) held: Held,
    /// Whether the kernel was asked to.
    pub(crate) checks_acls: bool,
    cache: Arc<Cache>,
    stors: Arc<Mirror>,
    failures: Failures,
    pub(crate) recorder: Arc<Recorder>,
}

/// Why a read failed, and of what.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
struct ReadError {
    path: String,
    #[source]
    source: FetchError,
}

impl AysFs {
    /// Shows `base`, and fetches from `stors` what `cache` lacks.
    pub fn new(base: Base, cache: Arc<Cache>, stors: Arc<Mirror>) -> Self {
        Self {
            held: Held::new(base.index().len()),
            checks_acls: base.has_acls(),
            shown: ArcSwap::from_pointee(Shown::first(base)),
            rebasing: Mutex::default(),
            cache,
            stors,
            failures: Failures::default(),
            recorder: Arc::default(),
        }
    }

    /// The tree.
    pub fn base(&self) -> Arc<Base> {
        self.shown.load().now.base.clone()
    }

    /// How many bases are kept: the one that is shown, the one before it, and those of which the kernel holds an inode.
    pub fn bases(&self) -> usize {
        self.shown.load().bases()
    }

    /// What is shown, and what was.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// The base that is shown.
    pub(crate) fn now(&self) -> Arc<Edition> {
        self.shown.load().now.clone()
    }

    /// Shows another one; what nobody holds of the earlier ones is dropped. One at a time.
    pub(crate) fn show(&self, next: Edition, is_held: impl Fn(Ino) -> bool) {
        let shown = self.shown().replaced_by(next, is_held);
        self.shown.store(Arc::new(shown));
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Where content comes from.
    pub(crate) fn stors(&self) -> &Arc<Mirror> {
        &self.stors
    }

    /// An inode of what is shown, or was.
    pub(crate) fn find(&self, ino: Ino) -> Result<Item> {
        let shown = self.shown.load();
        let (edition, node) = shown.locate(ino)?;
        Ok(Item { edition: edition.clone(), node })
    }

    pub(crate) fn find_directory(&self, ino: Ino) -> Result<Item> {
        let item = self.find(ino)?;
        is_directory(&item.of()?)?;
        Ok(item)
    }

    pub(crate) fn find_file(&self, ino: Ino) -> Result<Item> {
        let item = self.find(ino)?;
        is_file(&item.of()?)?;
        Ok(item)
    }

    /// Whether an inode is in the base that is shown.
    pub(crate) fn is_shown(&self, ino: Ino) -> bool {
        self.shown.load().now.numbers.node(ino).is_some()
    }

    /// The attributes of an inode.
    pub(crate) fn base_entry(&self, ino: Ino) -> Result<Entry> {
        self.shown.load().entry(ino)
    }

    /// The cached file of a regular file; `None` if it is empty.
    pub(crate) fn cached(&self, item: &Item) -> Result<Option<CachedFile>> {
        Ok(item.content()?.map(|content| self.cached_content(&content)))
    }

    /// The cached file of a content, whether or not the base has it.
    pub(crate) fn cached_content(&self, content: &Content) -> CachedFile {
        self.cache.file(content, &self.stors)
    }

    /// The path of an inode, for messages.
    pub(crate) fn path(&self, ino: Ino) -> String {
        self.find(ino).map_or_else(|_| format!("inode {ino}"), |item| item.shown_path())
    }

    /// A part of a file that the cache has open, as it has most: by far the shortest way. What is wrong is found on the other.
    fn read_open(&self, of: &NodeRef<'_>, offset: u64, size: u32) -> Option<Bytes> {
        let id = content_id(&of.content().ok()??);
        self.cache.read_open(&id, of.size(), offset, size as usize)
    }
}

fn is_directory(of: &NodeRef<'_>) -> Result<()> {
    if of.kind() == Kind::Directory { Ok(()) } else { Err(ErrorKind::NotADirectory.into()) }
}

fn is_file(of: &NodeRef<'_>) -> Result<()> {
    match of.kind() {
        Kind::Regular => Ok(()),
        Kind::Directory => Err(ErrorKind::IsADirectory.into()),
        _ => Err(ErrorKind::Invalid.into()),
    }
}

/// The answer to everything that would change something.
const READ_ONLY: ErrorKind = ErrorKind::ReadOnly;

#[async_trait]
impl Vfs for AysFs {
    fn caps(&self) -> Caps {
        Caps { stateless: true, posix_acl: self.checks_acls, backing_files: false }
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup> {
        let shown = self.shown.load();
        let (edition, directory) = shown.directory(parent)?;
        let index = edition.base.index();
        let Some(node) = index.lookup(directory.number(), name.as_bytes()).map_err(damaged)? else {
            return Ok(Lookup::Absent(Base::TTL));
        };
        let entry = shown.entry(edition.ino(node))?;
        self.held.count(entry.attr.ino);
        Ok(Lookup::Found(entry))
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.held.forget(ino, count);
    }

    async fn getattr(&self, ino: Ino, _fh: Option<Fh>) -> Result<Entry> {
        self.base_entry(ino)
    }

    async fn setattr(&self, _ino: Ino, _fh: Option<Fh>, _changes: SetAttr) -> Result<Entry> {
        Err(READ_ONLY.into())
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let shown = self.shown.load();
        let (_, of) = shown.find(ino)?;
        match of.kind() {
            Kind::Symlink => Ok(Bytes::copy_from_slice(of.target().map_err(damaged)?)),
            _ => Err(ErrorKind::Invalid.into()),
        }
    }

    async fn mknod(&self, _: Caller, _: Ino, _: &Name, _: FileKind, _: u16) -> Result<Entry> {
        Err(READ_ONLY.into())
    }

    async fn mkdir(&self, _: Caller, _: Ino, _: &Name, _: u16) -> Result<Entry> {
        Err(READ_ONLY.into())
    }

    async fn symlink(&self, _: Caller, _: Ino, _: &Name, _: &[u8]) -> Result<Entry> {
        Err(READ_ONLY.into())
    }

    async fn link(&self, _: Ino, _: Ino, _: &Name) -> Result<Entry> {
        Err(READ_ONLY.into())
    }

    async fn unlink(&self, _: Ino, _: &Name) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn rmdir(&self, _: Ino, _: &Name) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn rename(&self, _: Ino, _: &Name, _: Ino, _: &Name, _: RenameMode) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        is_file(&self.shown.load().find(ino)?.1)?;
        if flags.write || flags.truncate {
            return Err(READ_ONLY.into());
        }
        Ok(Opened { fh: Fh::NONE, cache: KernelCache::Keep, backing: None })
    }

    async fn create(&self, _: Caller, _: Ino, _: &Name, _: u16, _: OpenFlags) -> Result<Created> {
        Err(READ_ONLY.into())
    }

    async fn read(&self, ino: Ino, _fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        let cached = {
            let shown = self.shown.load();
            let (edition, of) = shown.find(ino)?;
            is_file(&of)?;
            self.note_read(edition, &of, ino, offset..offset.saturating_add(size.into()));
            if let Some(bytes) = self.read_open(&of, offset, size) {
                return Ok(bytes);
            }
            let content = edition.base.content_of(&of).map_err(damaged)?;
            let Some(content) = content else { return Ok(Bytes::new()) };
            self.cached_content(&content)
        };
        if self.failures.knows(ino, offset) {
            // Logged already.
            return Err(ErrorKind::Io.into());
        }
        cached.read(offset, size as usize).await.map_err(|source| {
            self.failures.note(ino, offset..offset.saturating_add(size.into()));
            Error::new(ErrorKind::Io, ReadError { path: self.path(ino), source })
        })
    }

    async fn write(&self, _: Ino, _: Fh, _: u64, _: Bytes) -> Result<u32> {
        Err(READ_ONLY.into())
    }

    /// Nothing is ever written: a close needs no message.
    async fn flush(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Err(ErrorKind::Never.into())
    }

    async fn fsync(&self, _ino: Ino, _fh: Fh, _data_only: bool) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Ok(())
    }

    async fn opendir(&self, ino: Ino) -> Result<Opened> {
        is_directory(&self.shown.load().find(ino)?.1)?;
        Ok(Opened { fh: Fh::NONE, cache: KernelCache::Keep, backing: None })
    }

    /// Cookies are positions: 1 and 2 lie behind `.` and `..`, n + 3 behind the child at position n. With them goes which base it
    /// is a position in: a listing that began before a reload goes on behind the name that it had come to.
    async fn readdir(&self, ino: Ino, _fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> Result<()> {
        let shown = self.shown.load();
        let (edition, of) = shown.directory(ino)?;
        let index = edition.base.index();
        let serial = edition.serial % COOKIE_SERIALS;
        let cookie_at = |position: u64| serial << POSITION_BITS | position;
        let (began, position) = (cookie >> POSITION_BITS, cookie & ((1 << POSITION_BITS) - 1));
        for (dots, name, node) in [(1, &b"."[..], of.number()), (2, b"..", of.parent())] {
            if position < dots {
                let next = cookie_at(dots);
                let entry = DirEntry { ino: edition.ino(node), kind: FileKind::Directory, name, next };
                if sink.add(&entry, None).is_break() {
                    return Ok(());
                }
            }
        }
        let mut first = usize::try_from(position.saturating_sub(2)).map_err(|_| ErrorKind::Invalid)?;
        if first > 0 && began != serial {
            first = resumed(&shown, ino, began, first)?.unwrap_or(first);
        }
        let attributes = sink.wants_attributes();
        for (position, child) in index.children(of.number()).map_err(damaged)?.enumerate().skip(first) {
            let (name, node) = child.map_err(damaged)?;
            let child = index.node(node).map_err(damaged)?;
            let ino = edition.ino(node);
            let entry = if attributes { Some(shown.entry(ino)?) } else { None };
            let listed = DirEntry {
                ino,
                kind: base::file_kind(child.kind()),
                name,
                next: cookie_at(position as u64 + 3),
            };
            if sink.add(&listed, entry.as_ref()).is_break() {
                return Ok(());
            }
            if attributes {
                self.held.count(listed.ino);
            }
        }
        Ok(())
    }

    async fn fsyncdir(&self, _ino: Ino, _fh: Fh, _data_only: bool) -> Result<()> {
        Ok(())
    }

    async fn releasedir(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Ok(())
    }

    async fn statfs(&self, _ino: Ino) -> Result<StatFs> {
        let shown = self.shown.load();
        let index = shown.now.base.index();
        Ok(StatFs {
            block_size: Attr::BLOCK_SIZE,
            blocks: index.total_size().div_ceil(Attr::BLOCK_SIZE.into()),
            blocks_free: 0,
            blocks_available: 0,
            files: index.len() as u64,
            files_free: 0,
            name_max: 255,
        })
    }

    async fn fallocate(&self, _: Ino, _: Fh, _: u64, _: u64, _: FallocateMode) -> Result<()> {
        Err(READ_ONLY.into())
    }

    /// Answered from the flist, without fetching: holes are where the packed file had them.
    async fn lseek(&self, ino: Ino, _fh: Fh, offset: u64, whence: SeekWhence) -> Result<u64> {
        let shown = self.shown.load();
        let (_, of) = shown.find(ino)?;
        is_file(&of)?;
        let size = of.size();
        if offset >= size {
            return Err(ErrorKind::NothingThere.into());
        }
        let found = match of.data().map_err(damaged)? {
            Some(segments) => seek(segments, size, offset, whence),
            None => seek(std::iter::once(0..size), size, offset, whence),
        };
        found.ok_or(ErrorKind::NothingThere.into())
    }

    async fn copy_file_range(&self, _: FileRange, _: FileRange, _: u64) -> Result<u64> {
        Err(READ_ONLY.into())
    }

    async fn setxattr(&self, _: Ino, _: &[u8], _: &[u8], _: SetXattrMode) -> Result<()> {
        Err(READ_ONLY.into())
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        let shown = self.shown.load();
        for attribute in shown.find(ino)?.1.xattrs().map_err(damaged)? {
            let (found, value) = attribute.map_err(damaged)?;
            if found == name {
                return Ok(Bytes::copy_from_slice(value));
            }
        }
        Err(ErrorKind::NoData.into())
    }

    async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        let mut names = Vec::new();
        let shown = self.shown.load();
        for attribute in shown.find(ino)?.1.xattrs().map_err(damaged)? {
            let (name, _) = attribute.map_err(damaged)?;
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names.into())
    }

    async fn removexattr(&self, _: Ino, _: &[u8]) -> Result<()> {
        Err(READ_ONLY.into())
    }
}

/// How many children of a directory come before what a listing is to go on with, which had listed `listed` of an earlier base;
/// `None` if nobody knows that one any more.
fn resumed(shown: &Shown, ino: Ino, serial: u64, listed: usize) -> Result<Option<usize>> {
    let Some(began) = shown.earlier(|edition| edition.serial % COOKIE_SERIALS == serial) else {
        return Ok(None);
    };
    let Some(node) = began.numbers.node(ino) else { return Ok(None) };
    let Some((last, _)) = began.base.index().child_at(node, listed - 1).map_err(damaged)? else {
        return Ok(None);
    };
    let (edition, of) = shown.find(ino)?;
    let mut before = 0;
    for child in edition.base.index().children(of.number()).map_err(damaged)? {
        if child.map_err(damaged)?.0 > last {
            break;
        }
        before += 1;
    }
    Ok(Some(before))
}

/// Finds data or a hole at or behind `offset` in a file of `size` bytes; the end counts as a hole.
fn seek(
    segments: impl Iterator<Item = Range<u64>>,
    size: u64,
    offset: u64,
    whence: SeekWhence,
) -> Option<u64> {
    let mut segments = segments.skip_while(|segment| segment.end <= offset);
    match whence {
        SeekWhence::Data => segments.next().map(|segment| segment.start.max(offset)),
        SeekWhence::Hole => {
            // Segments may touch.
            let hole = segments.try_fold(offset, |at, segment| {
                if segment.start <= at { ControlFlow::Continue(segment.end) } else { ControlFlow::Break(at) }
            });
            let (ControlFlow::Continue(at) | ControlFlow::Break(at)) = hole;
            Some(at.min(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeks_between_data_and_holes() {
        let segments = [4096..6000, 6000..8192, 16384..20000];
        let seek = |offset, whence| seek(segments.iter().cloned(), 32768, offset, whence);
        assert_eq!(seek(0, SeekWhence::Data), Some(4096));
        assert_eq!(seek(5000, SeekWhence::Data), Some(5000));
        assert_eq!(seek(8192, SeekWhence::Data), Some(16384));
        assert_eq!(seek(20000, SeekWhence::Data), None);
        assert_eq!(seek(0, SeekWhence::Hole), Some(0));
        assert_eq!(seek(4096, SeekWhence::Hole), Some(8192));
        assert_eq!(seek(17000, SeekWhence::Hole), Some(20000));
        assert_eq!(seek(30000, SeekWhence::Hole), Some(30000));
    }
}
