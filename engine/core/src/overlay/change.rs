//! Changes of names: each is one step in the upper directory, and the same step in the image of it.
//!
//! Callers hold the lock of the tree. What has to be copied up with its content was copied up before
//! (see [`raise`](super::raise)); directories are copied up here, since they have none.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aysfs_flist::Node;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Caller, ErrorKind, FileKind, Ino, Name, RenameMode, Result, SetTime, Time};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, XattrFlags, fstat, mkdirat, mknodat, openat,
    renameat_with, symlinkat, unlinkat,
};

use super::at::At;
use super::marks::{Mark, kept_device, number};
use super::stage::Staged;
use super::tree::{Child, Data, Found, Origin, Place, Tree, Where, open_path};
use super::xattrs::DEFAULT_ACL;
use super::{World, access};
use crate::base::{LENDS_RIGHTS, damaged};

/// Of ext4; beyond it the local filesystem says no anyway.
const SYMLINK_MAX: usize = 4095;
const SET_GROUP: u16 = 0o2000;

/// What is to be made.
pub(super) enum New<'a> {
    Directory,
    Symlink(&'a [u8]),
    /// Anything but these.
    Node(FileKind),
}

/// What was made.
pub(super) struct Made {
    pub(super) ino: Ino,
    /// Of a regular file: it, open for reading and writing, and its attributes.
    pub(super) file: Option<(File, Stat)>,
}

impl Tree {
    /// Makes an inode with one name.
    pub(super) fn make(
        &mut self,
        w: &World,
        caller: Caller,
        parent: Ino,
        name: &Name,
        new: &New<'_>,
        perm: u16,
    ) -> Result<Made> {
        self.name_changes += 1;
        if self.find(w, parent, name)?.is_some() {
            return Err(ErrorKind::Exists.into());
        }
        let directory = self.raised(w, parent)?;
        let above = At::Nameless(directory.clone()).stat()?;
        let place = Place { parent, name: name.clone() };
        let bytes = name.as_bytes();
        let acl = self.default_acl(parent, &directory)?;
        let wanted = Wanted::new(caller, new, perm, &above, acl.is_some());
        let file = if self.has_whiteout(parent, name) {
            // What replaces a whiteout appears in its place in one step.
            let (staged, file) = w.stage_new(acl.as_deref(), new, &wanted)?;
            if let New::Directory = new {
                w.upper.set_mark(&staged.at(), Mark::Opaque, b"y")?;
            }
            place_over(w, &staged, &directory, bytes)?;
            file
        } else if wanted.comes_by_itself(w) {
            make_in(&directory, bytes, new, wanted.perm)?
        } else {
            let (staged, file) = w.stage_new(acl.as_deref(), new, &wanted)?;
            move_in(w, &staged, &directory, bytes, RenameFlags::NOREPLACE)?;
            file
        };
        if let New::Directory = new {
            return Ok(Made { ino: self.add_directory(w, place, None)?, file: None });
        }
        let stat = match &file {
            Some(file) => fstat(file)?,
            None => At::Named(directory, bytes.to_vec()).stat()?,
        };
        let ino = self.add_leaf(w, vec![place], None, &stat, Data::Here, None)?;
        Ok(Made { ino, file: file.map(|file| (file, stat)) })
    }

    /// Gives a leaf of the upper one more name.
    pub(super) fn link(&mut self, w: &World, ino: Ino, parent: Ino, name: &Name) -> Result<()> {
        self.name_changes += 1;
        if self.find(w, parent, name)?.is_some() {
            return Err(ErrorKind::Exists.into());
        }
        let kind = self.leaf(ino).ok_or(ErrorKind::Stale)?.kind;
        self.fix_redirect(w, ino)?;
        let directory = self.raised(w, parent)?;
        let at = self.at(w, ino)?;
        if self.has_whiteout(parent, name) {
            let staged = w.stage(|new| at.link(&w.upper.work, new))?;
            place_over(w, &staged, &directory, name.as_bytes())?;
        } else {
            at.link(&directory, name.as_bytes())?;
        }
        let place = Place { parent, name: name.clone() };
        self.set_child(w, parent, name, Some(Child::There(ino, kind)))?;
        if let Some(leaf) = self.leaf_mut(ino) {
            leaf.nameless = None;
            leaf.places.push(place);
        }
        Ok(())
    }

    /// Removes a name of anything but a directory; returns what it led to.
    pub(super) fn unlink(&mut self, w: &World, parent: Ino, name: &Name) -> Result<Ino> {
        self.name_changes += 1;
        let found = self.find(w, parent, name)?.ok_or(ErrorKind::NotFound)?;
        if found.is_directory() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let directory = self.raised(w, parent)?;
        let nameless = self.last_name(&directory, name, found)?;
        let hides = self.hides(w, parent, name)?;
        match (found, hides) {
            (Found::Base(..), _) => w.upper.make_whiteout(&directory, name.as_bytes())?,
            (Found::Upper(..), true) => {
                let staged = w.stage_whiteout()?;
                place_over(w, &staged, &directory, name.as_bytes())?;
            }
            (Found::Upper(..), false) => unlinkat(&directory, name.as_bytes(), AtFlags::empty())?,
        }
        self.set_child(w, parent, name, hides.then_some(Child::Whiteout))?;
        self.lost(found, Place { parent, name: name.clone() }, nameless);
        Ok(found.ino())
    }

    /// Removes an empty directory; returns what it was.
    pub(super) fn rmdir(&mut self, w: &World, parent: Ino, name: &Name) -> Result<Ino> {
        self.name_changes += 1;
        let found = self.find(w, parent, name)?.ok_or(ErrorKind::NotFound)?;
        if !found.is_directory() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let ino = found.ino();
        if !self.is_empty(w, ino)? {
            return Err(ErrorKind::NotEmpty.into());
        }
        let directory = self.raised(w, parent)?;
        let hides = self.hides(w, parent, name)?;
        let fd = match found {
            Found::Base(..) => {
                w.upper.make_whiteout(&directory, name.as_bytes())?;
                None
            }
            Found::Upper(..) => {
                let fd = self.descriptor(w, ino)?;
                self.clear(w, ino)?;
                if hides {
                    let staged = w.stage_whiteout()?;
                    move_in(w, &staged, &directory, name.as_bytes(), RenameFlags::EXCHANGE)?;
                } else {
                    unlinkat(&directory, name.as_bytes(), AtFlags::REMOVEDIR)?;
                }
                Some(fd)
            }
        };
        self.set_child(w, parent, name, hides.then_some(Child::Whiteout))?;
        self.lose_directory(w, ino, fd)?;
        Ok(ino)
    }

    /// Moves a name. Files that have to be copied up for it are in the upper already. Returns what was replaced.
    pub(super) fn rename(
        &mut self,
        w: &World,
        (from, name): (Ino, &Name),
        (to, new_name): (Ino, &Name),
        mode: RenameMode,
    ) -> Result<Option<Ino>> {
        self.name_changes += 1;
        let moved = self.find(w, from, name)?.ok_or(ErrorKind::NotFound)?;
        let target = self.find(w, to, new_name)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(ErrorKind::Exists.into()),
            (RenameMode::Exchange, None) => return Err(ErrorKind::NotFound.into()),
            (_, Some(target)) if target.ino() == moved.ino() => return Ok(None),
            _ => {}
        }
        self.not_below_itself(w, moved, to)?;
        if mode == RenameMode::Exchange {
            if let Some(target) = target {
                self.not_below_itself(w, target, from)?;
            }
        } else if let Some(target) = target {
            self.replaceable(w, target, moved)?;
        }
        let source = self.raised(w, from)?;
        let destination = self.raised(w, to)?;
        self.prepare_to_move(w, (from, name), moved, (to, new_name))?;
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            self.prepare_to_move(w, (to, new_name), target, (from, name))?;
            renameat_with(
                &source,
                name.as_bytes(),
                &destination,
                new_name.as_bytes(),
                RenameFlags::EXCHANGE,
            )?;
            self.moved(w, moved, (from, name), (to, new_name))?;
            self.moved(w, target, (to, new_name), (from, name))?;
            self.set_child(w, from, name, Some(Child::There(target.ino(), target.kind())))?;
            self.set_child(w, to, new_name, Some(Child::There(moved.ino(), moved.kind())))?;
            return Ok(None);
        }
        let nameless = match target {
            Some(target) if target.is_directory() => {
                if let Found::Upper(ino, _) = target {
                    Some(self.descriptor(w, ino)?)
                } else {
                    None
                }
            }
            Some(target) => self.last_name(&destination, new_name, target)?,
            None => None,
        };
        if let Some(Found::Upper(ino, FileType::Directory)) = target {
            self.clear(w, ino)?;
        }
        let mut hides = self.hides(w, from, name)?;
        let whiteout_there = self.has_whiteout(to, new_name);
        let flags = if hides { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
        if whiteout_there && moved.is_directory() {
            // A directory replaces nothing but a directory: they swap places, and the whiteout stays if it is needed.
            renameat_with(
                &source,
                name.as_bytes(),
                &destination,
                new_name.as_bytes(),
                RenameFlags::EXCHANGE,
            )?;
            // A whiteout that hides nothing may stay: what is done must not be called failed.
            hides = hides || unlinkat(&source, name.as_bytes(), AtFlags::empty()).is_err();
        } else {
            renameat_with(&source, name.as_bytes(), &destination, new_name.as_bytes(), flags)?;
        }
        self.set_child(w, from, name, hides.then_some(Child::Whiteout))?;
        self.set_child(w, to, new_name, Some(Child::There(moved.ino(), moved.kind())))?;
        if let Some(target) = target {
            if target.is_directory() {
                self.lose_directory(w, target.ino(), nameless)?;
            } else {
                self.lost(target, Place { parent: to, name: new_name.clone() }, nameless);
            }
        }
        self.moved(w, moved, (from, name), (to, new_name))?;
        Ok(target.map(Found::ino))
    }

    // ---- Copying up directories ----

    /// A directory that is in the upper from now on, and all above it; open as a path.
    pub(super) fn raised(&mut self, w: &World, ino: Ino) -> Result<Arc<OwnedFd>> {
        let mut way = Vec::new();
        let mut at = ino;
        loop {
            match self.directory(w, at)? {
                (_, true, Where::Removed(_)) | (_, false, Where::Removed(_) | Where::Root) => {
                    return Err(ErrorKind::NotFound.into());
                }
                (_, true, _) => break,
                (lower, false, Where::At(place)) => {
                    let node = lower.ok_or(ErrorKind::Stale)?;
                    way.push((at, node, place.clone()));
                    at = place.parent;
                }
            }
        }
        for (ino, node, place) in way.into_iter().rev() {
            // It may be in the upper, or gone, since an earlier mount, and nobody has looked yet.
            match self.find(w, place.parent, &place.name)? {
                Some(Found::Upper(known, _)) if known == ino => continue,
                Some(Found::Base(known, _)) if known == node => {}
                _ => return Err(ErrorKind::NotFound.into()),
            }
            let directory = self.descriptor(w, place.parent)?;
            let staged = w.stage_directory(&w.base().index().node(node).map_err(damaged)?)?;
            keeping_times(&directory, || {
                move_in(w, &staged, &directory, place.name.as_bytes(), RenameFlags::NOREPLACE)
            })?;
            self.add_directory(w, place, Some((ino, node)))?;
        }
        self.descriptor(w, ino)
    }

    /// The same of one that may have been removed meanwhile: its attributes can still be changed by those who have it open.
    pub(super) fn changeable_directory(&mut self, w: &World, ino: Ino) -> Result<At> {
        if let (Some(node), false, Where::Removed(None)) = self.directory(w, ino)? {
            let staged = w.stage_directory(&w.base().index().node(node).map_err(damaged)?)?;
            let fd = Arc::new(open_path(&w.upper.work, staged.name())?);
            let directory = self.directory_mut(ino)?;
            directory.place = Where::Removed(Some(fd));
            (directory.raised, directory.children) = (true, Some(BTreeMap::new()));
        } else if !matches!(self.directory(w, ino)?, (_, true, _)) {
            self.raised(w, ino)?;
        }
        match self.directory(w, ino)? {
            // By itself: the name may lead to another one in a moment.
            (.., Where::At(_)) => Ok(At::Nameless(self.descriptor(w, ino)?)),
            _ => self.at(w, ino),
        }
    }

    // ---- Steps ----

    /// Whether the base has something that would show if the upper said nothing about a name.
    fn hides(&self, w: &World, parent: Ino, name: &Name) -> Result<bool> {
        let (lower, ..) = self.directory(w, parent)?;
        Ok(self.below(w, lower, name)?.is_some())
    }

    /// A descriptor of a leaf that is about to lose its last name.
    fn last_name(&self, directory: &OwnedFd, name: &Name, found: Found) -> Result<Option<Arc<OwnedFd>>> {
        match found {
            Found::Upper(ino, _) if self.leaf(ino).is_some_and(|leaf| leaf.places.len() == 1) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(Some(Arc::new(openat(directory, name.as_bytes(), flags, Mode::empty())?)))
            }
            _ => Ok(None),
        }
    }

    /// Notes that a leaf lost a name.
    fn lost(&mut self, found: Found, place: Place, nameless: Option<Arc<OwnedFd>>) {
        match found {
            Found::Base(node, _) => self.hide(node),
            Found::Upper(ino, _) => self.lose_name(ino, &place, nameless),
        }
    }

    /// Makes a merged directory that shows nothing really empty: what the base has below it is hidden by a mark instead of
    /// by whiteouts. It looks the same after each step.
    fn clear(&mut self, w: &World, ino: Ino) -> Result<()> {
        let whiteouts = self.whiteouts(w, ino)?;
        if whiteouts.is_empty() && self.directory(w, ino)?.0.is_none() {
            return Ok(());
        }
        let fd = self.descriptor(w, ino)?;
        w.upper.set_mark(&At::Named(fd.clone(), b".".into()), Mark::Opaque, b"y")?;
        let directory = self.directory_mut(ino)?;
        (directory.lower, directory.more_subdirectories) = (None, 0);
        keeping_times(&fd, || {
            for name in &whiteouts {
                unlinkat(&fd, name.as_bytes(), AtFlags::empty())?;
                self.set_child(w, ino, name, None)?;
            }
            Ok(())
        })
    }

    /// Copies a directory up and marks it, so that it shows the same in its new place.
    fn prepare_to_move(
        &mut self,
        w: &World,
        (from, name): (Ino, &Name),
        moved: Found,
        (to, new_name): (Ino, &Name),
    ) -> Result<()> {
        if !moved.is_directory() {
            return match moved {
                Found::Upper(ino, _) => self.fix_redirect(w, ino),
                // The caller copies files up before; somebody was faster to replace it.
                Found::Base(..) => Err(ErrorKind::Busy.into()),
            };
        }
        let (lower, ..) = self.directory(w, moved.ino())?;
        match lower {
            Some(_) if !w.upper.form.has_redirects() => Err(ErrorKind::CrossDevice.into()),
            Some(node) => {
                self.raised(w, moved.ino())?;
                let path = redirect(w, node)?;
                let source = At::Named(self.descriptor(w, from)?, name.as_bytes().into());
                w.mark_as_moved(&source, &path)
            }
            None => {
                let (lower, ..) = self.directory(w, to)?;
                if self.below(w, lower, new_name)?.is_some() {
                    let source = At::Named(self.descriptor(w, from)?, name.as_bytes().into());
                    w.upper.set_mark(&source, Mark::Opaque, b"y")?;
                }
                Ok(())
            }
        }
    }

    /// Makes the mark of a file whose content is in the base lead there from everywhere. What the kernel copies up needs
    /// none as long as it keeps its name, or one that is only right in the same directory.
    fn fix_redirect(&mut self, w: &World, ino: Ino) -> Result<()> {
        let Some(Data::Below(Origin::Base(node))) = self.leaf(ino).map(|leaf| &leaf.data) else {
            return Ok(());
        };
        let path = redirect(w, *node)?;
        let at = self.at(w, ino)?;
        if w.upper.mark(&at, Mark::Redirect)?.as_ref() == Some(&path) {
            return Ok(());
        }
        w.upper.set_mark(&at, Mark::Redirect, &path)
    }

    /// Notes where something is now.
    fn moved(
        &mut self,
        w: &World,
        moved: Found,
        (from, name): (Ino, &Name),
        (to, new_name): (Ino, &Name),
    ) -> Result<()> {
        let (old, new) =
            (Place { parent: from, name: name.clone() }, Place { parent: to, name: new_name.clone() });
        if moved.is_directory() {
            self.directory(w, moved.ino())?;
            self.directory_mut(moved.ino())?.place = Where::At(new);
        } else if let Some(leaf) = self.leaf_mut(moved.ino())
            && let Some(place) = leaf.places.iter_mut().find(|place| **place == old)
        {
            *place = new;
        }
        Ok(())
    }

    fn not_below_itself(&self, w: &World, moved: Found, mut into: Ino) -> Result<()> {
        if !moved.is_directory() {
            return Ok(());
        }
        while into != Ino::ROOT {
            if into == moved.ino() {
                return Err(ErrorKind::Invalid.into());
            }
            into = self.parent(w, into)?;
        }
        Ok(())
    }

    fn replaceable(&mut self, w: &World, target: Found, moved: Found) -> Result<()> {
        match (moved.is_directory(), target.is_directory()) {
            (true, true) if !self.is_empty(w, target.ino())? => Err(ErrorKind::NotEmpty.into()),
            (true, false) => Err(ErrorKind::NotADirectory.into()),
            (false, true) => Err(ErrorKind::IsADirectory.into()),
            (true, true) | (false, false) => Ok(()),
        }
    }
}

/// The mark that leads from a moved directory or file to what it was in the base.
pub(super) fn redirect(w: &World, node: Node) -> Result<Vec<u8>> {
    let path = w.base().index().path(node).map_err(damaged)?;
    Ok([b"/", &*path].concat())
}

/// Makes it; a regular file is open then.
fn make_in(directory: &OwnedFd, name: &[u8], new: &New<'_>, perm: u16) -> Result<Option<File>> {
    let mode = Mode::from_raw_mode(perm.into());
    match new {
        New::Directory => mkdirat(directory, name, mode)?,
        New::Symlink([]) => return Err(ErrorKind::NotFound.into()),
        New::Symlink(target) if target.len() > SYMLINK_MAX => return Err(ErrorKind::NameTooLong.into()),
        New::Symlink(target) => symlinkat(*target, directory, name)?,
        New::Node(kind) => {
            let (kind, device) = match kind {
                FileKind::Regular => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                    return Ok(Some(openat(directory, name, flags, mode)?.into()));
                }
                FileKind::Fifo => (FileType::Fifo, 0),
                FileKind::Socket => (FileType::Socket, 0),
                FileKind::CharDevice(device) => (FileType::CharacterDevice, kept_device(*device)?),
                FileKind::BlockDevice(device) => (FileType::BlockDevice, number(*device)),
                FileKind::Directory | FileKind::Symlink => return Err(ErrorKind::Invalid.into()),
            };
            mknodat(directory, name, kind, mode, device)?;
        }
    }
    Ok(None)
}

/// The owner and the permissions that a new inode has to have.
struct Wanted {
    uid: u32,
    gid: u32,
    /// Without what the umask takes away; where a default ACL is inherited, the local filesystem applies that instead.
    perm: u16,
    inherits_acl: bool,
    /// Whether it is made where everything gets the group of the directory.
    shares_group: bool,
    is_symlink: bool,
}

impl Wanted {
    fn new(caller: Caller, new: &New<'_>, perm: u16, above: &Stat, inherits_acl: bool) -> Self {
        let shares_group = raw::perm(above.st_mode) & SET_GROUP != 0;
        let is_symlink = matches!(new, New::Symlink(_));
        let inherits_acl = inherits_acl && !is_symlink;
        let perm = match new {
            New::Directory if shares_group => perm | SET_GROUP,
            New::Directory | New::Symlink(_) | New::Node(_) => perm,
        };
        Self {
            uid: caller.uid,
            gid: if shares_group { above.st_gid } else { caller.gid },
            perm: if inherits_acl { perm } else { perm & !caller.umask },
            inherits_acl,
            shares_group,
            is_symlink,
        }
    }

    /// Whether the system call that makes it gives it all that, so that no crash can leave it with less.
    fn comes_by_itself(&self, w: &World) -> bool {
        let owned = self.uid == w.upper.owner.uid && (self.shares_group || self.gid == w.upper.owner.gid);
        // To lend the rights of a group takes more than to make the file.
        let dressed = self.is_symlink
            || self.perm & LENDS_RIGHTS == 0 && (self.inherits_acl || self.perm & w.upper.owner.umask == 0);
        owned && dressed
    }

    /// Gives it to what was made in the work directory.
    fn dress(&self, new: &At) -> Result<()> {
        let stat = new.stat()?;
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            new.chown(Some(self.uid), Some(self.gid))?;
        }
        let made = raw::perm(stat.st_mode);
        let perm = if self.inherits_acl { made | self.perm & 0o7000 } else { self.perm };
        // A new owner takes set-uid and set-gid away.
        if !self.is_symlink && (made != perm || perm & LENDS_RIGHTS != 0) {
            new.chmod(perm)?;
        }
        Ok(())
    }
}

impl World {
    /// Something new in the work directory, complete; `acl` is what is inherited where it goes.
    fn stage_new(
        &self,
        acl: Option<&[u8]>,
        new: &New<'_>,
        wanted: &Wanted,
    ) -> Result<(Staged<'_>, Option<File>)> {
        let mut file = None;
        let make = |path: &[u8]| {
            file = make_in(&self.upper.work, path, new, wanted.perm)?;
            Ok(())
        };
        let staged = match acl {
            None => self.stage(make)?,
            Some(acl) => {
                // It is made where it inherits the same.
                let nursery = self.stage(|path| Ok(mkdirat(&self.upper.work, path, Mode::RWXU)?))?;
                nursery.at().set_xattr(DEFAULT_ACL, acl, XattrFlags::empty())?;
                let made = self.stage_at([nursery.name(), b"/x"].concat(), make)?;
                self.stage(|path| {
                    let (from, work) = (made.name(), &self.upper.work);
                    Ok(renameat_with(work, from, work, path, RenameFlags::NOREPLACE)?)
                })?
            }
        };
        wanted.dress(&staged.at())?;
        Ok((staged, file))
    }
}

/// Moves what was made in the work directory onto a name, whatever that is.
fn place_over(w: &World, staged: &Staged<'_>, directory: &Arc<OwnedFd>, name: &[u8]) -> Result<()> {
    let is_directory = FileType::from_raw_mode(staged.at().stat()?.st_mode) == FileType::Directory;
    // A directory replaces nothing but a directory: they swap places, and what was there is discarded with the staged name.
    let flags = if is_directory { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
    move_in(w, staged, directory, name, flags)
}

/// Moves what was made in the work directory to its place.
fn move_in(
    w: &World,
    staged: &Staged<'_>,
    directory: &Arc<OwnedFd>,
    name: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    // A directory is written to when it gets another one above it.
    access::on(&staged.at(), || Ok(renameat_with(&w.upper.work, staged.name(), directory, name, flags)?))
}

/// Runs a step that changes a directory of the upper, but not the view of it.
pub(super) fn keeping_times<T>(directory: &Arc<OwnedFd>, step: impl FnMut() -> Result<T>) -> Result<T> {
    let at = At::Nameless(directory.clone());
    let before = at.stat()?;
    let done = access::inside(directory, step)?;
    let time =
        |secs, nanos: u64| Some(SetTime::At(Time { secs, nanos: u32::try_from(nanos).unwrap_or_default() }));
    let (atime, mtime) =
        (time(before.st_atime, before.st_atime_nsec), time(before.st_mtime, before.st_mtime_nsec));
    if let Err(error) = at.set_times(atime, mtime) {
        // The step is done: that it failed would be wrong.
        tracing::warn!("the time of a directory that was copied to the local changes is lost: {error}");
    }
    Ok(done)
}
