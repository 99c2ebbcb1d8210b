//! The merged tree: which names there are, which inode each leads to, and where that inode is.
//!
//! The upper directory is the truth; this is its image in memory, loaded directory by directory when it is looked at, and
//! kept as long as the mount lives. What is only in the base needs no memory here: its inode number says where it is.
//!
//! An inode keeps its number when it is copied up. What was in the upper from the start gets a new one at each mount, unless
//! it is a directory that is merged with one of the base.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aysfs_flist::Kind;
use aysfs_store::Content;
use aysfs_vfs::{Attr, Entry, Error, ErrorKind, FileKind, Ino, Name, Result, Time, TimeToLive, kernel::raw};
use lru::LruCache;
use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use rustix::process::{Resource, getrlimit};

use super::World;
use super::adopt::Claim;
use super::at::At;
use super::marks::shown_device;
use crate::base::Base;
use crate::numbers::LATER;

/// How many directories of the upper are kept open: an eighth of the files that this process may open, since the cache takes half.
fn open_directories() -> NonZeroUsize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let directories = usize::try_from(limit / 8).unwrap_or(usize::MAX).clamp(16, 1024);
    NonZeroUsize::new(directories).unwrap_or(NonZeroUsize::MIN)
}

/// The first inode number of what is in the upper only: behind all positions that a base can have.
const FIRST: u64 = 1 << 33;
const _: () = assert!(FIRST < LATER);

/// How long the kernel may believe the attributes of what is in the upper: where it writes to a mapped file by itself, it
/// does not notice that the time of the last change moves.
const UPPER_TTL: std::time::Duration = std::time::Duration::from_secs(1);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) parent: Ino,
    pub(super) name: Name,
}

/// Where a directory is.
#[derive(Clone, Debug)]
pub(super) enum Where {
    Root,
    At(Place),
    /// It has no name any more; open if it was in the upper.
    Removed(Option<Arc<OwnedFd>>),
}

/// What a directory of the upper says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Whiteout,
    There(Ino, FileType),
}

/// A directory that is in the upper, or was removed.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) place: Where,
    /// The directory of the base that shows through; it has the same number.
    pub(super) lower: Option<Ino>,
    /// Whether it is in the upper.
    pub(super) raised: bool,
    /// `None`: not read yet.
    pub(super) children: Option<BTreeMap<Name, Child>>,
    /// How many subdirectories more than `lower` it has.
    pub(super) more_subdirectories: i64,
    /// It was looked for, and nobody has set one since.
    pub(super) has_no_default_acl: bool,
}

/// Where the content of a regular file of the upper is.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Here,
    /// Only the attributes were copied up.
    Below(Origin),
}

/// Where content comes from that is not in the upper.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A file of the base.
    Base(Ino),
    /// The base has other content there by now, or nothing.
    Replaced(Arc<Content>),
    /// The base has nothing there, and nothing tells what it was.
    Lost,
}

/// Anything but a directory that is in the upper, with or without names.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) places: Vec<Place>,
    pub(super) kind: FileType,
    pub(super) data: Data,
    /// The number of its inode in the upper's filesystem.
    pub(super) key: u64,
    /// Set when the last name that is known is gone.
    pub(super) nameless: Option<Arc<OwnedFd>>,
    /// They were looked for, and nobody has set any since.
    pub(super) has_no_capability: bool,
    /// A mark may say that its content is in the stor.
    pub(super) may_be_pushed: bool,
    /// That mark was changed since the file was synced last.
    pub(super) has_new_mark: bool,
}

#[derive(Debug)]
pub(super) enum Object {
    Directory(Directory),
    Leaf(Leaf),
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the base only.
    Base(Ino, FileType),
    /// In the upper.
    Upper(Ino, FileType),
}

impl Found {
    pub(super) fn ino(self) -> Ino {
        let (Self::Base(ino, _) | Self::Upper(ino, _)) = self;
        ino
    }

    pub(super) fn kind(self) -> FileType {
        let (Self::Base(_, kind) | Self::Upper(_, kind)) = self;
        kind
    }

    pub(super) fn is_directory(self) -> bool {
        self.kind() == FileType::Directory
    }
}

/// The merged tree.
pub(super) struct Tree {
    pub(super) objects: HashMap<Ino, Object>,
    /// By the inode number in the upper's filesystem: hard links meet here.
    pub(super) by_key: HashMap<u64, Ino>,
    next: u64,
    pub(super) lookups: HashMap<Ino, u64>,
    descriptors: LruCache<Ino, Arc<OwnedFd>>,
    /// Whether every directory of the upper was read.
    pub(super) surveyed: bool,
    /// Directories that have been read and say they were moved, until it is decided whether they are believed.
    pub(super) claims: Vec<Claim>,
    /// How many names files of the base have lost since it was mounted, and before that, if they had several; `None`:
    /// nobody has asked yet.
    pub(super) lost: HashMap<Ino, u32>,
    pub(super) gone_before: Option<HashMap<Ino, u32>>,
    /// How often a name came, went or moved.
    pub(super) name_changes: u64,
}

impl Tree {
    /// The image of an upper, of which nothing is known but whether it is `blank`.
    pub(super) fn new(blank: bool) -> Self {
        let root = Directory {
            place: Where::Root,
            lower: Some(Ino::ROOT),
            raised: true,
            children: None,
            more_subdirectories: 0,
            has_no_default_acl: false,
        };
        Self {
            objects: HashMap::from([(Ino::ROOT, Object::Directory(root))]),
            by_key: HashMap::new(),
            next: FIRST,
            lookups: HashMap::new(),
            descriptors: LruCache::new(open_directories()),
            surveyed: blank,
            claims: Vec::new(),
            lost: HashMap::new(),
            gone_before: blank.then(HashMap::new),
            name_changes: 0,
        }
    }

    // ---- Looking ----

    pub(super) fn leaf(&self, ino: Ino) -> Option<&Leaf> {
        match self.objects.get(&ino) {
            Some(Object::Leaf(leaf)) => Some(leaf),
            _ => None,
        }
    }

    pub(super) fn leaf_mut(&mut self, ino: Ino) -> Option<&mut Leaf> {
        match self.objects.get_mut(&ino) {
            Some(Object::Leaf(leaf)) => Some(leaf),
            _ => None,
        }
    }

    pub(super) fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match self.objects.get_mut(&ino) {
            Some(Object::Directory(directory)) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The base directory below a directory, whether it is in the upper, and where it is.
    pub(super) fn directory(&self, w: &World, ino: Ino) -> Result<(Option<Ino>, bool, Where)> {
        match self.objects.get(&ino) {
            Some(Object::Directory(directory)) => {
                Ok((directory.lower, directory.raised, directory.place.clone()))
            }
            Some(Object::Leaf(_)) => Err(ErrorKind::NotADirectory.into()),
            None => {
                let (parent, name) = w.lower.find_directory(ino)?.place()?;
                // One that a reload took away has no place any more.
                let place = match w.lower.is_shown(ino) {
                    true => Where::At(Place { parent, name }),
                    false => Where::Removed(None),
                };
                Ok((Some(ino), false, place))
            }
        }
    }

    /// What `name` in a directory leads to.
    pub(super) fn find(&mut self, w: &World, parent: Ino, name: &Name) -> Result<Option<Found>> {
        self.load(w, parent)?;
        match self.objects.get(&parent) {
            Some(Object::Directory(directory)) => {
                match directory.children.as_ref().and_then(|children| children.get(name)) {
                    Some(Child::Whiteout) => return Ok(None),
                    Some(Child::There(ino, kind)) => return Ok(Some(Found::Upper(*ino, *kind))),
                    None => {}
                }
            }
            Some(Object::Leaf(_)) => return Err(ErrorKind::NotADirectory.into()),
            None => {}
        }
        let shown = self.shows_through(w, parent)?;
        let below = self.below(w, shown, name)?;
        Ok(below.filter(|(ino, _)| !self.is_elsewhere(*ino)).map(|(ino, kind)| Found::Base(ino, kind)))
    }

    /// The directory of the base that can be seen in a directory: none in what was removed.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale) if a reload has taken it away: whoever was on the way through it begins again.
    fn shows_through(&self, w: &World, ino: Ino) -> Result<Option<Ino>> {
        match self.directory(w, ino)? {
            (_, _, Where::Removed(_)) if self.objects.contains_key(&ino) => Ok(None),
            (_, _, Where::Removed(_)) => Err(ErrorKind::Stale.into()),
            (lower, ..) => Ok(lower),
        }
    }

    /// Whether a directory of the base, of which its own place in the upper says nothing, is in another one: only a
    /// damaged upper has that.
    fn is_elsewhere(&self, ino: Ino) -> bool {
        matches!(self.objects.get(&ino), Some(Object::Directory(_)))
    }

    /// What a directory of the base has under a name.
    pub(super) fn below(
        &self,
        w: &World,
        lower: Option<Ino>,
        name: &Name,
    ) -> Result<Option<(Ino, FileType)>> {
        let Some(lower) = lower else { return Ok(None) };
        Ok(w.lower.find(lower)?.child(name)?.map(|(ino, kind)| (ino, file_type(kind))))
    }

    /// Everything in a directory, sorted by name.
    pub(super) fn list(&mut self, w: &World, ino: Ino) -> Result<Vec<(Name, Found)>> {
        self.load(w, ino)?;
        let lower = self.shows_through(w, ino)?;
        let none = BTreeMap::new();
        let children = match self.objects.get(&ino) {
            Some(Object::Directory(directory)) => directory.children.as_ref().unwrap_or(&none),
            _ => &none,
        };
        let mut list = Vec::new();
        for (name, child) in children {
            if let Child::There(ino, kind) = child {
                list.push((name.clone(), Found::Upper(*ino, *kind)));
            }
        }
        if let Some(lower) = lower {
            for (name, ino, kind) in w.lower.find(lower)?.children()? {
                if !children.contains_key(&name) && !self.is_elsewhere(ino) {
                    list.push((name, Found::Base(ino, file_type(kind))));
                }
            }
        }
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(list)
    }

    pub(super) fn is_empty(&mut self, w: &World, ino: Ino) -> Result<bool> {
        Ok(self.list(w, ino)?.is_empty())
    }

    /// The directory above.
    pub(super) fn parent(&self, w: &World, ino: Ino) -> Result<Ino> {
        Ok(match self.directory(w, ino)?.2 {
            Where::Root | Where::Removed(_) => Ino::ROOT,
            Where::At(place) => place.parent,
        })
    }

    /// The path of a name below the upper directory; all directories on the way are in it.
    pub(super) fn path(&self, w: &World, place: &Place) -> Result<Vec<u8>> {
        let mut path = place.name.as_bytes().to_vec();
        let mut at = place.parent;
        loop {
            match self.directory(w, at)?.2 {
                Where::Root => return Ok(path),
                Where::Removed(_) => return Err(ErrorKind::Stale.into()),
                Where::At(place) => {
                    path = [place.name.as_bytes(), b"/", &path].concat();
                    at = place.parent;
                }
            }
        }
    }

    /// What `stat` shows of an inode.
    pub(super) fn attr(&mut self, w: &World, ino: Ino) -> Result<Entry> {
        match self.objects.get(&ino) {
            Some(Object::Leaf(leaf)) => {
                let below = match &leaf.data {
                    Data::Below(Origin::Base(of)) => {
                        let below = w.lower.find(*of)?.attr()?;
                        Some((below.size, below.blocks))
                    }
                    Data::Below(Origin::Replaced(content)) => {
                        let pages = content.size.div_ceil(Attr::BLOCK_SIZE.into());
                        Some((content.size, pages * u64::from(Attr::BLOCK_SIZE / 512)))
                    }
                    Data::Here | Data::Below(Origin::Lost) => None,
                };
                let mut attr = attr_of(ino, &self.at(w, ino)?.stat()?)?;
                if let Some(below) = below {
                    (attr.size, attr.blocks) = below;
                }
                Ok(entry(attr))
            }
            Some(Object::Directory(directory)) if !directory.raised => {
                let mut known = w.lower.base_entry(ino)?;
                known.attr.nlink = 0;
                Ok(known)
            }
            Some(Object::Directory(_)) => {
                self.load(w, ino)?;
                let mut attr = attr_of(ino, &self.at(w, ino)?.stat()?)?;
                let directory = self.directory_mut(ino)?;
                let below = match directory.lower {
                    Some(lower) => w.lower.find(lower)?.of()?.nlink(),
                    None => 2,
                };
                let removed = matches!(directory.place, Where::Removed(_));
                let nlink = i64::from(below) + directory.more_subdirectories;
                attr.nlink = if removed { 0 } else { u32::try_from(nlink).unwrap_or(1) };
                attr.size = u64::from(Attr::BLOCK_SIZE);
                Ok(entry(attr))
            }
            None => {
                let mut known = w.lower.base_entry(ino)?;
                if known.attr.kind != FileKind::Directory {
                    let before = if known.attr.nlink > 1 { self.names_gone_before(w, ino)? } else { 0 };
                    let lost = self.lost.get(&ino).copied().unwrap_or_default();
                    known.attr.nlink = known.attr.nlink.saturating_sub(before + lost);
                }
                Ok(known)
            }
        }
    }

    /// Whether an inode is in the upper, with or without a name.
    pub(super) fn is_in_upper(&self, ino: Ino) -> bool {
        match self.objects.get(&ino) {
            Some(Object::Leaf(_)) => true,
            Some(Object::Directory(directory)) => directory.raised,
            None => false,
        }
    }

    /// Where an inode of the upper is.
    pub(super) fn at(&mut self, w: &World, ino: Ino) -> Result<At> {
        let place = match self.objects.get(&ino) {
            Some(Object::Leaf(Leaf { nameless: Some(fd), .. })) => return Ok(At::Nameless(fd.clone())),
            Some(Object::Leaf(leaf)) => leaf.places.first().cloned().ok_or(ErrorKind::Stale)?,
            Some(Object::Directory(directory)) => match &directory.place {
                Where::Root => return Ok(At::Named(w.upper.root.clone(), b".".into())),
                Where::At(place) => place.clone(),
                Where::Removed(Some(fd)) => return Ok(At::Named(fd.clone(), b".".into())),
                Where::Removed(None) => return Err(ErrorKind::Stale.into()),
            },
            None => return Err(ErrorKind::Stale.into()),
        };
        Ok(At::Named(self.descriptor(w, place.parent)?, place.name.as_bytes().into()))
    }

    /// A directory of the upper, open as a path.
    pub(super) fn descriptor(&mut self, w: &World, ino: Ino) -> Result<Arc<OwnedFd>> {
        let mut way = Vec::new();
        let mut at = ino;
        let mut fd = loop {
            if let Some(fd) = self.descriptors.get(&at) {
                break fd.clone();
            }
            match self.objects.get(&at) {
                Some(Object::Directory(Directory { place: Where::Root, .. })) => break w.upper.root.clone(),
                Some(Object::Directory(Directory { place: Where::Removed(Some(fd)), .. })) => {
                    break fd.clone();
                }
                Some(Object::Directory(Directory { place: Where::At(place), .. })) => {
                    way.push((at, place.name.clone()));
                    at = place.parent;
                }
                _ => return Err(ErrorKind::Stale.into()),
            }
        };
        for (ino, name) in way.into_iter().rev() {
            fd = Arc::new(open_path(&fd, name.as_bytes())?);
            self.descriptors.put(ino, fd.clone());
        }
        Ok(fd)
    }

    pub(super) fn new_ino(&mut self) -> Ino {
        self.next += 1;
        Ino(self.next)
    }

    // ---- Changing the image ----

    /// Notes what a directory of the upper says about a name from now on; `None`: nothing.
    pub(super) fn set_child(&mut self, w: &World, ino: Ino, name: &Name, child: Option<Child>) -> Result<()> {
        let (lower, ..) = self.directory(w, ino)?;
        let below = self.below(w, lower, name)?.is_some_and(|(_, kind)| kind == FileType::Directory);
        let directory = self.directory_mut(ino)?;
        let Some(children) = &mut directory.children else { return Ok(()) };
        let before = match child {
            Some(child) => children.insert(name.clone(), child),
            None => children.remove(name),
        };
        let is_directory = |child: Option<Child>| match child {
            None => below,
            Some(Child::Whiteout) => false,
            Some(Child::There(_, kind)) => kind == FileType::Directory,
        };
        directory.more_subdirectories += i64::from(is_directory(child)) - i64::from(is_directory(before));
        Ok(())
    }

    /// Whether a whiteout is in the upper under a name.
    pub(super) fn has_whiteout(&self, ino: Ino, name: &Name) -> bool {
        match self.objects.get(&ino) {
            Some(Object::Directory(directory)) => {
                directory.children.as_ref().and_then(|children| children.get(name)) == Some(&Child::Whiteout)
            }
            _ => false,
        }
    }

    /// The whiteouts in a directory.
    pub(super) fn whiteouts(&mut self, w: &World, ino: Ino) -> Result<Vec<Name>> {
        self.load(w, ino)?;
        let directory = self.directory_mut(ino)?;
        let children = directory.children.iter().flatten();
        Ok(children.filter(|(_, child)| **child == Child::Whiteout).map(|(name, _)| name.clone()).collect())
    }

    /// A new directory of the upper; `ino` if it is one of the base that was copied up.
    pub(super) fn add_directory(&mut self, w: &World, place: Place, copied: Option<Ino>) -> Result<Ino> {
        let ino = copied.unwrap_or_else(|| self.new_ino());
        self.objects.insert(
            ino,
            Object::Directory(Directory {
                place: Where::At(place.clone()),
                lower: copied,
                raised: true,
                children: Some(BTreeMap::new()),
                more_subdirectories: 0,
                has_no_default_acl: false,
            }),
        );
        self.set_child(w, place.parent, &place.name, Some(Child::There(ino, FileType::Directory)))?;
        Ok(ino)
    }

    /// A new inode of the upper that is no directory, under the names it has there; `ino` if it was copied up.
    pub(super) fn add_leaf(
        &mut self,
        w: &World,
        places: Vec<Place>,
        copied: Option<Ino>,
        stat: &Stat,
        data: Data,
        nameless: Option<Arc<OwnedFd>>,
    ) -> Result<Ino> {
        let ino = copied.unwrap_or_else(|| self.new_ino());
        let kind = FileType::from_raw_mode(stat.st_mode);
        for place in &places {
            self.set_child(w, place.parent, &place.name, Some(Child::There(ino, kind)))?;
        }
        self.by_key.insert(stat.st_ino, ino);
        self.objects.insert(
            ino,
            Object::Leaf(Leaf {
                places,
                kind,
                data,
                key: stat.st_ino,
                nameless,
                has_no_capability: false,
                may_be_pushed: false,
                has_new_mark: false,
            }),
        );
        Ok(ino)
    }

    /// A leaf lost a name; `fd` is given if it was the last that is known.
    pub(super) fn lose_name(&mut self, ino: Ino, place: &Place, fd: Option<Arc<OwnedFd>>) {
        let Some(leaf) = self.leaf_mut(ino) else { return };
        leaf.places.retain(|known| known != place);
        if leaf.places.is_empty() {
            leaf.nameless = fd;
        }
    }

    /// A directory lost its name.
    pub(super) fn lose_directory(&mut self, w: &World, ino: Ino, fd: Option<Arc<OwnedFd>>) -> Result<()> {
        self.descriptors.pop(&ino);
        match self.objects.get_mut(&ino) {
            Some(Object::Directory(directory)) => directory.place = Where::Removed(fd),
            _ => {
                let (lower, ..) = self.directory(w, ino)?;
                self.objects.insert(
                    ino,
                    Object::Directory(Directory {
                        place: Where::Removed(None),
                        lower,
                        raised: false,
                        children: None,
                        more_subdirectories: 0,
                        has_no_default_acl: false,
                    }),
                );
            }
        }
        Ok(())
    }

    /// A file of the base lost a name.
    pub(super) fn hide(&mut self, ino: Ino) {
        *self.lost.entry(ino).or_default() += 1;
    }

    // ---- What the kernel holds ----

    pub(super) fn count_lookup(&mut self, ino: Ino) {
        *self.lookups.entry(ino).or_default() += 1;
    }

    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(lookups) = self.lookups.get_mut(&ino) {
            *lookups = lookups.saturating_sub(count);
            if *lookups == 0 {
                self.lookups.remove(&ino);
            }
        }
    }

    /// Drops what has neither a name nor anybody who holds it.
    pub(super) fn reap(&mut self, w: &World, ino: Ino, is_open: bool) {
        if is_open || self.lookups.contains_key(&ino) {
            return;
        }
        let gone = match self.objects.get_mut(&ino) {
            Some(Object::Leaf(leaf)) if leaf.places.is_empty() => {
                // It may have names in directories that nobody has looked at: then it keeps its number.
                let names = leaf.nameless.take().map(|fd| At::Nameless(fd).stat());
                let has_names = names.is_some_and(|stat| stat.is_ok_and(|stat| stat.st_nlink > 0));
                if !has_names {
                    // The local filesystem may use that number again.
                    let key = leaf.key;
                    self.by_key.remove(&key);
                }
                !has_names
            }
            // One of the base is remembered: its names must stay gone.
            Some(Object::Directory(directory)) if matches!(directory.place, Where::Removed(_)) => {
                directory.place = Where::Removed(None);
                !w.lower.is_shown(ino)
            }
            _ => false,
        };
        if gone {
            self.objects.remove(&ino);
        }
    }
}

/// Opens a directory as a path: for calls that take a name in it.
pub(super) fn open_path(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn entry(attr: Attr) -> Entry {
    Entry { attr, ttl: TimeToLive { entry: Base::TTL, attr: UPPER_TTL } }
}

/// What is said of an inode with these attributes.
pub(super) fn entry_of(ino: Ino, stat: &Stat) -> Result<Entry> {
    attr_of(ino, stat).map(entry)
}

/// What a local file's attributes are in the words of the contract.
fn attr_of(ino: Ino, stat: &Stat) -> Result<Attr> {
    let overflow = |_| Error::from(ErrorKind::Overflow);
    let nanos = |nanos: u64| u32::try_from(nanos).map_err(overflow);
    let device =
        aysfs_vfs::Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice(shown_device(device)),
        FileType::BlockDevice => FileKind::BlockDevice(device),
        FileType::Unknown => return Err(ErrorKind::Io.into()),
    };
    Ok(Attr {
        ino,
        kind,
        perm: raw::perm(stat.st_mode),
        nlink: u32::try_from(stat.st_nlink).map_err(overflow)?,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).map_err(overflow)?,
        blocks: u64::try_from(stat.st_blocks).map_err(overflow)?,
        atime: Time { secs: stat.st_atime, nanos: nanos(stat.st_atime_nsec)? },
        mtime: Time { secs: stat.st_mtime, nanos: nanos(stat.st_mtime_nsec)? },
        ctime: Time { secs: stat.st_ctime, nanos: nanos(stat.st_ctime_nsec)? },
    })
}

pub(super) fn file_type(kind: Kind) -> FileType {
    FileType::from_raw_mode(raw::type_bits(crate::base::file_kind(kind)))
}

/// A kind for a listing, where device numbers do not matter.
pub(super) fn listed_kind(kind: FileType) -> FileKind {
    match kind {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice(aysfs_vfs::Device::default()),
        FileType::BlockDevice => FileKind::BlockDevice(aysfs_vfs::Device::default()),
        FileType::RegularFile | FileType::Unknown => FileKind::Regular,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::change::New;
    use crate::overlay::testing::{Layers, caller, directory, empty_file, name};

    fn names(tree: &mut Tree, layers: &Layers, ino: Ino) -> Vec<String> {
        let list = tree.list(&layers.w, ino).expect("a directory");
        list.iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn the_base_shows_through_what_the_upper_says_nothing_about() {
        let layers = Layers::new(&[directory("d"), empty_file("d/a"), empty_file("d/b"), empty_file("f")]);
        let (w, mut tree) = (&layers.w, Tree::new(true));
        let d = Base::ino(layers.node("d"));
        assert_eq!(names(&mut tree, &layers, Ino::ROOT), ["d", "f"]);
        assert!(!tree.is_in_upper(d));
        tree.unlink(w, d, &name("a")).expect("unlinked");
        assert!(tree.is_in_upper(d), "the whiteout needs a place");
        let made = tree.make(w, caller(), d, &name("c"), &New::Symlink(b"x"), 0o777).expect("made").ino;
        assert_eq!(names(&mut tree, &layers, d), ["b", "c"]);
        assert_eq!(tree.find(w, d, &name("a")).expect("a directory"), None);
        let b = Found::Base(Base::ino(layers.node("d/b")), FileType::RegularFile);
        assert_eq!(tree.find(w, d, &name("b")).expect("a directory"), Some(b));
        let c = Found::Upper(made, FileType::Symlink);
        assert_eq!(tree.find(w, d, &name("c")).expect("a directory"), Some(c));
        assert!(tree.has_whiteout(d, &name("a")) && !tree.has_whiteout(d, &name("b")));
        assert!(made.0 > FIRST, "numbers of the base are not used again");
        let refused = tree.find(w, made, &name("x")).expect_err("no directory");
        assert_eq!(refused.kind(), ErrorKind::NotADirectory);

        // Another image of the same upper shows the same.
        let mut again = Tree::new(false);
        assert_eq!(names(&mut again, &layers, Ino::ROOT), ["d", "f"]);
        assert_eq!(names(&mut again, &layers, d), ["b", "c"]);
    }

    #[test]
    fn subdirectories_are_counted_in_both_layers() {
        let layers = Layers::new(&[directory("d"), directory("d/x"), directory("d/y"), empty_file("d/z")]);
        let (w, mut tree) = (&layers.w, Tree::new(true));
        let d = Base::ino(layers.node("d"));
        let nlink = |tree: &mut Tree| tree.attr(w, d).expect("there").attr.nlink;
        assert_eq!(nlink(&mut tree), 4);
        tree.make(w, caller(), d, &name("new"), &New::Directory, 0o755).expect("made");
        assert_eq!(nlink(&mut tree), 5);
        tree.rmdir(w, d, &name("x")).expect("removed");
        assert_eq!(nlink(&mut tree), 4);
        tree.make(w, caller(), d, &name("x"), &New::Node(FileKind::Fifo), 0o644).expect("made");
        assert_eq!(nlink(&mut tree), 4);
        assert_eq!(Tree::new(false).attr(w, Ino::ROOT).expect("there").attr.nlink, 3);
        let mut again = Tree::new(false);
        names(&mut again, &layers, Ino::ROOT);
        assert_eq!(nlink(&mut again), 4);
        for gone in ["new", "y"] {
            tree.rmdir(w, d, &name(gone)).expect("removed");
        }
        for gone in ["x", "z"] {
            tree.unlink(w, d, &name(gone)).expect("unlinked");
        }
        assert_eq!(nlink(&mut tree), 2);
        tree.rmdir(w, Ino::ROOT, &name("d")).expect("removed");
        assert_eq!(nlink(&mut tree), 0);
    }

    #[test]
    fn an_inode_is_forgotten_with_its_last_name_lookup_and_handle() {
        let layers = Layers::new(&[]);
        let (w, mut tree) = (&layers.w, Tree::new(true));
        let new = New::Node(FileKind::Regular);
        let ino = tree.make(w, caller(), Ino::ROOT, &name("f"), &new, 0o644).expect("made").ino;
        tree.count_lookup(ino);
        tree.count_lookup(ino);
        tree.reap(w, ino, false);
        assert!(tree.is_in_upper(ino), "it has a name");
        tree.unlink(w, Ino::ROOT, &name("f")).expect("unlinked");
        tree.forget(ino, 1);
        tree.reap(w, ino, false);
        assert!(tree.is_in_upper(ino), "the kernel holds it");
        assert_eq!(tree.attr(w, ino).expect("there").attr.nlink, 0);
        tree.forget(ino, 7);
        tree.reap(w, ino, true);
        assert!(tree.is_in_upper(ino), "it is open");
        tree.reap(w, ino, false);
        assert!(!tree.is_in_upper(ino));
        assert!(tree.by_key.is_empty(), "the local filesystem may use its number again");
        assert_eq!(tree.attr(w, ino).expect_err("gone").kind(), ErrorKind::Stale);
        let other = tree.make(w, caller(), Ino::ROOT, &name("f"), &new, 0o644).expect("made").ino;
        assert_ne!(ino, other, "numbers are not used twice");
    }

    #[test]
    fn more_directories_than_can_be_open_at_once_are_found() {
        let layers = Layers::new(&[]);
        let (w, mut tree) = (&layers.w, Tree::new(true));
        tree.descriptors = LruCache::new(NonZeroUsize::new(2).expect("not zero"));
        let mut at = Ino::ROOT;
        let mut all = Vec::new();
        for _ in 0..10 {
            at = tree.make(w, caller(), at, &name("deeper"), &New::Directory, 0o755).expect("made").ino;
            all.push(at);
        }
        for ino in all.iter().rev().chain(&all) {
            assert_eq!(tree.attr(w, *ino).expect("there").attr.ino, *ino);
            tree.descriptor(w, *ino).expect("opened");
            assert!(tree.descriptors.len() <= 2);
        }
    }
}
