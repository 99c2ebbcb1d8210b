//! The directory of indexes: finding the one that belongs to a list, or making it.
//!
//! | file | what it is |
//! |---|---|
//! | `<key>.index` | an index; written under another name, synced, then renamed, and never changed again |
//! | `<key>.seal` | this very file had the right checksum since this boot |
//! | `<place>.list` | the digest of the list at a place, when it was last looked at |
//! | `new-*` | one of these that is being written, or was when the machine went down |
//!
//! Whoever can write into this directory decides what is mounted: it has to be private.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::key::{self, Key, UNFINISHED};
use super::stamp::{FileState, Stamp, boot_id};
use super::{Index, Provenance, build, file};
use crate::error::FlistError;
use crate::parse::{ParseOptions, scan};
use crate::source::{Digesting, Raw, Source};
use crate::tree::Tree;

/// How long after its last change nobody can be writing it any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory of indexes, at a moment.
pub(super) struct Shelf<'a> {
    pub(super) dir: &'a Path,
    pub(super) now: SystemTime,
}

impl Shelf<'_> {
    /// The index of a list: the one that is there, if it can be trusted, or a new one.
    pub(super) fn open_or_compile(
        &self,
        source: &Source<'_>,
        options: &ParseOptions,
    ) -> Result<(Index, Provenance), FlistError> {
        let unreadable = |error| FlistError::Read { file: source.name(), error };
        let memory = key::memory_of(source, options, self.dir);
        let known = Stamp::read(&memory);

        let mut raw = source.open().map_err(unreadable)?;
        let state = state_of(&raw).map_err(unreadable)?;
        if let Some(known) = known
            && state != FileState::UNKNOWN
            && known.state == state
            && let Some(index) = self.open(&Key::new(&known.digest, options))
        {
            return Ok((index, Provenance::Reused));
        }
        let digest = raw.sha256().map_err(unreadable)?;
        let (digest, index, provenance) = match self.open(&Key::new(&digest, options)) {
            Some(index) => (digest, index, Provenance::Reused),
            None => {
                let (digest, index) = self.compile(source, &mut raw, options)?;
                (digest, index, Provenance::Compiled)
            }
        };
        // Only a list that did not change while it was read has the digest that was found.
        let unchanged = state_of(&raw).map_err(unreadable)? == state && state.is_settled(self.now);
        let stamp = Stamp::new(if unchanged { state } else { FileState::UNKNOWN }, digest, [0; 16]);
        if known != Some(stamp) {
            stamp.write(&memory);
        }
        if let Some(known) = known.filter(|known| known.digest != digest) {
            self.remove(&Key::new(&known.digest, options));
        }
        Ok((index, provenance))
    }

    /// Compiles a list; returns the digest of what was compiled.
    pub(super) fn compile(
        &self,
        source: &Source<'_>,
        raw: &mut Raw<'_>,
        options: &ParseOptions,
    ) -> Result<([u8; 32], Index), FlistError> {
        let name = source.name();
        let mut tree = Tree::new();
        let mut digesting = Digesting::new(raw);
        let scanned = scan(&name, &mut digesting, options, |line| tree.add(&line))?;
        let digest = digesting.finish().map_err(|error| FlistError::Read { file: name, error })?;

        let key = Key::new(&digest, options);
        let path = key.index_in(self.dir);
        let failed = |error| FlistError::Index { path: path.clone(), error };
        let write = || -> io::Result<File> {
            DirBuilder::new().recursive(true).mode(0o700).create(self.dir)?;
            self.sweep()?;
            let temp = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(self.dir)?;
            build::write(tree, &scanned, &key, temp.as_file())?;
            temp.as_file().sync_all()?;
            let index = temp.persist(&path)?;
            File::open(self.dir)?.sync_all()?;
            Ok(index)
        };
        let index = write().and_then(|index| Index::map(&index, path.clone(), &key)).map_err(failed)?;
        Ok((digest, index))
    }

    /// Removes what a crash left half written.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.dir)? {
            let entry = entry?;
            let is_old = |modified| self.now.duration_since(modified).is_ok_and(|age| age > ABANDONED);
            if entry.file_name().as_bytes().starts_with(UNFINISHED.as_bytes())
                && entry.metadata().and_then(|stat| stat.modified()).is_ok_and(is_old)
            {
                remove_file(&entry.path());
            }
        }
        Ok(())
    }

    /// The index of this key, if there is one and it can be trusted.
    fn open(&self, key: &Key) -> Option<Index> {
        let path = key.index_in(self.dir);
        match self.open_file(&path, key) {
            Ok(index) => Some(index),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an index cannot be used and is made again");
                None
            }
        }
    }

    fn open_file(&self, path: &Path, key: &Key) -> io::Result<Index> {
        let index = File::open(path)?;
        let state = FileState::of(&index)?;
        let boot = boot_id();
        let seal = Key::seal_of(path);
        let known = Stamp::read(&seal);
        let sealed = boot.map(|boot| Stamp::new(state, *key.bytes(), boot));
        if sealed.is_none() || known != sealed {
            file::verify(&index)?;
            if let Some(sealed) = sealed
                && state.is_settled(self.now)
            {
                sealed.write(&seal);
            }
        }
        Index::map(&index, path.into(), key)
    }

    /// Removes an index that its list has outgrown. Whoever has it open keeps it.
    fn remove(&self, key: &Key) {
        let index = key.index_in(self.dir);
        remove_file(&Key::seal_of(&index));
        remove_file(&index);
    }
}

/// A file that stays wastes space, no more.
fn remove_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an old index");
    }
}

fn state_of(raw: &Raw<'_>) -> io::Result<FileState> {
    match raw {
        Raw::File(file) => FileState::of(file),
        Raw::Bytes(_) => Ok(FileState::UNKNOWN),
    }
}
