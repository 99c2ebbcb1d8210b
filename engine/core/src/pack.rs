//! A directory as a flist, with its content in a stor.

mod content;
mod scan;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aysfs_flist::{Dialect, Entry, Header, Kind, WriteError, Writer};
use aysfs_store::{Key, Store, StoreError, Stored, Upload};
use futures::future::{ready, try_join_all};
use futures::{StreamExt, TryStreamExt, stream};

use self::content::Form;

/// How many objects a stor is asked about at once.
const BATCH: usize = 32;

/// How many batches are on their way at the same time.
const BATCHES: usize = 2;

/// How to pack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the flist is written as; it decides the form of the objects too.
    pub dialect: Dialect,
    /// The header of a v2 flist.
    pub header: Header,
    /// Patterns of what to leave out, as in a `.gitignore`: `site-packages`, `*.pyc`, `/cache/`, `!keep.pyc`.
    pub exclude: Vec<String>,
    /// Where the stored form of a large file is kept until it is sent.
    pub spool: PathBuf,
}

/// How far it is; read by whoever shows it, while [`pack`] runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries found so far.
    pub entries: AtomicU64,
    /// Bytes of content found so far.
    pub bytes_found: AtomicU64,
    /// Whether everything is found.
    pub scanned: AtomicBool,
    /// Bytes of content that are in the stor.
    pub bytes_done: AtomicU64,
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries in the flist.
    pub entries: u64,
    /// Regular files with content of their own.
    pub files: u64,
    /// Plain bytes of them.
    pub bytes: u64,
    /// Objects that the stor did not have.
    pub new_objects: u64,
    /// Stored bytes of those.
    pub new_bytes: u64,
    /// Entries that the dialect cannot hold: v1 short knows regular files only.
    pub left_out: u64,
}

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PackError {
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{pattern:?} is not a pattern of what to leave out")]
    Pattern { pattern: String, source: ignore::Error },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Its content would not fit its size and its times.
    #[error("{} changes while it is packed: pack again when nothing writes to it", .0.display())]
    Changing(PathBuf),
    #[error("cannot store content")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Flist(#[from] WriteError),
}

/// Packs the tree at `root`: sends the content that `stor` lacks, then writes the flist.
///
/// The flist is in tree order and depends on the tree alone. Nothing is written to it before all content is
/// stored, and an error says that it is not whole.
pub async fn pack(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
    flist: impl Write,
    progress: &Arc<Progress>,
) -> Result<Summary, PackError> {
    if !root.is_dir() {
        return Err(PackError::NotADirectory(root.to_owned()));
    }
    // A symlink that leads to it is not what is packed.
    let root = root.canonicalize().map_err(|source| PackError::Read { path: root.to_owned(), source })?;
    let exclude = scan::exclude(&root, &options.exclude)?;
    let (from, counted) = (root.clone(), progress.clone());
    let mut entries = blocking(move || {
        scan::scan(&from, &exclude, |entry| {
            counted.entries.fetch_add(1, Ordering::Relaxed);
            if entry.link.is_none() {
                counted.bytes_found.fetch_add(entry.size, Ordering::Relaxed);
            }
        })
    })
    .await?;
    progress.scanned.store(true, Ordering::Relaxed);

    let mut summary = Summary::default();
    if options.dialect != Dialect::V2 {
        // Readers of v1 do not know that the root can be an entry.
        entries.retain(|entry| !entry.path.is_empty());
    }
    if options.dialect == Dialect::V1Short {
        let before = entries.len();
        entries.retain(|entry| entry.kind == Kind::Regular);
        summary.left_out = (before - entries.len()) as u64;
    }
    store_content(&root, stor, options, &mut entries, &mut summary, progress).await?;
    copy_to_links(&mut entries);
    summary.entries = entries.len() as u64;

    let mut writer = Writer::new(flist, options.dialect, &options.header)?;
    for entry in &entries {
        writer.entry(entry)?;
    }
    writer.finish()?;
    Ok(summary)
}

/// Sends the content of all regular files, each object once, and notes in each entry where it is.
async fn store_content(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
    entries: &mut [Entry],
    summary: &mut Summary,
    progress: &Progress,
) -> Result<(), PackError> {
    let form = Form::of(options.dialect);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all: &[Entry] = entries;
    // What each file holds, and the key of its object.
    let mut files = Vec::new();
    let mut known = HashSet::new();
    let sent: Vec<Vec<Sent>> =
        stream::iter((0..all.len()).filter(|&position| form.needs_object(&all[position])))
            .map(|position| {
                let path = root.join(OsStr::from_bytes(&all[position].path));
                let spool = options.spool.clone();
                blocking(move || Ok((position, content::encode(&path, form, &spool)?)))
            })
            .buffer_unordered(cores)
            .try_filter_map(|(position, object)| {
                let is_new = known.insert(object.key.clone());
                if !is_new {
                    progress.bytes_done.fetch_add(object.file.size(), Ordering::Relaxed);
                }
                let unsent = is_new.then(|| (object.key.clone(), object.file.size(), object.upload));
                files.push((position, object.file, object.key));
                ready(Ok(unsent))
            })
            .ready_chunks(BATCH)
            .map(|batch| send(stor, batch, progress))
            .buffer_unordered(BATCHES)
            .try_collect()
            .await?;
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
    Ok(())
}

/// An object that is in the stor.
struct Sent {
    /// What it was to be called.
    key: Key,
    /// Its stored length.
    length: u64,
    stored: Stored,
}

/// Sends what `stor` lacks of a batch of objects: key, plain length, body.
async fn send(
    stor: &dyn Store,
    batch: Vec<Result<(Key, u64, Upload), PackError>>,
    progress: &Progress,
) -> Result<Vec<Sent>, PackError> {
    let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<Key> = batch.iter().map(|(key, ..)| key.clone()).collect();
    let there = stor.has(&keys).await?;
    try_join_all(batch.into_iter().zip(there).map(|((key, size, upload), there)| async move {
        let stored =
            if there { Stored { key: key.clone(), created: false } } else { stor.put(&key, &upload).await? };
        progress.bytes_done.fetch_add(size, Ordering::Relaxed);
        Ok(Sent { key, length: upload.length(), stored })
    }))
    .await
}

/// Lets every further name of a file repeat what its first name says, for readers that know no hard links.
fn copy_to_links(entries: &mut [Entry]) {
    let firsts: HashMap<Vec<u8>, usize> = (0..entries.len())
        .filter(|&i| entries[i].link.is_none() && entries[i].kind == Kind::Regular)
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
    job: impl FnOnce() -> Result<T, PackError> + Send + 'static,
) -> Result<T, PackError> {
    tokio::task::spawn_blocking(job).await.expect("packing does not panic")
}
