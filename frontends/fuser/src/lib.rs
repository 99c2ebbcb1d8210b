//! Adapter from the fuser library to the [`Vfs`] contract.
//!
//! [`Fuser`] mounts directly where it may (root), and through `fusermount3` otherwise. fuser reads the kernel's
//! messages on a few threads; each message becomes one future of the contract, which is polled on that thread and
//! moves to the runtime only if it has to wait. It is the one frontend that can do passthrough.
//!
//! Invariants:
//! - every message gets exactly one answer, and [`Mount::unmounted`] returns after the last one;
//! - unmounting is asked of the kernel first, and the session serves until the kernel says that it is over: no
//!   changed page, release or forget is lost because someone stopped listening;
//! - permissions are the kernel's business (`default_permissions`), locks are local to it.
//!
//! # What fuser does not let through
//!
//! - Interrupts: fuser answers them itself, so a reader that gets a signal waits for its answer all the same.
//! - Two times to live in answers to `create` and `readdirplus`: the shorter one counts there.
//! - A time of exactly `i64::MIN` seconds in `setattr`: fuser 0.18 panics on it before we see it. The caller
//!   then waits until the mount ends, and the mount has one thread less. Only the owner of a file on a writable
//!   mount can send it. (Other times before 1970 arrive wrong, but in a way that can be undone.)

mod adapter;
mod convert;
mod listing;
mod passthrough;
mod session;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use aysfs_vfs::kernel::{self, Mounted, Served};
use aysfs_vfs::{Frontend, Ino, Mount, MountError, MountOptions, Name, Vfs};
use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use tokio::runtime::Handle;

use crate::session::Adapter;

/// The value of the config key `lib` that selects this frontend.
const NAME: &str = "fuser";

/// The frontend over the fuser library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fuser;

impl Frontend for Fuser {
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
        let mut config = Config::default();
        // One thread to read while another answers; more than four gain nothing, since whatever waits moves away.
        config.n_threads = Some(thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4)));
        config.clone_fd = true;
        let stateless = vfs.caps().stateless;
        let (adapter, ended) = Adapter::new(vfs, options, runtime.clone());

        // fuser could mount, too, but its session then unmounts *the path* once more when it ends, and hits whatever was
        // mounted there meanwhile.
        let device = kernel::mount(NAME, &path, options)?;
        let mounted = Mounted::find(path).map_err(refused)?;
        let serve = || {
            // The kernel keeps other users out, unless `allow_other`; fuser need not check again.
            let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
            let notifier = session.notifier();
            if stateless {
                mounted.raise_readahead();
            }
            let mounted = mounted.clone();
            thread::Builder::new().name("aysfs-fuser".into()).spawn(move || {
                if let Err(error) = session.run() {
                    tracing::error!(%error, "the session of {} failed; unmounting", mounted.path().display());
                    mounted.unmount_lazily();
                }
            })?;
            Ok(notifier)
        };
        match serve() {
            Ok(notifier) => Ok(Box::new(Served::new(mounted, Told(notifier), ended, runtime.clone()))),
            Err(error) => {
                mounted.unmount_lazily();
                Err(refused(error))
            }
        }
    }
}

/// fuser's way to the kernel's caches.
struct Told(Notifier);

impl kernel::Notifier for Told {
    fn invalidate_inode(&self, ino: Ino) -> io::Result<()> {
        self.0.inval_inode(INodeNo(ino.0), 0, 0)
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()> {
        self.0.inval_entry(INodeNo(parent.0), name.as_os_str())
    }
}
