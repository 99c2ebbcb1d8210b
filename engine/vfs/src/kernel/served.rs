//! A mount that a frontend serves, seen from the outside.

use std::io;

use async_trait::async_trait;
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Mounted, Unmounting};
use crate::{Ino, Mount, MountError, Name};

/// How a library tells the kernel to drop what it has cached.
///
/// The kernel's own errors are returned as they are: [`Served`] knows which of them mean nothing.
pub trait Notifier: Send + Sync {
    /// `FUSE_NOTIFY_INVAL_INODE`, for attributes and all content.
    fn invalidate_inode(&self, ino: Ino) -> io::Result<()>;

    /// `FUSE_NOTIFY_INVAL_ENTRY`.
    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()>;
}

/// The [`Mount`] of any frontend.
pub struct Served<N> {
    mounted: Mounted,
    notifier: N,
    ended: watch::Receiver<()>,
    runtime: Handle,
}

impl<N> Served<N> {
    /// A mount that is served until the sender of `ended` is dropped: by the session and by the last request.
    pub fn new(mounted: Mounted, notifier: N, ended: watch::Receiver<()>, runtime: Handle) -> Self {
        Self { mounted, notifier, ended, runtime }
    }
}

#[async_trait]
impl<N: Notifier> Mount for Served<N> {
    async fn unmounted(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    async fn unmount(&self, detach: bool) -> Result<(), MountError> {
        let how = if detach { Unmounting::Lazily } else { Unmounting::IfUnused };
        let mounted = self.mounted.clone();
        let unmounting = self.runtime.spawn_blocking(move || mounted.unmount(how));
        unmounting.await.map_err(|error| self.mounted.refused(error.into()))??;
        if !detach {
            self.unmounted().await;
        }
        Ok(())
    }

    fn invalidate_inode(&self, ino: Ino) -> io::Result<()> {
        known(self.notifier.invalidate_inode(ino))
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()> {
        known(self.notifier.invalidate_entry(parent, name))
    }
}

/// The kernel answers `ENOENT` for what it does not know, and that needs no invalidation.
fn known(told: io::Result<()>) -> io::Result<()> {
    match told {
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        told => told,
    }
}

impl<N> Drop for Served<N> {
    fn drop(&mut self) {
        self.mounted.unmount_lazily();
    }
}
