//! Pages of directory listings, encoded by hand: polyfuse has no reply for entries with attributes.
//!
//! An entry is a `struct fuse_dirent` (ino, off, namelen, type, name) padded to eight bytes, behind a
//! `struct fuse_entry_out` if the page carries attributes (include/uapi/linux/fuse.h).

use std::ops::ControlFlow;

use aysfs_vfs::kernel::raw;
use aysfs_vfs::{DirEntry, DirSink, Entry, Error, Filled, Result};
use polyfuse::bytes::{Bytes, FillBytes};
use polyfuse::op::ReaddirMode;
use polyfuse::reply::EntryOut;

use crate::convert;
use crate::session::Asked;

/// What follows the attributes of an entry, without its name.
const HEADER: usize = 24;
/// Entries begin at multiples of this.
const ALIGNMENT: usize = 8;

/// The answer to one request for a listing.
pub(crate) struct Page {
    asked: Option<Asked>,
    entries: Entries,
}

impl Page {
    /// An empty page of `size` bytes.
    pub(crate) fn new(asked: Asked, size: u32, mode: ReaddirMode) -> Self {
        let entries = Entries { bytes: Vec::new(), size: size as usize, mode };
        Self { asked: Some(asked), entries }
    }

    /// Ends the listing: with what was taken, or with an error if that is nothing.
    ///
    /// Entries that were taken are counted as looked up: the kernel must get them, whatever went wrong behind them, and
    /// meets the error when it asks for the next page.
    pub(crate) fn end(mut self, outcome: Result<()>) {
        let Some(asked) = self.asked.take() else { return };
        let refused = outcome.map_err(|error: Error| asked.errno(&error)).err();
        match refused {
            Some(errno) if self.entries.bytes.is_empty() => asked.refuse(errno),
            _ => asked.send(&self.entries.bytes),
        }
    }
}

impl Drop for Page {
    /// A listing that was interrupted, or has panicked, ends with what was taken, too.
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take()
            && !self.entries.bytes.is_empty()
        {
            asked.send(&self.entries.bytes);
        }
    }
}

impl DirSink for Page {
    fn wants_attributes(&self) -> bool {
        self.entries.mode == ReaddirMode::Plus
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        self.entries.add(entry, attributes)
    }
}

struct Entries {
    bytes: Vec<u8>,
    size: usize,
    mode: ReaddirMode,
}

impl Entries {
    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        // Nothing is looked up for `.` and `..`, which have no attributes: an inode of zero says so.
        let with = match self.mode {
            ReaddirMode::Plus => {
                Some(attributes.map_or_else(EntryOut::default, |known| convert::entry(*known)))
            }
            ReaddirMode::Normal => None,
        };
        let start = self.bytes.len();
        let end = (start + with.size() + HEADER + entry.name.len()).next_multiple_of(ALIGNMENT);
        let length = u32::try_from(entry.name.len());
        let (true, Ok(length)) = (end <= self.size, length) else { return ControlFlow::Break(()) };
        if start == 0 {
            self.bytes.reserve_exact(self.size);
        }
        with.fill_bytes(self);
        self.put(&entry.ino.0.to_ne_bytes());
        self.put(&entry.next.to_ne_bytes());
        self.put(&length.to_ne_bytes());
        self.put(&(raw::type_bits(entry.kind) >> 12).to_ne_bytes());
        self.put(entry.name);
        self.bytes.resize(end, 0);
        ControlFlow::Continue(())
    }
}

impl FillBytes<'_> for Entries {
    fn put(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use aysfs_vfs::{FileKind, Ino};

    use super::*;

    fn entries(size: usize, mode: ReaddirMode) -> Entries {
        Entries { bytes: Vec::new(), size, mode }
    }

    fn entry(name: &[u8]) -> DirEntry<'_> {
        DirEntry { ino: Ino(7), kind: FileKind::Directory, name, next: 9 }
    }

    #[test]
    fn entries_are_padded_and_refused_when_they_do_not_fit() {
        let mut page = entries(72, ReaddirMode::Normal);
        assert_eq!(page.add(&entry(b"12345678"), None), ControlFlow::Continue(()));
        assert_eq!(page.bytes.len(), 32);
        assert_eq!(page.add(&entry(b"123456789"), None), ControlFlow::Continue(()));
        assert_eq!(page.bytes.len(), 72);
        assert_eq!(page.add(&entry(b"1"), None), ControlFlow::Break(()));
        assert_eq!(page.bytes.len(), 72);
        let first: Vec<u32> = page.bytes[..24]
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("four")))
            .collect();
        let (seven, nine) = (7_u64.to_ne_bytes(), 9_u64.to_ne_bytes());
        assert_eq!((&page.bytes[..8], &page.bytes[8..16]), (&seven[..], &nine[..]));
        assert_eq!(first[4..], [8, 4]);
        assert_eq!(page.bytes[56..], *b"123456789\0\0\0\0\0\0\0");
    }

    #[test]
    fn an_entry_without_attributes_counts_no_lookup() {
        let mut page = entries(4096, ReaddirMode::Plus);
        assert_eq!(page.add(&entry(b"."), None), ControlFlow::Continue(()));
        assert_eq!(page.bytes.len(), 160);
        assert_eq!(page.bytes[..128], [0; 128]);
        assert_eq!(page.bytes[128..136], 7_u64.to_ne_bytes());
    }
}
