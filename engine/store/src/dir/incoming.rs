//! A file on its way in: written under a temporary name, so that what it becomes appears whole or not at all.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};

use crate::Key;
use crate::fit::Digesting;

/// A temporary file and the digest of what was written to it. Dropped unpublished, it is removed.
pub(crate) struct Incoming {
    directory: Arc<OwnedFd>,
    /// The temporary name; `None` once published.
    name: Option<String>,
    file: File,
    digest: Digesting,
}

impl Incoming {
    pub(super) fn create(directory: Arc<OwnedFd>, digest: Digesting) -> io::Result<Self> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = hex::encode(random);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&*directory, name.as_str(), flags, Mode::from_raw_mode(0o644))?);
        Ok(Self { directory, name: Some(name), file, digest })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        Ok(())
    }

    /// The digest of what was written.
    pub(crate) fn key(&self) -> Key {
        self.digest.key()
    }

    /// Whether what was written may be kept under `key`.
    pub(super) fn fits(&self, key: &Key) -> io::Result<bool> {
        self.digest.fits(key, || {
            let mut file = &self.file;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        })
    }

    /// Makes it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.file)?)
    }

    /// Moves it, synced, to its final name, and makes that durable.
    pub(super) fn publish(mut self, directory: &OwnedFd, name: &str) -> io::Result<()> {
        if let Some(temporary) = &self.name {
            renameat(&*self.directory, temporary.as_str(), directory, name)?;
            self.name = None;
        }
        Ok(fsync(directory)?)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = unlinkat(&*self.directory, name.as_str(), AtFlags::empty())
        {
            tracing::warn!(%error, name, "a temporary file of the stor directory could not be removed");
        }
    }
}
