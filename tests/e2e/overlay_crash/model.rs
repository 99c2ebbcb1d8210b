//! What a tree must be like after a load: a filesystem in memory, as simple as possible, and what can be seen of one.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;

use super::op::{How, Op, Renaming, SLOTS, UMASK, xattr_value};
use crate::tree;

/// What can be seen of a tree, by path.
pub(super) type View = BTreeMap<PathBuf, Seen>;

/// What can be seen of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) what: What,
    pub(super) perm: u32,
    pub(super) owner: (u32, u32),
    /// `None` where nobody knows what it must be.
    pub(super) mtime: Option<(i64, i64)>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path of the same inode.
    pub(super) first: PathBuf,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum What {
    File(Rc<Vec<u8>>),
    Directory,
    Symlink(String),
    Other,
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(bytes) => write!(f, "a file of {} bytes", bytes.len()),
            Self::Directory => f.write_str("a directory"),
            Self::Symlink(target) => write!(f, "a symlink to {target}"),
            Self::Other => f.write_str("something else"),
        }
    }
}

/// Looks at everything below a directory, the directory itself included.
pub(super) fn view(root: &Path) -> io::Result<View> {
    let mut view = View::new();
    let mut inodes = HashMap::new();
    // In order, so that the first path of an inode is found first.
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let meta = full.symlink_metadata()?;
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            let names = fs::read_dir(&full)?.map(|entry| Ok(path.join(entry?.file_name())));
            pending.extend(names.collect::<io::Result<Vec<_>>>()?);
            pending.sort_by(|one, other| other.cmp(one));
            What::Directory
        } else if kind.is_symlink() {
            What::Symlink(fs::read_link(&full)?.to_string_lossy().into_owned())
        } else if kind.is_file() {
            let bytes = fs::read(&full)?;
            assert_eq!(bytes.len() as u64, meta.len(), "{path:?}: its size is that of its content");
            What::File(Rc::new(bytes))
        } else {
            assert!(!kind.is_char_device() || meta.rdev() != 0, "{path:?} is a whiteout");
            What::Other
        };
        let mut xattrs = BTreeMap::new();
        if !kind.is_symlink() {
            for name in xattr::list(&full)? {
                let value = xattr::get(&full, &name)?.expect("it is listed");
                xattrs.insert(name.to_string_lossy().into_owned(), value);
            }
        }
        let seen = Seen {
            what,
            perm: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: Some((meta.mtime(), meta.mtime_nsec())),
            xattrs,
            first: inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone(),
        };
        view.insert(path, seen);
    }
    Ok(view)
}

/// The differences of what is there from what must be there.
pub(super) fn differences(expected: &View, found: &View) -> Vec<String> {
    let mut all = Vec::new();
    for (path, must) in expected {
        let Some(is) = found.get(path) else {
            all.push(format!("{path:?} is missing: {:?}", must.what));
            continue;
        };
        if must.what != is.what {
            all.push(format!("{path:?}: {}", difference(&must.what, &is.what)));
        }
        let mut check = |what: &str, same: bool, must: String, is: String| {
            if !same {
                all.push(format!("{path:?}: {what}: {must} became {is}"));
            }
        };
        check("mode", must.perm == is.perm, format!("{:o}", must.perm), format!("{:o}", is.perm));
        check("owner", must.owner == is.owner, format!("{:?}", must.owner), format!("{:?}", is.owner));
        let times = (format!("{:?}", must.mtime), format!("{:?}", is.mtime));
        check("mtime", must.mtime.is_none() || must.mtime == is.mtime, times.0, times.1);
        check("xattrs", must.xattrs == is.xattrs, format!("{:?}", must.xattrs), format!("{:?}", is.xattrs));
        check("links", must.first == is.first, format!("{:?}", must.first), format!("{:?}", is.first));
    }
    all.extend(
        found
            .iter()
            .filter(|(path, _)| !expected.contains_key(*path))
            .map(|(path, seen)| format!("{path:?} should not be there: {:?}", seen.what)),
    );
    all
}

fn difference(must: &What, is: &What) -> String {
    let (What::File(must), What::File(is)) = (must, is) else { return format!("{must:?} became {is:?}") };
    let at = must.iter().zip(&**is).position(|(must, is)| must != is).unwrap_or(must.len().min(is.len()));
    let zeros = is[at..].iter().take_while(|byte| **byte == 0).count();
    format!("{} bytes became {}, the first other one at {at}, with {zeros} zeros there", must.len(), is.len())
}

type Id = usize;

#[derive(Clone)]
struct Inode {
    what: Body,
    perm: u32,
    owner: (u32, u32),
    mtime: Option<(i64, i64)>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
enum Body {
    File(Rc<Vec<u8>>),
    Directory(BTreeMap<String, Id>),
    Symlink(String),
}

/// A tree that operations are applied to.
#[derive(Clone)]
pub(super) struct Model {
    inodes: Vec<Inode>,
    open: [Option<(Id, bool)>; SLOTS],
    /// Who does it.
    owner: (u32, u32),
}

const ROOT: Id = 0;

impl Model {
    /// A tree that looks like this, with nothing open; what is made belongs to `owner`.
    pub(super) fn new(view: &View, owner: (u32, u32)) -> Self {
        let mut model = Self { inodes: Vec::new(), open: [None; SLOTS], owner };
        let mut by_first = HashMap::new();
        for (path, seen) in view {
            let id = *by_first.entry(&seen.first).or_insert_with(|| {
                model.inodes.push(Inode {
                    what: match &seen.what {
                        What::File(bytes) => Body::File(bytes.clone()),
                        What::Directory => Body::Directory(BTreeMap::new()),
                        What::Symlink(target) => Body::Symlink(target.clone()),
                        What::Other => panic!("{path:?}: the load makes no such thing"),
                    },
                    perm: seen.perm,
                    owner: seen.owner,
                    mtime: seen.mtime,
                    xattrs: seen.xattrs.clone(),
                });
                model.inodes.len() - 1
            });
            if let Some(parent) = path.parent() {
                let name = path.file_name().expect("not the root").to_string_lossy().into_owned();
                let parent = model.resolve(&parent.to_string_lossy()).expect("parents come first");
                model.names_mut(parent).expect("a directory").insert(name, id);
            }
        }
        model
    }

    /// What can be seen of it.
    pub(super) fn view(&self) -> View {
        let mut view = View::new();
        let mut paths = BTreeMap::from([(PathBuf::new(), ROOT)]);
        let mut first = HashMap::new();
        while let Some((path, id)) = paths.pop_first() {
            let inode = &self.inodes[id];
            let what = match &inode.what {
                Body::File(bytes) => What::File(bytes.clone()),
                Body::Symlink(target) => What::Symlink(target.clone()),
                Body::Directory(names) => {
                    paths.extend(names.iter().map(|(name, id)| (path.join(name), *id)));
                    What::Directory
                }
            };
            let seen = Seen {
                what,
                perm: inode.perm,
                owner: inode.owner,
                mtime: inode.mtime,
                xattrs: inode.xattrs.clone(),
                first: first.entry(id).or_insert_with(|| path.clone()).clone(),
            };
            view.insert(path, seen);
        }
        view
    }

    /// Does what an operation does that moved so many bytes, or says why it cannot.
    pub(super) fn apply(&mut self, op: &Op, moved: usize) -> Result<(), Errno> {
        match op {
            Op::Create { path, slot, perm } => {
                let perm = perm & !UMASK;
                let id = self.make(path, Body::File(Rc::default()), perm)?;
                self.open[*slot] = Some((id, true));
            }
            Op::Open { path, slot, how } => {
                let id = self.resolve(path)?;
                match (&self.inodes[id].what, how) {
                    (Body::Symlink(_), _) => return Err(Errno::LOOP),
                    (Body::Directory(_), How::Write | How::Truncate) => return Err(Errno::ISDIR),
                    (Body::File(_), How::Truncate) => self.change(id, |bytes| bytes.clear()),
                    (Body::Directory(_) | Body::File(_), _) => {}
                }
                self.open[*slot] = Some((id, *how != How::Read));
            }
            Op::Close { slot } => self.open[*slot] = None,
            Op::Write { slot, offset, seed, length } => {
                let id = self.open_for_writing(*slot)?;
                let bytes = tree::noise(*seed, *length);
                self.change(id, |content| overwrite(content, *offset, &bytes[..moved]));
            }
            Op::Copy { from, to, source, target, length } => {
                let (from, _) = self.open[*from].ok_or(Errno::BADF)?;
                let to = self.open_for_writing(*to)?;
                let Body::File(bytes) = &self.inodes[from].what else { return Err(Errno::ISDIR) };
                let there = (*length as u64).min((bytes.len() as u64).saturating_sub(*source));
                if from == to && *source < target + there && *target < source + there {
                    return Err(Errno::INVAL);
                }
                let source = usize::try_from(*source).expect("small").min(bytes.len());
                let end = source.checked_add(moved).filter(|end| *end <= bytes.len());
                let bytes = bytes[source..end.ok_or(Errno::INVAL)?].to_vec();
                if moved > 0 {
                    self.change(to, |content| overwrite(content, *target, &bytes));
                }
            }
            Op::Punch { slot, offset, length } => {
                let id = self.open_for_writing(*slot)?;
                self.change(id, |content| {
                    let end = content.len().min(usize::try_from(offset + length).expect("small"));
                    if let Some(hole) = content.get_mut(usize::try_from(*offset).expect("small")..end) {
                        hole.fill(0);
                    }
                });
            }
            Op::Resize { slot, size } => {
                let id = self.open_for_writing(*slot)?;
                self.change(id, |content| content.resize(usize::try_from(*size).expect("small"), 0));
            }
            Op::Sync { slot, .. } => {
                self.open[*slot].ok_or(Errno::BADF)?;
            }
            Op::SyncDirectory { path } => {
                let id = self.resolve(path)?;
                self.names(id)?;
            }
            Op::Mkdir { path, perm } => {
                self.make(path, Body::Directory(BTreeMap::new()), perm & !UMASK)?;
            }
            Op::Rmdir { path } => {
                let id = self.resolve(path)?;
                if !self.names(id)?.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.unlink(path)?;
            }
            Op::Unlink { path } => {
                let id = self.resolve(path)?;
                if self.names(id).is_ok() {
                    return Err(Errno::ISDIR);
                }
                self.unlink(path)?;
            }
            Op::Symlink { path, target } => {
                self.make(path, Body::Symlink(target.clone()), 0o777)?;
            }
            Op::Link { from, to } => {
                let id = self.resolve(from)?;
                if self.names(id).is_ok() {
                    return Err(Errno::PERM);
                }
                self.link(to, id)?;
            }
            Op::Rename { from, to, how } => self.rename(from, to, *how)?,
            Op::Chmod { path, perm } => {
                let id = self.followed(path)?;
                self.inodes[id].perm = *perm;
            }
            Op::Chown { path, uid, gid } => {
                let id = self.resolve(path)?;
                self.inodes[id].owner = (*uid, *gid);
            }
            Op::Touch { path, secs, nanos } => {
                let id = self.resolve(path)?;
                self.inodes[id].mtime = Some((*secs, *nanos));
            }
            Op::SetXattr { path, name, seed } => {
                let id = self.followed(path)?;
                self.inodes[id].xattrs.insert(name.clone(), xattr_value(*seed));
            }
            Op::RemoveXattr { path, name } => {
                let id = self.followed(path)?;
                self.inodes[id].xattrs.remove(name).ok_or(Errno::NODATA)?;
            }
        }
        Ok(())
    }

    /// An operation found no room: nothing has happened, but somebody may have noted when.
    pub(super) fn fail_for_lack_of_room(&mut self, op: &Op) {
        if let Op::Write { slot, .. } | Op::Copy { to: slot, .. } | Op::Punch { slot, .. } = op
            && let Some((id, _)) = self.open[*slot]
        {
            self.inodes[id].mtime = None;
        }
    }

    /// Whether a daemon that dies can leave part of an operation: that of a write, never more than one.
    ///
    /// Returns the paths of the file, if it has any.
    pub(super) fn may_be_partial(&self, op: &Op) -> Vec<PathBuf> {
        let (Op::Write { slot, .. } | Op::Copy { to: slot, .. } | Op::Punch { slot, .. }) = op else {
            return Vec::new();
        };
        let Some((open, _)) = self.open[*slot] else { return Vec::new() };
        self.paths().into_iter().filter(|(_, id)| *id == open).map(|(path, _)| path).collect()
    }

    fn paths(&self) -> BTreeMap<PathBuf, Id> {
        let mut all = BTreeMap::new();
        let mut pending = vec![(PathBuf::new(), ROOT)];
        while let Some((path, id)) = pending.pop() {
            if let Body::Directory(names) = &self.inodes[id].what {
                pending.extend(names.iter().map(|(name, id)| (path.join(name), *id)));
            }
            all.insert(path, id);
        }
        all
    }

    fn names(&self, id: Id) -> Result<&BTreeMap<String, Id>, Errno> {
        match &self.inodes[id].what {
            Body::Directory(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) => Err(Errno::NOTDIR),
        }
    }

    /// The names of a directory that is about to change.
    fn names_mut(&mut self, id: Id) -> Result<&mut BTreeMap<String, Id>, Errno> {
        match &mut self.inodes[id].what {
            Body::Directory(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) => Err(Errno::NOTDIR),
        }
    }

    fn resolve(&self, path: &str) -> Result<Id, Errno> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |at, name| self.names(at)?.get(name).copied().ok_or(Errno::NOENT))
    }

    /// Symlinks lead nowhere.
    fn followed(&self, path: &str) -> Result<Id, Errno> {
        let id = self.resolve(path)?;
        if let Body::Symlink(_) = self.inodes[id].what { Err(Errno::NOENT) } else { Ok(id) }
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(Id, &'a str), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.resolve(parent)?;
        self.names(parent)?;
        Ok((parent, name))
    }

    fn make(&mut self, path: &str, what: Body, perm: u32) -> Result<Id, Errno> {
        let id = self.inodes.len();
        self.link(path, id)?;
        self.inodes.push(Inode { what, perm, owner: self.owner, mtime: None, xattrs: BTreeMap::new() });
        Ok(id)
    }

    fn link(&mut self, path: &str, id: Id) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        self.names_mut(parent)?.insert(name.to_owned(), id);
        self.inodes[parent].mtime = None;
        Ok(())
    }

    fn unlink(&mut self, path: &str) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        self.names_mut(parent)?.remove(name).ok_or(Errno::NOENT)?;
        self.inodes[parent].mtime = None;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, how: Renaming) -> Result<(), Errno> {
        let moved = self.resolve(from)?;
        let (parent, name) = self.parent(to)?;
        let target = self.names(parent)?.get(name).copied();
        match (how, target) {
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Renaming::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Errno::INVAL);
        }
        if target.is_some() && from.strip_prefix(to).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Errno::INVAL);
        }
        if target == Some(moved) {
            return Ok(());
        }
        let (old_parent, old_name) = self.parent(from)?;
        match target {
            Some(target) if how == Renaming::Exchange => {
                self.names_mut(old_parent)?.insert(old_name.to_owned(), target);
            }
            Some(target) => {
                match (self.names(moved).is_ok(), self.names(target)) {
                    (true, Err(_)) => return Err(Errno::NOTDIR),
                    (false, Ok(_)) => return Err(Errno::ISDIR),
                    (true, Ok(names)) if !names.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                self.names_mut(old_parent)?.remove(old_name);
            }
            None => {
                self.names_mut(old_parent)?.remove(old_name);
            }
        }
        self.names_mut(parent)?.insert(name.to_owned(), moved);
        for parent in [old_parent, parent] {
            self.inodes[parent].mtime = None;
        }
        Ok(())
    }

    fn open_for_writing(&self, slot: usize) -> Result<Id, Errno> {
        match self.open[slot] {
            Some((id, true)) => Ok(id),
            Some((_, false)) | None => Err(Errno::BADF),
        }
    }

    fn change(&mut self, id: Id, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = &mut self.inodes[id];
        inode.mtime = None;
        if let Body::File(content) = &mut inode.what {
            change(Rc::make_mut(content));
        }
    }
}

fn overwrite(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = usize::try_from(offset).expect("small");
    if bytes.is_empty() {
        return;
    }
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Whether a content is an old one with the beginning of a change to the new one.
pub(super) fn is_between(old: &[u8], new: &[u8], found: &[u8]) -> bool {
    let changed = old.iter().zip(new).position(|(old, new)| old != new).unwrap_or(old.len().min(new.len()));
    let done =
        found.iter().zip(new).position(|(found, new)| found != new).unwrap_or(found.len().min(new.len()));
    let done = done.max(changed);
    let size_is_possible = found.len() == old.len() || (found.len() > old.len() && found.len() <= new.len());
    size_is_possible && found.get(done..) == Some(old.get(done..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_cut_off_is_between() {
        assert!(is_between(b"aaaa", b"bbbb", b"aaaa"));
        assert!(is_between(b"aaaa", b"bbbb", b"bbaa"));
        assert!(is_between(b"aaaa", b"bbbb", b"bbbb"));
        assert!(is_between(b"", b"\0\0bb", b"\0\0b"));
        assert!(!is_between(b"aaaa", b"bbbb", b"aabb"));
        assert!(!is_between(b"aaaa", b"bbbb", b"baab"));
        assert!(!is_between(b"aaaa", b"bbbb", b"bb"));
        assert!(!is_between(b"aaaa", b"aabb", b"bbbb"));
    }
}
