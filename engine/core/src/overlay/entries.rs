//! The tree that is shown, as the entries of a flist: what a commit and a push make a list of.
//!
//! The names are those of one moment: if one comes or goes while they are read, they are read again, the last time with the lock
//! of the tree held.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use aysfs_flist::{Content, Entry, Kind, Owner, Timestamp};
use aysfs_vfs::{Attr, Error, ErrorKind, FileKind, Ino, Name, Result, Time};
use rustix::fs::OFlags;
use uzers::{Groups, Users, UsersCache};

use super::Inner;
use super::at::At;
use super::diff::join;
use super::missing::Missing;
use super::pushed::{Destination, Pushed};
use super::tree::{Data, Found, Origin, Tree};
use crate::base::{Base, damaged};
use crate::edition::Item;
use crate::listed::{Packs, listed};
use crate::pack::data_segments;

/// How often the names are read before others have to wait.
const ATTEMPTS: u32 = 3;

/// How far a commit or a push is; read by whoever shows it, while it runs.
#[derive(Debug, Default)]
pub struct SendProgress {
    /// Entries found so far.
    pub entries: AtomicU64,
    /// Bytes of new content found so far.
    pub bytes_found: AtomicU64,
    /// Bytes of new content that are in the stor.
    pub bytes_done: AtomicU64,
}

/// Why the tree could not be listed.
#[derive(Debug)]
pub(super) enum SeeError {
    View(Error),
    /// Its content was in a base that was replaced, and only its attributes are kept.
    Lost(PathBuf),
}

impl From<Error> for SeeError {
    fn from(error: Error) -> Self {
        Self::View(error)
    }
}

/// The tree as entries, in the order of a flist.
pub(super) struct Seen {
    /// What it was below the changes.
    pub(super) base: Arc<Base>,
    pub(super) entries: Vec<Entry>,
    /// Directories of the base that have another path now: old and new.
    pub(super) moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// The files whose content is in the upper, and not known to be in the stor, by the position of their entry.
    pub(super) files: HashMap<usize, LocalFile>,
    /// The positions of those whose content is in the upper, and that are marked as being in the stor.
    pub(super) marked: Vec<usize>,
    /// The packs that content is in.
    pub(super) packs: Packs,
    /// Positions of entries of which the user, or the group, is known by its number only.
    unnamed_users: Vec<usize>,
    unnamed_groups: Vec<usize>,
}

/// A regular file whose content is in the upper only, as far as is known.
pub(super) struct LocalFile {
    pub(super) ino: Ino,
    /// What was in the stor of it before it was changed.
    pub(super) older: Option<Pushed>,
}

/// Lists the tree. What was pushed to `destination`, and has not changed since, is listed with the content that it has there, unless
/// that is `missing` by now.
pub(super) fn see(
    inner: &Inner,
    destination: Option<&Destination>,
    missing: &Missing,
    progress: &SendProgress,
    abandoned: &AtomicBool,
) -> Result<Seen, SeeError> {
    let mut seen = look(inner, destination, missing, progress, abandoned)?;
    // With no lock held: whoever knows the names may be far away, or need this very mount.
    seen.name_owners();
    Ok(seen)
}

impl Seen {
    fn new(base: Arc<Base>) -> Self {
        let (entries, moved, files, marked) = Default::default();
        let packs = base.packs().clone();
        Self {
            base,
            entries,
            moved,
            files,
            marked,
            packs,
            unnamed_users: Vec::new(),
            unnamed_groups: Vec::new(),
        }
    }

    /// Adds the names that this machine has for numbers.
    fn name_owners(&mut self) {
        let known = UsersCache::new();
        let number = |owner: &Owner| owner.id.unwrap_or_default();
        for position in self.unnamed_users.drain(..) {
            let owner = &mut self.entries[position].user;
            owner.name = known.get_user_by_uid(number(owner)).map(|user| user.name().as_bytes().to_vec());
        }
        for position in self.unnamed_groups.drain(..) {
            let owner = &mut self.entries[position].group;
            owner.name = known.get_group_by_gid(number(owner)).map(|group| group.name().as_bytes().to_vec());
        }
    }
}

fn look(
    inner: &Inner,
    destination: Option<&Destination>,
    missing: &Missing,
    progress: &SendProgress,
    abandoned: &AtomicBool,
) -> Result<Seen, SeeError> {
    let walk = |held| Walk::new(inner, held, destination, missing, progress, abandoned).run();
    for _ in 1..ATTEMPTS {
        let before = inner.tree().name_changes;
        let seen = walk(None);
        if inner.tree().name_changes == before {
            return seen;
        }
        // Also when it failed: something may have been gone.
    }
    walk(Some(inner.tree()))
}

/// A directory that is being walked.
struct Ahead {
    path: Vec<u8>,
    /// What is below this path of the base is below this directory, unless it was moved.
    in_base: Option<Vec<u8>>,
    names: std::vec::IntoIter<(Name, Found)>,
}

struct Walk<'a> {
    inner: &'a Inner,
    /// Held from the first to the last entry, or taken for each.
    held: Option<MutexGuard<'a, Tree>>,
    destination: Option<&'a Destination>,
    missing: &'a Missing,
    progress: &'a SendProgress,
    abandoned: &'a AtomicBool,
    first_names: HashMap<Ino, Vec<u8>>,
    seen: Seen,
}

impl<'a> Walk<'a> {
    fn new(
        inner: &'a Inner,
        held: Option<MutexGuard<'a, Tree>>,
        destination: Option<&'a Destination>,
        missing: &'a Missing,
        progress: &'a SendProgress,
        abandoned: &'a AtomicBool,
    ) -> Self {
        progress.entries.store(0, Ordering::Relaxed);
        progress.bytes_found.store(0, Ordering::Relaxed);
        let (first_names, seen) = (HashMap::new(), Seen::new(inner.w.base()));
        Self { inner, held, destination, missing, progress, abandoned, first_names, seen }
    }

    /// Parents before children, names sorted by bytes.
    fn run(mut self) -> Result<Seen, SeeError> {
        self.visit(Vec::new(), Ino::ROOT)?;
        let names = self.list(Ino::ROOT)?;
        let mut ahead = vec![Ahead { path: Vec::new(), in_base: Some(Vec::new()), names }];
        while let Some(Ahead { path: directory, in_base, names }) = ahead.last_mut() {
            let Some((name, found)) = names.next() else {
                ahead.pop();
                continue;
            };
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(Error::from(ErrorKind::Interrupted).into());
            }
            let path = join(directory, &name);
            self.visit(path.clone(), found.ino())?;
            if found.is_directory() {
                let in_place = in_base.as_ref().map(|directory| join(directory, &name));
                let in_base = self.path_in_base(found, in_place.as_ref())?;
                if let Some(old) = &in_base
                    && in_base != in_place
                {
                    self.seen.moved.push((old.clone(), path.clone()));
                }
                ahead.push(Ahead { path, in_base, names: self.list(found.ino())? });
            }
        }
        Ok(self.seen)
    }

    /// The path of a directory of the base; `in_place` is the one that it has if it was not moved.
    fn path_in_base(&mut self, found: Found, in_place: Option<&Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let w = &self.inner.w;
        match found {
            Found::Base(..) => Ok(in_place.cloned()),
            Found::Upper(ino, _) => match self.tree(|tree| tree.directory(w, ino))?.0 {
                Some(lower) => w.lower.find(lower)?.path().map(Some),
                None => Ok(None),
            },
        }
    }

    fn tree<T>(&mut self, look: impl FnOnce(&mut Tree) -> Result<T>) -> Result<T> {
        match &mut self.held {
            Some(tree) => look(tree),
            None => look(&mut self.inner.tree()),
        }
    }

    fn list(&mut self, ino: Ino) -> Result<std::vec::IntoIter<(Name, Found)>> {
        let w = &self.inner.w;
        Ok(self.tree(|tree| tree.list(w, ino))?.into_iter())
    }

    fn visit(&mut self, path: Vec<u8>, ino: Ino) -> Result<(), SeeError> {
        let w = &self.inner.w;
        let upper = self.tree(|tree| match tree.is_in_upper(ino) {
            true => Ok(Some((
                tree.attr(w, ino)?.attr,
                tree.at(w, ino)?,
                tree.leaf(ino).map(|leaf| leaf.data.clone()),
            ))),
            false => Ok(None),
        })?;
        let position = self.seen.entries.len();
        let (mut entry, nlink) = match upper {
            None => {
                let item = w.lower.find(ino)?;
                let of = item.of()?;
                (of.entry(path.clone()).map_err(damaged)?, of.nlink())
            }
            Some((attr, at, data)) => {
                let mut entry = describe(path.clone(), &attr);
                let item = self.item_in_base(ino, data.as_ref())?;
                self.take_over_owners(&mut entry, &attr, item)?;
                entry.xattrs = w.upper.shown_xattrs(&at)?;
                match entry.kind {
                    Kind::Symlink => entry.target = at.target()?,
                    Kind::Regular => match data {
                        Some(Data::Below(origin)) => self.take_over(&mut entry, &origin)?,
                        _ => self.look_for_content(&mut entry, ino, &attr, &at)?,
                    },
                    _ => {}
                }
                (entry, attr.nlink)
            }
        };
        if entry.kind != Kind::Directory && nlink > 1 {
            match self.first_names.entry(ino) {
                Slot::Occupied(first) => entry.link = Some(first.get().clone()),
                Slot::Vacant(first) => drop(first.insert(path)),
            }
        }
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        if entry.link.is_none() && self.seen.files.contains_key(&position) {
            self.progress.bytes_found.fetch_add(entry.size, Ordering::Relaxed);
        }
        self.seen.entries.push(entry);
        Ok(())
    }

    /// Notes where the content of a file of the upper is, or that it has to be sent.
    fn look_for_content(&mut self, entry: &mut Entry, ino: Ino, attr: &Attr, at: &At) -> Result<()> {
        let known = match self.destination {
            Some(destination) => self.inner.w.upper.pushed(at, destination)?,
            None => None,
        };
        // What readers get no more is not what it was before, either.
        let known = known.filter(|known| !self.is(known, Missing::spoils));
        known.iter().for_each(|known| self.seen.packs.note(known.content()));
        // One that is being written may be about to get its content.
        let is_empty = entry.size == 0 && (known.is_none() || !self.inner.open.is_open_for_writing(ino));
        match known {
            _ if is_empty => {}
            Some(pushed) if pushed.is_current(entry) && !self.is(&pushed, Missing::lacks_of) => {
                pushed.describe(entry);
                self.seen.marked.push(self.seen.entries.len());
                if attr.blocks * 512 < attr.size {
                    let file = at.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                    entry.data = data_segments(&file, &file.metadata()?)?;
                }
            }
            older => {
                let older = match older {
                    None if self.destination.is_some() => {
                        self.listed_in_base(ino)?.filter(|older| !self.is(older, Missing::spoils))
                    }
                    older => older,
                };
                let position = self.seen.entries.len();
                self.seen.files.insert(position, LocalFile { ino, older });
            }
        }
        Ok(())
    }

    fn is(&self, pushed: &Pushed, missing: impl Fn(&Missing, &Content) -> bool) -> bool {
        listed(pushed.content()).is_some_and(|content| missing(self.missing, &content))
    }

    /// What the base lists of a file that was copied up.
    fn listed_in_base(&mut self, ino: Ino) -> Result<Option<Pushed>> {
        let Some(item) = self.item_in_base(ino, Some(&Data::Here))? else { return Ok(None) };
        let mtime = item.of()?.mtime();
        Ok(item.content()?.map(|content| Pushed::listed(content, mtime)))
    }

    /// What the base has that became this inode of the upper, as far as it is known.
    fn item_in_base(&mut self, ino: Ino, data: Option<&Data>) -> Result<Option<Item>> {
        let w = &self.inner.w;
        let of = match data {
            None => self.tree(|tree| tree.directory(w, ino))?.0,
            Some(Data::Below(Origin::Base(of))) => Some(*of),
            // What was copied up keeps its number.
            Some(_) => Some(ino).filter(|ino| w.lower.is_shown(*ino)),
        };
        of.map(|of| w.lower.find(of)).transpose()
    }

    /// Owners that are those of the base are called what they are called there, since this machine need not know that name;
    /// the others get names when the walk is over.
    fn take_over_owners(&mut self, entry: &mut Entry, attr: &Attr, item: Option<Item>) -> Result<()> {
        let (mut user, mut group) = (None, None);
        if let Some(item) = item {
            let (of, before, index) = (item.of()?, item.attr()?, item.edition.base.index());
            user = (before.uid == attr.uid).then(|| index.users()[of.user()].clone());
            group = (before.gid == attr.gid).then(|| index.groups()[of.group()].clone());
        }
        let position = self.seen.entries.len();
        match user {
            Some(user) => entry.user = user,
            None => self.seen.unnamed_users.push(position),
        }
        match group {
            Some(group) => entry.group = group,
            None => self.seen.unnamed_groups.push(position),
        }
        Ok(())
    }

    /// Notes where the content of a file is of which only the attributes were copied up.
    fn take_over(&mut self, entry: &mut Entry, origin: &Origin) -> Result<(), SeeError> {
        match origin {
            Origin::Base(of) => {
                let item = self.inner.w.lower.find(*of)?;
                let of = item.of()?;
                entry.content = of.content().map_err(damaged)?;
                entry.v1_keys = of.v1_keys().map_err(damaged)?;
                entry.data = of.data().map_err(damaged)?.map(Iterator::collect);
                Ok(())
            }
            Origin::Replaced(content) => {
                self.seen.packs.note(content);
                entry.content = listed(content);
                Ok(())
            }
            Origin::Lost => Err(SeeError::Lost(Path::new("/").join(OsStr::from_bytes(&entry.path)))),
        }
    }
}

/// What `stat` tells; of owners that is a number.
fn describe(path: Vec<u8>, attr: &Attr) -> Entry {
    let kind = match attr.kind {
        FileKind::Regular => Kind::Regular,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice(device) => Kind::CharDevice { major: device.major, minor: device.minor },
        FileKind::BlockDevice(device) => Kind::BlockDevice { major: device.major, minor: device.minor },
    };
    let time = |Time { secs, nanos }: Time| Timestamp { secs, nanos };
    Entry {
        perm: attr.perm,
        user: Owner { name: None, id: Some(attr.uid) },
        group: Owner { name: None, id: Some(attr.gid) },
        size: if kind == Kind::Regular { attr.size } else { 0 },
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        ..Entry::new(path, kind)
    }
}

impl Inner {
    /// Opens a file of the upper wherever it is by now; `None` if it is nowhere.
    pub(super) fn open_to_send(&self, ino: Option<Ino>) -> io::Result<Option<File>> {
        let Some(ino) = ino else { return Ok(None) };
        let mut tree = self.tree();
        // Before it can be moved again.
        match tree.at(&self.w, ino).and_then(|at| at.open(OFlags::RDONLY | OFlags::NONBLOCK)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => Ok(None),
            Err(error) => Err(error.errno().into()),
        }
    }
}
