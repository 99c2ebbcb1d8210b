//! The same filesystem, with a kernel that caches nothing of it.

use std::time::Duration;

use async_trait::async_trait;
use aysfs_engine::AysFs;
use aysfs_vfs::{
    Caller, Caps, Created, DirSink, Entry, FallocateMode, Fh, FileKind, FileRange, Ino, KernelCache, Lookup,
    Name, OpenFlags, Opened, RenameMode, Result, SeekWhence, SetAttr, SetXattrMode, StatFs, TimeToLive, Vfs,
};
use bytes::Bytes;

/// An [`AysFs`] of which the kernel believes nothing for longer than an answer takes.
pub(crate) struct EachMessage(pub(crate) AysFs);

const AT_ONCE: TimeToLive = TimeToLive { entry: Duration::ZERO, attr: Duration::ZERO };

/// Calls that are passed on, with what is done to the answer.
macro_rules! passed_on {
    ($($call:ident($($argument:ident: $type:ty),*) -> $result:ty $(=> $change:expr)?;)*) => {
        #[async_trait]
        impl Vfs for EachMessage {
            fn caps(&self) -> Caps {
                Caps { stateless: false, backing_files: false, ..self.0.caps() }
            }

            fn forget(&self, ino: Ino, count: u64) {
                self.0.forget(ino, count);
            }

            $(async fn $call(&self, $($argument: $type),*) -> Result<$result> {
                let answer = self.0.$call($($argument),*).await;
                $(let answer = answer.map($change);)?
                answer
            })*
        }
    };
}

fn forgotten(entry: Entry) -> Entry {
    Entry { ttl: AT_ONCE, ..entry }
}

passed_on! {
    lookup(parent: Ino, name: &Name) -> Lookup => |found| match found {
        Lookup::Found(entry) => Lookup::Found(forgotten(entry)),
        Lookup::Absent(_) => Lookup::Absent(Duration::ZERO),
    };
    getattr(ino: Ino, fh: Option<Fh>) -> Entry => forgotten;
    setattr(ino: Ino, fh: Option<Fh>, changes: SetAttr) -> Entry;
    readlink(ino: Ino) -> Bytes;
    mknod(caller: Caller, parent: Ino, name: &Name, kind: FileKind, perm: u16) -> Entry;
    mkdir(caller: Caller, parent: Ino, name: &Name, perm: u16) -> Entry;
    symlink(caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Entry;
    link(ino: Ino, parent: Ino, name: &Name) -> Entry;
    unlink(parent: Ino, name: &Name) -> ();
    rmdir(parent: Ino, name: &Name) -> ();
    rename(from: Ino, name: &Name, to: Ino, new_name: &Name, mode: RenameMode) -> ();
    open(ino: Ino, flags: OpenFlags) -> Opened =>
        |opened| Opened { cache: KernelCache::Direct, backing: None, ..opened };
    create(caller: Caller, parent: Ino, name: &Name, perm: u16, flags: OpenFlags) -> Created;
    read(ino: Ino, fh: Fh, offset: u64, size: u32) -> Bytes;
    write(ino: Ino, fh: Fh, offset: u64, data: Bytes) -> u32;
    flush(ino: Ino, fh: Fh) -> ();
    fsync(ino: Ino, fh: Fh, data_only: bool) -> ();
    release(ino: Ino, fh: Fh) -> ();
    opendir(ino: Ino) -> Opened;
    readdir(ino: Ino, fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> ();
    fsyncdir(ino: Ino, fh: Fh, data_only: bool) -> ();
    releasedir(ino: Ino, fh: Fh) -> ();
    statfs(ino: Ino) -> StatFs;
    fallocate(ino: Ino, fh: Fh, offset: u64, len: u64, mode: FallocateMode) -> ();
    lseek(ino: Ino, fh: Fh, offset: u64, whence: SeekWhence) -> u64;
    copy_file_range(from: FileRange, to: FileRange, len: u64) -> u64;
    setxattr(ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> ();
    getxattr(ino: Ino, name: &[u8]) -> Bytes;
    listxattr(ino: Ino) -> Bytes;
    removexattr(ino: Ino, name: &[u8]) -> ();
}
