//! The mark of a verified file.
//!
//! Bytes that were verified in memory can still be lost on their way to the disk: nothing is fsynced, for speed.
//! They can only be lost by a crash of the machine, though, so a seal names the boot in which it was made: in the
//! same boot, the page cache holds what was verified. After a reboot the file is hashed again, once.
//!
//! Whoever damages a file on purpose can give it its old mtime back, but not its old ctime. A seal cannot name the
//! ctime of its own file, which changes when the seal is written; but it can tell when that was.

use std::fmt;
use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::fs::{Stat, XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use crate::ContentId;

/// The extended attribute that holds it.
const XATTR: &str = "user.aysfs.seal";

/// The version of the text below.
const VERSION: &str = "2";

/// How long after its seal a file gets its name, at most: both change its ctime, and nothing changes it later.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(1);

/// Longer values are not ours.
const LENGTH_MAX: usize = 512;

/// One boot of the machine: what tells whether a power failure lies between then and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot(String);

impl Boot {
    /// This one.
    pub fn current() -> Self {
        match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(id) => Self(id.trim().to_owned()),
            // Unknown: every process counts as a boot of its own, and verifies once what it uses.
            Err(_) => Self(format!("{:032x}", fastrand::u128(..))),
        }
    }

    /// A boot by its id, of characters other than white space.
    pub fn with_id(id: &str) -> Self {
        Self(id.split_whitespace().collect())
    }
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: i64,
    mtime: i64,
    mtime_nsec: i64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { size: stat.st_size, mtime: stat.st_mtime, mtime_nsec: stat.st_mtime_nsec.cast_signed() }
    }
}

/// A moment of the system's clock, in nanoseconds since 1970; zero before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or_default())
    }

    fn of_change(stat: &Stat) -> Self {
        let since = Duration::new(u64::try_from(stat.st_ctime).unwrap_or_default(), 0);
        Self(u64::try_from(since.as_nanos()).unwrap_or_default().saturating_add(stat.st_ctime_nsec))
    }

    fn is_near(self, other: Self) -> bool {
        Duration::from_nanos(self.0.abs_diff(other.0)) <= PUBLISHED_WITHIN
    }
}

/// "These bytes were verified": version, boot, size, mtime, moment, id, digest of the plain bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) boot: Boot,
    pub(super) stamp: Stamp,
    /// When it was made.
    pub(super) made: Moment,
    /// What the file is the content of.
    pub(super) id: ContentId,
    /// The digest of its plain bytes: the id itself, unless that is the digest of a stored form, which cannot be
    /// computed from the file.
    pub(super) plain: ContentId,
}

impl Seal {
    /// The seal that a file carries; nothing if it has none, or one that this version does not understand.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut text = Vec::with_capacity(LENGTH_MAX);
        fgetxattr(file, XATTR, spare_capacity(&mut text)).ok()?;
        Self::parse(std::str::from_utf8(&text).ok()?)
    }

    /// Whether a file in this state is what was sealed in `boot`.
    pub(super) fn fits(&self, boot: &Boot, stat: &Stat) -> bool {
        self.boot == *boot && self.stamp == Stamp::of(stat) && Moment::of_change(stat).is_near(self.made)
    }

    /// Puts it on a file; `Ok(false)` if the filesystem has no room for such a thing.
    pub(super) fn write(&self, file: &File) -> io::Result<bool> {
        match fsetxattr(file, XATTR, self.to_string().as_bytes(), XattrFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let mut next = || fields.next();
        if next()? != VERSION {
            return None;
        }
        let boot = Boot(next()?.to_owned());
        let size = next()?.parse().ok()?;
        let (mtime, mtime_nsec) = next()?.split_once('.')?;
        let stamp = Stamp { size, mtime: mtime.parse().ok()?, mtime_nsec: mtime_nsec.parse().ok()? };
        let made = Moment(next()?.parse().ok()?);
        let id = digest(next()?)?;
        let plain = digest(next()?)?;
        next().is_none().then_some(Self { boot, stamp, made, id, plain })
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot: Boot(boot), stamp, made: Moment(made), id, plain } = self;
        let Stamp { size, mtime, mtime_nsec } = stamp;
        write!(f, "{VERSION} {boot} {size} {mtime}.{mtime_nsec:09} {made} {id} {plain}")
    }
}

/// A digest in hex; its length tells which.
fn digest(text: &str) -> Option<ContentId> {
    let bytes = hex::decode(text).ok()?;
    match bytes.len() {
        16 => bytes.try_into().ok().map(ContentId::Md5),
        _ => bytes.try_into().ok().map(ContentId::Sha256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_comes_back() {
        for plain in [ContentId::Md5([0xab; 16]), ContentId::Sha256([7; 32])] {
            for (size, mtime, mtime_nsec) in [(0, 0, 0), (i64::MAX, 1_700_000_000, 999_999_999), (5, -7, 3)] {
                let stamp = Stamp { size, mtime, mtime_nsec };
                let id = ContentId::Md5([1; 16]);
                let seal = Seal { boot: Boot::current(), stamp, made: Moment::now(), id, plain };
                assert_eq!(Seal::parse(&seal.to_string()), Some(seal));
            }
        }
    }

    #[test]
    fn what_is_not_a_seal_is_none() {
        let good =
            "2 boot 5 17.000000001 17 00000000000000000000000000000000 900150983cd24fb0d6963f7d28e17f72";
        assert!(Seal::parse(good).is_some());
        for bad in ["", "1", &good[..good.len() - 2], &format!("{good} x"), &good.replacen('2', "3", 1)] {
            assert_eq!(Seal::parse(bad), None, "{bad}");
        }
    }
}
