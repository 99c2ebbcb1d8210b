//! What the kernel's overlayfs writes onto the files of an upper directory, and how we read and write the same
//! (Documentation/filesystems/overlayfs.rst).

use std::fs::File;
use std::os::fd::AsFd;

use aysfs_vfs::{Device, ErrorKind, Result};
use rustix::fs::{Dev, FileType, Mode, Stat, XattrFlags, fremovexattr, fsetxattr, makedev, mknodat};
use rustix::io::Errno;

use super::at::At;
use super::upper::Upper;

/// As what a character device 0:0 is kept that is no whiteout, though it has the number of one. The kernel's overlayfs refuses
/// to make such a device; programs that unpack archives do make it. Major number 0 belongs to no driver.
const ZERO_DEVICE: Device = Device { major: 0, minor: (1 << 20) - 1 };

/// The number under which the upper keeps a character device.
pub(super) fn kept_device(device: Device) -> Result<Dev> {
    match device {
        Device { major: 0, minor: 0 } => Ok(number(ZERO_DEVICE)),
        ZERO_DEVICE => Err(ErrorKind::NotPermitted.into()),
        device => Ok(number(device)),
    }
}

/// The device that programs see.
pub(super) fn shown_device(device: Device) -> Device {
    if device == ZERO_DEVICE { Device { major: 0, minor: 0 } } else { device }
}

/// A device number as the kernel takes it.
pub(super) fn number(device: Device) -> Dev {
    makedev(device.major, device.minor)
}

/// Which extended attributes hold the marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `trusted.overlay.*`, of root.
    Trusted,
    /// `user.overlay.*`, of everyone else (`userxattr`); the kernel knows no redirect and no metacopy in this form.
    User,
}

/// A mark on a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Of a directory: `y` hides what the base has there, `x` says that whiteouts of the xattr form are in it.
    Opaque,
    /// Where in the base the rest of it is: an absolute path, or another name in the same directory.
    Redirect,
    /// Of a directory with a redirect: of which list that is a path. Ours, too; see [`moved`](super::moved).
    List,
    /// Of a regular file: its content is in the base.
    Metacopy,
    /// Of a regular file whose content is in the base: which content that is. Of ours, not of the kernel's.
    Content,
    /// Of a regular file whose content is being added: the times that it has, whatever the local filesystem says. Ours, too.
    Times,
    /// Of a regular file: which content of it is in the stor. Ours, too; see [`pushed`](super::pushed).
    Pushed,
    /// Of an empty regular file: the name does not exist (the form without a device node).
    Whiteout,
}

impl Form {
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
            Mark::List => "aysfs.list",
            Mark::Metacopy => "metacopy",
            Mark::Content => "aysfs.content",
            Mark::Times => "aysfs.times",
            Mark::Pushed => "aysfs.pushed",
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

impl Upper {
    /// The value of a mark.
    pub(super) fn mark(&self, at: &At, mark: Mark) -> Result<Option<Vec<u8>>> {
        at.xattr(self.form.name(mark).as_bytes())
    }

    /// Sets a mark.
    pub(super) fn set_mark(&self, at: &At, mark: Mark, value: &[u8]) -> Result<()> {
        Ok(at.set_xattr(self.form.name(mark).as_bytes(), value, XattrFlags::empty())?)
    }

    /// Takes a mark away; one that is not there is no error.
    pub(super) fn clear_mark(&self, at: &At, mark: Mark) -> Result<()> {
        match at.remove_xattr(self.form.name(mark).as_bytes()) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a mark on an open file.
    pub(super) fn set_mark_of(&self, file: &File, mark: Mark, value: &[u8]) -> Result<()> {
        Ok(fsetxattr(file, self.form.name(mark), value, XattrFlags::empty())?)
    }

    /// Takes a mark away from an open file; one that is not there is no error.
    pub(super) fn clear_mark_of(&self, file: &File, mark: Mark) -> Result<()> {
        match fremovexattr(file, self.form.name(mark)) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The extended attributes that programs see of an inode of the upper, sorted by name.
    pub(super) fn shown_xattrs(&self, at: &At) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut shown = Vec::new();
        for kept in at.xattrs()?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            // One that is gone again was removed meanwhile.
            if let Some(name) = self.form.shown_name(kept)
                && let Some(value) = at.xattr(kept)?
            {
                shown.push((name, value));
            }
        }
        shown.sort();
        Ok(shown)
    }

    /// Whether a name of an upper directory says that the name does not exist.
    pub(super) fn is_whiteout(&self, at: &At, stat: &Stat) -> Result<bool> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => Ok(stat.st_rdev == 0),
            FileType::RegularFile if stat.st_size == 0 => Ok(self.mark(at, Mark::Whiteout)?.is_some()),
            _ => Ok(false),
        }
    }

    /// Makes a whiteout under a new name.
    ///
    /// Without the right to make devices the kernel allows this one since Linux 5.8 (`vfs_mknod`).
    pub(super) fn make_whiteout(&self, directory: &impl AsFd, name: &[u8]) -> Result<()> {
        Ok(mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::overlay::testing::Layers;

    /// A name in the work directory.
    fn at(layers: &Layers, name: &str) -> At {
        At::Named(layers.w.upper.work.clone(), name.into())
    }

    #[test]
    fn marks_are_set_and_taken_away_whatever_their_length() {
        let layers = Layers::new(&[]);
        let upper = &layers.w.upper;
        fs::write(layers.work(b"f"), "").expect("made");
        let at = at(&layers, "f");
        for value in [&b""[..], b"y", &[b'/'; 255], &[b'/'; 256], &[b'/'; 3000]] {
            upper.set_mark(&at, Mark::Redirect, value).expect("set");
            assert_eq!(upper.mark(&at, Mark::Redirect).expect("read").as_deref(), Some(value));
        }
        assert_eq!(upper.mark(&at, Mark::Metacopy).expect("read"), None);
        for _ in 0..2 {
            upper.clear_mark(&at, Mark::Redirect).expect("gone, or never there");
            assert_eq!(upper.mark(&at, Mark::Redirect).expect("read"), None);
        }
        assert!(upper.mark(&self::at(&layers, "nothing"), Mark::Redirect).is_err());
    }

    #[test]
    fn a_whiteout_is_a_device_or_an_empty_file_with_a_mark() {
        let layers = Layers::new(&[]);
        let upper = &layers.w.upper;
        let is_whiteout = |name: &str| {
            let at = at(&layers, name);
            upper.is_whiteout(&at, &at.stat().expect("there")).expect("readable")
        };
        upper.make_whiteout(&upper.work, b"device").expect("made");
        assert!(is_whiteout("device"));
        for (name, content) in [("marked", ""), ("marked-and-full", "x"), ("empty", "")] {
            fs::write(layers.work(name.as_bytes()), content).expect("made");
        }
        for name in ["marked", "marked-and-full"] {
            upper.set_mark(&at(&layers, name), Mark::Whiteout, b"").expect("set");
        }
        fs::create_dir(layers.work(b"directory")).expect("made");
        upper.set_mark(&at(&layers, "directory"), Mark::Whiteout, b"").expect("set");
        assert!(is_whiteout("marked"));
        for name in ["marked-and-full", "empty", "directory"] {
            assert!(!is_whiteout(name), "{name}");
        }
    }

    #[test]
    fn a_device_with_the_number_of_a_whiteout_is_kept_under_another() {
        let device = |major, minor| Device { major, minor };
        let kept = kept_device(device(0, 0)).expect("it has a place");
        assert_ne!(kept, 0);
        assert_eq!(shown_device(device(rustix::fs::major(kept), rustix::fs::minor(kept))), device(0, 0));
        assert_eq!(kept_device(device(1, 3)).expect("an ordinary one"), makedev(1, 3));
        assert_eq!(shown_device(device(1, 3)), device(1, 3));
        assert_eq!(kept_device(ZERO_DEVICE).expect_err("it is taken").kind(), ErrorKind::NotPermitted);
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
