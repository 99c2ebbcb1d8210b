//! What every frontend needs of the kernel, whatever its library does.
//!
//! Not part of the contract: a [`Vfs`](crate::Vfs) never sees it, and a frontend is free to do without. It is here so that
//! what no library gets right, or each one differently, exists once:
//!
//! - [`mount`], or [`check`] and [`helper_options`]: from a directory and options to a mount, as root or through `fusermount3`;
//! - [`Mounted`]: one mount in the mount table, found and unmounted without touching others on the same path;
//! - [`Served`]: the [`Mount`](crate::Mount) of a frontend, made of a [`Mounted`] and a [`Notifier`];
//! - [`drop_privileges`]: what becomes of set-user-ID when a file is changed;
//! - [`raw`]: the kernel's raw numbers in the words of the contract;
//! - [`errno`]: the one place where a failed call is logged.

mod mounted;
mod mounting;
mod privileges;
pub mod raw;
mod served;

use rustix::io::Errno;

pub use mounted::{Mounted, Unmounting};
pub use mounting::{check, helper_options, mount};
pub use privileges::drop_privileges;
pub use served::{Notifier, Served};

use crate::{Error, Ino};

/// What one `copy_file_range` is asked for at most, in bytes: its answer has 32 bits, and more must come in whole pages.
pub const MAX_COPY: u64 = (u32::MAX as u64) & !4095;

/// The errno of a failed call, for the answer to the kernel; logs what has a story.
pub fn errno(operation: &'static str, ino: Ino, error: &Error) -> Errno {
    if error.cause().is_some() {
        tracing::warn!(operation, ino = ino.0, "{error}");
    }
    error.errno()
}
