//! `aysfs umount`: unmounts, whoever mounted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::cli::UmountArgs;

pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<()> {
    let point = absolute(&args.mountpoint)?;
    if !crate::mounts::is_mount_point(&point)? {
        bail!("{} is not mounted", args.mountpoint.display());
    }
    let flags = if args.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match unmount(&point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => with_helper(&point, args.lazy),
        Err(Errno::BUSY) => {
            bail!("{} is busy: close the files that are open there, or use --lazy", args.mountpoint.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot unmount {}", args.mountpoint.display())),
    }
}

/// Users without privileges may unmount what they mounted, by the set-uid helper of libfuse.
pub(crate) fn with_helper(point: &Path, lazy: bool) -> anyhow::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.args(["-u", "-q"]).args(lazy.then_some("-z")).arg("--").arg(point);
    let status = helper.status().context("cannot run fusermount3: install the package fuse3")?;
    if !status.success() {
        bail!("cannot unmount {}: it is busy (try --lazy), or another user mounted it", point.display());
    }
    Ok(())
}

/// The absolute path without touching the mount itself, which may be dead.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent =
                parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?;
            Ok(parent.join(name))
        }
        _ => Ok(path),
    }
}
