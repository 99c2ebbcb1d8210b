//! The contract between the filesystem engine and its FUSE frontends.
//!
//! Two traits meet here. [`Vfs`] is a filesystem: inode-based, like the low-level API of FUSE, and free of
//! any FUSE library's types. [`Frontend`] is an adapter from one FUSE library: it mounts an
//! `Arc<dyn Vfs>` on a directory and turns the kernel's messages into calls of the trait.
//!
//! ```text
//!   kernel  <->  frontend (fuser | fuse3 | polyfuse)  <->  trait Vfs  <->  engine
//! ```
//!
//! # How a request runs
//!
//! A frontend decodes a message, makes owned arguments of it and hands the future of the call to [`drive`].
//! `drive` polls it once on the thread that read the message. Most calls are answered by that poll (metadata
//! from memory, data from the local cache), so they cost no task switch; a call that has to wait (a fetch) is
//! moved to the runtime, and the thread goes on with the next message. Hence the rule for implementers:
//! **a poll never blocks for long**. Whatever may take more than a page-cache read (hashing, fsync, copy-up)
//! goes to `spawn_blocking`.
//!
//! # Lifetimes the kernel counts
//!
//! Each [`Entry`] that reaches the kernel (from `lookup`, `mknod`, `mkdir`, `symlink`, `link`, `create` and
//! `readdirplus`) adds one to the kernel's lookup count of that inode; [`Vfs::forget`] takes some away. An
//! [`Ino`] stays valid while its count is above zero or a handle of it is open, also after its last name is
//! gone. An `Ino` is never given to another file while mounted, so the generation is always zero.
//!
//! The end of a mount is the end of all its lookups and handles: the kernel does not send the forgets and
//! releases that are left then.
//!
//! # Mounts that need no open
//!
//! Where [`Caps::stateless`] is set, every call that takes an [`Fh`] also accepts [`Fh::NONE`], and content is
//! found by inode. A frontend then tells the kernel never to send open, opendir, flush, release and
//! releasedir (it answers the first with `ENOSYS`), which is what makes warm reads of an immutable mount as
//! cheap as those of a local filesystem.
//!
//! # Errors
//!
//! Every call fails with an [`Error`]: a [`ErrorKind`], which maps to one errno, and an optional cause for the
//! log. A frontend logs an error that has a cause once, where the request ends.

mod drive;
mod error;
mod frontend;
pub mod kernel;
mod measured;
#[cfg(feature = "memfs")]
pub mod memfs;
mod types;
mod vfs;

pub use drive::{Started, drive, start};
pub use error::{Error, ErrorKind, Result};
pub use frontend::{Frontend, Mount, MountError, MountOptions, Passthrough};
pub use measured::{Measured, Measurement, Operation, Operations};
pub use types::{
    Attr, Caller, Created, Device, DirEntry, Entry, FallocateMode, Fh, FileKind, FileRange, Ino, KernelCache,
    Lookup, Name, NameError, OpenFlags, Opened, RenameMode, SeekWhence, SetAttr, SetTime, SetXattrMode,
    StatFs, Time, TimeToLive,
};
pub use vfs::{Caps, DirSink, Filled, Vfs};
