//! What a file is made of, as the cache has to know it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Key;

/// The digest that names a file's content, and its file in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentId {
    /// From a v1 flist: MD5 of the plain file, or of its stored body.
    Md5([u8; 16]),
    /// SHA-256 of the plain file.
    Sha256([u8; 32]),
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Md5(digest) => f.write_str(&hex::encode(digest)),
            Self::Sha256(digest) => f.write_str(&hex::encode(digest)),
        }
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file's content: its id, its length, and the chunks that make it up.
#[derive(Clone, Debug)]
pub struct Content {
    /// Names it.
    pub id: ContentId,
    /// Plain length in bytes.
    pub size: u64,
    /// In order, without gaps; empty only for an empty file, and while they are known to the `table` only.
    pub chunks: Arc<[Chunk]>,
    /// The [chunk table](crate::table), itself a content of one chunk; it is fetched when the file is first read.
    pub table: Option<Arc<Content>>,
}

/// A piece of a file that is fetched, decoded and verified as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where its plain bytes lie in the file.
    pub plain: Range<u64>,
    /// How its bytes are decoded and verified.
    pub check: Check,
    /// The object that holds it.
    pub key: Key,
    /// The part of the object that is this chunk; `None`: all of it.
    pub part: Option<Part>,
}

/// A part of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies in the pack.
    pub range: Range<u64>,
    /// The length of the pack.
    pub pack: u64,
}

impl Chunk {
    /// Its plain length in bytes.
    pub fn length(&self) -> u64 {
        self.plain.end - self.plain.start
    }
}

/// How the stored bytes of a chunk become plain bytes, and what proves that they are the right ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A v1 object: brotli or plain; MD5 of the stored or of the plain bytes is this.
    V1([u8; 16]),
    /// A stored chunk (one codec byte, then the payload); SHA-256 of its plain bytes is this.
    Sha256([u8; 32]),
}

impl Content {
    /// A file of a v1 flist: one object, under its hash.
    pub fn v1(hash: [u8; 16], size: u64) -> Self {
        Self::whole(ContentId::Md5(hash), size, Check::V1(hash), Key::md5(hash))
    }

    /// A file that is one stored chunk, an object of its own.
    pub fn object(sha256: [u8; 32], size: u64, key: Key) -> Self {
        Self::whole(ContentId::Sha256(sha256), size, Check::Sha256(sha256), key)
    }

    /// A file that is one stored chunk of a pack.
    pub fn packed(sha256: [u8; 32], size: u64, key: Key, part: Part) -> Self {
        let chunk = Chunk { plain: 0..size, check: Check::Sha256(sha256), key, part: Some(part) };
        Self { id: ContentId::Sha256(sha256), size, chunks: [chunk].into(), table: None }
    }

    /// A file of several chunks, which this table lists.
    pub fn listed(sha256: [u8; 32], size: u64, table: Content) -> Self {
        Self { id: ContentId::Sha256(sha256), size, chunks: [].into(), table: Some(table.into()) }
    }

    fn whole(id: ContentId, size: u64, check: Check, key: Key) -> Self {
        Self { id, size, chunks: [Chunk { plain: 0..size, check, key, part: None }].into(), table: None }
    }
}
