//! What the requests of a mount share: the filesystem, what was agreed on with the kernel, and how a request
//! becomes exactly one answer.

use std::fs::File;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};

use aysfs_vfs::kernel::{self, raw};
use aysfs_vfs::{
    Error, Fh, Ino, KernelCache, MountOptions, OpenFlags, Opened, Passthrough, Result, Vfs, drive,
};
use fuser::{
    BackingId, Errno, FileHandle, INodeNo, InitFlags, KernelConfig, ReplyAttr, ReplyCreate, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::convert;
use crate::listing::Page;
use crate::passthrough::Backings;

/// Largest write, and largest read, in bytes.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel sends ahead (readahead, writeback) before it waits for answers. Many: reads for the page
/// cache are among them, so this many slow fetches would hold up the reads of everybody else.
const MAX_BACKGROUND: u16 = 4096;

/// fuser's side of one mount.
pub(crate) struct Adapter(Arc<Shared>);

/// What every request holds on to; the mount is over when nobody does any more.
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    runtime: Handle,
    wants_passthrough: bool,
    suid: bool,
    agreed: OnceLock<Agreed>,
    backings: Backings,
    _alive: watch::Sender<()>,
}

/// What the kernel and this adapter agreed on when the mount began.
#[derive(Clone, Copy, Default)]
pub(crate) struct Agreed {
    /// The kernel can do without open.
    pub(crate) no_open: bool,
    /// The kernel can do without opendir.
    pub(crate) no_opendir: bool,
    /// The umask is left to the filesystem.
    umask_is_ours: bool,
    passthrough: bool,
    /// What lends the rights of a file's owner is taken from it here when it is changed. Otherwise the kernel does it, and asks
    /// for an extended attribute before each write.
    pub(crate) drops_privileges: bool,
}

impl Adapter {
    /// An adapter, and a receiver that sees it end.
    pub(crate) fn new(
        vfs: Arc<dyn Vfs>,
        options: &MountOptions,
        runtime: Handle,
    ) -> (Self, watch::Receiver<()>) {
        let (alive, ended) = watch::channel(());
        let caps = vfs.caps();
        // Only a privileged process may register backing files.
        let privileged = rustix::process::geteuid().is_root();
        let allowed = options.passthrough == Passthrough::Auto && privileged;
        let shared = Shared {
            wants_passthrough: allowed && caps.backing_files && !caps.stateless,
            suid: options.suid,
            vfs,
            runtime,
            agreed: OnceLock::new(),
            backings: Backings::default(),
            _alive: alive,
        };
        (Self(Arc::new(shared)), ended)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    pub(crate) fn agreed(&self) -> Agreed {
        self.0.agreed()
    }

    /// Settles with the kernel how to work together.
    pub(crate) fn agree(&self, config: &mut KernelConfig) {
        let caps = self.0.vfs.caps();
        // One at a time: fuser adds none of several if one is not offered.
        let mut ask = |flag| config.add_capabilities(flag).is_ok();
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            ask(flag);
        }
        let agreed = Agreed {
            no_open: caps.stateless && ask(InitFlags::FUSE_NO_OPEN_SUPPORT),
            no_opendir: caps.stateless && ask(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
            umask_is_ours: caps.posix_acl && ask(InitFlags::FUSE_POSIX_ACL) && ask(InitFlags::FUSE_DONT_MASK),
            passthrough: self.0.wants_passthrough && ask(InitFlags::FUSE_PASSTHROUGH),
            // Of writes that pass through we know nothing. Where such bits have an effect the kernel keeps an eye on them.
            drops_privileges: !caps.stateless && !self.0.suid && ask(InitFlags::FUSE_HANDLE_KILLPRIV_V2),
        };
        let limits = [
            config.set_max_write(MAX_WRITE).err(),
            config.set_max_background(MAX_BACKGROUND).err().map(u32::from),
            agreed.passthrough.then(|| config.set_max_stack_depth(1).err()).flatten(),
        ];
        debug_assert_eq!(limits, [None; 3], "constants within fuser's limits");
        self.0.agreed.get_or_init(|| agreed);
    }

    /// Whether a change of content that `request` asks for takes privileges from the file. Root keeps them, as whoever has
    /// `CAP_FSETID` does.
    pub(crate) fn drops(&self, request: &Request) -> bool {
        self.agreed().drops_privileges && request.uid() != 0
    }

    /// The umask that is left to apply.
    pub(crate) fn umask(&self, sent: u32) -> u16 {
        if self.agreed().umask_is_ours { raw::perm(sent) & 0o777 } else { 0 }
    }

    /// Runs one call, and answers with what it returns.
    pub(crate) fn serve<R, T, F>(
        &self,
        operation: &'static str,
        ino: INodeNo,
        reply: R,
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let call = call(Arc::clone(&shared.vfs));
        drive(&self.0.runtime, async move {
            match call.await {
                Ok(value) => answer(reply, value),
                Err(error) => reply.refuse(errno(operation, ino, &error)),
            }
            drop(shared);
        });
    }

    /// Runs one call that changes the content or the owner of `loses`, from which privileges are taken before.
    pub(crate) fn serve_change<R, T, F>(
        &self,
        operation: &'static str,
        ino: INodeNo,
        loses: Option<INodeNo>,
        reply: R,
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Refuse + Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let after_privileges = |vfs: Arc<dyn Vfs>| {
            let change = call(Arc::clone(&vfs));
            async move {
                if let Some(file) = loses {
                    kernel::drop_privileges(&*vfs, convert::ino(file)).await?;
                }
                change.await
            }
        };
        self.serve(operation, ino, reply, after_privileges, answer);
    }

    pub(crate) fn list(
        &self,
        operation: &'static str,
        ino: INodeNo,
        fh: FileHandle,
        cookie: u64,
        page: impl Page + 'static,
    ) {
        let shared = Arc::clone(&self.0);
        drive(&self.0.runtime, async move {
            let mut page = page;
            let listed = shared.vfs.readdir(convert::ino(ino), Fh(fh.0), cookie, &mut page).await;
            page.end(listed.map_err(|error| errno(operation, ino, &error)));
            drop(shared);
        });
    }
}

impl Shared {
    fn agreed(&self) -> Agreed {
        self.agreed.get().copied().unwrap_or_default()
    }

    /// The flags of an open.
    pub(crate) fn open_flags(&self, raw: i32) -> OpenFlags {
        let passthrough = self.agreed().passthrough && !self.backings.is_refused();
        OpenFlags { passthrough, ..raw::open_flags(raw.cast_unsigned()) }
    }

    /// Counts an open, and says which registered backing file it passes through to.
    pub(crate) fn backing(
        &self,
        ino: Ino,
        opened: &Opened,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        match self.agreed().passthrough {
            true => self.backings.open(ino, opened.backing.as_deref(), register),
            false => None,
        }
    }

    /// How the kernel may cache what does not pass through. What could have, and was perhaps written that way before, is
    /// not known to the page cache.
    pub(crate) fn cache(&self, opened: &Opened) -> KernelCache {
        match opened.cache {
            KernelCache::Keep if self.agreed().passthrough && opened.backing.is_some() => KernelCache::Fresh,
            cache => cache,
        }
    }

    /// Counts a release.
    pub(crate) fn released(&self, ino: Ino) {
        if self.agreed().passthrough {
            self.backings.release(ino);
        }
    }
}

fn errno(operation: &'static str, ino: INodeNo, error: &Error) -> Errno {
    Errno::from_i32(kernel::errno(operation, convert::ino(ino), error).raw_os_error())
}

/// A reply that can say no.
pub(crate) trait Refuse {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);
