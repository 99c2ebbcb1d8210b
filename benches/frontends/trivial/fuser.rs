//! As fuser's examples do it, with the settings of our adapter.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::UNIX_EPOCH;

use aysfs_vfs::kernel::{self, Mounted, Served};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, Session,
    SessionACL,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{AT_ONCE, FILE, NoCaches, ROOT, content, refused};
use crate::{NAME, SIZE};

const FILE_ATTR: FileAttr = FileAttr {
    ino: INodeNo(FILE),
    size: SIZE as u64,
    blocks: SIZE as u64 / 512,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0o644,
    nlink: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};
const ROOT_ATTR: FileAttr =
    FileAttr { ino: INodeNo(ROOT), kind: FileType::Directory, perm: 0o755, nlink: 2, ..FILE_ATTR };

pub(crate) struct Trivial;

impl Frontend for Trivial {
    fn name(&self) -> &'static str {
        "fuser"
    }

    fn mount(
        &self,
        _vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError> {
        let refused = refused(at);
        let (alive, ended) = watch::channel(());
        let mut config = Config::default();
        config.n_threads = Some(thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4)));
        config.clone_fd = true;
        let device = kernel::mount(self.name(), at, options)?;
        let mounted = Mounted::find(at.to_owned()).map_err(&refused)?;
        let session = Session::from_fd(Constant, device, SessionACL::All, config).map_err(&refused)?;
        thread::spawn(move || {
            session.run().expect("it is served");
            drop(alive);
        });
        Ok(Box::new(Served::new(mounted, NoCaches, ended, runtime.clone())))
    }
}

struct Constant;

impl Filesystem for Constant {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            config.add_capabilities(flag).ok();
        }
        config.set_max_write(1 << 20).expect("within fuser's limits");
        config.set_max_background(64).expect("within fuser's limits");
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry_with_ttls(&AT_ONCE, &AT_ONCE, &FILE_ATTR, Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&AT_ONCE, if ino.0 == FILE { &FILE_ATTR } else { &ROOT_ATTR });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(content(offset, size));
    }
}
