//! What the kernel has allowed must not fail on permission bits.
//!
//! The kernel checks permissions before it asks (`default_permissions`), and its rules are not those of one more check here:
//! a file that is made with mode 0444 may be written by the handle that made it, and what is in a directory with mode 0555 may
//! be copied up. As root there is no second check. Everybody else owns what is in the upper, and so can lend himself the
//! bits of the owner for one step; a crash in between leaves them set.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::at::At;

/// All that an owner may do.
const OWNER: u16 = 0o700;

/// Bits that are taken away again at the end.
struct Lent {
    at: At,
    perm: u16,
}

impl Lent {
    /// `None`: that an access failed is for other reasons.
    fn to(fd: Arc<OwnedFd>) -> Option<Self> {
        let at = At::Nameless(fd);
        let mode = at.stat().ok()?.st_mode;
        let perm = aysfs_vfs::kernel::raw::perm(mode);
        if perm & OWNER == OWNER || FileType::from_raw_mode(mode) == FileType::Symlink {
            return None;
        }
        at.chmod(perm | OWNER).ok()?;
        Some(Self { at, perm })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = self.at.chmod(self.perm) {
            tracing::warn!("cannot give a file of the local changes its permissions back: {error}");
        }
    }
}

/// Runs a step in a directory of the upper.
pub(super) fn inside<T, E: Denied>(
    directory: &Arc<OwnedFd>,
    mut step: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match step() {
        Err(error) if error.is_denied() => match Lent::to(directory.clone()) {
            Some(_lent) => step(),
            None => Err(error),
        },
        done => done,
    }
}

/// Runs a step on an inode of the upper.
pub(super) fn on<T, E: Denied>(at: &At, mut step: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let fd = match at {
        At::Nameless(fd) => return inside(fd, step),
        At::Named(directory, name) => match inside(directory, &mut step) {
            Err(error) if error.is_denied() => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match inside(directory, || openat(directory, &**name, flags, Mode::empty())) {
                    Ok(fd) => fd,
                    Err(_) => return Err(error),
                }
            }
            done => return done,
        },
    };
    let At::Named(directory, _) = at else { return step() };
    inside(&Arc::new(fd), || inside(directory, &mut step))
}

/// An error that may be one of permissions.
pub(super) trait Denied {
    fn is_denied(&self) -> bool;
}

impl Denied for Errno {
    fn is_denied(&self) -> bool {
        *self == Self::ACCESS
    }
}

impl Denied for aysfs_vfs::Error {
    fn is_denied(&self) -> bool {
        self.kind() == aysfs_vfs::ErrorKind::AccessDenied
    }
}
