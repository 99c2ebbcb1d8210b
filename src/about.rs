//! What a process tells of a mount besides what it shows: for `aysfs status` and `why`, `/metrics` and the status page.

use std::sync::{Arc, Weak};
use std::time::Instant;

use aysfs_engine::push::Pusher;
use aysfs_engine::warm::Warming;
use aysfs_engine::{AysFs, Base, Changes, Overlay, RebaseError, Recorder};
use aysfs_store::{Cache, Mirror};
use aysfs_vfs::Ino;

/// One mount.
pub(crate) struct About {
    /// When the process began to prepare it.
    pub(crate) since: Instant,
    /// RO, OL or RW.
    pub(crate) mode: &'static str,
    /// What it shows, as `mount` lists it.
    pub(crate) source: String,
    pub(crate) lib: &'static str,
    /// The cache of its backend.
    pub(crate) cache: Arc<Cache>,
    pub(crate) stors: Arc<Mirror>,
    /// What pushes its local changes, if anything does, for as long as it is mounted.
    pub(crate) pusher: Option<Weak<Pusher>>,
}

/// What a mount shows. Whoever serves it keeps it: when it is not mounted any more, others may have its local changes.
#[derive(Clone)]
pub(crate) enum Shows {
    /// A flist, and nothing else.
    Base(Weak<AysFs>),
    /// Local changes on top of one.
    Changes(Weak<Overlay>),
}

impl Shows {
    /// Looks at the tree below; `None` if it is not mounted any more.
    pub(crate) fn base<T>(&self, look: impl FnOnce(&Base) -> T) -> Option<T> {
        match self {
            Self::Base(base) => base.upgrade().map(|fs| look(&fs.base())),
            Self::Changes(changes) => changes.upgrade().map(|fs| look(&fs.base())),
        }
    }

    /// What it shows below, to be brought into the cache; `None` if it is not mounted any more.
    pub(crate) fn warming(&self) -> Option<Warming> {
        match self {
            Self::Base(base) => base.upgrade().map(|fs| fs.warming()),
            Self::Changes(changes) => changes.upgrade().map(|fs| fs.warming()),
        }
    }

    /// Where its reads are noted, if somebody wants to know them; `None` if it is not mounted any more.
    pub(crate) fn recorder(&self) -> Option<Arc<Recorder>> {
        match self {
            Self::Base(base) => base.upgrade().map(|fs| fs.recorder().clone()),
            Self::Changes(changes) => changes.upgrade().map(|fs| fs.recorder().clone()),
        }
    }

    /// The files of the flist that the kernel may have content of.
    pub(crate) fn held_files(&self) -> Vec<Ino> {
        match self {
            Self::Base(base) => base.upgrade().map(|fs| fs.held_files()),
            Self::Changes(changes) => changes.upgrade().map(|fs| fs.held_files()),
        }
        .unwrap_or_default()
    }

    /// Replaces the tree below; `None` if it is not mounted any more.
    pub(crate) fn rebase(&self, base: Base) -> Option<Result<Changes, RebaseError>> {
        match self {
            Self::Base(fs) => Some(fs.upgrade()?.rebase(base)),
            Self::Changes(changes) => Some(changes.upgrade()?.rebase(base)),
        }
    }
}
