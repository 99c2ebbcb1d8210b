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

use aysfs_flist::{Entry, Flist, Header, Kind, Pack, ParseOptions, Source, Timestamp};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Sealing;
use aysfs_store::{Content, StoreError};
use aysfs_vfs::{Error, ErrorKind, Ino, Result};
use futures::TryStreamExt;

use super::entries::{LocalFile, SeeError, Seen, SendProgress, see};
use super::known::known;
use super::moved::ancestors;
use super::pushed::Destination;
use super::tree::Tree;
use super::{Inner, Overlay};
use crate::abandoned::SetWhenDropped;
use crate::listed::Uses;
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
}

/// What became of a tree that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The tree as a list: all content that it names is in the stor.
    pub(crate) entries: Vec<Entry>,
    /// What a list of them says of packs, and what it was made from.
    pub(crate) header: Header,
    /// What the list is to be encrypted with.
    pub(crate) sealing: Option<Sealing>,
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
            let seen = see(&inner, Some(&destination), &SendProgress::default(), &flag)?;
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
        self.0.sending.clear();
        let looked = blocking(move || {
            let seen = see(&inner, Some(&destination), &counted, &flag)?;
            let (ready, busy) = ready(&inner, &seen, idle);
            Ok((seen, ready, busy))
        });
        let (Seen { mut entries, moved, files, base, mut packs, .. }, ready, busy) = looked.await?;

        let mut waiting: Vec<_> = busy
            .iter()
            .map(|at| Waiting::new(&entries[*at], Some("it is open for writing".into())))
            .collect();
        // What has not changed is named by the last list.
        let has_new = !ready.is_empty();
        let mut unsent: HashSet<usize> = busy.into_iter().collect();
        let inos: Arc<HashMap<usize, Ino>> =
            Arc::new(files.iter().map(|(position, file)| (*position, file.ino)).collect());
        let (inner, opened) = (self.0.clone(), inos.clone());
        let secret = self.stors().secret().cloned();
        let packing = Packing {
            compression: options.compression,
            known: known(&entries, &files, &packs, &base, secret.as_ref()),
            secret,
            // Whoever has mapped a file that passes through writes to it, and nobody else is told.
            mapped_stores: MappedStores::Noticed,
            to: To::All(self.0.w.lower.stors()),
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
            _ => Default::default(),
        };
        let (replaced, last_packs) = last;
        packs.extend(last_packs.iter().copied());
        as_sent_before(&mut entries, &files, &unsent, &replaced);
        let old = base.index().header();
        let mut header =
            Header { start: old.start.clone(), ancestors: ancestors(&base, moved), ..Header::default() };
        // The tables of files that were sent earlier name packs that the last list names.
        let in_tables = old.packs.iter().copied().chain(last_packs).chain(in_tables);
        pack::name_packs(&mut header, &Uses::of(&entries), &packs, in_tables);
        if has_new {
            pack::rely_on(To::All(self.0.w.lower.stors()), &header.packs).await?;
        }
        let sealing = self.sealing(&base);
        Ok(Sent { entries, header, sealing, files: count, waiting, new_objects, new_bytes })
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

/// What the last list says of these paths, which lead to other files now, and its packs.
fn listed_before(
    list: &Path,
    sealing: Option<&Sealing>,
    paths: &HashSet<Vec<u8>>,
) -> (HashMap<Vec<u8>, Entry>, Vec<Pack>) {
    let read = || {
        let mut bytes = fs::read(list)?;
        if let Some(sealing) = sealing {
            bytes = sealing.reopen(&bytes).map_err(io::Error::other)?;
        }
        let source = Source::Bytes { name: "the last list", bytes: &bytes };
        Flist::parse(source, &ParseOptions::default()).map_err(io::Error::other)
    };
    match read() {
        Ok(flist) => {
            let known = flist.entries.into_iter();
            let known = known.filter(|entry| entry.kind == Kind::Regular && paths.contains(&entry.path));
            (known.map(|entry| (entry.path.clone(), entry)).collect(), flist.header.packs)
        }
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", list.display());
            Default::default()
        }
    }
}

/// Lists what was not sent as it was when it was sent last, or as what it replaces, or not at all.
fn as_sent_before(
    entries: &mut Vec<Entry>,
    files: &HashMap<usize, LocalFile>,
    unsent: &HashSet<usize>,
    replaced: &HashMap<Vec<u8>, Entry>,
) {
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
    entries.retain(|entry| !gone.contains(entry.link.as_ref().unwrap_or(&entry.path)));
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
