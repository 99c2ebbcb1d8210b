//! Copies of what is in the base, made in the work directory: complete before they get a name in the upper.

use std::fs::File;
use std::iter;
use std::ops::Range;

use aysfs_flist::{Kind, Node, NodeRef};
use aysfs_vfs::{ErrorKind, FileKind, Result, SetTime};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::World;
use super::at::At;
use super::marks::{Form, Mark};
use crate::base::{damaged, file_kind};
use crate::copy::copy_segment;

/// What a copied-up regular file has as its content.
pub(super) enum Content<'a> {
    /// Nothing: marks say that it is in the base, at this path, and which one it is.
    Below { path: &'a [u8], mark: Option<String> },
    /// A copy of this verified file.
    Copy(&'a File),
    /// It is about to be truncated.
    Empty,
}

/// A name in the work directory, removed unless it is taken from there.
pub(super) struct Staged<'a> {
    w: &'a World,
    name: Vec<u8>,
}

impl Staged<'_> {
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn at(&self) -> At {
        At::Named(self.w.upper.work.clone(), self.name.clone())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.w.upper.discard(&self.name);
    }
}

impl World {
    /// A new name in the work directory.
    pub(super) fn stage(&self, make: impl FnOnce(&[u8]) -> Result<()>) -> Result<Staged<'_>> {
        self.stage_at(self.upper.temporary(), make)
    }

    /// A new name at a path below the work directory.
    pub(super) fn stage_at(
        &self,
        path: Vec<u8>,
        make: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<Staged<'_>> {
        let staged = Staged { w: self, name: path };
        make(&staged.name)?;
        Ok(staged)
    }

    pub(super) fn stage_whiteout(&self) -> Result<Staged<'_>> {
        self.stage(|name| self.upper.make_whiteout(&self.upper.work, name))
    }

    pub(super) fn stage_directory(&self, of: &NodeRef<'_>) -> Result<Staged<'_>> {
        let staged = self.stage(|name| Ok(mkdirat(&self.upper.work, name, Mode::RWXU)?))?;
        self.dress(of, &staged.at())?;
        Ok(staged)
    }

    /// A copy of anything but a directory.
    pub(super) fn stage_leaf(&self, of: &NodeRef<'_>, content: &Content<'_>) -> Result<Staged<'_>> {
        let private = Mode::RUSR | Mode::WUSR;
        let work = &self.upper.work;
        let staged = self.stage(|name| match file_kind(of.kind()) {
            FileKind::Directory => Err(ErrorKind::IsADirectory.into()),
            FileKind::Symlink => Ok(symlinkat(of.target().map_err(damaged)?, work, name)?),
            FileKind::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                self.fill(of, content, name, openat(work, name, flags, private)?.into())
            }
            FileKind::Fifo => Ok(mknodat(work, name, FileType::Fifo, private, 0)?),
            FileKind::Socket => Ok(mknodat(work, name, FileType::Socket, private, 0)?),
            FileKind::CharDevice(device) => {
                let number = rustix::fs::makedev(device.major, device.minor);
                Ok(mknodat(work, name, FileType::CharacterDevice, private, number)?)
            }
            FileKind::BlockDevice(device) => {
                let number = rustix::fs::makedev(device.major, device.minor);
                Ok(mknodat(work, name, FileType::BlockDevice, private, number)?)
            }
        })?;
        self.dress(of, &staged.at())?;
        Ok(staged)
    }

    /// Gives the root of a new upper the attributes of the base's.
    pub(super) fn dress_root(&self) -> Result<()> {
        let of = self.base().index().node(Node::ROOT).map_err(damaged)?;
        self.dress(&of, &At::Named(self.upper.root.clone(), b".".into()))
    }

    fn fill(&self, of: &NodeRef<'_>, content: &Content<'_>, name: &[u8], file: File) -> Result<()> {
        match content {
            Content::Empty => Ok(()),
            Content::Copy(from) => {
                copy_content(of.size(), segments(of)?, from, &file)?;
                Ok(file.sync_data()?)
            }
            Content::Below { path, mark } => {
                file.set_len(of.size())?;
                let at = At::Named(self.upper.work.clone(), name.to_vec());
                self.upper.set_mark(&at, Mark::Metacopy, b"")?;
                self.upper.set_mark(&at, Mark::Redirect, path)?;
                match mark {
                    Some(mark) => self.upper.set_mark(&at, Mark::Content, mark.as_bytes()),
                    None => Ok(()),
                }
            }
        }
    }

    /// Gives a copy the attributes of what it is a copy of.
    fn dress(&self, of: &NodeRef<'_>, copy: &At) -> Result<()> {
        let attr = self.base().attr(of).map_err(damaged)?;
        let unprivileged = self.upper.form == Form::User;
        let mut perm = attr.perm;
        match copy.chown(Some(attr.uid), Some(attr.gid)) {
            // Without privileges what cannot belong to its owner belongs to the one user there is; then the bits that would
            // lend the owner's rights go. (An id that a user namespace does not map is "invalid".)
            Err(error)
                if unprivileged && matches!(error.kind(), ErrorKind::NotPermitted | ErrorKind::Invalid) =>
            {
                perm &= !0o6000;
            }
            owned => owned?,
        }
        for attribute in of.xattrs().map_err(damaged)? {
            let (name, value) = attribute.map_err(damaged)?;
            let kept = self.upper.form.kept_name(name);
            match copy.set_xattr(&kept, value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::OPNOTSUPP) if unprivileged => {}
                set => set?,
            }
        }
        if of.kind() != Kind::Symlink {
            copy.chmod(perm)?;
        }
        copy.set_times(Some(SetTime::At(attr.atime)), Some(SetTime::At(attr.mtime)))
    }
}

/// The parts of a file of the base that are not holes.
pub(super) fn segments(of: &NodeRef<'_>) -> Result<Vec<Range<u64>>> {
    let segments = of.data().map_err(damaged)?;
    Ok(segments.map_or_else(|| iter::once(0..of.size()).collect(), Iterator::collect))
}

/// Copies the content of a file, the holes between its segments included.
pub(super) fn copy_content(size: u64, segments: Vec<Range<u64>>, from: &File, to: &File) -> Result<()> {
    to.set_len(size)?;
    Ok(segments.iter().try_for_each(|segment| copy_segment(from, to, segment))?)
}
