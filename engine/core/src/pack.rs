//! A directory as a flist, with its content in a stor.

mod content;
pub(crate) mod scan;
pub(crate) mod upload;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aysfs_flist::{Dialect, Entry, Header, Kind, WriteError, Writer};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::{SealedError, Sealing};
use aysfs_store::{Store, StoreError};

pub(crate) use self::content::data_segments;
use self::upload::{Form, Job, MappedStores, To, UploadError, copy_to_links, open_path};

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
    let job = Job {
        form: Form::of(options.dialect),
        compression: Compression::default(),
        secret: options.sealing.as_ref().map(Sealing::secret).cloned(),
        spool: options.spool.clone(),
        mapped_stores: MappedStores::Missed,
        to: To::One(stor),
        at_once: upload::AT_ONCE,
        journal: None,
        bytes_done: &progress.bytes_done,
    };
    let from = root.clone();
    let open = move |_: usize, path: &[u8]| open_path(&from.join(OsStr::from_bytes(path)));
    let stored = job.run(&mut entries, open).await.map_err(|error| error.below(&root))?;
    summary.files = stored.files;
    summary.bytes = stored.bytes;
    summary.new_objects = stored.new_objects;
    summary.new_bytes = stored.new_bytes;
    summary.entries = entries.len() as u64;
    let (dialect, header, sealing) = (options.dialect, options.header.clone(), options.sealing.clone());
    blocking(move || Ok(write(entries, flist, dialect, &header, sealing.as_ref())?)).await?;
    Ok(summary)
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

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, PackError> + Send + 'static,
) -> Result<T, PackError> {
    tokio::task::spawn_blocking(job).await.expect("packing does not panic")
}
