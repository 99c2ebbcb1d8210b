//! The contract of a stor.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{ETag, Key, StaticName};

/// A place that keeps objects under keys, and named files (published flists) beside them.
///
/// An instance is bound to one namespace. Every call ends within the deadline it was made with (the longest
/// time without a byte arriving or leaving), and calls that can be repeated safely are repeated before they
/// fail with something that may pass. [`Store::get`] is the exception: who reads may have another stor to ask, and
/// decides whether to ask again.
///
/// A stor does not verify what it returns: whoever reads compares digests.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The stor as messages name it: its URL without credentials, and the namespace.
    fn name(&self) -> &str;

    /// The bytes of an object, or `range` of them, as a stream.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if there is no such object; [`Fault::Refused`] for a range that is empty or does not
    /// lie within it. An answer to another range than the one asked for is [`Fault::Protocol`].
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError>;

    /// Keeps an object. Doing it again changes nothing.
    ///
    /// The key fits the body: 64 digits are its SHA-256; 32 are its MD5, or the MD5 of what it decodes to by
    /// brotli. A stor that chooses keys itself returns another key: the object is found under that one.
    ///
    /// # Errors
    /// [`Fault::Refused`] if the key does not fit the body.
    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError>;

    /// Which of these objects are there, in the order asked.
    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError>;

    /// Removes an object; returns whether it was there.
    async fn delete(&self, key: &Key) -> Result<bool, StoreError>;

    /// All objects, in no order. An object that comes or goes meanwhile may be listed or not.
    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError>;

    /// A named file, unless it still is the version `known`.
    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError>;

    /// Replaces a named file, atomically; returns its new version.
    ///
    /// # Errors
    /// [`Fault::Conflict`] if `condition` does not hold; nothing has changed then.
    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError>;
}

/// The bytes of an object as they arrive.
pub struct Body {
    /// How many bytes there will be, if the stor said so. A stream that ends early is an error.
    pub length: Option<u64>,
    /// The bytes.
    pub stream: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A body to send: it can be read again when a call is repeated.
#[derive(Clone, Debug)]
pub enum Upload {
    /// From memory.
    Bytes(Bytes),
    /// A whole local file, read from its start whatever its position.
    File {
        /// The file.
        file: Arc<File>,
        /// Its length in bytes.
        length: u64,
    },
}

impl Upload {
    /// The body's length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }
}

/// The part of an object of `length` bytes that [`Store::get`] was asked for.
pub(crate) fn part_of(range: Option<Range<u64>>, length: u64) -> Result<Range<u64>, Fault> {
    match range {
        None => Ok(0..length),
        Some(range) if range.start < range.end && range.end <= length => Ok(range),
        Some(range) => Err(Fault::Refused(format!("no bytes {range:?} in an object of {length} bytes"))),
    }
}

/// An object that is kept now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key to find it under.
    pub key: Key,
    /// Whether it was not there before.
    pub created: bool,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its stored length in bytes.
    pub size: u64,
    /// When it was put.
    pub created: SystemTime,
}

/// The answer to [`Store::read_named`].
#[derive(Debug)]
pub enum Named {
    /// It still is the version that the caller knows.
    Unchanged,
    /// Its content now, and the version of it.
    Found {
        /// The content.
        body: Body,
        /// Its version.
        etag: ETag,
    },
}

/// What must hold for a named file to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// No file of that name.
    Absent,
    /// It still is this version.
    Version(ETag),
}

/// A failed call: which stor, what it was about, and what went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{stor}: {subject}: {fault}")]
pub struct StoreError {
    /// [`Store::name`].
    pub stor: String,
    /// The key or the name that was asked for.
    pub subject: String,
    /// What went wrong.
    pub fault: Fault,
}

/// What can go wrong with a stor.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No such object or named file.
    #[error("not found")]
    NotFound,
    /// The account may not do this.
    #[error("access denied: check login and passwd of the stor")]
    Denied,
    /// The stor understood and said no.
    #[error("refused: {0}")]
    Refused(String),
    /// The precondition of [`Store::write_named`] does not hold.
    #[error("changed by someone else meanwhile")]
    Conflict,
    /// Not one byte for as long as the deadline allows.
    #[error("no answer within {0:?}")]
    Silent(std::time::Duration),
    /// Cannot be reached, or answers that it cannot serve now.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The stream ended before the announced length.
    #[error("the answer ended early, after {received} of {expected} bytes")]
    Short {
        /// Bytes that arrived.
        received: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// The answer is not one of the protocol.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// The local disk failed.
    #[error("local I/O error: {0}")]
    Local(#[from] io::Error),
}

impl Fault {
    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Unavailable(_) | Self::Short { .. } => true,
            Self::NotFound
            | Self::Denied
            | Self::Refused(_)
            | Self::Conflict
            | Self::Protocol(_)
            | Self::Local(_) => false,
        }
    }
}
