//! What a set of flists names.

use std::collections::HashSet;
use std::sync::Arc;

use aysfs_store::{Key, Mirror};

use super::{Collection, GcError, damaged};
use crate::base::Base;
use crate::listed;
use crate::named::Named;

/// How many objects of a list are asked for, to see that it is one of this stor.
const PROBED: usize = 1000;

/// What is named.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) keys: HashSet<Key>,
    /// By so many lists.
    pub(super) lists: u64,
}

impl Collection {
    /// Takes in a list that messages call `flist`: what it names stays. `stors` are those of the collection, with what opens the content of
    /// this list.
    ///
    /// # Errors
    /// If it is not certain what the list names, or if it seems to be about another stor. One that names nothing is more likely a file that was
    /// cut short than an empty tree.
    pub async fn mark(&mut self, flist: &str, base: &Base, stors: &Arc<Mirror>) -> Result<(), GcError> {
        match self.take_in(flist, base, stors).await? {
            0 => Err(GcError::Empty(flist.to_owned())),
            _ => Ok(()),
        }
    }

    /// The same for a list that is in the stor, where it was put as a whole: that one may name nothing.
    ///
    /// # Errors
    /// As of [`Self::mark`].
    pub async fn mark_published(
        &mut self,
        flist: &str,
        base: &Base,
        stors: &Arc<Mirror>,
    ) -> Result<(), GcError> {
        self.take_in(flist, base, stors).await.map(drop)
    }

    /// Returns how many objects the list names.
    async fn take_in(&mut self, flist: &str, base: &Base, stors: &Arc<Mirror>) -> Result<usize, GcError> {
        let named = Named::by(base).map_err(|error| damaged(flist, error))?;
        let mut keys: HashSet<Key> =
            base.index().header().packs.iter().map(|pack| listed::key(pack.key)).collect();
        keys.extend(named.pieces.iter().map(|piece| piece.chunk.key.clone()));
        keys.extend(named.tabled.iter().map(|tabled| tabled.table.key.clone()));
        let probed: Vec<Key> = keys.iter().take(PROBED).cloned().collect();
        if !probed.is_empty() && !self.stor.has(&probed).await?.contains(&true) {
            let stor = self.stor.name().to_owned();
            return Err(GcError::Elsewhere { flist: flist.to_owned(), stor });
        }
        let mut flaw = None;
        named
            .read_tables(stors, |tabled, chunks| match chunks {
                Ok(chunks) => {
                    for chunk in &*chunks {
                        if !keys.contains(&chunk.key) {
                            keys.insert(chunk.key.clone());
                        }
                    }
                }
                Err(error) => {
                    flaw.get_or_insert_with(|| GcError::Table {
                        flist: flist.to_owned(),
                        path: base.path(tabled.node),
                        reason: error.to_string(),
                    });
                }
            })
            .await;
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
        let count = keys.len();
        self.marks.keys.extend(keys);
        self.marks.lists += 1;
        Ok(count)
    }
}
