//! The cache: plain, verified files by content id, and the fetches that fill it.
//!
//! The directory holds `<2 hex>/<content id>`, `packs/<key>` (see `packs.rs`) and `partial/`. Its invariants:
//! - A file gets its final name complete and verified, in one step. What is fetched in pieces is a sparse file
//!   without a name until its last chunk has arrived; chunks that are there are served meanwhile.
//! - Nothing reaches a reader before its chunk has the digest that the flist names. A file of several chunks is
//!   hashed as a whole before it gets its name, because other flists trust that name; until then it is shared only
//!   by readers with the same list of chunks. So a flist that lists wrong ones hurts its own readers only.
//! - The directory is not trusted either. A file is read if this user owns it, under one name, with the expected
//!   size, and with a seal (see [`Boot`]) from this boot that fits its times; without one it is hashed again first.
//! - A chunk is fetched once however many readers wait, by a task of its own: a reader that goes away disturbs
//!   nobody. When the fetch fails, those who wait get the error, and the next read tries again.
//! - A file may be lent to an inode of a mount, and given away to it; the cache then keeps a copy (see [`Lent`]).
//! - Nothing is fsynced. A crash of the program loses nothing that was published; one of the machine may, and the
//!   seal tells.
//! - A directory that cannot be written costs speed, not data: chunks are then kept in memory for a while, and
//!   fetched again after that.

mod age;
mod buffers;
mod clean;
mod disk;
mod error;
mod fetch;
mod file;
mod hold;
mod input;
mod keep;
mod lane;
mod loan;
mod memory;
mod packs;
mod partial;
mod readahead;
mod reply;
mod room;
mod run;
mod scan;
mod seal;
mod sole;
mod spans;
mod sparse;
mod stats;
#[cfg(test)]
mod tests;
mod upkeep;
mod usage;
mod verified;
mod window;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use lru::LruCache;
use rustix::buffer::spare_capacity;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, pread};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, Semaphore};

use self::buffers::Buffers;
use self::disk::{Disk, Doubtful, Found, PartialFile};
use self::error::Reason;
use self::lane::Lanes;
use self::memory::Memory;
use self::packs::{Packs, small};
use self::partial::{Partial, Publication, Task};
use self::room::Fruitless;
use self::stats::Counters;
use self::usage::Usage;
use crate::{Chunk, Content, ContentId, Key, Mirror};

pub use self::age::Clock;
pub use self::clean::{CleanMode, Cleaned, Inventory};
pub use self::disk::CacheError;
pub use self::error::FetchError;
pub use self::file::CachedFile;
pub use self::hold::Held;
pub use self::loan::{Borrower, Lent};
pub use self::seal::Boot;
pub use self::stats::CacheStats;
pub use self::upkeep::Upkeep;
pub use self::usage::{Limits, MinFree};
pub use self::verified::VerifiedFile;

/// How many chunk tables are kept in memory: a table of a file of 1 GiB takes 100 KB.
const TABLES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// How many partials are looked at for one to give up.
const EVICTION_SCAN: usize = 16;

/// How a cache behaves.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The longest a reader waits without a byte arriving.
    pub deadline: Duration,
    /// How many chunks are fetched at once from one [`Mirror`].
    pub parallel_fetches: usize,
    /// How many verified files are kept open; half of that many may be partials.
    pub open_files: NonZeroUsize,
    /// How many bytes of chunks are kept in memory while the directory cannot be written.
    pub memory: u64,
    /// How much of the disk it may take, and how long.
    pub limits: Limits,
    /// The boot that seals are compared with.
    pub boot: Boot,
    /// What time it is.
    pub clock: Clock,
}

impl Default for CacheOptions {
    /// 30 seconds, 64 fetches, half of the files that this process may open, 256 MiB, no limits, this boot.
    fn default() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let open_files = usize::try_from(limit / 2).unwrap_or(usize::MAX).clamp(16, 1 << 16);
        Self {
            deadline: Duration::from_secs(30),
            parallel_fetches: 64,
            open_files: NonZeroUsize::new(open_files).unwrap_or(NonZeroUsize::MIN),
            memory: 256 << 20,
            limits: Limits::default(),
            boot: Boot::current(),
            clock: Clock::default(),
        }
    }
}

/// Verified files by content id.
pub struct Cache {
    options: CacheOptions,
    disk: Disk,
    packs: Packs,
    /// Chunk tables that were read, by their id and the size of the file.
    tables: Mutex<LruCache<TableKey, Arc<[Chunk]>>>,
    memory: Memory,
    buffers: Buffers,
    lanes: Lanes,
    /// For as many chunks as are decoded at the same time.
    decoders: Semaphore,
    files: Mutex<Files>,
    counters: Counters,
    usage: Arc<Usage>,
    /// The last one who looked found less free than is to stay free.
    is_short_of_space: AtomicBool,
    /// Held by whoever evicts for room, so that one pass serves all who wait.
    cleaning: Mutex<Fruitless>,
    eviction_wanted: Arc<Notify>,
    empty: Arc<VerifiedFile>,
}

/// What is known without looking at the directory.
struct Files {
    /// Verified.
    open: LruCache<FileKey, Arc<VerifiedFile>>,
    /// Everything else that is in use.
    partials: LruCache<PartialKey, Arc<Partial>>,
    /// What must not be evicted, and how often somebody said so.
    held: HashMap<FileKey, usize>,
}

/// An id alone does not name a file: an MD5 may be that of a stored body, which two flists may read differently.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FileKey {
    id: ContentId,
    size: u64,
}

/// The id of a chunk table, and the size of the file that it is for.
type TableKey = (ContentId, u64);

/// The whole content, chunks included: until a file is verified as a whole, its bytes are only what one flist says.
struct PartialKey(Content);

/// Where a content is.
enum Place {
    Open(Arc<VerifiedFile>),
    Partial(Arc<Partial>),
}

impl Files {
    fn get(&mut self, content: &Content) -> Option<Place> {
        if let Some(file) = self.open.get(&FileKey::of(content)) {
            return Some(Place::Open(file.clone()));
        }
        self.partials.get(&PartialKey(content.clone())).cloned().map(Place::Partial)
    }
}

impl Cache {
    /// Opens the cache in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// If it cannot be, or if another user could change what it holds.
    pub fn open(directory: &Path, options: CacheOptions) -> Result<Arc<Self>, CacheError> {
        let usage = Arc::new(Usage::new(options.limits));
        let disk = Disk::open(directory, options.boot.clone(), options.clock.clone(), usage.clone())?;
        let empty = memfd_create("aysfs-empty", MemfdFlags::CLOEXEC)
            .map_err(|error| CacheError::Io { path: directory.into(), source: error.into() })?;
        let packs = Packs::new(disk.root().clone(), options.clock.clone(), usage.clone());
        Ok(Arc::new(Self {
            disk,
            packs,
            tables: Mutex::new(LruCache::new(TABLES)),
            memory: Memory::new(options.memory),
            buffers: Buffers::default(),
            lanes: Lanes::new(options.parallel_fetches),
            decoders: Semaphore::new(available_parallelism().map_or(1, usize::from)),
            files: Mutex::new(Files {
                open: LruCache::sparse(options.open_files),
                partials: LruCache::unbounded(),
                held: HashMap::new(),
            }),
            counters: Counters::default(),
            usage,
            is_short_of_space: AtomicBool::new(false),
            cleaning: Mutex::default(),
            eviction_wanted: Arc::default(),
            empty: Arc::new(VerifiedFile::new(empty.into(), &options.clock, 0)),
            options,
        }))
    }

    /// A content, to be read from the cache and fetched from `sources` where the cache lacks it. Costs nothing.
    pub fn file(self: &Arc<Self>, content: &Content, sources: &Arc<Mirror>) -> CachedFile {
        CachedFile { cache: self.clone(), content: content.clone(), sources: sources.clone() }
    }

    /// Reads up to `length` bytes of a content that is open here already, fewer only at the end of the file: most reads are such,
    /// and need not know what the content is made of. `None` if it is not open, or cannot be read: [`CachedFile::read`] knows
    /// what to do then.
    pub fn read_open(&self, id: &ContentId, size: u64, offset: u64, length: usize) -> Option<Bytes> {
        let part = offset..offset.saturating_add(length as u64).min(size);
        if part.is_empty() {
            return Some(Bytes::new());
        }
        let file = lock(&self.files).open.get(&FileKey { id: *id, size })?.clone();
        let mut bytes = Vec::with_capacity(usize::try_from(part.end - part.start).ok()?);
        file.append(part, &mut bytes).ok().filter(|()| file.is_intact())?;
        self.counters.hits.add(1);
        self.counters.read_bytes.add(bytes.len() as u64);
        Some(bytes.into())
    }

    /// Whether a content is there: verified in this boot, or what its pack is kept of. Fetches nothing.
    pub fn contains(&self, content: &Content) -> bool {
        if let Some(chunk) = small(content)
            && let Some(part) = &chunk.part
            && self.packs.contains(&chunk.key, part)
        {
            return true;
        }
        lock(&self.files).open.contains(&FileKey::of(content))
            || matches!(self.disk.find(&content.id, content.size), Found::Verified(_))
    }

    /// Removes a content. Whoever has it open keeps it.
    ///
    /// # Errors
    /// Those of the directory; a content that is not there is none.
    pub fn remove(&self, id: &ContentId, size: u64) -> io::Result<()> {
        lock(&self.files).open.pop(&FileKey { id: *id, size });
        self.disk.remove(id)
    }

    /// Removes what is kept of a pack, unless somebody uses it now.
    pub fn remove_pack(&self, key: &Key) {
        self.packs.evict(key, 0, CleanMode::Remove);
    }

    /// What it keeps to.
    pub fn limits(&self) -> Limits {
        self.options.limits
    }

    /// What it did until now.
    pub fn stats(&self) -> CacheStats {
        self.counters.snapshot()
    }

    /// Finds a content, or makes a partial of it; costs a few system calls for a file that is not open.
    fn locate(self: &Arc<Self>, content: &Content) -> Place {
        if let Some(place) = lock(&self.files).get(content) {
            return place;
        }
        let found = self.disk.find(&content.id, content.size);
        let mut files = lock(&self.files);
        if let Some(place) = files.get(content) {
            return place;
        }
        let doubt = match found {
            Found::Verified(file) => {
                let file = Arc::new(file);
                self.keep_open(&mut files, content, file.clone());
                return Place::Open(file);
            }
            Found::Doubtful(doubtful) => Some(self.verify(content, doubtful)),
            Found::Absent => None,
        };
        if files.partials.len() >= self.options.open_files.get().div_ceil(2) {
            let mut oldest = files.partials.iter().rev().take(EVICTION_SCAN);
            if let Some((_, idle)) = oldest.find(|(_, partial)| partial.is_idle()) {
                let idle = PartialKey(idle.content().clone());
                files.partials.pop(&idle);
                self.counters.evicted_partials.add(1);
            }
        }
        let partial = Arc::new(Partial::new(content.clone(), doubt));
        files.partials.put(PartialKey(content.clone()), partial.clone());
        Place::Partial(partial)
    }

    /// Starts to hash a file of the directory.
    fn verify(self: &Arc<Self>, content: &Content, doubtful: Doubtful) -> Task<()> {
        let (cache, content) = (self.clone(), content.clone());
        let verification = move || match cache.disk.verify(doubtful, &content.id) {
            Ok(Some(file)) => {
                cache.counters.reverified.add(1);
                cache.admit(&content, Arc::new(file));
            }
            Ok(None) => {
                tracing::warn!("{} was damaged in the cache, fetching it again", content.id);
                cache.counters.damaged_files.add(1);
            }
            Err(error) => {
                tracing::warn!("{} cannot be read from the cache, fetching it again: {error}", content.id);
                cache.counters.damaged_files.add(1);
            }
        };
        tokio::task::spawn_blocking(verification).map(drop).boxed().shared()
    }

    /// The check of a partial that has all its chunks; `None` if it lacks one.
    fn publication(self: &Arc<Self>, partial: &Arc<Partial>) -> Option<Publication> {
        partial.publication(|file| {
            let (cache, content) = (self.clone(), partial.content().clone());
            let id = content.id;
            tokio::task::spawn_blocking(move || cache.publish_whole(&content, &file))
                .map(move |ended| ended.unwrap_or(Err(Reason::Aborted)))
                .map(move |ended| ended.map_err(|reason| FetchError::new(id, reason)))
                .boxed()
                .shared()
        })
    }

    /// Publishes a file of verified chunks if they make up what its id says.
    fn publish_whole(&self, content: &Content, file: &PartialFile) -> Result<Arc<VerifiedFile>, Reason> {
        let found = disk::digest(file.file(), &content.id).map_err(Reason::Local)?;
        if found != content.id {
            tracing::warn!("the chunks of {} make up {found}: the flist contradicts itself", content.id);
            self.counters.verification_failures.add(1);
            return Err(Reason::Flist(found));
        }
        self.publish(content, file, found)
    }

    /// Gives a verified file its name; if the directory does not take it, it is used without one.
    fn publish(
        &self,
        content: &Content,
        file: &PartialFile,
        plain: ContentId,
    ) -> Result<Arc<VerifiedFile>, Reason> {
        // A name and a seal take room, too.
        let published = self.write_with_room(0, || self.disk.publish(file, &content.id, plain));
        let file = match published {
            Ok(file) => {
                if self.disk.works() {
                    self.memory.clear();
                }
                file
            }
            Err(error) => {
                self.disk.failed(&error);
                file.file().try_clone().map_err(Reason::Local)?
            }
        };
        let file = Arc::new(self.new_file(file));
        self.admit(content, file.clone());
        Ok(file)
    }

    /// A verified file that was written just now.
    fn new_file(&self, file: File) -> VerifiedFile {
        VerifiedFile::new(file, &self.options.clock, self.options.clock.now())
    }

    /// Keeps a verified file open; one that was not used for a long time may have to be closed for it.
    fn keep_open(&self, files: &mut Files, content: &Content, file: Arc<VerifiedFile>) {
        if let Some((key, closed)) = files.open.push(FileKey::of(content), file)
            && key != FileKey::of(content)
        {
            self.note_closed(&key.id, &closed);
        }
    }

    /// Makes a verified file the place of its content.
    fn admit(&self, content: &Content, file: Arc<VerifiedFile>) {
        let mut files = lock(&self.files);
        files.partials.pop(&PartialKey(content.clone()));
        self.keep_open(&mut files, content, file);
    }

    /// Keeps a verified file open that was found in the directory, unless somebody else has found it before.
    fn admit_found(&self, content: &Content, file: VerifiedFile) {
        let mut files = lock(&self.files);
        if files.get(content).is_none() {
            self.keep_open(&mut files, content, Arc::new(file));
        }
    }

    /// Gives up a partial whose file cannot be read.
    fn give_up(&self, partial: &Arc<Partial>, error: &io::Error) {
        self.disk.failed(error);
        self.drop_partial(partial);
    }

    /// Forgets what is there of a partial; whoever reads it now goes on with it.
    fn drop_partial(&self, partial: &Arc<Partial>) {
        let key = PartialKey(partial.content().clone());
        let mut files = lock(&self.files);
        if files.partials.peek(&key).is_some_and(|known| Arc::ptr_eq(known, partial)) {
            files.partials.pop(&key);
        }
    }

    /// Closes a verified file that belongs to somebody else by now.
    fn let_go(&self, content: &Content, file: &Arc<VerifiedFile>) {
        let key = FileKey::of(content);
        let mut files = lock(&self.files);
        if files.open.peek(&key).is_some_and(|known| Arc::ptr_eq(known, file)) {
            files.open.pop(&key);
        }
    }

    /// Gives up a verified file that cannot be read.
    fn distrust(&self, content: &Content, error: &io::Error) {
        self.counters.damaged_files.add(1);
        self.disk.failed(error);
        lock(&self.files).open.pop(&FileKey::of(content));
        self.disk.shun(&content.id);
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl FileKey {
    fn of(content: &Content) -> Self {
        Self { id: content.id, size: content.size }
    }
}

impl PartialEq for PartialKey {
    fn eq(&self, Self(other): &Self) -> bool {
        let Self(this) = self;
        let same_chunks = || Arc::ptr_eq(&this.chunks, &other.chunks) || this.chunks == other.chunks;
        FileKey::of(this) == FileKey::of(other) && same_chunks()
    }
}

impl Eq for PartialKey {}

impl Hash for PartialKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        FileKey::of(&self.0).hash(state);
    }
}

/// Appends a part of a file, all of it.
fn append_at(file: &File, part: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let before = bytes.len();
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    bytes.reserve(length);
    while bytes.len() - before < length {
        let done = (bytes.len() - before) as u64;
        match pread(file, spare_capacity(bytes), part.start + done) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may have been room for more than was asked for.
    bytes.truncate(before + length);
    Ok(())
}

/// Locks what is consistent at every point where a thread could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
