//! What the kernel's overlayfs writes onto the files of an upper directory, and how we read and write the same
//! (Documentation/filesystems/overlayfs.rst).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use aysfs_vfs::Result;
use rustix::fs::{
    AtFlags, FileType, Mode, Stat, XattrFlags, fremovexattr, lgetxattr, lgetxattr_query, lsetxattr, mknodat,
    statat,
};
use rustix::io::Errno;

use super::upper::Upper;

/// Which extended attributes hold the marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `trusted.overlay.*`, of root.
    Trusted,
    /// `user.overlay.*`, of everyone else; the kernel knows no redirect and no metacopy in this form.
    User,
}

/// A mark on a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Of a directory: `y` hides what the base has there, `x` says that whiteouts of the xattr form are in it.
    Opaque,
    /// Where in the base the rest of it is: an absolute path, or another name in the same directory.
    Redirect,
    /// Of a regular file: its content is in the base.
    Metacopy,
    /// Of a regular file whose content is in the base: which content that is. Of ours, not of the kernel's.
    Content,
    /// Of an empty regular file: the name does not exist (the form without a device node).
    Whiteout,
}

impl Form {
    /// The form that this process may write.
    pub(crate) fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Trusted } else { Self::User }
    }

    /// Whether a directory or the attributes of a file can be copied up without what is below them.
    pub(crate) fn has_redirects(self) -> bool {
        self == Self::Trusted
    }

    /// What the names of all marks begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }

    fn name(self, mark: Mark) -> String {
        let mark = match mark {
            Mark::Opaque => "opaque",
            Mark::Redirect => "redirect",
            Mark::Metacopy => "metacopy",
            Mark::Content => "aysfs.content",
            Mark::Whiteout => "whiteout",
        };
        format!("{}{mark}", self.prefix())
    }

    /// The name under which the upper keeps an attribute that a program calls `name`.
    ///
    /// Attributes that look like marks are kept apart from them, as the kernel does it, so that an overlay can be used as
    /// the layer of another one.
    pub(crate) fn kept_name(self, name: &[u8]) -> Vec<u8> {
        match name.strip_prefix(self.prefix().as_bytes()) {
            Some(rest) => [self.prefix().as_bytes(), b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// The name that programs see of an attribute in the upper; `None` for what is ours.
    pub(crate) fn shown_name(self, kept: &[u8]) -> Option<Vec<u8>> {
        match kept.strip_prefix(self.prefix().as_bytes()) {
            Some(ours) => {
                ours.strip_prefix(b"overlay.").map(|escaped| [self.prefix().as_bytes(), escaped].concat())
            }
            None => Some(kept.to_vec()),
        }
    }
}

/// A path by which an extended attribute of a name in an open directory is reached; a symlink is not followed.
pub(crate) fn path_of(directory: &impl AsRawFd, name: &[u8]) -> Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    CString::new(path).map_err(|_| aysfs_vfs::ErrorKind::Invalid.into())
}

impl Upper {
    /// The value of a mark.
    pub(crate) fn mark(&self, directory: &impl AsRawFd, name: &[u8], mark: Mark) -> Result<Option<Vec<u8>>> {
        get(&path_of(directory, name)?, self.form.name(mark).as_bytes())
    }

    /// Sets a mark.
    pub(crate) fn set_mark(
        &self,
        directory: &impl AsRawFd,
        name: &[u8],
        mark: Mark,
        value: &[u8],
    ) -> Result<()> {
        Ok(lsetxattr(path_of(directory, name)?, self.form.name(mark), value, XattrFlags::empty())?)
    }

    /// Takes a mark away from an open file; one that is not there is no error.
    pub(crate) fn clear_mark_of(&self, file: &File, mark: Mark) -> Result<()> {
        match fremovexattr(file, self.form.name(mark)) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a name of an upper directory says that the name does not exist.
    pub(crate) fn is_whiteout(&self, directory: &impl AsRawFd, name: &[u8], stat: &Stat) -> Result<bool> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => Ok(stat.st_rdev == 0),
            FileType::RegularFile if stat.st_size == 0 => {
                Ok(self.mark(directory, name, Mark::Whiteout)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// Makes a whiteout under a new name.
    ///
    /// Without the right to make devices the kernel allows this one since Linux 5.8 (`vfs_mknod`).
    pub(crate) fn make_whiteout(&self, directory: &impl std::os::fd::AsFd, name: &[u8]) -> Result<()> {
        Ok(mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)?)
    }
}

/// An extended attribute; `None` if it is not there, or if the filesystem has none.
pub(crate) fn get(path: &CString, name: &[u8]) -> Result<Option<Vec<u8>>> {
    // Most marks are short; what is not is asked for again.
    let mut value = vec![0; 256];
    loop {
        match lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {
                value = vec![0; lgetxattr_query(path, name)?];
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a name of an open directory is; a symlink is not followed.
pub(crate) fn look(directory: &impl std::os::fd::AsFd, name: &[u8]) -> Result<Stat> {
    Ok(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_attribute_is_read_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = CString::new(file.path().as_os_str().as_encoded_bytes()).expect("a path");
        for length in [0, 255, 256, 257, 2000] {
            let value = vec![b'x'; length];
            lsetxattr(&path, "user.long", &value, XattrFlags::empty()).expect("set");
            assert_eq!(get(&path, b"user.long").expect("got"), Some(value));
        }
        assert_eq!(get(&path, b"user.other").expect("got"), None);
    }

    #[test]
    fn attributes_that_look_like_marks_are_kept_apart() {
        for form in [Form::Trusted, Form::User] {
            for name in ["user.x", "trusted.y", "trusted.overlay.opaque", "user.overlay.overlay.z"] {
                let kept = form.kept_name(name.as_bytes());
                assert_eq!(form.shown_name(&kept).as_deref(), Some(name.as_bytes()), "{form:?}");
            }
            assert_eq!(form.shown_name(format!("{}opaque", form.prefix()).as_bytes()), None);
        }
        assert_eq!(Form::Trusted.kept_name(b"trusted.overlay.opaque"), b"trusted.overlay.overlay.opaque");
    }
}
