//! Sending what is new of a tree to the stor, file by file.
//!
//! A file that cannot be sent now (it is being written, or changes while it is read) waits for the next time, and is listed as it
//! was when it was sent last; one that never was is left out of the list. All others are listed as they were when they were read, or as their
//! marks tell (see [`pushed`](super::pushed)).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aysfs_flist::{
    Content as Listed, Entry, Flist, Header, Kind, ObjectKey, Pack, ParseOptions, Source, Timestamp,
};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Sealing;
use aysfs_store::{Content, StoreError};
use aysfs_vfs::{Error, ErrorKind, Ino, Result};
use futures::TryStreamExt;

use super::entries::{LocalFile, SeeError, Seen, SendProgress, see};
use super::known::known;
use super::missing::{Gone, Missing, object_of, table_of, tables};
use super::moved::ancestors;
use super::pushed::Destination;
use super::tree::Tree;
use super::{Inner, Overlay};
use crate::abandoned::SetWhenDropped;
use crate::listed::{Packs, Uses};
use crate::pack::{self, Batch, MappedStores, Outcome, Packing, Task, Tasks, To, UploadError, Wanted};
use crate::push::{Journal, TransactionLog, Turn};

/// How to push.
#[derive(Clone, Debug)]
pub(crate) struct PushOptions {
    /// Where content goes.
    pub(crate) destination: Destination,
    pub(crate) compression: Compression,
    /// How long a file must have been left alone that is open for writing.
    pub(crate) idle: Duration,
    /// The list that was made last, if its content is there.
    pub(crate) last_list: Option<PathBuf>,
    /// What was found to be missing, whatever marks say: it is sent again.
    pub(crate) missing: Arc<Missing>,
}

/// What became of a tree that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The tree as a list: all content that it names was sent, or known to be in the stor.
    pub(crate) entries: Vec<Entry>,
    /// What a list of them says of packs, and what it was made from.
    pub(crate) header: Header,
    /// What the list is to be encrypted with.
    pub(crate) sealing: Option<Sealing>,
    /// The packs that content is in.
    packs: Packs,
    /// Content that can be sent again, or left out, with its size.
    local: Vec<(Listed, u64)>,
    /// How many files were sent.
    pub(crate) files: u64,
    /// What waits for the next time.
    pub(crate) waiting: Vec<Waiting>,
    /// Objects that the stor did not have.
    pub(crate) new_objects: u64,
    /// Stored bytes of those.
    pub(crate) new_bytes: u64,
}

/// A file that has to be sent, and why it was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where it is, without a leading `/`.
    pub path: Vec<u8>,
    /// In bytes.
    pub size: u64,
    /// When it was changed last.
    pub since: SystemTime,
    /// Why; nothing: nobody has tried yet.
    pub why: Option<String>,
}

/// Why a tree could not be sent. What was sent until then is marked as such.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SendError {
    #[error("cannot look at the local changes: {0}")]
    View(Error),
    #[error(
        "{}: its content was in a base that was replaced, and only its attributes are kept: replace or remove it",
        .0.display()
    )]
    Lost(PathBuf),
    #[error(
        "the content of {files} files is not in the stor any more, and not here, among them {}: put it back there (`aysfs fsck` tells \
         all that is missing), or remove or replace these files",
        .path.display()
    )]
    Gone { files: usize, path: PathBuf },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SeeError> for SendError {
    fn from(error: SeeError) -> Self {
        match error {
            SeeError::View(error) => Self::View(error),
            SeeError::Lost(path) => Self::Lost(path),
        }
    }
}

impl From<UploadError> for SendError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Store(error) => Self::Store(error),
            // Of no file in particular: those are told one by one.
            UploadError::Read { source, .. } | UploadError::Spool(source) => Self::View(source.into()),
            UploadError::Changing(_) => Self::View(ErrorKind::Io.into()),
        }
    }
}

impl Waiting {
    fn new(entry: &Entry, why: Option<String>) -> Self {
        Self { path: entry.path.clone(), size: entry.size, since: since(entry.mtime), why }
    }
}

impl Overlay {
    /// What has to be sent.
    ///
    /// # Errors
    /// Those of the local filesystem.
    pub async fn unsent(&self, destination: &Destination) -> Result<Vec<Waiting>, SendError> {
        let abandoned = SetWhenDropped::default();
        let (inner, flag, destination) = (self.0.clone(), abandoned.0.clone(), destination.clone());
        blocking(move || {
            let (missing, progress) = (Missing::default(), SendProgress::default());
            let seen = see(&inner, Some(&destination), &missing, &progress, &flag)?;
            let files = seen.files.keys().map(|position| &seen.entries[*position]);
            Ok(files.filter(|entry| entry.link.is_none()).map(|entry| Waiting::new(entry, None)).collect())
        })
        .await
    }

    /// Sends what is new to the stors of this mount. Dropping the future ends the work soon.
    pub(crate) async fn send(
        &self,
        options: &PushOptions,
        journal: &Arc<Journal>,
        log: &TransactionLog,
        turn: &Turn,
        progress: &Arc<SendProgress>,
    ) -> Result<Sent, SendError> {
        let abandoned = SetWhenDropped::default();
        let (inner, destination) = (self.0.clone(), options.destination.clone());
        let (counted, flag, idle) = (progress.clone(), abandoned.0.clone(), options.idle);
        let missing = options.missing.clone();
        self.0.sending.clear();
        let looked = blocking(move || {
            let seen = see(&inner, Some(&destination), &missing, &counted, &flag)?;
            let (ready, busy) = ready(&inner, &seen, idle);
            Ok((seen, ready, busy))
        });
        let (Seen { mut entries, moved, files, marked, base, mut packs, .. }, ready, busy) = looked.await?;
        let stors = self.stors();

        let mut waiting: Vec<_> = busy
            .iter()
            .map(|at| Waiting::new(&entries[*at], Some("it is open for writing".into())))
            .collect();
        let mut unsent: HashSet<usize> = busy.into_iter().collect();
        let inos: Arc<HashMap<usize, Ino>> =
            Arc::new(files.iter().map(|(position, file)| (*position, file.ino)).collect());
        let (inner, opened) = (self.0.clone(), inos.clone());
        let secret = self.stors().secret().cloned();
        let packing = Packing {
            compression: options.compression,
            known: known(&entries, &files, &packs, &base, secret.as_ref(), &options.missing),
            secret,
            // Whoever has mapped a file that passes through writes to it, and nobody else is told.
            mapped_stores: MappedStores::Noticed,
            to: To::All(stors),
            journal: Some(journal.clone()),
            bytes_done: &progress.bytes_done,
        };
        let wanted = |position: usize| {
            let Entry { ref path, size, .. } = entries[position];
            Task::Whole(Wanted { position, path: path.clone(), size })
        };
        let ready: Vec<_> = ready.into_iter().map(wanted).collect();
        let (idle, at_work) = (options.idle, turn.clone());
        let batches = packing.outcomes(Tasks::new(ready.into_iter()), move |position, _| {
            // Held by whoever reads a file, also when nobody waits for it any more.
            let _at_work = &at_work;
            inner.open_to_push(opened[&position], idle)
        });
        let mut batches = std::pin::pin!(batches);
        let (mut count, mut new_objects, mut new_bytes) = (0, 0, 0);
        let mut in_tables = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            let Batch { outcomes, made } = batch;
            new_objects += made.new_objects;
            new_bytes += made.new_bytes;
            packs.extend(made.packs);
            in_tables.extend(made.in_tables);
            let mut stored = Vec::new();
            for outcome in outcomes {
                match outcome {
                    Outcome::Stored { position, file } => {
                        let mut entry = entries[position].clone();
                        file.describe(&mut entry);
                        let content = packs.content(entry.content, entry.size);
                        stored.push(Stored { position, ino: inos[&position], entry, content });
                    }
                    Outcome::Unread { position, error } => {
                        let why = match error {
                            UploadError::Changing(_) => {
                                "it is open for writing, or changes while it is read".into()
                            }
                            UploadError::Read { source, .. } | UploadError::Spool(source) => {
                                format!("it cannot be read: {source}")
                            }
                            UploadError::Store(error) => error.to_string(),
                        };
                        waiting.push(Waiting::new(&entries[position], Some(why)));
                        unsent.insert(position);
                    }
                }
            }
            let (inner, destination, log) = (self.0.clone(), options.destination.clone(), log.clone());
            let (idle, at_work) = (options.idle, turn.clone());
            let settled = blocking(move || {
                let _at_work = at_work;
                Ok(inner.settle(stored, &destination, idle, &log))
            });
            for (position, entry) in settled.await? {
                match entry {
                    Some(entry) => {
                        count += 1;
                        entries[position] = entry;
                    }
                    None => {
                        let why = "it was opened for writing while it was sent".to_owned();
                        waiting.push(Waiting::new(&entries[position], Some(why)));
                        unsent.insert(position);
                    }
                }
            }
        }
        let lost: HashSet<Vec<u8>> = unsent
            .iter()
            .filter(|position| files[position].older.is_none() && entries[**position].size > 0)
            .map(|position| entries[*position].path.clone())
            .collect();
        let last = match (&options.last_list, self.stors().sealing().cloned()) {
            (Some(list), sealing) => {
                let list = list.clone();
                blocking(move || Ok(listed_before(&list, sealing.as_ref(), &lost))).await?
            }
            _ => ListedBefore::default(),
        };
        let ListedBefore { mut replaced, packs: last_packs, tables: last_tables } = last;
        replaced.retain(|_, entry| !entry.content.is_some_and(|content| options.missing.spoils(&content)));
        packs.extend(last_packs.iter().copied());
        let gone = as_sent_before(&mut entries, &files, &unsent, &replaced);
        // A round that failed has marked these files, and no list names their packs yet.
        let unlisted = marked.iter().chain(&unsent).map(|position| &entries[*position]).filter_map(|entry| {
            let content = entry.content?;
            table_of(&content).filter(|table| !last_tables.contains(table))?;
            Some((content, entry.size))
        });
        let tables = tables(unlisted.collect::<Vec<_>>(), &packs, stors).await?;
        let chunks = tables.iter().filter_map(|(_, chunks)| chunks.as_ref()).flat_map(|chunks| chunks.iter());
        in_tables.extend(chunks.filter_map(|chunk| {
            Some(Pack { key: chunk.key.as_str().parse().ok()?, bytes: chunk.part.as_ref()?.pack })
        }));
        let local = files.keys().chain(&marked).map(|position| &entries[*position]);
        let local = local.filter_map(|entry| Some((entry.content?, entry.size))).collect();
        entries.retain(|entry| !gone.contains(entry.link.as_ref().unwrap_or(&entry.path)));
        let old = base.index().header();
        let mut header =
            Header { start: old.start.clone(), ancestors: ancestors(&base, moved), ..Header::default() };
        // The tables of files that were sent earlier name packs that the last list names.
        let older = old.packs.iter().copied().chain(last_packs);
        pack::name_packs(&mut header, &Uses::of(&entries), &packs, older.chain(in_tables));
        let sealing = self.sealing(&base);
        Ok(Sent { entries, header, sealing, packs, local, files: count, waiting, new_objects, new_bytes })
    }

    /// What is missing of a tree that was sent, or said to have been; nothing of the rest is garbage from now on.
    pub(crate) async fn missing_of(&self, sent: &Sent) -> Result<Missing, SendError> {
        let stors = self.stors();
        let objects = sent.local.iter().filter_map(|(content, _)| object_of(content));
        let named = sent.header.packs.iter().map(|pack| pack.key).chain(objects);
        let mut missing = Missing::of(named.collect::<Vec<ObjectKey>>(), stors).await?;
        if !missing.is_nothing() {
            missing.read_tables(sent.local.iter().copied(), &sent.packs, stors).await?;
        }
        if missing.has_gone() {
            let all = sent.entries.iter().filter_map(|entry| Some((entry.content?, entry.size)));
            missing.read_tables(all, &sent.packs, stors).await?;
        }
        Ok(missing)
    }
}

impl Sent {
    /// Whether sending it again with what is missing could make it better.
    pub(crate) fn can_mend(&self, missing: &Missing) -> bool {
        self.local.iter().any(|(content, _)| missing.lacks_of(content))
    }

    /// Leaves out packs that no stor has, and no file is in: they were those of older versions.
    ///
    /// # Errors
    /// A file is in one of them.
    pub(crate) fn without(&mut self, missing: &Missing) -> Result<(), SendError> {
        let local = self.local.iter().map(|(content, _)| *content);
        missing
            .leave_out(&mut self.entries, local, &mut self.header)
            .map_err(|Gone { files, path }| SendError::Gone { files, path })
    }
}

/// The positions of files to be sent, and of those that somebody writes to.
fn ready(inner: &Inner, seen: &Seen, idle: Duration) -> (Vec<usize>, Vec<usize>) {
    let now = SystemTime::now();
    let mut positions: Vec<_> = seen.files.keys().copied().collect();
    positions.retain(|position| seen.entries[*position].link.is_none());
    positions.sort_unstable();
    positions.into_iter().partition(|position| {
        let changed = Waiting::new(&seen.entries[*position], None).since;
        let is_idle = now.duration_since(changed).is_ok_and(|since| since >= idle);
        is_idle || !inner.open.is_open_for_writing(seen.files[position].ino)
    })
}

/// What the last list says.
#[derive(Default)]
struct ListedBefore {
    /// Of paths that lead to other files now.
    replaced: HashMap<Vec<u8>, Entry>,
    packs: Vec<Pack>,
    /// The digests of its chunk tables.
    tables: HashSet<[u8; 32]>,
}

/// What the last list says, of these paths and of all its packs.
fn listed_before(list: &Path, sealing: Option<&Sealing>, paths: &HashSet<Vec<u8>>) -> ListedBefore {
    let read = || {
        let mut bytes = fs::read(list)?;
        if let Some(sealing) = sealing {
            bytes = sealing.reopen(&bytes).map_err(io::Error::other)?;
        }
        let source = Source::Bytes { name: "the last list", bytes: &bytes };
        Flist::parse(source, &ParseOptions::default()).map_err(io::Error::other)
    };
    match read() {
        Ok(Flist { header, entries, .. }) => {
            let tables = entries.iter().filter_map(|entry| table_of(&entry.content?)).collect();
            let known = entries.into_iter();
            let known = known.filter(|entry| entry.kind == Kind::Regular && paths.contains(&entry.path));
            let replaced = known.map(|entry| (entry.path.clone(), entry)).collect();
            ListedBefore { replaced, packs: header.packs, tables }
        }
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", list.display());
            ListedBefore::default()
        }
    }
}

/// Lists what was not sent as it was when it was sent last, or as what it replaces; returns what was neither.
fn as_sent_before(
    entries: &mut [Entry],
    files: &HashMap<usize, LocalFile>,
    unsent: &HashSet<usize>,
    replaced: &HashMap<Vec<u8>, Entry>,
) -> HashSet<Vec<u8>> {
    let mut gone = HashSet::new();
    for position in unsent {
        let entry = &mut entries[*position];
        match &files[position].older {
            Some(older) => older.describe(entry),
            // An empty file needs nothing of the stor.
            None if entry.size == 0 => {}
            None => match replaced.get(&entry.path) {
                Some(before) => *entry = before.clone(),
                None => drop(gone.insert(entry.path.clone())),
            },
        }
    }
    gone
}

/// A file whose content is in the stor.
struct Stored {
    position: usize,
    ino: Ino,
    entry: Entry,
    /// `None`: it is empty.
    content: Option<Content>,
}

impl Inner {
    /// Opens a file to be read, unless somebody is writing to it. Whoever opens it for writing from now on is noticed.
    fn open_to_push(&self, ino: Ino, idle: Duration) -> io::Result<Option<File>> {
        {
            // Who opens it for writing holds this lock, too.
            let mut tree = self.tree();
            if !self.open.is_open_for_writing(ino) {
                self.sending.begin(ino);
            } else if !is_idle(&mut tree, self, ino, idle) {
                return Ok(None);
            }
        }
        self.open_to_send(Some(ino))
    }

    /// Marks what nobody could write to since it was read. Returns how each file is to be listed: not as it was read, if somebody
    /// began to write to it meanwhile, since what was read may be a part of that.
    fn settle(
        &self,
        stored: Vec<Stored>,
        destination: &Destination,
        idle: Duration,
        log: &TransactionLog,
    ) -> Vec<(usize, Option<Entry>)> {
        let mut sent = Vec::new();
        let settled = stored.into_iter().map(|Stored { position, ino, entry, content }| {
            let Some(content) = content else { return (position, Some(entry)) };
            let mut tree = self.tree();
            if !self.sending.end(ino) {
                // One that is open and was left alone for long is listed, and looked at again the next time.
                let is_idle = self.open.is_open_for_writing(ino) && is_idle(&mut tree, self, ino, idle);
                return (position, is_idle.then_some(entry));
            }
            sent.push((entry.path.clone(), content.id));
            // Without a mark it is only sent again.
            if let Err(error) = tree.mark_pushed(&self.w, ino, (content, entry.mtime), destination) {
                tracing::debug!("inode {ino} is pushed, and cannot be marked as such: {error}");
            }
            (position, Some(entry))
        });
        let settled = settled.collect();
        log.add(&sent, SystemTime::now());
        settled
    }
}

/// Whether nobody has changed a file for so long.
fn is_idle(tree: &mut Tree, inner: &Inner, ino: Ino, idle: Duration) -> bool {
    let Ok(entry) = tree.attr(&inner.w, ino) else { return false };
    let changed = since(Timestamp { secs: entry.attr.mtime.secs, nanos: entry.attr.mtime.nanos });
    SystemTime::now().duration_since(changed).is_ok_and(|since| since >= idle)
}

/// A moment in the words of the system.
fn since(Timestamp { secs, nanos }: Timestamp) -> SystemTime {
    let after = |secs| SystemTime::UNIX_EPOCH.checked_add(Duration::new(secs, nanos));
    u64::try_from(secs).ok().and_then(after).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, SendError> + Send + 'static,
) -> Result<T, SendError> {
    tokio::task::spawn_blocking(job).await.expect("looking does not panic")
}
