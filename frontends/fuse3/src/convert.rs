//! fuse3's types from and to the words of the contract.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aysfs_vfs::kernel::raw::{self, Xattr};
use aysfs_vfs::{
    Attr, Caller, Created, Entry, FileKind, Ino, KernelCache, Lookup, Name, Result, SetTime, Time,
};
use fuse3::raw::Request;
use fuse3::raw::reply::{FileAttr, ReplyAttr, ReplyCreated, ReplyEntry, ReplyXAttr};
use fuse3::{FileType, Timestamp};

/// Inode numbers are never used twice.
pub(crate) const GENERATION: u64 = 0;

// The kernel's flags of an open file (include/uapi/linux/fuse.h).
const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_CACHE_DIR: u32 = 1 << 3;

pub(crate) fn name(name: &OsStr) -> Result<Name> {
    raw::name(name.as_bytes())
}

/// The umask was applied by the kernel.
pub(crate) fn caller(request: Request) -> Caller {
    Caller { uid: request.uid, gid: request.gid, pid: request.pid, umask: 0 }
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
        ino: attr.ino.0,
        size: attr.size,
        blocks: attr.blocks,
        atime: timestamp(attr.atime),
        mtime: timestamp(attr.mtime),
        ctime: timestamp(attr.ctime),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: raw::rdev(attr.kind),
        blksize: Attr::BLOCK_SIZE,
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

fn timestamp(time: Time) -> Timestamp {
    Timestamp::new(time.secs, time.nanos)
}

/// The time of a [`Timestamp`] as it was sent.
pub(crate) fn time(time: Timestamp) -> Time {
    Time { secs: time.sec, nanos: time.nsec }
}

/// How close to the present a time must be to have been `UTIME_NOW`, in nanoseconds.
///
/// fuse3 puts the time of its clock in the place of `UTIME_NOW`, as its last step before it calls us: that takes less than a
/// microsecond. A time that a program took from the clock itself has come through a system call and a context switch since,
/// which take longer than this.
const PRESENT: RangeInclusive<i128> = 0..=2_000;

/// Tells `UTIME_NOW` from a time that a program asked for; `now` is the clock at the beginning of the call.
///
/// If this thread was kept from running in between, `UTIME_NOW` passes for a time: it is right, but a little earlier than the
/// ctime of the same change.
pub(crate) fn set_time(to: Timestamp, now: Time) -> SetTime {
    let to = time(to);
    let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    if PRESENT.contains(&(nanos(now) - nanos(to))) { SetTime::Now } else { SetTime::At(to) }
}

pub(crate) fn entry(entry: &Entry) -> ReplyEntry {
    let ttl = entry.ttl.entry.min(entry.ttl.attr);
    ReplyEntry { ttl, attr: file_attr(&entry.attr), generation: GENERATION }
}

/// Without an inode the entry says that there is none, for as long as the kernel may believe it.
pub(crate) fn found(found: Lookup) -> fuse3::Result<ReplyEntry> {
    match found {
        Lookup::Found(found) => Ok(entry(&found)),
        Lookup::Absent(Duration::ZERO) => Err(fuse3::Errno::new_not_exist()),
        Lookup::Absent(ttl) => {
            Ok(ReplyEntry { ttl, attr: bare_attr(Ino(0), FileKind::Regular), generation: GENERATION })
        }
    }
}

pub(crate) fn attributes(entry: &Entry) -> ReplyAttr {
    ReplyAttr { ttl: entry.ttl.attr, attr: file_attr(&entry.attr) }
}

pub(crate) fn created(Created { entry, opened }: &Created) -> ReplyCreated {
    ReplyCreated {
        // fuse3 makes a thousandth of what is beyond whole seconds: too short, which is harmless.
        ttl: entry.ttl.entry.min(entry.ttl.attr),
        attr: file_attr(&entry.attr),
        generation: GENERATION,
        fh: opened.fh.0,
        flags: file_cache(opened.cache),
    }
}

pub(crate) fn file_cache(cache: KernelCache) -> u32 {
    match cache {
        KernelCache::Keep => FOPEN_KEEP_CACHE,
        KernelCache::Fresh => 0,
        KernelCache::Direct => FOPEN_DIRECT_IO,
    }
}

pub(crate) fn directory_cache(cache: KernelCache) -> u32 {
    match cache {
        KernelCache::Keep => FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE,
        KernelCache::Fresh => FOPEN_CACHE_DIR,
        KernelCache::Direct => 0,
    }
}

pub(crate) fn xattr(answer: Xattr) -> ReplyXAttr {
    match answer {
        Xattr::Length(length) => ReplyXAttr::Size(length),
        Xattr::Value(value) => ReplyXAttr::Data(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_present_is_taken_for_now() {
        let now = Time { secs: 1_700_000_000, nanos: 500 };
        let at = |secs, nanos| set_time(Timestamp::new(secs, nanos), now);
        assert_eq!(at(now.secs, 500), SetTime::Now);
        assert_eq!(at(now.secs - 1, 999_999_000), SetTime::Now);
        for (secs, nanos) in [
            (now.secs, 501),
            (now.secs - 1, 999_998_000),
            (now.secs + 1, 500),
            (0, 0),
            (i64::MIN, 0),
            (i64::MAX, 999_999_999),
        ] {
            assert_eq!(at(secs, nanos), SetTime::At(Time { secs, nanos }));
        }
    }
}
