//! Which content needs not be stored again, and where it is.
//!
//! What a run has stored itself is known for a while only: of trees with more chunks than [`GENERATION`], what comes again much later is
//! stored again. So the memory for it has a bound, whatever is packed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Content, ObjectKey, Pack, Table};
use aysfs_store::{Check, Chunk};

/// SHA-256 of plain bytes.
pub(super) type Id = [u8; 32];

/// How many chunks are known in one of two generations: in all, those that a run has met last, and up to as many more. Both take
/// 47 MB. Half a million chunks are 500 GB of large files.
const GENERATION: usize = (1 << 19) / 8 * 7;

/// A stored chunk in one of the packs of this run, or of an earlier one. Small, since there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The position of the pack in what the run knows.
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) stored: u32,
}

impl Place {
    /// `None`: in a pack of another program, which is too long.
    pub(super) fn new(pack: u32, offset: u64, stored: u64) -> Option<Self> {
        Some(Self { pack, offset: offset.try_into().ok()?, stored: stored.try_into().ok()? })
    }
}

/// What is in the stor before anything is packed.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(super) packs: Vec<Pack>,
    /// Of those with the same name, the last one counts.
    pub(super) chunks: Vec<(Id, Place)>,
    /// Whole files that are listed without a place of one chunk, with their sizes.
    pub(super) files: HashMap<Id, (u64, Content)>,
    /// The packs that chunk tables name, by the digest of the table.
    pub(super) in_tables: HashMap<Id, Vec<Pack>>,
    numbers: HashMap<ObjectKey, u32>,
}

impl Known {
    /// The packs that places of what is added may name.
    pub(crate) fn add_packs(&mut self, packs: impl IntoIterator<Item = Pack>) {
        for pack in packs {
            self.number(pack);
        }
    }

    fn number(&mut self, pack: Pack) -> u32 {
        let packs = &mut self.packs;
        *self.numbers.entry(pack.key).or_insert_with(|| {
            packs.push(pack);
            number(packs.len() - 1)
        })
    }

    /// A file that a list names. Content of the old system is known by another digest, and of no use.
    pub(crate) fn add(&mut self, content: Content, size: u64) {
        match content {
            Content::V1(_) => {}
            Content::Pack { sha256, at } => {
                let pack = self.numbers.get(&at.pack);
                let place = pack.and_then(|pack| Place::new(*pack, at.offset, at.stored));
                self.chunks.extend(place.map(|place| (sha256, place)));
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
            let stored = part.range.end - part.range.start;
            Some((id, Place::new(pack, part.range.start, stored)?))
        };
        let Some(places) = chunks.iter().map(place).collect::<Option<Vec<_>>>() else { return };
        let packs: BTreeSet<u32> = places.iter().map(|(_, place)| place.pack).collect();
        let packs = packs.into_iter().map(|number| self.packs[number as usize]).collect();
        self.in_tables.insert(table.sha256, packs);
        self.chunks.extend(places);
        self.add(content, size);
    }
}

/// The number of a pack.
pub(super) fn number(position: usize) -> u32 {
    position.try_into().expect("there are fewer packs than bytes in one")
}

/// What is known while files are packed. Threads that read files look at it, so that they do not compress what is there; what they
/// see changes nothing, so that it does not matter when they look.
#[derive(Debug)]
pub(super) struct Stock {
    files: HashMap<Id, (u64, Content)>,
    /// Worth a look before they are cut.
    sizes: HashSet<u64>,
    /// Chunks that were there before, sorted.
    old: Vec<(Id, Place)>,
    recent: Mutex<Recent>,
}

impl Stock {
    pub(super) fn new(files: HashMap<Id, (u64, Content)>, mut chunks: Vec<(Id, Place)>) -> Self {
        let sizes = files.values().map(|(size, _)| *size).collect();
        chunks.reverse();
        chunks.sort_by_key(|(id, _)| *id);
        chunks.dedup_by_key(|(id, _)| *id);
        Self { files, sizes, old: chunks, recent: Mutex::new(Recent::new(GENERATION)) }
    }

    /// A whole file with this content.
    pub(super) fn file(&self, id: &Id) -> Option<Content> {
        self.files.get(id).map(|(_, content)| *content)
    }

    /// Whether there is a whole file of this size.
    pub(super) fn has_file_of(&self, size: u64) -> bool {
        self.sizes.contains(&size)
    }

    /// Whether a chunk will be known for as long as it takes to get to it: fewer chunks are on their way than a generation has.
    pub(super) fn has_chunk(&self, id: &Id) -> bool {
        self.old(id).is_some() || self.lock().newer.contains_key(id)
    }

    /// Where a chunk is. It is for whoever packs, in the order of the files: what is asked for is remembered.
    pub(super) fn chunk(&self, id: &Id) -> Option<Place> {
        self.old(id).or_else(|| self.lock().find(id))
    }

    pub(super) fn add_chunk(&self, id: Id, place: Place) {
        self.lock().insert(id, place);
    }

    fn old(&self, id: &Id) -> Option<Place> {
        self.old.binary_search_by_key(id, |(id, _)| *id).ok().map(|at| self.old[at].1)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The chunks that were met last.
#[derive(Debug)]
struct Recent {
    newer: HashMap<Id, Place>,
    /// Forgotten once the newer generation is full.
    older: HashMap<Id, Place>,
    generation: usize,
}

impl Recent {
    fn new(generation: usize) -> Self {
        Self { newer: HashMap::new(), older: HashMap::new(), generation }
    }

    fn find(&mut self, id: &Id) -> Option<Place> {
        if let Some(place) = self.newer.get(id) {
            return Some(*place);
        }
        let place = *self.older.get(id)?;
        self.insert(*id, place);
        Some(place)
    }

    fn insert(&mut self, id: Id, place: Place) {
        if self.newer.len() == self.generation {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.newer.insert(id, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32) -> Place {
        Place { pack: 0, offset, stored: 1 }
    }

    #[test]
    fn what_is_met_again_is_remembered_and_the_rest_forgotten() {
        let mut recent = Recent::new(3);
        for number in 0..20 {
            recent.insert([number; 32], place(number.into()));
            assert_eq!(recent.find(&[0; 32]), Some(place(0)), "after {number}");
            assert!(recent.newer.len() <= 3 && recent.older.len() <= 3);
        }
        assert_eq!(recent.find(&[19; 32]), Some(place(19)));
        assert_eq!(recent.find(&[10; 32]), None);
    }

    #[test]
    fn of_what_is_known_twice_the_last_counts() {
        let chunks = vec![([1; 32], place(1)), ([0; 32], place(2)), ([1; 32], place(3))];
        let stock = Stock::new(HashMap::new(), chunks);
        assert_eq!(stock.chunk(&[1; 32]), Some(place(3)));
        assert!(stock.has_chunk(&[0; 32]) && !stock.has_chunk(&[2; 32]));
    }
}
