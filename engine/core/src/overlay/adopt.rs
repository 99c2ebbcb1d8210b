//! What the upper directory says, taken into the image: directories that this process wrote, or an earlier one, or the kernel,
//! or that somebody damaged.
//!
//! Each directory is read when it is first looked at. Two things can only be known once all are read: where a directory of
//! the base went that was moved (a redirect leads from the new place to the old one, not back), and which names of a
//! hard-linked file of the base are gone. So the rest is read at the first redirect of a directory, and at the first look at
//! such a file: trees that have neither never pay for it.
//!
//! # Damaged marks
//!
//! - A redirect that is no plain path, or leads nowhere, counts as none that leads anywhere: the directory shows what is in
//!   the upper, and a file without content fails to be read, unless a mark tells the content ([`origin`]). It is never followed out of the base.
//! - A directory of the base is shown once. If it is still there under its own name, or if two redirects claim it, the own
//!   name wins, then the shorter path in the base, then the shorter path in the upper, then the first by name; the others
//!   show what is in the upper. (The kernel shows it several times.)
//! - A mark that has no meaning where it is, such as a redirect of a symlink, is not looked at.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use aysfs_flist::Node;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Ino, Name, Result};
use rustix::fs::{FileType, OFlags};

use super::at::At;
use super::marks::Mark;
use super::times::Times;
use super::tree::{Child, Data, Directory, Leaf, Object, Origin, Place, Tree, Where, file_type};
use super::upper::names;
use super::{World, access, origin};
use crate::base::damaged;
use crate::edition::Edition;

/// What one name in a directory of the upper turned out to be.
struct Seen {
    name: Name,
    what: What,
}

pub(super) enum What {
    Whiteout,
    /// With the directory of the base that it is merged with.
    Directory(Option<Node>),
    /// The same, but of another place in the base.
    Moved(Node),
    Leaf {
        kind: FileType,
        key: u64,
        data: Data,
    },
}

/// A directory that says it was moved.
#[derive(Debug)]
pub(super) struct Claim {
    place: Place,
    of: Ino,
    /// How many directories are above it in the base.
    depth: usize,
}

impl Tree {
    /// Reads a directory of the upper, once.
    pub(super) fn load(&mut self, w: &World, ino: Ino) -> Result<()> {
        if self.is_unread(ino) {
            let seen = self.read(w, ino)?;
            self.take_in(w, ino, seen)?;
        }
        // Also what an attempt before this one could not read.
        if self.claims.is_empty() { Ok(()) } else { self.survey(w) }
    }

    /// Reads all directories of the upper, once.
    pub(super) fn survey(&mut self, w: &World) -> Result<()> {
        if self.surveyed {
            return Ok(());
        }
        let mut pending = VecDeque::from([Ino::ROOT]);
        loop {
            while let Some(ino) = pending.pop_front() {
                if self.is_unread(ino) {
                    let seen = self.read(w, ino)?;
                    self.take_in(w, ino, seen)?;
                }
                pending.extend(self.subdirectories(ino).into_iter().map(|(_, ino)| ino));
            }
            // Those of short paths first: whether a directory is still in its place depends on those above it.
            let first = self.claims.iter().enumerate().min_by_key(|(_, claim)| claim.depth);
            let Some((position, claim)) = first else { break };
            let (parent, name) = w.lower.find(claim.of)?.place()?;
            let is_in_place = self.is_in_place(w, parent, &name)?;
            let claim = self.claims.remove(position);
            pending.push_back(self.decide(w, claim, is_in_place)?);
        }
        self.surveyed = true;
        Ok(())
    }

    /// How many names of a hard-linked file of the base were gone before this mount.
    pub(super) fn names_gone_before(&mut self, w: &World, ino: Ino) -> Result<u32> {
        if self.gone_before.is_none() {
            self.survey(w)?;
            let mut gone = HashMap::new();
            let edition = w.lower.now();
            for (node, names) in edition.base.hard_links().map_err(damaged)? {
                let (ino, mut count) = (edition.ino(*node), 0);
                for (directory, name) in names {
                    let directory = edition.ino(*directory);
                    count += u32::from(!self.is_in_place(w, directory, &raw::name(name)?)?);
                }
                gone.insert(ino, count - self.lost.get(&ino).copied().unwrap_or_default());
            }
            self.gone_before = Some(gone);
        }
        Ok(self.gone_before.as_ref().and_then(|gone| gone.get(&ino)).copied().unwrap_or_default())
    }

    fn is_unread(&self, ino: Ino) -> bool {
        matches!(
            self.objects.get(&ino),
            Some(Object::Directory(directory)) if directory.raised && directory.children.is_none()
        )
    }

    /// The directories of the upper in one, sorted by name.
    pub(super) fn subdirectories(&self, ino: Ino) -> Vec<(Name, Ino)> {
        let Some(Object::Directory(directory)) = self.objects.get(&ino) else { return Vec::new() };
        let directories = directory.children.iter().flatten().filter_map(|(name, child)| match child {
            Child::There(ino, FileType::Directory) => Some((name.clone(), *ino)),
            _ => None,
        });
        directories.collect()
    }

    /// Reads a directory of the upper; changes nothing, so it can fail and be tried again.
    fn read(&mut self, w: &World, ino: Ino) -> Result<Vec<Seen>> {
        let edition = w.lower.now();
        let lower = self.directory(w, ino)?.0.and_then(|lower| edition.numbers.node(lower));
        let fd = self.descriptor(w, ino)?;
        let mut all = Vec::new();
        for (bytes, _) in access::inside(&fd, || names(&*fd))? {
            let name = raw::name(&bytes)?;
            let at = At::Named(fd.clone(), bytes);
            let stat = at.stat()?;
            let what = match FileType::from_raw_mode(stat.st_mode) {
                _ if w.upper.is_whiteout(&at, &stat)? => What::Whiteout,
                FileType::Directory => w.seen_directory(&edition, lower, &name, &at)?,
                kind => {
                    let data = w.seen_data(&edition, lower, &name, kind, &at)?;
                    What::Leaf { kind, key: stat.st_ino, data }
                }
            };
            all.push(Seen { name, what });
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Takes in what was read of a directory.
    fn take_in(&mut self, w: &World, ino: Ino, seen: Vec<Seen>) -> Result<()> {
        self.directory_mut(ino)?.children = Some(BTreeMap::new());
        for Seen { name, what } in seen {
            let place = Place { parent: ino, name: name.clone() };
            let child = match what {
                What::Whiteout => Child::Whiteout,
                What::Leaf { kind, key, data } => {
                    Child::There(self.take_in_leaf(place, kind, key, data), kind)
                }
                What::Directory(lower) => {
                    self.take_in_directory(place, lower.map(|lower| w.lower.now().ino(lower)))
                }
                What::Moved(of) => {
                    let edition = w.lower.now();
                    let depth = depth(&edition, of)?;
                    self.claims.push(Claim { place, of: edition.ino(of), depth });
                    // Until it is decided: whatever it is, it hides what the base has there.
                    Child::Whiteout
                }
            };
            self.set_child(w, ino, &name, Some(child))?;
        }
        Ok(())
    }

    /// A directory of the upper, merged with one of the base unless that is merged with another one already.
    fn take_in_directory(&mut self, place: Place, lower: Option<Ino>) -> Child {
        let free = lower.filter(|ino| !self.objects.contains_key(ino));
        if free != lower {
            tracing::warn!("{} shows local changes only: what it was in the base is elsewhere", place.name);
        }
        let ino = free.unwrap_or_else(|| self.new_ino());
        let directory = Directory {
            place: Where::At(place),
            lower: free,
            raised: true,
            children: None,
            more_subdirectories: 0,
            has_no_default_acl: false,
        };
        self.objects.insert(ino, Object::Directory(directory));
        Child::There(ino, FileType::Directory)
    }

    fn take_in_leaf(&mut self, place: Place, kind: FileType, key: u64, data: Data) -> Ino {
        if let Some(ino) = self.by_key.get(&key).copied()
            && let Some(leaf) = self.leaf_mut(ino)
        {
            // Another name of it was found before, and may be gone again.
            leaf.nameless = None;
            leaf.places.push(place);
            return ino;
        }
        let ino = self.new_ino();
        self.by_key.insert(key, ino);
        self.objects.insert(
            ino,
            Object::Leaf(Leaf {
                places: vec![place],
                kind,
                data,
                key,
                nameless: None,
                has_no_capability: false,
                may_be_pushed: kind == FileType::RegularFile,
                has_new_mark: false,
            }),
        );
        ino
    }

    /// Shows a directory that says it was moved as what it says, unless that is still in its place; returns its number.
    fn decide(&mut self, w: &World, Claim { place, of, .. }: Claim, is_in_place: bool) -> Result<Ino> {
        if is_in_place {
            tracing::warn!(
                "{} in {} says it is {} of the base, which is still there: it shows local changes only",
                place.name,
                w.upper.path().display(),
                w.lower.find(of)?.shown_path()
            );
        }
        let (parent, name) = (place.parent, place.name.clone());
        let child = self.take_in_directory(place, (!is_in_place).then_some(of));
        self.set_child(w, parent, &name, Some(child))?;
        match child {
            Child::There(ino, _) => Ok(ino),
            Child::Whiteout => Ok(parent),
        }
    }

    /// Whether a name in a directory of the base shows through, wherever that directory is. All of the upper is read.
    fn is_in_place(&self, w: &World, directory: Ino, name: &Name) -> Result<bool> {
        let (mut directory, mut name) = (directory, name.clone());
        loop {
            match self.objects.get(&directory) {
                Some(Object::Directory(above)) => {
                    let is_said = above.children.as_ref().is_some_and(|known| known.contains_key(&name));
                    return Ok(!is_said
                        && above.lower.is_some()
                        && !matches!(above.place, Where::Removed(_)));
                }
                Some(Object::Leaf(_)) => return Ok(false),
                None => {}
            }
            (directory, name) = w.lower.find(directory)?.place()?;
        }
    }
}

impl World {
    /// What a directory of the upper is merged with, if it is in one that is merged with `lower`.
    pub(super) fn seen_directory(
        &self,
        edition: &Edition,
        lower: Option<Node>,
        name: &Name,
        at: &At,
    ) -> Result<What> {
        if self.upper.mark(at, Mark::Opaque)?.is_some_and(|value| value == b"y") {
            return Ok(What::Directory(None));
        }
        let directory = |found: Option<(Node, FileType)>| match found {
            Some((node, FileType::Directory)) => Some(node),
            _ => None,
        };
        let own = directory(below(edition, lower, name)?);
        Ok(match self.upper.mark(at, Mark::Redirect)? {
            None => What::Directory(own),
            Some(path) => {
                let found = match self.translated(&edition.base, at, path)? {
                    Some(path) => self.redirected(edition, lower, &path)?,
                    None => None,
                };
                match directory(found) {
                    Some(node) if Some(node) != own => What::Moved(node),
                    found => What::Directory(found),
                }
            }
        })
    }

    /// Where the content of what is no directory is.
    pub(super) fn seen_data(
        &self,
        edition: &Edition,
        lower: Option<Node>,
        name: &Name,
        kind: FileType,
        at: &At,
    ) -> Result<Data> {
        if kind != FileType::RegularFile || self.upper.mark(at, Mark::Metacopy)?.is_none() {
            return Ok(Data::Here);
        }
        if let Some(times) = self.upper.mark(at, Mark::Times)?.as_deref().and_then(Times::from_mark) {
            // A crash came while its content was added.
            times.restore(&at.open(OFlags::RDONLY)?)?;
            self.upper.clear_mark(at, Mark::Times)?;
        }
        let found = match self.upper.mark(at, Mark::Redirect)? {
            None => below(edition, lower, name)?,
            Some(path) => self.redirected(edition, lower, &path)?,
        };
        let found = match found {
            Some((node, FileType::RegularFile)) => Some(node),
            _ => None,
        };
        let mark = self.upper.mark(at, Mark::Content)?;
        Ok(Data::Below(match (mark.as_deref().and_then(origin::from_mark), found) {
            (Some(content), found) => {
                // Or under its own name: a base that was made of these changes has it there.
                let own = below(edition, lower, name)?.map(|(node, _)| node);
                let mut same = None;
                for node in [found, own].into_iter().flatten() {
                    let there = edition
                        .base
                        .content_of(&edition.base.index().node(node).map_err(damaged)?)
                        .map_err(damaged)?;
                    if same.is_none() && there.is_some_and(|there| origin::is_same(&there, &content)) {
                        same = Some(node);
                    }
                }
                match same {
                    Some(node) => Origin::Base(edition.ino(node)),
                    None => Origin::Replaced(Arc::new(content)),
                }
            }
            // The kernel made it: what it means is what is there.
            (None, Some(node)) => Origin::Base(edition.ino(node)),
            (None, None) => Origin::Lost,
        }))
    }

    /// Where a redirect leads, in the base: an absolute path, or another name in the same directory.
    fn redirected(
        &self,
        edition: &Edition,
        lower: Option<Node>,
        path: &[u8],
    ) -> Result<Option<(Node, FileType)>> {
        let nowhere = || {
            tracing::warn!(
                "a redirect in {} leads nowhere: {}",
                self.upper.path().display(),
                path[..path.len().min(4096)].escape_ascii()
            );
            Ok(None)
        };
        let (mut found, relative) = match path.strip_prefix(b"/") {
            Some(rest) => (Some((Node::ROOT, FileType::Directory)), rest),
            None if path.contains(&b'/') => return nowhere(),
            None => (lower.map(|node| (node, FileType::Directory)), path),
        };
        for component in relative.split(|byte| *byte == b'/') {
            let (Some((node, FileType::Directory)), Ok(name)) = (found, Name::new(component)) else {
                return nowhere();
            };
            found = below(edition, Some(node), &name)?;
        }
        if found.is_none() { nowhere() } else { Ok(found) }
    }
}

/// What a directory of a base has under a name.
pub(super) fn below(edition: &Edition, lower: Option<Node>, name: &Name) -> Result<Option<(Node, FileType)>> {
    let Some(lower) = lower else { return Ok(None) };
    let found = edition.child(lower, name.as_bytes()).map_err(damaged)?;
    Ok(found.map(|(node, kind)| (node, file_type(kind))))
}

/// How many directories are above one of the base.
pub(super) fn depth(edition: &Edition, mut node: Node) -> Result<usize> {
    let mut depth = 0;
    while node != Node::ROOT {
        node = edition.base.index().node(node).map_err(damaged)?.parent();
        depth += 1;
    }
    Ok(depth)
}
