//! The least that can be written against each library: one file, of which everything is a constant.
//!
//! Each is a [`Frontend`](aysfs_vfs::Frontend) that ignores its filesystem, and asks the kernel for what ours asks for.

pub(crate) mod fuse3;
pub(crate) mod fuser;
pub(crate) mod polyfuse;

use std::io;
use std::path::Path;
use std::time::Duration;

use aysfs_vfs::kernel::Notifier;
use aysfs_vfs::{Ino, MountError, Name};

use crate::SIZE;

/// The root and the file.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// How long the kernel believes an answer.
const AT_ONCE: Duration = Duration::ZERO;

static CONTENT: [u8; SIZE] = [7; SIZE];

/// A part of the content.
fn content(offset: u64, size: u32) -> &'static [u8] {
    let start = usize::try_from(offset).unwrap_or(SIZE).min(SIZE);
    let end = (start + size as usize).min(SIZE);
    &CONTENT[start..end]
}

/// Nothing is cached, so there is nothing to drop.
struct NoCaches;

impl Notifier for NoCaches {
    fn invalidate_inode(&self, _ino: Ino) -> io::Result<()> {
        Ok(())
    }

    fn invalidate_entry(&self, _parent: Ino, _name: &Name) -> io::Result<()> {
        Ok(())
    }
}

fn refused(at: &Path) -> impl Fn(io::Error) -> MountError {
    let path = at.to_owned();
    move |source| MountError::Mount { path: path.clone(), source }
}
