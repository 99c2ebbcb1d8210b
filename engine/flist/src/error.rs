//! Why a flist is refused: always with the file, and where it is a line, with line, column and reason.

use std::io;
use std::path::PathBuf;

use crate::limits::{
    MAX_ANCESTORS, MAX_CHUNK, MAX_DEPTH, MAX_ENTRIES, MAX_LINE, MAX_MOVED, MAX_NAME, MAX_PACKS, MAX_TARGET,
    MAX_WRAPPED_KEY, MAX_XATTR,
};

/// A flist that cannot be used, or an index that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FlistError {
    /// A line breaks a rule; nothing of the list is used.
    #[error("{file}: line {line}, column {column}: {reason}")]
    Line {
        /// The list.
        file: String,
        /// Which line, from 1.
        line: u64,
        /// Where in it, in bytes from 1.
        column: usize,
        /// The broken rule.
        reason: Reason,
    },
    /// Not one line: more likely a failed download than an empty tree.
    #[error("{file}: the flist is empty; an empty tree is written as the line `# aysfs-flist 2`")]
    Empty {
        /// The list.
        file: String,
    },
    /// The last line of v2 does not end.
    #[error(
        "{file}: the flist is cut short: its last line does not end; get it again, or, if it was written by hand, end it with a newline"
    )]
    Cut {
        /// The list.
        file: String,
    },
    /// The list cannot be read (or decompressed) to its end.
    #[error("cannot read the flist {file}: {error}")]
    Read {
        /// The list.
        file: String,
        /// Why; part of the message, so not its source as well.
        error: io::Error,
    },
    /// The index cannot be written or mapped.
    #[error("cannot keep the index of a flist in {}: {error}", .path.display())]
    Index {
        /// The file or directory.
        path: PathBuf,
        /// Why; part of the message, so not its source as well.
        error: io::Error,
    },
}

/// A rule that a line breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Reason {
    #[error("the line is longer than {MAX_LINE} bytes")]
    LineTooLong,
    #[error(
        "expected 3 fields (v1 short), 10 or more (v1 long), or `# aysfs-flist 2` (v2), but found {0} field(s)"
    )]
    UnknownDialect(usize),
    #[error("this is flist format {0}, and this aysfs knows 2: install a newer aysfs")]
    NewerFormat(String),
    #[error("expected {expected} fields, but found {found}")]
    Fields { expected: &'static str, found: usize },

    #[error("a header line after the first entry; a path that begins with `#` is written with %23")]
    LateHeader,
    #[error("bad value {value:?} of the header line {key:?}")]
    HeaderValue { key: String, value: String },
    #[error("the header line {0:?} is given twice")]
    HeaderTwice(String),
    #[error("bad pack line: expected `# pack <number> <key> <bytes>`")]
    PackLine,
    #[error("pack {0} is given twice")]
    PackTwice(u32),
    #[error("the flist has more than {MAX_PACKS} packs")]
    TooManyPacks,

    #[error("bad line: expected `# from <sha256>`")]
    FromLine,
    #[error("bad line: expected `# moved <old path> <new path>` behind a line `# from <sha256>`")]
    MovedLine,
    #[error("the flist has more than {MAX_MOVED} lines `# from` and `# moved`")]
    TooManyMoved,

    #[error("the flist was made from more than {MAX_ANCESTORS} lists, one after another (`# from`)")]
    TooManyAncestors,

    #[error("the path has an empty component")]
    EmptyComponent,
    #[error("the path has a component `.`")]
    Dot,
    #[error("the path has a component `..`")]
    DotDot,
    #[error("the path holds a NUL byte")]
    Nul,
    #[error("a component of the path is longer than {MAX_NAME} bytes")]
    NameTooLong,
    #[error("the path has more than {MAX_DEPTH} components")]
    TooDeep,

    #[error("{path:?} is in line {first} already")]
    Duplicate { path: String, first: u64 },
    #[error("the parent {parent:?} (line {line}) is not a directory")]
    ParentNotDirectory { parent: String, line: u64 },
    #[error("{path:?} is not a directory, but line {line} puts an entry below it")]
    NotDirectory { path: String, line: u64 },
    #[error("the root must be a directory")]
    RootNotDirectory,
    #[error("the flist has more than {MAX_ENTRIES} entries (unlisted parents count)")]
    TooManyEntries,
    #[error("the names and values of the flist take more than 4 GiB")]
    TooLarge,

    #[error("bad hash {text:?}: expected {digits} hex digits")]
    Hash { text: String, digits: usize },
    #[error("a file that is not empty needs a hash")]
    NoHash,
    #[error("bad size {0:?}: expected a number of bytes")]
    Size(String),
    #[error("bad mode {text:?}: expected octal digits, at most {max:o}")]
    Mode { text: String, max: u32 },
    #[error("bad type {0:?}: expected 0 to 6")]
    Type(String),
    #[error("bad time {0:?}: expected seconds or seconds.nanoseconds")]
    Time(String),
    #[error("bad user or group number {0:?}: expected 0 to 4294967295")]
    Id(String),
    #[error("a user or group name holds a NUL byte")]
    OwnerNul,
    #[error("bad device number {0:?}: expected major,minor")]
    Device(String),
    #[error("a symlink needs a target of 1 to {MAX_TARGET} bytes without NUL")]
    Target,

    #[error("bad escape {0:?}: expected `%` and two hex digits")]
    Escape(String),
    #[error("unescaped control byte: write it as %{0:02X}")]
    Control(u8),
    #[error("bad column {0:?}: expected key=value")]
    Column(String),
    #[error("the column {0}= is given twice")]
    ColumnTwice(String),
    #[error("the column {0}= is only for regular files")]
    ColumnKind(&'static str),
    #[error("no column says where the content is: expected obj=, at= or chunks=")]
    NoPlace,
    #[error("chunks= and table= belong together: one of them is missing")]
    TableAlone,
    #[error("bad chunk table {0:?}: expected <bytes>:<sha256>")]
    Table(String),
    #[error("more than one of the columns obj=, at= and chunks=")]
    TwoPlaces,
    #[error("bad object key {0:?}: expected 32 or 64 lowercase hex digits")]
    Key(String),
    #[error("bad wrapped key: expected hex digits of at most {MAX_WRAPPED_KEY} bytes")]
    WrappedKey,
    #[error("a file of {0} bytes is too large for at=, which takes {MAX_CHUNK}: it needs chunks=")]
    ChunkTooLong(u64),
    #[error("bad place {0:?}: expected pack:offset:stored length")]
    Place(String),
    #[error("pack {0} is not in the header")]
    UnknownPack(u32),
    #[error("the place ends outside of pack {pack}, which has {bytes} bytes")]
    OutsidePack { pack: u32, bytes: u64 },
    #[error("the name of an extended attribute must have 1 to {MAX_NAME} bytes without NUL")]
    XattrName,
    #[error("the value of an extended attribute is not base64")]
    XattrBase64,
    #[error("the value of an extended attribute is longer than {MAX_XATTR} bytes")]
    XattrTooLong,
    #[error("bad data segments {0:?}: expected offset+length,...")]
    Segments(String),
    #[error("data segments must be in order, not overlapping, not empty, and inside the file")]
    SegmentOrder,
    #[error("link= names {0:?}, which no earlier line names")]
    LinkMissing(String),
    #[error("link= names {0:?}, which is a directory")]
    LinkToDirectory(String),
}

/// Text of a list as a message repeats it: readable, and not too long.
pub(crate) fn shown(text: &[u8]) -> String {
    const LONGEST: usize = 80;
    if text.len() <= LONGEST {
        return String::from_utf8_lossy(text).into_owned();
    }
    let mut shown: String = String::from_utf8_lossy(text).chars().take(LONGEST).collect();
    shown.push_str("...");
    shown
}

/// A broken rule and its place in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) column: usize,
    pub(crate) reason: Reason,
}
