//! Files become stored chunks: read and compressed on all cores, told in order, in bounded memory.
//!
//! One thread goes through the files. It gives small ones to others, several at a time, and cuts large ones itself, whose chunks it gives
//! to others. What these make of it is waited for in the order of the files. Whoever takes it gives back the memory by dropping it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aysfs_flist::Content;
use aysfs_store::codec::{self, Compression, Metered};
use aysfs_store::crypt::Secret;
use fastcdc::v2020::StreamCDC;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::error::UploadError;
use super::known::{Id, Stock};
use super::read::{MappedStores, Version, read_stable};
use crate::abandoned::WhileWanted;

/// A file up to this length is one chunk.
pub(super) const SMALL: u64 = 1 << 20;

/// The chunks of others: the shortest, the usual, the longest.
const CHUNK: (usize, usize, usize) = (256 << 10, 1 << 20, 4 << 20);

/// A chunk table of more would be longer than a chunk may be: some 250 GiB.
const CHUNKS: usize = 250_000;

/// How many bytes are in flight, plain and stored.
const BUDGET: u32 = 64 << 20;

/// What one thread is given at a time: so many files, or bytes.
const BATCH: (usize, u64) = (32, 256 << 10);

/// A file to be packed.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Of its entry.
    pub(crate) position: usize,
    pub(crate) path: Vec<u8>,
    /// As it was found; it may have changed since.
    pub(crate) size: u64,
}

/// What is to be done, in order.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// All of a file.
    Whole(Wanted),
    /// The chunks of a large file that hold these ranges; the file itself comes later.
    Parts(Wanted, Vec<Range<u64>>),
    /// What belongs into start packs is told.
    EndStart,
}

/// What happens next, in the order of the files, and within each in the order of its bytes.
#[derive(Debug)]
pub(super) enum Step {
    /// What was told of this file is void: it is read again.
    Again,
    /// The next chunk of the file.
    Chunk(Chunk),
    /// A chunk of a file that comes later.
    Part(Chunk),
    /// What belongs into start packs is told.
    EndStart,
    /// It was read, and the chunks since the last file are it.
    Read { position: usize, sha256: Id, version: Version },
    /// It was read, and is in the stor.
    Known { position: usize, content: Content, version: Version },
    /// It has become large since it was found.
    Grown(Wanted),
    /// It could not be read.
    Unread { position: usize, error: UploadError },
    /// What is to be done is not known any further.
    Lost(UploadError),
}

/// A chunk of a file.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) id: Id,
    /// Of the plain bytes.
    pub(super) length: u64,
    /// `None`: it was known already.
    pub(super) stored: Option<Vec<u8>>,
}

/// Opens a file, named by the position of its entry and its path; `None`: it is no regular file any more.
pub(super) type Open = dyn Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync;

/// How files are read, and what is made of them.
#[derive(Debug)]
pub(super) struct Encoding {
    pub(super) compression: Compression,
    /// What chunks are encrypted with, if they are.
    pub(super) secret: Option<Secret>,
    pub(super) mapped_stores: MappedStores,
    pub(super) stock: Stock,
    /// Set when nobody waits for the chunks any more: reading fails then.
    pub(super) abandoned: Arc<AtomicBool>,
}

impl Encoding {
    pub(super) fn chunk(&self, plain: &[u8]) -> Chunk {
        self.named_chunk(Sha256::digest(plain).into(), plain)
    }

    fn named_chunk(&self, id: Id, plain: &[u8]) -> Chunk {
        let is_known = self.stock.has_chunk(&id);
        let stored =
            (!is_known).then(|| codec::encode_named(plain, &id, self.compression, self.secret.as_ref()));
        Chunk { id, length: plain.len() as u64, stored }
    }

    /// Before a file is read.
    fn begin(&self, file: &File) -> io::Result<()> {
        if self.mapped_stores == MappedStores::Noticed {
            file.sync_data()?;
        }
        Ok(())
    }
}

/// Steps, in order, as they become known.
#[derive(Debug)]
pub(super) struct Steps {
    queue: mpsc::Receiver<Work>,
    current: Option<(Making, OwnedSemaphorePermit)>,
}

/// Steps that are ready, or being made; and the memory that they take.
type Work = (Making, OwnedSemaphorePermit);

#[derive(Debug)]
enum Making {
    Ready(Vec<Step>),
    Others(JoinHandle<Vec<Step>>),
}

impl Steps {
    /// Those of these tasks.
    pub(super) fn of(
        tasks: impl IntoIterator<Item = Result<Task, UploadError>> + Send + 'static,
        open: Arc<Open>,
        how: Arc<Encoding>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (sender, queue) = mpsc::channel(cores * 2);
        let budget = Arc::new(Semaphore::new(BUDGET as usize));
        let runtime = Handle::current();
        let mut feeder = Feeder { open, how, queue: sender, budget, runtime: runtime.clone() };
        runtime.spawn_blocking(move || feeder.feed(tasks));
        Self { queue, current: None }
    }

    /// The next ones, with the memory that they take; `None`: there are no more. To drop the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<(Vec<Step>, OwnedSemaphorePermit)> {
        if self.current.is_none() {
            self.current = Some(self.queue.recv().await?);
        }
        let (making, _) = self.current.as_mut()?;
        let steps = match making {
            Making::Ready(steps) => std::mem::take(steps),
            Making::Others(others) => others.await.expect("reading does not panic"),
        };
        let (_, permit) = self.current.take()?;
        Some((steps, permit))
    }
}

/// The thread that goes through the files.
struct Feeder {
    open: Arc<Open>,
    how: Arc<Encoding>,
    queue: mpsc::Sender<Work>,
    budget: Arc<Semaphore>,
    runtime: Handle,
}

/// Nobody takes steps any more.
struct Gone;

impl From<Gone> for io::Error {
    fn from(_: Gone) -> Self {
        Self::other("nobody waits for it any more")
    }
}

impl Feeder {
    fn feed(&mut self, tasks: impl IntoIterator<Item = Result<Task, UploadError>>) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let fed = tasks.into_iter().try_for_each(|task| {
            let task = match task {
                Ok(Task::Whole(file)) if file.size <= SMALL => {
                    bytes += file.size;
                    batch.push(file);
                    if batch.len() < BATCH.0 && bytes < BATCH.1 {
                        return Ok(());
                    }
                    None
                }
                other => Some(other),
            };
            self.small(std::mem::take(&mut batch), std::mem::take(&mut bytes))?;
            match task {
                None => Ok(()),
                Some(Ok(Task::Whole(file))) => self.large(&file),
                Some(Ok(Task::Parts(file, ranges))) => self.parts(&file, &ranges),
                Some(Ok(Task::EndStart)) => self.ready(Step::EndStart),
                Some(Err(error)) => self.ready(Step::Lost(error)),
            }
        });
        // Only if somebody is there to take it.
        let _ = fed.and_then(|()| self.small(batch, bytes));
    }

    fn small(&mut self, files: Vec<Wanted>, bytes: u64) -> Result<(), Gone> {
        if files.is_empty() {
            return Ok(());
        }
        let (open, how) = (self.open.clone(), self.how.clone());
        self.give(bytes, move || {
            let mut steps = Vec::with_capacity(files.len() * 2);
            for file in files {
                read_small(file, &*open, &how, &mut steps);
            }
            steps
        })
    }

    fn large(&mut self, file: &Wanted) -> Result<(), Gone> {
        let Wanted { position, ref path, .. } = *file;
        let shown = Path::new(OsStr::from_bytes(path));
        let (open, how) = (self.open.clone(), self.how.clone());
        let read = read_stable(
            shown,
            || open(position, path),
            |file, size| {
                how.begin(file)?;
                if how.stock.has_file_of(size) {
                    let mut hashed =
                        Metered::<_, Sha256>::new(WhileWanted { inner: &*file, abandoned: &how.abandoned });
                    io::copy(&mut hashed, &mut io::sink())?;
                    let (length, id) = hashed.finish();
                    if let Some(content) = how.stock.file(&id) {
                        return Ok((length, (id, Some(content))));
                    }
                    io::Seek::rewind(file)?;
                }
                self.ready(Step::Again)?;
                let mut hashed =
                    Metered::<_, Sha256>::new(WhileWanted { inner: file, abandoned: &how.abandoned });
                let (shortest, usual, longest) = CHUNK;
                for (number, chunk) in StreamCDC::new(&mut hashed, shortest, usual, longest).enumerate() {
                    if number == CHUNKS {
                        return Err(io::Error::other("it is too large to be listed: leave it out"));
                    }
                    let plain = chunk?.data;
                    let how = how.clone();
                    self.give(plain.len() as u64, move || vec![Step::Chunk(how.chunk(&plain))])?;
                }
                let (length, id) = hashed.finish();
                Ok((length, (id, None)))
            },
        );
        self.ready(match read {
            Ok(((sha256, None), version)) => Step::Read { position, sha256, version },
            Ok(((_, Some(content)), version)) => Step::Known { position, content, version },
            Err(error) => Step::Unread { position, error },
        })
    }

    /// Whatever is wrong with the file is told when all of it is read.
    fn parts(&mut self, file: &Wanted, ranges: &[Range<u64>]) -> Result<(), Gone> {
        let (shortest, usual, longest) = CHUNK;
        let Ok(Some(read)) = (self.open)(file.position, &file.path) else { return Ok(()) };
        let end = ranges.iter().map(|range| range.end).max().unwrap_or_default();
        let read = WhileWanted { inner: read, abandoned: &self.how.abandoned };
        for chunk in StreamCDC::new(read, shortest, usual, longest) {
            let Ok(chunk) = chunk else { break };
            let here = chunk.offset..chunk.offset + chunk.length as u64;
            if here.start >= end {
                break;
            }
            if ranges.iter().any(|range| range.start < here.end && here.start < range.end) {
                let how = self.how.clone();
                self.give(chunk.length as u64, move || vec![Step::Part(how.chunk(&chunk.data))])?;
            }
        }
        Ok(())
    }

    /// Has others make steps, of this many plain bytes.
    fn give(&self, bytes: u64, make: impl FnOnce() -> Vec<Step> + Send + 'static) -> Result<(), Gone> {
        // As much again once they are stored.
        let permit = self.claim(bytes.saturating_mul(2))?;
        let others = Making::Others(self.runtime.spawn_blocking(make));
        self.queue.blocking_send((others, permit)).map_err(|_| Gone)
    }

    fn ready(&self, step: Step) -> Result<(), Gone> {
        let permit = self.claim(0)?;
        self.queue.blocking_send((Making::Ready(vec![step]), permit)).map_err(|_| Gone)
    }

    fn claim(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Gone> {
        let bytes = u32::try_from(bytes).unwrap_or(BUDGET).min(BUDGET);
        self.runtime.block_on(self.budget.clone().acquire_many_owned(bytes)).map_err(|_| Gone)
    }
}

fn read_small(wanted: Wanted, open: &Open, how: &Encoding, steps: &mut Vec<Step>) {
    let Wanted { position, ref path, .. } = wanted;
    let shown = Path::new(OsStr::from_bytes(path));
    let read = read_stable(
        shown,
        || open(position, path),
        |file, size| {
            let mut plain = Vec::new();
            if size <= SMALL {
                how.begin(file)?;
                plain.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
                // One byte more than there should be shows that the file has grown.
                WhileWanted { inner: file, abandoned: &how.abandoned }
                    .take(size + 1)
                    .read_to_end(&mut plain)?;
                return Ok((plain.len() as u64, Some(plain)));
            }
            Ok((size, None))
        },
    );
    match read {
        Ok((Some(plain), version)) => {
            let sha256 = Sha256::digest(&plain).into();
            if let Some(content) = how.stock.file(&sha256) {
                steps.push(Step::Known { position, content, version });
                return;
            }
            if !plain.is_empty() {
                steps.push(Step::Chunk(how.named_chunk(sha256, &plain)));
            }
            steps.push(Step::Read { position, sha256, version });
        }
        Ok((None, _)) => steps.push(Step::Grown(wanted)),
        Err(error) => steps.push(Step::Unread { position, error }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    use super::super::read::open_path;
    use super::*;

    struct Trial {
        dir: tempfile::TempDir,
        how: Arc<Encoding>,
    }

    impl Trial {
        fn new() -> Self {
            let stock = Stock::new(HashMap::new(), Vec::new());
            let how = Encoding {
                compression: Compression::default(),
                secret: None,
                mapped_stores: MappedStores::Noticed,
                stock,
                abandoned: Arc::default(),
            };
            Self { dir: tempfile::tempdir().expect("a directory"), how: Arc::new(how) }
        }

        fn file(&self, position: usize, size: usize) -> Wanted {
            let path = self.dir.path().join(position.to_string());
            std::fs::write(&path, aysfs_store::contract::noise(position as u64, size)).expect("written");
            Wanted { position, path: path.into_os_string().into_encoded_bytes(), size: size as u64 }
        }

        /// What is told, in short; `opened` is called whenever a file was opened.
        async fn told(
            &self,
            files: Vec<Wanted>,
            opened: impl Fn(&Path) + Send + Sync + 'static,
        ) -> Vec<String> {
            let open = move |_: usize, path: &[u8]| {
                let path = PathBuf::from(OsStr::from_bytes(path));
                let file = open_path(&path);
                opened(&path);
                file
            };
            let tasks = files.into_iter().map(|file| Ok(Task::Whole(file)));
            let mut steps = Steps::of(tasks, Arc::new(open), self.how.clone());
            let mut told = Vec::new();
            while let Some((steps, _)) = steps.next().await {
                told.extend(steps.iter().map(|step| match step {
                    Step::Again => "again".into(),
                    Step::Chunk(_) => "chunk".into(),
                    Step::Read { position, .. } => format!("read {position}"),
                    Step::Grown(file) => format!("grown {}", file.position),
                    Step::Unread { position, .. } => format!("unread {position}"),
                    other => format!("{other:?}"),
                }));
            }
            told.dedup();
            told
        }
    }

    #[tokio::test]
    async fn files_are_told_in_order() {
        let trial = Trial::new();
        let files = vec![trial.file(0, 10), trial.file(1, 9 << 20), trial.file(2, 0), trial.file(3, 1 << 20)];
        let told = trial.told(files, |_| {}).await;
        let expected = ["chunk", "read 0", "again", "chunk", "read 1", "read 2", "chunk", "read 3"];
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn what_changes_while_it_is_read_is_void_and_read_again() {
        let trial = Trial::new();
        let changed = Mutex::new(0);
        let told = trial.told(vec![trial.file(0, 5 << 20)], move |path| {
            let mut times = changed.lock().expect("no panic");
            *times += 1;
            if *times > 1 {
                return;
            }
            // After it was opened the reader looks at it before it reads.
            let path = path.to_owned();
            std::thread::spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).expect("there");
                file.write_all(b"+").expect("written");
            })
            .join()
            .expect("no panic");
        });
        // Whether the change was seen at once or only afterwards, what counts comes last.
        assert_eq!(told.await.last().expect("told"), "read 0");
    }

    #[tokio::test]
    async fn one_that_has_grown_large_is_left_for_later() {
        let trial = Trial::new();
        let grown = Wanted { size: 5, ..trial.file(0, 2 << 20) };
        assert_eq!(trial.told(vec![grown, trial.file(1, 5)], |_| {}).await, ["grown 0", "chunk", "read 1"]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_read_to_its_end() {
        let trial = Trial::new();
        let flag = trial.how.abandoned.clone();
        let files = vec![trial.file(0, 10), trial.file(1, 9 << 20)];
        let told = trial.told(files, move |_| flag.store(true, Ordering::Relaxed)).await;
        assert_eq!(told, ["unread 0", "again", "unread 1"]);
    }
}
