//! Another base for a filesystem that is mounted: what a reload does in the end.
//!
//! All or nothing: whatever can go wrong goes wrong before anything has changed. What the new base changes is told to the kernel
//! afterwards ([`Changes::tell`]), since that waits for requests that are under way, and so must not be done inside of one.

use std::io;
use std::sync::PoisonError;

use aysfs_vfs::{Error, Ino, Mount, Name};

use crate::AysFs;
use crate::base::Base;
use crate::compare::compare;
use crate::edition::Edition;
use crate::numbers::Numbers;

/// A name that no list has below all directories: see [`Changes::tell`].
const NO_NAME: &[u8] = b".aysfs: no such name";

/// What another base has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names that are new.
    pub added: u64,
    /// Names that are gone.
    pub removed: u64,
    /// Names that lead to something else, or to something that has other attributes.
    pub changed: u64,
    /// Names of which the kernel may believe what is not true any more, with their directory.
    pub(crate) names: Vec<(Ino, Name)>,
    /// Inodes of which it may have other attributes, or another listing.
    pub(crate) inodes: Vec<Ino>,
    /// Directories of which a name leads to one of these.
    pub(crate) parents: Vec<Ino>,
}

impl Changes {
    /// Whether both bases show the same.
    pub fn is_empty(&self) -> bool {
        (self.added, self.removed, self.changed) == (0, 0, 0)
    }

    /// The names that the kernel has to drop, with their directory.
    pub fn names(&self) -> &[(Ino, Name)] {
        &self.names
    }

    /// The inodes whose attributes and listings the kernel has to drop.
    pub fn inodes(&self) -> &[Ino] {
        &self.inodes
    }

    /// Tells the kernel what to drop. It may wait for requests that are under way: nothing for a thread that answers any.
    ///
    /// Names come first: the kernel takes the lock of their directory for them, so it has taken in what it asked before about that
    /// directory, and about what is in it, when this returns. Where no name has changed, but attributes have, a name that nothing has
    /// does the same.
    ///
    /// # Errors
    /// The first that the kernel reports; it may believe some of what it knew for a day then.
    pub fn tell(&self, mount: &dyn Mount) -> io::Result<()> {
        for (parent, name) in &self.names {
            mount.invalidate_entry(*parent, name)?;
        }
        let no_name = Name::new(NO_NAME).expect("it is a name");
        for parent in &self.parents {
            mount.invalidate_entry(*parent, &no_name)?;
        }
        self.inodes.iter().try_for_each(|ino| mount.invalidate_inode(*ino))
    }
}

/// Why another base cannot be shown. What was shown still is.
#[derive(Debug, thiserror::Error)]
pub enum RebaseError {
    /// Nobody would check them.
    #[error(
        "the flist has POSIX ACLs now, and the mount was made for one that has none: unmount it and mount it again"
    )]
    Acls,
    /// Content would be fetched that cannot be opened.
    #[error(
        "the flist is encrypted with another secret, or has keys of its own for its content: unmount it and mount it again, or \
         pack it with --secret-of the one that is mounted"
    )]
    Keys,
    /// One of the two could not be read, or the local changes could not.
    #[error("cannot compare the flist with what is mounted: {0}")]
    Look(#[from] Error),
}

impl AysFs {
    /// Shows another base from now on.
    ///
    /// What is the same in both keeps its inode number. An inode that is not in the new base any more, or has other content there, stays
    /// what it was for as long as the kernel holds it. It takes as long as to walk both trees, while the old one is served.
    ///
    /// # Errors
    /// [`RebaseError`].
    pub fn rebase(&self, base: Base) -> Result<Changes, RebaseError> {
        let _alone = self.rebasing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.shown();
        if base.has_acls() && !self.checks_acls {
            return Err(RebaseError::Acls);
        }
        if base.is_same(&before.now.base) {
            return Ok(Changes::default());
        }
        self.check_keys(&base)?;
        let mut found = compare(&before.now, &base)?;
        let next = before.now.followed_by(base, &found.kept);
        let is_known = |ino| self.held.is_held(ino) && next.numbers.node(ino).is_none();
        let below = found.names_below(&before.now, is_known)?;
        found.changes.names.splice(..0, below);
        self.show(next, |ino| self.held.is_held(ino));
        Ok(found.changes)
    }
}

impl AysFs {
    /// Whether the stors are open to what a base is encrypted with: that is decided when it is mounted.
    pub(crate) fn check_keys(&self, base: &Base) -> Result<(), RebaseError> {
        let is_open = base.sealing().is_none_or(|sealing| self.stors().secret() == Some(sealing.secret()));
        if is_open && base.index().v1_keys().next().is_none() { Ok(()) } else { Err(RebaseError::Keys) }
    }
}

impl Edition {
    /// The one after it: a base, whose nodes keep these numbers.
    pub(crate) fn followed_by(&self, base: Base, kept: &[Option<Ino>]) -> Self {
        let numbers = Numbers::after(&self.numbers, kept);
        Self { base: base.into(), numbers, serial: self.serial + 1 }
    }

    /// The same with other numbers.
    pub(crate) fn renumbered(&self, next: &Self, kept: &[Option<Ino>]) -> Self {
        let numbers = Numbers::after(&self.numbers, kept);
        Self { base: next.base.clone(), numbers, serial: next.serial }
    }
}
