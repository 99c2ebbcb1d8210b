//! Packs of which little is left: what a list still needs of them is copied into new ones.
//!
//! A pack is deleted as a whole, when no list names it. A list that was made on top of others may name packs for the sake of a few
//! chunks. A repack copies those, as they are stored, writes the chunk tables that name them anew, and then a list of the same tree.
//! Nothing of what was there is touched: the old list stays valid, and a later collection of garbage deletes what nobody names any more.
//!
//! Each chunk that is copied is decoded to its digest first, so that no damage is carried into a pack whose name says that it is sound.

mod new_packs;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_flist::{Content as Listed, Corrupt, Dialect, Entry, Header, Node, ObjectKey, Pack, Place, Table};
use aysfs_store::codec::{self, Compression};
use aysfs_store::{Chunk, Key, Mirror, Part, StoreError, table};
use futures::StreamExt;
use sha2::{Digest, Sha256};

use self::new_packs::{NewPacks, StoredPacks, place};
use crate::base::{Base, BaseError};
use crate::named::Named;
use crate::overlay::moved::ancestors;
use crate::pack::{self, ListError, To};
use crate::{fetch, listed};

/// How far it is; read by whoever shows it, while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Stored bytes to be copied.
    pub bytes_found: AtomicU64,
    /// Those that are.
    pub bytes_done: AtomicU64,
}

/// What there is to be done, or was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packs that the list names.
    pub packs: u64,
    /// Those of them that the new list does not name any more.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// What of these is needed.
    pub needed_bytes: u64,
    /// New packs.
    pub new_packs: u64,
    /// Their bytes.
    pub new_bytes: u64,
}

/// Why a list could not be repacked. It stays as it is.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RepackError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error("the chunk table of {path} cannot be read: {reason}")]
    Table { path: String, reason: String },
    #[error("content of {path} cannot be copied, object {object}: {reason}")]
    Chunk { path: String, object: Key, reason: String },
    #[error("the chunks of {0} fit no chunk table")]
    Unlistable(String),
    #[error("pack {pack} is not in {stor} any more: `aysfs fsck` tells which files are lost")]
    Gone { pack: Key, stor: String },
    #[error("cannot store a pack")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Flist(#[from] ListError),
}

impl From<Corrupt> for RepackError {
    fn from(error: Corrupt) -> Self {
        Self::Base(error.into())
    }
}

/// Stored bytes: the object, where they begin and where they end.
type Bytes = (Key, u64, u64);

/// Where chunks are that were copied, by where they were.
type Moved = HashMap<Bytes, (Key, Part)>;

fn bytes_of(chunk: &Chunk) -> Option<Bytes> {
    chunk.part.as_ref().map(|part| (chunk.key.clone(), part.range.start, part.range.end))
}

/// A list, and which of its packs are to be left.
pub struct Plan<'a> {
    base: &'a Base,
    named: Named,
    /// Of each file that has a table, in the order of `named`.
    tables: Vec<Arc<[Chunk]>>,
    /// All packs, in the order of the header.
    packs: Vec<Pack>,
    left: HashSet<Key>,
    /// Packs that hold tables.
    of_tables: HashSet<Key>,
    summary: Summary,
}

/// What is needed of a pack.
struct Use {
    pack: Pack,
    ranges: Vec<(u64, u64)>,
}

impl Use {
    fn needed(&mut self) -> u64 {
        self.ranges.sort_unstable();
        let count = |(sum, at): (u64, u64), (start, end): &(u64, u64)| {
            (sum + end.saturating_sub(at.max(*start)), at.max(*end))
        };
        self.ranges.iter().fold((0, 0), count).0
    }
}

impl<'a> Plan<'a> {
    /// Finds the packs of which little is needed. The first ones that a mount fetches stay, since all of them is wanted at once; those of chunk
    /// tables do not.
    ///
    /// # Errors
    /// [`RepackError`]: a chunk table cannot be read.
    pub async fn of(base: &'a Base, stors: &Arc<Mirror>, below: f64) -> Result<Self, RepackError> {
        let named = Named::by(base)?;
        let mut tables = Vec::new();
        let mut flaw = None;
        named
            .read_tables(stors, |tabled, chunks| match chunks {
                Ok(chunks) => tables.push(chunks),
                Err(error) => {
                    let (path, reason) = (base.path(tabled.node), error.to_string());
                    flaw.get_or_insert(RepackError::Table { path, reason });
                }
            })
            .await;
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
        let header = base.index().header();
        let mut uses: Vec<Use> =
            header.packs.iter().map(|pack| Use { pack: *pack, ranges: Vec::new() }).collect();
        let mut positions: HashMap<Key, usize> =
            uses.iter().enumerate().map(|(at, used)| (listed::key(used.pack.key), at)).collect();
        let singles = named.pieces.iter().map(|piece| &piece.chunk);
        let of_tables = named.tabled.iter().map(|tabled| &tabled.table);
        let of_large = tables.iter().flat_map(|chunks| chunks.iter());
        for chunk in singles.chain(of_tables).chain(of_large) {
            let (Some(part), Ok(key)) = (&chunk.part, chunk.key.as_str().parse()) else { continue };
            let position = *positions.entry(chunk.key.clone()).or_insert_with(|| {
                uses.push(Use { pack: Pack { key, bytes: part.pack }, ranges: Vec::new() });
                uses.len() - 1
            });
            uses[position].ranges.push((part.range.start, part.range.end));
        }
        let of_tables: HashSet<Key> = named.tabled.iter().map(|tabled| tabled.table.key.clone()).collect();
        let mut summary = Summary { packs: uses.len() as u64, ..Summary::default() };
        let (mut packs, mut left) = (Vec::new(), HashSet::new());
        for mut used in uses {
            let (needed, key) = (used.needed(), listed::key(used.pack.key));
            let is_first = header.start.contains(&used.pack.key) && !of_tables.contains(&key);
            if !is_first && part(needed, used.pack.bytes) < below {
                summary.left += 1;
                summary.left_bytes += used.pack.bytes;
                summary.needed_bytes += needed;
                left.insert(key);
            }
            packs.push(used.pack);
        }
        Ok(Self { base, named, tables, packs, left, of_tables, summary })
    }

    /// What is to be done.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Copies what is needed, and writes the new list.
    ///
    /// Nothing is written to it before all content is stored, and an error says that it is not whole.
    ///
    /// # Errors
    /// [`RepackError`].
    pub async fn carry_out(
        self,
        stors: &Arc<Mirror>,
        created: Option<String>,
        flist: impl Write + Send + 'static,
        progress: &Progress,
    ) -> Result<Summary, RepackError> {
        progress.bytes_found.store(self.summary.needed_bytes, Ordering::Relaxed);
        let (packs, moved) = self.copy_chunks(stors, progress).await?;
        let (table_packs, tables) = self.write_tables(stors, &moved, progress).await?;
        let mut summary = self.summary;
        for pack in packs.listed().chain(table_packs.listed()) {
            summary.new_packs += 1;
            summary.new_bytes += pack.bytes;
        }
        let mut entries = self.base.index().entries().collect::<Result<Vec<_>, _>>()?;
        for entry in &mut entries {
            relocate(entry, &moved, &tables);
        }
        let header = self.header(created, &self.named_by(&entries), &packs, &table_packs);
        let first = &**stors.first();
        let lacking = pack::rely_on(To::One(first), header.packs.iter().map(|pack| pack.key)).await?;
        if let Some(pack) = header.packs.iter().find(|pack| lacking.everywhere.contains(&pack.key)) {
            return Err(RepackError::Gone { pack: listed::key(pack.key), stor: first.name().to_owned() });
        }
        let sealing = self.base.sealing().cloned();
        let write = move || pack::write(entries, flist, Dialect::V2, &header, sealing.as_ref());
        tokio::task::spawn_blocking(write).await.expect("listing does not panic")?;
        Ok(summary)
    }

    /// Copies chunks into new packs: small files first, then the chunks of large ones, in the order of the list.
    async fn copy_chunks(
        &self,
        stors: &Arc<Mirror>,
        progress: &Progress,
    ) -> Result<(StoredPacks, Moved), RepackError> {
        let singles = self.named.pieces.iter().map(|piece| (&piece.chunk, piece.node));
        let of_large = self.named.tabled.iter().zip(&self.tables);
        let of_large = of_large.flat_map(|(tabled, chunks)| chunks.iter().map(|chunk| (chunk, tabled.node)));
        self.copy(stors, singles.chain(of_large), progress).await
    }

    /// Copies those of these chunks that are in packs to be left, each once.
    async fn copy(
        &self,
        stors: &Arc<Mirror>,
        chunks: impl Iterator<Item = (&Chunk, Node)>,
        progress: &Progress,
    ) -> Result<(StoredPacks, Moved), RepackError> {
        let (mut moving, mut nodes, mut met) = (Vec::new(), Vec::new(), HashSet::new());
        for (chunk, node) in chunks {
            if self.left.contains(&chunk.key)
                && bytes_of(chunk).is_some_and(|bytes| met.insert((bytes, chunk.length())))
            {
                moving.push(chunk.clone());
                nodes.push(node);
            }
        }
        let moving: Arc<[Chunk]> = moving.into();
        let (mut packs, mut places) = (NewPacks::new(&**stors.first()), Vec::new());
        let mut fetched = std::pin::pin!(fetch::verified(stors, moving.clone()));
        while let Some((at, fetched)) = fetched.next().await {
            let stored = fetched.map_err(|error| RepackError::Chunk {
                path: self.base.path(nodes[at]),
                object: moving[at].key.clone(),
                reason: error.to_string(),
            })?;
            places.push(packs.add(&stored).await?);
            progress.bytes_done.fetch_add(stored.len() as u64, Ordering::Relaxed);
        }
        let packs = packs.finish().await?;
        let old = moving.iter().filter_map(bytes_of);
        let moved = old.zip(places.into_iter().map(|place| packs.part(place))).collect();
        Ok((packs, moved))
    }

    /// Writes the tables anew that name chunks which were moved, and copies those that are in packs to be left; returns where the tables
    /// are that have another place, by the old one.
    async fn write_tables(
        &self,
        stors: &Arc<Mirror>,
        moved: &Moved,
        progress: &Progress,
    ) -> Result<(StoredPacks, HashMap<Bytes, Table>), RepackError> {
        let secret = stors.secret().cloned();
        let (mut packs, mut written, mut met) = (NewPacks::new(&**stors.first()), Vec::new(), HashSet::new());
        for (tabled, chunks) in self.named.tabled.iter().zip(&self.tables) {
            let Some(old) = bytes_of(&tabled.table) else { continue };
            let is_left = self.left.contains(&tabled.table.key);
            if !met.insert(old.clone()) {
                continue;
            }
            let mut chunks = chunks.to_vec();
            let mut is_changed = false;
            for chunk in &mut chunks {
                if let Some((key, part)) = bytes_of(chunk).and_then(|bytes| moved.get(&bytes)) {
                    (chunk.key, chunk.part) = (key.clone(), Some(part.clone()));
                    is_changed = true;
                }
            }
            if !is_changed && !is_left {
                continue;
            }
            let plain =
                table::write(&chunks).ok_or_else(|| RepackError::Unlistable(self.base.path(tabled.node)))?;
            let (sha256, length) = (Sha256::digest(&plain).into(), plain.len() as u64);
            let stored = codec::encode(&plain, Compression::default(), secret.as_ref());
            if is_left {
                progress.bytes_done.fetch_add(old.2 - old.1, Ordering::Relaxed);
            }
            written.push((old, sha256, length, packs.add(&stored).await?));
        }
        let packs = packs.finish().await?;
        let tables = written.into_iter().map(|(old, sha256, length, at)| {
            let (key, part) = packs.part(at);
            (old, Table { sha256, length, at: place(&key, &part) })
        });
        let tables = tables.collect();
        Ok((packs, tables))
    }

    /// The old packs that the new list names, itself or by its tables.
    fn named_by(&self, entries: &[Entry]) -> HashSet<ObjectKey> {
        let itself = entries.iter().filter_map(|entry| match entry.content? {
            Listed::Pack { at, .. } => Some(at.pack),
            Listed::Chunks { table, .. } => Some(table.at.pack),
            Listed::V1(_) | Listed::Object { .. } => None,
        });
        let by_tables = self.tables.iter().flat_map(|chunks| chunks.iter());
        let by_tables = by_tables.filter(|chunk| !self.left.contains(&chunk.key));
        itself.chain(by_tables.filter_map(|chunk| chunk.key.as_str().parse().ok())).collect()
    }

    /// The header of the new list: that of the old one, with other packs.
    fn header(
        &self,
        created: Option<String>,
        named_still: &HashSet<ObjectKey>,
        packs: &StoredPacks,
        tables: &StoredPacks,
    ) -> Header {
        let old = self.base.index().header();
        // A pack of tables may be named no more because its tables were written anew.
        let is_kept = |key: &ObjectKey| named_still.contains(key);
        let mut named: Vec<Pack> = Vec::new();
        let mut met = HashSet::new();
        let kept = self.packs.iter().filter(|pack| is_kept(&pack.key)).copied();
        for pack in kept.chain(packs.listed()).chain(tables.listed()) {
            if met.insert(pack.key) {
                named.push(pack);
            }
        }
        let mut start: Vec<ObjectKey> = old.start.iter().copied().filter(is_kept).collect();
        if old.start.iter().any(|key| self.of_tables.contains(&listed::key(*key))) {
            start.extend(tables.listed().map(|pack| pack.key));
        }
        let mut met = HashSet::new();
        start.retain(|key| met.insert(*key));
        Header {
            name: old.name.clone(),
            version: old.version.map(|version| version.saturating_add(1)),
            created,
            packs: named,
            start,
            ancestors: ancestors(self.base, Vec::new()),
        }
    }
}

/// Writes down where the content of an entry is now.
fn relocate(entry: &mut Entry, moved: &Moved, tables: &HashMap<Bytes, Table>) {
    let old = |at: &Place| (listed::key(at.pack), at.offset, at.offset.saturating_add(at.stored));
    match &mut entry.content {
        Some(Listed::Pack { at, .. }) => {
            if let Some((key, part)) = moved.get(&old(at)) {
                *at = place(key, part);
            }
        }
        Some(Listed::Chunks { table, .. }) => {
            if let Some(new) = tables.get(&old(&table.at)) {
                *table = *new;
            }
        }
        Some(Listed::V1(_) | Listed::Object { .. }) | None => {}
    }
}

/// The part of a pack that is needed.
#[allow(clippy::cast_precision_loss)] // Nobody names a share that exactly.
fn part(needed: u64, bytes: u64) -> f64 {
    needed as f64 / bytes.max(1) as f64
}

#[cfg(test)]
mod tests;
