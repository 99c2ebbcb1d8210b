//! The kernel's messages, as fuse3 decodes them, into calls of the contract.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use aysfs_vfs::kernel::{self, raw};
use aysfs_vfs::{Error, ErrorKind, Fh, FileRange, Ino, SetAttr, Time};
use bytes::Bytes;
use fuse3::notify::Notify;
use fuse3::raw::reply::{
    DirectoryEntry, DirectoryEntryPlus, ReplyAttr, ReplyCopyFileRange, ReplyCreated, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyInit, ReplyLSeek, ReplyOpen, ReplyStatFs,
    ReplyWrite, ReplyXAttr,
};
use fuse3::raw::{Filesystem, Request};
use fuse3::{Inode, Result};
use futures::stream::{self, Stream};
use rustix::io::Errno;
use tokio::sync::watch;

use crate::calls::{Calls, OnInterrupt};
use crate::convert;
use crate::listing::{Entries, Names};
use crate::pause::Pause;

/// Largest write, in bytes; fuse3 has one buffer of this size.
const MAX_WRITE: NonZeroU32 = NonZeroU32::new(1 << 20).expect("not zero");
/// Requests that the kernel sends ahead (readahead, writeback) before it waits for answers. Many: reads for the page
/// cache are among them, so this many slow fetches would hold up the reads of everybody else.
const MAX_BACKGROUND: u16 = 4096;
/// How many of them it takes to call the filesystem congested: what the kernel itself would set.
const CONGESTED: u16 = MAX_BACKGROUND / 4 * 3;
/// The longest target that the kernel takes for an answer, in bytes.
const MAX_TARGET: usize = 4095;

/// fuse3's side of one mount.
///
/// fuse3 holds it until the session is over and the last message has its answer.
pub(crate) struct Adapter {
    calls: Calls,
    stateless: bool,
    pause: Mutex<Option<Pause>>,
    _alive: watch::Sender<()>,
}

impl Adapter {
    /// An adapter that drops `alive` when it is not needed any more.
    pub(crate) fn new(calls: Calls, stateless: bool, pause: Pause, alive: watch::Sender<()>) -> Self {
        Self { calls, stateless, pause: Mutex::new(Some(pause)), _alive: alive }
    }
}

fn errno<T>(errno: Errno) -> Result<T> {
    Err(errno.raw_os_error().into())
}

/// Messages that are not here are never sent with our settings, or need no more than fuse3's answer (`ENOSYS`): access,
/// bmap, poll (the kernel then takes every file as ready, as it is with local ones), ioctl.
impl Filesystem for Adapter {
    async fn init(&self, _request: Request) -> Result<ReplyInit> {
        let mut reply = ReplyInit::new(MAX_WRITE);
        reply.max_background = Some(MAX_BACKGROUND);
        reply.congestion_threshold = Some(CONGESTED);
        Ok(reply)
    }

    async fn ready(&self, _notify: Notify) {
        let pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pause) = pause {
            pause.hold().await;
        }
    }

    async fn destroy(&self, _request: Request) {}

    async fn lookup(&self, request: Request, parent: Inode, name: &OsStr) -> Result<ReplyEntry> {
        // Sent for a file handle (open_by_handle_at) whose inode the kernel has forgotten.
        if matches!(name.as_bytes(), b"." | b"..") {
            return errno(Errno::STALE);
        }
        let name = convert::name(name);
        let found = self.calls.run(request, "lookup", parent, OnInterrupt::Drop, |vfs| async move {
            vfs.lookup(Ino(parent), &name?).await
        });
        convert::found(found.await?)
    }

    async fn forget(&self, _request: Request, ino: Inode, count: u64) {
        self.calls.vfs().forget(Ino(ino), count);
    }

    async fn batch_forget(&self, _request: Request, inodes: &[(Inode, u64)]) {
        for (ino, count) in inodes {
            self.calls.vfs().forget(Ino(*ino), *count);
        }
    }

    async fn getattr(&self, request: Request, ino: Inode, fh: Option<u64>, _flags: u32) -> Result<ReplyAttr> {
        let call = self.calls.run(request, "getattr", ino, OnInterrupt::Drop, |vfs| async move {
            vfs.getattr(Ino(ino), fh.map(Fh)).await
        });
        Ok(convert::attributes(&call.await?))
    }

    async fn setattr(
        &self,
        request: Request,
        ino: Inode,
        fh: Option<u64>,
        changes: fuse3::SetAttr,
    ) -> Result<ReplyAttr> {
        let now = Time::now();
        let changes = SetAttr {
            perm: changes.mode.map(raw::perm),
            uid: changes.uid,
            gid: changes.gid,
            size: changes.size,
            atime: changes.atime.map(|to| convert::set_time(to, now)),
            mtime: changes.mtime.map(|to| convert::set_time(to, now)),
            ctime: changes.ctime.map(convert::time),
        };
        let call = self.calls.run(request, "setattr", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.setattr(Ino(ino), fh.map(Fh), changes).await
        });
        Ok(convert::attributes(&call.await?))
    }

    async fn readlink(&self, request: Request, ino: Inode) -> Result<ReplyData> {
        let call = self.calls.run(request, "readlink", ino, OnInterrupt::Drop, |vfs| async move {
            vfs.readlink(Ino(ino)).await
        });
        let target = call.await?;
        if target.len() > MAX_TARGET { errno(Errno::IO) } else { Ok(target.into()) }
    }

    async fn symlink(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<ReplyEntry> {
        let (name, target) = (convert::name(name), target.as_bytes().to_vec());
        let call = self.calls.run(request, "symlink", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.symlink(convert::caller(request), Ino(parent), &name?, &target).await
        });
        Ok(convert::entry(&call.await?))
    }

    async fn mknod(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        rdev: u32,
    ) -> Result<ReplyEntry> {
        let (name, kind) = (convert::name(name), raw::kind(mode, rdev));
        let call = self.calls.run(request, "mknod", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.mknod(convert::caller(request), Ino(parent), &name?, kind?, raw::perm(mode)).await
        });
        Ok(convert::entry(&call.await?))
    }

    async fn mkdir(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        _umask: u32,
    ) -> Result<ReplyEntry> {
        let name = convert::name(name);
        let call = self.calls.run(request, "mkdir", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.mkdir(convert::caller(request), Ino(parent), &name?, raw::perm(mode)).await
        });
        Ok(convert::entry(&call.await?))
    }

    async fn unlink(&self, request: Request, parent: Inode, name: &OsStr) -> Result<()> {
        let name = convert::name(name);
        let call = self.calls.run(request, "unlink", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.unlink(Ino(parent), &name?).await
        });
        call.await
    }

    async fn rmdir(&self, request: Request, parent: Inode, name: &OsStr) -> Result<()> {
        let name = convert::name(name);
        let call = self.calls.run(request, "rmdir", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.rmdir(Ino(parent), &name?).await
        });
        call.await
    }

    async fn rename(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        new_parent: Inode,
        new_name: &OsStr,
    ) -> Result<()> {
        self.rename2(request, parent, name, new_parent, new_name, 0).await
    }

    async fn rename2(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        new_parent: Inode,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        let (name, new_name) = (convert::name(name), convert::name(new_name));
        let mode = raw::rename_mode(flags);
        let call = self.calls.run(request, "rename", parent, OnInterrupt::Finish, |vfs| async move {
            vfs.rename(Ino(parent), &name?, Ino(new_parent), &new_name?, mode?).await
        });
        call.await
    }

    async fn link(
        &self,
        request: Request,
        ino: Inode,
        new_parent: Inode,
        new_name: &OsStr,
    ) -> Result<ReplyEntry> {
        let name = convert::name(new_name);
        let call = self.calls.run(request, "link", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.link(Ino(ino), Ino(new_parent), &name?).await
        });
        Ok(convert::entry(&call.await?))
    }

    async fn open(&self, request: Request, ino: Inode, flags: u32) -> Result<ReplyOpen> {
        if self.stateless {
            return errno(Errno::NOSYS);
        }
        let flags = raw::open_flags(flags);
        let on_interrupt = if flags.truncate { OnInterrupt::Finish } else { OnInterrupt::Drop };
        let call = self
            .calls
            .run(request, "open", ino, on_interrupt, |vfs| async move { vfs.open(Ino(ino), flags).await });
        let opened = call.await?;
        Ok(ReplyOpen { fh: opened.fh.0, flags: convert::file_cache(opened.cache) })
    }

    async fn create(
        &self,
        request: Request,
        parent: Inode,
        name: &OsStr,
        mode: u32,
        flags: u32,
    ) -> Result<ReplyCreated> {
        let name = convert::name(name);
        let call = self.calls.run(request, "create", parent, OnInterrupt::Finish, |vfs| async move {
            let flags = raw::open_flags(flags);
            vfs.create(convert::caller(request), Ino(parent), &name?, raw::perm(mode), flags).await
        });
        Ok(convert::created(&call.await?))
    }

    async fn read(&self, request: Request, ino: Inode, fh: u64, offset: u64, size: u32) -> Result<ReplyData> {
        let call = self.calls.run(request, "read", ino, OnInterrupt::Drop, |vfs| async move {
            vfs.read(Ino(ino), Fh(fh), offset, size).await
        });
        Ok(call.await?.into())
    }

    async fn write(
        &self,
        request: Request,
        ino: Inode,
        fh: u64,
        offset: u64,
        data: &[u8],
        _write_flags: u32,
        _flags: u32,
    ) -> Result<ReplyWrite> {
        let data = Bytes::copy_from_slice(data);
        let call = self.calls.run(request, "write", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.write(Ino(ino), Fh(fh), offset, data).await
        });
        Ok(ReplyWrite { written: call.await? })
    }

    async fn flush(&self, request: Request, ino: Inode, fh: u64, _lock_owner: u64) -> Result<()> {
        if self.stateless {
            return errno(Errno::NOSYS);
        }
        let call = self.calls.run(request, "flush", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.flush(Ino(ino), Fh(fh)).await
        });
        call.await
    }

    async fn fsync(&self, request: Request, ino: Inode, fh: u64, data_only: bool) -> Result<()> {
        let call = self.calls.run(request, "fsync", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.fsync(Ino(ino), Fh(fh), data_only).await
        });
        call.await
    }

    async fn release(
        &self,
        request: Request,
        ino: Inode,
        fh: u64,
        _flags: u32,
        _lock_owner: u64,
        _flush: bool,
    ) -> Result<()> {
        let call = self.calls.run(request, "release", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.release(Ino(ino), Fh(fh)).await
        });
        call.await
    }

    async fn opendir(&self, request: Request, ino: Inode, _flags: u32) -> Result<ReplyOpen> {
        if self.stateless {
            return errno(Errno::NOSYS);
        }
        let call = self.calls.run(request, "opendir", ino, OnInterrupt::Drop, |vfs| async move {
            vfs.opendir(Ino(ino)).await
        });
        let opened = call.await?;
        Ok(ReplyOpen { fh: opened.fh.0, flags: convert::directory_cache(opened.cache) })
    }

    async fn readdir<'a>(
        &'a self,
        request: Request,
        ino: Inode,
        fh: u64,
        cookie: i64,
    ) -> Result<ReplyDirectory<impl Stream<Item = Result<DirectoryEntry>> + Send + 'a>> {
        let call = self.calls.run(request, "readdir", ino, OnInterrupt::Drop, |vfs| async move {
            let mut page = Names::new();
            let listed = vfs.readdir(Ino(ino), Fh(fh), cookie.cast_unsigned(), &mut page).await;
            page.end(listed)
        });
        Ok(ReplyDirectory { entries: stream::iter(call.await?.into_iter().map(Ok)) })
    }

    async fn readdirplus<'a>(
        &'a self,
        request: Request,
        ino: Inode,
        fh: u64,
        cookie: u64,
        _lock_owner: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>> {
        let call = self.calls.run(request, "readdirplus", ino, OnInterrupt::Drop, |vfs| async move {
            let mut page = Entries::new(Arc::clone(&vfs));
            let listed = vfs.readdir(Ino(ino), Fh(fh), cookie, &mut page).await;
            page.end(listed)
        });
        Ok(ReplyDirectoryPlus { entries: stream::iter(call.await?.into_iter().map(Ok)) })
    }

    async fn releasedir(&self, request: Request, ino: Inode, fh: u64, _flags: u32) -> Result<()> {
        let call = self.calls.run(request, "releasedir", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.releasedir(Ino(ino), Fh(fh)).await
        });
        call.await
    }

    async fn fsyncdir(&self, request: Request, ino: Inode, fh: u64, data_only: bool) -> Result<()> {
        let call = self.calls.run(request, "fsyncdir", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.fsyncdir(Ino(ino), Fh(fh), data_only).await
        });
        call.await
    }

    async fn statfs(&self, request: Request, ino: Inode) -> Result<ReplyStatFs> {
        let call = self
            .calls
            .run(request, "statfs", ino, OnInterrupt::Drop, |vfs| async move { vfs.statfs(Ino(ino)).await });
        let space = call.await?;
        Ok(ReplyStatFs {
            blocks: space.blocks,
            bfree: space.blocks_free,
            bavail: space.blocks_available,
            files: space.files,
            ffree: space.files_free,
            bsize: space.block_size,
            namelen: space.name_max,
            frsize: space.block_size,
        })
    }

    async fn setxattr(
        &self,
        request: Request,
        ino: Inode,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        _position: u32,
    ) -> Result<()> {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let mode = raw::xattr_mode(flags);
        let call = self.calls.run(request, "setxattr", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.setxattr(Ino(ino), &name, &value, mode?).await
        });
        call.await
    }

    async fn getxattr(&self, request: Request, ino: Inode, name: &OsStr, size: u32) -> Result<ReplyXAttr> {
        let name = name.as_bytes().to_vec();
        let call = self.calls.run(request, "getxattr", ino, OnInterrupt::Drop, |vfs| async move {
            raw::xattr(size, vfs.getxattr(Ino(ino), &name).await?)
        });
        Ok(convert::xattr(call.await?))
    }

    async fn listxattr(&self, request: Request, ino: Inode, size: u32) -> Result<ReplyXAttr> {
        let call = self.calls.run(request, "listxattr", ino, OnInterrupt::Drop, |vfs| async move {
            raw::xattr(size, vfs.listxattr(Ino(ino)).await?)
        });
        Ok(convert::xattr(call.await?))
    }

    async fn removexattr(&self, request: Request, ino: Inode, name: &OsStr) -> Result<()> {
        let name = name.as_bytes().to_vec();
        let call = self.calls.run(request, "removexattr", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.removexattr(Ino(ino), &name).await
        });
        call.await
    }

    /// fuse3 answers the interrupt itself: success is the end of it.
    async fn interrupt(&self, _request: Request, unique: u64) -> Result<()> {
        if self.calls.interrupt(unique) { Ok(()) } else { errno(Errno::AGAIN) }
    }

    async fn fallocate(
        &self,
        request: Request,
        ino: Inode,
        fh: u64,
        offset: u64,
        len: u64,
        mode: u32,
    ) -> Result<()> {
        let mode = raw::fallocate_mode(mode);
        let call = self.calls.run(request, "fallocate", ino, OnInterrupt::Finish, |vfs| async move {
            vfs.fallocate(Ino(ino), Fh(fh), offset, len, mode?).await
        });
        call.await
    }

    async fn lseek(
        &self,
        request: Request,
        ino: Inode,
        fh: u64,
        offset: u64,
        whence: u32,
    ) -> Result<ReplyLSeek> {
        let whence = raw::whence(whence);
        let call = self.calls.run(request, "lseek", ino, OnInterrupt::Drop, |vfs| async move {
            // It is signed where it comes from.
            let offset =
                i64::try_from(offset).map(i64::cast_unsigned).map_err(|_| ErrorKind::NothingThere)?;
            vfs.lseek(Ino(ino), Fh(fh), offset, whence?).await
        });
        Ok(ReplyLSeek { offset: call.await? })
    }

    async fn copy_file_range(
        &self,
        request: Request,
        from: Inode,
        from_fh: u64,
        from_offset: u64,
        to: Inode,
        to_fh: u64,
        to_offset: u64,
        len: u64,
        _flags: u64,
    ) -> Result<ReplyCopyFileRange> {
        let source = FileRange { ino: Ino(from), fh: Fh(from_fh), offset: from_offset };
        let target = FileRange { ino: Ino(to), fh: Fh(to_fh), offset: to_offset };
        let call = self.calls.run(request, "copy_file_range", from, OnInterrupt::Finish, |vfs| async move {
            let copied = vfs.copy_file_range(source, target, len.min(kernel::MAX_COPY)).await?;
            u32::try_from(copied).map_err(|error| Error::new(ErrorKind::Io, error))
        });
        Ok(ReplyCopyFileRange { copied: call.await?.into() })
    }
}
