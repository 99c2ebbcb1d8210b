//! What of a tree the stors do not have any more, whatever the base and the marks say: a collection of garbage deletes what no list names
//! that it knows, and files are marked before a list names them.
//!
//! Which packs a large file is in, only its chunk table tells. Tables are read when something is missing, not before.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_flist::{Content, Entry, Header, ObjectKey};
use aysfs_store::{Chunk, ContentId, Fault, Mirror, StoreError, table};
use futures::StreamExt;

use crate::fetch;
use crate::listed::{Packs, content_id};
use crate::named::ChunkError;
use crate::pack::{self, Lacking, To};

/// What is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    lacking: Lacking,
    /// The packs that chunk tables name, by the digests of these; `None`: nobody can read it.
    tables: HashMap<[u8; 32], Option<HashSet<ObjectKey>>>,
}

impl Missing {
    /// Those of these objects that are missing; what is there is no garbage from now on.
    pub(super) async fn of(
        objects: impl IntoIterator<Item = ObjectKey>,
        stors: &Mirror,
    ) -> Result<Self, StoreError> {
        Ok(Self { lacking: pack::rely_on(To::All(stors), objects).await?, tables: HashMap::new() })
    }

    /// Whether nothing is.
    pub(super) fn is_nothing(&self) -> bool {
        self.lacking.somewhere.is_empty()
    }

    /// Whether there is something that no stor has.
    pub(crate) fn has_gone(&self) -> bool {
        !self.lacking.everywhere.is_empty()
    }

    /// Whether a stor lacks this object.
    pub(super) fn is_lacking(&self, object: &ObjectKey) -> bool {
        self.lacking.somewhere.contains(object)
    }

    /// Whether no stor has this object.
    pub(super) fn is_gone(&self, object: &ObjectKey) -> bool {
        self.lacking.everywhere.contains(object)
    }

    /// Whether a stor lacks something of a content, so that it is to be sent again.
    pub(super) fn lacks_of(&self, content: &Content) -> bool {
        self.touches(content, &self.lacking.somewhere)
    }

    /// Whether a content cannot be read any more.
    pub(super) fn spoils(&self, content: &Content) -> bool {
        self.touches(content, &self.lacking.everywhere)
    }

    fn touches(&self, content: &Content, lacking: &HashSet<ObjectKey>) -> bool {
        if lacking.is_empty() {
            return false;
        }
        match content {
            Content::V1(md5) => lacking.contains(&ObjectKey::Md5(*md5)),
            Content::Object { key, .. } => lacking.contains(key),
            Content::Pack { at, .. } => lacking.contains(&at.pack),
            Content::Chunks { table, .. } => {
                lacking.contains(&table.at.pack)
                    || self.tables.get(&table.sha256).is_some_and(|packs| {
                        packs.as_ref().is_none_or(|packs| packs.iter().any(|pack| lacking.contains(pack)))
                    })
            }
        }
    }

    /// Takes note of which packs large files are in.
    pub(super) async fn read_tables(
        &mut self,
        contents: impl IntoIterator<Item = (Content, u64)>,
        packs: &Packs,
        stors: &Arc<Mirror>,
    ) -> Result<(), StoreError> {
        let new = contents.into_iter().filter(|(content, _)| {
            table_of(content).is_some_and(|digest| !self.tables.contains_key(&digest))
        });
        self.tables.extend(tables(new.collect::<Vec<_>>(), packs, stors).await?.into_iter().map(
            |(digest, chunks)| {
                let packs = |chunks: Arc<[Chunk]>| {
                    chunks.iter().filter_map(|chunk| chunk.key.as_str().parse().ok()).collect()
                };
                (digest, chunks.map(packs))
            },
        ));
        Ok(())
    }

    /// Takes what no stor has out of a list: files have the same content of others, `sent`, where there is such, and packs that no file is
    /// in were those of older versions, which a chunk table may have named.
    ///
    /// # Errors
    /// A file is in one of them.
    pub(super) fn leave_out(
        &self,
        entries: &mut [Entry],
        sent: impl IntoIterator<Item = Content>,
        header: &mut Header,
    ) -> Result<(), Gone> {
        self.replace_spoilt(entries, sent);
        let mut spoilt = self.spoilt(entries);
        if let Some(first) = spoilt.next() {
            let path = Path::new("/").join(OsStr::from_bytes(&first.path));
            return Err(Gone { files: spoilt.count() + 1, path });
        }
        header.packs.retain(|pack| !self.is_gone(&pack.key));
        header.start.retain(|pack| !self.is_gone(pack));
        Ok(())
    }

    /// Lists files whose content no stor has any more with the same content of others, which are in a stor.
    fn replace_spoilt(&self, entries: &mut [Entry], others: impl IntoIterator<Item = Content>) {
        let sound = others.into_iter().filter(|content| !self.spoils(content));
        let sound: HashMap<ContentId, Content> =
            sound.map(|content| (content_id(&content), content)).collect();
        for content in entries.iter_mut().filter_map(|entry| entry.content.as_mut()) {
            if self.spoils(content)
                && let Some(same) = sound.get(&content_id(content))
            {
                *content = *same;
            }
        }
    }

    /// The files whose content no stor has.
    fn spoilt<'a>(&self, entries: &'a [Entry]) -> impl Iterator<Item = &'a Entry> {
        let is_spoilt = |entry: &&Entry| {
            entry.link.is_none() && entry.content.is_some_and(|content| self.spoils(&content))
        };
        entries.iter().filter(is_spoilt)
    }
}

/// Files whose content no stor has.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) files: usize,
    /// One of them.
    pub(super) path: PathBuf,
}

/// The object that a content is, if it is one by itself.
pub(super) fn object_of(content: &Content) -> Option<ObjectKey> {
    match content {
        Content::Object { key, .. } => Some(*key),
        Content::V1(_) | Content::Pack { .. } | Content::Chunks { .. } => None,
    }
}

/// The digest of the chunk table of a content.
pub(super) fn table_of(content: &Content) -> Option<[u8; 32]> {
    match content {
        Content::Chunks { table, .. } => Some(table.sha256),
        Content::V1(_) | Content::Object { .. } | Content::Pack { .. } => None,
    }
}

/// Reads the chunk tables of large files of these sizes; `None`: it is damaged. One that is not there is not told.
pub(super) async fn tables(
    contents: impl IntoIterator<Item = (Content, u64)>,
    packs: &Packs,
    stors: &Arc<Mirror>,
) -> Result<Vec<([u8; 32], Option<Arc<[Chunk]>>)>, StoreError> {
    let (mut digests, mut sizes, mut chunks, mut met) = (Vec::new(), Vec::new(), Vec::new(), HashSet::new());
    for (listed, size) in contents {
        let table = packs.content(Some(listed), size).and_then(|content| content.table);
        if let (Some(digest), Some(chunk)) =
            (table_of(&listed), table.and_then(|table| table.chunks.first().cloned()))
            && met.insert(digest)
        {
            digests.push(digest);
            sizes.push(size);
            chunks.push(chunk);
        }
    }
    let mut read = Vec::new();
    let mut fetched = std::pin::pin!(fetch::plain(stors, chunks.into()));
    while let Some((at, fetched)) = fetched.next().await {
        let list = fetched.and_then(|plain| Ok(table::read(&plain, sizes[at])?));
        match list {
            Ok(list) => read.push((digests[at], Some(list))),
            Err(ChunkError::Fetch(error)) if !matches!(error.fault, Fault::NotFound | Fault::Refused(_)) => {
                return Err(error);
            }
            Err(ChunkError::Fetch(_)) => {}
            Err(error) => {
                tracing::warn!("a chunk table of the stor cannot be used: {error}");
                read.push((digests[at], None));
            }
        }
    }
    Ok(read)
}
