//! The content of one file as an object.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aysfs_flist::{Content, Dialect, Entry, Kind, ObjectKey};
use aysfs_store::codec::{self, Compression};
use aysfs_store::crypt::Secret;
use aysfs_store::{Key, Upload};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::scan;
use super::upload::UploadError;
use crate::abandoned::WhileWanted;

/// Up to this length, plain and stored bytes are kept in memory.
const IN_MEMORY: u64 = 1 << 20;

/// How often a file that changes while it is read is read again.
const ATTEMPTS: u32 = 3;

/// Brotli for the clients of the old system: beyond this quality it is several times slower for a few per cent.
const V1_QUALITY: u32 = 5;

/// The form of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Brotli, under the MD5 of the plain file.
    V1,
    /// One stored chunk, under its SHA-256.
    V2,
}

impl Form {
    pub(crate) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::V1Short | Dialect::V1Long => Self::V1,
            Dialect::V2 => Self::V2,
        }
    }

    /// Whether the stor has to keep something for this entry, and it does not say yet where. A v1 client fetches empty files
    /// too.
    pub(super) fn needs_object(self, entry: &Entry) -> bool {
        entry.kind == Kind::Regular
            && entry.link.is_none()
            && entry.content.is_none()
            && (entry.size > 0 || self == Self::V1)
    }
}

/// What a file holds, as of the moment it was read.
#[derive(Debug)]
pub(crate) struct FileContent {
    content: Content,
    /// Where it is no hole; `None`: everywhere.
    data: Option<Vec<Range<u64>>>,
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
    pub(crate) fn describe(self, entry: &mut Entry) {
        entry.size = self.size();
        (entry.mtime, entry.ctime) = scan::times(&self.meta);
        entry.content = Some(self.content);
        entry.data = self.data;
    }
}

/// An object that is ready to be sent.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: FileContent,
    pub(super) key: Key,
    pub(super) upload: Upload,
}

/// What is stored to a file through a mapping while the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MappedStores {
    /// Is noticed: dirty pages are written back first, so that the next store to one moves the time of the file.
    Noticed,
    /// May be missed: a flush of the disk for each file would be too much.
    Missed,
}

/// How files are read, and what is made of them.
#[derive(Clone, Debug)]
pub(super) struct Encoding {
    pub(super) form: Form,
    /// How objects of v2 are compressed.
    pub(super) compression: Compression,
    /// What objects of v2 are encrypted with, if they are.
    pub(super) secret: Option<Secret>,
    /// A directory for what is too large for memory.
    pub(super) spool: PathBuf,
    pub(super) mapped_stores: MappedStores,
    /// Set when nobody waits for the objects any more: reading them fails then.
    pub(super) abandoned: Arc<AtomicBool>,
}

/// Reads the file that `open` opens and makes its object; `path` is what messages call it.
pub(super) fn encode(
    path: &Path,
    open: impl Fn() -> io::Result<Option<File>>,
    how: &Encoding,
) -> Result<Object, UploadError> {
    let Encoding { form, compression, secret, spool, mapped_stores, abandoned } = how;
    read_stable(path, open, |file, size| {
        if *mapped_stores == MappedStores::Noticed {
            file.sync_data()?;
        }
        let file = WhileWanted { inner: file, abandoned };
        match form {
            Form::V1 => encode_v1(file, size, spool),
            Form::V2 if size <= IN_MEMORY => encode_small(file, *compression, secret.as_ref()),
            Form::V2 => encode_large(file, *compression, secret.as_ref(), spool),
        }
    })
}

/// Makes an object by `read`, which is given the file and its size, until the file did not change meanwhile.
fn read_stable(
    path: &Path,
    open: impl Fn() -> io::Result<Option<File>>,
    mut read: impl FnMut(&mut File, u64) -> io::Result<Stored>,
) -> Result<Object, UploadError> {
    for _ in 0..ATTEMPTS {
        let failed = |source| UploadError::Read { path: path.to_owned(), source };
        let Some(mut file) = open().map_err(failed)? else { break };
        let before = file.metadata().map_err(failed)?;
        if !before.is_file() {
            break;
        }
        let stored = read(&mut file, before.size()).map_err(failed)?;
        let data = data_segments(&file, &before).map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        let version = |meta: &Metadata| (meta.size(), scan::times(meta));
        if version(&before) == version(&after) && stored.size == after.size() {
            let file = FileContent { content: stored.content, data, meta: after };
            return Ok(Object { file, key: stored.key, upload: stored.upload });
        }
    }
    Err(UploadError::Changing(path.to_owned()))
}

/// Where the data of a sparse file is; `None` if it has no hole.
pub(crate) fn data_segments(file: &File, meta: &Metadata) -> io::Result<Option<Vec<Range<u64>>>> {
    let size = meta.size();
    if meta.blocks() * 512 >= size {
        return Ok(None);
    }
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if start < at {
            segments.push(start..at);
        }
    }
    let whole = matches!(&segments[..], [only] if *only == (0..size));
    Ok((!whole).then_some(segments))
}

struct Stored {
    /// Plain length: how much was read.
    size: u64,
    content: Content,
    key: Key,
    upload: Upload,
}

fn encode_small(file: impl Read, compression: Compression, secret: Option<&Secret>) -> io::Result<Stored> {
    let mut plain = Vec::new();
    // One byte more than there should be shows that the file has grown.
    file.take(IN_MEMORY + 1).read_to_end(&mut plain)?;
    let stored = codec::encode(&plain, compression, secret);
    let (sha256, key) = (Sha256::digest(&plain).into(), Sha256::digest(&stored).into());
    Ok(Stored::object(plain.len() as u64, sha256, key, Upload::Bytes(stored.into())))
}

fn encode_large(
    mut file: impl Read + Seek,
    compression: Compression,
    secret: Option<&Secret>,
    spool: &Path,
) -> io::Result<Stored> {
    let mut stored = tempfile::tempfile_in(spool)?;
    let encoded = codec::encode_file(&mut file, &mut stored, compression, secret)?;
    let upload = Upload::File { file: Arc::new(stored), length: encoded.stored };
    Ok(Stored::object(encoded.size, encoded.id, encoded.key, upload))
}

fn encode_v1(file: impl Read, size: u64, spool: &Path) -> io::Result<Stored> {
    let (encoded, upload) = if size <= IN_MEMORY {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::atomic::Ordering;

    use super::super::upload::open_path;
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, content).expect("written");
        (dir, path)
    }

    fn encoding(form: Form, spool: &Path) -> Encoding {
        let mapped_stores = MappedStores::Noticed;
        Encoding {
            form,
            compression: Compression::default(),
            secret: None,
            spool: spool.into(),
            mapped_stores,
            abandoned: Arc::default(),
        }
    }

    fn append(path: &Path) {
        let mut file = OpenOptions::new().append(true).open(path).expect("there");
        file.write_all(b"+").expect("written");
    }

    #[test]
    fn a_file_that_changes_once_is_read_again() {
        let (_dir, path) = file(b"one");
        let mut reads = 0;
        let object = read_stable(
            &path,
            || open_path(&path),
            |file, _| {
                reads += 1;
                let stored = encode_small(file, Compression::default(), None);
                if reads == 1 {
                    append(&path);
                }
                stored
            },
        );
        let object = object.expect("stable the second time");
        assert_eq!((reads, object.file.size()), (2, 4));
        let Content::Object { sha256, .. } = object.file.content else { panic!("a v2 object") };
        assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(b"one+")));
    }

    #[test]
    fn a_file_that_keeps_changing_is_refused() {
        let (_dir, path) = file(b"one");
        let mut reads = 0;
        let refused = read_stable(
            &path,
            || open_path(&path),
            |file, _| {
                reads += 1;
                append(&path);
                encode_small(file, Compression::default(), None)
            },
        );
        let error = refused.expect_err("never stable");
        assert_eq!(reads, ATTEMPTS);
        assert!(matches!(&error, UploadError::Changing(of) if *of == path), "{error:?}");
    }

    #[test]
    fn a_file_that_only_seems_unchanged_is_refused() {
        let (_dir, path) = file(b"one");
        let shorter = |file: &mut File, _| {
            encode_small(file, Compression::default(), None).map(|stored| Stored { size: 2, ..stored })
        };
        assert!(matches!(read_stable(&path, || open_path(&path), shorter), Err(UploadError::Changing(_))));
    }

    #[test]
    fn what_is_swapped_in_is_neither_followed_nor_waited_for() {
        let (dir, path) = file(b"secret");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("made");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("made");
        for path in [&link, &fifo, &dir.path().to_owned()] {
            for form in [Form::V1, Form::V2] {
                let refused = encode(path, || open_path(path), &encoding(form, dir.path()));
                let refused = refused.expect_err("no regular file");
                assert!(matches!(&refused, UploadError::Changing(of) if of == path), "{refused:?}");
            }
        }
        let gone = dir.path().join("gone");
        let v2 = encoding(Form::V2, dir.path());
        let gone = encode(&gone, || open_path(&gone), &v2).expect_err("not there");
        assert!(matches!(gone, UploadError::Read { .. }), "{gone:?}");
    }

    #[test]
    fn what_nobody_waits_for_is_not_read_to_its_end() {
        let (dir, path) = file(&[1; 2 << 20]);
        for form in [Form::V1, Form::V2] {
            let how = encoding(form, dir.path());
            encode(&path, || open_path(&path), &how).expect("wanted");
            let opened_and_abandoned = || {
                how.abandoned.store(true, Ordering::Relaxed);
                open_path(&path)
            };
            let error = encode(&path, opened_and_abandoned, &how).expect_err("abandoned");
            assert!(matches!(&error, UploadError::Read { path: of, .. } if *of == path), "{error:?}");
        }
    }

    #[test]
    fn holes_are_noted() {
        let (dir, path) = file(b"");
        let sparse = OpenOptions::new().write(true).open(&path).expect("there");
        sparse.set_len(8 << 20).expect("resizable");
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 4096], 4 << 20).expect("written");
        let v2 = encoding(Form::V2, dir.path());
        let data = |path: &Path| encode(path, || open_path(path), &v2).expect("encoded").file.data;
        let only = std::iter::once((4 << 20)..(4 << 20) + 4096);
        assert_eq!(data(&path), Some(only.collect()));
        sparse.set_len(0).and_then(|()| sparse.set_len(1 << 20)).expect("resizable");
        assert_eq!(data(&path), Some(Vec::new()));
        fs::write(&path, [1; 10_000]).expect("written");
        assert_eq!(data(&path), None);
    }
}
