//! fuser's types from and to the words of the contract.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Attr, Caller, FileKind, Ino, KernelCache, Name, Result, SetTime, Time};
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow};

pub(crate) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(crate) fn name(name: &OsStr) -> Result<Name> {
    raw::name(name.as_bytes())
}

pub(crate) fn caller(request: &Request, umask: u16) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice(_) => FileType::CharDevice,
        FileKind::BlockDevice(_) => FileType::BlockDevice,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: raw::rdev(attr.kind),
        blksize: Attr::BLOCK_SIZE,
        flags: 0,
    }
}

/// Attributes that say no more than which inode it is, for answers of which the kernel reads no more.
pub(crate) fn bare_attr(ino: Ino, kind: FileKind) -> FileAttr {
    let epoch = Time::default();
    file_attr(&Attr {
        ino,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
    })
}

/// Undoes fuser's decoding of times before 1970: it subtracts the nanoseconds, which count forwards, together
/// with the seconds.
pub(crate) fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => time.into(),
        Err(error) => {
            let before = error.duration();
            Time { secs: 0_i64.wrapping_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

pub(crate) fn set_time(to: TimeOrNow) -> SetTime {
    match to {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(time(at)),
    }
}

pub(crate) fn file_cache(cache: KernelCache) -> FopenFlags {
    match cache {
        KernelCache::Keep => FopenFlags::FOPEN_KEEP_CACHE,
        KernelCache::Fresh => FopenFlags::empty(),
        KernelCache::Direct => FopenFlags::FOPEN_DIRECT_IO,
    }
}

pub(crate) fn directory_cache(cache: KernelCache) -> FopenFlags {
    match cache {
        KernelCache::Keep => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        KernelCache::Fresh => FopenFlags::FOPEN_CACHE_DIR,
        KernelCache::Direct => FopenFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        // What fuser makes of the kernel's -5 s + 0.25 s.
        let decoded = UNIX_EPOCH - Duration::new(5, 250_000_000);
        assert_eq!(time(decoded), Time { secs: -5, nanos: 250_000_000 });
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), Time { secs: -1, nanos: 0 });
        let later = UNIX_EPOCH + Duration::new(5, 250_000_000);
        assert_eq!(time(later), Time { secs: 5, nanos: 250_000_000 });
    }
}
