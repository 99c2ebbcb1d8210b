//! What an older list has, so that it needs not be stored again.
//!
//! It may be a list of another stor, or content of it may be gone: so only what lies in packs and objects counts that the stor says it
//! has.

use std::collections::HashSet;

use aysfs_flist::{Content, Index, ObjectKey, Table};
use aysfs_store::codec::decode_chunk;
use aysfs_store::crypt::Secret;
use aysfs_store::{Chunk, Store, StoreError, table};
use futures::{StreamExt, TryStreamExt, stream};

use super::PackError;
use super::known::Known;
use super::send::To;
use super::there::rely_on;
use crate::listed::key;

/// How many chunk tables are fetched at once.
const TABLES: usize = 8;

/// What `list` has of what is in the stor; `secret` is what its content is encrypted with, if it is.
pub(super) async fn known(
    list: &Index,
    stor: &dyn Store,
    secret: Option<&Secret>,
) -> Result<Known, PackError> {
    let mut known = Known::default();
    let packs = &list.header().packs;
    let there = there(packs.iter().map(|pack| pack.key).collect(), stor).await?;
    if there.len() < packs.len() {
        let gone = packs.len() - there.len();
        tracing::warn!(
            "{gone} packs of the older flist are not in this stor: what is in them is stored again"
        );
    }
    known.add_packs(packs.iter().filter(|pack| there.contains(&pack.key)).copied());
    let (mut objects, mut large) = (Vec::new(), Vec::new());
    for entry in list.entries() {
        let entry = entry.map_err(PackError::Base)?;
        match entry.content {
            Some(content @ Content::Pack { .. }) => known.add(content, entry.size),
            Some(content @ Content::Object { key, .. }) => objects.push((key, content, entry.size)),
            Some(content @ Content::Chunks { table, .. }) if there.contains(&table.at.pack) => {
                large.push((table, content, entry.size));
            }
            _ => {}
        }
    }
    let keys: HashSet<ObjectKey> = objects.iter().map(|(key, ..)| *key).collect();
    let there = self::there(keys, stor).await?;
    for (_, content, size) in objects.into_iter().filter(|(key, ..)| there.contains(key)) {
        known.add(content, size);
    }
    let mut tables = stream::iter(large)
        .map(|(table, content, size)| async move {
            Ok::<_, StoreError>((read_table(table, size, stor, secret).await?, table, content, size))
        })
        .buffered(TABLES);
    while let Some((chunks, table, content, size)) = tables.try_next().await? {
        if let Some(chunks) = chunks {
            known.add_table(content, size, table, &chunks);
        }
    }
    Ok(known)
}

/// Those of these objects that the stor has.
async fn there(keys: HashSet<ObjectKey>, stor: &dyn Store) -> Result<HashSet<ObjectKey>, StoreError> {
    let lacking = rely_on(To::One(stor), keys.iter().copied()).await?.everywhere;
    Ok(keys.into_iter().filter(|key| !lacking.contains(key)).collect())
}

/// The chunks of a file; `None`: its table is of no use.
async fn read_table(
    Table { sha256, length, at }: Table,
    size: u64,
    stor: &dyn Store,
    secret: Option<&Secret>,
) -> Result<Option<std::sync::Arc<[Chunk]>>, StoreError> {
    if length > u64::from(table::CHUNK_MAX) {
        return Ok(None);
    }
    let body = stor.get(&key(at.pack), Some(at.offset..at.offset.saturating_add(at.stored))).await?;
    let pieces: Vec<_> = body.stream.try_collect().await?;
    let (stored, mut plain) = (pieces.concat(), Vec::new());
    let read =
        decode_chunk(sha256, length, secret, &stored[..], &mut plain).map_err(|error| error.to_string());
    let read = read.and_then(|_| table::read(&plain, size).map_err(|error| error.to_string()));
    Ok(read.inspect_err(|error| tracing::warn!("a chunk table of the older flist is not used: {error}")).ok())
}
