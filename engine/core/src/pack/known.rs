//! Which content needs not be stored again, and where it is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Content, ObjectKey, Pack, Table};
use aysfs_store::{Check, Chunk};

/// SHA-256 of plain bytes.
pub(super) type Id = [u8; 32];

/// A stored chunk in one of the packs of this run, or of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The position of the pack in what the run knows.
    pub(super) pack: usize,
    pub(super) offset: u64,
    pub(super) stored: u64,
}

/// What is in the stor before anything is packed.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(super) packs: Vec<Pack>,
    pub(super) chunks: HashMap<Id, Place>,
    /// Whole files that are listed without a place of one chunk, with their sizes.
    pub(super) files: HashMap<Id, (u64, Content)>,
    /// The packs that chunk tables name, by the digest of the table.
    pub(super) in_tables: HashMap<Id, Vec<Pack>>,
    numbers: HashMap<ObjectKey, usize>,
}

impl Known {
    /// The packs that places of what is added may name.
    pub(crate) fn add_packs(&mut self, packs: impl IntoIterator<Item = Pack>) {
        for pack in packs {
            self.number(pack);
        }
    }

    fn number(&mut self, pack: Pack) -> usize {
        let packs = &mut self.packs;
        *self.numbers.entry(pack.key).or_insert_with(|| {
            packs.push(pack);
            packs.len() - 1
        })
    }

    /// A file that a list names. Content of the old system is known by another digest, and of no use.
    pub(crate) fn add(&mut self, content: Content, size: u64) {
        match content {
            Content::V1(_) => {}
            Content::Pack { sha256, at } => {
                if let Some(pack) = self.numbers.get(&at.pack).copied() {
                    self.chunks.insert(sha256, Place { pack, offset: at.offset, stored: at.stored });
                }
            }
            Content::Object { sha256, .. } | Content::Chunks { sha256, .. } => {
                self.files.insert(sha256, (size, content));
            }
        }
    }

    /// A file that a list names, with the chunks that its table names; all in packs that were added, or it is of no use.
    pub(super) fn add_table(&mut self, content: Content, size: u64, table: Table, chunks: &[Chunk]) {
        let place = |chunk: &Chunk| {
            let (Check::Sha256(id), Some(part)) = (chunk.check, &chunk.part) else { return None };
            let pack = *self.numbers.get(&chunk.key.as_str().parse::<ObjectKey>().ok()?)?;
            Some((id, Place { pack, offset: part.range.start, stored: part.range.end - part.range.start }))
        };
        let Some(places) = chunks.iter().map(place).collect::<Option<Vec<_>>>() else { return };
        let packs: BTreeSet<usize> = places.iter().map(|(_, place)| place.pack).collect();
        let packs = packs.into_iter().map(|number| self.packs[number]).collect();
        self.in_tables.insert(table.sha256, packs);
        self.chunks.extend(places);
        self.add(content, size);
    }
}

/// What of it the threads look at that read files, so that they do not compress what is there.
#[derive(Debug)]
pub(super) struct Stock {
    files: HashMap<Id, (u64, Content)>,
    /// Worth a look before they are cut.
    sizes: HashSet<u64>,
    chunks: Mutex<HashMap<Id, Place>>,
}

impl Stock {
    pub(super) fn new(files: HashMap<Id, (u64, Content)>, chunks: HashMap<Id, Place>) -> Self {
        let sizes = files.values().map(|(size, _)| *size).collect();
        Self { files, sizes, chunks: Mutex::new(chunks) }
    }

    /// A whole file with this content.
    pub(super) fn file(&self, id: &Id) -> Option<Content> {
        self.files.get(id).map(|(_, content)| *content)
    }

    /// Whether there is a whole file of this size.
    pub(super) fn has_file_of(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    pub(super) fn chunk(&self, id: &Id) -> Option<Place> {
        self.lock().get(id).copied()
    }

    pub(super) fn add_chunk(&self, id: Id, place: Place) {
        self.lock().insert(id, place);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Place>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
