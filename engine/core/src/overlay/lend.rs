//! Files of the base that pass through: the kernel reads the cached file by itself.
//!
//! The cache lends the file to one inode ([`Lent`]). When that inode is copied up, for whatever reason, its handles and
//! what is mapped of it are to see what is written from then on, and the kernel cannot be told of another file. So the lent file
//! itself becomes the one of the upper: the cache gives it away into the work directory and keeps a copy, and it is installed
//! as any other copy is. Invariants:
//!
//! - nothing is lent while a file is copied up, or once it is in the upper; nor to a frontend that would not pass it through,
//!   since it costs a copy when the file is changed;
//! - a file that was given away, and then could not be installed, keeps its name in the work directory for the next try:
//!   it is what its readers have open, and has not been changed yet.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_flist::Kind;
use aysfs_store::{Borrower, Lent};
use aysfs_vfs::{Error, ErrorKind, Ino, Result};
use rustix::fs::OFlags;

use super::raise::Turns;
use super::tree::{Data, Tree};
use super::{Inner, World};
use crate::base::LENDS_RIGHTS;
use crate::edition::Item;

/// In bytes. A smaller file is in the page cache after one read, and is opened for less than it takes to lend it.
pub(super) const SMALLEST: u64 = 64 << 10;

/// What is lent to the inodes of a mount.
#[derive(Debug)]
pub(super) struct Lending {
    filesystem: u64,
    is_possible: bool,
    smallest: u64,
    /// Names in the work directory of files that were given away and not installed.
    given: Mutex<HashMap<Ino, Vec<u8>>>,
}

/// Where the file is that its readers have open.
#[derive(Clone, Debug)]
pub(super) enum Taking {
    /// In the cache.
    Lent(Arc<Lent>),
    /// In the work directory.
    Given(Vec<u8>),
}

/// Why a file could not change sides.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make {path} a local change: the kernel reads its cached file, which could not be taken from the cache; if it is gone \
     from there, close all programs that use it, and try again"
)]
struct TakeError {
    path: String,
    #[source]
    source: io::Error,
}

impl Lending {
    /// For one more mount with these layers; files of fewer bytes than `smallest` are not lent.
    pub(super) fn new(w: &World, smallest: u64) -> Self {
        static FILESYSTEMS: AtomicU64 = AtomicU64::new(0);
        Self {
            filesystem: FILESYSTEMS.fetch_add(1, Ordering::Relaxed),
            is_possible: w.lower.cache().can_give_to(&w.upper.work, &w.upper.temporary()),
            smallest,
            given: Mutex::default(),
        }
    }

    fn borrower(&self, ino: Ino) -> Borrower {
        Borrower { filesystem: self.filesystem, inode: ino.0 }
    }

    fn given(&self) -> MutexGuard<'_, HashMap<Ino, Vec<u8>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Borrows the content of a file for its first handle, if it may pass through.
    pub(super) fn lend(&self, w: &World, tree: &Tree, turns: &Turns, ino: Ino) -> Option<Arc<Lent>> {
        let is_settled = tree.leaf(ino).is_none() && !turns.is_taken(ino) && !self.given().contains_key(&ino);
        if !self.is_possible || !is_settled {
            return None;
        }
        let item = w.lower.find_file(ino).ok()?;
        let of = item.of().ok()?;
        if of.size() < self.smallest || of.perm() & LENDS_RIGHTS != 0 {
            return None;
        }
        w.lower.cached(&item).ok()??.lend(self.borrower(ino))
    }
}

impl Inner {
    /// The file that handles of a file of the base, or mappings, pass through to.
    pub(super) fn taking(&self, item: &Item) -> Result<Option<Taking>> {
        let (ino, of) = (item.ino(), &item.of()?);
        if !self.lending.is_possible || of.kind() != Kind::Regular {
            return Ok(None);
        }
        if let Some(name) = self.lending.given().get(&ino) {
            return Ok(Some(Taking::Given(name.clone())));
        }
        if let Some(lent) = self.open.lent(ino) {
            return Ok(Some(Taking::Lent(lent)));
        }
        let cached = self.w.lower.cached(item)?;
        Ok(cached.and_then(|cached| cached.lent(self.lending.borrower(ino))).map(Taking::Lent))
    }

    /// Makes the file that is passed through to the one of the upper, and gives it the names that the file has.
    pub(super) fn take(&self, ino: Ino, taking: &Taking) -> Result<()> {
        let w = &self.w;
        let item = w.lower.find(ino)?;
        let staged = match taking {
            Taking::Lent(lent) => w.stage(|name| {
                lent.give_away(&w.upper.work, name).map_err(|source| take_error(&item, source))
            })?,
            Taking::Given(name) => w.stage_at(name.clone(), |_| Ok(()))?,
        };
        self.lending.given().insert(ino, staged.name().to_vec());
        let installed = w
            .dress(&item, &staged.at())
            // The cache has left that to the kernel.
            .and_then(|()| Ok(staged.at().open(OFlags::RDONLY)?.sync_data()?))
            .and_then(|()| self.install_staged(&item, &staged, Data::Here));
        match installed {
            Ok(()) => drop(self.lending.given().remove(&ino)),
            Err(_) => staged.leave(),
        }
        installed
    }
}

fn take_error(item: &Item, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::QuotaExceeded => ErrorKind::QuotaExceeded,
        _ => ErrorKind::Io,
    };
    Error::new(kind, TakeError { path: item.shown_path(), source })
}
