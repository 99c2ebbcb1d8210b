//! What a list names in a stor: chunks and chunk tables, each with a file that it is of.

use std::collections::HashSet;
use std::sync::Arc;

use aysfs_flist::{Corrupt, Kind, Node};
use aysfs_store::codec::DecodeError;
use aysfs_store::table::{self, TableError};
use aysfs_store::{Chunk, Content, Mirror, StoreError};
use futures::StreamExt;

use crate::base::Base;
use crate::fetch;

/// A chunk of a file.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) chunk: Chunk,
    /// The file.
    pub(crate) node: Node,
}

/// A file of several chunks, which a table lists.
#[derive(Clone, Debug)]
pub(crate) struct Tabled {
    pub(crate) content: Content,
    pub(crate) node: Node,
    /// The chunk that is the table.
    pub(crate) table: Chunk,
}

/// What a list names itself.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// The content of files that are one chunk, in the order of the list.
    pub(crate) pieces: Vec<Piece>,
    /// The others, in the same order.
    pub(crate) tabled: Vec<Tabled>,
}

/// Why there is nothing to be had of a chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error(transparent)]
    Fetch(#[from] StoreError),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Table(#[from] TableError),
}

impl Named {
    /// What a base names; each file is met once, however many names it has.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub(crate) fn by(base: &Base) -> Result<Self, Corrupt> {
        let index = base.index();
        let (mut named, mut met) = (Self::default(), HashSet::new());
        let mut ahead = vec![index.children(Node::ROOT)?];
        while let Some(children) = ahead.last_mut() {
            let Some(child) = children.next() else {
                ahead.pop();
                continue;
            };
            let of = index.node(child?.1)?;
            if of.kind() == Kind::Directory {
                ahead.push(index.children(of.number())?);
            } else if of.kind() == Kind::Regular && (of.nlink() == 1 || met.insert(of.number())) {
                named.add(base.content_of(&of)?, of.number());
            }
        }
        Ok(named)
    }

    fn add(&mut self, content: Option<Content>, node: Node) {
        let Some(content) = content else { return };
        match content.table.as_ref().and_then(|table| table.chunks.first().cloned()) {
            Some(table) => self.tabled.push(Tabled { content, node, table }),
            None => {
                self.pieces.extend(content.chunks.iter().map(|chunk| Piece { chunk: chunk.clone(), node }));
            }
        }
    }

    /// Reads the chunk tables, and shows `each` what they list, or why that is not known.
    pub(crate) async fn read_tables(
        &self,
        stors: &Arc<Mirror>,
        mut each: impl FnMut(&Tabled, Result<Arc<[Chunk]>, ChunkError>),
    ) {
        let tables: Arc<[Chunk]> = self.tabled.iter().map(|tabled| tabled.table.clone()).collect();
        let mut fetched = std::pin::pin!(fetch::plain(stors, tables));
        while let Some((index, fetched)) = fetched.next().await {
            let tabled = &self.tabled[index];
            let list = fetched.and_then(|plain| Ok(table::read(&plain, tabled.content.size)?));
            each(tabled, list);
        }
    }
}
