//! The mark of a verified file.
//!
//! Bytes that were verified in memory can still be lost on their way to the disk: nothing is fsynced, for speed.
//! They can only be lost by a crash of the machine, though, so a seal names the boot in which it was made: in the
//! same boot, the page cache holds what was verified. After a reboot the file is hashed again, once.
//!
//! Whoever damages a file on purpose can give it its old mtime back, but not its old ctime. A seal cannot name the
//! ctime of its own file, which changes when the seal is written; but it can tell when that was.
//!
//! It is short, because ext4 keeps attributes of some 60 bytes in the inode: a longer one costs a block of the disk
//! for each file, and at the first open the time to read it.

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};
use rustix::buffer::spare_capacity;
use rustix::fs::{Stat, XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::ContentId;

/// The extended attribute that holds it.
const XATTR: &str = "user.aysfs.seal";

/// The version of the bytes below; 1 was a text.
const VERSION: u8 = 2;

/// How long after its seal a file gets its name, at most, in seconds: both change its ctime, and nothing changes it
/// later.
const PUBLISHED_WITHIN: u64 = 1;

/// Longer values are not ours.
const LENGTH_MAX: usize = 64;

/// One boot of the machine: what tells whether a power failure lies between then and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot([u8; 8]);

impl Boot {
    /// This one.
    pub fn current() -> Self {
        match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(id) => Self::with_id(id.trim()),
            // Unknown: every process counts as a boot of its own, and verifies once what it uses.
            Err(_) => Self(fastrand::u64(..).to_le_bytes()),
        }
    }

    /// A boot by its id.
    pub fn with_id(id: &str) -> Self {
        let digest: [u8; 16] = Md5::digest(id).into();
        Self(*digest.first_chunk().expect("16 bytes"))
    }
}

/// What changes when a file is written to. Its size is known anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    mtime: i64,
    mtime_nsec: u32,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self { mtime: stat.st_mtime, mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
    }
}

/// A moment of the system's clock, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(u32);

impl Moment {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// When the inode was changed last.
    fn of_change(stat: &Stat) -> Self {
        Self(u32::try_from(stat.st_ctime).unwrap_or_default())
    }

    fn is_near(self, other: Self) -> bool {
        u64::from(self.0.abs_diff(other.0)) <= PUBLISHED_WITHIN
    }
}

/// "These bytes were verified."
///
/// As bytes: the version, the boot, the mtime, the moment, the id, and if that is an MD5, the MD5 of the plain bytes. Numbers are
/// little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    boot: Boot,
    stamp: Stamp,
    /// When it was made.
    made: Moment,
    /// The beginning of the id of which the file is the content.
    id: [u8; 16],
    /// The digest of the plain bytes if it may differ from the id: that may be the digest of a stored form, which
    /// cannot be computed from the file.
    pub(super) plain: Option<ContentId>,
}

impl Seal {
    pub(super) fn new(boot: Boot, stamp: Stamp, id: &ContentId, plain: ContentId) -> Self {
        let plain = matches!(id, ContentId::Md5(_)).then_some(plain);
        Self { boot, stamp, made: Moment::now(), id: beginning(id), plain }
    }

    /// Whether the file was the content of `id`.
    pub(super) fn is_of(&self, id: &ContentId) -> bool {
        self.id == beginning(id)
    }

    /// Whether a file in this state is what was sealed in `boot`.
    pub(super) fn fits(&self, boot: &Boot, stat: &Stat) -> bool {
        self.boot == *boot && self.stamp == Stamp::of(stat) && Moment::of_change(stat).is_near(self.made)
    }

    /// The seal that a file carries; nothing if it has none, or one that this version does not understand.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut bytes = Vec::with_capacity(LENGTH_MAX);
        fgetxattr(file, XATTR, spare_capacity(&mut bytes)).ok()?;
        Self::parse(&bytes)
    }

    /// Puts it on a file; `Ok(false)` if the filesystem has no room for such a thing.
    pub(super) fn write(&self, file: &File) -> io::Result<bool> {
        match fsetxattr(file, XATTR, &self.to_bytes(), XattrFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes it off a file; one that has none is no error.
    pub(super) fn remove(file: &File) -> io::Result<()> {
        match fremovexattr(file, XATTR) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Stamp { mtime, mtime_nsec } = self.stamp;
        let mut bytes = vec![VERSION];
        bytes.extend(self.boot.0);
        bytes.extend(mtime.to_le_bytes());
        bytes.extend(mtime_nsec.to_le_bytes());
        bytes.extend(self.made.0.to_le_bytes());
        bytes.extend(self.id);
        if let Some(plain) = &self.plain {
            bytes.extend(beginning(plain));
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[version], bytes) = bytes.split_first_chunk()?;
        let (&boot, bytes) = bytes.split_first_chunk()?;
        let (&mtime, bytes) = bytes.split_first_chunk()?;
        let (&mtime_nsec, bytes) = bytes.split_first_chunk()?;
        let (&made, bytes) = bytes.split_first_chunk()?;
        let (&id, plain) = bytes.split_first_chunk()?;
        let plain = match plain {
            [] => None,
            plain => Some(ContentId::Md5(plain.try_into().ok()?)),
        };
        let stamp = Stamp { mtime: i64::from_le_bytes(mtime), mtime_nsec: u32::from_le_bytes(mtime_nsec) };
        let made = Moment(u32::from_le_bytes(made));
        (version == VERSION).then_some(Self { boot: Boot(boot), stamp, made, id, plain })
    }
}

/// As much of a digest as is needed to know it again.
fn beginning(id: &ContentId) -> [u8; 16] {
    match id {
        ContentId::Md5(digest) => *digest,
        ContentId::Sha256(digest) => *digest.first_chunk().expect("32 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seals() -> impl Iterator<Item = Seal> {
        let times = [(0, 0), (i64::MAX, 999_999_999), (-7, 3)];
        times.into_iter().flat_map(|(mtime, mtime_nsec)| {
            [ContentId::Md5([1; 16]), ContentId::Sha256([7; 32])].map(|id| {
                let plain = if matches!(id, ContentId::Md5(_)) { ContentId::Md5([0xab; 16]) } else { id };
                let seal = Seal::new(Boot::current(), Stamp { mtime, mtime_nsec }, &id, plain);
                assert!(seal.is_of(&id) && !seal.is_of(&ContentId::Md5([9; 16])));
                seal
            })
        })
    }

    #[test]
    fn a_seal_comes_back() {
        for seal in seals() {
            assert_eq!(Seal::parse(&seal.to_bytes()), Some(seal));
        }
    }

    #[test]
    fn a_seal_fits_into_an_inode_of_ext4() {
        // 256 bytes, less 160 of fields, 8 of framing, and 28 for the entry with its name.
        assert!(seals().all(|seal| seal.to_bytes().len() <= 60));
    }

    #[test]
    fn what_is_not_a_seal_is_none() {
        for seal in seals() {
            let bytes = seal.to_bytes();
            let longer = [&bytes[..], b"x"].concat();
            let older = [&[1], &bytes[1..]].concat();
            for bad in [&[], &bytes[..bytes.len() - 1], &longer, &older, b"1 boot 5 17.000000001"] {
                assert_eq!(Seal::parse(bad), None, "{bad:?}");
            }
        }
    }
}
