//! The filesystem side of the contract.

use std::ops::ControlFlow;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Caller, Created, DirEntry, Entry, FallocateMode, Fh, FileKind, FileRange, Ino, Lookup, Name, OpenFlags,
    Opened, RenameMode, Result, SeekWhence, SetAttr, SetXattrMode, StatFs,
};

/// What a filesystem tells its frontend once, at mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Nothing here needs to be opened: every call accepts [`Fh::NONE`], content is immutable and the kernel
    /// may keep what it has read until it is told to drop it. A frontend then has open, opendir, flush and the
    /// releases never sent, where its library allows it.
    pub stateless: bool,
    /// Permission checks use POSIX ACLs (`system.posix_acl_access` and `_default`), where the frontend can ask
    /// the kernel for it.
    pub posix_acl: bool,
    /// [`Opened::backing`] will be set for files where it can be; a frontend asks the kernel for passthrough
    /// only if so, since that excludes other features.
    pub backing_files: bool,
}

/// Whether a listing goes on.
pub type Filled = ControlFlow<()>;

/// Takes the entries of a directory listing until its buffer is full.
pub trait DirSink: Send {
    /// Whether the listing is to carry attributes (`readdirplus`).
    fn wants_attributes(&self) -> bool;

    /// Takes one entry, or refuses it and everything behind it by `Break`: it will be asked for again, from the
    /// cookie of the entry before.
    ///
    /// `attributes` is given if [`wants_attributes`](Self::wants_attributes) says so, except for `.` and `..`;
    /// if the sink takes such an entry, the implementer counts one lookup of its inode.
    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled;
}

/// A filesystem, as the kernel asks for it.
///
/// Common to all calls:
/// - an [`Ino`] that the kernel does not hold is [`NotFound`](crate::ErrorKind::NotFound) or
///   [`Stale`](crate::ErrorKind::Stale), never a panic: a hostile or confused kernel reply must not end the mount;
/// - a call that fails has changed nothing;
/// - a call whose future is dropped (an interrupted reader) leaves shared work, such as a fetch that others
///   wait for, running;
/// - permissions were checked by the kernel; an implementer adds only what the kernel cannot know.
///
/// An implementation that lacks a call answers [`NotSupported`](crate::ErrorKind::NotSupported), or
/// [`ReadOnly`](crate::ErrorKind::ReadOnly) if it never changes. There are no defaults: forgetting a call must
/// not compile.
#[async_trait]
pub trait Vfs: Send + Sync + 'static {
    /// What the frontend has to know before it mounts.
    fn caps(&self) -> Caps;

    /// Finds `name` in the directory `parent`. Counts one lookup of what is found.
    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup>;

    /// The kernel gives back `count` lookups of `ino`. Never waits, never fails.
    fn forget(&self, ino: Ino, count: u64);

    /// The attributes of `ino`. `fh` is given by `fstat`: an unlinked open file still has attributes.
    async fn getattr(&self, ino: Ino, fh: Option<Fh>) -> Result<Entry>;

    /// Changes attributes and returns all of them. All of `changes` happen, or none.
    ///
    /// Changes what is asked and the ctime, nothing else: where a write, a new owner or a new size must clear
    /// set-uid and set-gid, the kernel asks for the new `perm` as well.
    async fn setattr(&self, ino: Ino, fh: Option<Fh>, changes: SetAttr) -> Result<Entry>;

    /// The target of a symlink, as it was given.
    async fn readlink(&self, ino: Ino) -> Result<Bytes>;

    /// Makes a node of any kind but directory and symlink; `perm` has 12 bits.
    async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        perm: u16,
    ) -> Result<Entry>;

    /// Makes a directory. It inherits the group and the set-gid bit from a parent that has the bit.
    async fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, perm: u16) -> Result<Entry>;

    /// Makes a symlink to `target`, which is any bytes but NUL, 1 to 4095 of them.
    async fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry>;

    /// Gives `ino` one more name.
    async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry>;

    /// Removes a name of anything but a directory. The inode lives until its last name, lookup and handle
    /// are gone.
    async fn unlink(&self, parent: Ino, name: &Name) -> Result<()>;

    /// Removes an empty directory.
    async fn rmdir(&self, parent: Ino, name: &Name) -> Result<()>;

    /// Moves a name, atomically for every reader.
    async fn rename(&self, from: Ino, name: &Name, to: Ino, new_name: &Name, mode: RenameMode) -> Result<()>;

    /// Opens a file. Checks nothing but the flags; `truncate` has happened when it returns.
    async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened>;

    /// Makes a regular file and opens it. If the name exists it is opened instead, unless
    /// [`OpenFlags::exclusive`] says otherwise.
    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        perm: u16,
        flags: OpenFlags,
    ) -> Result<Created>;

    /// Reads up to `size` bytes at `offset`; fewer only at the end of the file, and none behind it.
    ///
    /// Returns verified bytes or an error, nothing else.
    async fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Bytes>;

    /// Writes all of `data` at `offset`; returns how many bytes were written.
    ///
    /// `O_APPEND` is no concern of an implementer: the kernel knows the size and sends the offset. To append on
    /// account of the handle would be wrong, since changed pages of a shared mapping are written through
    /// whichever handle is open.
    async fn write(&self, ino: Ino, fh: Fh, offset: u64, data: Bytes) -> Result<u32>;

    /// A descriptor of the handle was closed; a handle that was duplicated sees several. Errors of earlier
    /// writes that the program has not seen yet are reported here.
    async fn flush(&self, ino: Ino, fh: Fh) -> Result<()>;

    /// Content (and attributes, unless `data_only`) are on stable storage when it returns.
    async fn fsync(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<()>;

    /// The last descriptor of a handle of a file was closed. Sent once for each `open` and `create`; the result
    /// reaches no program.
    async fn release(&self, ino: Ino, fh: Fh) -> Result<()>;

    /// Opens a directory for listing.
    async fn opendir(&self, ino: Ino) -> Result<Opened>;

    /// Lists a directory into `sink`, from behind the entry whose cookie is `cookie` (0: from the start).
    ///
    /// An entry that exists from `opendir` until the listing ends is listed once, whatever else changes
    /// meanwhile. Ends when the sink is full or the directory is done.
    async fn readdir(&self, ino: Ino, fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> Result<()>;

    /// The names in a directory are on stable storage when it returns.
    async fn fsyncdir(&self, ino: Ino, fh: Fh, data_only: bool) -> Result<()>;

    /// Ends a handle of a directory.
    async fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()>;

    /// Space and limits of the filesystem that `ino` is on.
    async fn statfs(&self, ino: Ino) -> Result<StatFs>;

    /// Changes the space behind `len` bytes at `offset`.
    async fn fallocate(&self, ino: Ino, fh: Fh, offset: u64, len: u64, mode: FallocateMode) -> Result<()>;

    /// Finds data or a hole at or behind `offset`.
    ///
    /// # Errors
    /// [`NothingThere`](crate::ErrorKind::NothingThere) at or behind the end of the file, and for data when only a
    /// hole is left.
    async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: SeekWhence) -> Result<u64>;

    /// Copies up to `len` bytes between two files (or within one, if the ranges are apart); returns how many.
    async fn copy_file_range(&self, from: FileRange, to: FileRange, len: u64) -> Result<u64>;

    /// Sets an extended attribute; `name` has its namespace (`user.x`).
    async fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> Result<()>;

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`NoData`](crate::ErrorKind::NoData) if there is none of that name.
    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes>;

    /// The names of all extended attributes, each ended by a NUL byte.
    async fn listxattr(&self, ino: Ino) -> Result<Bytes>;

    /// Removes an extended attribute.
    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_trait_is_object_safe() {
        fn takes(_: &dyn super::Vfs) {}
        let _ = takes;
    }
}
