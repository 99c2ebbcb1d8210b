//! As polyfuse's examples do it, with the settings of our adapter.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aysfs_vfs::kernel::{self, Mounted, Served};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use polyfuse::reply::{AttrOut, EntryOut, FileAttr, OpenOut};
use polyfuse::{KernelConfig, Operation, Request, Session};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{AT_ONCE, FILE, NoCaches, ROOT, content, refused};
use crate::{NAME, SIZE};

/// The type and mode of the file and of the root.
const FILE_MODE: u32 = 0o100_644;
const ROOT_MODE: u32 = 0o040_755;

pub(crate) struct Trivial;

impl Frontend for Trivial {
    fn name(&self) -> &'static str {
        "polyfuse"
    }

    fn mount(
        &self,
        _vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError> {
        let (alive, ended) = watch::channel(());
        let mut config = KernelConfig::default();
        config
            .max_write(128 << 10)
            .max_background(2048)
            .congestion_threshold(1536)
            .parallel_dirops(true)
            .async_dio(true)
            .atomic_o_trunc(true)
            .readdirplus(true)
            .readdirplus_auto(true)
            .handle_killpriv(false)
            .auto_inval_data(false)
            .auto_unmount(false)
            .fusermount_path("/usr/bin/fusermount3")
            .mount_option(&kernel::helper_options(self.name(), options)?);
        let session = Session::mount(at.to_owned(), config).map_err(refused(at))?;
        let mounted = Mounted::find(at.to_owned()).map_err(refused(at))?;
        let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
        thread::spawn(move || {
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        while let Some(request) = next(&session) {
                            answer(&request).expect("the answer is taken");
                        }
                    });
                }
            });
            drop(session);
            drop(alive);
        });
        Ok(Box::new(Served::new(mounted, NoCaches, ended, runtime.clone())))
    }
}

fn next(session: &Session) -> Option<Request> {
    loop {
        match session.next_request() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            request => return request.expect("it is served"),
        }
    }
}

fn answer(request: &Request) -> io::Result<()> {
    match request.operation().expect("a message") {
        Operation::Lookup(op) if op.name() == NAME => {
            let mut out = EntryOut::default();
            fill(out.attr(), FILE, FILE_MODE);
            out.ino(FILE);
            out.ttl_attr(AT_ONCE);
            out.ttl_entry(AT_ONCE);
            request.reply(out)
        }
        Operation::Lookup(_) => request.reply_error(Errno::NOENT.raw_os_error()),
        Operation::Getattr(op) => {
            let mut out = AttrOut::default();
            match op.ino() {
                FILE => fill(out.attr(), FILE, FILE_MODE),
                _ => fill(out.attr(), ROOT, ROOT_MODE),
            }
            out.ttl(AT_ONCE);
            request.reply(out)
        }
        Operation::Open(_) => {
            let mut out = OpenOut::default();
            out.direct_io(true);
            request.reply(out)
        }
        Operation::Read(op) => request.reply(content(op.offset(), op.size())),
        Operation::Flush(_) | Operation::Release(_) => request.reply(()),
        Operation::Forget(_) => Ok(()),
        _ => request.reply_error(Errno::NOSYS.raw_os_error()),
    }
}

fn fill(attr: &mut FileAttr, ino: u64, mode: u32) {
    attr.ino(ino);
    attr.mode(mode);
    attr.size(SIZE as u64);
    attr.blocks(SIZE as u64 / 512);
    attr.nlink(1);
    attr.blksize(4096);
    attr.mtime(Duration::ZERO);
}
