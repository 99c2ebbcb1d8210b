//! Directory listings, page by page.
//!
//! fuse3 does not tell how large the kernel's buffer is, and silently leaves out what does not fit. What is left out of a
//! listing with attributes has been counted as looked up, and would stay counted for ever. So a page is never longer than
//! the smallest buffer that a kernel has.

use std::ffi::OsStr;
use std::mem;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use aysfs_vfs::{DirEntry, DirSink, Entry, ErrorKind, Filled, Ino, Name, Result, Vfs};
use fuse3::raw::reply::{DirectoryEntry, DirectoryEntryPlus};

use crate::convert;

/// The smallest buffer: one page of memory.
const PAGE: usize = 4096;
/// `struct fuse_dirent` without the name.
const NAME_HEADER: usize = 24;
/// `struct fuse_direntplus` without the name.
const ENTRY_HEADER: usize = 152;

/// What is left of a page.
struct Room {
    bytes: usize,
    invalid: bool,
}

impl Room {
    fn new() -> Self {
        Self { bytes: PAGE, invalid: false }
    }

    /// Takes the room of an entry, if there is enough.
    fn take(&mut self, header: usize, name: &[u8]) -> Filled {
        if name.is_empty() || name.len() > Name::MAX {
            self.invalid = true;
            return ControlFlow::Break(());
        }
        // Each entry begins at a multiple of eight.
        match self.bytes.checked_sub((header + name.len()).next_multiple_of(8)) {
            Some(left) => {
                self.bytes = left;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }

    /// The entries that were taken must reach the kernel, whatever went wrong behind them: it meets the error when it
    /// asks for the next page.
    fn end(&self, outcome: Result<()>) -> Result<()> {
        match outcome {
            _ if self.bytes < PAGE => Ok(()),
            Ok(()) if self.invalid => Err(ErrorKind::Io.into()),
            outcome => outcome,
        }
    }
}

/// A page of names.
pub(crate) struct Names {
    room: Room,
    taken: Vec<DirectoryEntry>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { room: Room::new(), taken: Vec::new() }
    }

    pub(crate) fn end(self, outcome: Result<()>) -> Result<Vec<DirectoryEntry>> {
        self.room.end(outcome).map(|()| self.taken)
    }
}

impl DirSink for Names {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, entry: &DirEntry<'_>, _attributes: Option<&Entry>) -> Filled {
        self.room.take(NAME_HEADER, entry.name)?;
        self.taken.push(DirectoryEntry {
            inode: entry.ino.0,
            kind: convert::file_type(entry.kind),
            name: OsStr::from_bytes(entry.name).to_owned(),
            offset: entry.next.cast_signed(),
        });
        ControlFlow::Continue(())
    }
}

/// A page of names with their attributes. If it does not reach the kernel, it gives the lookups back.
pub(crate) struct Entries {
    vfs: Arc<dyn Vfs>,
    room: Room,
    taken: Vec<DirectoryEntryPlus>,
    looked_up: Vec<Ino>,
}

impl Entries {
    pub(crate) fn new(vfs: Arc<dyn Vfs>) -> Self {
        Self { vfs, room: Room::new(), taken: Vec::new(), looked_up: Vec::new() }
    }

    pub(crate) fn end(mut self, outcome: Result<()>) -> Result<Vec<DirectoryEntryPlus>> {
        self.room.end(outcome)?;
        self.looked_up.clear();
        Ok(mem::take(&mut self.taken))
    }
}

impl DirSink for Entries {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        self.room.take(ENTRY_HEADER, entry.name)?;
        let (attr, entry_ttl, attr_ttl) = match attributes {
            Some(known) => {
                self.looked_up.push(known.attr.ino);
                (convert::file_attr(&known.attr), known.ttl.entry, known.ttl.attr)
            }
            // `.` and `..`, which the kernel lists but does not look up.
            None => (convert::bare_attr(entry.ino, entry.kind), Duration::ZERO, Duration::ZERO),
        };
        self.taken.push(DirectoryEntryPlus {
            inode: entry.ino.0,
            generation: convert::GENERATION,
            kind: convert::file_type(entry.kind),
            name: OsStr::from_bytes(entry.name).to_owned(),
            offset: entry.next.cast_signed(),
            attr,
            entry_ttl,
            attr_ttl,
        });
        ControlFlow::Continue(())
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        for ino in self.looked_up.drain(..) {
            self.vfs.forget(ino, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use aysfs_vfs::memfs::MemFs;
    use aysfs_vfs::{Attr, FileKind, Time, TimeToLive};

    use super::*;

    /// Adds entries with names of three bytes until the page is full.
    fn fill(page: &mut dyn DirSink) -> usize {
        let attr = Attr {
            ino: Ino(5),
            kind: FileKind::Regular,
            perm: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
        };
        let entry = Entry { attr, ttl: TimeToLive { entry: Duration::ZERO, attr: Duration::ZERO } };
        let listed = DirEntry { ino: Ino(5), kind: FileKind::Regular, name: b"abc", next: 9 };
        (0..).take_while(|_| page.add(&listed, Some(&entry)).is_continue()).count()
    }

    #[test]
    fn a_page_is_no_longer_than_the_smallest_buffer() {
        // 24 and 152 bytes, the name, and what is missing to a multiple of eight.
        let mut names = Names::new();
        assert_eq!(fill(&mut names), 4096 / 32);
        assert_eq!(names.end(Ok(())).ok().map(|taken| taken.len()), Some(4096 / 32));
        let mut entries = Entries::new(Arc::new(MemFs::default()));
        assert_eq!(fill(&mut entries), 4096 / 160);
        assert_eq!(entries.end(Ok(())).ok().map(|taken| taken.len()), Some(4096 / 160));
    }

    #[test]
    fn a_page_that_is_dropped_gives_lookups_back() {
        let fs = Arc::new(MemFs::default());
        let mut page = Entries::new(Arc::clone(&fs) as _);
        let taken = fill(&mut page);
        drop(page);
        assert_eq!(fs.calls("forget"), taken as u64);
        let mut page = Entries::new(Arc::clone(&fs) as _);
        fill(&mut page);
        page.end(Ok(())).expect("it has entries");
        assert_eq!(fs.calls("forget"), taken as u64, "what is sent is the kernel's to forget");
    }

    #[test]
    fn an_error_is_told_when_nothing_else_is() {
        let failed = || Err(ErrorKind::Io.into());
        assert!(Names::new().end(failed()).is_err());
        let mut page = Names::new();
        fill(&mut page);
        assert!(page.end(failed()).is_ok(), "the kernel meets it at the next page");
        let mut page = Names::new();
        let long = DirEntry { ino: Ino(5), kind: FileKind::Regular, name: &[b'x'; 256], next: 9 };
        assert!(page.add(&long, None).is_break());
        assert!(page.end(Ok(())).is_err(), "an empty page would be the end of the directory");
    }
}
