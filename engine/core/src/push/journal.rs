//! What was sent to a stor, and by which list it will be named: noted before it is sent.
//!
//! One line for each object, `key path`, the path escaped. Once a list is published, the objects that it names are taken out. So every object
//! that a mount has sent is either named by a list that it published, or is in here: sent, and then changed or removed again, or
//! cut off by a crash. Such objects are of no use to anybody, and a collection of garbage may look here for them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aysfs_store::{Fault, Key, StoreError};

use super::PushError;
use crate::durable;

/// A file to which lines are appended.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Nothing until there is something to note.
    file: Mutex<Option<File>>,
}

impl Journal {
    /// The journal at `path`, which is made when there is something to note. A line that a crash has cut off is as if it had never been
    /// begun: what it was about was not sent.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
        if whole < text.len() {
            OpenOptions::new().write(true).open(&path)?.set_len(whole as u64)?;
        }
        Ok(Self { path, file: Mutex::default() })
    }

    /// Notes objects that are about to be sent, and waits until that is on the disk.
    pub(crate) fn note(&self, objects: Vec<(Key, Vec<u8>)>) -> Result<(), StoreError> {
        let mut lines = Vec::new();
        for (key, path) in objects {
            lines.extend_from_slice(format!("{key} {}\n", path.escape_ascii()).as_bytes());
        }
        self.append(&lines).map_err(|error| StoreError {
            stor: self.path.display().to_string(),
            subject: "what is about to be sent".into(),
            fault: Fault::Local(error),
        })
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        let file = match &mut *open {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
                none.insert(file)
            }
        };
        let before = file.metadata()?.len();
        file.write_all(lines).and_then(|()| file.sync_data()).inspect_err(|_| {
            // A part of a line would spoil the next one.
            let _ = file.set_len(before);
        })
    }

    /// Takes out what a list names.
    pub(super) fn settle(&self, named: &HashSet<Key>) -> Result<(), PushError> {
        self.take_out(named).map_err(|source| PushError::Keep { path: self.path.clone(), source })
    }

    fn take_out(&self, named: &HashSet<Key>) -> io::Result<()> {
        let mut file = self.lock();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_open = |line: &&[u8]| key(line).is_none_or(|key| !named.contains(&key));
        let open: Vec<u8> =
            text.split_inclusive(|byte| *byte == b'\n').filter(is_open).collect::<Vec<_>>().concat();
        if open.len() < text.len() {
            durable::replace(&self.path, &open)?;
            *file = None;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key in a line.
fn key(line: &[u8]) -> Option<Key> {
    let key = line.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(key).ok()?.parse().ok()
}

/// The keys that a journal has, for tests and tools.
#[cfg(test)]
fn keys(path: &std::path::Path) -> Vec<Key> {
    let text = fs::read(path).expect("readable");
    text.split(|byte| *byte == b'\n').filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_list_names_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let journal = Journal::open(path.clone()).expect("opened");
        let [a, b, c] = [1, 2, 3].map(|byte| Key::sha256([byte; 32]));
        journal.note(vec![(a.clone(), b"a".to_vec()), (b.clone(), b"odd\nname".to_vec())]).expect("noted");
        journal.settle(&HashSet::from([a])).expect("settled");
        assert_eq!(keys(&path), std::slice::from_ref(&b));
        journal.note(vec![(c.clone(), b"c".to_vec())]).expect("noted in the new file");
        assert_eq!(keys(&path), [b.clone(), c.clone()]);
        journal.settle(&HashSet::from([b, c])).expect("settled");
        assert!(keys(&path).is_empty());
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let [a, b] = [1, 2].map(|byte| Key::sha256([byte; 32]));
        fs::write(&path, format!("{a} f\n{}", &b.as_str()[..20])).expect("written");
        let journal = Journal::open(path.clone()).expect("opened");
        journal.note(vec![(b.clone(), b"f".to_vec())]).expect("noted");
        assert_eq!(keys(&path), [a, b]);
    }
}
