//! What is different between the base that is shown and the one that is to replace it.
//!
//! Both are walked side by side, directory by directory, names in order. What is the same thing in both keeps its inode
//! number: a directory at the same path, and anything else at the same path that has the same type and the same content. Their
//! attributes may differ, which the kernel has to be told; what has other content is another inode.
//!
//! A list that was committed from the one that is shown says which directories were moved meanwhile: those are compared with
//! what they were, wherever they are.

use std::cmp::Ordering;
use std::collections::HashMap;

use aysfs_flist::{Children, Content as Listed, Corrupt, Kind, Node, NodeRef};
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Ino, Name, Result};

use crate::base::{Base, damaged};
use crate::edition::Edition;
use crate::listed::content_id;
use crate::rebase::Changes;

/// How two bases differ.
#[derive(Debug)]
pub(crate) struct Differences {
    /// By node of the new base: the number that it keeps.
    pub(crate) kept: Vec<Option<Ino>>,
    /// What the kernel has to drop.
    pub(crate) changes: Changes,
    /// Directories of the old base that are gone, with all that is below them.
    gone: Vec<Node>,
}

impl Differences {
    /// The names in directories that are gone and `is_known`, the deepest first.
    ///
    /// The kernel drops what is below a name with the name, but for what is in use, which it would keep for as long as it has the
    /// memory.
    pub(crate) fn names_below(
        &self,
        old: &Edition,
        is_known: impl Fn(Ino) -> bool,
    ) -> Result<Vec<(Ino, Name)>> {
        let (mut names, mut pending) = (Vec::new(), self.gone.clone());
        while let Some(directory) = pending.pop() {
            let ino = old.ino(directory);
            if !is_known(ino) {
                continue;
            }
            for child in old.base.index().children(directory).map_err(damaged)? {
                let (name, node) = child.map_err(damaged)?;
                names.push((ino, raw::name(name)?));
                if old.base.index().node(node).map_err(damaged)?.kind() == Kind::Directory {
                    pending.push(node);
                }
            }
        }
        names.reverse();
        Ok(names)
    }
}

/// Compares what is shown with what is to be.
pub(crate) fn compare(old: &Edition, new: &Base) -> Result<Differences> {
    let mut walk = Walk {
        old,
        new,
        moved: moved_directories(old, new).map_err(damaged)?,
        is_used: vec![false; old.base.index().len()],
        found: Differences {
            kept: vec![None; new.index().len()],
            changes: Changes::default(),
            gone: Vec::new(),
        },
        ahead: Vec::new(),
    };
    walk.ahead.push((Node::ROOT, Node::ROOT));
    walk.ahead.extend(walk.moved.to_new.iter().map(|(from, to)| (*from, *to)));
    while let Some((old, new)) = walk.ahead.pop() {
        walk.directory(old, new)?;
    }
    Ok(walk.found)
}

/// Directories that have another path in the new base.
#[derive(Debug, Default)]
struct Moved {
    to_new: HashMap<Node, Node>,
    to_old: HashMap<Node, Node>,
}

/// What the new list says was moved, if it was made of the old one and of nothing in between.
fn moved_directories(old: &Edition, new: &Base) -> Result<Moved, Corrupt> {
    let mut moved = Moved::default();
    let made_from = new.index().header().ancestors.last();
    let made_from = made_from.filter(|ancestor| ancestor.sha256 == old.base.index().list_digest());
    for (from, to) in made_from.iter().flat_map(|ancestor| &ancestor.moved) {
        if let (Some(from), Some(to)) = (old.base.directory_at(from)?, new.directory_at(to)?)
            && !moved.to_new.contains_key(&from)
            && !moved.to_old.contains_key(&to)
        {
            moved.to_new.insert(from, to);
            moved.to_old.insert(to, from);
        }
    }
    Ok(moved)
}

struct Walk<'a> {
    old: &'a Edition,
    new: &'a Base,
    moved: Moved,
    /// By node of the old base: whether its number is kept.
    is_used: Vec<bool>,
    found: Differences,
    /// Directories that are the same one.
    ahead: Vec<(Node, Node)>,
}

impl<'a> Walk<'a> {
    fn directory(&mut self, old: Node, new: Node) -> Result<()> {
        let ino = self.old.ino(old);
        self.keep(old, new);
        let (old_index, new_index) = (self.old.base.index(), self.new.index());
        let mut before = old_index.children(old).map_err(damaged)?;
        let mut after = new_index.children(new).map_err(damaged)?;
        let names_before = self.found.changes.names.len();
        let mut children_changed = false;
        let (mut one, mut other) = (next(&mut before)?, next(&mut after)?);
        loop {
            let order = match (&one, &other) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            if let (Some((name, old)), Ordering::Less) = (one, order) {
                self.name(ino, name)?;
                self.found.changes.removed += self.names_from(old)?;
                if old_index.node(old).map_err(damaged)?.kind() == Kind::Directory {
                    self.found.gone.push(old);
                }
            }
            if let (Some((name, new)), Ordering::Greater) = (other, order) {
                self.name(ino, name)?;
                self.found.changes.added += self.names_to(new)?;
            }
            if let (Some((name, old)), Some((_, new)), Ordering::Equal) = (one, other, order) {
                children_changed |= self.pair(ino, name, old, new)?;
            }
            if order.is_le() {
                one = next(&mut before)?;
            }
            if order.is_ge() {
                other = next(&mut after)?;
            }
        }
        let attributes_differ = self.attributes_differ(old, new)?;
        self.found.changes.changed += u64::from(attributes_differ);
        if attributes_differ || self.found.changes.names.len() > names_before {
            self.found.changes.inodes.push(ino);
        }
        if children_changed {
            self.found.changes.parents.push(ino);
        }
        Ok(())
    }

    /// A name that both have; returns whether it leads to the same inode with other attributes.
    fn pair(&mut self, parent: Ino, name: &[u8], old: Node, new: Node) -> Result<bool> {
        let was = self.old.base.index().node(old).map_err(damaged)?;
        let is = self.new.index().node(new).map_err(damaged)?;
        let moved = &self.moved;
        let elsewhere = moved.to_new.contains_key(&old) || moved.to_old.contains_key(&new);
        if was.kind() == Kind::Directory && is.kind() == Kind::Directory && !elsewhere {
            self.ahead.push((old, new));
            return self.attributes_differ(old, new);
        }
        if self.found.kept[new.0 as usize] == Some(self.old.ino(old)) && !elsewhere {
            // One more name of it.
            return Ok(false);
        }
        let is_free = self.found.kept[new.0 as usize].is_none() && !self.is_used[old.0 as usize];
        if is_free && is_same(&was, &is).map_err(damaged)? {
            self.keep(old, new);
            let differ = self.attributes_differ(old, new)?;
            if differ {
                self.found.changes.changed += 1;
                self.found.changes.inodes.push(self.old.ino(old));
            }
            return Ok(differ);
        }
        self.name(parent, name)?;
        self.found.changes.changed += 1;
        // What is below them; the name itself is counted.
        let below = |names: u64| names.saturating_sub(1);
        self.found.changes.removed += below(self.names_from(old)?);
        if was.kind() == Kind::Directory {
            self.found.gone.push(old);
        }
        self.found.changes.added += below(self.names_to(new)?);
        Ok(false)
    }

    fn keep(&mut self, old: Node, new: Node) {
        self.found.kept[new.0 as usize] = Some(self.old.ino(old));
        self.is_used[old.0 as usize] = true;
    }

    fn name(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        self.found.changes.names.push((parent, raw::name(name)?));
        Ok(())
    }

    /// How many names are gone with one of the old base.
    fn names_from(&self, node: Node) -> Result<u64> {
        count(&self.old.base, node, |node| self.moved.to_new.contains_key(&node)).map_err(damaged)
    }

    /// How many come with one of the new base.
    fn names_to(&self, node: Node) -> Result<u64> {
        count(self.new, node, |node| self.moved.to_old.contains_key(&node)).map_err(damaged)
    }

    fn attributes_differ(&self, old: Node, new: Node) -> Result<bool> {
        let differ = || {
            let was = self.old.base.index().node(old)?;
            let is = self.new.index().node(new)?;
            Ok(self.old.base.attr(Ino::ROOT, &was)? != self.new.attr(Ino::ROOT, &is)?
                || !same_xattrs(&was, &is)?)
        };
        differ().map_err(damaged)
    }
}

fn next<'a>(children: &mut Children<'a>) -> Result<Option<(&'a [u8], Node)>> {
    children.next().transpose().map_err(damaged)
}

/// How many names there are from a node downwards, its own included; not those of directories that are to be left out.
fn count(base: &Base, node: Node, is_left_out: impl Fn(Node) -> bool) -> Result<u64, Corrupt> {
    let (mut names, mut pending) = (0, vec![node]);
    while let Some(node) = pending.pop() {
        if is_left_out(node) {
            continue;
        }
        names += 1;
        if base.index().node(node)?.kind() == Kind::Directory {
            for child in base.index().children(node)? {
                pending.push(child?.1);
            }
        }
    }
    Ok(names)
}

/// Whether two that are no directories are the same thing, whatever their attributes.
fn is_same(old: &NodeRef<'_>, new: &NodeRef<'_>) -> Result<bool, Corrupt> {
    Ok(old.kind() == new.kind()
        && match old.kind() {
            Kind::Regular => old.size() == new.size() && (old.size() == 0 || is_same_content(old, new)?),
            Kind::Symlink => old.target()? == new.target()?,
            Kind::Directory => false,
            Kind::Fifo | Kind::Socket | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => true,
        })
}

fn is_same_content(old: &NodeRef<'_>, new: &NodeRef<'_>) -> Result<bool, Corrupt> {
    let id = |content: Option<Listed>| content.as_ref().map(content_id);
    let (old, new) = (id(old.content()?), id(new.content()?));
    Ok(old.is_some() && old == new)
}

fn same_xattrs(old: &NodeRef<'_>, new: &NodeRef<'_>) -> Result<bool, Corrupt> {
    if !old.has_xattrs() && !new.has_xattrs() {
        return Ok(true);
    }
    let (mut old, mut new) = (old.xattrs()?, new.xattrs()?);
    loop {
        match (old.next().transpose()?, new.next().transpose()?) {
            (None, None) => return Ok(true),
            (old, new) if old != new => return Ok(false),
            _ => {}
        }
    }
}
