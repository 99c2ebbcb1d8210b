//! Which content of a file of the upper is in the stor.
//!
//! The upper is the queue of what is to be pushed: a file is dirty unless a mark on it says that its content is in the stor, and
//! the mark fits its size and the time of its last change. So nothing has to be remembered elsewhere, and nothing is forgotten
//! by a crash. Invariants:
//!
//! - a mark is set only if nobody could have written to the file since it was read: it is not open for writing, and was not
//!   meanwhile (see [`Sending`]), whatever its times say;
//! - before a file can be written its mark becomes one of the past, which tells what readers of the published list still get.
//!   Whoever sets the times of a file does that, too, since he could hide a change. A store to a mapped file that nobody has open
//!   any more moves the time of the file, and is noticed by that;
//! - a mark counts only for the stor that it was made for, and for who could read it there.

use std::collections::HashSet;
use std::str;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Entry, Timestamp};
use aysfs_store::{Content, Mirror};
use aysfs_vfs::{Ino, Result};
use sha2::{Digest, Sha256};

use super::at::At;
use super::marks::Mark;
use super::tree::Tree;
use super::upper::Upper;
use super::{World, origin};
use crate::listed::listed;

/// Where content is pushed to, and for whom, in a few letters: what was pushed elsewhere has to be pushed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination(String);

impl Destination {
    /// The stor that counts, and the secret that content is encrypted with before it goes there.
    pub fn of(stors: &Mirror) -> Self {
        let readers = stors.sealing().map(|sealing| sealing.secret().fingerprint());
        Self::new(stors.first().name(), readers.as_ref().map_or(&[], |fingerprint| fingerprint))
    }

    /// The stor of this name; `readers` tells who can read what is kept there.
    pub fn new(stor: &str, readers: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(stor).chain_update([0]).chain_update(readers).finalize();
        Self(hex::encode(&digest[..8]))
    }

    /// The letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Content that is in the stor.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    /// Whether nobody could write to the file since it was pushed, but through a mapping.
    is_now: bool,
    /// The time of the last change that the file had.
    mtime: Timestamp,
    content: Content,
}

/// How a mark begins; both have one length, so that one can replace the other on a full disk.
const NOW: &str = "now";
const PAST: &str = "was";

impl Pushed {
    /// Whether a file that is listed like this still has that content.
    pub(super) fn is_current(&self, entry: &Entry) -> bool {
        self.is_now && (self.content.size, self.mtime) == (entry.size, entry.mtime)
    }

    /// What a list said of a file before it was changed.
    pub(super) fn listed(content: Content, mtime: Timestamp) -> Self {
        Self { is_now: false, mtime, content }
    }

    /// The content that is in the stor.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// Lists a file with this content.
    pub(super) fn describe(&self, entry: &mut Entry) {
        entry.content = listed(&self.content);
        (entry.size, entry.mtime) = (self.content.size, self.mtime);
    }

    fn to_mark(&self, destination: &Destination) -> Option<String> {
        let Timestamp { secs, nanos } = self.mtime;
        let content = origin::to_mark(&self.content)?;
        Some(format!("{} {} {secs} {nanos} {content}", if self.is_now { NOW } else { PAST }, destination.0))
    }

    fn from_mark(mark: &[u8], destination: &Destination) -> Option<Self> {
        let mut words = str::from_utf8(mark).ok()?.splitn(5, ' ');
        let is_now = match words.next()? {
            NOW => true,
            PAST => false,
            _ => return None,
        };
        (words.next()? == destination.0).then_some(())?;
        let mtime = Timestamp { secs: words.next()?.parse().ok()?, nanos: words.next()?.parse().ok()? };
        Some(Self { is_now, mtime, content: origin::from_mark(words.next()?.as_bytes())? })
    }
}

impl Upper {
    /// What a mark says of a file.
    pub(super) fn pushed(&self, at: &At, destination: &Destination) -> Result<Option<Pushed>> {
        Ok(self.mark(at, Mark::Pushed)?.and_then(|mark| Pushed::from_mark(&mark, destination)))
    }

    fn set_pushed(&self, at: &At, pushed: &Pushed, destination: &Destination) -> Result<()> {
        match pushed.to_mark(destination) {
            Some(mark) => self.set_mark(at, Mark::Pushed, mark.as_bytes()),
            None => Ok(()),
        }
    }

    /// Makes a mark one of the past.
    fn set_past(&self, at: &At) -> Result<()> {
        let Some(mark) = self.mark(at, Mark::Pushed)? else { return Ok(()) };
        let set = match mark.strip_prefix(NOW.as_bytes()) {
            Some(rest) => self.set_mark(at, Mark::Pushed, &[PAST.as_bytes(), rest].concat()),
            None if mark.starts_with(PAST.as_bytes()) => return Ok(()),
            None => self.clear_mark(at, Mark::Pushed),
        };
        set.or_else(|_| self.clear_mark(at, Mark::Pushed))
    }
}

/// Files that are being read to be pushed, and that nobody could write to since.
#[derive(Debug, Default)]
pub(super) struct Sending(Mutex<HashSet<Ino>>);

impl Sending {
    pub(super) fn begin(&self, ino: Ino) {
        self.lock().insert(ino);
    }

    /// Returns whether nobody could write to it.
    pub(super) fn end(&self, ino: Ino) -> bool {
        self.lock().remove(&ino)
    }

    /// Nothing is being read.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Ino>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree {
    /// Somebody is about to change the content of a file of the upper, or its times, or has done it.
    pub(super) fn may_be_dirty(&mut self, w: &World, sending: &Sending, ino: Ino) -> Result<()> {
        sending.end(ino);
        if self.leaf(ino).is_some_and(|leaf| leaf.may_be_pushed) {
            w.upper.set_past(&self.at(w, ino)?)?;
            if let Some(leaf) = self.leaf_mut(ino) {
                leaf.may_be_pushed = false;
                leaf.has_new_mark = true;
            }
        }
        Ok(())
    }

    /// Marks a file whose content, as it was read, is in the stor.
    pub(super) fn mark_pushed(
        &mut self,
        w: &World,
        ino: Ino,
        (content, mtime): (Content, Timestamp),
        destination: &Destination,
    ) -> Result<()> {
        let pushed = Pushed { is_now: true, mtime, content };
        w.upper.set_pushed(&self.at(w, ino)?, &pushed, destination)?;
        if let Some(leaf) = self.leaf_mut(ino) {
            leaf.may_be_pushed = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aysfs_flist::Kind;
    use aysfs_store::Key;

    use super::*;
    use crate::overlay::testing::Layers;

    #[test]
    fn a_mark_counts_for_one_destination_and_one_state_of_the_file() {
        let layers = Layers::new(&[]);
        let upper = &layers.w.upper;
        fs::write(layers.work(b"f"), "content").expect("made");
        let at = At::Named(upper.work.clone(), b"f".to_vec());
        let here = Destination::new("stor (app)", b"");
        let mtime = Timestamp { secs: -5, nanos: 7 };
        let content = Content::object([1; 32], 7, Key::sha256([2; 32]));
        let pushed = Pushed { is_now: true, mtime, content };
        upper.set_pushed(&at, &pushed, &here).expect("set");

        let known = upper.pushed(&at, &here).expect("read").expect("marked");
        let entry = Entry { size: 7, mtime, ..Entry::new("f", Kind::Regular) };
        assert!(known.is_current(&entry));
        for other in
            [Entry { size: 8, ..entry.clone() }, Entry { mtime: Timestamp::default(), ..entry.clone() }]
        {
            assert!(!known.is_current(&other));
        }
        for elsewhere in [Destination::new("stor (other)", b""), Destination::new("stor (app)", b"key")] {
            assert!(upper.pushed(&at, &elsewhere).expect("read").is_none());
        }

        upper.set_past(&at).expect("set");
        upper.set_past(&at).expect("set again");
        let past = upper.pushed(&at, &here).expect("read").expect("still told");
        assert!(!past.is_current(&entry));
        let mut listed = Entry::new("f", Kind::Regular);
        past.describe(&mut listed);
        assert_eq!((listed.size, listed.mtime, listed.content.is_some()), (7, mtime, true));
    }

    #[test]
    fn a_mark_that_makes_no_sense_says_nothing_and_goes() {
        let layers = Layers::new(&[]);
        let upper = &layers.w.upper;
        let here = Destination::new("stor", b"");
        fs::write(layers.work(b"f"), "").expect("made");
        let at = At::Named(upper.work.clone(), b"f".to_vec());
        upper.set_past(&at).expect("there is none");
        for mark in ["", "now", "then 0 0 0 v1", "now 0 0", "\u{ff}"] {
            upper.set_mark(&at, Mark::Pushed, mark.as_bytes()).expect("set");
            assert!(upper.pushed(&at, &here).expect("read").is_none(), "{mark}");
        }
        upper.set_mark(&at, Mark::Pushed, b"nonsense").expect("set");
        upper.set_past(&at).expect("removed");
        assert_eq!(upper.mark(&at, Mark::Pushed).expect("read"), None);
    }
}
