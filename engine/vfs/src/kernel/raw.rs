//! The kernel's raw numbers in the words of the contract, and back (include/uapi/linux/fuse.h).

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

use crate::{
    Device, ErrorKind, FallocateMode, FileKind, Name, NameError, OpenFlags, RenameMode, Result, SeekWhence,
    SetXattrMode,
};

/// A name as the kernel sends it.
///
/// # Errors
/// [`ErrorKind::NameTooLong`] beyond [`Name::MAX`], [`ErrorKind::Invalid`] for what no kernel sends.
pub fn name(bytes: &[u8]) -> Result<Name> {
    Name::new(bytes).map_err(|error| match error {
        NameError::TooLong => ErrorKind::NameTooLong.into(),
        NameError::Empty | NameError::Dots | NameError::Forbidden => ErrorKind::Invalid.into(),
    })
}

/// The permission bits of an `st_mode`.
pub fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// What `mknod` is to make.
///
/// # Errors
/// [`ErrorKind::Invalid`] for directories, symlinks and unknown types: there are other calls for them.
pub fn kind(mode: u32, rdev: u32) -> Result<FileKind> {
    Ok(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice(device(rdev)),
        FileType::BlockDevice => FileKind::BlockDevice(device(rdev)),
        FileType::Directory | FileType::Symlink | FileType::Unknown => return Err(ErrorKind::Invalid.into()),
    })
}

/// The type bits of an `st_mode`.
pub fn type_bits(kind: FileKind) -> u32 {
    let kind = match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice(_) => FileType::CharacterDevice,
        FileKind::BlockDevice(_) => FileType::BlockDevice,
    };
    kind.as_raw_mode()
}

/// The kernel's `new_decode_dev`: 12 bits of major number, in the middle of 20 bits of minor number.
fn device(raw: u32) -> Device {
    Device { major: (raw >> 8) & 0xfff, minor: (raw & 0xff) | ((raw >> 12) & 0xfff00) }
}

/// The device number of a device node, by the kernel's `new_encode_dev`; zero of anything else.
pub fn rdev(kind: FileKind) -> u32 {
    match kind {
        FileKind::CharDevice(Device { major, minor }) | FileKind::BlockDevice(Device { major, minor }) => {
            (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
        }
        _ => 0,
    }
}

/// `__FMODE_EXEC` (linux/fs.h): the open of a program that is started.
const EXECUTE: OFlags = OFlags::from_bits_retain(0o40);

/// The flags of `open` and `create`.
pub fn open_flags(raw: u32) -> OpenFlags {
    let flags = OFlags::from_bits_retain(raw);
    let access = flags & OFlags::RWMODE;
    OpenFlags {
        read: access == OFlags::RDONLY || access == OFlags::RDWR,
        write: access == OFlags::WRONLY || access == OFlags::RDWR,
        truncate: flags.contains(OFlags::TRUNC),
        exclusive: flags.contains(OFlags::EXCL),
        direct: flags.contains(OFlags::DIRECT),
        execute: flags.contains(EXECUTE),
        passthrough: false,
    }
}

/// The flags of `renameat2`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for any other, as local filesystems answer it.
pub fn rename_mode(raw: u32) -> Result<RenameMode> {
    let flags = RenameFlags::from_bits_retain(raw);
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(ErrorKind::Invalid.into())
    }
}

/// The mode of `fallocate`.
///
/// # Errors
/// [`ErrorKind::NotSupported`] for unknown modes and those that make no sense together.
pub fn fallocate_mode(raw: u32) -> Result<FallocateMode> {
    let flags = FallocateFlags::from_bits_retain(raw);
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
///
/// # Errors
/// [`ErrorKind::Invalid`] for those.
pub fn whence(raw: u32) -> Result<SeekWhence> {
    match raw {
        3 => Ok(SeekWhence::Data),
        4 => Ok(SeekWhence::Hole),
        _ => Err(ErrorKind::Invalid.into()),
    }
}

/// The flags of `setxattr`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for unknown flags and for both at once.
pub fn xattr_mode(raw: u32) -> Result<SetXattrMode> {
    let flags = XattrFlags::from_bits_retain(raw);
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

/// The answer to `getxattr` and `listxattr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xattr {
    /// The caller asked for the length.
    Length(u32),
    /// The caller has room for the value.
    Value(Bytes),
}

/// Answers with a value or its length, as the caller's buffer of `room` bytes wants it.
///
/// # Errors
/// [`ErrorKind::BufferTooSmall`] if there is a buffer, and the value does not fit.
pub fn xattr(room: u32, value: Bytes) -> Result<Xattr> {
    match u32::try_from(value.len()) {
        Ok(length) if room == 0 => Ok(Xattr::Length(length)),
        Ok(length) if length <= room => Ok(Xattr::Value(value)),
        _ => Err(ErrorKind::BufferTooSmall.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_too_long_say_so() {
        assert_eq!(name(&[b'x'; 256]).expect_err("too long").kind(), ErrorKind::NameTooLong);
        assert_eq!(name(b"a/b").expect_err("a slash").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn device_numbers_keep_all_their_bits() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (0xfff, 0xfffff)] {
            let number = Device { major, minor };
            assert_eq!(device(rdev(FileKind::CharDevice(number))), number);
        }
        assert_eq!(device(0x0103), Device { major: 1, minor: 3 });
        assert_eq!(rdev(FileKind::Regular), 0);
    }

    #[test]
    fn kinds_and_their_bits() {
        for kind_of in [FileKind::Regular, FileKind::Fifo, FileKind::Socket] {
            assert_eq!(kind(type_bits(kind_of) | 0o640, 0).expect("mknod makes it"), kind_of);
        }
        for kind_of in [FileKind::Directory, FileKind::Symlink] {
            assert_eq!(kind(type_bits(kind_of), 0).expect_err("not by mknod").kind(), ErrorKind::Invalid);
        }
        assert_eq!(perm(0o106_755), 0o6755);
    }

    #[test]
    fn fallocate_flags() {
        use FallocateFlags as Flags;
        let mode = |flags: Flags| fallocate_mode(flags.bits());
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
    fn rename_xattr_and_seek_flags() {
        assert_eq!(rename_mode(RenameFlags::EXCHANGE.bits()).expect("known"), RenameMode::Exchange);
        let unknown = rename_mode(RenameFlags::WHITEOUT.bits());
        assert_eq!(unknown.expect_err("unknown").kind(), ErrorKind::Invalid);
        assert_eq!(xattr_mode(1).expect("known"), SetXattrMode::Create);
        assert_eq!(xattr_mode(3).expect_err("both").kind(), ErrorKind::Invalid);
        assert_eq!(whence(0).expect_err("not ours").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn open_modes() {
        let flags = open_flags((OFlags::RDWR | OFlags::TRUNC | OFlags::EXCL).bits());
        assert!(flags.read && flags.write && flags.truncate && flags.exclusive && !flags.direct);
        let flags = open_flags(OFlags::WRONLY.bits());
        assert!(!flags.read && flags.write && !flags.truncate);
    }

    #[test]
    fn xattrs_fit_the_buffer_or_say_so() {
        let value = Bytes::from_static(b"0123");
        assert_eq!(xattr(0, value.clone()).expect("a length"), Xattr::Length(4));
        assert_eq!(xattr(4, value.clone()).expect("it fits"), Xattr::Value(value.clone()));
        assert_eq!(xattr(3, value).expect_err("too small").kind(), ErrorKind::BufferTooSmall);
    }
}
