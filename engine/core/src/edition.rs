//! What is shown below all local changes: one base after another, and the inode numbers that lead into them.
//!
//! A reload replaces the base that is shown. Whoever holds an inode of an earlier one goes on with what that said, for as long as the
//! kernel holds its number. So a number is good for both: it leads to the newest base that has it. Invariants:
//!
//! - a number means one content for as long as the kernel holds it;
//! - what is shown now has a number in the newest base;
//! - a base is kept while a call is at work on it, or the kernel holds a number that only this one has; whether it does is looked at when
//!   the next base comes, so the one before the newest is always there.

use std::ops::Range;
use std::sync::{Arc, Weak};

use aysfs_flist::{Corrupt, Kind, Node, NodeRef};
use aysfs_store::Content;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Attr, Entry, ErrorKind, Ino, Name, Result, TimeToLive};

use crate::base::{Base, damaged};
use crate::numbers::Numbers;

/// A base, and the inode numbers of its nodes.
#[derive(Debug)]
pub(crate) struct Edition {
    pub(crate) base: Arc<Base>,
    pub(crate) numbers: Numbers,
    /// Which one it is, counted from 0.
    pub(crate) serial: u64,
}

impl Edition {
    /// The first that is shown.
    pub(crate) fn first(base: Base) -> Self {
        let numbers = Numbers::first(base.index().len());
        Self { base: Arc::new(base), numbers, serial: 0 }
    }

    pub(crate) fn ino(&self, node: Node) -> Ino {
        self.numbers.ino(node)
    }

    pub(crate) fn attr(&self, of: &NodeRef<'_>) -> Result<Attr, Corrupt> {
        self.base.attr(self.ino(of.number()), of)
    }

    /// The answer to a lookup that found it.
    pub(crate) fn entry(&self, of: &NodeRef<'_>) -> Result<Entry, Corrupt> {
        Ok(Entry { attr: self.attr(of)?, ttl: TimeToLive { entry: Base::TTL, attr: Base::TTL } })
    }

    /// What a directory has under a name.
    pub(crate) fn child(&self, directory: Node, name: &[u8]) -> Result<Option<(Node, Kind)>, Corrupt> {
        let index = self.base.index();
        match index.lookup(directory, name)? {
            Some(node) => Ok(Some((node, index.node(node)?.kind()))),
            None => Ok(None),
        }
    }
}

/// What is shown, and what was.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) now: Arc<Edition>,
    /// The oldest first.
    replaced: Vec<Replaced>,
}

/// An edition that is not shown any more.
#[derive(Clone, Debug)]
struct Replaced {
    edition: Arc<Edition>,
    /// The numbers that the next one does not have.
    gone: Vec<Range<u64>>,
    /// There as long as somebody looks at what was shown when it was replaced.
    shown: Weak<Shown>,
}

impl Shown {
    pub(crate) fn first(base: Base) -> Self {
        Self { now: Arc::new(Edition::first(base)), replaced: Vec::new() }
    }

    /// Shows another edition; what nobody holds of the earlier ones is dropped.
    pub(crate) fn replaced_by(self: &Arc<Self>, next: Edition, is_held: impl Fn(Ino) -> bool) -> Self {
        let is_needed = |replaced: &&Replaced| {
            replaced.shown.strong_count() > 0
                || replaced.gone.iter().any(|numbers| numbers.clone().any(|ino| is_held(Ino(ino))))
        };
        let mut replaced: Vec<_> = self.replaced.iter().filter(is_needed).cloned().collect();
        replaced.push(Replaced {
            edition: self.now.clone(),
            gone: self.now.numbers.without(&next.numbers),
            shown: Arc::downgrade(self),
        });
        Self { now: Arc::new(next), replaced }
    }

    /// The newest edition that has a number, and the node that it leads to.
    pub(crate) fn locate(&self, ino: Ino) -> Result<(&Arc<Edition>, Node)> {
        if let Some(node) = self.now.numbers.node(ino) {
            return Ok((&self.now, node));
        }
        let earlier = self.replaced.iter().rev();
        let mut found =
            earlier.filter_map(|Replaced { edition, .. }| Some((edition, edition.numbers.node(ino)?)));
        found.next().ok_or_else(|| ErrorKind::Stale.into())
    }

    /// The same, to look at it.
    pub(crate) fn find(&self, ino: Ino) -> Result<(&Edition, NodeRef<'_>)> {
        let (edition, node) = self.locate(ino)?;
        Ok((edition, edition.base.index().node(node).map_err(damaged)?))
    }

    /// The same of a directory, to look for what is in it: nothing, once a reload has taken it away. Whoever was on the way through it
    /// begins again (the kernel does so by itself), and nothing comes to be held by way of what is not shown.
    pub(crate) fn directory(&self, ino: Ino) -> Result<(&Edition, NodeRef<'_>)> {
        let (edition, of) = self.find(ino)?;
        match of.kind() {
            Kind::Directory if !self.is_now(edition) => Err(ErrorKind::Stale.into()),
            Kind::Directory => Ok((edition, of)),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn is_now(&self, edition: &Edition) -> bool {
        std::ptr::eq(edition, &*self.now)
    }

    /// What `stat` shows: that it has no name, if it is gone.
    pub(crate) fn entry(&self, ino: Ino) -> Result<Entry> {
        let (edition, of) = self.find(ino)?;
        let mut entry = edition.entry(&of).map_err(damaged)?;
        if !self.is_now(edition) {
            entry.attr.nlink = 0;
        }
        Ok(entry)
    }

    /// The newest edition that was replaced, and is the one that is looked for.
    pub(crate) fn earlier(&self, is_it: impl Fn(&Edition) -> bool) -> Option<&Edition> {
        let mut earlier = self.replaced.iter().rev().map(|replaced| &*replaced.edition);
        earlier.find(|edition| is_it(edition))
    }

    /// How many bases are kept.
    pub(crate) fn bases(&self) -> usize {
        self.replaced.len() + 1
    }
}

/// An inode of a base, for as long as anybody needs it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) edition: Arc<Edition>,
    pub(crate) node: Node,
}

impl Item {
    pub(crate) fn of(&self) -> Result<NodeRef<'_>> {
        self.edition.base.index().node(self.node).map_err(damaged)
    }

    pub(crate) fn ino(&self) -> Ino {
        self.edition.ino(self.node)
    }

    pub(crate) fn attr(&self) -> Result<Attr> {
        self.edition.attr(&self.of()?).map_err(damaged)
    }

    /// The content of a regular file; `None` if it is empty.
    pub(crate) fn content(&self) -> Result<Option<Content>> {
        self.edition.base.content_of(&self.of()?).map_err(damaged)
    }

    /// The path, without a leading `/`: of a file with several, the first.
    pub(crate) fn path(&self) -> Result<Vec<u8>> {
        self.edition.base.index().path(self.node).map_err(damaged)
    }

    /// The same for messages.
    pub(crate) fn shown_path(&self) -> String {
        self.edition.base.path(self.node)
    }

    /// The directory above, and the name there: of a file with several, the first.
    pub(crate) fn place(&self) -> Result<(Ino, Name)> {
        self.named(self.edition.base.place(&self.of()?).map_err(damaged)?)
    }

    /// All names of what is no directory.
    pub(crate) fn names(&self) -> Result<Vec<(Ino, Name)>> {
        let names = self.edition.base.names(&self.of()?).map_err(damaged)?;
        names.into_iter().map(|place| self.named(place)).collect()
    }

    /// What a directory has under a name.
    pub(crate) fn child(&self, name: &Name) -> Result<Option<(Ino, Kind)>> {
        let found = self.edition.child(self.node, name.as_bytes()).map_err(damaged)?;
        Ok(found.map(|(node, kind)| (self.edition.ino(node), kind)))
    }

    /// Everything in a directory, sorted by name.
    pub(crate) fn children(&self) -> Result<Vec<(Name, Ino, Kind)>> {
        let index = self.edition.base.index();
        let children = index.children(self.node).map_err(damaged)?;
        let children = children.map(|child| {
            let (name, node) = child.map_err(damaged)?;
            Ok((raw::name(name)?, self.edition.ino(node), index.node(node).map_err(damaged)?.kind()))
        });
        children.collect()
    }

    fn named(&self, (directory, name): (Node, Vec<u8>)) -> Result<(Ino, Name)> {
        Ok((self.edition.ino(directory), raw::name(&name)?))
    }
}
