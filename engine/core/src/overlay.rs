//! A base with local changes on top: modes OL and RW.
//!
//! The changes are in an [`Upper`], a plain directory in the format of the kernel's overlayfs, so that the kernel itself can
//! mount them, and they survive this process. Invariants:
//!
//! - what was acknowledged is in the upper: no change is kept in memory only;
//! - a change is one rename or one system call in the upper, so a crash leaves the old state or the new one;
//! - a file is copied up before its content is changed, never while it is half fetched; what only changes its attributes
//!   or its names fetches nothing (as root: see [`Form`](marks::Form));
//! - an inode keeps its number, and its open handles, when it is copied up; they see what is written afterwards, also where the
//!   kernel reads for them (see [`lend`]);
//! - the lock of the tree is never held while something is fetched or synced.

mod access;
mod adopt;
mod at;
mod change;
mod commit;
mod diff;
mod entries;
mod known;
mod lend;
mod marks;
mod missing;
pub(crate) mod moved;
mod names;
mod open;
mod origin;
mod push;
mod pushed;
mod raise;
mod rebase;
mod stage;
#[cfg(test)]
mod testing;
mod times;
mod trace;
mod tree;
mod upper;
mod vfs;
mod xattrs;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_store::Mirror;
use aysfs_store::crypt::Sealing;
use aysfs_vfs::{Error, ErrorKind, Result};

pub use self::commit::{CommitError, CommitOptions, Committed};
pub use self::diff::{Aspect, Change, Changed};
pub use self::entries::SendProgress;
use self::lend::Lending;
pub use self::marks::Form;
pub(crate) use self::missing::Missing;
use self::open::OpenFiles;
pub(crate) use self::push::{PushOptions, Sent};
pub use self::push::{SendError, Waiting};
pub use self::pushed::Destination;
use self::pushed::Sending;
use self::raise::Turns;
use self::tree::Tree;
pub use self::upper::{Upper, UpperError};
use crate::AysFs;
use crate::base::Base;

/// A base, and local changes on top of it.
#[derive(Clone)]
pub struct Overlay(Arc<Inner>);

struct Inner {
    w: World,
    tree: Mutex<Tree>,
    turns: Turns,
    lending: Lending,
    open: OpenFiles,
    sending: Sending,
}

/// The layers. Which base is shown changes with the lock of the tree held.
struct World {
    lower: AysFs,
    upper: Upper,
}

impl World {
    fn base(&self) -> Arc<Base> {
        self.lower.base()
    }
}

impl Overlay {
    /// Shows `upper` on top of `lower`.
    ///
    /// # Errors
    /// If a new upper cannot be given the attributes of the base's root.
    pub fn new(lower: AysFs, upper: Upper) -> Result<Self, UpperError> {
        Self::lending_from(lend::SMALLEST, lower, upper)
    }

    /// The same, where files of the base pass through if they have at least so many bytes.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn lending_from(smallest: u64, lower: AysFs, upper: Upper) -> Result<Self, UpperError> {
        let mut w = World { lower, upper };
        if w.upper.is_unfinished() {
            w.dress_root().map_err(|error| UpperError::Io {
                path: w.upper.path().into(),
                source: std::io::Error::from(error.errno()),
            })?;
            w.upper.finish()?;
        }
        let blank = w.upper.is_blank()?;
        let lending = Lending::new(&w, smallest);
        Ok(Self(Arc::new(Inner {
            w,
            lending,
            tree: Mutex::new(Tree::new(blank)),
            turns: Turns::default(),
            open: OpenFiles::default(),
            sending: Sending::default(),
        })))
    }

    /// The tree below.
    pub fn base(&self) -> Arc<Base> {
        self.0.w.base()
    }

    /// What is below the local changes.
    pub(crate) fn lower(&self) -> &AysFs {
        &self.0.w.lower
    }

    /// How many bases are kept: see [`AysFs::bases`].
    pub fn bases(&self) -> usize {
        self.0.w.lower.bases()
    }

    /// What a list is encrypted with that is made of this base and the changes: also for those whom a reload has added.
    pub(crate) fn sealing(&self, base: &Base) -> Option<Sealing> {
        self.stors().sealing().cloned().map(|sealing| sealing.joined(base.sealing()))
    }

    /// Where content is fetched from, and sent to.
    pub(crate) fn stors(&self) -> &Arc<Mirror> {
        self.0.w.lower.stors()
    }
}

impl Inner {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        // What a panic could leave half done is an image of the upper, no data.
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(job).await.map_err(|error| Error::new(ErrorKind::Io, error))?
}
