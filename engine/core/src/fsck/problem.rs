//! What is wrong with an object, and with which files therefore.

use std::collections::HashSet;
use std::fmt;

use aysfs_flist::Node;
use aysfs_store::codec::DecodeError;
use aysfs_store::table::TableError;
use aysfs_store::{Key, StoreError};

use crate::base::Base;
use crate::named::ChunkError;

/// How many files are named; the others are counted.
const SHOWN: usize = 3;

/// Something that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// With this object.
    pub object: Key,
    /// How many files cannot be read therefore.
    pub files: u64,
    /// The first of them, with a leading `/`, and escaped.
    pub paths: Vec<String>,
    /// What it is.
    pub flaw: Flaw,
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Flaw {
    #[error("it is not in the stor")]
    Missing,
    #[error("it is shorter than the {0} bytes that it should have")]
    Short(u64),
    #[error("it is longer than the {0} bytes that it should have")]
    Long(u64),
    #[error("it has {found} bytes instead of {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its bytes are not those that its name says")]
    Name,
    #[error("it cannot be read: {0}")]
    Fetch(StoreError),
    #[error("the content is wrong: {0}")]
    Content(DecodeError),
    #[error("the chunk table cannot be read: {0}")]
    Table(TableFlaw),
}

/// What can be wrong with a chunk table.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TableFlaw {
    #[error(transparent)]
    Fetch(StoreError),
    #[error(transparent)]
    Content(DecodeError),
    #[error(transparent)]
    Rows(TableError),
}

impl From<ChunkError> for TableFlaw {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Fetch(error) => Self::Fetch(error),
            ChunkError::Decode(error) => Self::Content(error),
            ChunkError::Table(error) => Self::Rows(error),
        }
    }
}

impl From<ChunkError> for Flaw {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Fetch(error) => Self::Fetch(error),
            ChunkError::Decode(error) => Self::Content(error),
            error @ ChunkError::Table(_) => Self::Table(error.into()),
        }
    }
}

impl Problem {
    pub(super) fn new(base: &Base, object: &Key, files: impl IntoIterator<Item = Node>, flaw: Flaw) -> Self {
        let mut met = HashSet::new();
        let mut paths = Vec::new();
        for node in files {
            if met.insert(node) && paths.len() < SHOWN {
                paths.push(base.path(node));
            }
        }
        Self { object: object.clone(), files: met.len() as u64, paths, flaw }
    }
}

/// One line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.files.saturating_sub(self.paths.len() as u64);
        f.write_str(&self.paths.join(", "))?;
        match (self.files, more) {
            (0, _) => f.write_str("no file")?,
            (_, 0) => {}
            (_, more) => write!(f, " and {more} more")?,
        }
        write!(f, ": object {}: {}", self.object, self.flaw)
    }
}
