//! Local files that the kernel reads and writes without us.
//!
//! The kernel's rule (Documentation/filesystems/fuse/fuse-passthrough.rst): while an inode is open, all its opens
//! are by messages, or all of them pass through to one backing file, registered once. The first open decides;
//! the registration is kept until the last release.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_vfs::Ino;
use fuser::BackingId;

/// The open files of a mount, and what they pass through to.
pub(crate) struct Backings<Id = BackingId> {
    open: Mutex<HashMap<Ino, OpenInode<Id>>>,
    refused: AtomicBool,
}

struct OpenInode<Id> {
    backing: Option<Arc<Id>>,
    handles: usize,
}

impl<Id> Default for Backings<Id> {
    fn default() -> Self {
        Self { open: Mutex::default(), refused: AtomicBool::new(false) }
    }
}

impl<Id> Backings<Id> {
    /// Counts one open of `ino`, and says what it passes through to.
    ///
    /// `register` is called for the first open only; if it fails the inode is served by messages.
    pub(crate) fn open(
        &self,
        ino: Ino,
        file: Option<&File>,
        register: impl FnOnce(&File) -> io::Result<Id>,
    ) -> Option<Arc<Id>> {
        let mut open = self.lock();
        let inode = open.entry(ino).or_insert_with(|| {
            let registered = file.map(register).transpose().unwrap_or_else(|error| {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the kernel refuses passthrough: such files are read by messages");
                }
                None
            });
            OpenInode { backing: registered.map(Arc::new), handles: 0 }
        });
        inode.handles += 1;
        inode.backing.clone()
    }

    /// Whether the kernel has refused one: it refuses the others, too.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts one release of `ino`.
    pub(crate) fn release(&self, ino: Ino) {
        let mut open = self.lock();
        if let Some(inode) = open.get_mut(&ino) {
            inode.handles -= 1;
            if inode.handles == 0 {
                open.remove(&ino);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, OpenInode<Id>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(7);

    fn file() -> File {
        tempfile::tempfile().expect("a file")
    }

    #[test]
    fn all_opens_of_an_inode_share_one_registration() {
        let backings = Backings::<u32>::default();
        let file = file();
        let first = backings.open(INO, Some(&file), |_| Ok(1)).expect("registered");
        let second = backings.open(INO, Some(&file), |_| Ok(2)).expect("registered before");
        let third = backings.open(INO, None, |_| Ok(3)).expect("it cannot be cached now");
        assert_eq!([*first, *second, *third], [1, 1, 1]);
        drop((first, second));
        backings.release(INO);
        backings.release(INO);
        assert_eq!(Arc::strong_count(&third), 2);
        backings.release(INO);
        assert_eq!(Arc::strong_count(&third), 1);
        assert_eq!(*backings.open(INO, Some(&file), |_| Ok(4)).expect("anew"), 4);
    }

    #[test]
    fn an_inode_that_is_cached_stays_cached_until_it_is_closed() {
        let backings = Backings::<u32>::default();
        let file = file();
        assert!(backings.open(INO, None, |_| Ok(1)).is_none());
        assert!(backings.open(INO, Some(&file), |_| Ok(2)).is_none());
        backings.release(INO);
        backings.release(INO);
        assert!(backings.open(INO, Some(&file), |_| Err(io::ErrorKind::PermissionDenied.into())).is_none());
        assert!(backings.open(INO, Some(&file), |_| Ok(3)).is_none());
        backings.release(INO);
        backings.release(INO);
        assert!(backings.open(INO, Some(&file), |_| Ok(4)).is_some());
    }
}
