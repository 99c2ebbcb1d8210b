//! New packs, written in the order in which stored chunks are added.

use aysfs_flist::{ObjectKey, Pack, Place};
use aysfs_store::{Key, Part, Store, StoreError, Upload};
use sha2::{Digest, Sha256};

/// The length of a pack, in bytes, unless one chunk is larger.
const TARGET: usize = 16 << 20;

/// Packs on their way to a stor.
pub(super) struct NewPacks<'a> {
    stor: &'a dyn Store,
    open: Vec<u8>,
    stored: Vec<(Key, u64)>,
}

/// Where a chunk is going to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewPlace {
    pack: usize,
    offset: u64,
    stored: u64,
}

/// Packs that are in the stor.
#[derive(Debug, Default)]
pub(super) struct StoredPacks(Vec<(Key, u64)>);

impl<'a> NewPacks<'a> {
    pub(super) fn new(stor: &'a dyn Store) -> Self {
        Self { stor, open: Vec::new(), stored: Vec::new() }
    }

    /// Adds a stored chunk.
    pub(super) async fn add(&mut self, chunk: &[u8]) -> Result<NewPlace, StoreError> {
        if !self.open.is_empty() && self.open.len() + chunk.len() > TARGET {
            self.store().await?;
        }
        let place =
            NewPlace { pack: self.stored.len(), offset: self.open.len() as u64, stored: chunk.len() as u64 };
        self.open.extend_from_slice(chunk);
        Ok(place)
    }

    /// Stores what is left.
    pub(super) async fn finish(mut self) -> Result<StoredPacks, StoreError> {
        if !self.open.is_empty() {
            self.store().await?;
        }
        Ok(StoredPacks(self.stored))
    }

    async fn store(&mut self) -> Result<(), StoreError> {
        let pack = std::mem::take(&mut self.open);
        let length = pack.len() as u64;
        let hash = tokio::task::spawn_blocking(move || (Key::sha256(Sha256::digest(&pack).into()), pack));
        let (key, pack) = hash.await.expect("a digest does not panic");
        // A repack that was interrupted has made the same ones.
        let key = match self.stor.has(std::slice::from_ref(&key)).await?.contains(&true) {
            true => key,
            false => self.stor.put(&key, &Upload::Bytes(pack.into())).await?.key,
        };
        self.stored.push((key, length));
        Ok(())
    }
}

impl StoredPacks {
    /// The part of a pack that a chunk has become.
    pub(super) fn part(&self, place: NewPlace) -> (Key, Part) {
        let (key, pack) = &self.0[place.pack];
        (key.clone(), Part { range: place.offset..place.offset + place.stored, pack: *pack })
    }

    /// As a list names them.
    pub(super) fn listed(&self) -> impl Iterator<Item = Pack> {
        self.0.iter().map(|(key, bytes)| Pack { key: object_key(key), bytes: *bytes })
    }
}

/// A place in the words of a list.
pub(super) fn place(key: &Key, part: &Part) -> Place {
    Place { pack: object_key(key), offset: part.range.start, stored: part.range.end - part.range.start }
}

fn object_key(key: &Key) -> ObjectKey {
    key.as_str().parse().expect("keys of stors and of lists are the same digits")
}
