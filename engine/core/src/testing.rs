//! For tests: lists whose packs are made by hand, in a stor in memory that fails on demand.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aysfs_flist::{
    Content as Listed, Dialect, Entry, Header, Index, Kind, ObjectKey, Pack, ParseOptions, Source, Table,
    Writer,
};
use aysfs_store::codec::{self, Compression};
use aysfs_store::crypt::Sealing;
use aysfs_store::fault::FaultStore;
use aysfs_store::{Check, Chunk, Key, MemStore, Mirror, Part, table};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::base::Base;
use crate::listed;

/// A stor, and a place for indexes.
pub(crate) struct Lab {
    dir: TempDir,
    pub(crate) objects: Arc<MemStore>,
    pub(crate) stor: Arc<FaultStore>,
    pub(crate) sealing: Option<Sealing>,
    /// How long packs were when they were made.
    lengths: Mutex<HashMap<Key, u64>>,
}

/// Long before any grace time ends.
pub(crate) fn long_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(1_000_000)
}

/// Bytes that do not repeat, and do not shrink.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

impl Lab {
    pub(crate) fn new() -> Self {
        let objects = Arc::<MemStore>::default();
        let stor = Arc::new(FaultStore::new(objects.clone()));
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            objects,
            stor,
            sealing: None,
            lengths: Mutex::default(),
        }
    }

    pub(crate) fn stors(&self) -> Arc<Mirror> {
        Arc::new(Mirror::new(self.stor.clone(), []).sealed_with(self.sealing.clone()))
    }

    fn encode(&self, plain: &[u8]) -> Vec<u8> {
        codec::encode(plain, Compression::default(), self.sealing.as_ref().map(Sealing::secret))
    }

    /// Keeps these contents in one pack, of long ago.
    pub(crate) fn pack(&self, contents: &[Vec<u8>]) -> Vec<Chunk> {
        let mut pack = Vec::new();
        let mut places: Vec<Range<u64>> = Vec::new();
        for plain in contents {
            let start = pack.len() as u64;
            pack.extend(self.encode(plain));
            places.push(start..pack.len() as u64);
        }
        let (key, length) = (Key::sha256(Sha256::digest(&pack).into()), pack.len() as u64);
        self.objects.insert_at(key.clone(), pack, long_ago());
        self.lengths.lock().expect("not poisoned").insert(key.clone(), length);
        let chunk = |(plain, range): (&Vec<u8>, Range<u64>)| Chunk {
            plain: 0..plain.len() as u64,
            check: Check::Sha256(Sha256::digest(plain).into()),
            key: key.clone(),
            part: Some(Part { range, pack: length }),
        };
        contents.iter().zip(places).map(chunk).collect()
    }

    /// Keeps a content as an object of its own, of long ago.
    pub(crate) fn object(&self, path: &str, plain: &[u8]) -> Entry {
        let stored = self.encode(plain);
        let key: [u8; 32] = Sha256::digest(&stored).into();
        self.objects.insert_at(Key::sha256(key), stored, long_ago());
        let sha256 = Sha256::digest(plain).into();
        entry(path, plain.len() as u64, Listed::Object { sha256, key: ObjectKey::Sha256(key) })
    }

    /// Large files of these chunks, with their tables in one pack.
    pub(crate) fn large(&self, files: &[(&str, Vec<Chunk>)]) -> Vec<Entry> {
        let files: Vec<(&str, Vec<Chunk>)> =
            files.iter().map(|(path, chunks)| (*path, in_order(chunks.clone()))).collect();
        let tables: Vec<Vec<u8>> =
            files.iter().map(|(_, chunks)| table::write(chunks).expect("parts of packs")).collect();
        let packed = self.pack(&tables);
        let entry = |((path, chunks), table): (&(&str, Vec<Chunk>), &Chunk)| {
            let at = place(table);
            let table = Table { sha256: sha256(table), length: table.length(), at };
            let size = chunks.last().map_or(0, |chunk| chunk.plain.end);
            // Nobody has the bytes any more; the tests do not need this digest.
            entry(path, size, Listed::Chunks { sha256: Sha256::digest(path).into(), table })
        };
        files.iter().zip(&packed).map(entry).collect()
    }

    /// A list with these entries, and the packs that they name themselves.
    pub(crate) fn base(&self, entries: &[Entry]) -> Base {
        let packs = entries.iter().filter_map(|entry| match entry.content? {
            Listed::Pack { at, .. } => Some(at.pack),
            Listed::Chunks { table, .. } => Some(table.at.pack),
            Listed::V1(_) | Listed::Object { .. } => None,
        });
        let mut named = Vec::new();
        for key in packs {
            if !named.iter().any(|pack: &Pack| pack.key == key) {
                named.push(Pack { key, bytes: self.length(&listed::key(key)) });
            }
        }
        self.base_with(Header { packs: named, version: Some(7), ..Header::default() }, entries)
    }

    pub(crate) fn base_with(&self, header: Header, entries: &[Entry]) -> Base {
        let mut writer = Writer::new(Vec::new(), Dialect::V2, &header).expect("memory");
        for entry in entries {
            writer.entry(entry).expect("an entry that can be written");
        }
        self.read(&writer.finish().expect("memory"))
    }

    /// The tree of a list that is not sealed.
    pub(crate) fn read(&self, list: &[u8]) -> Base {
        let source = Source::Bytes { name: "test.flist", bytes: list };
        let index = Index::compile(source, &ParseOptions::default(), &self.dir.path().join("index"));
        let base = Base::new(index.expect("a good list")).expect("a tree");
        base.opened_with(self.sealing.clone(), Vec::new())
    }

    fn length(&self, key: &Key) -> u64 {
        self.lengths.lock().expect("not poisoned")[key]
    }

    /// The bytes of an object.
    pub(crate) fn bytes(&self, key: &Key) -> Vec<u8> {
        let bytes = crate::fetch::part(&*self.objects, key, None);
        futures::executor::block_on(bytes).expect("it is there").to_vec()
    }

    /// Has other bytes under the key of an object.
    pub(crate) fn change(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(key);
        change(&mut bytes);
        self.objects.insert_at(key.clone(), bytes, long_ago());
    }
}

fn entry(path: &str, size: u64, content: Listed) -> Entry {
    Entry { size, content: Some(content), ..Entry::new(path, Kind::Regular) }
}

/// A file that is this chunk.
pub(crate) fn small(path: &str, chunk: &Chunk) -> Entry {
    entry(path, chunk.length(), Listed::Pack { sha256: sha256(chunk), at: place(chunk) })
}

/// The same chunks, one behind the other.
fn in_order(mut chunks: Vec<Chunk>) -> Vec<Chunk> {
    let mut at = 0;
    for chunk in &mut chunks {
        chunk.plain = at..at + chunk.length();
        at = chunk.plain.end;
    }
    chunks
}

fn sha256(chunk: &Chunk) -> [u8; 32] {
    match chunk.check {
        Check::Sha256(sha256) => sha256,
        Check::V1(_) => panic!("no chunk of a pack"),
    }
}

fn place(chunk: &Chunk) -> aysfs_flist::Place {
    let part = chunk.part.as_ref().expect("a part of a pack");
    let pack = chunk.key.as_str().parse().expect("a key");
    aysfs_flist::Place { pack, offset: part.range.start, stored: part.range.end - part.range.start }
}
