//! The tree that is shown, as a new flist: base and local changes in one.
//!
//! What did not change is taken over from the base, content included, and nothing of it is fetched. New content is sent to the
//! stors of the mount, as [`pack`] does it. If the mount encrypts, both are encrypted. The local changes themselves stay as they are.
//!
//! # While others write
//!
//! The names are those of one moment. Each file is read until it did not change meanwhile; one that never stops is an error. So is one that
//! is removed before it was read. What is stored to a mapped file counts as writing, also where the kernel does it without telling.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_flist::{Content, Dialect, Entry, Header};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Sealing;
use aysfs_store::{Fault, Mirror, StoreError};
use aysfs_vfs::Error;

use super::Overlay;
use super::entries::{SeeError, Seen, SendProgress, see};
use super::known::known;
use super::missing::{Gone, Missing, object_of};
use super::moved::ancestors;
use crate::abandoned::SetWhenDropped;
use crate::listed::{Packs, Uses};
use crate::pack::{self, ListError, Made, MappedStores, Packed, Packing, To, UploadError};

/// How to commit.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// The header of the new flist.
    pub header: Header,
}

/// What was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Entries in the flist.
    pub entries: u64,
    /// Regular files that are not empty, each counted once.
    pub files: u64,
    /// Those whose content is that of the base, and was not looked at.
    pub reused: u64,
    /// Objects that the stor did not have.
    pub new_objects: u64,
    /// Stored bytes of those.
    pub new_bytes: u64,
}

/// Why local changes could not be committed. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CommitError {
    #[error("cannot look at the local changes: {0}")]
    View(Error),
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Its content would not fit its size and its times.
    #[error("{} changes while it is committed: commit again when nothing writes to it", .0.display())]
    Changing(PathBuf),
    #[error(
        "{}: its content was in a base that was replaced, and only its attributes are kept: replace or remove it, then commit again",
        .0.display()
    )]
    Lost(PathBuf),
    #[error(
        "the stor takes nothing from the account of this mount: mount with one that may write, then commit again ({0})"
    )]
    Denied(StoreError),
    #[error("cannot store new content: {0}")]
    Store(StoreError),
    /// Nothing here has it either.
    #[error(
        "the content of {files} files is not in the stor any more, among them {}: put it back there (`aysfs fsck` tells all that is \
         missing), or remove or replace these files, then commit again",
        .path.display()
    )]
    Gone { files: usize, path: PathBuf },
    #[error(transparent)]
    Flist(#[from] ListError),
}

impl From<SeeError> for CommitError {
    fn from(error: SeeError) -> Self {
        match error {
            SeeError::View(error) => Self::View(error),
            SeeError::Lost(path) => Self::Lost(path),
        }
    }
}

impl From<UploadError> for CommitError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Read { path, source } => Self::Read { path: Path::new("/").join(path), source },
            UploadError::Changing(path) => Self::Changing(Path::new("/").join(path)),
            UploadError::Store(error) if matches!(error.fault, Fault::Denied) => Self::Denied(error),
            UploadError::Store(error) => Self::Store(error),
            UploadError::Spool(source) => Self::Read { path: "/".into(), source },
        }
    }
}

impl Overlay {
    /// Sends what is new to the stors of this mount, then writes the flist. Dropping the future ends the work soon.
    ///
    /// Nothing is written before all content is stored, and an error says that the flist is not whole.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit(
        &self,
        options: &CommitOptions,
        flist: impl Write + Send + 'static,
        progress: &Arc<SendProgress>,
    ) -> Result<Committed, CommitError> {
        let abandoned = SetWhenDropped::default();
        let (inner, counted, flag) = (self.0.clone(), progress.clone(), abandoned.0.clone());
        let Seen { mut entries, moved, files, base, mut packs, .. } =
            blocking(move || Ok(see(&inner, None, &Missing::default(), &counted, &flag)?)).await?;
        let stors = self.0.w.lower.stors();

        let sealing = self.sealing(&base);
        let inner = self.0.clone();
        let secret = sealing.as_ref().map(Sealing::secret).cloned();
        let local: HashSet<usize> = files.keys().copied().collect();
        let missing = missing_before(&entries, &local, &packs, stors).await.map_err(UploadError::from)?;
        let packing = Packing {
            compression: Compression::default(),
            known: known(&entries, &files, &packs, &base, secret.as_ref(), &missing),
            secret,
            // Whoever has mapped a file that passes through writes to it, and nobody else is told.
            mapped_stores: MappedStores::Noticed,
            to: To::All(stors),
            journal: None,
            bytes_done: &progress.bytes_done,
        };
        let reused =
            entries.iter().filter(|entry| entry.link.is_none() && entry.content.is_some() && entry.size > 0);
        let reused = reused.count() as u64;
        let opened = move |position, _: &[u8]| inner.open_to_send(files.get(&position).map(|file| file.ino));
        let Packed { files, made } = packing.run(&mut entries, opened).await?;
        let Made { packs: new, in_tables, new_objects, new_bytes, .. } = made;
        packs.extend(new);
        let old = base.index().header();
        let mut header =
            Header { ancestors: ancestors(&base, moved), start: old.start.clone(), ..options.header.clone() };
        pack::name_packs(
            &mut header,
            &Uses::of(&entries),
            &packs,
            old.packs.iter().copied().chain(in_tables),
        );
        let objects = local.iter().filter_map(|position| object_of(&entries[*position].content?));
        let named = header.packs.iter().map(|pack| pack.key).chain(objects);
        let mut missing = Missing::of(named, stors).await.map_err(UploadError::from)?;
        if missing.has_gone() {
            let contents = entries.iter().filter_map(|entry| Some((entry.content?, entry.size)));
            missing.read_tables(contents, &packs, stors).await.map_err(UploadError::from)?;
            let sent: Vec<Content> = local.iter().filter_map(|position| entries[*position].content).collect();
            missing
                .leave_out(&mut entries, sent, &mut header)
                .map_err(|Gone { files, path }| CommitError::Gone { files, path })?;
        }
        let committed = Committed {
            entries: entries.len() as u64,
            files: reused + files,
            reused,
            new_objects,
            new_bytes,
        };
        blocking(move || Ok(pack::write(entries, flist, Dialect::V2, &header, sealing.as_ref())?)).await?;
        Ok(committed)
    }
}

/// What is missing of what would not be sent because it is known to be in the stor.
async fn missing_before(
    entries: &[Entry],
    local: &HashSet<usize>,
    packs: &Packs,
    stors: &Arc<Mirror>,
) -> Result<Missing, StoreError> {
    if local.is_empty() {
        return Ok(Missing::default());
    }
    // Only what is as large as a file that is new can be what that is.
    let sizes: HashSet<u64> = local.iter().map(|position| entries[*position].size).collect();
    let alike = || entries.iter().filter(|entry| sizes.contains(&entry.size));
    let objects = alike().filter_map(|entry| object_of(&entry.content?));
    let mut missing = Missing::of(packs.all().map(|pack| pack.key).chain(objects), stors).await?;
    if !missing.is_nothing() {
        let contents = alike().filter_map(|entry| Some((entry.content?, entry.size)));
        missing.read_tables(contents, packs, stors).await?;
    }
    Ok(missing)
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, CommitError> + Send + 'static,
) -> Result<T, CommitError> {
    tokio::task::spawn_blocking(job).await.expect("looking does not panic")
}
