//! fuser's types and raw flags from and to the words of the contract.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use aysfs_vfs::{
    Attr, Caller, Device, ErrorKind, FallocateMode, FileKind, Ino, KernelCache, Name, NameError, OpenFlags,
    RenameMode, Result, SeekWhence, SetTime, SetXattrMode, Time,
};
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, RenameFlags, Request, TimeOrNow};
use rustix::fs::{FallocateFlags, OFlags, XattrFlags};

pub(crate) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(crate) fn name(name: &OsStr) -> Result<Name> {
    Name::new(name.as_bytes()).map_err(|error| match error {
        NameError::TooLong => ErrorKind::NameTooLong.into(),
        NameError::Empty | NameError::Dots | NameError::Forbidden => ErrorKind::Invalid.into(),
    })
}

pub(crate) fn caller(request: &Request, umask: u16) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

/// The permission bits of an `st_mode`.
pub(crate) fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// What `mknod` is to make.
pub(crate) fn kind(mode: u32, rdev: u32) -> Result<FileKind> {
    use rustix::fs::FileType as Type;
    Ok(match Type::from_raw_mode(mode) {
        Type::RegularFile => FileKind::Regular,
        Type::Fifo => FileKind::Fifo,
        Type::Socket => FileKind::Socket,
        Type::CharacterDevice => FileKind::CharDevice(device(rdev)),
        Type::BlockDevice => FileKind::BlockDevice(device(rdev)),
        Type::Directory | Type::Symlink | Type::Unknown => return Err(ErrorKind::Invalid.into()),
    })
}

/// The kernel's `new_decode_dev`: 12 bits of major number, in the middle of 20 bits of minor number.
fn device(raw: u32) -> Device {
    Device { major: (raw >> 8) & 0xfff, minor: (raw & 0xff) | ((raw >> 12) & 0xfff00) }
}

fn raw_device(device: Device) -> u32 {
    (device.minor & 0xff) | ((device.major & 0xfff) << 8) | ((device.minor & 0xfff00) << 12)
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
        rdev: match attr.kind {
            FileKind::CharDevice(device) | FileKind::BlockDevice(device) => raw_device(device),
            _ => 0,
        },
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

pub(crate) fn open_flags(raw: i32) -> OpenFlags {
    let flags = OFlags::from_bits_retain(raw.cast_unsigned());
    let access = flags & OFlags::RWMODE;
    OpenFlags {
        read: access == OFlags::RDONLY || access == OFlags::RDWR,
        write: access == OFlags::WRONLY || access == OFlags::RDWR,
        truncate: flags.contains(OFlags::TRUNC),
        exclusive: flags.contains(OFlags::EXCL),
        direct: flags.contains(OFlags::DIRECT),
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

pub(crate) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(ErrorKind::Invalid.into())
    }
}

pub(crate) fn fallocate_mode(raw: i32) -> Result<FallocateMode> {
    let flags = FallocateFlags::from_bits_retain(raw.cast_unsigned());
    let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
    let mode = flags - FallocateFlags::KEEP_SIZE;
    if mode.is_empty() {
        Ok(FallocateMode::Allocate { keep_size })
    } else if mode == FallocateFlags::PUNCH_HOLE && keep_size {
        Ok(FallocateMode::PunchHole)
    } else if mode == FallocateFlags::ZERO_RANGE {
        Ok(FallocateMode::ZeroRange { keep_size })
    } else if flags == FallocateFlags::COLLAPSE_RANGE {
        Ok(FallocateMode::CollapseRange)
    } else if flags == FallocateFlags::INSERT_RANGE {
        Ok(FallocateMode::InsertRange)
    } else {
        Err(ErrorKind::NotSupported.into())
    }
}

/// `SEEK_DATA` and `SEEK_HOLE`; the kernel answers the other kinds itself.
pub(crate) fn whence(raw: i32) -> Result<SeekWhence> {
    match raw {
        3 => Ok(SeekWhence::Data),
        4 => Ok(SeekWhence::Hole),
        _ => Err(ErrorKind::Invalid.into()),
    }
}

pub(crate) fn xattr_mode(raw: i32) -> Result<SetXattrMode> {
    let flags = XattrFlags::from_bits_retain(raw.cast_unsigned());
    if flags.is_empty() {
        Ok(SetXattrMode::Set)
    } else if flags == XattrFlags::CREATE {
        Ok(SetXattrMode::Create)
    } else if flags == XattrFlags::REPLACE {
        Ok(SetXattrMode::Replace)
    } else {
        Err(ErrorKind::Invalid.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_that_are_too_long_say_so() {
        let long = [b'x'; 256];
        assert_eq!(name(OsStr::from_bytes(&long)).expect_err("too long").kind(), ErrorKind::NameTooLong);
        assert_eq!(name(OsStr::new("a/b")).expect_err("a slash").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn device_numbers_keep_all_their_bits() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (0xfff, 0xfffff)] {
            let number = Device { major, minor };
            assert_eq!(device(raw_device(number)), number);
        }
        assert_eq!(device(0x0103), Device { major: 1, minor: 3 });
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        // What fuser makes of the kernel's -5 s + 0.25 s.
        let decoded = UNIX_EPOCH - Duration::new(5, 250_000_000);
        assert_eq!(time(decoded), Time { secs: -5, nanos: 250_000_000 });
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(1)), Time { secs: -1, nanos: 0 });
        let later = UNIX_EPOCH + Duration::new(5, 250_000_000);
        assert_eq!(time(later), Time { secs: 5, nanos: 250_000_000 });
    }

    #[test]
    fn fallocate_flags() {
        use FallocateFlags as Flags;
        let mode = |flags: Flags| fallocate_mode(flags.bits().cast_signed());
        assert_eq!(mode(Flags::empty()).expect("known"), FallocateMode::Allocate { keep_size: false });
        assert_eq!(mode(Flags::KEEP_SIZE).expect("known"), FallocateMode::Allocate { keep_size: true });
        assert_eq!(mode(Flags::PUNCH_HOLE | Flags::KEEP_SIZE).expect("known"), FallocateMode::PunchHole);
        assert_eq!(mode(Flags::ZERO_RANGE).expect("known"), FallocateMode::ZeroRange { keep_size: false });
        assert_eq!(mode(Flags::COLLAPSE_RANGE).expect("known"), FallocateMode::CollapseRange);
        assert_eq!(mode(Flags::INSERT_RANGE).expect("known"), FallocateMode::InsertRange);
        for unknown in [Flags::PUNCH_HOLE, Flags::UNSHARE_RANGE, Flags::COLLAPSE_RANGE | Flags::KEEP_SIZE] {
            assert_eq!(mode(unknown).expect_err("unknown").kind(), ErrorKind::NotSupported);
        }
    }

    #[test]
    fn rename_and_xattr_flags() {
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE).expect("known"), RenameMode::Exchange);
        assert_eq!(
            rename_mode(RenameFlags::RENAME_WHITEOUT).expect_err("unknown").kind(),
            ErrorKind::Invalid
        );
        assert_eq!(xattr_mode(1).expect("known"), SetXattrMode::Create);
        assert_eq!(xattr_mode(3).expect_err("both").kind(), ErrorKind::Invalid);
        assert_eq!(whence(0).expect_err("not ours").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn open_modes() {
        let flags = open_flags((OFlags::RDWR | OFlags::TRUNC | OFlags::EXCL).bits().cast_signed());
        assert!(flags.read && flags.write && flags.truncate && flags.exclusive && !flags.direct);
        let flags = open_flags(OFlags::WRONLY.bits().cast_signed());
        assert!(!flags.read && flags.write && !flags.truncate);
    }
}
