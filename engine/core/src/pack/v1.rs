//! The content of files as objects of the old system: each file by itself, brotli under the MD5 of the plain bytes.
//!
//! The keys of all objects of a run are remembered, and files that share one.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Content, Entry, Kind};
use aysfs_store::{Key, Store, Upload, codec};
use futures::{StreamExt, TryStreamExt, stream};

use super::error::{UploadError, blocking};
use super::placed::Placed;
use super::read::{FileContent, read_stable};
use super::results::Results;
use crate::abandoned::{SetWhenDropped, WhileWanted};

/// Up to this length, plain and stored bytes are kept in memory.
const IN_MEMORY: u64 = 1 << 20;

/// Beyond this quality brotli is several times slower for a few per cent.
const QUALITY: u32 = 5;

/// How many objects the stor is asked about at once.
const BATCH: usize = 32;

/// How many batches are on their way at the same time.
const BATCHES: usize = 2;

/// What was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    /// Files with content of their own.
    pub(super) files: u64,
    /// Plain bytes of them.
    pub(super) bytes: u64,
    /// Objects that the stor did not have.
    pub(super) new_objects: u64,
    /// Stored bytes of those.
    pub(super) new_bytes: u64,
}

impl Summary {
    fn add(&mut self, Stored { position, file, new }: Stored, results: &mut Results) {
        self.files += 1;
        self.bytes += file.size();
        self.new_objects += u64::from(new.is_some());
        self.new_bytes += new.unwrap_or_default();
        results.add(position, &file);
    }
}

/// How content is stored.
pub(super) struct Objects<'a> {
    pub(super) stor: &'a dyn Store,
    /// A directory for the stored form of what is too large for memory.
    pub(super) spool: PathBuf,
    /// Bytes of content that are in the stor.
    pub(super) bytes_done: &'a AtomicU64,
}

/// A file that was read, and its object.
struct Object {
    position: usize,
    file: FileContent<Placed>,
    key: Key,
    upload: Upload,
}

/// A file that is stored.
struct Stored {
    position: usize,
    file: FileContent<Placed>,
    /// The length of its object, if the stor did not have that.
    new: Option<u64>,
}

/// What is known of the objects of one run.
#[derive(Default)]
struct Sending {
    /// Those that are in the stor, or on their way.
    begun: HashSet<Key>,
    /// What those that are there are called there.
    stored: HashMap<Key, Key>,
    /// Files whose objects were on their way already: their positions, and the keys.
    twins: Vec<(usize, FileContent<Placed>, Key)>,
}

/// Whether the stor has to keep something for this entry: a client of the old system fetches empty files too.
pub(super) fn needs_object(entry: &Entry) -> bool {
    entry.kind == Kind::Regular && entry.link.is_none() && entry.content.is_none()
}

impl Objects<'_> {
    /// Sends the content of all files that `files` names, by the positions of their entries and their paths, and adds to the results
    /// where it is.
    ///
    /// `open` is given a path; `None` means that it is no regular file any more. Dropping the future ends the work soon.
    pub(super) async fn run(
        &self,
        files: impl Iterator<Item = io::Result<(usize, Vec<u8>)>> + Send,
        open: impl Fn(&[u8]) -> io::Result<Option<File>> + Send + Sync + 'static,
        mut results: Results,
    ) -> Result<(Summary, Results), UploadError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (open, spool, abandoned) = (Arc::new(open), &self.spool, SetWhenDropped::default());
        let sending = Mutex::new(Sending::default());
        let mut batches = stream::iter(files)
            .map(|file| {
                let (open, spool, abandoned) = (open.clone(), spool.clone(), abandoned.0.clone());
                blocking(move || {
                    let (position, path) = file.map_err(UploadError::Spool)?;
                    let shown = Path::new(OsStr::from_bytes(&path));
                    encode(position, shown, || open(&path), &spool, &abandoned)
                })
            })
            .buffer_unordered(cores)
            // What is large waits on the disk.
            .ready_chunks(BATCH)
            .map(|batch| self.send(batch, &sending))
            .buffer_unordered(BATCHES);
        let mut summary = Summary::default();
        while let Some(batch) = batches.try_next().await? {
            batch.into_iter().for_each(|stored| summary.add(stored, &mut results));
            results = results.settled().await?;
        }
        drop(batches);
        let Sending { twins, stored, .. } = std::mem::take(&mut *lock(&sending));
        for (position, file, key) in twins {
            summary.add(self.stored(position, file, &stored[&key], None), &mut results);
            results = results.settled().await?;
        }
        Ok((summary, results))
    }

    /// Sends what is lacking of a batch.
    async fn send(
        &self,
        batch: Vec<Result<Object, UploadError>>,
        sending: &Mutex<Sending>,
    ) -> Result<Vec<Stored>, UploadError> {
        let mut first = Vec::new();
        for object in batch {
            let Object { position, file, key, upload } = object?;
            let mut sending = lock(sending);
            if sending.begun.insert(key.clone()) {
                first.push((position, file, key, upload));
            } else {
                sending.twins.push((position, file, key));
            }
        }
        if first.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = first.iter().map(|(_, _, key, _)| key.clone()).collect();
        let there = self.stor.has(&keys).await?;
        let sent = first.into_iter().zip(there).map(|((position, file, key, upload), there)| async move {
            let (found, new) = if there {
                (key.clone(), None)
            } else {
                let stored = self.stor.put(&key, &upload).await?;
                (stored.key, stored.created.then(|| upload.length()))
            };
            lock(sending).stored.insert(key, found.clone());
            Ok(self.stored(position, file, &found, new))
        });
        stream::iter(sent).buffer_unordered(BATCH).try_collect().await
    }

    /// A file whose object is in the stor, under this key.
    fn stored(
        &self,
        position: usize,
        mut file: FileContent<Placed>,
        found: &Key,
        new: Option<u64>,
    ) -> Stored {
        self.bytes_done.fetch_add(file.size(), Ordering::Relaxed);
        // A stor that chooses keys itself takes the MD5 of the stored body. Either will do for a hash.
        if let Ok(aysfs_flist::ObjectKey::Md5(md5)) = found.as_str().parse() {
            file.content = Some(Placed::Listed(Content::V1(md5)));
        }
        Stored { position, file, new }
    }
}

fn lock(sending: &Mutex<Sending>) -> MutexGuard<'_, Sending> {
    sending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the file that `open` opens and makes its object; `path` is what messages call it.
fn encode(
    position: usize,
    path: &Path,
    open: impl Fn() -> io::Result<Option<File>>,
    spool: &Path,
    abandoned: &AtomicBool,
) -> Result<Object, UploadError> {
    let read = read_stable(path, open, |file, size| {
        let file = WhileWanted { inner: file, abandoned };
        let (encoded, upload) = if size <= IN_MEMORY {
            let mut stored = Vec::new();
            let encoded = codec::encode_v1(file.take(IN_MEMORY + 1), &mut stored, QUALITY)?;
            (encoded, Upload::Bytes(stored.into()))
        } else {
            let mut stored = tempfile::tempfile_in(spool)?;
            let encoded = codec::encode_v1(file, &mut stored, QUALITY)?;
            (encoded, Upload::File { file: Arc::new(stored), length: encoded.stored })
        };
        Ok((encoded.size, (encoded.hash, upload)))
    })?;
    let ((hash, upload), version) = read;
    let file = FileContent { content: Some(Placed::Listed(Content::V1(hash))), version };
    Ok(Object { position, file, key: Key::md5(hash), upload })
}
