//! An inode of the upper directory, and what system calls do with it by name or, when it has none left, by descriptor.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use aysfs_vfs::{Result, SetTime};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat,
    chownat, openat, statat, utimensat,
};

use super::marks::path_of;

/// Where an inode of the upper directory is. Symlinks are never followed.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// A name in an open directory.
    Named(Arc<OwnedFd>, Vec<u8>),
    /// What is open as a path only, without a name.
    Nameless(Arc<OwnedFd>),
}

impl At {
    pub(super) fn stat(&self) -> Result<Stat> {
        Ok(match self {
            Self::Named(directory, name) => statat(&**directory, &**name, AtFlags::SYMLINK_NOFOLLOW)?,
            Self::Nameless(fd) => statat(&**fd, "", AtFlags::EMPTY_PATH)?,
        })
    }

    /// A path for calls that take no descriptor.
    pub(super) fn path(&self) -> Result<CString> {
        match self {
            Self::Named(directory, name) => path_of(directory, name),
            Self::Nameless(fd) => Ok(magic_link(fd)),
        }
    }

    /// Opens it; it must not be a symlink.
    pub(super) fn open(&self, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(match self {
            Self::Named(directory, name) => {
                openat(&**directory, &**name, flags | OFlags::NOFOLLOW, Mode::empty())?
            }
            Self::Nameless(fd) => openat(CWD, magic_link(fd), flags, Mode::empty())?,
        }
        .into())
    }

    pub(super) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(match self {
            Self::Named(directory, name) => {
                chownat(&**directory, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Nameless(fd) => chownat(&**fd, "", uid, gid, AtFlags::EMPTY_PATH)?,
        })
    }

    /// Changes permissions; it must not be a symlink, which has none.
    pub(super) fn chmod(&self, perm: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(perm.into());
        Ok(match self {
            Self::Named(directory, name) => chmodat(&**directory, &**name, mode, AtFlags::empty())?,
            Self::Nameless(fd) => chmodat(CWD, magic_link(fd), mode, AtFlags::empty())?,
        })
    }

    /// Sets the times that are given.
    pub(super) fn set_times(&self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        Ok(match self {
            Self::Named(directory, name) => {
                utimensat(&**directory, &**name, &times, AtFlags::SYMLINK_NOFOLLOW)?
            }
            Self::Nameless(fd) => utimensat(CWD, magic_link(fd), &times, AtFlags::empty())?,
        })
    }
}

fn magic_link(fd: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits and letters")
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() },
    }
}
