//! Directory listings into fuser's reply buffers.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aysfs_vfs::{DirEntry, DirSink, Entry, Filled};
use fuser::{Errno, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use crate::convert;

/// A reply that takes entries.
pub(crate) trait Page: DirSink {
    /// Ends the listing: with what was taken, or with an error if that is nothing.
    fn end(self, outcome: Result<(), Errno>);
}

/// A page of names.
pub(crate) struct Names {
    reply: ReplyDirectory,
    empty: bool,
}

impl Names {
    pub(crate) fn new(reply: ReplyDirectory) -> Self {
        Self { reply, empty: true }
    }
}

impl DirSink for Names {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, entry: &DirEntry<'_>, _attributes: Option<&Entry>) -> Filled {
        let kind = convert::file_type(entry.kind);
        let full = self.reply.add(INodeNo(entry.ino.0), entry.next, kind, OsStr::from_bytes(entry.name));
        filled(full, &mut self.empty)
    }
}

impl Page for Names {
    fn end(self, outcome: Result<(), Errno>) {
        match outcome {
            Err(errno) if self.empty => self.reply.error(errno),
            _ => self.reply.ok(),
        }
    }
}

/// A page of names with their attributes.
pub(crate) struct Entries {
    reply: ReplyDirectoryPlus,
    empty: bool,
}

impl Entries {
    pub(crate) fn new(reply: ReplyDirectoryPlus) -> Self {
        Self { reply, empty: true }
    }
}

impl DirSink for Entries {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        let (attr, ttl) = match attributes {
            Some(known) => (convert::file_attr(&known.attr), known.ttl.entry.min(known.ttl.attr)),
            // `.` and `..`, which the kernel lists but does not look up.
            None => (convert::bare_attr(entry.ino, entry.kind), Duration::ZERO),
        };
        let name = OsStr::from_bytes(entry.name);
        let full = self.reply.add(attr.ino, entry.next, name, &ttl, &attr, Generation(0));
        filled(full, &mut self.empty)
    }
}

impl Page for Entries {
    /// Entries that were taken are counted as looked up: the kernel must get them, whatever went wrong behind
    /// them, and meets the error when it asks for the next page.
    fn end(self, outcome: Result<(), Errno>) {
        match outcome {
            Err(errno) if self.empty => self.reply.error(errno),
            _ => self.reply.ok(),
        }
    }
}

fn filled(full: bool, empty: &mut bool) -> Filled {
    if full {
        ControlFlow::Break(())
    } else {
        *empty = false;
        ControlFlow::Continue(())
    }
}
