//! The names of files in the directory of indexes.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::format::FORMAT;
use crate::parse::{ParseOptions, Times};
use crate::source::Source;

/// How the name of a file begins while it is being written.
pub(super) const UNFINISHED: &str = "new-";

/// What an index is made of: the bytes of the list, how they are understood, and the format of the index. Equal
/// keys, equal indexes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    bytes: [u8; 32],
    list: [u8; 32],
}

impl Key {
    /// `list` is the SHA-256 of the list as it is stored.
    pub(super) fn new(list: &[u8; 32], options: &ParseOptions) -> Self {
        let mut hasher = with_options("index", options);
        hasher.update(list);
        Self { bytes: hasher.finalize().into(), list: *list }
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The SHA-256 of the list as it is stored.
    pub(super) fn list(&self) -> &[u8; 32] {
        &self.list
    }

    /// The index itself.
    pub(super) fn index_in(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.index"))
    }

    /// The seal beside an index.
    pub(super) fn seal_of(index: &Path) -> PathBuf {
        index.with_extension("seal")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.bytes))
    }
}

/// Where the digest of a list is remembered, by where the list comes from.
pub(super) fn memory_of(source: &Source<'_>, options: &ParseOptions, dir: &Path) -> PathBuf {
    let mut hasher = with_options("list", options);
    match source {
        Source::File(path) => {
            let absolute = std::path::absolute(path);
            hasher.update(absolute.as_deref().unwrap_or(path).as_os_str().as_bytes());
        }
        // Names that no absolute path has.
        Source::Copy { name, .. } => hasher.update(format!("copy of {name}")),
        Source::Bytes { name, .. } => hasher.update(format!("bytes of {name}")),
    }
    dir.join(format!("{}.list", hex::encode(hasher.finalize())))
}

fn with_options(purpose: &str, options: &ParseOptions) -> Sha256 {
    let mut hasher = Sha256::new_with_prefix(purpose);
    hasher.update(FORMAT.to_le_bytes());
    hasher.update([match options.times {
        Times::Auto => 0,
        Times::Spec => 1,
        Times::Swapped => 2,
    }]);
    let trim = options.prefixes();
    hasher.update((trim.prefixes().len() as u64).to_le_bytes());
    for prefix in trim.prefixes() {
        hasher.update((prefix.len() as u64).to_le_bytes());
        hasher.update(prefix);
    }
    hasher
}
