//! The content of one file as an object.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use aysfs_flist::{Content, Dialect, Entry, Kind, ObjectKey};
use aysfs_store::codec::{self, Compression};
use aysfs_store::{Key, Upload};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::{PackError, scan};

/// Up to this length, plain and stored bytes are kept in memory.
const IN_MEMORY: u64 = 1 << 20;

/// How often a file that changes while it is read is read again.
const ATTEMPTS: u32 = 3;

/// Brotli for the clients of the old system: beyond this quality it is several times slower for a few per cent.
const V1_QUALITY: u32 = 5;

/// The form of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Brotli, under the MD5 of the plain file.
    V1,
    /// One stored chunk, under its SHA-256.
    V2,
}

impl Form {
    pub(super) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::V1Short | Dialect::V1Long => Self::V1,
            Dialect::V2 => Self::V2,
        }
    }

    /// Whether the stor has to keep something for this entry. A v1 client fetches empty files too.
    pub(super) fn needs_object(self, entry: &Entry) -> bool {
        entry.kind == Kind::Regular && entry.link.is_none() && (entry.size > 0 || self == Self::V1)
    }
}

/// What a file holds, as of the moment it was read.
#[derive(Debug)]
pub(super) struct FileContent {
    content: Content,
    meta: Metadata,
}

impl FileContent {
    /// Plain length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.meta.size()
    }

    /// A stor that chooses keys itself keeps the object under this one.
    pub(super) fn found_under(&mut self, chosen: &Key) {
        match (&mut self.content, chosen.as_str().parse()) {
            // Either MD5 will do for a v1 hash: of the plain file, or of its stored body.
            (Content::V1(hash), Ok(ObjectKey::Md5(md5))) => *hash = md5,
            (Content::Object { key, .. }, Ok(chosen)) => *key = chosen,
            _ => {}
        }
    }

    /// Notes in `entry` where the content is. If the file has changed since it was found, the entry follows it.
    pub(super) fn describe(self, entry: &mut Entry) {
        if entry.size != self.size() {
            entry.data = None;
        }
        entry.size = self.size();
        (entry.mtime, entry.ctime) = scan::times(&self.meta);
        entry.content = Some(self.content);
    }
}

/// An object that is ready to be sent.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: FileContent,
    pub(super) key: Key,
    pub(super) upload: Upload,
}

/// Reads the file at `path` and makes its object; `spool` is a directory for what is too large for memory.
pub(super) fn encode(path: &Path, form: Form, spool: &Path) -> Result<Object, PackError> {
    for _ in 0..ATTEMPTS {
        let failed = |source| PackError::Read { path: path.to_owned(), source };
        // The path may lead to something else by now: never follow a link, never wait for a fifo.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        let stored = match form {
            Form::V1 => encode_v1(&file, spool),
            Form::V2 if before.size() <= IN_MEMORY => encode_small(&file),
            Form::V2 => encode_large(&mut file, spool),
        };
        let stored = stored.map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        let version = |meta: &Metadata| (meta.size(), scan::times(meta));
        if version(&before) == version(&after) && stored.size == after.size() && after.is_file() {
            let file = FileContent { content: stored.content, meta: after };
            return Ok(Object { file, key: stored.key, upload: stored.upload });
        }
    }
    Err(PackError::Changing(path.to_owned()))
}

struct Stored {
    /// Plain length: how much was read.
    size: u64,
    content: Content,
    key: Key,
    upload: Upload,
}

fn encode_small(file: &File) -> io::Result<Stored> {
    let mut plain = Vec::new();
    // One byte more than there should be shows that the file has grown.
    file.take(IN_MEMORY + 1).read_to_end(&mut plain)?;
    let stored = codec::encode(&plain, Compression::default());
    let (sha256, key) = (Sha256::digest(&plain).into(), Sha256::digest(&stored).into());
    Ok(Stored::object(plain.len() as u64, sha256, key, Upload::Bytes(stored.into())))
}

fn encode_large(file: &mut File, spool: &Path) -> io::Result<Stored> {
    let mut stored = tempfile::tempfile_in(spool)?;
    let encoded = codec::encode_file(file, &mut stored, Compression::default())?;
    let upload = Upload::File { file: Arc::new(stored), length: encoded.stored };
    Ok(Stored::object(encoded.size, encoded.id, encoded.key, upload))
}

fn encode_v1(file: &File, spool: &Path) -> io::Result<Stored> {
    let (encoded, upload) = if file.metadata()?.size() <= IN_MEMORY {
        let mut stored = Vec::new();
        let encoded = codec::encode_v1(file.take(IN_MEMORY + 1), &mut stored, V1_QUALITY)?;
        (encoded, Upload::Bytes(stored.into()))
    } else {
        let mut stored = tempfile::tempfile_in(spool)?;
        let encoded = codec::encode_v1(file, &mut stored, V1_QUALITY)?;
        (encoded, Upload::File { file: Arc::new(stored), length: encoded.stored })
    };
    Ok(Stored { size: encoded.size, content: Content::V1(encoded.hash), key: Key::md5(encoded.hash), upload })
}

impl Stored {
    fn object(size: u64, sha256: [u8; 32], key: [u8; 32], upload: Upload) -> Self {
        let content = Content::Object { sha256, key: ObjectKey::Sha256(key) };
        Self { size, content, key: Key::sha256(key), upload }
    }
}
