//! A flist against a stor: whether all content that it names is there, and right.
//!
//! - *Always*: every object is there, a pack is as long as it should be, and every chunk table is what the list names, and covers its file.
//! - *A sample*: of the chunks, chosen at random, each is fetched and decoded to its digest.
//! - *In full*: all of them; packs are read once from beginning to end, and have to be what their names say, too.
//!
//! The digest of a whole file that is several chunks is not computed: the chunks are those of a table with the digest that the list names.
//!
//! Memory is bounded by what the list names (some hundred bytes a chunk), not by its content.

mod contents;
mod problem;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_flist::{Corrupt, Node};
use aysfs_store::{Chunk, Fault, Key, Mirror, Store, StoreError};
use futures::{StreamExt, stream};

pub use self::problem::{Flaw, Problem};
use crate::base::{Base, BaseError};
use crate::named::{Named, Piece};
use crate::{fetch, listed};

/// How many objects a stor is asked about at once.
const ASKED: usize = 1000;

/// How many packs are asked for their last byte, and for one behind it, at the same time.
const LENGTHS_AT_ONCE: usize = 16;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Depth {
    /// At what is there.
    Presence,
    /// At this share of the content, too.
    Sample {
        /// Of 100.
        percent: f64,
        /// The same one chooses the same content again.
        seed: u64,
    },
    /// At all content.
    Full,
}

/// How far it is; read by whoever shows it, while [`fsck`] runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Steps that are known of: objects to ask for, and stored bytes to read.
    pub objects_found: AtomicU64,
    /// Objects that were asked for.
    pub objects_done: AtomicU64,
    /// Stored bytes to be read.
    pub bytes_found: AtomicU64,
    /// Those that were.
    pub bytes_done: AtomicU64,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files with content.
    pub files: u64,
    /// Objects that they are in.
    pub objects: u64,
    /// Different chunks, as far as they are known.
    pub chunks: u64,
    /// Those that were decoded.
    pub verified: u64,
    /// What is wrong.
    pub problems: u64,
}

/// Why it could not be looked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FsckError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error("cannot ask the stor what it has")]
    Store(#[from] StoreError),
}

impl From<Corrupt> for FsckError {
    fn from(error: Corrupt) -> Self {
        Self::Base(error.into())
    }
}

/// An object, and what of it is needed.
#[derive(Debug)]
struct Object {
    key: Key,
    /// Of a pack.
    length: Option<u64>,
    pieces: Vec<Piece>,
    /// Files whose tables are in it.
    tables: Vec<Node>,
}

/// The objects that a list names, in the order in which it does.
#[derive(Debug, Default)]
struct Objects {
    all: Vec<Object>,
    positions: HashMap<Key, usize>,
}

impl Objects {
    fn of(&mut self, key: &Key, length: Option<u64>) -> &mut Object {
        let position = *self.positions.entry(key.clone()).or_insert_with(|| {
            self.all.push(Object { key: key.clone(), length: None, pieces: Vec::new(), tables: Vec::new() });
            self.all.len() - 1
        });
        let object = &mut self.all[position];
        object.length = object.length.max(length);
        object
    }

    fn of_chunk(&mut self, chunk: &Chunk) -> &mut Object {
        self.of(&chunk.key, chunk.part.as_ref().map(|part| part.pack))
    }
}

/// Looks at what `base` names in the first of `stors`, and shows `report` what is wrong, as it is found.
///
/// # Errors
/// [`FsckError`] if it could not be looked at all; whatever is wrong with single objects is reported.
pub async fn fsck(
    base: &Base,
    stors: &Arc<Mirror>,
    depth: Depth,
    progress: &Progress,
    mut report: impl FnMut(Problem),
) -> Result<Summary, FsckError> {
    let mut summary = Summary::default();
    let mut report = |problem: Problem| {
        summary.problems += 1;
        report(problem);
    };
    let named = Named::by(base)?;
    let files = (named.pieces.len() + named.tabled.len()) as u64;
    let mut objects = Objects::default();
    for pack in &base.index().header().packs {
        objects.of(&listed::key(pack.key), Some(pack.bytes));
    }
    for tabled in &named.tabled {
        objects.of_chunk(&tabled.table).tables.push(tabled.node);
    }
    let mut flawed_tables = Vec::new();
    named
        .read_tables(stors, |tabled, chunks| match chunks {
            Ok(chunks) => {
                for chunk in &*chunks {
                    let piece = Piece { chunk: chunk.clone(), node: tabled.node };
                    objects.of_chunk(chunk).pieces.push(piece);
                }
            }
            Err(error) => flawed_tables.push((tabled.table.key.clone(), tabled.node, error)),
        })
        .await;
    for piece in named.pieces {
        objects.of_chunk(&piece.chunk).pieces.push(piece);
    }
    let Objects { all: mut objects, .. } = objects;
    let all_objects = objects.len() as u64;
    objects.iter_mut().for_each(Object::sort);
    let chunks = objects.iter().map(|object| object.chunks().count() as u64).sum();

    progress.objects_found.store(2 * all_objects, Ordering::Relaxed);
    let missing = presence(stors, objects, progress).await?;
    let Presence { there, missing } = missing;
    for (key, node, error) in flawed_tables {
        // That the pack is missing is said once, for all of them.
        if !missing.iter().any(|object| object.key == key) {
            report(Problem::new(base, &key, [node], Flaw::Table(error.into())));
        }
    }
    for object in &missing {
        report(Problem::new(base, &object.key, object.nodes(), Flaw::Missing));
    }
    let objects = lengths(base, stors, there, progress, &mut report).await;
    let verified = match depth {
        Depth::Presence => 0,
        Depth::Sample { percent, seed } => {
            contents::sample(base, stors, objects, percent, seed, progress, &mut report).await
        }
        Depth::Full => contents::full(base, stors, objects, progress, &mut report).await,
    };
    Ok(Summary { files, objects: all_objects, chunks, verified, ..summary })
}

impl Object {
    /// Sorts the pieces by where they are.
    fn sort(&mut self) {
        self.pieces.sort_by_key(|piece| (place(&piece.chunk), digest(&piece.chunk)));
    }

    /// The different chunks, and all pieces that are the same one; they are sorted.
    fn chunks(&self) -> impl Iterator<Item = &[Piece]> {
        let key = |piece: &Piece| (place(&piece.chunk), digest(&piece.chunk));
        self.pieces.chunk_by(move |one, other| key(one) == key(other))
    }

    fn nodes(&self) -> impl Iterator<Item = Node> {
        self.pieces.iter().map(|piece| piece.node).chain(self.tables.iter().copied())
    }
}

fn place(chunk: &Chunk) -> Option<(u64, u64)> {
    chunk.part.as_ref().map(|part| (part.range.start, part.range.end))
}

fn digest(chunk: &Chunk) -> ([u8; 32], u64) {
    let digest = match chunk.check {
        aysfs_store::Check::Sha256(digest) => digest,
        aysfs_store::Check::V1(md5) => {
            let mut digest = [0; 32];
            digest[..16].copy_from_slice(&md5);
            digest
        }
    };
    (digest, chunk.length())
}

/// What is there, and what is not.
struct Presence {
    there: Vec<Object>,
    missing: Vec<Object>,
}

async fn presence(stors: &Mirror, objects: Vec<Object>, progress: &Progress) -> Result<Presence, StoreError> {
    let mut answers = Vec::with_capacity(objects.len());
    for some in objects.chunks(ASKED) {
        let keys: Vec<Key> = some.iter().map(|object| object.key.clone()).collect();
        answers.extend(stors.first().has(&keys).await?);
        progress.objects_done.fetch_add(keys.len() as u64, Ordering::Relaxed);
    }
    let (there, missing): (Vec<_>, Vec<_>) = objects.into_iter().zip(answers).partition(|(_, there)| *there);
    let objects = |some: Vec<(Object, bool)>| some.into_iter().map(|(object, _)| object).collect();
    Ok(Presence { there: objects(there), missing: objects(missing) })
}

/// Reports the packs that are too short or too long; returns the others, and all objects that are no packs.
async fn lengths(
    base: &Base,
    stors: &Arc<Mirror>,
    objects: Vec<Object>,
    progress: &Progress,
    report: &mut impl FnMut(Problem),
) -> Vec<Object> {
    let checked = stream::iter(objects).map(|object| async move {
        let flaw = match object.length.filter(|length| *length > 0) {
            Some(length) => length_flaw(&**stors.first(), &object.key, length).await,
            None => None,
        };
        progress.objects_done.fetch_add(1, Ordering::Relaxed);
        (object, flaw)
    });
    let checked: Vec<_> = checked.buffered(LENGTHS_AT_ONCE).collect().await;
    let mut right = Vec::new();
    for (object, flaw) in checked {
        match flaw {
            Some(flaw) => report(Problem::new(base, &object.key, object.nodes(), flaw)),
            None => right.push(object),
        }
    }
    right
}

/// What is wrong with the length of a pack: there has to be a last byte, and nothing behind it.
async fn length_flaw(stor: &dyn Store, key: &Key, length: u64) -> Option<Flaw> {
    let refused = |error: &StoreError| matches!(error.fault, Fault::Refused(_));
    match fetch::part(stor, key, Some(length - 1..length)).await {
        Ok(_) => {}
        Err(error) if refused(&error) => return Some(Flaw::Short(length)),
        Err(error) => return Some(Flaw::Fetch(error)),
    }
    match fetch::part(stor, key, Some(length..length.saturating_add(1))).await {
        Ok(_) => Some(Flaw::Long(length)),
        Err(error) if refused(&error) => None,
        Err(error) => Some(Flaw::Fetch(error)),
    }
}

#[cfg(test)]
mod tests;
