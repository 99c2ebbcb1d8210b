//! How much of the disk the cache takes, and whether there is room for more.
//!
//! What counts is blocks: of the files with a name, and of what is being written without one. The first is found by a scan of the
//! directory, and kept up by who publishes and removes; every later scan corrects it, since other processes with the same
//! directory do the same without a word. The second is claimed before it is written ([`Claim`]), so that the cache keeps within
//! its size while it writes, too. What other processes are writing is not known here until it has a name.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Stat, fstatvfs};

use super::lock;

/// The unit in which room is claimed: the block of nearly every filesystem.
const BLOCK: u64 = 4096;

/// What a cache may take. The default is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How large it may be, in bytes.
    pub size: Option<u64>,
    /// How much of its filesystem stays free.
    pub min_free: MinFree,
    /// How long content stays after it was last read.
    pub older_than: Option<Duration>,
}

/// How much of a filesystem stays free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// So many of a hundred parts.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

impl Default for MinFree {
    /// Nothing need stay free.
    fn default() -> Self {
        Self::Bytes(0)
    }
}

/// The room of a filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) min_free: u64,
}

/// The totals of a cache, and its limits.
#[derive(Debug)]
pub(super) struct Usage {
    limits: Limits,
    /// Of files with a name. Below zero until a scan has found those that were removed since.
    named: AtomicI64,
    /// Of files that lost their name, ever.
    removed: AtomicU64,
    /// How often a scan has corrected this.
    corrections: Mutex<u64>,
    /// Claimed by those who write.
    claimed: AtomicU64,
}

impl Usage {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            named: AtomicI64::new(0),
            removed: AtomicU64::new(0),
            corrections: Mutex::new(0),
            claimed: AtomicU64::new(0),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// A file of so many bytes has a name now.
    pub(super) fn add(&self, bytes: u64) {
        self.named.fetch_add(signed(bytes), Ordering::Relaxed);
    }

    /// A file of so many bytes has none any more.
    pub(super) fn subtract(&self, bytes: u64) {
        self.removed.fetch_add(bytes, Ordering::Relaxed);
        self.named.fetch_sub(signed(bytes), Ordering::Relaxed);
    }

    /// What the counters say, to be given to [`correct`](Self::correct) after a scan.
    pub(super) fn before_scan(&self) -> BeforeScan {
        let corrections = *lock(&self.corrections);
        let removed = self.removed.load(Ordering::Relaxed);
        BeforeScan { named: self.named.load(Ordering::Relaxed), removed, corrections }
    }

    /// A scan has found so much. Until the next one this may be too much, never too little: what was published while it went on may
    /// count twice, and what was removed meanwhile counts, since nobody knows whether the scan came by before. If another scan has
    /// corrected it meanwhile, that will do.
    pub(super) fn correct(&self, before: BeforeScan, found: u64) {
        let mut corrections = lock(&self.corrections);
        if *corrections == before.corrections {
            *corrections += 1;
            let removed = self.removed.load(Ordering::Relaxed) - before.removed;
            self.named.fetch_add(signed(found) - before.named + signed(removed), Ordering::Relaxed);
        }
    }

    /// All of it.
    pub(super) fn total(&self) -> u64 {
        let named = u64::try_from(self.named.load(Ordering::Relaxed)).unwrap_or(0);
        named.saturating_add(self.claimed.load(Ordering::Relaxed))
    }

    /// What is being written.
    pub(super) fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Relaxed)
    }

    /// Whether `more` bytes fit into the size.
    pub(super) fn fits(&self, more: u64) -> bool {
        self.limits.size.is_none_or(|size| self.total().saturating_add(more) <= size)
    }

    /// Claims room to write `length` bytes, if they fit.
    pub(super) fn claim(self: &Arc<Self>, length: u64) -> Option<Claim> {
        let claim = self.claim_anyway(length);
        // Claimed first, and looked at then: of two who come at the same time, both cannot find the same room.
        self.fits(0).then_some(claim)
    }

    /// Claims room to write `length` bytes, whatever the limits say.
    pub(super) fn claim_anyway(self: &Arc<Self>, length: u64) -> Claim {
        let bytes = length.next_multiple_of(BLOCK);
        self.claimed.fetch_add(bytes, Ordering::Relaxed);
        Claim { usage: self.clone(), bytes }
    }

    /// How many bytes are to go for the size, with `urgent` more about to come: eviction begins a sixteenth below it and ends an
    /// eighth below it, so that those who write find room.
    pub(super) fn excess(&self, urgent: u64) -> u64 {
        let Some(size) = self.limits.size else { return 0 };
        let total = self.total().saturating_add(urgent);
        if total > size - size / 16 { total - (size - size / 8) } else { 0 }
    }
}

/// What the counters said before a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeforeScan {
    named: i64,
    removed: u64,
    corrections: u64,
}

impl Space {
    /// That of the filesystem with this directory.
    pub(super) fn of(directory: &OwnedFd, min_free: MinFree) -> std::io::Result<Self> {
        let stat = fstatvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // As df(1) has it: what is kept back for root is not there.
        let total = bytes(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_add(stat.f_bavail));
        let min_free = match min_free {
            MinFree::Percent(percent) => total / 100 * u64::from(percent),
            MinFree::Bytes(bytes) => bytes,
        };
        Ok(Self { total, free: bytes(stat.f_bavail), min_free })
    }

    /// Whether `more` bytes fit.
    pub(super) fn fits(&self, more: u64) -> bool {
        self.free >= self.min_free.saturating_add(more)
    }

    /// How many bytes are to go, with `urgent` more about to come: an eighth of what stays free in addition, so that those who
    /// write find room.
    pub(super) fn excess(&self, urgent: u64) -> u64 {
        if self.fits(urgent) {
            return 0;
        }
        let wanted = self.min_free.saturating_add(self.min_free / 8).saturating_add(urgent);
        wanted.saturating_sub(self.free)
    }
}

/// Room that was claimed by one who writes; given back when it is dropped, at the latest when what was written has a name and
/// counts as a file.
#[derive(Debug)]
pub(super) struct Claim {
    usage: Arc<Usage>,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.usage.claimed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a file takes of the disk.
pub(super) fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
