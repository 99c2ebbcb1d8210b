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
use super::marks::{Form, Mark, kept_device, number};
use crate::base::{LENDS_RIGHTS, damaged, file_kind};
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

    /// Leaves the name where it is.
    pub(super) fn leave(self) {
        std::mem::forget(self);
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
                Ok(mknodat(work, name, FileType::CharacterDevice, private, kept_device(device)?)?)
            }
            FileKind::BlockDevice(device) => {
                Ok(mknodat(work, name, FileType::BlockDevice, private, number(device))?)
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
    pub(super) fn dress(&self, of: &NodeRef<'_>, copy: &At) -> Result<()> {
        let attr = self.base().attr(of).map_err(damaged)?;
        let unprivileged = self.upper.form == Form::User;
        let mut perm = attr.perm;
        match copy.chown(Some(attr.uid), Some(attr.gid)) {
            // Without privileges what cannot belong to its owner belongs to the one user there is; then the bits that would
            // lend the owner's rights go. (An id that a user namespace does not map is "invalid".)
            Err(error)
                if unprivileged && matches!(error.kind(), ErrorKind::NotPermitted | ErrorKind::Invalid) =>
            {
                perm &= !LENDS_RIGHTS;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use aysfs_flist::{Entry, Timestamp};

    use super::*;
    use crate::overlay::testing::{Layers, directory, empty_file};

    const OLD: Timestamp = Timestamp { secs: 1_000_000_000, nanos: 123_456_789 };

    #[test]
    fn what_is_not_taken_from_the_work_directory_is_removed_from_it() {
        let layers = Layers::new(&[]);
        let staged = layers
            .w
            .stage(|name| {
                fs::create_dir(layers.work(name)).expect("made");
                fs::write(layers.work(name).join("inside"), "x").expect("made");
                Ok(())
            })
            .expect("staged");
        let path = layers.work(staged.name());
        assert!(path.join("inside").exists());
        drop(staged);
        assert!(!path.exists());

        let failed = layers.w.stage(|name| {
            fs::write(layers.work(name), "half").expect("made");
            Err(ErrorKind::NoSpace.into())
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(layers.work(b"")).expect("listed").count(), 0);
    }

    #[test]
    fn copies_have_the_attributes_of_what_they_are_copies_of() {
        let attributes =
            vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.overlay.opaque".to_vec(), b"y".to_vec())];
        let entry = |entry: Entry| Entry { perm: 0o750, mtime: OLD, xattrs: attributes.clone(), ..entry };
        let link = Entry { target: b"target".to_vec(), mtime: OLD, ..Entry::new("link", Kind::Symlink) };
        let layers = Layers::new(&[entry(directory("d")), entry(empty_file("f")), link]);
        let w = &layers.w;
        let index = w.base().index();
        let node = |path: &str| index.node(layers.node(path)).expect("there");
        let copies = [
            w.stage_directory(&node("d")).expect("copied"),
            w.stage_leaf(&node("f"), &Content::Empty).expect("copied"),
        ];
        for copy in &copies {
            let path = layers.work(copy.name());
            let meta = fs::symlink_metadata(&path).expect("there");
            assert_eq!(meta.mode() & 0o7777, 0o750);
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (OLD.secs, OLD.nanos.into()));
            assert_eq!(xattr::get(&path, "user.a").expect("read").as_deref(), Some(&b"1"[..]));
            assert_eq!(xattr::get(&path, "user.overlay.opaque").expect("read"), None, "no mark of ours");
            let kept = xattr::get(&path, "user.overlay.overlay.opaque").expect("read");
            assert_eq!(kept.as_deref(), Some(&b"y"[..]));
        }
        let copy = w.stage_leaf(&node("link"), &Content::Empty).expect("copied");
        let path = layers.work(copy.name());
        assert_eq!(fs::read_link(&path).expect("a symlink").to_str(), Some("target"));
        assert_eq!(fs::symlink_metadata(&path).expect("there").mtime(), OLD.secs);
        assert!(w.stage_leaf(&node("d"), &Content::Empty).is_err());
    }

    #[test]
    fn a_copy_keeps_the_holes_and_one_without_content_says_where_it_is() {
        let sparse =
            Entry { size: 1 << 20, data: Some(std::iter::once(8192..12_288).collect()), ..empty_file("f") };
        let content =
            aysfs_flist::Content::Object { sha256: [1; 32], key: aysfs_flist::ObjectKey::Sha256([2; 32]) };
        let layers = Layers::new(&[Entry { content: Some(content), ..sparse }]);
        let w = &layers.w;
        let of = w.base().index().node(layers.node("f")).expect("there");
        let mut cached = tempfile::tempfile().expect("a file");
        cached.write_all(&vec![7; 1 << 20]).expect("written");
        let copy = w.stage_leaf(&of, &Content::Copy(&cached)).expect("copied");
        let bytes = fs::read(layers.work(copy.name())).expect("read");
        assert_eq!(bytes.len(), 1 << 20);
        assert!(bytes.iter().enumerate().all(|(at, byte)| (*byte == 7) == (8192..12_288).contains(&at)));
        let blocks = fs::metadata(layers.work(copy.name())).expect("there").blocks();
        assert!(blocks < 64, "{blocks}");

        let copy =
            w.stage_leaf(&of, &Content::Below { path: b"/f", mark: Some("v1 what".into()) }).expect("made");
        let at = copy.at();
        assert_eq!(w.upper.mark(&at, Mark::Metacopy).expect("read").as_deref(), Some(&b""[..]));
        assert_eq!(w.upper.mark(&at, Mark::Redirect).expect("read").as_deref(), Some(&b"/f"[..]));
        assert_eq!(w.upper.mark(&at, Mark::Content).expect("read").as_deref(), Some(&b"v1 what"[..]));
        assert_eq!(fs::metadata(layers.work(copy.name())).expect("there").len(), 1 << 20);
    }
}
