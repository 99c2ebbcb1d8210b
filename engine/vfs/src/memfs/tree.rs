//! Inodes, directories and handles: everything of memfs that is not file content, without locks or waiting.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::data::{Content, PAGE};
use crate::{
    Attr, Caller, DirEntry, DirSink, Entry, ErrorKind, Fh, FileKind, Ino, Name, OpenFlags, RenameMode,
    Result, SetAttr, SetTime, SetXattrMode, Time, TimeToLive,
};

const SETGID: u16 = 0o2000;
const SYMLINK_MAX: usize = 4095;
/// Of ext4; the kernel has no limit of its own.
const LINK_MAX: u32 = 65_000;

/// A filesystem's state.
pub(super) struct Tree {
    inodes: HashMap<Ino, Inode>,
    handles: HashMap<Fh, Handle>,
    last_ino: u64,
    last_fh: u64,
    /// In pages.
    used: u64,
    capacity: u64,
}

struct Inode {
    node: Node,
    perm: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
    xattrs: BTreeMap<Box<[u8]>, Bytes>,
    lookups: u64,
    handles: u64,
}

/// What an inode is.
pub(super) enum Node {
    File(Content),
    Directory(Directory),
    Symlink(Bytes),
    /// Fifos, sockets and devices.
    Special(FileKind),
}

impl Node {
    /// An empty node of a kind that `mknod` makes.
    pub(super) fn of_kind(kind: FileKind) -> Result<Self> {
        match kind {
            FileKind::Regular => Ok(Self::File(Content::default())),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice(_) | FileKind::BlockDevice(_) => {
                Ok(Self::Special(kind))
            }
            FileKind::Directory | FileKind::Symlink => Err(ErrorKind::Invalid.into()),
        }
    }

    pub(super) fn symlink(target: &[u8]) -> Result<Self> {
        match target.len() {
            0 => Err(ErrorKind::NotFound.into()),
            1..=SYMLINK_MAX => Ok(Self::Symlink(Bytes::copy_from_slice(target))),
            _ => Err(ErrorKind::NameTooLong.into()),
        }
    }

    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

/// The names in a directory.
///
/// A name keeps its cookie as long as it exists, also when another inode takes its place, and a new name comes
/// last: so a listing that continues from a cookie neither skips nor repeats what was there all the time.
pub(super) struct Directory {
    parent: Ino,
    by_cookie: BTreeMap<u64, (Name, Ino)>,
    by_name: HashMap<Name, u64>,
    last_cookie: u64,
}

/// The cookies of `.` and `..`.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Directory {
    pub(super) fn new(parent: Ino) -> Self {
        Self { parent, by_cookie: BTreeMap::new(), by_name: HashMap::new(), last_cookie: DOT_DOT }
    }

    fn get(&self, name: &Name) -> Option<Ino> {
        self.by_name.get(name).map(|cookie| self.by_cookie[cookie].1)
    }

    fn set(&mut self, name: &Name, ino: Ino) {
        let cookie = *self.by_name.entry(name.clone()).or_insert_with(|| {
            self.last_cookie += 1;
            self.last_cookie
        });
        self.by_cookie.insert(cookie, (name.clone(), ino));
    }

    fn remove(&mut self, name: &Name) {
        if let Some(cookie) = self.by_name.remove(name) {
            self.by_cookie.remove(&cookie);
        }
    }
}

struct Handle {
    ino: Ino,
    access: Access,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Directory,
    File { read: bool, write: bool },
}

/// What a call wants to do with a handle.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
    List,
    /// Flush, fsync, release.
    Any,
}

impl Tree {
    /// An empty tree that can hold `capacity` bytes of file content.
    pub(super) fn new(capacity: u64) -> Self {
        let mut tree = Self {
            inodes: HashMap::new(),
            handles: HashMap::new(),
            last_ino: Ino::ROOT.0,
            last_fh: Fh::NONE.0,
            used: 0,
            capacity: capacity / PAGE,
        };
        let root = Inode::new(Node::Directory(Directory::new(Ino::ROOT)), 0o755, 0, 0);
        tree.inodes.insert(Ino::ROOT, Inode { nlink: 2, ..root });
        tree
    }

    // ---- Inodes ----

    pub(super) fn attr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.inode(ino)?.attr(ino))
    }

    pub(super) fn lookup(&mut self, parent: Ino, name: &Name) -> Result<Option<Attr>> {
        match self.directory(parent)?.get(name) {
            Some(ino) => self.count_lookup(ino).map(Some),
            None => Ok(None),
        }
    }

    /// Counts one lookup, for an answer that carries the inode.
    pub(super) fn count_lookup(&mut self, ino: Ino) -> Result<Attr> {
        let inode = self.inode_mut(ino)?;
        inode.lookups += 1;
        Ok(inode.attr(ino))
    }

    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if let Ok(inode) = self.inode_mut(ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
            self.reap(ino);
        }
    }

    pub(super) fn setattr(&mut self, ino: Ino, changes: SetAttr) -> Result<Attr> {
        if let Some(size) = changes.size {
            self.change_content(ino, |content, _| content.resize(size))?;
        }
        let now = Time::now();
        let at = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let inode = self.inode_mut(ino)?;
        inode.perm = changes.perm.unwrap_or(inode.perm);
        inode.uid = changes.uid.unwrap_or(inode.uid);
        inode.gid = changes.gid.unwrap_or(inode.gid);
        inode.atime = changes.atime.map_or(inode.atime, at);
        inode.mtime = changes.mtime.map_or(inode.mtime, at);
        inode.ctime = changes.ctime.unwrap_or(now);
        Ok(inode.attr(ino))
    }

    pub(super) fn readlink(&self, ino: Ino) -> Result<Bytes> {
        match &self.inode(ino)?.node {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(ErrorKind::Invalid.into()),
        }
    }

    // ---- Names ----

    /// Makes an inode with one name; counts one lookup of it.
    pub(super) fn make(
        &mut self,
        owner: Caller,
        parent: Ino,
        name: &Name,
        node: Node,
        perm: u16,
    ) -> Result<Attr> {
        self.vacant(parent, name)?;
        let above = self.inode(parent)?;
        let mut inode = Inode::new(node, perm & !owner.umask & 0o7777, owner.uid, owner.gid);
        if above.perm & SETGID != 0 {
            inode.gid = above.gid;
            if inode.node.is_directory() {
                inode.perm |= SETGID;
            }
        }
        self.last_ino += 1;
        let ino = Ino(self.last_ino);
        self.inodes.insert(ino, inode);
        self.add_name(parent, name, ino)?;
        self.count_lookup(ino)
    }

    pub(super) fn link(&mut self, ino: Ino, parent: Ino, name: &Name) -> Result<Attr> {
        let inode = self.inode(ino)?;
        match inode.nlink {
            _ if inode.node.is_directory() => return Err(ErrorKind::NotPermitted.into()),
            0 => return Err(ErrorKind::NotFound.into()),
            LINK_MAX.. => return Err(ErrorKind::TooManyLinks.into()),
            _ => {}
        }
        self.vacant(parent, name)?;
        self.add_name(parent, name, ino)?;
        self.count_lookup(ino)
    }

    pub(super) fn unlink(&mut self, parent: Ino, name: &Name) -> Result<()> {
        let ino = self.named(parent, name)?;
        if self.inode(ino)?.node.is_directory() {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.remove_name(parent, name, ino)
    }

    pub(super) fn rmdir(&mut self, parent: Ino, name: &Name) -> Result<()> {
        let ino = self.named(parent, name)?;
        if !self.directory(ino)?.by_name.is_empty() {
            return Err(ErrorKind::NotEmpty.into());
        }
        self.remove_name(parent, name, ino)
    }

    pub(super) fn rename(
        &mut self,
        from: Ino,
        name: &Name,
        to: Ino,
        new_name: &Name,
        mode: RenameMode,
    ) -> Result<()> {
        let moved = self.named(from, name)?;
        let target = self.live_directory(to)?.get(new_name);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(ErrorKind::Exists.into()),
            (RenameMode::Exchange, None) => return Err(ErrorKind::NotFound.into()),
            // Two names of one inode: POSIX wants nothing to happen.
            (_, Some(target)) if target == moved => return Ok(()),
            _ => {}
        }
        self.not_below_itself(moved, to)?;
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                self.not_below_itself(target, from)?;
                self.detach(from, moved)?;
                self.detach(to, target)?;
                self.attach(from, name, target)?;
                self.inode_mut(target)?.ctime = Time::now();
            }
            (_, target) => {
                if let Some(target) = target {
                    self.replaceable(target, moved)?;
                    self.detach(to, target)?;
                    self.drop_link(target)?;
                }
                self.detach(from, moved)?;
                self.directory_mut(from)?.remove(name);
            }
        }
        self.attach(to, new_name, moved)?;
        self.inode_mut(moved)?.ctime = Time::now();
        self.touch(from)?;
        self.touch(to)
    }

    /// Lists a directory into `sink`, from behind `cookie`.
    pub(super) fn list(
        &mut self,
        ino: Ino,
        mut cookie: u64,
        ttl: TimeToLive,
        sink: &mut dyn DirSink,
    ) -> Result<()> {
        loop {
            let directory = self.directory(ino)?;
            let (next, name, child) = match cookie {
                0 => (DOT, None, ino),
                DOT => (DOT_DOT, None, directory.parent),
                _ => match directory.by_cookie.range(cookie + 1..).next() {
                    Some((&next, (name, child))) => (next, Some(name.clone()), *child),
                    None => return Ok(()),
                },
            };
            let attr = self.attr(child)?;
            let name_bytes = match (&name, next) {
                (Some(name), _) => name.as_bytes(),
                (None, DOT) => b".",
                (None, _) => b"..",
            };
            let entry = DirEntry { ino: child, kind: attr.kind, name: name_bytes, next };
            let looked_up = name.is_some() && sink.wants_attributes();
            let attributes = Entry { attr, ttl };
            if sink.add(&entry, looked_up.then_some(&attributes)).is_break() {
                return Ok(());
            }
            if looked_up {
                self.count_lookup(child)?;
            }
            cookie = next;
        }
    }

    // ---- Handles ----

    /// Opens a regular file.
    pub(super) fn open(&mut self, ino: Ino, flags: OpenFlags) -> Result<Fh> {
        if flags.truncate {
            self.change_content(ino, |content, _| content.resize(0))?;
        }
        self.content(ino)?;
        self.open_handle(ino, Access::File { read: flags.read, write: flags.write })
    }

    pub(super) fn opendir(&mut self, ino: Ino) -> Result<Fh> {
        self.directory(ino)?;
        self.open_handle(ino, Access::Directory)
    }

    pub(super) fn check(&self, ino: Ino, fh: Fh, wanted: Use) -> Result<()> {
        let handle = self.handles.get(&fh).filter(|handle| handle.ino == ino);
        let allowed = handle.is_some_and(|handle| match (wanted, handle.access) {
            (Use::Any, _) | (Use::List, Access::Directory) => true,
            (Use::Read, Access::File { read, .. }) => read,
            (Use::Write, Access::File { write, .. }) => write,
            _ => false,
        });
        if allowed { Ok(()) } else { Err(ErrorKind::BadHandle.into()) }
    }

    pub(super) fn release(&mut self, ino: Ino, fh: Fh) -> Result<()> {
        self.check(ino, fh, Use::Any)?;
        self.handles.remove(&fh);
        self.inode_mut(ino)?.handles -= 1;
        self.reap(ino);
        Ok(())
    }

    // ---- Content ----

    pub(super) fn content(&self, ino: Ino) -> Result<&Content> {
        match &self.inode(ino)?.node {
            Node::File(content) => Ok(content),
            Node::Directory(_) => Err(ErrorKind::IsADirectory.into()),
            Node::Symlink(_) | Node::Special(_) => Err(ErrorKind::Invalid.into()),
        }
    }

    /// Runs a change of content, which is told how many pages are free.
    pub(super) fn change_content(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Content, u64) -> Result<()>,
    ) -> Result<()> {
        let before = self.content(ino)?.allocated();
        let free = self.capacity.saturating_sub(self.used);
        let inode = self.inode_mut(ino)?;
        let Node::File(content) = &mut inode.node else { unreachable!("it has content") };
        change(content, free)?;
        let after = content.allocated();
        inode.mtime = Time::now();
        inode.ctime = inode.mtime;
        self.used = self.used - before + after;
        Ok(())
    }

    /// Capacity and free space, in pages.
    pub(super) fn space(&self) -> (u64, u64) {
        (self.capacity, self.capacity.saturating_sub(self.used))
    }

    // ---- Extended attributes ----

    pub(super) fn setxattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> Result<()> {
        const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
        if !NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
            return Err(ErrorKind::NotSupported.into());
        }
        let inode = self.inode_mut(ino)?;
        match (mode, inode.xattrs.contains_key(name)) {
            (SetXattrMode::Create, true) => return Err(ErrorKind::Exists.into()),
            (SetXattrMode::Replace, false) => return Err(ErrorKind::NoData.into()),
            _ => {}
        }
        inode.xattrs.insert(name.into(), Bytes::copy_from_slice(value));
        inode.ctime = Time::now();
        Ok(())
    }

    pub(super) fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        self.inode(ino)?.xattrs.get(name).cloned().ok_or_else(|| ErrorKind::NoData.into())
    }

    pub(super) fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        Ok(self.inode(ino)?.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    pub(super) fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.xattrs.remove(name).ok_or(ErrorKind::NoData)?;
        inode.ctime = Time::now();
        Ok(())
    }

    // ---- What tests ask ----

    pub(super) fn lookups(&self, ino: Ino) -> u64 {
        self.inode(ino).map_or(0, |inode| inode.lookups)
    }

    pub(super) fn live_inodes(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn open_handles(&self) -> usize {
        self.handles.len()
    }

    // ---- Steps ----

    fn inode(&self, ino: Ino) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn directory(&self, ino: Ino) -> Result<&Directory> {
        match &self.inode(ino)?.node {
            Node::Directory(directory) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match &mut self.inode_mut(ino)?.node {
            Node::Directory(directory) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// A directory that still has a name itself, and so can get entries.
    fn live_directory(&self, ino: Ino) -> Result<&Directory> {
        let directory = self.directory(ino)?;
        if self.inode(ino)?.nlink == 0 { Err(ErrorKind::NotFound.into()) } else { Ok(directory) }
    }

    fn vacant(&self, parent: Ino, name: &Name) -> Result<()> {
        match self.live_directory(parent)?.get(name) {
            Some(_) => Err(ErrorKind::Exists.into()),
            None => Ok(()),
        }
    }

    fn named(&self, parent: Ino, name: &Name) -> Result<Ino> {
        self.directory(parent)?.get(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn add_name(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<()> {
        self.attach(parent, name, ino)?;
        let inode = self.inode_mut(ino)?;
        inode.nlink += 1;
        inode.ctime = Time::now();
        self.touch(parent)
    }

    fn remove_name(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<()> {
        self.detach(parent, ino)?;
        self.directory_mut(parent)?.remove(name);
        self.drop_link(ino)?;
        self.touch(parent)
    }

    /// Lets a name lead to `ino`, with the link that a subdirectory's `..` is; its own link count is the
    /// caller's business.
    fn attach(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<()> {
        self.directory_mut(parent)?.set(name, ino);
        if let Node::Directory(directory) = &mut self.inode_mut(ino)?.node {
            directory.parent = parent;
            self.inode_mut(parent)?.nlink += 1;
        }
        Ok(())
    }

    /// Takes back what `attach` did to the parent's link count; the name is removed or set anew by the caller.
    fn detach(&mut self, parent: Ino, ino: Ino) -> Result<()> {
        if self.inode(ino)?.node.is_directory() {
            self.inode_mut(parent)?.nlink -= 1;
        }
        Ok(())
    }

    fn drop_link(&mut self, ino: Ino) -> Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.nlink = if inode.node.is_directory() { 0 } else { inode.nlink - 1 };
        inode.ctime = Time::now();
        self.reap(ino);
        Ok(())
    }

    /// Removes an inode that has no name, no lookup and no handle left.
    fn reap(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        if inode.nlink == 0 && inode.lookups == 0 && inode.handles == 0 {
            if let Node::File(content) = &inode.node {
                self.used -= content.allocated();
            }
            self.inodes.remove(&ino);
        }
    }

    fn touch(&mut self, directory: Ino) -> Result<()> {
        let inode = self.inode_mut(directory)?;
        inode.mtime = Time::now();
        inode.ctime = inode.mtime;
        Ok(())
    }

    fn not_below_itself(&self, moved: Ino, mut into: Ino) -> Result<()> {
        if !self.inode(moved)?.node.is_directory() {
            return Ok(());
        }
        while into != Ino::ROOT {
            if into == moved {
                return Err(ErrorKind::Invalid.into());
            }
            into = self.directory(into)?.parent;
        }
        Ok(())
    }

    fn replaceable(&self, target: Ino, moved: Ino) -> Result<()> {
        match (self.inode(moved)?.node.is_directory(), &self.inode(target)?.node) {
            (true, Node::Directory(directory)) if directory.by_name.is_empty() => Ok(()),
            (true, Node::Directory(_)) => Err(ErrorKind::NotEmpty.into()),
            (true, _) => Err(ErrorKind::NotADirectory.into()),
            (false, Node::Directory(_)) => Err(ErrorKind::IsADirectory.into()),
            (false, _) => Ok(()),
        }
    }

    fn open_handle(&mut self, ino: Ino, access: Access) -> Result<Fh> {
        self.inode_mut(ino)?.handles += 1;
        self.last_fh += 1;
        let fh = Fh(self.last_fh);
        self.handles.insert(fh, Handle { ino, access });
        Ok(fh)
    }
}

impl Inode {
    fn new(node: Node, perm: u16, uid: u32, gid: u32) -> Self {
        let now = Time::now();
        // The link of a directory to itself.
        let nlink = u32::from(node.is_directory());
        Self {
            node,
            perm,
            uid,
            gid,
            nlink,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            lookups: 0,
            handles: 0,
        }
    }

    fn attr(&self, ino: Ino) -> Attr {
        let (kind, size, pages) = match &self.node {
            Node::File(content) => (FileKind::Regular, content.size(), content.allocated()),
            Node::Directory(_) => (FileKind::Directory, PAGE, 1),
            Node::Symlink(target) => (FileKind::Symlink, target.len() as u64, 0),
            Node::Special(kind) => (*kind, 0, 0),
        };
        Attr {
            ino,
            kind,
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            size,
            blocks: pages * (PAGE / 512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}
