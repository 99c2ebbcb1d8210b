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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aysfs_flist::{Entry, Kind};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Secret;
use aysfs_store::{Fault, Key, Mirror, Store, StoreError, Stored, Upload};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::content::{self, Encoding, Object};
pub(crate) use super::content::{FileContent, Form, MappedStores};
use crate::abandoned::SetWhenDropped;
use crate::push::Journal;

/// How many objects a stor is asked about at once.
const BATCH: usize = 32;

/// How many batches are on their way at the same time.
const BATCHES: usize = 2;

/// How many objects are on their way at once where nobody else is to be spared.
pub(crate) const AT_ONCE: usize = BATCH * BATCHES;

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

    /// What is to be said of a stor that took an object and does not have it.
    fn has_lost(self, key: &Key) -> StoreError {
        self.error(key, Fault::Unavailable("it has taken the object, and does not have it".into()))
    }

    /// What is to be said of one that has not taken the same object of another file.
    fn has_refused(self, key: &Key) -> StoreError {
        self.error(key, Fault::Refused("as the same content of another file".into()))
    }

    fn error(self, key: &Key, fault: Fault) -> StoreError {
        let stor = match self {
            Self::One(stor) => stor.name(),
            Self::All(stors) => stors.first().name(),
        };
        StoreError { stor: stor.to_owned(), subject: key.to_string(), fault }
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
    /// How objects of v2 are compressed.
    pub(crate) compression: Compression,
    /// What objects of v2 are encrypted with, if they are.
    pub(crate) secret: Option<Secret>,
    /// Where the stored form of a large file is kept until it is sent.
    pub(crate) spool: PathBuf,
    pub(crate) mapped_stores: MappedStores,
    pub(crate) to: To<'a>,
    /// How many objects are on their way at once.
    pub(crate) at_once: usize,
    /// Where it is noted what is about to be sent; the stor is asked afterwards whether it has it.
    pub(crate) journal: Option<Arc<Journal>>,
    /// Bytes of content that are in the stor.
    pub(crate) bytes_done: &'a AtomicU64,
}

/// What became of one file.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its content is in the stor.
    Stored {
        position: usize,
        file: Box<FileContent>,
        /// The length of its object, if the stor did not have that.
        new: Option<u64>,
    },
    /// It could not be read.
    Unread { position: usize, error: UploadError },
}

/// What is known of the objects of one run.
#[derive(Default)]
struct Sending {
    /// Those that are in the stor, or on their way.
    begun: HashSet<Key>,
    /// What those that are there are called there.
    stored: HashMap<Key, Key>,
    /// Files whose objects were on their way already: their positions, and the keys.
    twins: Vec<(usize, FileContent, Key)>,
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
        let wanted = |(_, entry): &(usize, &Entry)| self.form.needs_object(entry);
        let files = entries.iter().enumerate().filter(wanted);
        let files = files.map(|(position, entry)| (position, entry.path.clone())).collect();
        let mut outcomes = std::pin::pin!(self.outcomes(files, open));
        let mut summary = Summary::default();
        while let Some(batch) = outcomes.try_next().await? {
            for outcome in batch {
                match outcome {
                    Outcome::Stored { position, file, new } => {
                        summary.files += 1;
                        summary.bytes += file.size();
                        summary.new_objects += u64::from(new.is_some());
                        summary.new_bytes += new.unwrap_or_default();
                        file.describe(&mut entries[position]);
                    }
                    Outcome::Unread { error, .. } => return Err(error),
                }
            }
        }
        Ok(summary)
    }

    /// Sends the content of files, named by a position and a path, and tells what became of each, in no order.
    pub(crate) fn outcomes(
        &self,
        files: Vec<(usize, Vec<u8>)>,
        open: impl Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static,
    ) -> impl Stream<Item = Result<Vec<Outcome>, UploadError>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let open = Arc::new(open);
        let abandoned = SetWhenDropped::default();
        let how = Arc::new(Encoding {
            form: self.form,
            compression: self.compression,
            secret: self.secret.clone(),
            spool: self.spool.clone(),
            mapped_stores: self.mapped_stores,
            abandoned: abandoned.0.clone(),
        });
        let sending = Arc::new(Mutex::new(Sending::default()));
        let sent = sending.clone();
        stream::iter(files)
            .map(move |(position, path)| {
                // Set when the stream is dropped.
                let _ = &abandoned;
                let (how, open) = (how.clone(), open.clone());
                blocking(move || {
                    let shown = Path::new(OsStr::from_bytes(&path));
                    let object = content::encode(shown, || open(position, &path), &how);
                    Ok(Encoded { position, path, object })
                })
            })
            .buffer_unordered(cores)
            // What is large waits on the disk.
            .ready_chunks(self.at_once.div_ceil(BATCHES).min(BATCH))
            .map(move |batch| self.send(batch, sending.clone()))
            .buffer_unordered(BATCHES)
            .chain(stream::once(async move { Ok(self.twins(&sent)) }))
    }

    /// Sends what is lacking of a batch.
    async fn send(
        &self,
        batch: Vec<Result<Encoded, UploadError>>,
        sending: Arc<Mutex<Sending>>,
    ) -> Result<Vec<Outcome>, UploadError> {
        let (mut outcomes, mut first, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
        for encoded in batch {
            let Encoded { position, path, object } = encoded?;
            match object {
                Ok(Object { file, key, upload }) => {
                    let mut sending = lock(&sending);
                    if sending.begun.insert(key.clone()) {
                        first.push((position, file, key.clone()));
                        unsent.push(Unsent { key, path, upload });
                    } else {
                        sending.twins.push((position, file, key));
                    }
                }
                Err(error) => outcomes.push(Outcome::Unread { position, error }),
            }
        }
        if unsent.is_empty() {
            return Ok(outcomes);
        }
        let (mut new, mut refused) = self.send_objects(unsent, &sending).await?;
        for (position, file, key) in first {
            let new = new.remove(&key);
            outcomes.push(match refused.remove(&key) {
                Some(error) => Outcome::Unread { position, error: error.into() },
                None => self.outcome(position, file, &lock(&sending).stored[&key], new),
            });
        }
        Ok(outcomes)
    }

    /// Sends the objects that are lacking; returns the lengths of those that the stor did not have, and those that it does not take.
    async fn send_objects(
        &self,
        objects: Vec<Unsent>,
        sending: &Mutex<Sending>,
    ) -> Result<(HashMap<Key, u64>, HashMap<Key, StoreError>), UploadError> {
        let keys: Vec<Key> = objects.iter().map(|object| object.key.clone()).collect();
        let there = self.to.has(&keys).await?;
        let (there, lacking): (Vec<_>, Vec<_>) =
            objects.into_iter().zip(there).partition(|(_, there)| *there);
        lock(sending).stored.extend(there.into_iter().map(|(object, _)| (object.key.clone(), object.key)));
        if let Some(journal) = &self.journal
            && !lacking.is_empty()
        {
            let noted = lacking.iter().map(|(object, _)| (object.key.clone(), object.path.clone())).collect();
            let journal = journal.clone();
            blocking(move || Ok(journal.note(noted)?)).await?;
        }
        let mut answers = stream::iter(lacking)
            .map(|(Unsent { key, upload, .. }, _)| async move {
                let stored = self.to.put(&key, &upload).await;
                (key, stored, upload.length())
            })
            .buffer_unordered(self.at_once.div_ceil(BATCHES));
        let (mut sent, mut refused) = (Vec::new(), HashMap::new());
        while let Some((key, stored, length)) = answers.next().await {
            match stored {
                Ok(stored) => sent.push((key, stored, length)),
                // Of this object only; another one may be taken.
                Err(error) if matches!(error.fault, Fault::Refused(_) | Fault::Protocol(_)) => {
                    refused.insert(key, error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(answers);
        if self.journal.is_some() {
            self.confirm(&sent).await?;
        }
        lock(sending).stored.extend(sent.iter().map(|(key, stored, _)| (key.clone(), stored.key.clone())));
        let created = sent.into_iter().filter(|(_, stored, _)| stored.created);
        Ok((created.map(|(key, _, length)| (key, length)).collect(), refused))
    }

    /// What became of files whose objects others have sent.
    fn twins(&self, sending: &Mutex<Sending>) -> Vec<Outcome> {
        let Sending { twins, stored, .. } = std::mem::take(&mut *lock(sending));
        let twins = twins.into_iter().map(|(position, file, key)| match stored.get(&key) {
            Some(stored) => self.outcome(position, file, stored, None),
            // Whose content the stor does not take.
            None => Outcome::Unread { position, error: self.to.has_refused(&key).into() },
        });
        twins.collect()
    }

    /// A file whose object is in the stor, under this key.
    fn outcome(&self, position: usize, mut file: FileContent, stored: &Key, new: Option<u64>) -> Outcome {
        self.bytes_done.fetch_add(file.size(), Ordering::Relaxed);
        file.found_under(stored);
        Outcome::Stored { position, file: file.into(), new }
    }

    /// Asks the stor whether it has what it has taken.
    async fn confirm(&self, sent: &[(Key, Stored, u64)]) -> Result<(), UploadError> {
        let keys: Vec<Key> = sent.iter().map(|(_, stored, _)| stored.key.clone()).collect();
        let there = self.to.has(&keys).await?;
        match keys.iter().zip(there).find(|(_, there)| !there) {
            Some((key, _)) => Err(self.to.has_lost(key).into()),
            None => Ok(()),
        }
    }
}

/// An object that may have to be sent.
struct Unsent {
    key: Key,
    /// Of a file that it is the content of.
    path: Vec<u8>,
    upload: Upload,
}

/// A file that was read, or could not be.
struct Encoded {
    position: usize,
    path: Vec<u8>,
    object: Result<Object, UploadError>,
}

fn lock(sending: &Mutex<Sending>) -> MutexGuard<'_, Sending> {
    sending.lock().unwrap_or_else(PoisonError::into_inner)
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
