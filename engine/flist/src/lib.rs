//! Flists: parsing, writing, and the compiled index that is mapped at mount.
//!
//! A flist lists the entries of a tree, one a line, in one of three [`Dialect`]s. There are two ways to read one:
//!
//! - [`Index`] compiles a list once into a file that is mapped from then on. This is what a mount uses.
//! - [`Flist`] holds all entries in memory, in the order of the list: for tools and tests.
//!
//! [`Writer`] writes lists, and [`verify`] checks who signed one.
//!
//! # The rules
//!
//! A list is read as a whole or not at all: the first line that breaks a rule refuses it, with file, line, column
//! and [`Reason`]. What comes out of this crate is safe to use as it is: no path leaves the tree, none is there
//! twice, nothing is below a file, and all is within the [limits](crate#constants).
//!
//! What the format leaves to its readers is decided like this:
//!
//! - An empty file is an error (it is more likely a failed download than an empty tree); `# aysfs-flist 2` alone is
//!   an empty tree.
//! - Empty lines are skipped, and the last line needs no end. If the first line ends in CR LF, a CR at the end
//!   of the others is part of the line end as well.
//! - An entry with an empty path, or `/`, is the root; it must be a directory.
//! - v1 has no comments: a `#` is part of the path. In v2, lines with `#` come before the first entry only.
//! - Header lines and columns of v2 that this version does not know are skipped; a first line that names another
//!   format than 2 is refused.
//! - In v1, type bits in the mode are ignored, and so is the hash of what is no regular file.
//! - A time is `seconds` or `seconds.fraction`, the fraction with up to nine digits and counted forwards, before
//!   1970 as well.
//! - An owner field of digits is a number; v2 escapes the first digit of a name like that.
//! - An entry with `link=` is another name of an earlier entry; all else that it says must be well-formed, and is
//!   ignored.
//! - A hash of 32 digits in v2, without a column that says where the content is, is that of a v1 list: the file is an object
//!   of a v1 stor. So a list that is made from a v1 list by changes need not fetch what did not change.
//! - `ukey=` and `skey=` are the key of an encrypted v1 object, wrapped for its recipients, in hex digits. They are columns of
//!   v1 long as well; all else that a line of it has behind its ten fields is ignored.
//! - `# from <digest>` in the header of v2 names a list that this one was made from, and `# moved <old> <new>` behind it a
//!   directory that has another path there, so that what was remembered of the old list can be used with the new one.
//! - A file is one stored chunk of a pack (`at=`), or several of some packs: then `chunks=` says where their table is, and `table=`
//!   its length and digest. `# start: <numbers>` in the header names packs that are best fetched at once.
//! - `data=<offset>+<length>,...` in v2 are the parts of a sparse file that are not holes.
//! - Data in a field that its type has no use for (the size of a directory) is checked, and dropped.

mod entry;
mod error;
mod escape;
mod header;
mod index;
mod limits;
mod line;
mod parse;
mod path;
mod signature;
mod source;
mod tree;
mod write;

pub use entry::{
    Ancestor, BadKey, Content, Dialect, Entry, Header, Kind, ObjectKey, Owner, Pack, Place, Table, TimeOrder,
    Timestamp, V1Keys,
};
pub use error::{FlistError, Reason};
pub use escape::{escaped, unescaped};
pub use index::{Children, Corrupt, Entries, Index, Node, NodeRef, Provenance, Xattrs};
pub use limits::{
    MAX_ANCESTORS, MAX_CHUNK, MAX_DEPTH, MAX_ENTRIES, MAX_LINE, MAX_MOVED, MAX_NAME, MAX_PACKS, MAX_TABLE,
    MAX_TARGET, MAX_WRAPPED_KEY, MAX_XATTR,
};
pub use minisign_verify::PublicKey;
pub use parse::{Flist, ParseOptions, Times};
pub use signature::{SignatureError, verify};
pub use source::Source;
pub use write::{WriteError, Writer};
