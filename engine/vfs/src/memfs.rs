//! A complete filesystem in memory: it tests frontends without the engine.
//!
//! It does everything that the contract has a word for, with the errno and the timestamps of a local Linux
//! filesystem, and it shows tests what a frontend did: [`MemFs::calls`], [`MemFs::lookups`],
//! [`MemFs::open_handles`]. Three hooks stand in for what only a real engine has: [`MemFs::gate`] makes reads of a
//! file wait (a slow fetch), [`MemFs::set_backing`] gives a file a local twin (passthrough), [`MemFs::make_panic`] is a bug.
//!
//! What it leaves out on purpose:
//! - Access times change only when they are set. The kernel never updates them itself for FUSE and answers most
//!   reads from its cache, so anything a filesystem did here would be a guess.
//! - POSIX ACLs are stored like any other attribute, and decide nothing.

mod data;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use self::tree::{Directory, Node, Tree, Use};
use crate::{
    Attr, Caller, Caps, Created, DirSink, Entry, ErrorKind, FallocateMode, Fh, FileKind, FileRange, Ino,
    KernelCache, Lookup, Name, OpenFlags, Opened, RenameMode, Result, SeekWhence, SetAttr, SetXattrMode,
    StatFs, TimeToLive, Vfs,
};

/// What a [`MemFs`] tells its frontend, and how much it holds.
#[derive(Clone, Debug)]
pub struct MemFsOptions {
    /// Its capabilities. A stateless one accepts no changes: it is filled by [`MemFs::add_file`].
    pub caps: Caps,
    /// How long the kernel may believe names and attributes.
    pub ttl: TimeToLive,
    /// How long the kernel may believe that a name does not exist.
    pub absent: Duration,
    /// How files and directories are opened.
    pub cache: KernelCache,
    /// Bytes of content that fit in.
    pub capacity: u64,
}

impl Default for MemFsOptions {
    fn default() -> Self {
        let ttl = Duration::from_secs(1);
        Self {
            caps: Caps::default(),
            ttl: TimeToLive { entry: ttl, attr: ttl },
            absent: Duration::ZERO,
            cache: KernelCache::Fresh,
            capacity: 1 << 30,
        }
    }
}

/// A filesystem in memory.
pub struct MemFs {
    options: MemFsOptions,
    state: Mutex<State>,
}

struct State {
    tree: Tree,
    calls: HashMap<&'static str, u64>,
    gates: HashMap<Ino, watch::Sender<GateState>>,
    backings: HashMap<Ino, Arc<File>>,
    broken: HashSet<Ino>,
}

#[derive(Clone, Copy)]
struct GateState {
    open: bool,
    waiting: usize,
}

/// Holds up all reads of a file until it is dropped.
pub struct Gate(watch::Sender<GateState>);

impl Gate {
    /// Returns when `count` reads wait.
    pub async fn waiting(&self, count: usize) {
        let arrived = self.0.subscribe().wait_for(|gate| gate.waiting >= count).await.map(|_| ());
        arrived.expect("the gate holds the sender");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.send_modify(|gate| gate.open = true);
    }
}

impl Default for MemFs {
    fn default() -> Self {
        Self::new(MemFsOptions::default())
    }
}

impl MemFs {
    /// An empty filesystem; its root belongs to root and has mode 0755.
    pub fn new(options: MemFsOptions) -> Self {
        let state = State {
            tree: Tree::new(options.capacity),
            calls: HashMap::new(),
            gates: HashMap::new(),
            backings: HashMap::new(),
            broken: HashSet::new(),
        };
        Self { options, state: Mutex::new(state) }
    }

    /// Makes a regular file (0644 root) below directories (0755 root) that are made as needed.
    ///
    /// # Panics
    /// If a component of `path` is not a valid name or is something else already.
    pub fn add_file(&self, path: &str, content: &[u8]) -> Ino {
        let tree = &mut self.lock().tree;
        let root = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
        let mut at = Ino::ROOT;
        let mut components = path.split('/').peekable();
        while let Some(component) = components.next() {
            let name = Name::new(component.as_bytes()).expect("a valid name");
            let node = match components.peek() {
                Some(_) => Node::Directory(Directory::new(at)),
                None => Node::File(Default::default()),
            };
            let perm = if components.peek().is_some() { 0o755 } else { 0o644 };
            let attr = match tree.lookup(at, &name).expect("a directory") {
                Some(attr) => attr,
                None => tree.make(root, at, &name, node, perm).expect("a new name"),
            };
            tree.forget(attr.ino, 1);
            at = attr.ino;
        }
        tree.change_content(at, |file, free| file.write(0, content, free))
            .expect("a regular file with space");
        at
    }

    /// Holds up all reads of `ino` that reach this filesystem from now on.
    pub fn gate(&self, ino: Ino) -> Gate {
        let gate = watch::Sender::new(GateState { open: false, waiting: 0 });
        self.lock().gates.insert(ino, gate.clone());
        Gate(gate)
    }

    /// Opens of `ino` carry `file` from now on ([`Opened::backing`]).
    pub fn set_backing(&self, ino: Ino, file: File) {
        self.lock().backings.insert(ino, Arc::new(file));
    }

    /// Reads of `ino` panic from now on, behind its gate if there is one.
    pub fn make_panic(&self, ino: Ino) {
        self.lock().broken.insert(ino);
    }

    /// How often the method `name` of [`Vfs`] was called.
    pub fn calls(&self, name: &str) -> u64 {
        self.lock().calls.get(name).copied().unwrap_or_default()
    }

    /// The lookups of `ino` that the kernel has not given back.
    pub fn lookups(&self, ino: Ino) -> u64 {
        self.lock().tree.lookups(ino)
    }

    /// Inodes that have a name, a lookup or a handle; the root is one of them.
    pub fn live_inodes(&self) -> usize {
        self.lock().tree.live_inodes()
    }

    /// Handles of files and directories that were not released.
    pub fn open_handles(&self) -> usize {
        self.lock().tree.open_handles()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of one call must not take the others along; the tree is changed by steps that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call.
    fn call(&self, name: &'static str) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        *state.calls.entry(name).or_default() += 1;
        state
    }

    /// Begins a call that changes something.
    fn change(&self, name: &'static str) -> Result<MutexGuard<'_, State>> {
        let state = self.call(name);
        if self.options.caps.stateless { Err(ErrorKind::ReadOnly.into()) } else { Ok(state) }
    }

    fn entry(&self, attr: Attr) -> Entry {
        Entry { attr, ttl: self.options.ttl }
    }

    fn check(&self, state: &State, ino: Ino, fh: Fh, wanted: Use) -> Result<()> {
        if self.options.caps.stateless && fh == Fh::NONE {
            return Ok(());
        }
        state.tree.check(ino, fh, wanted)
    }

    fn opened(&self, state: &State, ino: Ino, fh: Fh) -> Opened {
        Opened { fh, cache: self.options.cache, backing: state.backings.get(&ino).cloned() }
    }
}

#[async_trait]
impl Vfs for MemFs {
    fn caps(&self) -> Caps {
        self.options.caps
    }

    async fn lookup(&self, parent: Ino, name: &Name) -> Result<Lookup> {
        Ok(match self.call("lookup").tree.lookup(parent, name)? {
            Some(attr) => Lookup::Found(self.entry(attr)),
            None => Lookup::Absent(self.options.absent),
        })
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.call("forget").tree.forget(ino, count);
    }

    async fn getattr(&self, ino: Ino, _fh: Option<Fh>) -> Result<Entry> {
        Ok(self.entry(self.call("getattr").tree.attr(ino)?))
    }

    async fn setattr(&self, ino: Ino, _fh: Option<Fh>, changes: SetAttr) -> Result<Entry> {
        Ok(self.entry(self.change("setattr")?.tree.setattr(ino, changes)?))
    }

    async fn readlink(&self, ino: Ino) -> Result<Bytes> {
        self.call("readlink").tree.readlink(ino)
    }

    async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        perm: u16,
    ) -> Result<Entry> {
        let node = Node::of_kind(kind)?;
        Ok(self.entry(self.change("mknod")?.tree.make(caller, parent, name, node, perm)?))
    }

    async fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, perm: u16) -> Result<Entry> {
        let node = Node::Directory(Directory::new(parent));
        Ok(self.entry(self.change("mkdir")?.tree.make(caller, parent, name, node, perm)?))
    }

    async fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        let node = Node::symlink(target)?;
        let unmasked = Caller { umask: 0, ..caller };
        Ok(self.entry(self.change("symlink")?.tree.make(unmasked, parent, name, node, 0o777)?))
    }

    async fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        Ok(self.entry(self.change("link")?.tree.link(ino, parent, name)?))
    }

    async fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        self.change("unlink")?.tree.unlink(parent, name)
    }

    async fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        self.change("rmdir")?.tree.rmdir(parent, name)
    }

    async fn rename(&self, from: Ino, name: &Name, to: Ino, new_name: &Name, mode: RenameMode) -> Result<()> {
        self.change("rename")?.tree.rename(from, name, to, new_name, mode)
    }

    async fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let state =
            &mut *if flags.write || flags.truncate { self.change("open")? } else { self.call("open") };
        let fh = state.tree.open(ino, flags)?;
        Ok(self.opened(state, ino, fh))
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        perm: u16,
        flags: OpenFlags,
    ) -> Result<Created> {
        let state = &mut *self.change("create")?;
        let (ino, flags) = match state.tree.lookup(parent, name)? {
            Some(attr) if flags.exclusive => {
                state.tree.forget(attr.ino, 1);
                return Err(ErrorKind::Exists.into());
            }
            Some(attr) => (attr.ino, flags),
            None => {
                let node = Node::of_kind(FileKind::Regular)?;
                let made = state.tree.make(caller, parent, name, node, perm)?;
                // There is nothing to truncate, and the times are those of the making.
                (made.ino, OpenFlags { truncate: false, ..flags })
            }
        };
        let fh = state.tree.open(ino, flags).inspect_err(|_| state.tree.forget(ino, 1))?;
        let entry = self.entry(state.tree.attr(ino)?);
        Ok(Created { entry, opened: self.opened(state, ino, fh) })
    }

    async fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Bytes> {
        let gate = {
            let state = self.call("read");
            self.check(&state, ino, fh, Use::Read)?;
            state.gates.get(&ino).cloned()
        };
        if let Some(gate) = gate {
            gate.send_modify(|gate| gate.waiting += 1);
            // An error would mean that the gate is gone, which opens it as well.
            let _ = gate.subscribe().wait_for(|gate| gate.open).await;
        }
        let broken = self.lock().broken.contains(&ino);
        assert!(!broken, "a bug in the filesystem, as asked for");
        Ok(self.lock().tree.content(ino)?.read(offset, size.into()))
    }

    async fn write(&self, ino: Ino, fh: Fh, offset: u64, data: Bytes) -> Result<u32> {
        let mut state = self.change("write")?;
        self.check(&state, ino, fh, Use::Write)?;
        state.tree.change_content(ino, |content, free| content.write(offset, &data, free))?;
        u32::try_from(data.len()).map_err(|_| ErrorKind::Invalid.into())
    }

    async fn flush(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.check(&self.call("flush"), ino, fh, Use::Any)
    }

    async fn fsync(&self, ino: Ino, fh: Fh, _data_only: bool) -> Result<()> {
        self.check(&self.call("fsync"), ino, fh, Use::Any)
    }

    async fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.call("release").tree.release(ino, fh)
    }

    async fn opendir(&self, ino: Ino) -> Result<Opened> {
        let fh = self.call("opendir").tree.opendir(ino)?;
        Ok(Opened { fh, cache: self.options.cache, backing: None })
    }

    async fn readdir(&self, ino: Ino, fh: Fh, cookie: u64, sink: &mut dyn DirSink) -> Result<()> {
        let mut state = self.call("readdir");
        self.check(&state, ino, fh, Use::List)?;
        state.tree.list(ino, cookie, self.options.ttl, sink)
    }

    async fn fsyncdir(&self, ino: Ino, fh: Fh, _data_only: bool) -> Result<()> {
        self.check(&self.call("fsyncdir"), ino, fh, Use::Any)
    }

    async fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        self.call("releasedir").tree.release(ino, fh)
    }

    async fn statfs(&self, _ino: Ino) -> Result<StatFs> {
        const INODES: u64 = 1 << 32;
        let state = self.call("statfs");
        let (blocks, free) = state.tree.space();
        Ok(StatFs {
            block_size: Attr::BLOCK_SIZE,
            blocks,
            blocks_free: free,
            blocks_available: free,
            files: INODES,
            files_free: INODES - state.tree.live_inodes() as u64,
            name_max: 255,
        })
    }

    async fn fallocate(&self, ino: Ino, fh: Fh, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        let mut state = self.change("fallocate")?;
        self.check(&state, ino, fh, Use::Write)?;
        state.tree.change_content(ino, |content, free| content.fallocate(offset, len, mode, free))
    }

    async fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: SeekWhence) -> Result<u64> {
        let state = self.call("lseek");
        self.check(&state, ino, fh, Use::Any)?;
        state.tree.content(ino)?.seek(offset, whence)
    }

    async fn copy_file_range(&self, from: FileRange, to: FileRange, len: u64) -> Result<u64> {
        /// What one call copies at most: it is held in memory meanwhile.
        const CHUNK: u64 = 16 << 20;
        let mut state = self.change("copy_file_range")?;
        self.check(&state, from.ino, from.fh, Use::Read)?;
        self.check(&state, to.ino, to.fh, Use::Write)?;
        let data = state.tree.content(from.ino)?.read(from.offset, len.min(CHUNK));
        if from.ino == to.ino && from.offset.abs_diff(to.offset) < data.len() as u64 {
            return Err(ErrorKind::Invalid.into());
        }
        state.tree.change_content(to.ino, |content, free| content.write(to.offset, &data, free))?;
        Ok(data.len() as u64)
    }

    async fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: SetXattrMode) -> Result<()> {
        self.change("setxattr")?.tree.setxattr(ino, name, value, mode)
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        self.call("getxattr").tree.getxattr(ino, name)
    }

    async fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        self.call("listxattr").tree.listxattr(ino)
    }

    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.change("removexattr")?.tree.removexattr(ino, name)
    }
}
