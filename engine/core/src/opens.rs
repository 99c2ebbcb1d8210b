//! Which inodes are open, and with which backing file.
//!
//! The kernel demands that all opens of one inode at one time agree: either each of them reads the same backing
//! file without asking us, or none does (Documentation/filesystems/fuse/fuse-passthrough.rst). So the first
//! open decides, and the decision holds until the last release.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use aysfs_vfs::Ino;

/// The open inodes of a mount.
#[derive(Debug, Default)]
pub(crate) struct Opens(Mutex<HashMap<Ino, Open>>);

#[derive(Debug)]
struct Open {
    handles: u32,
    backing: Option<Arc<File>>,
}

impl Opens {
    /// Counts one more handle of `ino`; `backing` is asked only if there was none.
    pub(crate) fn open(&self, ino: Ino, backing: impl FnOnce() -> Option<Arc<File>>) -> Option<Arc<File>> {
        let mut opens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = opens.entry(ino).or_insert_with(|| Open { handles: 0, backing: backing() });
        open.handles += 1;
        open.backing.clone()
    }

    /// Counts one handle less.
    pub(crate) fn release(&self, ino: Ino) {
        let mut opens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut open) = opens.entry(ino) {
            open.get_mut().handles -= 1;
            if open.get().handles == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_decides_until_the_last_release() {
        let opens = Opens::default();
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let ino = Ino(7);
        assert!(opens.open(ino, || None).is_none());
        assert!(opens.open(ino, || Some(file.clone())).is_none(), "an open without backing file is there");
        opens.release(ino);
        opens.release(ino);
        assert!(opens.open(ino, || Some(file.clone())).is_some());
        assert!(opens.open(ino, || None).is_some(), "an open with a backing file is there");
        opens.release(ino);
        opens.release(ino);
        opens.release(ino);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
