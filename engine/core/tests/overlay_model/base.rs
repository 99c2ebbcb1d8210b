//! Random trees for the base: as entries of a flist, and as the same tree in the reference filesystem.

use std::collections::BTreeMap;
use std::ops::Range;

use aysfs_flist::{Entry as ListEntry, Kind, Owner, Timestamp};
use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{
    Caller, Device, FileKind, Ino, Lookup, Name, OpenFlags, SetAttr, SetTime, SetXattrMode, Time, Vfs,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::support::Lab;

/// So few that names meet.
pub(crate) const NAMES: usize = 5;

/// A name by its number; one of them is as long as a name can be.
pub(crate) fn name(number: u8) -> Name {
    let number = usize::from(number) % NAMES;
    let names: [&[u8]; NAMES] = [b"a", b"b", b"c", b"d \xff", &[b'n'; Name::MAX]];
    Name::new(names[number]).expect("a name")
}

/// One entry of the tree: in one of the directories that were made before it, if its name is free there.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    directory: u8,
    name: u8,
    what: What,
    perm: u16,
    uid: u32,
    gid: u32,
    attribute: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Directory,
    File(usize),
    Sparse,
    Symlink,
    Fifo,
    Socket,
    Device,
    /// Another name of a file that was made before it.
    Link(u8),
}

pub(crate) fn tree() -> impl Strategy<Value = Vec<Seed>> {
    let what = prop_oneof![
        6 => Just(What::Directory),
        5 => prop_oneof![Just(0), Just(1), Just(100), Just(4096), Just(9000)].prop_map(What::File),
        1 => Just(What::Sparse),
        1 => Just(What::Symlink),
        1 => prop_oneof![Just(What::Fifo), Just(What::Socket), Just(What::Device)],
        3 => any::<u8>().prop_map(What::Link),
    ];
    let perm = prop_oneof![
        4 => Just(0o755),
        2 => Just(0o644),
        1 => Just(0o2775),
        1 => Just(0o4711),
        1 => Just(0o000),
        1 => Just(0o1777),
    ];
    let owner = prop_oneof![4 => Just(0), 1 => Just(1000), 1 => Just(65_534)];
    let attribute = prop::option::weighted(0.2, any::<u8>());
    let seed = (any::<u8>(), any::<u8>(), what, perm, owner.clone(), owner, attribute).prop_map(
        |(directory, name, what, perm, uid, gid, attribute)| Seed {
            directory,
            name,
            what,
            perm,
            uid,
            gid,
            attribute,
        },
    );
    prop::collection::vec(seed, 0..24)
}

/// The bytes of a file, different for each.
fn content(path: &[u8], size: usize) -> Vec<u8> {
    let seed = path.iter().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte)) | 1;
    (0..=250).cycle().take(size).map(|at: u8| seed.wrapping_mul(at).wrapping_add(seed) | 1).collect()
}

const PAGE: u64 = 4096;
const SPARSE_SIZE: u64 = 5 * PAGE + 10;
/// Where a sparse file has data.
const SPARSE: [Range<u64>; 2] = [PAGE..2 * PAGE, 5 * PAGE..SPARSE_SIZE];

fn sparse_content(path: &[u8]) -> Vec<u8> {
    let mut bytes = content(path, usize::try_from(SPARSE_SIZE).expect("small"));
    for (at, byte) in bytes.iter_mut().enumerate() {
        if !SPARSE.iter().any(|data| data.contains(&(at as u64))) {
            *byte = 0;
        }
    }
    bytes
}

/// The entries of a flist, parents first.
pub(crate) fn entries(lab: &Lab, seeds: &[Seed]) -> Vec<ListEntry> {
    let mut root = ListEntry::new("", Kind::Directory);
    root.mtime = Timestamp { secs: 1_000_000_000, nanos: 1 };
    let mut directories = vec![Vec::new()];
    let mut made = BTreeMap::from([(Vec::new(), root.clone())]);
    let mut entries = vec![root];
    let mut linkable = Vec::new();
    for (number, seed) in seeds.iter().enumerate() {
        let directory = &directories[usize::from(seed.directory) % directories.len()];
        let mut path = directory.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name(seed.name).as_bytes());
        if made.contains_key(&path) {
            continue;
        }
        let text = String::from_utf8_lossy(&path).into_owned();
        let mut entry = match seed.what {
            What::Directory => ListEntry::new(path.clone(), Kind::Directory),
            What::File(0) => ListEntry::new(path.clone(), Kind::Regular),
            What::File(size) => lab.file(&text, &content(&path, size)),
            What::Sparse => {
                let mut entry = lab.file(&text, &sparse_content(&path));
                entry.data = Some(SPARSE.to_vec());
                entry
            }
            What::Symlink => {
                ListEntry { target: b"../some/where".to_vec(), ..ListEntry::new(path.clone(), Kind::Symlink) }
            }
            What::Fifo => ListEntry::new(path.clone(), Kind::Fifo),
            What::Socket => ListEntry::new(path.clone(), Kind::Socket),
            What::Device => ListEntry::new(path.clone(), Kind::CharDevice { major: 1, minor: 3 }),
            What::Link(_) if linkable.is_empty() => continue,
            What::Link(to) => {
                let first: &ListEntry = &linkable[usize::from(to) % linkable.len()];
                ListEntry { path: path.clone(), link: Some(first.path.clone()), ..first.clone() }
            }
        };
        entry.path = path.clone();
        if entry.link.is_none() {
            entry.perm = if entry.kind == Kind::Symlink { 0o777 } else { seed.perm };
            entry.user = Owner { name: None, id: Some(seed.uid) };
            entry.group = Owner { name: None, id: Some(seed.gid) };
            entry.mtime = Timestamp { secs: 1_000_000_000 + number as i64, nanos: 123_456_789 };
            entry.ctime = Timestamp { secs: 1_100_000_000 + number as i64, nanos: 7 };
            let takes_user_attributes = matches!(entry.kind, Kind::Regular | Kind::Directory);
            if let Some(value) = seed.attribute.filter(|_| takes_user_attributes) {
                entry.xattrs = vec![(b"user.base".to_vec(), vec![value; usize::from(value)])];
            }
            if entry.kind != Kind::Directory {
                linkable.push(entry.clone());
            }
        }
        if entry.kind == Kind::Directory {
            directories.push(path.clone());
        }
        made.insert(path, entry.clone());
        entries.push(entry);
    }
    entries
}

/// The same tree in the reference filesystem; its directories.
pub(crate) async fn fill(model: &MemFs, entries: &[ListEntry]) -> Vec<Ino> {
    let root = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
    let mut directories = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.path.is_empty()) {
        let (parent, name) = split(model, &entry.path).await;
        if let Some(first) = &entry.link {
            let first = find(model, first).await;
            model.link(first, parent, &name).await.expect("a link");
            model.forget(first, 1);
            continue;
        }
        let node = |kind| model.mknod(root, parent, &name, kind, 0);
        let made = match entry.kind {
            Kind::Directory => model.mkdir(root, parent, &name, 0).await,
            Kind::Symlink => model.symlink(root, parent, &name, &entry.target).await,
            Kind::Regular => node(FileKind::Regular).await,
            Kind::Fifo => node(FileKind::Fifo).await,
            Kind::Socket => node(FileKind::Socket).await,
            Kind::CharDevice { major, minor } => node(FileKind::CharDevice(Device { major, minor })).await,
            Kind::BlockDevice { major, minor } => node(FileKind::BlockDevice(Device { major, minor })).await,
        };
        let ino = made.expect("a new name").attr.ino;
        if entry.kind == Kind::Directory {
            directories.push(ino);
        }
        if entry.size > 0 {
            write(model, ino, entry).await;
        }
        for (name, value) in &entry.xattrs {
            model.setxattr(ino, name, value, SetXattrMode::Set).await.expect("an attribute");
        }
        model.forget(ino, 1);
    }
    // At the end, since entries that are made change the times of directories.
    for entry in entries.iter().filter(|entry| entry.link.is_none()) {
        let ino = find(model, &entry.path).await;
        let time = |time: Timestamp| Time { secs: time.secs, nanos: time.nanos };
        let mtime = SetTime::At(time(entry.mtime));
        let changes = SetAttr {
            perm: Some(entry.perm),
            uid: entry.user.id,
            gid: entry.group.id,
            atime: Some(mtime),
            mtime: Some(mtime),
            ctime: Some(time(entry.ctime)),
            size: None,
        };
        model.setattr(ino, None, changes).await.expect("attributes");
    }
    directories.push(Ino::ROOT);
    directories
}

async fn write(model: &MemFs, ino: Ino, entry: &ListEntry) {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let opened = model.open(ino, flags).await.expect("opened");
    let (bytes, parts) = match &entry.data {
        Some(data) => (sparse_content(&entry.path), data.clone()),
        None => {
            let size = usize::try_from(entry.size).expect("small");
            (content(&entry.path, size), std::iter::once(0..entry.size).collect())
        }
    };
    for part in parts {
        let range = usize::try_from(part.start).expect("small")..usize::try_from(part.end).expect("small");
        let data = Bytes::copy_from_slice(&bytes[range]);
        model.write(ino, opened.fh, part.start, data).await.expect("written");
    }
    let size = SetAttr { size: Some(entry.size), ..SetAttr::default() };
    model.setattr(ino, None, size).await.expect("a size");
    model.release(ino, opened.fh).await.expect("released");
}

async fn split(model: &MemFs, path: &[u8]) -> (Ino, Name) {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (find(model, &path[..slash]).await, &path[slash + 1..]),
        None => (Ino::ROOT, path),
    };
    (parent, Name::new(name).expect("a name"))
}

async fn find(model: &MemFs, path: &[u8]) -> Ino {
    let mut at = Ino::ROOT;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        let name = Name::new(component).expect("a name");
        let Lookup::Found(entry) = model.lookup(at, &name).await.expect("a directory") else {
            panic!("{} is not there", path.escape_ascii());
        };
        at = entry.attr.ino;
        model.forget(at, 1);
    }
    at
}
