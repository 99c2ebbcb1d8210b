//! Adapter from the polyfuse library to the [`Vfs`] contract.
//!
//! polyfuse decodes the kernel's messages and encodes answers; threads, waiting and interrupts are left to its user. Here a
//! few threads read messages; each becomes one future of the contract, which is polled on that thread and moves to the
//! runtime only if it has to wait.
//!
//! Invariants:
//! - every message gets exactly one answer, and [`Mount::unmounted`] returns after the last one;
//! - unmounting is asked of the kernel first, and the session serves until the kernel says that it is over: no
//!   changed page, release or forget is lost because someone stopped listening;
//! - permissions are the kernel's business (`default_permissions`), locks are local to it;
//! - an interrupt ends a call that waits and changes nothing, with `EINTR`; it never ends a call that changes something, whose
//!   caller could not know what has happened.
//!
//! # What polyfuse cannot do
//!
//! - Mount without `fusermount3`, as root too; a `/bin/sh` is needed as well.
//! - Passthrough, caching of symlinks, and shared mappings of files that are not cached: it does not know the flags by which
//!   they are agreed on.
//! - `lseek`: it does not decode the message, and the kernel then takes every file as one piece of data.
//! - Small requests at the price of small ones: it allocates and clears a buffer of the largest size for each, which is why that
//!   size is 128 KiB here.

mod adapter;
mod convert;
mod listing;
mod mounting;
mod requests;
mod session;

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use aysfs_vfs::kernel::{self, Served};
use aysfs_vfs::{Caps, Frontend, Ino, Mount, MountError, MountOptions, Name, Vfs};
use polyfuse::{KernelConfig, Session};
use tokio::runtime::Handle;

use crate::session::Agreed;

/// The value of the config key `lib` that selects this frontend.
const NAME: &str = "polyfuse";
/// Largest write, and largest read, in bytes. See "What polyfuse cannot do".
const MAX_WRITE: u32 = 128 << 10;
/// Requests that the kernel sends ahead (readahead, writeback) before it waits for answers. Many: reads for the page
/// cache are among them, so this many slow fetches would hold up the reads of everybody else. Not more: each that waits
/// keeps its buffer.
const MAX_BACKGROUND: u16 = 2048;

/// The frontend over the polyfuse library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Polyfuse;

impl Frontend for Polyfuse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn mount(
        &self,
        vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError> {
        let refused = |source| MountError::Mount { path: at.to_owned(), source };
        let path = at.canonicalize().map_err(refused)?;
        kernel::check(&path)?;
        let listed = kernel::helper_options(NAME, options)?;
        let caps = vfs.caps();
        let (session, mounted) = mounting::mount(&path, &listed, settings(caps)).map_err(refused)?;
        if caps.stateless {
            mounted.raise_readahead();
        }
        let agreed = Agreed {
            no_open: caps.stateless && session.no_open_support(),
            no_opendir: caps.stateless && session.no_opendir_support(),
            umask_is_ours: caps.posix_acl,
        };
        let session = Arc::new(session);
        let told = Told(Arc::downgrade(&session));
        match session::serve(session, vfs, agreed, runtime.clone(), mounted.clone()) {
            Ok(ended) => Ok(Box::new(Served::new(mounted, told, ended, runtime.clone()))),
            Err(error) => {
                mounted.unmount_lazily();
                Err(refused(error))
            }
        }
    }
}

/// How to work with the kernel; what it does not offer, polyfuse leaves out.
fn settings(caps: Caps) -> KernelConfig {
    let mut config = KernelConfig::default();
    config
        .max_write(MAX_WRITE)
        .max_background(MAX_BACKGROUND)
        .congestion_threshold(MAX_BACKGROUND / 4 * 3)
        .parallel_dirops(true)
        .async_dio(true)
        .atomic_o_trunc(true)
        .readdirplus(true)
        .readdirplus_auto(true)
        // The kernel then takes set-uid bits away itself, by setattr.
        .handle_killpriv(false)
        // It is told what has changed.
        .auto_inval_data(false)
        .posix_acl(caps.posix_acl)
        .dont_mask(caps.posix_acl);
    config
}

/// polyfuse's way to the kernel's caches, as long as there is a session.
struct Told(Weak<Session>);

impl Told {
    /// Without a session there is nothing that the kernel could remember.
    fn tell(&self, what: impl FnOnce(polyfuse::Notifier) -> io::Result<()>) -> io::Result<()> {
        self.0.upgrade().map_or(Ok(()), |session| what(session.notifier()))
    }
}

impl kernel::Notifier for Told {
    fn invalidate_inode(&self, ino: Ino) -> io::Result<()> {
        self.tell(|notifier| notifier.inval_inode(ino.0, 0, 0))
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()> {
        self.tell(|notifier| notifier.inval_entry(parent.0, name.as_os_str()))
    }
}
