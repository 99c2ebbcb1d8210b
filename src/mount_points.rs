//! Directories that are mounted on: what is there, and taking it away.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// The type that all our mounts have in `/proc/self/mountinfo`.
const OURS: &str = "fuse.aysfs";

/// Whether a mount that is in use goes away at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

/// The aysfs that is mounted on `point`, whether or not its daemon lives: the mount itself is not asked, a dead one answers nothing.
pub(crate) fn to_unmount(point: &Path) -> anyhow::Result<MountPoint> {
    let absolute = std::path::absolute(point)?;
    let absolute = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            parent.canonicalize().with_context(|| format!("cannot find {}", parent.display()))?.join(name)
        }
        _ => absolute,
    };
    let shown = point.display();
    match mounted_on(&absolute)? {
        Some(mount) if mount.kind == OURS => Ok(mount),
        Some(mount) => bail!("{shown} is a mount of {}, not of aysfs: use umount", mount.kind),
        None => bail!("{shown} is not mounted"),
    }
}

/// Takes away the aysfs that is mounted on `point`, whether or not its daemon lives.
pub(crate) fn unmount(point: &Path, detach: Detach) -> anyhow::Result<()> {
    let (absolute, shown) = (to_unmount(point)?.point, point.display());
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

/// What the kernel lists about one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// Its number in the mount table: no other one has it as long as it is there.
    pub(crate) id: u64,
    /// The directory of the filesystem that is mounted: `/`, unless it is a bind mount of a part.
    pub(crate) root: PathBuf,
    /// Without symlinks.
    pub(crate) point: PathBuf,
    /// The type of the filesystem.
    kind: String,
    pub(crate) device: Device,
    /// Who mounted it; only told of FUSE filesystems.
    pub(crate) user: u32,
}

/// The number of a mounted filesystem: the same at each of its mount points, and of no other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Device {
    major: u32,
    minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Device {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text
            .split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        numbers.ok_or("expected major:minor")
    }
}

impl TryFrom<String> for Device {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl MountPoint {
    /// A line of `/proc/self/mountinfo`. Names in it are bytes: what one user mounts is no reason that others see nothing.
    fn parse(line: &[u8]) -> Option<Self> {
        const HYPHEN: &[u8] = b" - ";
        // Fields that may be there or not end at the hyphen (proc_pid_mountinfo(5)).
        let hyphen = line.windows(HYPHEN.len()).position(|window| window == HYPHEN)?;
        let (fixed, more) = (&line[..hyphen], &line[hyphen + HYPHEN.len()..]);
        let mut fixed = fixed.split(|byte| *byte == b' ');
        let id = str::from_utf8(fixed.next()?).ok()?.parse().ok()?;
        let device = str::from_utf8(fixed.nth(1)?).ok()?.parse().ok()?;
        let (root, point) = (unescape(fixed.next()?), unescape(fixed.next()?));
        let mut more = more.split(|byte| *byte == b' ');
        let kind = String::from_utf8_lossy(more.next()?).into_owned();
        let options = String::from_utf8_lossy(more.nth(1).unwrap_or_default());
        let user = options.split(',').find_map(|option| option.strip_prefix("user_id="));
        let user = user.and_then(|user| user.parse().ok()).unwrap_or_default();
        Some(Self { id, root, point, kind, device, user })
    }
}

/// All mounts, the last one first.
fn mount_table() -> anyhow::Result<Vec<MountPoint>> {
    let mounts = fs::read("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    Ok(mounts.split(|byte| *byte == b'\n').rev().filter_map(MountPoint::parse).collect())
}

/// What was mounted last on exactly this directory.
pub(crate) fn mounted_on(point: &Path) -> anyhow::Result<Option<MountPoint>> {
    Ok(mount_table()?.into_iter().find(|mount| mount.point == point))
}

/// Every aysfs, one mount of each: the first that was made.
pub(crate) fn all_ours() -> anyhow::Result<Vec<MountPoint>> {
    let mut ours = Vec::<MountPoint>::new();
    for mount in mount_table()?.into_iter().rev().filter(|mount| mount.kind == OURS) {
        if !ours.iter().any(|known| known.device == mount.device) {
            ours.push(mount);
        }
    }
    Ok(ours)
}

/// The aysfs that a path is in, and the path from its root. The end of the path may be a symlink, or gone.
pub(crate) fn containing(path: &Path) -> anyhow::Result<(MountPoint, Vec<u8>)> {
    let (absolute, shown) = (std::path::absolute(path)?, path.display());
    let place = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => real(&absolute),
    };
    for above in place.ancestors() {
        let Some(mount) = mounted_on(above)? else { continue };
        if mount.kind != OURS {
            break;
        }
        let inside = mount.root.join(place.strip_prefix(above).expect("it is above"));
        let inside = inside.strip_prefix("/").unwrap_or(&inside).to_owned();
        return Ok((mount, inside.into_os_string().into_vec()));
    }
    bail!("{shown} is not in a mount of aysfs")
}

/// Where a path is, whatever links lead to it. Its end may not be there: a mount point inside of a mount that is still to be made.
pub(crate) fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there.and_then(|(above, real)| Some(real.join(path.strip_prefix(above).ok()?))) {
        Some(real) => real,
        None => path.to_owned(),
    }
}

/// The type of the filesystem that was mounted last on exactly this directory.
fn topmost(point: &Path) -> anyhow::Result<Option<String>> {
    Ok(mounted_on(point)?.map(|mount| mount.kind))
}

/// The aysfs that is mounted on `point`, however that is typed.
pub(crate) fn ours(point: &Path) -> anyhow::Result<MountPoint> {
    let (real, shown) = (where_it_is(point)?, point.display());
    match mounted_on(&real)? {
        Some(mount) if mount.kind == OURS => return Ok(mount),
        Some(mount) => bail!("{shown} is a mount of {}, not of aysfs", mount.kind),
        None => {}
    }
    for above in real.ancestors().skip(1) {
        match mounted_on(above)? {
            Some(mount) if mount.kind == OURS => {
                bail!("{shown} is inside of the mount {}: name that one", above.display())
            }
            Some(_) => break,
            None => {}
        }
    }
    bail!("{shown} is not a mount of aysfs")
}

/// A mount point without symlinks on the way to it. The mount itself is not asked: a dead one answers nothing.
fn where_it_is(point: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(point)?;
    match absolute.canonicalize() {
        Ok(real) => Ok(real),
        Err(error) => match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) if error.kind() != io::ErrorKind::NotFound => Ok(parent
                .canonicalize()
                .with_context(|| format!("cannot find {}", point.display()))?
                .join(name)),
            _ => Err(error).with_context(|| format!("cannot find {}", point.display())),
        },
    }
}

/// The type of the filesystem that a path is on.
pub(crate) fn filesystem_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    path.ancestors().find_map(|point| topmost(point).ok()?)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), field);
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
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/mnt/a\040b\134c\012d"), Path::new("/mnt/a b\\c\nd"));
        assert_eq!(unescape(br"/mnt/end\04"), Path::new(r"/mnt/end\04"));
    }

    #[test]
    fn the_kernel_tells_the_device_and_the_user() {
        let line = br"36 35 0:57 / /mnt/a\040b rw,nosuid shared:1 - fuse.aysfs /x\040y rw,user_id=1000,group_id=7,allow_other";
        let mount = MountPoint::parse(line).expect("a mount");
        let device = "0:57".parse().expect("a device");
        let (root, point, kind) = ("/".into(), "/mnt/a b".into(), OURS.into());
        assert_eq!(mount, MountPoint { id: 36, root, point, kind, device, user: 1000 });
        assert_eq!(device.to_string(), "0:57");
        for bad in ["", "57", "0:", "0:-1", "a:b"] {
            bad.parse::<Device>().expect_err("no device");
        }
    }

    #[test]
    fn a_mount_point_may_have_any_bytes() {
        let line = b"36 35 0:57 / /mnt/\xff\xfe rw - fuse.\xff /\xfd rw,user_id=1000";
        let mount = MountPoint::parse(line).expect("a mount");
        assert_eq!(mount.point.as_os_str().as_bytes(), b"/mnt/\xff\xfe");
        assert_eq!(mount.user, 1000);
    }
}
