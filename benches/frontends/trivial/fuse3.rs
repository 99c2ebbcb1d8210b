//! As fuse3's examples do it, with the settings of our adapter.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use aysfs_vfs::kernel::{self, Mounted, Served};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use bytes::Bytes;
use fuse3::raw::reply::{FileAttr, ReplyAttr, ReplyData, ReplyEntry, ReplyInit, ReplyOpen};
use fuse3::raw::{Filesystem, Request, Session};
use fuse3::{FileType, Inode, Result, Timestamp};
use rustix::io::Errno;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use super::{AT_ONCE, FILE, NoCaches, ROOT, content, refused};
use crate::{NAME, SIZE};

/// `FOPEN_DIRECT_IO`.
const DIRECT_IO: u32 = 1;

pub(crate) struct Trivial;

impl Frontend for Trivial {
    fn name(&self) -> &'static str {
        "fuse3"
    }

    fn mount(
        &self,
        _vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> std::result::Result<Box<dyn Mount>, MountError> {
        let (alive, ended) = watch::channel(());
        let mut settings = fuse3::MountOptions::default();
        settings.custom_options(kernel::helper_options(self.name(), options)?);
        let workers = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
        let workers = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
        let workers = workers.map_err(refused(at))?;
        let (tell, told) = oneshot::channel();
        let point = at.to_owned();
        thread::spawn(move || {
            workers.block_on(async {
                let session = Session::new(settings).mount_with_unprivileged(Constant, &point).await;
                tell.send(Mounted::find(point)).expect("it is waited for");
                session.expect("mounted").await.expect("it is served");
            });
            drop(alive);
        });
        let mounted = tokio::task::block_in_place(|| told.blocking_recv());
        let mounted = mounted.expect("it was mounted").map_err(refused(at))?;
        Ok(Box::new(Served::new(mounted, NoCaches, ended, runtime.clone())))
    }
}

struct Constant;

fn attr(ino: Inode) -> FileAttr {
    let epoch = Timestamp::new(0, 0);
    let (kind, perm, nlink) =
        if ino == FILE { (FileType::RegularFile, 0o644, 1) } else { (FileType::Directory, 0o755, 2) };
    FileAttr {
        ino,
        size: SIZE as u64,
        blocks: SIZE as u64 / 512,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
    }
}

impl Filesystem for Constant {
    async fn init(&self, _request: Request) -> Result<ReplyInit> {
        let mut reply = ReplyInit::new(NonZeroU32::new(1 << 20).expect("not zero"));
        reply.max_background = Some(4096);
        reply.congestion_threshold = Some(3072);
        Ok(reply)
    }

    async fn destroy(&self, _request: Request) {}

    async fn lookup(&self, _request: Request, _parent: Inode, name: &OsStr) -> Result<ReplyEntry> {
        match name == NAME {
            true => Ok(ReplyEntry { ttl: AT_ONCE, attr: attr(FILE), generation: 0 }),
            false => Err(Errno::NOENT.raw_os_error().into()),
        }
    }

    async fn getattr(
        &self,
        _request: Request,
        ino: Inode,
        _fh: Option<u64>,
        _flags: u32,
    ) -> Result<ReplyAttr> {
        Ok(ReplyAttr { ttl: AT_ONCE, attr: attr(if ino == FILE { FILE } else { ROOT }) })
    }

    async fn open(&self, _request: Request, _ino: Inode, _flags: u32) -> Result<ReplyOpen> {
        Ok(ReplyOpen { fh: 0, flags: DIRECT_IO })
    }

    async fn read(
        &self,
        _request: Request,
        _ino: Inode,
        _fh: u64,
        offset: u64,
        size: u32,
    ) -> Result<ReplyData> {
        Ok(Bytes::from_static(content(offset, size)).into())
    }
}
