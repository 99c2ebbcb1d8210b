//! A filesystem whose calls are counted and timed.
//!
//! [`Measured`] stands between a frontend and a [`Vfs`], changes nothing, and costs two looks at the clock, one allocation and
//! three atomic additions per call: some 100 ns (`cargo bench -p aysfs-benches --bench engine -- measured`).
//!
//! It sees what reaches the contract, and that is not all that programs do: what the kernel answers from its own caches, or reads
//! and writes by itself (FUSE passthrough), is no call.

#![deny(clippy::missing_trait_methods)]

use std::array;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Caller, Caps, Created, DirSink, Entry, Error, ErrorKind, FallocateMode, Fh, FileKind, FileRange, Ino,
    Lookup, Name, OpenFlags, Opened, RenameMode, Result, SeekWhence, SetAttr, SetXattrMode, StatFs, Vfs,
};

/// Declares the calls once: the variant, and the name of the method.
macro_rules! operations {
    ($($operation:ident = $name:literal,)*) => {
        /// The calls of [`Vfs`] that are measured: all but [`Vfs::caps`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Operation {
            $($operation,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$operation),*];

            /// The name of the method.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => $name,)*
                }
            }
        }
    };
}

operations! {
    Lookup = "lookup",
    Forget = "forget",
    Getattr = "getattr",
    Setattr = "setattr",
    Readlink = "readlink",
    Mknod = "mknod",
    Mkdir = "mkdir",
    Symlink = "symlink",
    Link = "link",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Rename = "rename",
    Open = "open",
    Create = "create",
    Read = "read",
    Write = "write",
    Flush = "flush",
    Fsync = "fsync",
    Release = "release",
    Opendir = "opendir",
    Readdir = "readdir",
    Fsyncdir = "fsyncdir",
    Releasedir = "releasedir",
    Statfs = "statfs",
    Fallocate = "fallocate",
    Lseek = "lseek",
    CopyFileRange = "copy_file_range",
    Setxattr = "setxattr",
    Getxattr = "getxattr",
    Listxattr = "listxattr",
    Removexattr = "removexattr",
}

/// The upper bounds of the histograms, in nanoseconds: two a decade, from a microsecond to half a minute.
const BOUNDS: [u64; 16] = [
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// The running totals of one filesystem.
#[derive(Default)]
pub struct Operations(Tallies);

struct Tallies([Tally; Operation::ALL.len()]);

impl Default for Tallies {
    fn default() -> Self {
        Self(array::from_fn(|_| Tally::default()))
    }
}

/// The totals of one operation.
struct Tally {
    begun: AtomicU64,
    /// Those that nobody waited for any more, or that panicked.
    abandoned: AtomicU64,
    nanos: AtomicU64,
    /// Those that took no longer than the bound of the same index, but longer than the one before; the last one has no bound.
    took: [AtomicU64; BOUNDS.len() + 1],
    /// By the position in [`ErrorKind::ALL`].
    failed: [AtomicU64; ErrorKind::ALL.len()],
}

impl Default for Tally {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            begun: zero(),
            abandoned: zero(),
            nanos: zero(),
            took: array::from_fn(|_| zero()),
            failed: array::from_fn(|_| zero()),
        }
    }
}

/// What is known of one operation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Which.
    pub operation: Operation,
    /// Calls that are under way: those that wait for a fetch, most likely.
    pub running: u64,
    /// Calls that ended without an answer: nobody waited for it any more.
    pub abandoned: u64,
    /// How long all answered calls took together.
    pub total: Duration,
    /// How many took no longer than so long, shortest first.
    pub within: Vec<(Duration, u64)>,
    /// Calls that were answered, also by an error.
    pub answered: u64,
    /// Calls that were answered by an error, by its kind. Some are everyday answers: no such attribute.
    pub failed: Vec<(ErrorKind, u64)>,
}

impl Operations {
    /// The totals now, in the order of [`Operation::ALL`].
    pub fn measurements(&self) -> impl Iterator<Item = Measurement> {
        Operation::ALL.iter().map(|operation| self.tally(*operation).measurement(*operation))
    }

    fn tally(&self, operation: Operation) -> &Tally {
        &self.0.0[operation as usize]
    }

    fn begin(&self, operation: Operation) -> Running<'_> {
        let tally = self.tally(operation);
        tally.begun.fetch_add(1, Relaxed);
        Running { tally, begun: Instant::now(), answered: false }
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.measurements()).finish()
    }
}

impl Tally {
    fn measurement(&self, operation: Operation) -> Measurement {
        let mut answered = 0;
        let mut up_to = |count: &AtomicU64| {
            answered += count.load(Relaxed);
            answered
        };
        let bounds = BOUNDS.iter().map(|nanos| Duration::from_nanos(*nanos));
        let within = bounds.zip(&self.took).map(|(bound, count)| (bound, up_to(count))).collect();
        let answered = up_to(&self.took[BOUNDS.len()]);
        let abandoned = self.abandoned.load(Relaxed);
        let failed = ErrorKind::ALL.iter().zip(&self.failed);
        Measurement {
            operation,
            // The ends were read first: more may have begun since, but none is missing.
            running: self.begun.load(Relaxed).saturating_sub(answered + abandoned),
            abandoned,
            total: Duration::from_nanos(self.nanos.load(Relaxed)),
            within,
            answered,
            failed: failed
                .map(|(kind, count)| (*kind, count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// A call that is under way.
struct Running<'a> {
    tally: &'a Tally,
    begun: Instant,
    answered: bool,
}

impl Running<'_> {
    fn end(mut self, error: Option<ErrorKind>) {
        let nanos = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.tally.nanos.fetch_add(nanos, Relaxed);
        if let Some(kind) = error {
            self.tally.failed[kind as usize].fetch_add(1, Relaxed);
        }
        self.tally.took[BOUNDS.partition_point(|bound| *bound < nanos)].fetch_add(1, Relaxed);
        self.answered = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.tally.abandoned.fetch_add(1, Relaxed);
        }
    }
}

/// A filesystem, and what was asked of it.
pub struct Measured {
    inner: Arc<dyn Vfs>,
    operations: Arc<Operations>,
}

impl Measured {
    /// Adds the calls of `inner` to `operations`.
    pub fn new(inner: Arc<dyn Vfs>, operations: Arc<Operations>) -> Self {
        Self { inner, operations }
    }

    async fn time<T>(&self, operation: Operation, call: impl Future<Output = Result<T>>) -> Result<T> {
        let running = self.operations.begin(operation);
        let result = call.await;
        running.end(result.as_ref().err().map(Error::kind));
        result
    }
}

#[async_trait]
impl Vfs for Measured {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup> {
        self.time(Operation::Lookup, self.inner.lookup(parent, name)).await
    }

    fn forget(&self, ino: Ino, count: u64) {
        let running = self.operations.begin(Operation::Forget);
        self.inner.forget(ino, count);
        running.end(None);
    }

    async fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<Entry> {
        self.time(Operation::Getattr, self.inner.getattr(ino, fh)).await
    }

    async fn setattr(&self, ino: Ino, fh: Option<Fh>, changes: SetAttr) -> Result<Entry> {
        self.time(Operation::Setattr, self.inner.setattr(ino, fh, changes)).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.time(Operation::Readlink, self.inner.readlink(ino)).await
    }

    async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        perm: u16,
    ) -> Result<Entry> {
        self.time(Operation::Mknod, self.inner.mknod(caller, parent, name, kind, perm)).await
    }

    async fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, perm: u16) -> Result<Entry> {
        self.time(Operation::Mkdir, self.inner.mkdir(caller, parent, name, perm)).await
    }

    async fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        self.time(Operation::Symlink, self.inner.symlink(caller, parent, name, target)).await
    }

    async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        self.time(Operation::Link, self.inner.link(ino, parent, name)).await
    }

    async fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        self.time(Operation::Unlink, self.inner.unlink(parent, name)).await
    }

    async fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        self.time(Operation::Rmdir, self.inner.rmdir(parent, name)).await
    }

    async fn rename(&self, from: Ino, name: &Name, to: Ino, new_name: &Name, mode: RenameMode) -> Result<()> {
        self.time(Operation::Rename, self.inner.rename(from, name, to, new_name, mode)).await
    }

    async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        self.time(Operation::Open, self.inner.open(ino, flags)).await
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        perm: u16,
        flags: OpenFlags,
    ) -> Result<Created> {
        self.time(Operation::Create, self.inner.create(caller, parent, name, perm, flags)).await
    }

    async fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        self.time(Operation::Read, self.inner.read(ino, fh, offset, size)).await
    }

    async fn write(&self, ino: Ino, fh: Fh, offset: u64, data: Bytes) -> Result<u32> {
        self.time(Operation::Write, self.inner.write(ino, fh, offset, data)).await
    }

    async fn flush(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.time(Operation::Flush, self.inner.flush(ino, fh)).await
    }

    async fn fsync(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<()> {
        self.time(Operation::Fsync, self.inner.fsync(ino, fh, data_only)).await
    }

    async fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.time(Operation::Release, self.inner.release(ino, fh)).await
    }

    async fn opendir(&self, ino: Ino) -> Result<Opened> {
        self.time(Operation::Opendir, self.inner.opendir(ino)).await
    }

    async fn readdir(&self, ino: Ino, fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> Result<()> {
        self.time(Operation::Readdir, self.inner.readdir(ino, fh, cookie, sink)).await
    }

    async fn fsyncdir(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<()> {
        self.time(Operation::Fsyncdir, self.inner.fsyncdir(ino, fh, data_only)).await
    }

    async fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.time(Operation::Releasedir, self.inner.releasedir(ino, fh)).await
    }

    async fn statfs(&self, ino: Ino) -> Result<StatFs> {
        self.time(Operation::Statfs, self.inner.statfs(ino)).await
    }

    async fn fallocate(&self, ino: Ino, fh: Fh, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        self.time(Operation::Fallocate, self.inner.fallocate(ino, fh, offset, len, mode)).await
    }

    async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: SeekWhence) -> Result<u64> {
        self.time(Operation::Lseek, self.inner.lseek(ino, fh, offset, whence)).await
    }

    async fn copy_file_range(&self, from: FileRange, to: FileRange, len: u64) -> Result<u64> {
        self.time(Operation::CopyFileRange, self.inner.copy_file_range(from, to, len)).await
    }

    async fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> Result<()> {
        self.time(Operation::Setxattr, self.inner.setxattr(ino, name, value, mode)).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        self.time(Operation::Getxattr, self.inner.getxattr(ino, name)).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        self.time(Operation::Listxattr, self.inner.listxattr(ino)).await
    }

    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.time(Operation::Removexattr, self.inner.removexattr(ino, name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memfs::MemFs;

    fn measured() -> (Measured, Arc<Operations>) {
        let operations = Arc::<Operations>::default();
        (Measured::new(Arc::new(MemFs::default()), operations.clone()), operations)
    }

    fn of(operations: &Operations, operation: Operation) -> Measurement {
        operations.measurements().find(|found| found.operation == operation).expect("all are there")
    }

    #[tokio::test]
    async fn calls_are_counted_by_operation_and_kind_of_error() {
        let (vfs, operations) = measured();
        for _ in 0..3 {
            vfs.getattr(Ino::ROOT, None).await.expect("the root");
        }
        vfs.getattr(Ino(4711), None).await.expect_err("no such inode");
        vfs.forget(Ino::ROOT, 1);
        let getattr = of(&operations, Operation::Getattr);
        assert_eq!((getattr.answered, getattr.running, getattr.abandoned), (4, 0, 0));
        assert_eq!(getattr.failed.iter().map(|(_, count)| count).sum::<u64>(), 1);
        assert!(getattr.total > Duration::ZERO);
        assert!(getattr.within.is_sorted(), "each bound holds those of the bounds below it");
        assert_eq!(of(&operations, Operation::Forget).answered, 1);
        assert_eq!(of(&operations, Operation::Read).answered, 0);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_is_neither_running_nor_answered() {
        let (vfs, operations) = measured();
        let mut call = Box::pin(vfs.time(Operation::Read, std::future::pending::<Result<()>>()));
        assert!(futures_poll(&mut call).is_pending());
        assert_eq!(of(&operations, Operation::Read).running, 1);
        drop(call);
        let read = of(&operations, Operation::Read);
        assert_eq!((read.answered, read.running, read.abandoned), (0, 0, 1));
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn a_time_counts_below_the_first_bound_that_it_does_not_exceed() {
        let operations = Operations::default();
        let tally = operations.tally(Operation::Read);
        for (index, nanos) in [(0, 0), (0, 1_000), (1, 1_001), (15, 30_000_000_000), (16, u64::MAX)] {
            assert_eq!(BOUNDS.partition_point(|bound| *bound < nanos), index, "{nanos}");
        }
        assert_eq!(tally.took.len(), BOUNDS.len() + 1);
    }

    #[test]
    fn totals_are_kept_by_position() {
        for (position, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, position);
        }
        for (position, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, position);
        }
    }
}
