//! The mark of a verified file.
//!
//! Bytes that were verified in memory can still be lost on their way to the disk: nothing is fsynced, for speed.
//! They can only be lost by a crash of the machine, though, so a seal names the boot in which it was made: in the
//! same boot, the page cache holds what was verified. After a reboot the file is hashed again, once.
//!
//! It is short, because ext4 keeps attributes of some 60 bytes in the inode: a longer one costs a block of the disk
//! for each file, and at the first open the time to read it.

use std::fs::File;
use std::io;

use md5::{Digest, Md5};
use rustix::buffer::spare_capacity;
use rustix::fs::{Stat, XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use crate::ContentId;

/// The extended attribute that holds it.
const XATTR: &str = "user.aysfs.seal";

/// The version of the bytes below; 1 was a text.
const VERSION: u8 = 2;

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

/// "These bytes were verified."
///
/// As bytes: the version, the boot, the mtime, the id, and if that is an MD5, the MD5 of the plain bytes. Numbers are
/// little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) boot: Boot,
    pub(super) stamp: Stamp,
    /// The beginning of the id of which the file is the content.
    id: [u8; 16],
    /// The digest of the plain bytes if it may differ from the id: that may be the digest of a stored form, which
    /// cannot be computed from the file.
    pub(super) plain: Option<ContentId>,
}

impl Seal {
    pub(super) fn new(boot: Boot, stamp: Stamp, id: &ContentId, plain: ContentId) -> Self {
        let plain = matches!(id, ContentId::Md5(_)).then_some(plain);
        Self { boot, stamp, id: beginning(id), plain }
    }

    /// Whether the file was the content of `id`.
    pub(super) fn is_of(&self, id: &ContentId) -> bool {
        self.id == beginning(id)
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

    fn to_bytes(&self) -> Vec<u8> {
        let Stamp { mtime, mtime_nsec } = self.stamp;
        let mut bytes = vec![VERSION];
        bytes.extend(self.boot.0);
        bytes.extend(mtime.to_le_bytes());
        bytes.extend(mtime_nsec.to_le_bytes());
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
        let (&id, plain) = bytes.split_first_chunk()?;
        let plain = match plain {
            [] => None,
            plain => Some(ContentId::Md5(plain.try_into().ok()?)),
        };
        let stamp = Stamp { mtime: i64::from_le_bytes(mtime), mtime_nsec: u32::from_le_bytes(mtime_nsec) };
        (version == VERSION).then_some(Self { boot: Boot(boot), stamp, id, plain })
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
