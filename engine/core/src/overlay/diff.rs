//! What the local changes come to: the tree that is shown, compared with the base.
//!
//! Nothing is fetched. Only directories of the upper are looked at: what is in the base alone is what it was. Content is read
//! only if it is in the upper and as long as that of the base, which is known by its digest.
//!
//! What is compared is the result, path by path, not the way to it: a file that was removed and made again is one that was
//! changed, or nothing. Only what was moved is known to be the same wherever it is: a directory of the base, and a file of
//! which only the attributes were copied up.
//!
//! The tree may change meanwhile. Its lock is held for one directory or one inode at a time, so what is told of two of them
//! may be of two moments.

mod content;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use aysfs_flist::NodeRef;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Attr, ErrorKind, FileKind, Ino, Name, Result};
use rustix::fs::{FileType, OFlags};

use self::content::OnDisk;
use super::at::At;
use super::tree::{Data, Found, Object, Origin, Tree, Where, file_type};
use super::{Inner, Overlay, World, blocking};
use crate::abandoned::SetWhenDropped;
use crate::base::damaged;
use crate::edition::Item;

/// One difference from the base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where it is, without a leading `/`; of what is deleted: where it was in the base. Empty: the root.
    pub path: Vec<u8>,
    /// What is different.
    pub what: Changed,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// It is gone, with all that the base has below it.
    Deleted,
    /// The base has nothing there.
    Added,
    /// The base has something there, and it differs in this.
    Modified(Vec<Aspect>),
    /// The base has it at another path.
    Renamed {
        /// That path.
        from: Vec<u8>,
        /// What else is different.
        aspects: Vec<Aspect>,
    },
}

/// Something that is different about an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// It is of another type, or another device.
    Type,
    /// The bytes of a regular file.
    Content,
    /// The length of a regular file.
    Size,
    /// The target of a symlink.
    Target,
    /// The permissions.
    Mode,
    /// The user or the group.
    Owner,
    /// Extended attributes, ACLs included.
    Xattrs,
    /// The time of the last change; only if nothing else explains it: other content, another target, a
    /// name that came to a directory or went.
    Times,
}

impl Overlay {
    /// What is different from the base, sorted by path. Dropping the future ends the work soon.
    ///
    /// # Errors
    /// Those of the local filesystem, and a base that is damaged.
    pub async fn diff(&self) -> Result<Vec<Change>> {
        let abandoned = SetWhenDropped::default();
        let (inner, flag) = (self.0.clone(), abandoned.0.clone());
        blocking(move || {
            loop {
                let before = inner.w.lower.now().serial;
                let found = Comparison::new(&inner, &flag).run();
                if inner.w.lower.now().serial == before {
                    return found;
                }
                // It was compared with two bases.
            }
        })
        .await
    }
}

/// A directory that is still to be looked into.
struct Ahead {
    ino: Ino,
    path: Vec<u8>,
    /// What it is compared with, and where that is.
    base: Option<(Ino, Vec<u8>)>,
    report: Report,
}

/// Where what is different about a directory itself is noted.
#[derive(Clone, Copy)]
enum Report {
    /// In a line of its own.
    Modified,
    /// With its new name: a position in [`Comparison::added`].
    Renamed(usize),
    /// Nowhere: it is new.
    Nowhere,
}

/// A path that the base does not have.
struct Added {
    path: Vec<u8>,
    from: Option<Vec<u8>>,
    aspects: Vec<Aspect>,
}

struct Comparison<'a> {
    inner: &'a Inner,
    abandoned: &'a AtomicBool,
    ahead: Vec<Ahead>,
    modified: Vec<Change>,
    /// Paths of the base, and what it has there.
    deleted: BTreeMap<Vec<u8>, Ino>,
    added: Vec<Added>,
    /// Files of the base that have been found at another path.
    renamed: HashSet<Ino>,
}

impl<'a> Comparison<'a> {
    fn new(inner: &'a Inner, abandoned: &'a AtomicBool) -> Self {
        let root = Ahead {
            ino: Ino::ROOT,
            path: Vec::new(),
            base: Some((Ino::ROOT, Vec::new())),
            report: Report::Modified,
        };
        Self {
            inner,
            abandoned,
            ahead: vec![root],
            modified: Vec::new(),
            deleted: BTreeMap::new(),
            added: Vec::new(),
            renamed: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<Vec<Change>> {
        while let Some(directory) = self.ahead.pop() {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            unless_gone(self.compare_directory(&directory))?;
        }
        for from in self.added.iter().filter_map(|added| added.from.as_ref()) {
            self.deleted.remove(from);
        }
        let mut all = self.modified;
        all.extend(self.deleted.into_keys().map(|path| Change { path, what: Changed::Deleted }));
        all.extend(self.added.into_iter().map(|Added { path, from, aspects }| {
            let what = match from {
                Some(from) => Changed::Renamed { from, aspects },
                None => Changed::Added,
            };
            Change { path, what }
        }));
        all.sort_unstable();
        Ok(all)
    }

    fn compare_directory(&mut self, Ahead { ino, path, base, report }: &Ahead) -> Result<()> {
        let w = &self.inner.w;
        let (shown, lower) = {
            let mut tree = self.inner.tree();
            match base {
                // It is in the base only, and so is all below it.
                Some((of, _)) if !tree.is_in_upper(*ino) && of == ino => return Ok(()),
                _ => (tree.list(w, *ino)?, tree.directory(w, *ino)?.0),
            }
        };
        let mut names: BTreeMap<Name, (Option<Found>, Option<Ino>)> =
            shown.into_iter().map(|(name, found)| (name, (Some(found), None))).collect();
        if let Some((of, _)) = base {
            for (name, ino, _) in w.lower.find(*of)?.children()? {
                names.entry(name).or_default().1 = Some(ino);
            }
        }
        let mut is_same = true;
        for (name, pair) in names {
            let path = join(path, &name);
            let in_base = base.as_ref().map(|(_, at)| join(at, &name)).unwrap_or_default();
            let changed = match pair {
                (Some(found), None) => self.is_new(path, found).map(|()| true),
                (Some(found), Some(node)) => self.compare(path, found, in_base, node),
                (None, Some(node)) => {
                    self.deleted.insert(in_base, node);
                    Ok(true)
                }
                (None, None) => Ok(false),
            };
            is_same &= !unless_gone(changed)?.unwrap_or_default();
        }
        let of = match (base, report) {
            (Some((node, _)), Report::Modified | Report::Renamed(_)) => *node,
            _ => return Ok(()),
        };
        let mut aspects = self.aspects(*ino, of, FileType::Directory)?;
        if !is_same || lower != Some(of) {
            // That is why it was changed last when it was.
            aspects.retain(|aspect| *aspect != Aspect::Times);
        }
        match report {
            Report::Renamed(position) => self.added[*position].aspects = aspects,
            Report::Modified | Report::Nowhere => self.modified(path.clone(), aspects),
        }
        Ok(())
    }

    /// Compares what a name leads to with what it leads to in the base; returns whether the name was touched.
    fn compare(&mut self, path: Vec<u8>, found: Found, in_base: Vec<u8>, of: Ino) -> Result<bool> {
        let w = &self.inner.w;
        let Found::Upper(ino, kind) = found else { return Ok(false) };
        let was_directory = file_type(w.lower.find(of)?.of()?.kind()) == FileType::Directory;
        let lower = self.lower(found)?;
        let is_it = lower == Some(of);
        // A directory of the base that is elsewhere, or that another one has replaced, is another one.
        if (was_directory && !is_it && self.is_elsewhere(of)) || (lower.is_some() && !is_it) {
            self.deleted.insert(in_base, of);
            self.is_new(path, found)?;
            return Ok(true);
        }
        match (found.is_directory(), was_directory) {
            (true, true) => {
                let base = Some((of, in_base));
                self.ahead.push(Ahead { ino, path, base, report: Report::Modified });
                Ok(!is_it)
            }
            (true, false) => {
                self.modified(path.clone(), vec![Aspect::Type]);
                self.ahead.push(Ahead { ino, path, base: None, report: Report::Nowhere });
                Ok(true)
            }
            (false, true) => {
                self.modified(path, vec![Aspect::Type]);
                Ok(true)
            }
            (false, false) => {
                let aspects = self.aspects(ino, of, kind)?;
                let changed = !aspects.is_empty();
                self.modified(path, aspects);
                Ok(changed)
            }
        }
    }

    /// A path that the base does not have.
    fn is_new(&mut self, path: Vec<u8>, found: Found) -> Result<()> {
        let w = &self.inner.w;
        let (position, ino) = (self.added.len(), found.ino());
        let mut new = Added { path: path.clone(), from: None, aspects: Vec::new() };
        if found.is_directory() {
            let lower = self.lower(found)?;
            let base = match lower {
                Some(of) => Some((of, w.lower.find(of)?.path()?)),
                None => None,
            };
            let report = if base.is_some() { Report::Renamed(position) } else { Report::Nowhere };
            new.from = base.as_ref().map(|(_, at)| at.clone());
            self.ahead.push(Ahead { ino, path, base, report });
        } else if let Some((of, from)) = self.moved_file(ino)? {
            new.from = Some(from);
            new.aspects = self.aspects(ino, of, found.kind())?;
            self.renamed.insert(of);
        }
        self.added.push(new);
        Ok(())
    }

    /// The file of the base that was moved to where an inode is, and where it was.
    fn moved_file(&self, ino: Ino) -> Result<Option<(Ino, Vec<u8>)>> {
        let w = &self.inner.w;
        let mut tree = self.inner.tree();
        let Some(Data::Below(Origin::Base(of))) = tree.leaf(ino).map(|leaf| leaf.data.clone()) else {
            return Ok(None);
        };
        if self.renamed.contains(&of) {
            return Ok(None);
        }
        let mut first = None;
        for (directory, name) in w.lower.find(of)?.names()? {
            let path = join(&w.lower.find(directory)?.path()?, &name);
            if at_path(&mut tree, w, &path)?.is_some_and(|found| found.ino() == ino) {
                // This is one more name.
                return Ok(None);
            }
            first.get_or_insert(path);
        }
        Ok(first.map(|path| (of, path)))
    }

    fn modified(&mut self, path: Vec<u8>, aspects: Vec<Aspect>) {
        if !aspects.is_empty() {
            self.modified.push(Change { path, what: Changed::Modified(aspects) });
        }
    }

    /// The directory of the base that a directory is merged with.
    fn lower(&self, found: Found) -> Result<Option<Ino>> {
        match found.is_directory() {
            true => Ok(self.inner.tree().directory(&self.inner.w, found.ino())?.0),
            false => Ok(None),
        }
    }

    /// Whether a directory of the base, which is not in its place, is shown at another one.
    fn is_elsewhere(&self, ino: Ino) -> bool {
        match self.inner.tree().objects.get(&ino) {
            Some(Object::Directory(directory)) => !matches!(directory.place, Where::Removed(_)),
            _ => false,
        }
    }

    /// In what an inode of the upper differs from one of the base.
    fn aspects(&self, ino: Ino, of: Ino, kind: FileType) -> Result<Vec<Aspect>> {
        let w = &self.inner.w;
        let item = w.lower.find(of)?;
        let (of, old) = (item.of()?, item.attr()?);
        let (new, at, data) = {
            let mut tree = self.inner.tree();
            let data = tree.leaf(ino).map(|leaf| leaf.data.clone());
            (tree.attr(w, ino)?.attr, tree.at(w, ino)?, data)
        };
        if old.kind != new.kind {
            return Ok(vec![Aspect::Type]);
        }
        let mut aspects = Vec::new();
        let mut note = |aspect, differs| {
            if differs {
                aspects.push(aspect);
            }
        };
        let content_differs =
            kind == FileType::RegularFile && self.content_differs(&item, (&old, &new), &at, data)?;
        note(Aspect::Content, content_differs);
        note(Aspect::Size, kind == FileType::RegularFile && old.size != new.size);
        let target_differs = kind == FileType::Symlink && at.target()? != of.target().map_err(damaged)?;
        note(Aspect::Target, target_differs);
        note(Aspect::Mode, kind != FileType::Symlink && old.perm != new.perm);
        note(Aspect::Owner, (old.uid, old.gid) != (new.uid, new.gid));
        note(Aspect::Xattrs, w.upper.shown_xattrs(&at)? != sorted_xattrs(&of)?);
        note(Aspect::Times, !content_differs && !target_differs && old.mtime != new.mtime);
        Ok(aspects)
    }

    fn content_differs(
        &self,
        item: &Item,
        (old, new): (&Attr, &Attr),
        at: &At,
        data: Option<Data>,
    ) -> Result<bool> {
        debug_assert_eq!((old.kind, new.kind), (FileKind::Regular, FileKind::Regular));
        let (lower, of) = (&self.inner.w.lower, &item.of()?);
        if old.size != new.size {
            return Ok(true);
        }
        let known = match data {
            Some(Data::Below(Origin::Base(origin))) if origin == item.ino() => return Ok(false),
            Some(Data::Below(Origin::Base(origin))) => lower.find(origin)?.content()?,
            Some(Data::Below(Origin::Replaced(content))) => Some((*content).clone()),
            Some(Data::Below(Origin::Lost)) => return Ok(true),
            Some(Data::Here) | None => {
                let Some(listed) = of.content().map_err(damaged)? else { return Ok(false) };
                let file = at.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                let on_disk = OnDisk { file: &file, abandoned: self.abandoned };
                let mut cached = None;
                let differs = on_disk.differs(&listed, || {
                    cached = lower.cached(item).ok()??.complete();
                    cached.as_ref().map(|cached| cached.file().clone())
                })?;
                // What was given away meanwhile says nothing.
                return Ok(differs || cached.is_some_and(|cached| !cached.is_intact()));
            }
        };
        let in_base = item.content()?;
        Ok(known.map(|content| content.id) != in_base.map(|content| content.id))
    }
}

/// What a path leads to.
fn at_path(tree: &mut Tree, w: &World, path: &[u8]) -> Result<Option<Found>> {
    let mut found = None;
    let mut at = Ino::ROOT;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        found = match tree.find(w, at, &raw::name(component)?) {
            Ok(Some(found)) => Some(found),
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(error),
        };
        at = found.map_or(Ino::ROOT, Found::ino);
    }
    Ok(found)
}

/// What vanishes while it is looked at was not there.
fn unless_gone<T>(looked: Result<T>) -> Result<Option<T>> {
    match looked {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => Ok(None),
        looked => looked.map(Some),
    }
}

fn sorted_xattrs(of: &NodeRef<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all = Vec::new();
    for attribute in of.xattrs().map_err(damaged)? {
        let (name, value) = attribute.map_err(damaged)?;
        all.push((name.to_vec(), value.to_vec()));
    }
    all.sort();
    Ok(all)
}

pub(super) fn join(directory: &[u8], name: &Name) -> Vec<u8> {
    match directory {
        [] => name.as_bytes().to_vec(),
        _ => [directory, b"/", name.as_bytes()].concat(),
    }
}
