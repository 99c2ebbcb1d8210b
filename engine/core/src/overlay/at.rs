//! An inode of the upper directory, and what system calls do with it by name or, when it has none left, by descriptor.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use aysfs_vfs::{Result, SetTime};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, getxattr, lgetxattr, linkat, listxattr, llistxattr, lremovexattr, lsetxattr, openat,
    readlinkat, removexattr, setxattr, statat, utimensat,
};
use rustix::io::Errno;

use super::access;

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
            Self::Named(directory, name) => {
                access::inside(directory, || statat(directory, &**name, AtFlags::SYMLINK_NOFOLLOW))?
            }
            Self::Nameless(fd) => statat(fd, "", AtFlags::EMPTY_PATH)?,
        })
    }

    /// Opens it, if its permissions allow that; it must not be a symlink.
    pub(super) fn try_open(&self, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(match self {
            Self::Named(directory, name) => {
                openat(directory, &**name, flags | OFlags::NOFOLLOW, Mode::empty())?
            }
            Self::Nameless(fd) => openat(CWD, magic_link(fd), flags, Mode::empty())?,
        }
        .into())
    }

    /// Opens it; it must not be a symlink.
    pub(super) fn open(&self, flags: OFlags) -> Result<File> {
        Ok(access::on(self, || self.try_open(flags))?)
    }

    pub(super) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let owned = match self {
            Self::Named(directory, name) => {
                access::inside(directory, || chownat(directory, &**name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            }
            Self::Nameless(fd) => chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
        };
        owned.map_err(Into::into)
    }

    /// Changes permissions; it must not be a symlink, which has none.
    pub(super) fn chmod(&self, perm: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(perm.into());
        let changed = match self {
            Self::Named(directory, name) => {
                access::inside(directory, || chmodat(directory, &**name, mode, AtFlags::empty()))
            }
            Self::Nameless(fd) => chmodat(CWD, magic_link(fd), mode, AtFlags::empty()),
        };
        changed.map_err(Into::into)
    }

    /// Sets the times that are given.
    pub(super) fn set_times(&self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        let set = match self {
            Self::Named(directory, name) => {
                access::inside(directory, || utimensat(directory, &**name, &times, AtFlags::SYMLINK_NOFOLLOW))
            }
            Self::Nameless(fd) => utimensat(CWD, magic_link(fd), &times, AtFlags::empty()),
        };
        set.map_err(Into::into)
    }

    /// The target of a symlink.
    pub(super) fn target(&self) -> Result<Vec<u8>> {
        let target = match self {
            Self::Named(directory, name) => {
                access::inside(directory, || readlinkat(directory, &**name, Vec::new()))?
            }
            Self::Nameless(fd) => readlinkat(fd, "", Vec::new())?,
        };
        Ok(target.into_bytes())
    }

    /// Gives it one more name; an error that says it is not there if it has none left.
    pub(super) fn link(&self, directory: &Arc<OwnedFd>, name: &[u8]) -> Result<()> {
        Ok(access::inside(directory, || match self {
            Self::Named(old, old_name) => {
                access::inside(old, || linkat(old, &**old_name, directory, name, AtFlags::empty()))
            }
            Self::Nameless(fd) => linkat(CWD, magic_link(fd), directory, name, AtFlags::SYMLINK_FOLLOW),
        })?)
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
        access::on(self, || match self {
            Self::Named(directory, at) => lsetxattr(path_of(directory, at), name, value, flags),
            Self::Nameless(fd) => setxattr(magic_link(fd), name, value, flags),
        })
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        access::on(self, || match self {
            Self::Named(directory, at) => lremovexattr(path_of(directory, at), name),
            Self::Nameless(fd) => removexattr(magic_link(fd), name),
        })
    }

    /// Asks with a buffer that is as large as the answer.
    fn grow(&self, ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
        // Most answers are short.
        let mut answer = vec![0; 256];
        loop {
            match access::on(self, || ask(&mut answer)) {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, symlink};

    use super::*;

    fn open(path: &std::path::Path, flags: OFlags) -> Arc<OwnedFd> {
        Arc::new(openat(CWD, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("opened"))
    }

    #[test]
    fn a_file_without_a_name_can_all_that_one_with_a_name_can() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        fs::write(&path, "x").expect("made");
        let directory = open(dir.path(), OFlags::DIRECTORY);
        let named = At::Named(directory.clone(), b"f".to_vec());
        let nameless = At::Nameless(open(&path, OFlags::NOFOLLOW));
        for (at, is_nameless) in [(named, false), (nameless, true)] {
            if is_nameless {
                at.link(&directory, b"other").expect("it has a name");
                fs::remove_file(dir.path().join("other")).expect("removed");
                fs::remove_file(&path).expect("removed");
                assert_eq!(
                    at.link(&directory, b"other").expect_err("it has none").kind(),
                    aysfs_vfs::ErrorKind::NotFound
                );
            }
            let time = SetTime::At(aysfs_vfs::Time { secs: 5, nanos: 6 });
            at.chmod(0o640).expect("changed");
            at.chown(Some(rustix::process::geteuid().as_raw()), None).expect("changed");
            at.set_times(Some(time), Some(time)).expect("changed");
            at.set_xattr(b"user.a", &[u8::from(is_nameless); 700], XattrFlags::empty()).expect("set");
            assert_eq!(at.xattr(b"user.a").expect("read"), Some(vec![u8::from(is_nameless); 700]));
            assert_eq!(at.xattr(b"user.b").expect("read"), None);
            assert_eq!(at.xattrs().expect("listed"), b"user.a\0");
            at.remove_xattr(b"user.a").expect("removed");
            assert_eq!(at.xattrs().expect("listed"), b"");
            let stat = at.stat().expect("there");
            assert_eq!((stat.st_mode & 0o7777, stat.st_mtime, stat.st_mtime_nsec), (0o640, 5, 6));
            at.open(OFlags::RDWR).expect("opened").write_all_at(b"y", 0).expect("written");
        }
    }

    #[test]
    fn symlinks_are_not_followed_with_or_without_a_name() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("target"), "x").expect("made");
        symlink("target", dir.path().join("link")).expect("made");
        let directory = open(dir.path(), OFlags::DIRECTORY);
        let nameless = open(&dir.path().join("link"), OFlags::NOFOLLOW);
        let before = fs::metadata(dir.path().join("target")).expect("there").modified().expect("a time");
        for at in [At::Named(directory, b"link".to_vec()), At::Nameless(nameless)] {
            let time = SetTime::At(aysfs_vfs::Time { secs: 5, nanos: 6 });
            at.set_times(Some(time), Some(time)).expect("changed");
            let stat = at.stat().expect("there");
            assert_eq!(stat.st_mtime, 5);
            assert!(at.open(OFlags::RDONLY).is_err());
            assert!(at.set_xattr(b"user.a", b"1", XattrFlags::empty()).is_err());
        }
        let target = dir.path().join("target");
        assert_eq!(fs::metadata(&target).expect("there").modified().expect("a time"), before);
        assert_eq!(xattr::list(&target).expect("listed").count(), 0);
    }
}
