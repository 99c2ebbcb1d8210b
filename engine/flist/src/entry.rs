//! One entry of a flist, and the header of the list: what a line says, whatever its dialect.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A file, directory or special file, as one line describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is: components separated by `/`, without a leading one. Empty: the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-uid, set-gid and sticky: `st_mode & 0o7777`.
    pub perm: u16,
    /// Owning user.
    pub user: Owner,
    /// Owning group.
    pub group: Owner,
    /// Length in bytes of a regular file; zero for anything else.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Where the content of a regular file is; an empty file needs none.
    pub content: Option<Content>,
    /// What opens the object of a v1 list, if that is encrypted.
    pub v1_keys: V1Keys,
    /// Target of a symlink; empty for anything else.
    pub target: Vec<u8>,
    /// Another name of the file at this path, which an earlier entry describes. Everything else that this entry
    /// says is then for readers that know no hard links, and ignored.
    pub link: Option<Vec<u8>>,
    /// Extended attributes, name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The parts of a sparse file that are not holes: in order, not overlapping, inside the size. `None`: all.
    pub data: Option<Vec<Range<u64>>>,
}

impl Entry {
    /// An entry as v1 short implies it: mode 0755, owned by root, at the epoch, empty.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            perm: 0o755,
            user: Owner::root(),
            group: Owner::root(),
            size: 0,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            content: None,
            v1_keys: V1Keys::default(),
            target: Vec::new(),
            link: None,
            xattrs: Vec::new(),
            data: None,
        }
    }
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

impl Kind {
    /// The number that stands for the type in a flist.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Socket => 0,
            Self::Symlink => 1,
            Self::Regular => 2,
            Self::BlockDevice { .. } => 3,
            Self::Directory => 4,
            Self::CharDevice { .. } => 5,
            Self::Fifo => 6,
        }
    }

    /// The type of a number; `device` are the numbers of a device node.
    pub(crate) fn from_code(code: u8, device: (u32, u32)) -> Option<Self> {
        let (major, minor) = device;
        Some(match code {
            0 => Self::Socket,
            1 => Self::Symlink,
            2 => Self::Regular,
            3 => Self::BlockDevice { major, minor },
            4 => Self::Directory,
            5 => Self::CharDevice { major, minor },
            6 => Self::Fifo,
            _ => return None,
        })
    }
}

/// A user or a group: by name, by number, or both. A name that the local system knows wins over the number;
/// with neither, it is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The name; never empty.
    pub name: Option<Vec<u8>>,
    /// The number.
    pub id: Option<u32>,
}

impl Owner {
    /// The superuser, or its group.
    pub fn root() -> Self {
        Self { name: Some(b"root".to_vec()), id: Some(0) }
    }
}

/// A point in time: seconds since 1970-01-01 UTC, rounded towards the past, plus nanoseconds counted forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// The nanoseconds of a second.
    pub(crate) const NANOS: u32 = 1_000_000_000;
}

/// The digest of a regular file's content, and the place where a stor keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Of a v1 list: MD5 of the plain file or of its stored body, which is an object of that name.
    V1([u8; 16]),
    /// The whole file is one stored chunk, an object of its own (`obj=`).
    Object {
        /// Digest of the plain bytes.
        sha256: [u8; 32],
        /// The object.
        key: ObjectKey,
    },
    /// The whole file is one stored chunk of a pack (`at=`).
    Pack {
        /// Digest of the plain bytes.
        sha256: [u8; 32],
        /// The chunk.
        at: Place,
    },
    /// The file is several chunks, listed by a table that is itself a stored chunk of a pack (`chunks=`, `table=`).
    Chunks {
        /// Digest of the plain bytes of the whole file.
        sha256: [u8; 32],
        /// The chunk table.
        table: Table,
    },
}

/// The chunk table of a file. What is in it has the weight of the list, so the list names its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Digest of its plain bytes.
    pub sha256: [u8; 32],
    /// Their length.
    pub length: u64,
    /// Where it is.
    pub at: Place,
}

/// The key of an encrypted v1 object, wrapped for each of its recipients; empty: not for this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct V1Keys {
    /// For the user (`ukey=`).
    pub user: Vec<u8>,
    /// For the stor (`skey=`).
    pub store: Vec<u8>,
}

impl V1Keys {
    /// Whether there are none: the object is not encrypted.
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.store.is_empty()
    }
}

/// The key of an object: shown as the lowercase hex digits of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKey {
    /// 32 digits.
    Md5([u8; 16]),
    /// 64 digits.
    Sha256([u8; 32]),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Md5(digest) => f.write_str(&hex::encode(digest)),
            Self::Sha256(digest) => f.write_str(&hex::encode(digest)),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = BadKey;

    /// Lowercase only: keys are compared as text by stors.
    fn from_str(text: &str) -> Result<Self, BadKey> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(BadKey);
        }
        let mut md5 = [0; 16];
        let mut sha256 = [0; 32];
        if hex::decode_to_slice(text, &mut md5).is_ok() {
            Ok(Self::Md5(md5))
        } else if hex::decode_to_slice(text, &mut sha256).is_ok() {
            Ok(Self::Sha256(sha256))
        } else {
            Err(BadKey)
        }
    }
}

/// A text is not an [`ObjectKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 or 64 lowercase hex digits")]
pub struct BadKey;

/// Stored bytes inside a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack, which is in the [`Header`].
    pub pack: ObjectKey,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub stored: u64,
}

/// A pack that entries refer to, by themselves or by their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Names it in the stor: the digest of its bytes, unless the stor has chosen another name.
    pub key: ObjectKey,
    /// Its length.
    pub bytes: u64,
}

/// What a v2 list says about itself; v1 has no header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The name of what is listed.
    pub name: Option<String>,
    /// Grows with each publication; never mount a lower one than before from a trusted source.
    pub version: Option<u64>,
    /// When it was made: free text, by custom RFC 3339.
    pub created: Option<String>,
    /// The packs. Their numbers in the list are positions in this, when it is written.
    pub packs: Vec<Pack>,
    /// Those of them that a mount is best to fetch at once, the most urgent first.
    pub start: Vec<ObjectKey>,
    /// What this list was made from, and what that was made from, the oldest first.
    pub ancestors: Vec<Ancestor>,
}

/// A list that another one was made from, and the directories that have another path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The digest of the list, as it was stored.
    pub sha256: [u8; 32],
    /// Old path and new path. What is below an old path is below the new one, unless that is listed, too.
    pub moved: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The three ways to write a flist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `path|hash|size`
    V1Short,
    /// `path|hash|size|uname|gname|mode|type|ctime|mtime|extended`
    V1Long,
    /// The fields of v1 long, escaped, exact, and followed by `key=value` columns.
    V2,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1Short => "v1 short",
            Self::V1Long => "v1 long",
            Self::V2 => "v2",
        })
    }
}

/// Which of the two time fields of a v1 long line is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeOrder {
    /// ctime, then mtime: as specified.
    Spec,
    /// mtime, then ctime: as known builders wrote it.
    Swapped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_keys_are_lowercase_hex_of_a_known_length() {
        for good in ["d41d8cd98f00b204e9800998ecf8427e".to_owned(), "ab".repeat(32)] {
            assert_eq!(good.parse::<ObjectKey>().expect("a key").to_string(), good);
        }
        for bad in ["", "abc", "D41D8CD98F00B204E9800998ECF8427E", &"g".repeat(64), &"a".repeat(63)] {
            assert_eq!(bad.parse::<ObjectKey>(), Err(BadKey), "{bad}");
        }
    }

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let device = (8, 1);
        for code in 0..=6 {
            assert_eq!(Kind::from_code(code, device).expect("a kind").code(), code);
        }
        assert_eq!(Kind::from_code(7, device), None);
    }
}
