//! Adapter from the fuse3 library to the [`Vfs`] contract.
//!
//! [`Fuse3`] always mounts through `fusermount3`, as root too: that is the library's only way to a descriptor that
//! does not block. fuse3 reads the kernel's messages in one task and makes each a task of its own, on a runtime of
//! this mount; there its future of the contract is polled once, and moves to the runtime of the one who mounts only
//! if it has to wait.
//!
//! Invariants:
//! - every message gets exactly one answer, and none that the kernel refuses: after such an answer fuse3 would stop
//!   serving;
//! - [`Mount::unmounted`] returns after the last answer;
//! - unmounting is asked of the kernel, never of fuse3, which would stop listening first: the session serves until the
//!   kernel says that it is over, so no changed page, release or forget is lost;
//! - permissions are the kernel's business (`default_permissions`), locks are local to it.
//!
//! # What fuse3 does not let through
//!
//! - FUSE passthrough: [`Opened::backing`](aysfs_vfs::Opened::backing) is ignored.
//! - `FUSE_DONT_MASK`: with POSIX ACLs the umask applies also where the default ACL of a directory should decide alone.
//! - `FUSE_DIRECT_IO_ALLOW_MMAP`: a file that the kernel must not cache ([`KernelCache::Direct`]) cannot be mapped
//!   shared (`ENODEV`).
//! - Two times to live in answers to `lookup`, `create` and their like: the shorter one counts there. In those to
//!   `create` it counts in whole seconds.
//! - `UTIME_NOW`: fuse3 puts a time in its place, which is taken for what it was if it is of this very moment. One in some
//!   ten thousand passes for a time nevertheless, and is then a little earlier than the ctime.
//! - The size of the buffer for a listing: a page is never longer than what fits into any buffer.
//!
//! And what it always asks for: `FUSE_AUTO_INVAL_DATA`, so that the kernel drops cached content as soon as it sees a new size
//! or mtime; `FUSE_EXPORT_SUPPORT`, so that it asks us about file handles that it does not know, which are stale.
//!
//! [`KernelCache::Direct`]: aysfs_vfs::KernelCache::Direct

mod adapter;
mod calls;
mod convert;
mod device;
mod interrupts;
mod listing;
mod pause;
mod session;

use std::path::Path;
use std::sync::Arc;

use aysfs_vfs::kernel::{self, Served};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use tokio::runtime::Handle;

use crate::session::Session;

/// The value of the config key `lib` that selects this frontend.
const NAME: &str = "fuse3";

/// The frontend over the fuse3 library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fuse3;

impl Frontend for Fuse3 {
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
        kernel::check(at)?;
        let refused = |source| MountError::Mount { path: at.to_owned(), source };
        let path = at.canonicalize().map_err(refused)?;
        let options = kernel::helper_options(NAME, options)?;
        let Session { mounted, notices, ended } =
            Session::begin(vfs, path, options, runtime).map_err(refused)?;
        Ok(Box::new(Served::new(mounted, notices, ended, runtime.clone())))
    }
}
