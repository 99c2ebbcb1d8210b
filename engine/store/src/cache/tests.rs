//! The cache against stors that behave, and stors that do not.

mod cleaning;
mod directory;
mod faults;
mod lending;
mod packed;
mod reading;
mod speed;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use sha2::Sha256;
use tempfile::TempDir;

use super::{Boot, Cache, CacheOptions, CachedFile};
use crate::codec::{self, Compression};
use crate::fault::{FaultStore, Trouble};
use crate::{Chunk, Content, ContentId, Key, MemStore, Mirror, Store};

/// A cache in a directory of its own, and stors to fetch from.
struct Bench {
    directory: TempDir,
    cache: Arc<Cache>,
    stors: Vec<Stor>,
    sources: Arc<Mirror>,
}

impl Bench {
    fn new(stors: usize) -> Self {
        Self::with(stors, options())
    }

    fn with(stors: usize, options: CacheOptions) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(&directory.path().join("cache"), options).expect("a cache");
        let stors: Vec<_> = (0..stors).map(|n| Stor::new(&format!("stor{n}"))).collect();
        let mut members = stors.iter().map(|stor| stor.faults.clone() as Arc<dyn Store>);
        let sources = Arc::new(Mirror::new(members.next().expect("a stor"), members));
        Self { directory, cache, stors, sources }
    }

    fn stor(&self) -> &Stor {
        &self.stors[0]
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, content: &Content) -> CachedFile {
        self.cache.file(content, &self.sources)
    }

    /// Opens the directory again, as a process that starts anew does.
    fn restart(&mut self, options: CacheOptions) {
        self.cache = Cache::open(&self.path().join("cache"), options).expect("a cache");
    }

    /// Where a content is in the directory.
    fn published(&self, content: &Content) -> std::path::PathBuf {
        let name = content.id.to_string();
        self.path().join("cache").join(&name[..2]).join(name)
    }

    /// The names of all files in the directory.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in std::fs::read_dir(self.path().join("cache")).expect("the cache") {
            for file in std::fs::read_dir(folder.expect("an entry").path()).expect("a directory") {
                names.push(file.expect("an entry").file_name().into_string().expect("ASCII"));
            }
        }
        names
    }
}

/// A stor in memory that fails as it is told.
struct Stor {
    objects: Arc<MemStore>,
    faults: Arc<FaultStore>,
}

impl Stor {
    fn new(name: &str) -> Self {
        let objects = Arc::new(MemStore::named(name));
        Self { faults: Arc::new(FaultStore::new(objects.clone())), objects }
    }

    /// Has an object from now on, and gives it without trouble.
    fn give(&self, key: &Key, body: &[u8]) {
        self.objects.insert(key.clone(), body.to_vec());
        self.faults.set_for(key, Trouble::None);
    }

    /// Has an object from now on, and answers with trouble when it is asked for it.
    fn give_with(&self, key: &Key, body: &[u8], trouble: Trouble) {
        self.give(key, body);
        self.faults.set_for(key, trouble);
    }

    /// How often an object was asked for.
    fn asked(&self, key: &Key) -> usize {
        self.faults.calls(key).get
    }
}

fn options() -> CacheOptions {
    CacheOptions { boot: Boot::with_id("first"), ..CacheOptions::default() }
}

fn after_reboot() -> CacheOptions {
    CacheOptions { boot: Boot::with_id("second"), ..CacheOptions::default() }
}

fn sha256(plain: &[u8]) -> [u8; 32] {
    Sha256::digest(plain).into()
}

fn md5(plain: &[u8]) -> [u8; 16] {
    Md5::digest(plain).into()
}

/// A file that is one object, and its stored form.
fn object(plain: &[u8]) -> (Content, Vec<u8>) {
    let stored = codec::encode(plain, Compression::default(), None);
    let content = Content::object(sha256(plain), plain.len() as u64, Key::sha256(sha256(&stored)));
    (content, stored)
}

/// A file of several chunks, each an object of its own, and their stored forms.
fn chunked(parts: &[&[u8]]) -> (Content, Vec<Vec<u8>>) {
    let mut start = 0;
    let mut chunks = Vec::new();
    let mut bodies = Vec::new();
    for part in parts {
        let (piece, stored) = object(part);
        let plain = start..start + part.len() as u64;
        start = plain.end;
        chunks.push(Chunk { plain, ..piece.chunks[0].clone() });
        bodies.push(stored);
    }
    let id = ContentId::Sha256(sha256(&parts.concat()));
    (Content { id, size: start, chunks: chunks.into(), table: None }, bodies)
}
