//! The content of files as objects in a stor: each object once, and only what the stor lacks.
//!
//! Where the files are is for the caller to say: [`pack`](super::pack) finds them by path, a commit of local changes by inode.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_flist::{Entry, Kind};
use aysfs_store::{Key, Mirror, Store, StoreError, Stored, Upload};
use futures::future::{ready, try_join_all};
use futures::{StreamExt, TryStreamExt, stream};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::content::{self, Encoding};
pub(crate) use super::content::{Form, MappedStores};
use crate::abandoned::SetWhenDropped;

/// How many objects a stor is asked about at once.
const BATCH: usize = 32;

/// How many batches are on their way at the same time.
const BATCHES: usize = 2;

/// Why content could not be stored. Paths are those of the entries.
#[derive(Debug)]
pub(crate) enum UploadError {
    Read {
        path: PathBuf,
        source: io::Error,
    },
    /// It would not fit its size and its times.
    Changing(PathBuf),
    Store(StoreError),
}

impl UploadError {
    /// The same, with the path of a file below `root`.
    pub(super) fn below(self, root: &Path) -> Self {
        match self {
            Self::Read { path, source } => Self::Read { path: root.join(path), source },
            Self::Changing(path) => Self::Changing(root.join(path)),
            Self::Store(error) => Self::Store(error),
        }
    }
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where objects go.
#[derive(Clone, Copy)]
pub(crate) enum To<'a> {
    /// A stor.
    One(&'a dyn Store),
    /// All of them; the first decides what is lacking.
    All(&'a Mirror),
}

impl To<'_> {
    async fn has(self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        match self {
            Self::One(stor) => stor.has(keys).await,
            Self::All(stors) => stors.first().has(keys).await,
        }
    }

    async fn put(self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        match self {
            Self::One(stor) => stor.put(key, body).await,
            Self::All(stors) => stors.put(key, body).await,
        }
    }
}

/// What was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    /// Files with content of their own.
    pub(crate) files: u64,
    /// Plain bytes of them.
    pub(crate) bytes: u64,
    /// Objects that the stor did not have.
    pub(crate) new_objects: u64,
    /// Stored bytes of those.
    pub(crate) new_bytes: u64,
}

/// How content is stored.
pub(crate) struct Job<'a> {
    pub(crate) form: Form,
    /// Where the stored form of a large file is kept until it is sent.
    pub(crate) spool: PathBuf,
    pub(crate) mapped_stores: MappedStores,
    pub(crate) to: To<'a>,
    /// Bytes of content that are in the stor.
    pub(crate) bytes_done: &'a AtomicU64,
}

impl Job<'_> {
    /// Sends the content of all regular files that do not say yet where it is, and notes that in their entries.
    ///
    /// `open` is given the position of an entry and its path; `None` means that it is no regular file any more. Dropping the
    /// future ends the work soon.
    pub(crate) async fn run(
        &self,
        entries: &mut [Entry],
        open: impl Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static,
    ) -> Result<Summary, UploadError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let open = Arc::new(open);
        let abandoned = SetWhenDropped::default();
        let how = Arc::new(Encoding {
            form: self.form,
            spool: self.spool.clone(),
            mapped_stores: self.mapped_stores,
            abandoned: abandoned.0.clone(),
        });
        let (all, form): (&[Entry], _) = (entries, self.form);
        // What each file holds, and the key of its object.
        let mut files = Vec::new();
        let mut known = HashSet::new();
        let sent: Vec<Vec<Sent>> =
            stream::iter((0..all.len()).filter(|&position| form.needs_object(&all[position])))
                .map(|position| {
                    let (path, how, open) = (all[position].path.clone(), how.clone(), open.clone());
                    blocking(move || {
                        let shown = Path::new(OsStr::from_bytes(&path));
                        let object = content::encode(shown, || open(position, &path), &how)?;
                        Ok((position, object))
                    })
                })
                .buffer_unordered(cores)
                .try_filter_map(|(position, object)| {
                    let is_new = known.insert(object.key.clone());
                    if !is_new {
                        self.bytes_done.fetch_add(object.file.size(), Ordering::Relaxed);
                    }
                    let unsent = is_new.then(|| (object.key.clone(), object.file.size(), object.upload));
                    files.push((position, object.file, object.key));
                    ready(Ok(unsent))
                })
                .ready_chunks(BATCH)
                .map(|batch| self.send(batch))
                .buffer_unordered(BATCHES)
                .try_collect()
                .await?;
        let mut summary = Summary::default();
        let stored: HashMap<Key, Stored> = sent
            .into_iter()
            .flatten()
            .map(|Sent { key, length, stored }| {
                if stored.created {
                    summary.new_objects += 1;
                    summary.new_bytes += length;
                }
                (key, stored)
            })
            .collect();
        for (position, mut file, key) in files {
            summary.files += 1;
            summary.bytes += file.size();
            file.found_under(&stored[&key].key);
            file.describe(&mut entries[position]);
        }
        Ok(summary)
    }

    /// Sends what is lacking of a batch of objects: key, plain length, body.
    async fn send(
        &self,
        batch: Vec<Result<(Key, u64, Upload), UploadError>>,
    ) -> Result<Vec<Sent>, UploadError> {
        let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<Key> = batch.iter().map(|(key, ..)| key.clone()).collect();
        let there = self.to.has(&keys).await?;
        try_join_all(batch.into_iter().zip(there).map(|((key, size, upload), there)| async move {
            let stored = if there {
                Stored { key: key.clone(), created: false }
            } else {
                self.to.put(&key, &upload).await?
            };
            self.bytes_done.fetch_add(size, Ordering::Relaxed);
            Ok(Sent { key, length: upload.length(), stored })
        }))
        .await
    }
}

/// An object that is in the stor.
struct Sent {
    /// What it was to be called.
    key: Key,
    /// Its stored length.
    length: u64,
    stored: Stored,
}

/// Opens the regular file at a path, which may lead to something else by now: never follows a link, never waits for a fifo.
pub(super) fn open_path(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Lets every further name of a file repeat what its first name says, for readers that know no hard links.
pub(super) fn copy_to_links(entries: &mut [Entry]) {
    // Few files have several names.
    let linked: HashSet<Vec<u8>> = entries.iter().filter_map(|entry| entry.link.clone()).collect();
    let firsts: HashMap<Vec<u8>, usize> = (0..entries.len())
        .filter(|&i| entries[i].link.is_none() && entries[i].kind == Kind::Regular)
        .filter(|&i| linked.contains(&entries[i].path))
        .map(|i| (entries[i].path.clone(), i))
        .collect();
    for i in 0..entries.len() {
        if let Some(&first) = entries[i].link.as_ref().and_then(|link| firsts.get(link)) {
            let (path, link) = (entries[i].path.clone(), entries[i].link.clone());
            entries[i] = Entry { path, link, ..entries[first].clone() };
        }
    }
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(job).await.expect("reading does not panic")
}
