//! A directory as a flist, with its content in a stor.

mod base;
mod builder;
mod error;
mod feed;
mod known;
mod order;
mod packer;
mod read;
pub(crate) mod scan;
mod send;
mod there;
mod v1;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aysfs_flist::{
    Content, Corrupt, Dialect, Entry, Header, Index, Kind, ObjectKey, Pack, WriteError, Writer,
};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::{SealedError, Sealing};
use aysfs_store::{Store, StoreError};

pub(crate) use self::error::UploadError;
pub(crate) use self::feed::{Task, Wanted};
pub(crate) use self::known::Known;
pub(crate) use self::packer::{Outcome, Packed, Packing};
use self::read::open_path;
pub(crate) use self::read::{MappedStores, data_segments};
pub(crate) use self::send::To;
pub(crate) use self::there::{Lacking, rely_on};
use self::v1::Objects;
use crate::listed::Packs;
use crate::profile::Profile;

/// How to pack.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the flist is written as; it decides the form of the objects too.
    pub dialect: Dialect,
    /// The header of a v2 flist.
    pub header: Header,
    /// Patterns of what to leave out, as in a `.gitignore`: `site-packages`, `*.pyc`, `/cache/`, `!keep.pyc`.
    pub exclude: Vec<String>,
    /// What a v2 flist and its objects are encrypted with, if they are.
    pub sealing: Option<Sealing>,
    /// A v2 list: what it has of what is in the stor is not stored again. If there is a sealing, it was sealed with the same secret.
    pub base: Option<Arc<Index>>,
    /// What is read first, and comes into start packs.
    pub profile: Option<Profile>,
    /// Where the stored form of a large file of v1 is kept until it is sent.
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
    /// Plain bytes that the older list has.
    pub reused_bytes: u64,
    /// Paths of the profile that lead to no file.
    pub unknown_paths: usize,
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
    #[error("cannot read the older flist")]
    Base(#[source] Corrupt),
    #[error("cannot store content")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Flist(#[from] ListError),
}

/// Why a flist could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ListError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot encrypt the flist")]
    Seal(#[from] SealedError),
}

impl From<UploadError> for PackError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Read { path, source } => Self::Read { path, source },
            UploadError::Changing(path) => Self::Changing(path),
            UploadError::Store(error) => Self::Store(error),
        }
    }
}

/// Packs the tree at `root`: sends the content that `stor` lacks, then writes the flist.
///
/// The flist is in tree order and depends on the tree alone. Nothing is written to it before all content is
/// stored, and an error says that it is not whole.
pub async fn pack(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
    flist: impl Write + Send + 'static,
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
    let from = root.clone();
    let open = move |path: &[u8]| open_path(&from.join(OsStr::from_bytes(path)));
    let mut header = options.header.clone();
    if options.dialect == Dialect::V2 {
        let secret = options.sealing.as_ref().map(Sealing::secret);
        let known = match &options.base {
            Some(list) => base::known(list, stor, secret).await?,
            None => Known::default(),
        };
        let old_packs = known.packs.clone();
        let packing = Packing {
            compression: Compression::default(),
            secret: secret.cloned(),
            mapped_stores: MappedStores::Missed,
            to: To::One(stor),
            journal: None,
            known,
            bytes_done: &progress.bytes_done,
        };
        let packed = packing.run(&mut entries, options.profile.as_ref(), move |_, path| open(path)).await;
        let packed = packed.map_err(|error| error.below(&root))?;
        let Packed { files, bytes, packs, in_tables, start, .. } = packed;
        let Packed { new_objects, new_bytes, reused_bytes, unknown: unknown_paths, .. } = packed;
        summary = Summary { files, bytes, new_objects, new_bytes, reused_bytes, unknown_paths, ..summary };
        let mut known = Packs::default();
        known.extend(old_packs);
        known.extend(packs);
        header.start = start;
        name_packs(&mut header, &entries, &known, in_tables);
    } else {
        let objects = Objects { stor, spool: options.spool.clone(), bytes_done: &progress.bytes_done };
        let stored = objects.run(&mut entries, open).await.map_err(|error| error.below(&root))?;
        let v1::Summary { files, bytes, new_objects, new_bytes } = stored;
        summary = Summary { files, bytes, new_objects, new_bytes, ..summary };
    }
    summary.entries = entries.len() as u64;
    let (dialect, sealing) = (options.dialect, options.sealing.clone());
    blocking(move || Ok(write(entries, flist, dialect, &header, sealing.as_ref())?)).await?;
    Ok(summary)
}

/// Chunk tables are fetched when a list is mounted, if all of them together are not longer.
const TABLES_AT_ONCE: u64 = 8 << 20;

/// Notes in a header which packs its entries are in, and which a mount is best to fetch at once. `in_tables` are those that chunk
/// tables may name.
pub(crate) fn name_packs(
    header: &mut Header,
    entries: &[Entry],
    known: &Packs,
    in_tables: impl IntoIterator<Item = Pack>,
) {
    header.packs = known.of_entries(entries, in_tables);
    let lengths: HashMap<ObjectKey, u64> = header.packs.iter().map(|pack| (pack.key, pack.bytes)).collect();
    header.start.retain(|key| lengths.contains_key(key));
    let mut tables = Vec::new();
    for entry in entries {
        if let Some(Content::Chunks { table, .. }) = entry.content
            && !tables.contains(&table.at.pack)
        {
            tables.push(table.at.pack);
        }
    }
    tables.retain(|key| !header.start.contains(key));
    if tables.iter().filter_map(|key| lengths.get(key)).sum::<u64>() < TABLES_AT_ONCE {
        header.start.extend(tables);
    }
}

/// Writes the list of all entries; with a sealing, encrypted.
pub(crate) fn write(
    mut entries: Vec<Entry>,
    flist: impl Write,
    dialect: Dialect,
    header: &Header,
    sealing: Option<&Sealing>,
) -> Result<(), ListError> {
    copy_to_links(&mut entries);
    let Some(sealing) = sealing else { return Ok(write_clear(&entries, flist, dialect, header)?) };
    // In memory, so that no disk sees its names.
    let mut clear = Vec::new();
    write_clear(&entries, &mut clear, dialect, header)?;
    Ok(sealing.seal(&clear, flist)?)
}

fn write_clear(
    entries: &[Entry],
    flist: impl Write,
    dialect: Dialect,
    header: &Header,
) -> Result<(), WriteError> {
    let mut writer = Writer::new(flist, dialect, header)?;
    for entry in entries {
        writer.entry(entry)?;
    }
    writer.finish()?;
    Ok(())
}

/// Lets every further name of a file repeat what its first name says, for readers that know no hard links.
fn copy_to_links(entries: &mut [Entry]) {
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
    job: impl FnOnce() -> Result<T, PackError> + Send + 'static,
) -> Result<T, PackError> {
    tokio::task::spawn_blocking(job).await.expect("packing does not panic")
}
