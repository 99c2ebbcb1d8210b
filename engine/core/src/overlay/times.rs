//! The times of a file that is written to without being changed.

use std::fs::File;
use std::str;

use aysfs_vfs::Result;
use rustix::fs::{Stat, Timespec, Timestamps, futimens};

/// When a file was last read and changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    read: (i64, i64),
    changed: (i64, i64),
}

impl Times {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |nanos: u64| nanos.cast_signed();
        Self {
            read: (stat.st_atime, nanos(stat.st_atime_nsec)),
            changed: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
        }
    }

    pub(super) fn restore(&self, file: &File) -> Result<()> {
        let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time(self.read), last_modification: time(self.changed) };
        Ok(futimens(file, &times)?)
    }

    pub(super) fn to_mark(self) -> String {
        let (read, changed) = (self.read, self.changed);
        format!("{} {} {} {}", read.0, read.1, changed.0, changed.1)
    }

    /// `None` if it is no mark of ours.
    pub(super) fn from_mark(mark: &[u8]) -> Option<Self> {
        let mut numbers = str::from_utf8(mark).ok()?.split(' ').map(|number| number.parse().ok());
        let mut time = || Some((numbers.next()??, numbers.next()??));
        Some(Self { read: time()?, changed: time()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_the_times_again() {
        let times = Times { read: (-5, 999_999_999), changed: (1 << 33, 0) };
        assert_eq!(Times::from_mark(times.to_mark().as_bytes()), Some(times));
        for mark in ["", "1 2 3", "1 2 3 x", "1  2 3"] {
            assert_eq!(Times::from_mark(mark.as_bytes()), None, "{mark}");
        }
    }
}
