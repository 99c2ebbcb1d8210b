//! Where content is, in the words of a run: by the numbers of packs that may still be on their way.

use aysfs_flist::{Content, ObjectKey, Place as Listed, Table};

use super::known::{Id, Place};
use super::read::FileContent;

/// Where the content of a file is, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// In the words of a list: it was there before.
    Listed(Content),
    /// It is one chunk.
    Chunk { sha256: Id, at: Place },
    /// It is several chunks, listed by a table: its digest, its length, and where it is.
    Chunks { sha256: Id, table: Id, length: u64, at: Place },
}

impl Placed {
    /// The number of the pack that a list of it names, if that is one of this run.
    pub(super) fn pack(&self) -> Option<u32> {
        match self {
            Self::Listed(_) => None,
            Self::Chunk { at, .. } | Self::Chunks { at, .. } => Some(at.pack),
        }
    }

    /// The same in the words of a list, with the key that the stor has given to the pack of a number.
    pub(super) fn listed<E>(self, key: impl FnOnce(u32) -> Result<ObjectKey, E>) -> Result<Content, E> {
        let listed = |Place { pack, offset, stored }| {
            Ok(Listed { pack: key(pack)?, offset: offset.into(), stored: stored.into() })
        };
        Ok(match self {
            Self::Listed(content) => content,
            Self::Chunk { sha256, at } => Content::Pack { sha256, at: listed(at)? },
            Self::Chunks { sha256, table, length, at } => {
                Content::Chunks { sha256, table: Table { sha256: table, length, at: listed(at)? } }
            }
        })
    }
}

impl FileContent<Placed> {
    /// The number of the pack that a list of it names, if that is one of this run.
    pub(super) fn pack(&self) -> Option<u32> {
        self.content.as_ref().and_then(Placed::pack)
    }

    /// The same in the words of a list, with the key that the stor has given to the pack of a number.
    pub(super) fn listed<E>(self, key: impl FnOnce(u32) -> Result<ObjectKey, E>) -> Result<FileContent, E> {
        let content = self.content.map(|placed| placed.listed(key)).transpose()?;
        Ok(FileContent { content, version: self.version })
    }
}
