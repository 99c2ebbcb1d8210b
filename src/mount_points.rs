//! Directories that are mounted on: what is there, and taking it away.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tracing::warn;

/// The type that all our mounts have in `/proc/self/mountinfo`.
const OURS: &str = "fuse.aysfs";

/// Whether a mount that is in use goes away at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detach {
    /// It is an error.
    No,
    /// Its name disappears now, the rest when its last user is gone.
    Lazily,
}

/// Makes sure that `point` is a directory to mount on; a mount of a daemon that died is taken away first.
pub(crate) fn make_free(point: &Path) -> anyhow::Result<()> {
    // The kernel may know the attributes of a mount whose daemon is dead; statfs always asks the daemon.
    let looked_at = fs::metadata(point).and_then(|meta| {
        rustix::fs::statfs(point)?;
        Ok(meta)
    });
    match looked_at {
        Ok(meta) if !meta.is_dir() => bail!("the mount point is not a directory"),
        Ok(_) => {
            let real = point.canonicalize()?;
            if topmost(&real)?.as_deref() == Some(OURS) {
                bail!(
                    "an aysfs is mounted there already: unmount it first (aysfs umount {})",
                    real.display()
                );
            }
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            warn!("{}: taking away a mount whose daemon is dead", point.display());
            unmount(point, Detach::Lazily)
        }
        Err(error) => Err(error).context("cannot use the mount point: make the directory first"),
    }
}

/// Takes away the aysfs that is mounted on `point`, whether or not its daemon lives.
pub(crate) fn unmount(point: &Path, detach: Detach) -> anyhow::Result<()> {
    // The mount itself is not touched: a dead one answers nothing.
    let absolute = std::path::absolute(point)?;
    let absolute = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?.join(name)
        }
        _ => absolute,
    };
    let shown = point.display();
    match topmost(&absolute)?.as_deref() {
        Some(OURS) => {}
        Some(kind) => bail!("{shown} is a mount of {kind}, not of aysfs: use umount"),
        None => bail!("{shown} is not mounted"),
    }
    let flags = match detach {
        Detach::No => UnmountFlags::empty(),
        Detach::Lazily => UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(&absolute, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => with_helper(&absolute, detach),
        Err(Errno::BUSY) => bail!("{shown} is busy: close the files that are open there, or use --lazy"),
        Err(error) => Err(error).with_context(|| format!("cannot unmount {shown}")),
    }
}

/// Users without privileges may unmount what they mounted, by the set-uid helper of libfuse.
fn with_helper(point: &Path, detach: Detach) -> anyhow::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.args(["-u", "-q"]).args((detach == Detach::Lazily).then_some("-z")).arg("--").arg(point);
    let status = helper.status().context("cannot run fusermount3: install the package fuse3")?;
    if !status.success() {
        bail!("cannot unmount {}: it is busy (try --lazy), or another user mounted it", point.display());
    }
    Ok(())
}

/// The type of the filesystem that was mounted last on exactly this directory.
fn topmost(point: &Path) -> anyhow::Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    Ok(mounts.lines().rev().find_map(|line| {
        // Fields that may be there or not end at the hyphen (proc_pid_mountinfo(5)).
        let (fixed, more) = line.split_once(" - ")?;
        let found = unescape(fixed.split(' ').nth(4)?) == point;
        found.then(|| more.split(' ').next().unwrap_or_default().to_owned())
    }))
}

/// The type of the filesystem that a path is on.
pub(crate) fn filesystem_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    path.ancestors().find_map(|point| topmost(point).ok()?)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/mnt/a\040b\134c\012d"), Path::new("/mnt/a b\\c\nd"));
        assert_eq!(unescape(r"/mnt/end\04"), Path::new(r"/mnt/end\04"));
    }
}
