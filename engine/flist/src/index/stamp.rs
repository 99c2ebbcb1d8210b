//! What was found out about a file, and by which signs the file is known to be the same still.
//!
//! Two kinds are kept beside the indexes: the digest of a list, so that an unchanged list need not be hashed
//! again, and the seal of an index, which says that its checksum was right since this boot. Neither is needed: a
//! stamp that is missing, damaged or out of date costs time only.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{I64, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::key::UNFINISHED;

/// What changes when the content of a file does.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub(super) struct FileState {
    dev: U64,
    ino: U64,
    size: U64,
    mtime: I64,
    mtime_nanos: I64,
    ctime: I64,
    ctime_nanos: I64,
}

impl FileState {
    /// The state of no file.
    pub(super) const UNKNOWN: Self = Self {
        dev: U64::ZERO,
        ino: U64::ZERO,
        size: U64::ZERO,
        mtime: I64::ZERO,
        mtime_nanos: I64::ZERO,
        ctime: I64::ZERO,
        ctime_nanos: I64::ZERO,
    };

    /// How long after a change another one could leave the same times: clocks of filesystems tick in steps of up
    /// to two seconds (FAT).
    const RACY: Duration = Duration::from_secs(2);

    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            dev: stat.dev().into(),
            ino: stat.ino().into(),
            size: stat.size().into(),
            mtime: stat.mtime().into(),
            mtime_nanos: stat.mtime_nsec().into(),
            ctime: stat.ctime().into(),
            ctime_nanos: stat.ctime_nsec().into(),
        })
    }

    /// Whether a change from now on is sure to show in the times. A file that has just changed may change again
    /// within the same tick of the clock, so its state proves nothing yet (git calls it racily clean).
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let (Some(settled), Ok(ctime)) = (now.checked_sub(Self::RACY), u64::try_from(self.ctime.get()))
        else {
            return false;
        };
        let mtime = u64::try_from(self.mtime.get()).unwrap_or(0);
        // Rounded up to the next second.
        let changed = Duration::from_secs(ctime.max(mtime).saturating_add(1));
        SystemTime::UNIX_EPOCH.checked_add(changed).is_some_and(|changed| changed <= settled)
    }
}

/// A stamp, as it is stored.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Stamp {
    magic: [u8; 8],
    /// The state in which the file was looked at.
    pub(super) state: FileState,
    /// Digest of a list, or key of an index.
    pub(super) digest: [u8; 32],
    /// The boot since which it is known; zero where that does not matter.
    pub(super) boot: [u8; 16],
    check: U64,
}

impl Stamp {
    pub(super) fn new(state: FileState, digest: [u8; 32], boot: [u8; 16]) -> Self {
        let mut stamp = Self { magic: *b"aysfstmp", state, digest, boot, check: U64::ZERO };
        stamp.check = stamp.own_check().into();
        stamp
    }

    fn own_check(&self) -> u64 {
        let bytes = self.as_bytes();
        xxh3_64(&bytes[..bytes.len() - size_of::<U64>()])
    }

    /// The stamp in a file, if it is whole.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let stamp = Self::read_from_bytes(&fs::read(path).ok()?).ok()?;
        (stamp == Self::new(stamp.state, stamp.digest, stamp.boot)).then_some(stamp)
    }

    /// Keeps the stamp. Failing to do so costs time at the next mount, so it is only logged.
    pub(super) fn write(&self, path: &Path) {
        let written = path.parent().ok_or(io::ErrorKind::NotFound.into()).and_then(|dir| {
            let mut temp = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
            temp.write_all(self.as_bytes())?;
            temp.persist(path)?;
            Ok::<_, io::Error>(())
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot keep what is known about a file");
        }
    }
}

/// The id of this boot of the machine.
pub(super) fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let mut id = [0; 16];
    hex::decode_to_slice(text.trim().replace('-', ""), &mut id).ok()?;
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_only_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("stamp");
        let stamp = Stamp::new(FileState::UNKNOWN, [7; 32], [9; 16]);
        stamp.write(&path);
        assert_eq!(Stamp::read(&path), Some(stamp));
        let whole = fs::read(&path).expect("the stamp");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).expect("writable");
            assert_eq!(Stamp::read(&path), None, "byte {at}");
        }
        fs::write(&path, &whole[1..]).expect("writable");
        assert_eq!(Stamp::read(&path), None);
    }

    #[test]
    fn a_file_that_has_just_changed_proves_nothing() {
        let file = tempfile::tempfile().expect("a file");
        let state = FileState::of(&file).expect("stat");
        let changed = file.metadata().and_then(|stat| stat.modified()).expect("stat");
        assert!(!state.is_settled(changed));
        assert!(!state.is_settled(changed + Duration::from_secs(1)));
        assert!(state.is_settled(changed + Duration::from_secs(4)));
        assert!(!state.is_settled(changed - Duration::from_secs(100)), "from the future");
    }

    #[test]
    fn the_machine_has_a_boot_id() {
        assert_eq!(boot_id(), boot_id());
        assert!(boot_id().is_some());
    }
}
