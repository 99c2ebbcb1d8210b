//! The words of the contract as types: no bare integer or string crosses it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An inode number: what `stat` shows as `st_ino`, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of a mount (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A file or directory handle, made by `open`, `create` or `opendir` and ended by its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

impl Fh {
    /// What the kernel sends when nothing was opened: see [`Caps::stateless`](crate::Caps::stateless).
    pub const NONE: Self = Self(0);
}

/// One component of a path: not empty, no `/`, no NUL, at most [`Name::MAX`] bytes.
///
/// `.` and `..` are refused as well: the kernel resolves them itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// `NAME_MAX` of Linux, in bytes.
    pub const MAX: usize = 255;

    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            [b'.'] | [b'.', b'.'] => Err(NameError::Dots),
            _ if bytes.len() > Self::MAX => Err(NameError::TooLong),
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(NameError::Forbidden),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the standard library takes it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_os_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.escape_ascii(), f)
    }
}

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("the name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("the name is `.` or `..`")]
    Dots,
    /// More than [`Name::MAX`] bytes.
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// A `/` or a NUL byte.
    #[error("the name holds a `/` or a NUL byte")]
    Forbidden,
}

/// Who asks: the credentials of the calling process, as the kernel sent them.
///
/// Permissions are checked by the kernel (`default_permissions`); an implementer needs the caller only to
/// own what is created, and for the few rules that the kernel leaves to the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
    /// Process id in the mounting process's namespace; zero when the kernel itself asks (writeback).
    pub pid: u32,
    /// The bits to clear from the mode of what is created, unless a default ACL of the parent decides; zero
    /// where the kernel has cleared them already.
    pub umask: u16,
}

/// A point in time: seconds since 1970-01-01 UTC, negative before, plus nanoseconds counted forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// The time of the system clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let secs = 0_i64.wrapping_sub_unsigned(before.as_secs());
                match before.subsec_nanos() {
                    0 => Self { secs, nanos: 0 },
                    nanos => Self { secs: secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let nanos = Duration::from_nanos(time.nanos.into());
        if time.secs < 0 { UNIX_EPOCH - whole + nanos } else { UNIX_EPOCH + whole + nanos }
    }
}

/// The type bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice(Device),
    BlockDevice(Device),
}

/// The number of a device node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// What `stat` shows of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode itself.
    pub ino: Ino,
    /// Type, with the device number of a device node.
    pub kind: FileKind,
    /// Permission bits, set-uid, set-gid and sticky: `st_mode & 0o7777`.
    pub perm: u16,
    /// Number of names.
    pub nlink: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Length in bytes; of a symlink, the length of its target.
    pub size: u64,
    /// Space in use, in units of 512 bytes whatever the block size.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Attr {
    /// The preferred I/O size that every frontend reports (`st_blksize`), in bytes.
    pub const BLOCK_SIZE: u32 = 4096;
}

/// How long the kernel may answer from its own caches before it asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// The name leads to this inode.
    pub entry: Duration,
    /// The attributes are these.
    pub attr: Duration,
}

/// A name that exists: its inode's attributes, and how long both may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode, as of now.
    pub attr: Attr,
    /// How long the kernel may believe it.
    pub ttl: TimeToLive,
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name exists; the kernel's lookup count of the inode grows by one.
    Found(Entry),
    /// The name does not exist, and the kernel may believe so for this long (zero: not at all).
    Absent(Duration),
}

/// How the kernel may cache the content behind a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelCache {
    /// Keep cached pages (or directory entries) from earlier opens: the content cannot have changed.
    Keep,
    /// Drop what earlier opens cached, then cache.
    Fresh,
    /// Do not cache: each read and write becomes a message.
    Direct,
}

/// An open file or directory.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The handle; sent back with each call on it.
    pub fh: Fh,
    /// What the kernel may do with its page cache.
    pub cache: KernelCache,
    /// A local file whose bytes are, and stay, exactly those of this inode. A frontend that can do FUSE
    /// passthrough hands it to the kernel, which then reads (and writes, if it is open for that) without a
    /// message; one that cannot ignores it. All opens of one inode at one time carry the same file or none. The kernel opens
    /// it anew for each handle, with the flags of that handle: it need not be open for writing here.
    pub backing: Option<Arc<File>>,
}

/// A file that `create` made and opened.
#[derive(Clone, Debug)]
pub struct Created {
    /// The new name's inode; the kernel's lookup count grows by one.
    pub entry: Entry,
    /// The handle on it.
    pub opened: Opened,
}

/// One entry of a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// `d_ino`: what `stat` of the name shows as `st_ino`.
    pub ino: Ino,
    /// `d_type`.
    pub kind: FileKind,
    /// The name; `.` and `..` are listed too.
    pub name: &'a [u8],
    /// The cookie that continues the listing behind this entry (`d_off`), never zero.
    pub next: u64,
}

/// The flags of `open`, as far as a filesystem has to know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// `O_RDONLY` or `O_RDWR`.
    pub read: bool,
    /// `O_WRONLY` or `O_RDWR`.
    pub write: bool,
    /// `O_TRUNC`: the file is empty before the first write.
    pub truncate: bool,
    /// `O_EXCL`, of `create` only: an existing name is an error.
    pub exclusive: bool,
    /// `O_DIRECT`: the caller wants no page cache.
    pub direct: bool,
    /// A program is started from it (`__FMODE_EXEC`): it must not be written to until this handle is released. The kernel sees
    /// to that (`ETXTBSY`), but for one way: `O_TRUNC` without a right to write is with us before the kernel looks.
    pub execute: bool,
    /// Not of the caller, but of the frontend: a backing file would not be in vain ([`Opened::backing`]).
    pub passthrough: bool,
}

impl OpenFlags {
    /// For reading, and nothing more.
    pub const READ: Self = Self {
        read: true,
        write: false,
        truncate: false,
        exclusive: false,
        direct: false,
        execute: false,
        passthrough: false,
    };

    /// For reading and writing.
    pub const READ_WRITE: Self = Self { write: true, ..Self::READ };
}

/// What `setattr` changes; `None` leaves a value as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Truncates, or extends with zeros.
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Only sent by kernels that keep a writeback cache.
    pub ctime: Option<Time>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`: the clock at the moment of the change.
    Now,
    /// This time.
    At(Time),
}

/// The flags of `renameat2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    /// `RENAME_NOREPLACE`: an existing target is [`ErrorKind::Exists`](crate::ErrorKind::Exists).
    NoReplace,
    /// `RENAME_EXCHANGE`: both names exist and swap their inodes.
    Exchange,
}

/// The modes of `fallocate(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Reserve space; grow the file unless `keep_size`.
    Allocate {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// `FALLOC_FL_PUNCH_HOLE`, which always keeps the size.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`.
    ZeroRange {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// `FALLOC_FL_COLLAPSE_RANGE`.
    CollapseRange,
    /// `FALLOC_FL_INSERT_RANGE`.
    InsertRange,
}

/// The kinds of `lseek` that a filesystem answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekWhence {
    /// `SEEK_DATA`: the next byte that is not in a hole.
    Data,
    /// `SEEK_HOLE`: the next hole; the end of the file counts as one.
    Hole,
}

/// The flags of `setxattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattrMode {
    /// Create or replace.
    Set,
    /// `XATTR_CREATE`: fail with [`ErrorKind::Exists`](crate::ErrorKind::Exists) if it is there.
    Create,
    /// `XATTR_REPLACE`: fail with [`ErrorKind::NoData`](crate::ErrorKind::NoData) if it is not there.
    Replace,
}

/// A place in an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// The file.
    pub ino: Ino,
    /// Its handle.
    pub fh: Fh,
    /// Where in it, in bytes.
    pub offset: u64,
}

/// What `statfs` shows of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Unit of the block counts, in bytes.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users without privileges.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name, in bytes.
    pub name_max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Name::new(b"a b").expect("valid").as_bytes(), b"a b");
        assert_eq!(Name::new(&[b'x'; 255]).expect("valid").as_bytes().len(), 255);
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        assert_eq!(Name::new(b"."), Err(NameError::Dots));
        assert_eq!(Name::new(b".."), Err(NameError::Dots));
        assert_eq!(Name::new(&[b'x'; 256]), Err(NameError::TooLong));
        assert_eq!(Name::new(b"a/b"), Err(NameError::Forbidden));
        assert_eq!(Name::new(b"a\0b"), Err(NameError::Forbidden));
    }

    #[test]
    fn times_survive_the_epoch_in_both_directions() {
        for time in [
            Time { secs: 0, nanos: 0 },
            Time { secs: 1, nanos: 999_999_999 },
            Time { secs: -1, nanos: 1 },
            Time { secs: -2_000_000_000, nanos: 0 },
            Time { secs: -5, nanos: 500_000_000 },
        ] {
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
