//! A compiled flist, with the owners of this machine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use aysfs_flist::{
    Content as Listed, Corrupt, Entry as ListEntry, FlistError, Index, Kind, Node, NodeRef, Owner,
    ParseOptions, Source, Timestamp, V1Keys,
};
use aysfs_store::crypt::{PrivateKey, Sealing, V1Keyring};
use aysfs_store::{Content, Mirror};
use aysfs_vfs::{Attr, Device, Error, ErrorKind, FileKind, Ino, Time};

use crate::listed::Packs;

/// The number of `nobody` and `nogroup` where they have no entry: the kernel's overflow id.
const NOBODY: u32 = 65534;

/// The permissions that lend the rights of a file's owner or its group: set-user-ID and set-group-ID.
pub(crate) const LENDS_RIGHTS: u16 = 0o6000;

/// The number that no user and no group has: to `chown` it means "leave it as it is".
const NO_ID: u32 = u32::MAX;

/// The names of files that have several: each with the directory that it is in.
pub(crate) type HardLinks = HashMap<Node, Vec<(Node, Vec<u8>)>>;

/// What a base cannot tell.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The compiled flist was damaged after it was opened.
    #[error(transparent)]
    Damaged(#[from] Corrupt),
}

/// An immutable tree: what a flist says, with user and group ids that are valid here.
#[derive(Debug)]
pub struct Base {
    index: Index,
    packs: Packs,
    /// By the owner numbers of the index.
    uids: Vec<u32>,
    gids: Vec<u32>,
    has_acls: bool,
    hard_links: OnceLock<HardLinks>,
    sealing: Option<Sealing>,
    /// What opens content that was encrypted by the old system.
    private_keys: Vec<PrivateKey>,
}

impl Base {
    /// How long the kernel may believe what it was told. Nothing changes before a reload, which tells the kernel
    /// what to drop.
    pub(crate) const TTL: Duration = Duration::from_secs(24 * 60 * 60);

    /// Looks up the owners of `index` on this machine.
    ///
    /// A name that is known here wins; a number is next; whatever is neither becomes `nobody` or `nogroup`,
    /// never root.
    ///
    /// # Errors
    /// [`BaseError::Damaged`].
    pub fn new(index: Index) -> Result<Self, BaseError> {
        let packs = Packs::of(index.header());
        let nobody = uzers::get_user_by_name("nobody").map_or(NOBODY, |user| user.uid());
        let nogroup = uzers::get_group_by_name("nogroup").map_or(NOBODY, |group| group.gid());
        let uid = |name: &OsStr| uzers::get_user_by_name(name).map(|user| user.uid());
        let gid = |name: &OsStr| uzers::get_group_by_name(name).map(|group| group.gid());
        let uids = index.users().iter().map(|owner| resolve(owner, uid, nobody)).collect();
        let gids = index.groups().iter().map(|owner| resolve(owner, gid, nogroup)).collect();
        let has_acls = index.has_acls()?;
        let hard_links = OnceLock::new();
        Ok(Self { index, packs, uids, gids, has_acls, hard_links, sealing: None, private_keys: Vec::new() })
    }

    /// The same, of a flist that was encrypted with `sealing` if it was, for whoever has the private keys.
    pub(crate) fn opened_with(self, sealing: Option<Sealing>, private_keys: Vec<PrivateKey>) -> Self {
        Self { sealing, private_keys, ..self }
    }

    /// The stors, with what opens the content of this tree.
    ///
    /// # Errors
    /// [`BaseError::Damaged`].
    pub fn unlock(&self, stors: Mirror) -> Result<Mirror, BaseError> {
        let mut keys = V1Keyring::new(self.private_keys.clone());
        for object in self.index.v1_keys() {
            let (hash, V1Keys { user, store }) = object?;
            for wrapped in [user, store].iter().filter(|wrapped| !wrapped.is_empty()) {
                keys.add(hash, wrapped);
            }
        }
        if keys.is_locked() && keys.objects() > 0 {
            tracing::warn!(
                objects = keys.objects(),
                "some content is encrypted, and cannot be read without the private key of a recipient: name it with --key, or in \
                 a config with encrypted = true and user_rsa"
            );
        }
        Ok(stors.sealed_with(self.sealing.clone()).with_v1_keys(keys))
    }

    /// What the flist was encrypted with, if it was: its content is, too.
    pub fn sealing(&self) -> Option<&Sealing> {
        self.sealing.as_ref()
    }

    /// A tree of nothing but its root, whose index is kept in `dir`.
    ///
    /// # Errors
    /// The index cannot be written.
    pub fn empty(dir: &Path) -> Result<Self, FlistError> {
        let list = Source::Bytes { name: "an empty tree", bytes: b"# aysfs-flist 2\n" };
        let index = Index::compile(list, &ParseOptions::default(), dir)?;
        Ok(Self::new(index).expect("the index of an empty tree is sound"))
    }

    /// The packs of the flist.
    pub(crate) fn packs(&self) -> &Packs {
        &self.packs
    }

    /// The content of a regular file of this base; `None` if it is empty.
    pub(crate) fn content_of(&self, of: &NodeRef<'_>) -> Result<Option<Content>, Corrupt> {
        Ok(self.content(of.content()?, of.size()))
    }

    /// What a list with the packs of this one means.
    pub(crate) fn content(&self, listed: Option<Listed>, size: u64) -> Option<Content> {
        self.packs.content(listed, size)
    }

    /// The compiled flist.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether anything in the tree has a POSIX ACL.
    pub(crate) fn has_acls(&self) -> bool {
        self.has_acls
    }

    /// The inode number that a node has in the first base of a mount: its position, so that it is the same at each mount.
    pub fn ino(node: Node) -> Ino {
        Ino(u64::from(node.0) + Ino::ROOT.0)
    }

    /// What `stat` shows of a node whose inode has this number.
    pub(crate) fn attr(&self, ino: Ino, of: &NodeRef<'_>) -> Result<Attr, Corrupt> {
        let mtime = time(of.mtime());
        Ok(Attr {
            ino,
            kind: file_kind(of.kind()),
            perm: of.perm(),
            nlink: of.nlink(),
            uid: self.uids[of.user()],
            gid: self.gids[of.group()],
            size: if of.kind() == Kind::Directory { u64::from(Attr::BLOCK_SIZE) } else { of.size() },
            blocks: blocks(of)?,
            atime: mtime,
            mtime,
            ctime: time(of.ctime()),
        })
    }

    /// Whether the other one shows exactly the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let of = |base: &Self| (base.index.list_digest(), base.index.len());
        let readers =
            |base: &Self| base.sealing().map(|sealing| sealing.recipients().copied().collect::<Vec<_>>());
        of(self) == of(other)
            && (&self.uids, &self.gids) == (&other.uids, &other.gids)
            && readers(self) == readers(other)
    }

    /// The user and the group of an entry of this tree, as numbers of this machine.
    pub(crate) fn owner(&self, entry: &ListEntry) -> (u32, u32) {
        let find = |owners: &[Owner], owner, ids: &[u32]| {
            owners.iter().position(|known| known == owner).map_or(NOBODY, |position| ids[position])
        };
        let uid = find(self.index.users(), &entry.user, &self.uids);
        let gid = find(self.index.groups(), &entry.group, &self.gids);
        (uid, gid)
    }

    /// All names of an inode that is no directory.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub(crate) fn names(&self, of: &NodeRef<'_>) -> Result<Vec<(Node, Vec<u8>)>, Corrupt> {
        if of.nlink() > 1
            && let Some(names) = self.hard_links()?.get(&of.number())
        {
            return Ok(names.clone());
        }
        Ok(vec![self.place(of)?])
    }

    /// The directory above an inode, and its name there; of a file that has several, the first.
    pub(crate) fn place(&self, of: &NodeRef<'_>) -> Result<(Node, Vec<u8>), Corrupt> {
        let path = self.index.path(of.number())?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        Ok((of.parent(), name.to_vec()))
    }

    /// The names of files that have several: found by looking at all names, once, when they are needed.
    pub(crate) fn hard_links(&self) -> Result<&HardLinks, Corrupt> {
        if let Some(found) = self.hard_links.get() {
            return Ok(found);
        }
        let mut found = HardLinks::new();
        let mut pending = vec![Node::ROOT];
        while let Some(directory) = pending.pop() {
            for child in self.index.children(directory)? {
                let (name, node) = child?;
                let of = self.index.node(node)?;
                if of.kind() == Kind::Directory {
                    pending.push(node);
                } else if of.nlink() > 1 {
                    found.entry(node).or_default().push((directory, name.to_vec()));
                }
            }
        }
        Ok(self.hard_links.get_or_init(|| found))
    }

    /// The directory at a path, which has no leading `/`.
    pub(crate) fn directory_at(&self, path: &[u8]) -> Result<Option<Node>, Corrupt> {
        let mut at = Node::ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Some(node) = self.index.lookup(at, name)? else { return Ok(None) };
            at = node;
        }
        Ok((self.index.node(at)?.kind() == Kind::Directory).then_some(at))
    }

    /// The path of an inode, for messages: its first name.
    pub(crate) fn path(&self, node: Node) -> String {
        match self.index.path(node) {
            Ok(path) => format!("/{}", path.escape_ascii()),
            Err(_) => format!("node {} of a damaged index", node.0),
        }
    }
}

/// What a damaged index means to a program that looks at the tree.
pub(crate) fn damaged(error: Corrupt) -> Error {
    Error::new(ErrorKind::Io, BaseError::from(error))
}

fn resolve(owner: &Owner, lookup: impl Fn(&OsStr) -> Option<u32>, unknown: u32) -> u32 {
    let by_name = owner.name.as_deref().and_then(|name| lookup(OsStr::from_bytes(name)));
    by_name.or(owner.id).filter(|id| *id != NO_ID).unwrap_or(unknown)
}

pub(crate) fn file_kind(kind: Kind) -> FileKind {
    match kind {
        Kind::Regular => FileKind::Regular,
        Kind::Directory => FileKind::Directory,
        Kind::Symlink => FileKind::Symlink,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice { major, minor } => FileKind::CharDevice(Device { major, minor }),
        Kind::BlockDevice { major, minor } => FileKind::BlockDevice(Device { major, minor }),
    }
}

fn time(time: Timestamp) -> Time {
    Time { secs: time.secs, nanos: time.nanos }
}

/// Space in units of 512 bytes, counted in whole pages of data as a local filesystem would.
fn blocks(of: &NodeRef<'_>) -> Result<u64, Corrupt> {
    let page = u64::from(Attr::BLOCK_SIZE);
    let pages = match (of.kind(), of.data()?) {
        (Kind::Regular, Some(segments)) => pages(segments, page),
        (Kind::Regular, None) => of.size().div_ceil(page),
        (Kind::Directory, _) => 1,
        _ => 0,
    };
    Ok(pages * (page / 512))
}

/// How many pages hold data; neighbouring segments may meet in one.
fn pages(segments: impl Iterator<Item = Range<u64>>, page: u64) -> u64 {
    let (pages, _) = segments.fold((0, 0), |(pages, counted), segment| {
        let (first, end) = ((segment.start / page).max(counted), segment.end.div_ceil(page).max(counted));
        (pages + end.saturating_sub(first), end)
    });
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: Option<&str>, id: Option<u32>) -> Owner {
        Owner { name: name.map(|name| name.into()), id }
    }

    #[test]
    fn an_unknown_owner_is_nobody_and_never_root() {
        let known = |name: &OsStr| (name == "known").then_some(7);
        let resolve = |name, id| resolve(&owner(name, id), known, 99);
        assert_eq!(resolve(Some("known"), Some(5)), 7, "a name that is known wins");
        assert_eq!(resolve(Some("unknown"), Some(5)), 5, "a number is next");
        assert_eq!(resolve(None, Some(0)), 0);
        assert_eq!(resolve(Some("unknown"), None), 99);
        assert_eq!(resolve(Some("0"), None), 99, "a name of digits is a name");
        assert_eq!(resolve(None, None), 99);
        assert_eq!(resolve(None, Some(u32::MAX)), 99, "which would leave what is made to root");
    }

    #[test]
    fn a_page_counts_once() {
        let count = |segments: &[(u64, u64)]| pages(segments.iter().map(|(start, end)| *start..*end), 4096);
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(0, 1)]), 1);
        assert_eq!(count(&[(0, 1), (2, 3), (4095, 4097)]), 2);
        assert_eq!(count(&[(4096, 8192), (16384, 20481)]), 3);
        assert_eq!(count(&[(0, u64::MAX)]), 1 << 52);
    }
}
