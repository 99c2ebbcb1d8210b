//! What a flist may hold at most. The limits are far above real trees: they bound what a hostile list can cost.

/// Longest line, in bytes, without its end.
pub const MAX_LINE: usize = 1 << 20;
/// Most components of a path.
pub const MAX_DEPTH: usize = 1024;
/// Longest component of a path and name of an extended attribute, in bytes (`NAME_MAX`, `XATTR_NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Most names of a tree, directories that no line names included.
pub const MAX_ENTRIES: usize = 100_000_000;
/// Most packs of a header.
pub const MAX_PACKS: usize = 1 << 20;
/// Longest file that is one chunk of a pack (`at=`), in bytes: a chunk is decoded as a whole before any of it is shown.
pub const MAX_CHUNK: u64 = 16 << 20;
/// Longest chunk table, in bytes: that of a file of some 16 TiB.
pub const MAX_TABLE: u64 = 1 << 30;
/// Most lists that a header says its list was made from, one after another: whoever commits forgets the oldest.
pub const MAX_ANCESTORS: usize = 512;
/// Most directories of a header that have been moved, and most lists that it was made from.
pub const MAX_MOVED: usize = 1 << 20;
/// Longest target of a symlink, in bytes (`PATH_MAX` without its NUL).
pub const MAX_TARGET: usize = 4095;
/// Longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const MAX_XATTR: usize = 65536;
/// Longest wrapped key of a v1 object, in bytes: as long as the modulus of an RSA key.
pub const MAX_WRAPPED_KEY: usize = 2048;
