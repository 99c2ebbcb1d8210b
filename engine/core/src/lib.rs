//! The engine: a flist and a cache, shown as a filesystem.
//!
//! - [`Base`] is a compiled flist with the owners of this machine: immutable, swapped whole on reload.
//! - [`AysFs`] answers the calls of [`Vfs`](aysfs_vfs::Vfs) from a base and a [`Cache`](aysfs_store::Cache): it is read-only.
//!   [`Overlay`] puts local changes on top of it.
//! - [`load`] brings a flist from a file or a URL to a base; [`pack`] and [`unpack`] go between a directory and a
//!   flist with its objects, [`profile`] says what of it is read first, and [`warm`] brings it into the cache before that;
//!   [`push`] keeps a stor, and a published flist, up with local changes.
//! - [`fsck`] compares a flist with a stor, [`gc`] deletes what no flist names, [`repack`] copies what is left of packs that are mostly garbage.
//!
//! What is not here: where objects come from (`aysfs-store`), how a flist is written (`aysfs-flist`), how the
//! kernel asks (a frontend).

mod abandoned;
mod base;
mod compare;
mod copy;
mod durable;
mod edition;
mod failures;
mod fetch;
mod fs;
pub mod fsck;
pub mod gc;
mod held;
mod listed;
pub mod load;
mod named;
mod numbers;
mod overlay;
pub mod pack;
pub mod profile;
pub mod push;
mod rebase;
mod record;
pub mod repack;
#[cfg(test)]
mod testing;
mod trace;
pub mod unpack;
pub mod warm;

pub use base::{Base, BaseError};
pub use fs::AysFs;
pub use overlay::{
    Aspect, Change, Changed, CommitError, CommitOptions, Committed, Destination, Form, Overlay, SendError,
    SendProgress, Upper, UpperError, Waiting,
};
pub use rebase::{Changes, RebaseError};
pub use record::{Recorder, Recording};
pub use trace::{FileData, Layer, Trace};
