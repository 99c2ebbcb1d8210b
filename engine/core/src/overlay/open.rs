//! Files and directories that are open.
//!
//! All handles of a file share one descriptor, since they read and write at offsets that the kernel names. It is switched
//! when the file is copied up: handles that were there before see what is written afterwards.
//!
//! Lock order: the tree, then what is open. Nothing here takes the lock of the tree.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_vfs::{Fh, Ino, Name};

use super::tree::Found;

/// A directory as it was when its listing began.
pub(super) type Listing = Arc<Vec<(Name, Found)>>;

#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    files: Mutex<HashMap<Ino, OpenFile>>,
    directories: Mutex<OpenDirectories>,
}

#[derive(Debug, Default)]
struct OpenDirectories {
    last: u64,
    handles: HashMap<Ino, u64>,
    listings: HashMap<Fh, Option<Listing>>,
}

#[derive(Debug, Default)]
struct OpenFile {
    handles: u64,
    /// In the upper; nothing while it is read from the base.
    file: Option<Arc<File>>,
    /// What the kernel reads and writes by itself: decided by the first open, for all of them.
    backing: Option<Arc<File>>,
}

impl OpenFiles {
    /// Counts a handle of a file of the base; the first decides on the backing file.
    pub(super) fn open_base(
        &self,
        ino: Ino,
        backing: impl FnOnce() -> Option<Arc<File>>,
    ) -> Option<Arc<File>> {
        let mut files = lock(&self.files);
        let open = files.entry(ino).or_default();
        if open.handles == 0 {
            open.backing = backing();
        }
        open.handles += 1;
        open.backing.clone()
    }

    /// Counts a handle of a file of the upper.
    pub(super) fn open_upper<E>(
        &self,
        ino: Ino,
        open_file: impl FnOnce() -> Result<File, E>,
    ) -> Result<Option<Arc<File>>, E> {
        let mut files = lock(&self.files);
        let known = files.get(&ino).and_then(|open| open.file.clone());
        let file = match known {
            Some(file) => file,
            None => Arc::new(open_file()?),
        };
        let open = files.entry(ino).or_default();
        if open.handles == 0 {
            open.backing = Some(file.clone());
        }
        open.handles += 1;
        open.file = Some(file);
        Ok(open.backing.clone())
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        lock(&self.files).contains_key(&ino) || lock(&self.directories).handles.contains_key(&ino)
    }

    /// The descriptor of an open file of the upper.
    pub(super) fn file(&self, ino: Ino) -> Option<Arc<File>> {
        lock(&self.files).get(&ino).and_then(|open| open.file.clone())
    }

    /// An open file is in the upper from now on.
    pub(super) fn switch(&self, ino: Ino, file: Arc<File>) {
        if let Some(open) = lock(&self.files).get_mut(&ino) {
            open.file = Some(file);
        }
    }

    /// Counts a handle less; returns whether it was the last.
    pub(super) fn release(&self, ino: Ino) -> bool {
        let mut files = lock(&self.files);
        let Some(open) = files.get_mut(&ino) else { return false };
        open.handles -= 1;
        if open.handles > 0 {
            return false;
        }
        files.remove(&ino);
        true
    }

    pub(super) fn open_directory(&self, ino: Ino) -> Fh {
        let mut directories = lock(&self.directories);
        directories.last += 1;
        let fh = Fh(directories.last);
        *directories.handles.entry(ino).or_default() += 1;
        directories.listings.insert(fh, None);
        fh
    }

    pub(super) fn listing(&self, fh: Fh) -> Option<Listing> {
        lock(&self.directories).listings.get(&fh).cloned().flatten()
    }

    pub(super) fn keep_listing(&self, fh: Fh, listing: &Listing) {
        if let Some(kept) = lock(&self.directories).listings.get_mut(&fh) {
            *kept = Some(listing.clone());
        }
    }

    pub(super) fn release_directory(&self, ino: Ino, fh: Fh) {
        let mut directories = lock(&self.directories);
        let was_open = directories.listings.remove(&fh).is_some();
        if let Some(handles) = directories.handles.get_mut(&ino).filter(|_| was_open) {
            *handles -= 1;
            if *handles == 0 {
                directories.handles.remove(&ino);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
