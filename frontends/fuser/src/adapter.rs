//! The kernel's messages, as fuser decodes them, into calls of the contract.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aysfs_vfs::kernel;
use aysfs_vfs::kernel::raw::{self, Xattr};
use aysfs_vfs::{Created, Entry, Error, ErrorKind, Fh, FileKind, FileRange, Ino, Lookup, SetAttr};
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::convert;
use crate::listing::{Entries, Names};
use crate::session::Adapter;

/// Inode numbers are never used twice.
const GENERATION: Generation = Generation(0);
/// A file that passes through is cached as its backing file; to ask for more (`FOPEN_KEEP_CACHE`) is EIO.
const PASSTHROUGH: FopenFlags = FopenFlags::empty();

fn entry(reply: ReplyEntry, entry: Entry) {
    let ttl = entry.ttl;
    reply.entry_with_ttls(&ttl.attr, &ttl.entry, &convert::file_attr(&entry.attr), GENERATION);
}

fn attributes(reply: ReplyAttr, entry: Entry) {
    reply.attr(&entry.ttl.attr, &convert::file_attr(&entry.attr));
}

fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn data(reply: ReplyData, data: Bytes) {
    reply.data(&data);
}

fn xattr(reply: ReplyXattr, answer: Xattr) {
    match answer {
        Xattr::Length(length) => reply.size(length),
        Xattr::Value(value) => reply.data(&value),
    }
}

/// Messages that are not here are never sent with the settings of `agree` (getlk, setlk, bmap, access), and
/// fuser's answer to them (`ENOSYS`) is right: the kernel does without.
impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agree(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = convert::name(name);
        self.serve(
            "lookup",
            parent,
            reply,
            |vfs| async move { vfs.lookup(convert::ino(parent), &name?).await },
            |reply, found| match found {
                Lookup::Found(found) => entry(reply, found),
                Lookup::Absent(Duration::ZERO) => reply.error(Errno::ENOENT),
                // An entry without an inode: the kernel remembers that there is none.
                Lookup::Absent(ttl) => {
                    let nothing = convert::bare_attr(Ino(0), FileKind::Regular);
                    reply.entry_with_ttls(&Duration::ZERO, &ttl, &nothing, GENERATION);
                }
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.shared().vfs.forget(convert::ino(ino), count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let fh = fh.map(|fh| Fh(fh.0));
        self.serve(
            "getattr",
            ino,
            reply,
            |vfs| async move { vfs.getattr(convert::ino(ino), fh).await },
            attributes,
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes = SetAttr {
            perm: mode.map(raw::perm),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::time),
        };
        let fh = fh.map(|fh| Fh(fh.0));
        let is_given_away = uid.is_some() || gid.is_some();
        let drops = match is_given_away {
            true => self.agreed().drops_privileges,
            false => size.is_some() && self.drops(request),
        };
        self.serve_change(
            "setattr",
            ino,
            drops.then_some(ino),
            reply,
            |vfs| async move { vfs.setattr(convert::ino(ino), fh, changes).await },
            attributes,
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve("readlink", ino, reply, |vfs| async move { vfs.readlink(convert::ino(ino)).await }, data);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let caller = convert::caller(request, self.umask(umask));
        let (name, kind) = (convert::name(name), raw::kind(mode, rdev));
        self.serve(
            "mknod",
            parent,
            reply,
            |vfs| async move {
                vfs.mknod(caller, convert::ino(parent), &name?, kind?, raw::perm(mode)).await
            },
            entry,
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = convert::caller(request, self.umask(umask));
        let name = convert::name(name);
        self.serve(
            "mkdir",
            parent,
            reply,
            |vfs| async move { vfs.mkdir(caller, convert::ino(parent), &name?, raw::perm(mode)).await },
            entry,
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = convert::name(name);
        self.serve(
            "unlink",
            parent,
            reply,
            |vfs| async move { vfs.unlink(convert::ino(parent), &name?).await },
            done,
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = convert::name(name);
        self.serve(
            "rmdir",
            parent,
            reply,
            |vfs| async move { vfs.rmdir(convert::ino(parent), &name?).await },
            done,
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let caller = convert::caller(request, 0);
        let name = convert::name(name);
        let target = target.as_os_str().as_bytes().to_vec();
        self.serve(
            "symlink",
            parent,
            reply,
            |vfs| async move { vfs.symlink(caller, convert::ino(parent), &name?, &target).await },
            entry,
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (convert::name(name), convert::name(new_name));
        let mode = raw::rename_mode(flags.bits());
        self.serve(
            "rename",
            parent,
            reply,
            |vfs| async move {
                let (from, to) = (convert::ino(parent), convert::ino(new_parent));
                vfs.rename(from, &name?, to, &new_name?, mode?).await
            },
            done,
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let name = convert::name(new_name);
        self.serve(
            "link",
            ino,
            reply,
            |vfs| async move { vfs.link(convert::ino(ino), convert::ino(new_parent), &name?).await },
            entry,
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.agreed().no_open {
            return reply.error(Errno::ENOSYS);
        }
        let shared = self.shared();
        let flags = shared.open_flags(flags.0);
        let drops = flags.truncate && self.drops(request);
        self.serve_change(
            "open",
            ino,
            drops.then_some(ino),
            reply,
            |vfs| async move { vfs.open(convert::ino(ino), flags).await },
            move |reply, opened| {
                let fh = FileHandle(opened.fh.0);
                match shared.backing(convert::ino(ino), &opened, |file| reply.open_backing(file)) {
                    Some(backing) => reply.opened_passthrough(fh, PASSTHROUGH, &backing),
                    None => reply.opened(fh, convert::file_cache(shared.cache(&opened))),
                }
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let caller = convert::caller(request, self.umask(umask));
        let name = convert::name(name);
        let shared = self.shared();
        let flags = shared.open_flags(flags);
        self.serve(
            "create",
            parent,
            reply,
            |vfs| async move {
                vfs.create(caller, convert::ino(parent), &name?, raw::perm(mode), flags).await
            },
            move |reply, Created { entry, opened }| {
                let fh = FileHandle(opened.fh.0);
                let attr = convert::file_attr(&entry.attr);
                let ttl = entry.ttl.entry.min(entry.ttl.attr);
                match shared.backing(entry.attr.ino, &opened, |file| reply.open_backing(file)) {
                    Some(backing) => {
                        reply.created_passthrough(&ttl, &attr, GENERATION, fh, PASSTHROUGH, &backing);
                    }
                    None => {
                        let flags = convert::file_cache(shared.cache(&opened));
                        reply.created(&ttl, &attr, GENERATION, fh, flags);
                    }
                }
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(
            "read",
            ino,
            reply,
            |vfs| async move { vfs.read(convert::ino(ino), Fh(fh.0), offset, size).await },
            data,
        );
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let drops =
            self.agreed().drops_privileges && write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.serve_change(
            "write",
            ino,
            drops.then_some(ino),
            reply,
            |vfs| async move { vfs.write(convert::ino(ino), Fh(fh.0), offset, data).await },
            ReplyWrite::written,
        );
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.agreed().no_open {
            return reply.error(Errno::ENOSYS);
        }
        self.serve(
            "flush",
            ino,
            reply,
            |vfs| async move { vfs.flush(convert::ino(ino), Fh(fh.0)).await },
            done,
        );
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.serve(
            "fsync",
            ino,
            reply,
            |vfs| async move { vfs.fsync(convert::ino(ino), Fh(fh.0), data_only).await },
            done,
        );
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared().released(convert::ino(ino));
        self.serve(
            "release",
            ino,
            reply,
            |vfs| async move { vfs.release(convert::ino(ino), Fh(fh.0)).await },
            done,
        );
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.agreed().no_opendir {
            return reply.error(Errno::ENOSYS);
        }
        self.serve(
            "opendir",
            ino,
            reply,
            |vfs| async move { vfs.opendir(convert::ino(ino)).await },
            |reply, opened| reply.opened(FileHandle(opened.fh.0), convert::directory_cache(opened.cache)),
        );
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, cookie: u64, reply: ReplyDirectory) {
        self.list("readdir", ino, fh, cookie, Names::new(reply));
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list("readdirplus", ino, fh, cookie, Entries::new(reply));
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(
            "releasedir",
            ino,
            reply,
            |vfs| async move { vfs.releasedir(convert::ino(ino), Fh(fh.0)).await },
            done,
        );
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.serve(
            "fsyncdir",
            ino,
            reply,
            |vfs| async move { vfs.fsyncdir(convert::ino(ino), Fh(fh.0), data_only).await },
            done,
        );
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.serve(
            "statfs",
            ino,
            reply,
            |vfs| async move { vfs.statfs(convert::ino(ino)).await },
            |reply, space| {
                reply.statfs(
                    space.blocks,
                    space.blocks_free,
                    space.blocks_available,
                    space.files,
                    space.files_free,
                    space.block_size,
                    space.name_max,
                    space.block_size,
                );
            },
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let mode = raw::xattr_mode(flags.cast_unsigned());
        self.serve(
            "setxattr",
            ino,
            reply,
            |vfs| async move { vfs.setxattr(convert::ino(ino), &name, &value, mode?).await },
            done,
        );
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.serve(
            "getxattr",
            ino,
            reply,
            |vfs| async move { raw::xattr(size, vfs.getxattr(convert::ino(ino), &name).await?) },
            xattr,
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(
            "listxattr",
            ino,
            reply,
            |vfs| async move { raw::xattr(size, vfs.listxattr(convert::ino(ino)).await?) },
            xattr,
        );
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.serve(
            "removexattr",
            ino,
            reply,
            |vfs| async move { vfs.removexattr(convert::ino(ino), &name).await },
            done,
        );
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Never: the kernel then takes every file as ready, as it is with local ones.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = raw::fallocate_mode(mode.cast_unsigned());
        self.serve_change(
            "fallocate",
            ino,
            self.drops(request).then_some(ino),
            reply,
            |vfs| async move { vfs.fallocate(convert::ino(ino), Fh(fh.0), offset, len, mode?).await },
            done,
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let whence = raw::whence(whence.cast_unsigned());
        self.serve(
            "lseek",
            ino,
            reply,
            |vfs| async move {
                let offset = u64::try_from(offset).map_err(|_| ErrorKind::NothingThere)?;
                vfs.lseek(convert::ino(ino), Fh(fh.0), offset, whence?).await
            },
            |reply, offset| reply.offset(offset.cast_signed()),
        );
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let source = FileRange { ino: convert::ino(from), fh: Fh(from_fh.0), offset: from_offset };
        let target = FileRange { ino: convert::ino(to), fh: Fh(to_fh.0), offset: to_offset };
        self.serve_change(
            "copy_file_range",
            from,
            self.drops(request).then_some(to),
            reply,
            |vfs| async move {
                let copied = vfs.copy_file_range(source, target, len.min(kernel::MAX_COPY)).await?;
                u32::try_from(copied).map_err(|error| Error::new(ErrorKind::Io, error))
            },
            ReplyWrite::written,
        );
    }
}
