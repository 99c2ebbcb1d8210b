//! A verified file that is open.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, fstat, statat};

use super::age::{Clock, LastRead, Seconds};
use super::append_at;
use super::loan::Loan;

/// A verified file of the cache.
///
/// Its bytes are the content for as long as [`is_intact`](Self::is_intact) says so: another inode may have been given the
/// file (see [`Lent`](super::Lent)), and is then free to change it. So the order is: read, then ask.
#[derive(Debug)]
pub struct VerifiedFile {
    file: Arc<File>,
    /// This process gave it away.
    given: AtomicBool,
    /// Somebody else may give it away without a word to this one: then its name leads to another file.
    watched: Option<Name>,
    last_read: LastRead,
    pub(super) loan: Mutex<Option<Loan>>,
}

/// A name in the cache directory, and the inode that it led to.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) root: Arc<OwnedFd>,
    pub(super) name: String,
}

impl VerifiedFile {
    /// One that nobody but this process can give away, and what the directory says about its last read.
    pub(super) fn new(file: File, clock: &Clock, noted: Seconds) -> Self {
        Self {
            file: Arc::new(file),
            given: AtomicBool::new(false),
            watched: None,
            last_read: LastRead::new(clock, noted),
            loan: Mutex::default(),
        }
    }

    /// The same, which somebody else has lent.
    pub(super) fn watched(self, name: Name) -> Self {
        Self { watched: Some(name), ..self }
    }

    /// The file itself.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether everything that was read from it until now is the content that it was opened for.
    pub fn is_intact(&self) -> bool {
        !self.given.load(Ordering::Acquire)
            && self.watched.as_ref().is_none_or(|name| name.leads_to(&self.file))
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    pub(super) fn last_read(&self) -> &LastRead {
        &self.last_read
    }

    /// It belongs to somebody else from now on.
    pub(super) fn is_given(&self) {
        self.given.store(true, Ordering::Release);
    }

    /// Appends a part of it, all of it. What was appended is of no worth unless the file is intact afterwards.
    pub(super) fn append(&self, part: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.last_read.touch();
        append_at(&self.file, part, bytes)
    }
}

impl Name {
    /// Whether it leads to this file.
    pub(super) fn leads_to(&self, file: &File) -> bool {
        let named = statat(&self.root, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        match (named, fstat(file)) {
            (Ok(named), Ok(stat)) => (named.st_dev, named.st_ino) == (stat.st_dev, stat.st_ino),
            _ => false,
        }
    }
}
