//! An inode of the upper directory, and what system calls do with it by name or, when it has none left, by descriptor.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use aysfs_vfs::{Result, SetTime};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, getxattr, lgetxattr, linkat, listxattr, llistxattr, lremovexattr, lsetxattr, openat,
    removexattr, setxattr, statat, utimensat,
};
use rustix::io::Errno;

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
        match self {
            Self::Named(directory, name) => {
                chownat(&**directory, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Nameless(fd) => chownat(&**fd, "", uid, gid, AtFlags::EMPTY_PATH)?,
        }
        Ok(())
    }

    /// Changes permissions; it must not be a symlink, which has none.
    pub(super) fn chmod(&self, perm: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(perm.into());
        match self {
            Self::Named(directory, name) => chmodat(&**directory, &**name, mode, AtFlags::empty())?,
            Self::Nameless(fd) => chmodat(CWD, magic_link(fd), mode, AtFlags::empty())?,
        }
        Ok(())
    }

    /// Sets the times that are given.
    pub(super) fn set_times(&self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        match self {
            Self::Named(directory, name) => {
                utimensat(&**directory, &**name, &times, AtFlags::SYMLINK_NOFOLLOW)?
            }
            Self::Nameless(fd) => utimensat(CWD, magic_link(fd), &times, AtFlags::empty())?,
        }
        Ok(())
    }

    /// Gives it one more name; an error that says it is not there if it has none left.
    pub(super) fn link(&self, directory: &OwnedFd, name: &[u8]) -> Result<()> {
        match self {
            Self::Named(old, old_name) => linkat(&**old, &**old_name, directory, name, AtFlags::empty())?,
            Self::Nameless(fd) => linkat(CWD, magic_link(fd), directory, name, AtFlags::SYMLINK_FOLLOW)?,
        }
        Ok(())
    }

    // ---- Extended attributes: the kernel takes a path for them ----

    /// An extended attribute; `None` if it is not there, or if the filesystem has none.
    pub(super) fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.grow(|buffer| match self {
            Self::Named(directory, at) => lgetxattr(path_of(directory, at), name, buffer),
            Self::Nameless(fd) => getxattr(magic_link(fd), name, buffer),
        });
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of all extended attributes, each ended by a NUL byte.
    pub(super) fn xattrs(&self) -> Result<Vec<u8>> {
        let names = self.grow(|buffer| match self {
            Self::Named(directory, at) => llistxattr(path_of(directory, at), buffer),
            Self::Nameless(fd) => listxattr(magic_link(fd), buffer),
        });
        match names {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            names => Ok(names?),
        }
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        match self {
            Self::Named(directory, at) => lsetxattr(path_of(directory, at), name, value, flags),
            Self::Nameless(fd) => setxattr(magic_link(fd), name, value, flags),
        }
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Named(directory, at) => lremovexattr(path_of(directory, at), name),
            Self::Nameless(fd) => removexattr(magic_link(fd), name),
        }
    }

    /// Asks with a buffer that is as large as the answer.
    fn grow(&self, ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
        // Most answers are short.
        let mut answer = vec![0; 256];
        loop {
            match ask(&mut answer) {
                Ok(length) => {
                    answer.truncate(length);
                    return Ok(answer);
                }
                Err(Errno::RANGE) => answer = vec![0; answer.len().max(ask(&mut [])?) + 256],
                Err(error) => return Err(error),
            }
        }
    }
}

/// A name in an open directory as a path.
fn path_of(directory: &OwnedFd, name: &[u8]) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    CString::new(path).expect("a name holds no NUL")
}

/// A path to what is open: followed to it, and not further where it is a symlink itself.
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
