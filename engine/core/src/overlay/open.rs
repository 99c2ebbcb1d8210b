//! Files and directories that are open.
//!
//! All handles of a file share one descriptor, since they read and write at offsets that the kernel names. It is switched
//! when the file is copied up: handles that were there before see what is written afterwards.
//!
//! Lock order: the tree, then what is open. Nothing here takes the lock of the tree.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_store::{Held, Lent};
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Fh, Ino, Name};
use rustix::fs::Stat;

use super::tree::Found;
use crate::base::LENDS_RIGHTS;

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
    file: Option<UpperFile>,
    /// Somebody who may write to it has opened it, and has perhaps closed it again.
    may_be_written: bool,
    /// How many of them are of programs that run from it.
    running: u64,
    /// What the kernel reads and writes by itself: decided by the first open, for all of them.
    backing: Option<Arc<File>>,
    /// What says that it may: of a file that was in the base when it was opened.
    lent: Option<Arc<Lent>>,
    /// What keeps its content in the cache, of such a file.
    held: Option<Held>,
}

/// A descriptor of a file of the upper.
#[derive(Clone, Debug)]
pub(super) struct UpperFile {
    pub(super) file: Arc<File>,
    /// It was opened for reading and writing, not for reading alone.
    pub(super) is_writable: bool,
    /// Its permissions lend the rights of its owner or its group. Each write by others has to take them away, so it must not pass
    /// through.
    pub(super) lends_rights: bool,
}

impl UpperFile {
    pub(super) fn new(file: File, is_writable: bool, stat: &Stat) -> Self {
        Self { file: Arc::new(file), is_writable, lends_rights: raw::perm(stat.st_mode) & LENDS_RIGHTS != 0 }
    }
}

impl OpenFiles {
    /// Counts a handle of a file of the base; the first decides whether it passes through.
    pub(super) fn open_base(
        &self,
        ino: Ino,
        lend: impl FnOnce() -> Option<Arc<Lent>>,
        hold: impl FnOnce() -> Option<Held>,
    ) -> Option<Arc<File>> {
        let mut files = lock(&self.files);
        let open = files.entry(ino).or_default();
        if open.handles == 0 {
            open.held = hold();
            open.lent = lend();
            open.backing = open.lent.as_ref().map(|lent| lent.file().clone());
        }
        open.handles += 1;
        open.backing.clone()
    }

    /// Counts a handle of a file of the upper.
    pub(super) fn open_upper<E>(
        &self,
        ino: Ino,
        writes: bool,
        open_file: impl FnOnce() -> Result<UpperFile, E>,
    ) -> Result<Option<Arc<File>>, E> {
        let mut files = lock(&self.files);
        let known = files.get(&ino).and_then(|open| open.file.clone());
        let file = match known.filter(|known| known.is_writable || !writes) {
            Some(file) => file,
            None => open_file()?,
        };
        let open = files.entry(ino).or_default();
        if open.handles == 0 && file.is_writable && !file.lends_rights {
            open.backing = Some(file.file.clone());
        }
        open.handles += 1;
        open.may_be_written |= writes;
        open.file = Some(file);
        Ok(open.backing.clone())
    }

    /// A handle that was counted is one of a program that runs from the file.
    pub(super) fn run(&self, ino: Ino) {
        if let Some(open) = lock(&self.files).get_mut(&ino) {
            open.running += 1;
        }
    }

    pub(super) fn is_running(&self, ino: Ino) -> bool {
        lock(&self.files).get(&ino).is_some_and(|open| open.running > 0)
    }

    /// Such a handle is about to be released.
    pub(super) fn stop(&self, ino: Ino) {
        if let Some(open) = lock(&self.files).get_mut(&ino) {
            open.running -= 1;
        }
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        lock(&self.files).contains_key(&ino) || lock(&self.directories).handles.contains_key(&ino)
    }

    /// The cached file that the handles of a file of the base pass through to.
    pub(super) fn lent(&self, ino: Ino) -> Option<Arc<Lent>> {
        lock(&self.files).get(&ino)?.lent.clone()
    }

    /// The descriptor of an open file of the upper.
    pub(super) fn file(&self, ino: Ino) -> Option<Arc<File>> {
        lock(&self.files).get(&ino).and_then(|open| Some(open.file.as_ref()?.file.clone()))
    }

    /// The same, if it was opened for writing.
    pub(super) fn writable_file(&self, ino: Ino) -> Option<Arc<File>> {
        let files = lock(&self.files);
        let file = files.get(&ino).and_then(|open| open.file.as_ref());
        file.filter(|file| file.is_writable).map(|file| file.file.clone())
    }

    /// Whether anybody may have it open for writing.
    pub(super) fn is_open_for_writing(&self, ino: Ino) -> bool {
        lock(&self.files).get(&ino).is_some_and(|open| open.may_be_written)
    }

    /// An open file is in the upper from now on.
    pub(super) fn switch(&self, ino: Ino, file: UpperFile) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(7);

    fn file(is_writable: bool) -> UpperFile {
        UpperFile { file: Arc::new(tempfile::tempfile().expect("a file")), is_writable, lends_rights: false }
    }

    fn open(files: &OpenFiles, writes: bool, file: &UpperFile) -> Option<Arc<File>> {
        files.open_upper::<()>(INO, writes, || Ok(file.clone())).expect("opened")
    }

    #[test]
    fn handles_of_a_file_share_what_the_first_opened() {
        let files = OpenFiles::default();
        let (first, second) = (file(true), file(true));
        let backing = open(&files, false, &first).expect("it can be written, too");
        assert!(Arc::ptr_eq(&backing, &first.file));
        assert!(open(&files, true, &second).is_some_and(|backing| Arc::ptr_eq(&backing, &first.file)));
        assert!(!files.release(INO) && files.is_open(INO));
        assert!(files.release(INO) && !files.is_open(INO));
        assert!(!files.release(INO), "there is none left");
        assert!(open(&files, true, &second).is_some_and(|backing| Arc::ptr_eq(&backing, &second.file)));
    }

    #[test]
    fn a_writer_is_not_given_what_was_opened_for_reading() {
        let files = OpenFiles::default();
        let (read_only, writable) = (file(false), file(true));
        assert!(open(&files, false, &read_only).is_none(), "later handles may write through it");
        assert!(files.writable_file(INO).is_none() && !files.is_open_for_writing(INO));
        assert!(open(&files, true, &writable).is_none(), "all handles agree");
        assert!(files.is_open_for_writing(INO));
        assert!(files.writable_file(INO).is_some_and(|file| Arc::ptr_eq(&file, &writable.file)));
        assert!(
            files.file(INO).is_some_and(|file| Arc::ptr_eq(&file, &writable.file)),
            "readers see the same"
        );
    }

    #[test]
    fn a_file_that_is_copied_up_is_switched_for_those_who_have_it_open() {
        let files = OpenFiles::default();
        assert!(files.open_base(INO, || None, || None).is_none());
        assert!(files.file(INO).is_none());
        let copy = file(true);
        files.switch(INO, copy.clone());
        assert!(files.file(INO).is_some_and(|file| Arc::ptr_eq(&file, &copy.file)));
        assert!(open(&files, true, &file(true)).is_none(), "what the first open decided holds");
        files.switch(Ino(8), copy);
        assert!(!files.is_open(Ino(8)), "nobody has it open");
    }

    #[test]
    fn directories_are_open_until_each_handle_is_released() {
        let files = OpenFiles::default();
        let (one, other) = (files.open_directory(INO), files.open_directory(INO));
        assert_ne!(one, other);
        files.keep_listing(one, &Arc::new(Vec::new()));
        assert!(files.listing(one).is_some() && files.listing(other).is_none());
        files.release_directory(INO, one);
        files.release_directory(INO, one);
        assert!(files.is_open(INO), "the other one is");
        files.release_directory(INO, other);
        assert!(!files.is_open(INO) && files.listing(one).is_none());
    }
}
