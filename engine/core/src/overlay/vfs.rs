//! The calls of the contract.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use aysfs_store::Content;
use aysfs_vfs::{
    Attr, Caller, Caps, Created, DirEntry, DirSink, Entry, Error, ErrorKind, FallocateMode, Fh, FileKind,
    FileRange, Ino, KernelCache, Lookup, Name, OpenFlags, Opened, RenameMode, Result, SeekWhence, SetAttr,
    SetTime, SetXattrMode, StatFs, Vfs,
};
use bytes::Bytes;
use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, XattrFlags, fallocate, fstatvfs, fsync, openat, seek,
};

use super::at::At;
use super::change::New;
use super::open::{Listing, UpperFile};
use super::raise::{Need, Turn, lost, open_upper};
use super::tree::{Data, Found, Origin, Tree, entry_of, listed_kind};
use super::{Inner, Overlay, blocking};
use crate::base::{Base, LENDS_RIGHTS};

/// What one `copy_file_range` copies at most where the bytes have to go through memory.
const COPY_CHUNK: u64 = 4 << 20;

/// The handle of a program that runs. All others of files are alike.
const RUNNING: Fh = Fh(1);

/// Where content is.
enum Source {
    Upper(Arc<File>),
    Base(Ino),
    Replaced(Arc<Content>),
}

impl Inner {
    fn found(&self, found: Found) -> Result<Entry> {
        let mut tree = self.tree();
        let entry = tree.attr(&self.w, found.ino())?;
        tree.count_lookup(found.ino());
        Ok(entry)
    }

    fn reap(&self, ino: Ino) {
        self.tree().reap(&self.w, ino, self.open.is_open(ino));
    }

    fn release(&self, ino: Ino) {
        if self.open.release(ino) {
            self.reap(ino);
        }
    }

    /// Where the content of a file is.
    fn source(&self, ino: Ino) -> Result<Source> {
        loop {
            if let Some(file) = self.upper_file(ino)? {
                return Ok(Source::Upper(file));
            }
            match self.tree().leaf(ino).map(|leaf| &leaf.data) {
                None => return Ok(Source::Base(ino)),
                Some(Data::Below(Origin::Base(of))) => return Ok(Source::Base(*of)),
                Some(Data::Below(Origin::Replaced(content))) => return Ok(Source::Replaced(content.clone())),
                Some(Data::Below(Origin::Lost)) => return Err(lost()),
                // It was copied up a moment ago.
                Some(Data::Here) => {}
            }
        }
    }

    /// Opens a file where it is now. The lock of the tree is held meanwhile, so that it cannot be copied up unnoticed.
    fn opened(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let writes = flags.write || flags.truncate;
        let mut tree = self.tree();
        let backing = if self.is_in_upper(&tree, ino)? {
            if writes {
                tree.may_be_dirty(&self.w, &self.sending, ino)?;
            }
            let at = tree.at(&self.w, ino)?;
            self.open.open_upper(ino, writes, || open_upper(&at, writes))?
        } else {
            let lend = || self.lending.lend(&self.w, &tree, &self.turns, ino);
            let hold = || {
                let below = match tree.leaf(ino).map(|leaf| &leaf.data) {
                    Some(Data::Below(Origin::Base(below))) => *below,
                    Some(Data::Below(Origin::Replaced(content))) => {
                        return Some(self.w.lower.cached_content(content).hold());
                    }
                    _ => ino,
                };
                let item = self.w.lower.find_file(below).ok()?;
                Some(self.w.lower.cached(&item).ok()??.hold())
            };
            // Whoever records what is read would not see it.
            let may_lend = flags.passthrough && !self.w.lower.recorder().is_on();
            let backing = self.open.open_base(ino, || may_lend.then(lend).flatten(), hold);
            if backing.is_some() {
                self.w.lower.note_read_of_all(ino);
            }
            backing
        };
        Ok(Opened { fh: Fh::NONE, cache: KernelCache::Keep, backing })
    }

    /// Whether the content of a regular file is in the upper.
    fn is_in_upper(&self, tree: &Tree, ino: Ino) -> Result<bool> {
        match tree.leaf(ino) {
            Some(leaf) if leaf.kind == FileType::RegularFile => Ok(matches!(leaf.data, Data::Here)),
            Some(_) => Err(ErrorKind::Invalid.into()),
            None if tree.directory(&self.w, ino).is_ok() => Err(ErrorKind::IsADirectory.into()),
            None => self.w.lower.find_file(ino).map(|_| false),
        }
    }

    /// The descriptor of an open file of the upper; `None` while its content is in the base.
    fn upper_file(&self, ino: Ino) -> Result<Option<Arc<File>>> {
        if let Some(file) = self.open.file(ino) {
            return Ok(Some(file));
        }
        let mut tree = self.tree();
        if !self.is_in_upper(&tree, ino)? {
            return Ok(None);
        }
        // It could not be opened when it was copied up.
        let opened = open_upper(&tree.at(&self.w, ino)?, false)?;
        self.open.switch(ino, opened.clone());
        Ok(Some(opened.file))
    }

    /// The same, of a file that is open for writing.
    fn writable_file(&self, ino: Ino) -> Result<Arc<std::fs::File>> {
        self.open.writable_file(ino).ok_or_else(|| ErrorKind::BadHandle.into())
    }

    /// The files with content of the base that the kernel may have some of.
    fn held_files(&self) -> Vec<Ino> {
        let tree = self.tree();
        tree.lookups
            .keys()
            .filter(|ino| matches!(self.is_in_upper(&tree, **ino), Ok(false)))
            .copied()
            .collect()
    }

    fn list(&self, ino: Ino, fh: Fh, cookie: u64) -> Result<Listing> {
        // A listing that starts again shows what is there now.
        if cookie > 0
            && let Some(listing) = self.open.listing(fh)
        {
            return Ok(listing);
        }
        let listing = Arc::new(self.tree().list(&self.w, ino)?);
        self.open.keep_listing(fh, &listing);
        Ok(listing)
    }

    /// Makes the attributes of an inode changeable, and says where it is. They are to be changed while the [`Turn`] is held.
    async fn changeable(self: &Arc<Self>, ino: Ino, need: Need) -> Result<(At, Turn)> {
        {
            let mut tree = self.tree();
            match tree.directory(&self.w, ino) {
                Ok(_) => return Ok((tree.changeable_directory(&self.w, ino)?, Turn::NotNeeded)),
                Err(error) if error.kind() == ErrorKind::NotADirectory => {}
                Err(error) => return Err(error),
            }
        }
        let turn = self.raise(ino, need).await?;
        Ok((self.tree().at(&self.w, ino)?, turn))
    }

    /// Where an inode is in the upper; `None` if it is only in the base.
    fn in_upper(&self, ino: Ino) -> Result<Option<At>> {
        let mut tree = self.tree();
        if tree.is_in_upper(ino) { tree.at(&self.w, ino).map(Some) } else { Ok(None) }
    }

    /// Copies up what a name leads to, if it is a file of the base.
    async fn raise_name(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        let found = self.tree().find(&self.w, parent, name)?;
        match found {
            Some(Found::Base(ino, kind)) if kind != FileType::Directory => {
                self.raise(ino, Need::Attributes).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn make(&self, caller: Caller, parent: Ino, name: &Name, new: &New<'_>, perm: u16) -> Result<Entry> {
        let mut tree = self.tree();
        let made = tree.make(&self.w, caller, parent, name, new, perm)?;
        let entry = tree.attr(&self.w, made.ino)?;
        tree.count_lookup(made.ino);
        Ok(entry)
    }

    /// Makes a file, and opens it.
    fn created(&self, caller: Caller, parent: Ino, name: &Name, perm: u16) -> Result<Created> {
        let mut tree = self.tree();
        let made = tree.make(&self.w, caller, parent, name, &New::Node(FileKind::Regular), perm)?;
        let (file, stat) = made.file.ok_or(ErrorKind::Io)?;
        let entry = entry_of(made.ino, &stat)?;
        let open = || Ok::<_, Error>(UpperFile::new(file, true, &stat));
        let backing = self.open.open_upper(made.ino, true, open)?;
        tree.count_lookup(made.ino);
        Ok(Created { entry, opened: Opened { fh: Fh::NONE, cache: KernelCache::Keep, backing } })
    }
}

impl Overlay {
    /// The same as [`AysFs::held_files`](crate::AysFs::held_files), of what is not copied up.
    pub fn held_files(&self) -> Vec<Ino> {
        self.0.held_files()
    }
}

#[async_trait]
impl Vfs for Overlay {
    fn caps(&self) -> Caps {
        Caps { stateless: false, posix_acl: true, backing_files: true }
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup> {
        let mut tree = self.0.tree();
        let Some(found) = tree.find(&self.0.w, parent, name)? else {
            return Ok(Lookup::Absent(Base::TTL));
        };
        let entry = tree.attr(&self.0.w, found.ino())?;
        tree.count_lookup(found.ino());
        Ok(Lookup::Found(entry))
    }

    fn forget(&self, ino: Ino, count: u64) {
        let mut tree = self.0.tree();
        tree.forget(ino, count);
        // Asked for under the lock: the last handle may be released at the same time.
        tree.reap(&self.0.w, ino, self.0.open.is_open(ino));
    }

    async fn getattr(&self, ino: Ino, _fh: Option<Fh>) -> Result<Entry> {
        self.0.tree().attr(&self.0.w, ino)
    }

    async fn setattr(&self, ino: Ino, _fh: Option<Fh>, changes: SetAttr) -> Result<Entry> {
        let need = match changes.size {
            Some(0) => Need::NoContent,
            Some(_) => Need::Content,
            None => Need::Attributes,
        };
        if changes.size.is_some() {
            // Others have none that can be changed, and a fifo would be waited for.
            self.0.is_in_upper(&self.0.tree(), ino)?;
        }
        let (at, _turn) = self.0.changeable(ino, need).await?;
        if changes.size.is_some() || changes.mtime.is_some() {
            self.0.tree().may_be_dirty(&self.0.w, &self.0.sending, ino)?;
        }
        let before = at.stat()?;
        if let Some(size) = changes.size {
            let file = match self.0.open.writable_file(ino) {
                Some(file) => file,
                None => Arc::new(at.open(OFlags::WRONLY)?),
            };
            file.set_len(size)?;
            if u64::try_from(before.st_size) == Ok(size) {
                // The local filesystem sees no change.
                at.set_times(None, Some(SetTime::Now))?;
            }
        }
        let is_symlink = FileType::from_raw_mode(before.st_mode) == FileType::Symlink;
        if changes.uid.is_some() || changes.gid.is_some() {
            at.chown(changes.uid, changes.gid)?;
        }
        let kept = aysfs_vfs::kernel::raw::perm(before.st_mode);
        // A new owner takes set-uid away; that is for the caller to ask.
        let perm = changes
            .perm
            .or((kept & LENDS_RIGHTS != 0 && changes.uid.or(changes.gid).is_some()).then_some(kept));
        if let Some(perm) = perm
            && !is_symlink
        {
            at.chmod(perm)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            at.set_times(changes.atime, changes.mtime)?;
        }
        let mut tree = self.0.tree();
        if changes.size.is_some() || changes.mtime.is_some() {
            // A push may have come in between, and a time that is set could hide a change.
            tree.may_be_dirty(&self.0.w, &self.0.sending, ino)?;
        }
        tree.attr(&self.0.w, ino)
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let at = match self.0.tree().leaf(ino).map(|leaf| leaf.kind) {
            None => None,
            Some(FileType::Symlink) => Some(()),
            Some(_) => return Err(ErrorKind::Invalid.into()),
        };
        match at {
            None => self.0.w.lower.readlink(ino).await,
            Some(()) => Ok(self.0.tree().at(&self.0.w, ino)?.target()?.into()),
        }
    }

    async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        perm: u16,
    ) -> Result<Entry> {
        self.0.make(caller, parent, name, &New::Node(kind), perm)
    }

    async fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, perm: u16) -> Result<Entry> {
        self.0.make(caller, parent, name, &New::Directory, perm)
    }

    async fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        self.0.make(caller, parent, name, &New::Symlink(target), 0o777)
    }

    async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        if self.0.tree().directory(&self.0.w, ino).is_ok() {
            return Err(ErrorKind::NotPermitted.into());
        }
        let _turn = self.0.raise(ino, Need::Attributes).await?;
        let mut tree = self.0.tree();
        tree.link(&self.0.w, ino, parent, name)?;
        let entry = tree.attr(&self.0.w, ino)?;
        tree.count_lookup(ino);
        Ok(entry)
    }

    async fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        let gone = self.0.tree().unlink(&self.0.w, parent, name)?;
        self.0.reap(gone);
        Ok(())
    }

    async fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        let gone = self.0.tree().rmdir(&self.0.w, parent, name)?;
        self.0.reap(gone);
        Ok(())
    }

    async fn rename(&self, from: Ino, name: &Name, to: Ino, new_name: &Name, mode: RenameMode) -> Result<()> {
        self.0.raise_name(from, name).await?;
        if mode == RenameMode::Exchange {
            self.0.raise_name(to, new_name).await?;
        }
        let replaced = self.0.tree().rename(&self.0.w, (from, name), (to, new_name), mode)?;
        if let Some(gone) = replaced {
            self.0.reap(gone);
        }
        Ok(())
    }

    async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        self.0.is_in_upper(&self.0.tree(), ino)?;
        if !flags.write && !flags.truncate {
            let opened = self.0.opened(ino, flags)?;
            if flags.execute {
                self.0.open.run(ino);
                return Ok(Opened { fh: RUNNING, ..opened });
            }
            return Ok(opened);
        }
        if !flags.write && self.0.open.is_running(ino) {
            return Err(ErrorKind::TextBusy.into());
        }
        let _turn = self.0.raise(ino, if flags.truncate { Need::NoContent } else { Need::Content }).await?;
        let opened = self.0.opened(ino, flags)?;
        if flags.truncate {
            let truncated = self.0.writable_file(ino).and_then(|file| Ok(file.set_len(0)?));
            let touched = truncated
                .and_then(|()| self.0.tree().at(&self.0.w, ino)?.set_times(None, Some(SetTime::Now)));
            touched.inspect_err(|_| self.0.release(ino))?;
        }
        Ok(opened)
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        perm: u16,
        flags: OpenFlags,
    ) -> Result<Created> {
        let known = self.0.tree().find(&self.0.w, parent, name)?;
        let (found, flags) = match known {
            Some(_) if flags.exclusive => return Err(ErrorKind::Exists.into()),
            Some(found) if found.is_directory() => return Err(ErrorKind::IsADirectory.into()),
            Some(found) => (found, flags),
            None => {
                // There is nothing to truncate, and the times are those of the making.
                return self.0.created(caller, parent, name, perm);
            }
        };
        let opened = self.open(found.ino(), flags).await?;
        let entry = self.0.found(found).inspect_err(|_| self.0.release(found.ino()))?;
        Ok(Created { entry, opened })
    }

    async fn read(&self, ino: Ino, _fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        match self.0.source(ino)? {
            Source::Upper(file) => read_at(&file, offset, size as usize),
            Source::Base(ino) => self.0.w.lower.read(ino, Fh::NONE, offset, size).await,
            Source::Replaced(content) => {
                let cached = self.0.w.lower.cached_content(&content);
                cached.read(offset, size as usize).await.map_err(|error| Error::new(ErrorKind::Io, error))
            }
        }
    }

    async fn write(&self, ino: Ino, _fh: Fh, offset: u64, data: Bytes) -> Result<u32> {
        let file = self.0.writable_file(ino)?;
        let written = match write_at(&file, &data, offset) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                let layers = self.0.clone();
                // Cached content has to go first.
                blocking(move || {
                    layers.w.lower.cache().make_space(data.len() as u64);
                    write_at(&file, &data, offset)
                })
                .await?
            }
            written => written?,
        };
        u32::try_from(written).map_err(|_| ErrorKind::Invalid.into())
    }

    /// Whatever was written is in the local filesystem already: a close needs no message.
    async fn flush(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Err(ErrorKind::Never.into())
    }

    async fn fsync(&self, ino: Ino, _fh: Fh, data_only: bool) -> Result<()> {
        let file = match self.0.upper_file(ino)? {
            Some(file) => file,
            None => match self.0.in_upper(ino)? {
                // Its content is that of the base, but it has attributes of its own.
                Some(at) => Arc::new(at.open(OFlags::RDONLY)?),
                None => return Ok(()),
            },
        };
        // The mark of what was pushed must not outlive the data that it was of.
        let mark = self.0.tree().leaf_mut(ino).is_some_and(|leaf| std::mem::take(&mut leaf.has_new_mark));
        let data_only = data_only && !mark;
        blocking(move || Ok(if data_only { file.sync_data() } else { file.sync_all() }?)).await
    }

    async fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        if fh == RUNNING {
            self.0.open.stop(ino);
        }
        self.0.release(ino);
        Ok(())
    }

    async fn opendir(&self, ino: Ino) -> Result<Opened> {
        self.0.tree().directory(&self.0.w, ino)?;
        // The kernel goes on with a listing that another handle began; cookies are positions in that of one handle.
        Ok(Opened { fh: self.0.open.open_directory(ino), cache: KernelCache::Direct, backing: None })
    }

    /// Cookies are positions in the listing as it was when it began: 1 and 2 lie behind `.` and `..`.
    async fn readdir(&self, ino: Ino, fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> Result<()> {
        let parent = self.0.tree().parent(&self.0.w, ino)?;
        for (dots, name, of) in [(1, &b"."[..], ino), (2, b"..", parent)] {
            if cookie < dots {
                let entry = DirEntry { ino: of, kind: FileKind::Directory, name, next: dots };
                if sink.add(&entry, None).is_break() {
                    return Ok(());
                }
            }
        }
        let listing = self.0.list(ino, fh, cookie)?;
        let first = usize::try_from(cookie.saturating_sub(2)).map_err(|_| ErrorKind::Invalid)?;
        for (position, (name, _)) in listing.iter().enumerate().skip(first) {
            let (found, entry) = {
                let mut tree = self.0.tree();
                // The name may be gone since the listing began, or lead to something else: the kernel believes what it gets.
                let Some(found) = tree.find(&self.0.w, ino, name)? else { continue };
                let attributes = sink.wants_attributes().then(|| tree.attr(&self.0.w, found.ino()));
                (found, attributes.transpose()?)
            };
            let listed = DirEntry {
                ino: found.ino(),
                kind: listed_kind(found.kind()),
                name: name.as_bytes(),
                next: position as u64 + 3,
            };
            match sink.add(&listed, entry.as_ref()) {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(()) if entry.is_some() => self.0.tree().count_lookup(found.ino()),
                ControlFlow::Continue(()) => {}
            }
        }
        Ok(())
    }

    async fn fsyncdir(&self, ino: Ino, _fh: Fh, _data_only: bool) -> Result<()> {
        let directory = {
            let mut tree = self.0.tree();
            match tree.directory(&self.0.w, ino)? {
                (_, true, _) => tree.descriptor(&self.0.w, ino)?,
                (_, false, _) => return Ok(()),
            }
        };
        blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(fsync(openat(&directory, ".", flags, rustix::fs::Mode::empty())?)?)
        })
        .await
    }

    async fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.0.open.release_directory(ino, fh);
        self.0.reap(ino);
        Ok(())
    }

    async fn statfs(&self, _ino: Ino) -> Result<StatFs> {
        let space = fstatvfs(self.0.w.upper.root.as_fd())?;
        Ok(StatFs {
            block_size: u32::try_from(space.f_frsize).unwrap_or(Attr::BLOCK_SIZE),
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            name_max: 255,
        })
    }

    async fn fallocate(&self, ino: Ino, _fh: Fh, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        let keep = |keep_size| if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        let flags = match mode {
            FallocateMode::Allocate { keep_size } => keep(keep_size),
            FallocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateMode::ZeroRange { keep_size } => FallocateFlags::ZERO_RANGE | keep(keep_size),
            FallocateMode::CollapseRange => FallocateFlags::COLLAPSE_RANGE,
            FallocateMode::InsertRange => FallocateFlags::INSERT_RANGE,
        };
        Ok(fallocate(&*self.0.writable_file(ino)?, flags, offset, len)?)
    }

    async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: SeekWhence) -> Result<u64> {
        let file = match (self.0.source(ino)?, whence) {
            (Source::Upper(file), _) => file,
            (Source::Base(ino), _) => return self.0.w.lower.lseek(ino, fh, offset, whence).await,
            (Source::Replaced(content), _) if offset >= content.size => {
                return Err(ErrorKind::NothingThere.into());
            }
            (Source::Replaced(_), SeekWhence::Data) => return Ok(offset),
            (Source::Replaced(content), SeekWhence::Hole) => return Ok(content.size),
        };
        let offset = i64::try_from(offset).map_err(|_| ErrorKind::NothingThere)?;
        let to = match whence {
            SeekWhence::Data => SeekFrom::Data(offset.unsigned_abs()),
            SeekWhence::Hole => SeekFrom::Hole(offset.unsigned_abs()),
        };
        // The position of the descriptor is nobody's: reads and writes name theirs.
        Ok(seek(&*file, to)?)
    }

    async fn copy_file_range(&self, from: FileRange, to: FileRange, len: u64) -> Result<u64> {
        let target = self.0.writable_file(to.ino)?;
        let Some(source) = self.0.upper_file(from.ino)? else {
            let chunk = u32::try_from(len.min(COPY_CHUNK)).expect("less than COPY_CHUNK");
            let bytes = self.read(from.ino, from.fh, from.offset, chunk).await?;
            return Ok(write_at(&target, &bytes, to.offset)? as u64);
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        blocking(move || {
            let (mut read_at, mut write_at) = (from.offset, to.offset);
            let copied = rustix::fs::copy_file_range(
                &*source,
                Some(&mut read_at),
                &*target,
                Some(&mut write_at),
                len,
            )?;
            Ok(copied as u64)
        })
        .await
    }

    async fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> Result<()> {
        let (at, _turn) = self.0.changeable(ino, Need::Attributes).await?;
        let flags = match mode {
            SetXattrMode::Set => XattrFlags::empty(),
            SetXattrMode::Create => XattrFlags::CREATE,
            SetXattrMode::Replace => XattrFlags::REPLACE,
        };
        at.set_xattr(&self.0.w.upper.form.kept_name(name), value, flags)?;
        self.0.tree().may_have_xattr(ino, name);
        Ok(())
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        if let Some(value) = self.0.tree().xattr(&self.0.w, ino, name)? {
            return value.map(Bytes::from).ok_or_else(|| ErrorKind::NoData.into());
        }
        self.0.w.lower.getxattr(ino, name).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        let Some(at) = self.0.in_upper(ino)? else { return self.0.w.lower.listxattr(ino).await };
        let mut shown = Vec::new();
        for name in at.xattrs()?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if let Some(name) = self.0.w.upper.form.shown_name(name) {
                shown.extend_from_slice(&name);
                shown.push(0);
            }
        }
        Ok(shown.into())
    }

    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        let (at, _turn) = self.0.changeable(ino, Need::Attributes).await?;
        Ok(at.remove_xattr(&self.0.w.upper.form.kept_name(name))?)
    }
}

/// Up to `size` bytes of a file, fewer only at its end.
fn read_at(file: &File, offset: u64, size: usize) -> Result<Bytes> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

/// Writes as much as there is room for; it is an error only if that is nothing.
fn write_at(file: &std::fs::File, data: &[u8], offset: u64) -> Result<usize> {
    let mut written = 0;
    while written < data.len() {
        match file.write_at(&data[written..], offset + written as u64) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if written == 0 => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(written)
}
