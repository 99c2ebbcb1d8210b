//! One mount in the mount table: finding it, and unmounting it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::MountError;

/// One mount of ours in the mount table, told apart from others that may come to its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    path: PathBuf,
    id: u64,
    /// Major and minor number of the filesystem's (anonymous) device.
    device: (u32, u32),
}

/// Whether the users of a filesystem matter when it is unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounting {
    /// It is unmounted only if nobody uses it.
    IfUnused,
    /// Its name disappears now, the rest when its last user is gone.
    Lazily,
}

impl Mounted {
    /// What has just been mounted on `path`.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn find(path: PathBuf) -> io::Result<Self> {
        let root = look_at(&path)?;
        Ok(Self { path, id: root.stx_mnt_id, device: (root.stx_dev_major, root.stx_dev_minor) })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number by which the kernel knows the connection: in `/sys/fs/fuse/connections`, and in what it tells of a
    /// descriptor of `/dev/fuse`.
    pub fn connection(&self) -> u32 {
        // The minor number alone: anonymous devices have major number 0.
        self.device.1
    }

    /// Lets the kernel read further ahead than the 128 KiB which it offers at most to a FUSE filesystem. Only root may; without
    /// it reads are a little slower.
    pub fn raise_readahead(&self) {
        let (major, minor) = self.device;
        let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = fs::write(&setting, "1024") {
            tracing::debug!(%error, "{setting} stays as it is");
        }
    }

    /// Takes the mount away for good; what goes wrong is logged.
    pub fn unmount_lazily(&self) {
        if let Err(error) = self.unmount(Unmounting::Lazily) {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// Unmounts it: itself as root, through `fusermount3` otherwise. What is not mounted any more is no error.
    ///
    /// # Errors
    /// [`MountError::Busy`] if it is used and `how` minds.
    pub fn unmount(&self, how: Unmounting) -> Result<(), MountError> {
        if !look_at(&self.path).is_ok_and(|root| root.stx_mnt_id == self.id) {
            return Ok(());
        }
        let flags = match how {
            Unmounting::IfUnused => UnmountFlags::NOFOLLOW,
            Unmounting::Lazily => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
        };
        match rustix::mount::unmount(&self.path, flags) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(MountError::Busy(self.path.clone())),
            Err(Errno::PERM) => self.unmount_by_helper(how),
            Err(errno) => Err(self.refused(errno.into())),
        }
    }

    /// Only root may unmount by itself.
    fn unmount_by_helper(&self, how: Unmounting) -> Result<(), MountError> {
        let mut helper = Command::new("fusermount3");
        helper.arg("-u");
        if let Unmounting::Lazily = how {
            helper.arg("-z");
        }
        // Its messages are told apart, so they must not be translated.
        helper.arg("--").arg(&self.path).env("LC_ALL", "C").stdin(Stdio::null());
        let output = helper.output().map_err(|error| self.refused(error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(()),
            false if said.contains("busy") => Err(MountError::Busy(self.path.clone())),
            false => Err(self.refused(io::Error::other(said.trim().to_owned()))),
        }
    }

    pub(crate) fn refused(&self, source: io::Error) -> MountError {
        MountError::Unmount { path: self.path.clone(), source }
    }
}

/// Looks at the root of a mount without a message to the one who serves it: that may be ourselves.
fn look_at(path: &Path) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    Ok(statx(CWD, path, flags, StatxFlags::MNT_ID)?)
}

fn chain(error: &MountError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
