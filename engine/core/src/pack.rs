//! A directory as a flist, with its content in a stor.
//!
//! Memory has a bound, whatever the tree: entries wait on disk from the walk until they are listed (`pack/found.rs`), and so does what was read of
//! files (`pack/results.rs`). Bytes on their way to the stor, and the chunks that are known, have limits of their own.

mod arrived;
mod base;
mod builder;
mod error;
mod feed;
mod found;
mod known;
mod order;
mod packer;
mod placed;
mod read;
mod results;
pub(crate) mod scan;
mod send;
mod spool;
mod there;
mod v1;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use aysfs_flist::{Corrupt, Dialect, Entry, Header, Index, Kind, ObjectKey, Pack, WriteError, Writer};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::{SealedError, Sealing};
use aysfs_store::{Store, StoreError};
use ignore::gitignore::Gitignore;

pub(crate) use self::arrived::{Batch, Outcome, Packed};
pub(crate) use self::error::UploadError;
pub(crate) use self::feed::{Task, Wanted};
use self::found::{Finding, Found};
pub(crate) use self::known::Known;
pub(crate) use self::order::Tasks;
use self::packer::Told;
pub(crate) use self::packer::{Made, Packing};
use self::placed::Placed;
use self::read::{FileContent, open_path};
pub(crate) use self::read::{MappedStores, data_segments};
use self::results::Results;
pub(crate) use self::send::To;
use self::spool::Spool;
pub(crate) use self::there::{Lacking, rely_on};
use self::v1::Objects;
use crate::listed::{Packs, Uses};
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
    /// A directory for what memory has no room for, in files without a name: some 100 bytes for each entry, and the stored form of a large
    /// file of v1 until it is sent.
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
    #[error("cannot keep names and results on disk, beside the flist, until it is written")]
    Spool(#[source] io::Error),
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
            UploadError::Spool(error) => Self::Spool(error),
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
    let (dialect, sealing) = (options.dialect, options.sealing.clone());
    // Before the walk, since it may be in a directory of the tree.
    let secret = sealing.as_ref().map(Sealing::secret).cloned();
    let spool = Spool::new(&options.spool, secret).map_err(PackError::Spool)?;
    let (from, counted) = (root.clone(), progress.clone());
    let (found, left_out, spool) = blocking(move || find(&from, &exclude, dialect, spool, &counted)).await?;
    progress.scanned.store(true, Ordering::Relaxed);

    let results = Results::new(spool, found.links.clone());
    let stored = if dialect == Dialect::V2 {
        store_packs(&root, stor, options, &found, results, progress).await?
    } else {
        store_objects(&root, stor, options, &found, results, progress).await?
    };
    let summary = Summary { entries: found.count as u64, left_out, ..stored.summary };
    let header = options.header.clone();
    blocking(move || list(&found, stored, flist, dialect, header, sealing.as_ref())).await?;
    Ok(summary)
}

/// Walks a tree; returns what was found that the dialect can hold, how many entries it cannot, and the spool for what comes next.
fn find(
    root: &Path,
    exclude: &Gitignore,
    dialect: Dialect,
    spool: Spool,
    progress: &Progress,
) -> Result<(Found, u64, Spool), PackError> {
    let (mut finding, mut left_out) = (Finding::new(spool), 0);
    scan::scan(root, exclude, |entry, file| {
        progress.entries.fetch_add(1, Ordering::Relaxed);
        if entry.link.is_none() {
            progress.bytes_found.fetch_add(entry.size, Ordering::Relaxed);
        }
        // Readers of v1 do not know that the root can be an entry.
        let is_needless = entry.path.is_empty() && dialect != Dialect::V2;
        let is_unfit = entry.kind != Kind::Regular && dialect == Dialect::V1Short;
        if is_needless || is_unfit {
            left_out += u64::from(!is_needless);
            // Its other names are left out, too.
            return Ok(usize::MAX);
        }
        finding.add(entry, file).map_err(PackError::Spool)
    })?;
    let (found, spool) = finding.finish().map_err(PackError::Spool)?;
    Ok((found, left_out, spool))
}

/// Content that is in the stor.
struct Stored {
    summary: Summary,
    results: Results,
    made: Made,
    /// The packs that results name, by number.
    numbered: Vec<Option<Pack>>,
    /// Those of the older list.
    old_packs: Vec<Pack>,
}

async fn store_packs(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
    found: &Found,
    mut results: Results,
    progress: &Progress,
) -> Result<Stored, PackError> {
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
    let (entries, profile) = (found.clone(), options.profile.clone());
    let order = move || order::tasks(|| entries.entries(), profile.as_ref()).map_err(PackError::Spool);
    let (tasks, unknown_paths) = blocking(order).await?;
    let open = open_below(root);
    let mut packer = packing.begin(tasks, move |_, path: &[u8]| open(path));
    let (mut summary, mut made) = (Summary { unknown_paths, ..Summary::default() }, Made::default());
    while let Some(told) = packer.next().await.map_err(|error| error.below(root))? {
        let Told { files, unread, arrived, made: more } = told;
        if let Some((_, error)) = unread.into_iter().next() {
            return Err(error.below(root).into());
        }
        for number in arrived {
            packer.pack(number).transpose()?;
        }
        for (position, file) in files {
            summary.files += 1;
            summary.bytes += file.size();
            results.add(position, &file);
        }
        results = results.settled().await?;
        made.add(more);
    }
    let Made { new_objects, new_bytes, reused_bytes, .. } = made;
    let summary = Summary { new_objects, new_bytes, reused_bytes, ..summary };
    Ok(Stored { summary, results, made, numbered: packer.into_packs(), old_packs })
}

async fn store_objects(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
    found: &Found,
    results: Results,
    progress: &Progress,
) -> Result<Stored, PackError> {
    let objects = Objects { stor, spool: options.spool.clone(), bytes_done: &progress.bytes_done };
    let wanted = found.entries().enumerate().filter_map(|(position, entry)| match entry {
        Ok(entry) => v1::needs_object(&entry).then_some(Ok((position, entry.path))),
        Err(error) => Some(Err(error)),
    });
    let stored = objects.run(wanted, open_below(root), results).await;
    let (v1::Summary { files, bytes, new_objects, new_bytes }, results) =
        stored.map_err(|error| error.below(root))?;
    let summary = Summary { files, bytes, new_objects, new_bytes, ..Summary::default() };
    Ok(Stored { summary, results, made: Made::default(), numbered: Vec::new(), old_packs: Vec::new() })
}

/// Opens files by their paths below `root`.
fn open_below(root: &Path) -> impl Fn(&[u8]) -> io::Result<Option<File>> + Send + Sync + 'static {
    let root = root.to_owned();
    move |path| open_path(&root.join(OsStr::from_bytes(path)))
}

/// Writes the list of what was found and stored.
fn list(
    found: &Found,
    stored: Stored,
    flist: impl Write,
    dialect: Dialect,
    mut header: Header,
    sealing: Option<&Sealing>,
) -> Result<(), PackError> {
    let Stored { results, made, numbered, old_packs, .. } = stored;
    let results = results.finish().map_err(PackError::Spool)?;
    let files = results.files().map_err(PackError::Spool)?;
    let uses = files.filter_map(|file| match file {
        Ok((_, file)) => listed(file, &numbered).content.map(Ok),
        Err(error) => Some(Err(PackError::Spool(error))),
    });
    let uses: Uses = uses.collect::<Result<_, _>>()?;
    let mut known = Packs::default();
    known.extend(old_packs);
    known.extend(made.packs);
    header.start = made.start;
    name_packs(&mut header, &uses, &known, made.in_tables);

    let mut files = results.files().map_err(PackError::Spool)?;
    let entries = found.entries().enumerate().map(|(position, entry)| {
        let (mut entry, file) = (entry?, files.of(position)?);
        if let Some(file) = file {
            listed(file, &numbered).describe(&mut entry);
        }
        Ok(entry)
    });
    let entries = entries.map(|entry: io::Result<_>| entry.map_err(PackError::Spool));
    write_entries(entries, flist, dialect, &header, sealing)
}

/// What was read of a file, when all packs are in the stor.
fn listed(file: FileContent<Placed>, packs: &[Option<Pack>]) -> FileContent {
    let pack = |number: u32| packs.get(number as usize).copied().flatten();
    let key = |number| Ok::<_, Infallible>(pack(number).expect("all packs are in the stor").key);
    let Ok(file) = file.listed(key);
    file
}

/// Chunk tables are fetched when a list is mounted, if all of them together are not longer.
const TABLES_AT_ONCE: u64 = 8 << 20;

/// Notes in a header which packs the contents of its entries are in, and which a mount is best to fetch at once. `in_tables` are those that chunk
/// tables may name.
pub(crate) fn name_packs(
    header: &mut Header,
    uses: &Uses,
    known: &Packs,
    in_tables: impl IntoIterator<Item = Pack>,
) {
    header.packs = known.of_uses(uses, in_tables);
    let lengths: HashMap<ObjectKey, u64> = header.packs.iter().map(|pack| (pack.key, pack.bytes)).collect();
    header.start.retain(|key| lengths.contains_key(key));
    let mut tables = uses.tables.clone();
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
    write_entries(entries.into_iter().map(Ok::<_, ListError>), flist, dialect, header, sealing)
}

fn write_entries<E: From<ListError> + Send>(
    entries: impl Iterator<Item = Result<Entry, E>> + Send,
    flist: impl Write,
    dialect: Dialect,
    header: &Header,
    sealing: Option<&Sealing>,
) -> Result<(), E> {
    let Some(sealing) = sealing else { return write_clear(entries, flist, dialect, header) };
    // Through a pipe, so that no disk sees its names, and memory few of them at a time.
    let (clear, pipe) = io::pipe().map_err(|error| ListError::Write(error.into()))?;
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_clear(entries, BufWriter::new(pipe), dialect, header));
        let sealed = sealing.seal(clear, flist);
        let written = writing.join().expect("writing does not panic");
        // Without a reader there is no writing.
        sealed.map_err(ListError::from)?;
        written
    })
}

fn write_clear<E: From<ListError>>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    flist: impl Write,
    dialect: Dialect,
    header: &Header,
) -> Result<(), E> {
    let mut writer = Writer::new(flist, dialect, header).map_err(ListError::from)?;
    for entry in entries {
        writer.entry(&entry?).map_err(ListError::from)?;
    }
    writer.finish().map_err(ListError::from)?;
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
