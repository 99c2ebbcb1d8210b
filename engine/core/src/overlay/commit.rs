//! The tree that is shown, as a new flist: base and local changes in one.
//!
//! What did not change is taken over from the base, content included, and nothing of it is fetched. New content is sent to the
//! stors of the mount, as [`pack`] does it. The local changes themselves stay as they are.
//!
//! # While others write
//!
//! The names are those of one moment: if one comes or goes while they are read, they are read again, the last time with the lock
//! of the tree held. Each file is read until it did not change meanwhile; one that never stops is an error. So is one that
//! is removed before it was read. What is stored to a mapped file counts as writing, also where the kernel does it without telling.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aysfs_flist::{
    Ancestor, Content as Listed, Dialect, Entry, Header, Kind, MAX_ANCESTORS, MAX_MOVED, Node, ObjectKey,
    Owner, Timestamp, WriteError,
};
use aysfs_store::{Check, Content, Fault, StoreError};
use aysfs_vfs::{Attr, Error, ErrorKind, FileKind, Ino, Name, Result, Time};
use rustix::fs::OFlags;
use uzers::{Groups, Users, UsersCache};

use super::diff::join;
use super::tree::{Data, Found, Origin, Tree};
use super::{Inner, Overlay};
use crate::abandoned::SetWhenDropped;
use crate::base::damaged;
use crate::pack;
use crate::pack::upload::{Form, Job, MappedStores, To, UploadError};

/// How often the names are read before others have to wait.
const ATTEMPTS: u32 = 3;

/// How to commit.
#[derive(Clone, Debug)]
pub struct CommitOptions {
    /// The header of the new flist.
    pub header: Header,
    /// Where the stored form of a large file is kept until it is sent.
    pub spool: PathBuf,
}

/// How far it is; read by whoever shows it, while [`Overlay::commit`] runs.
#[derive(Debug, Default)]
pub struct CommitProgress {
    /// Entries found so far.
    pub entries: AtomicU64,
    /// Bytes of new content found so far.
    pub bytes_found: AtomicU64,
    /// Bytes of new content that are in the stor.
    pub bytes_done: AtomicU64,
}

/// What was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Entries in the flist.
    pub entries: u64,
    /// Regular files that are not empty, each counted once.
    pub files: u64,
    /// Those whose content is that of the base, and was not looked at.
    pub reused: u64,
    /// Objects that the stor did not have.
    pub new_objects: u64,
    /// Stored bytes of those.
    pub new_bytes: u64,
}

/// Why local changes could not be committed. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CommitError {
    #[error("cannot look at the local changes: {0}")]
    View(Error),
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Its content would not fit its size and its times.
    #[error("{} changes while it is committed: commit again when nothing writes to it", .0.display())]
    Changing(PathBuf),
    #[error(
        "{}: its content was in a base that was replaced, and only its attributes are kept: replace or remove it, then commit again",
        .0.display()
    )]
    Lost(PathBuf),
    #[error(
        "the stor takes nothing from the account of this mount: mount with one that may write, then commit again ({0})"
    )]
    Denied(StoreError),
    #[error("cannot store new content: {0}")]
    Store(StoreError),
    #[error(transparent)]
    Flist(#[from] WriteError),
}

impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self::View(error)
    }
}

impl From<UploadError> for CommitError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Read { path, source } => Self::Read { path: Path::new("/").join(path), source },
            UploadError::Changing(path) => Self::Changing(Path::new("/").join(path)),
            UploadError::Store(error) if matches!(error.fault, Fault::Denied) => Self::Denied(error),
            UploadError::Store(error) => Self::Store(error),
        }
    }
}

impl Overlay {
    /// Sends what is new to the stors of this mount, then writes the flist. Dropping the future ends the work soon.
    ///
    /// Nothing is written before all content is stored, and an error says that the flist is not whole.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit(
        &self,
        options: &CommitOptions,
        flist: impl Write + Send + 'static,
        progress: &Arc<CommitProgress>,
    ) -> Result<Committed, CommitError> {
        let abandoned = SetWhenDropped::default();
        let (inner, counted, flag) = (self.0.clone(), progress.clone(), abandoned.0.clone());
        let Seen { mut entries, moved, files, .. } = blocking(move || see(&inner, &counted, &flag)).await?;

        let inner = self.0.clone();
        let job = Job {
            form: Form::V2,
            spool: options.spool.clone(),
            // Whoever has mapped a file that passes through writes to it, and nobody else is told.
            mapped_stores: MappedStores::Noticed,
            to: To::All(self.0.w.lower.stors()),
            bytes_done: &progress.bytes_done,
        };
        let reused =
            entries.iter().filter(|entry| entry.link.is_none() && entry.content.is_some() && entry.size > 0);
        let reused = reused.count() as u64;
        let sent = job
            .run(&mut entries, move |position, _| inner.open_to_commit(files.get(&position).copied()))
            .await?;
        let index = self.base().index();
        let mut header = options.header.clone();
        header.ancestors.clone_from(&index.header().ancestors);
        header.ancestors.push(Ancestor { sha256: index.list_digest(), moved });
        keep_newest(&mut header.ancestors);
        let committed = Committed {
            entries: entries.len() as u64,
            files: reused + sent.files,
            reused,
            new_objects: sent.new_objects,
            new_bytes: sent.new_bytes,
        };
        blocking(move || Ok(pack::write(entries, flist, Dialect::V2, &header)?)).await?;
        Ok(committed)
    }
}

/// Forgets the oldest, since a list has room for so many only. A redirect that is a path of one of those means afterwards what it
/// means to the kernel.
fn keep_newest(ancestors: &mut Vec<Ancestor>) {
    let lines =
        |ancestors: &[Ancestor]| ancestors.iter().map(|ancestor| 1 + ancestor.moved.len()).sum::<usize>();
    let mut kept = &ancestors[ancestors.len().saturating_sub(MAX_ANCESTORS)..];
    while let [_, newer @ ..] = kept
        && lines(kept) > MAX_MOVED
    {
        kept = newer;
    }
    let forgotten = ancestors.len() - kept.len();
    ancestors.drain(..forgotten);
}

impl Inner {
    /// Opens a file of the upper wherever it is by now; `None` if it is nowhere.
    fn open_to_commit(&self, ino: Option<Ino>) -> io::Result<Option<File>> {
        let Some(ino) = ino else { return Ok(None) };
        let mut tree = self.tree();
        // Before it can be moved again.
        match tree.at(&self.w, ino).and_then(|at| at.open(OFlags::RDONLY | OFlags::NONBLOCK)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => Ok(None),
            Err(error) => Err(error.errno().into()),
        }
    }
}

/// The tree as entries, in the order of a flist.
#[derive(Default)]
struct Seen {
    entries: Vec<Entry>,
    /// Directories of the base that have another path now: old and new.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
    /// The files whose content is in the upper, by the position of their entry.
    files: HashMap<usize, Ino>,
    /// Positions of entries of which the user, or the group, is known by its number only.
    unnamed_users: Vec<usize>,
    unnamed_groups: Vec<usize>,
}

fn see(inner: &Inner, progress: &CommitProgress, abandoned: &AtomicBool) -> Result<Seen, CommitError> {
    let mut seen = look(inner, progress, abandoned)?;
    // With no lock held: whoever knows the names may be far away, or need this very mount.
    seen.name_owners();
    Ok(seen)
}

impl Seen {
    /// Adds the names that this machine has for numbers.
    fn name_owners(&mut self) {
        let known = UsersCache::new();
        let number = |owner: &Owner| owner.id.unwrap_or_default();
        for position in self.unnamed_users.drain(..) {
            let owner = &mut self.entries[position].user;
            owner.name = known.get_user_by_uid(number(owner)).map(|user| user.name().as_bytes().to_vec());
        }
        for position in self.unnamed_groups.drain(..) {
            let owner = &mut self.entries[position].group;
            owner.name = known.get_group_by_gid(number(owner)).map(|group| group.name().as_bytes().to_vec());
        }
    }
}

fn look(inner: &Inner, progress: &CommitProgress, abandoned: &AtomicBool) -> Result<Seen, CommitError> {
    for _ in 1..ATTEMPTS {
        let before = inner.tree().name_changes;
        let seen = Walk::new(inner, None, progress, abandoned).run();
        if inner.tree().name_changes == before {
            return seen;
        }
        // Also when it failed: something may have been gone.
    }
    Walk::new(inner, Some(inner.tree()), progress, abandoned).run()
}

/// A directory that is being walked.
struct Ahead {
    path: Vec<u8>,
    /// What is below this path of the base is below this directory, unless it was moved.
    in_base: Option<Vec<u8>>,
    names: std::vec::IntoIter<(Name, Found)>,
}

struct Walk<'a> {
    inner: &'a Inner,
    /// Held from the first to the last entry, or taken for each.
    held: Option<MutexGuard<'a, Tree>>,
    progress: &'a CommitProgress,
    abandoned: &'a AtomicBool,
    first_names: HashMap<Ino, Vec<u8>>,
    seen: Seen,
}

impl<'a> Walk<'a> {
    fn new(
        inner: &'a Inner,
        held: Option<MutexGuard<'a, Tree>>,
        progress: &'a CommitProgress,
        abandoned: &'a AtomicBool,
    ) -> Self {
        progress.entries.store(0, Ordering::Relaxed);
        progress.bytes_found.store(0, Ordering::Relaxed);
        Self { inner, held, progress, abandoned, first_names: HashMap::new(), seen: Seen::default() }
    }

    /// Parents before children, names sorted by bytes.
    fn run(mut self) -> Result<Seen, CommitError> {
        self.visit(Vec::new(), Ino::ROOT)?;
        let names = self.list(Ino::ROOT)?;
        let mut ahead = vec![Ahead { path: Vec::new(), in_base: Some(Vec::new()), names }];
        while let Some(Ahead { path: directory, in_base, names }) = ahead.last_mut() {
            let Some((name, found)) = names.next() else {
                ahead.pop();
                continue;
            };
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(Error::from(ErrorKind::Interrupted).into());
            }
            let path = join(directory, &name);
            self.visit(path.clone(), found.ino())?;
            if found.is_directory() {
                let in_place = in_base.as_ref().map(|directory| join(directory, &name));
                let in_base = self.path_in_base(found, in_place.as_ref())?;
                if let Some(old) = &in_base
                    && in_base != in_place
                {
                    self.seen.moved.push((old.clone(), path.clone()));
                }
                ahead.push(Ahead { path, in_base, names: self.list(found.ino())? });
            }
        }
        Ok(self.seen)
    }

    /// The path of a directory of the base; `in_place` is the one that it has if it was not moved.
    fn path_in_base(&mut self, found: Found, in_place: Option<&Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let w = &self.inner.w;
        match found {
            Found::Base(..) => Ok(in_place.cloned()),
            Found::Upper(ino, _) => match self.tree(|tree| tree.directory(w, ino))?.0 {
                Some(node) => w.base().index().path(node).map(Some).map_err(damaged),
                None => Ok(None),
            },
        }
    }

    fn tree<T>(&mut self, look: impl FnOnce(&mut Tree) -> Result<T>) -> Result<T> {
        match &mut self.held {
            Some(tree) => look(tree),
            None => look(&mut self.inner.tree()),
        }
    }

    fn list(&mut self, ino: Ino) -> Result<std::vec::IntoIter<(Name, Found)>> {
        let w = &self.inner.w;
        Ok(self.tree(|tree| tree.list(w, ino))?.into_iter())
    }

    fn visit(&mut self, path: Vec<u8>, ino: Ino) -> Result<(), CommitError> {
        let w = &self.inner.w;
        let upper = self.tree(|tree| match tree.is_in_upper(ino) {
            true => Ok(Some((
                tree.attr(w, ino)?.attr,
                tree.at(w, ino)?,
                tree.leaf(ino).map(|leaf| leaf.data.clone()),
            ))),
            false => Ok(None),
        })?;
        let position = self.seen.entries.len();
        let (mut entry, nlink) = match upper {
            None => {
                let of = w.lower.find(ino)?;
                (of.entry(path.clone()).map_err(damaged)?, of.nlink())
            }
            Some((attr, at, data)) => {
                let mut entry = describe(path.clone(), &attr);
                let node = self.node_in_base(ino, data.as_ref())?;
                self.take_over_owners(&mut entry, &attr, node)?;
                entry.xattrs = w.upper.shown_xattrs(&at)?;
                match entry.kind {
                    Kind::Symlink => entry.target = at.target()?,
                    Kind::Regular => match data {
                        Some(Data::Below(origin)) => self.take_over(&mut entry, &origin)?,
                        _ if attr.size > 0 => drop(self.seen.files.insert(position, ino)),
                        _ => {}
                    },
                    _ => {}
                }
                (entry, attr.nlink)
            }
        };
        if entry.kind != Kind::Directory && nlink > 1 {
            match self.first_names.entry(ino) {
                Slot::Occupied(first) => entry.link = Some(first.get().clone()),
                Slot::Vacant(first) => drop(first.insert(path)),
            }
        }
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        if entry.link.is_none() && self.seen.files.contains_key(&position) {
            self.progress.bytes_found.fetch_add(entry.size, Ordering::Relaxed);
        }
        self.seen.entries.push(entry);
        Ok(())
    }

    /// What the base has that became this inode of the upper, as far as it is known.
    fn node_in_base(&mut self, ino: Ino, data: Option<&Data>) -> Result<Option<Node>> {
        let w = &self.inner.w;
        Ok(match data {
            None => self.tree(|tree| tree.directory(w, ino))?.0,
            Some(Data::Below(Origin::Base(node))) => Some(*node),
            // What was copied up keeps its number.
            Some(_) => w.base().node(ino),
        })
    }

    /// Owners that are those of the base are called what they are called there, since this machine need not know that name;
    /// the others get names when the walk is over.
    fn take_over_owners(&mut self, entry: &mut Entry, attr: &Attr, node: Option<Node>) -> Result<()> {
        let base = self.inner.w.base();
        let (mut user, mut group) = (None, None);
        if let Some(node) = node {
            let of = base.index().node(node).map_err(damaged)?;
            let before = base.attr(&of).map_err(damaged)?;
            user = (before.uid == attr.uid).then(|| base.index().users()[of.user()].clone());
            group = (before.gid == attr.gid).then(|| base.index().groups()[of.group()].clone());
        }
        let position = self.seen.entries.len();
        match user {
            Some(user) => entry.user = user,
            None => self.seen.unnamed_users.push(position),
        }
        match group {
            Some(group) => entry.group = group,
            None => self.seen.unnamed_groups.push(position),
        }
        Ok(())
    }

    /// Notes where the content of a file is of which only the attributes were copied up.
    fn take_over(&self, entry: &mut Entry, origin: &Origin) -> Result<(), CommitError> {
        match origin {
            Origin::Base(node) => {
                let of = self.inner.w.base().index().node(*node).map_err(damaged)?;
                entry.content = of.content().map_err(damaged)?;
                entry.data = of.data().map_err(damaged)?.map(Iterator::collect);
                Ok(())
            }
            Origin::Replaced(content) => {
                entry.content = listed(content);
                Ok(())
            }
            Origin::Lost => Err(CommitError::Lost(Path::new("/").join(OsStr::from_bytes(&entry.path)))),
        }
    }
}

/// What `stat` tells; of owners that is a number.
fn describe(path: Vec<u8>, attr: &Attr) -> Entry {
    let kind = match attr.kind {
        FileKind::Regular => Kind::Regular,
        FileKind::Directory => Kind::Directory,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice(device) => Kind::CharDevice { major: device.major, minor: device.minor },
        FileKind::BlockDevice(device) => Kind::BlockDevice { major: device.major, minor: device.minor },
    };
    let time = |Time { secs, nanos }: Time| Timestamp { secs, nanos };
    Entry {
        perm: attr.perm,
        user: Owner { name: None, id: Some(attr.uid) },
        group: Owner { name: None, id: Some(attr.gid) },
        size: if kind == Kind::Regular { attr.size } else { 0 },
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        ..Entry::new(path, kind)
    }
}

/// What a flist says of a content that is one object.
fn listed(content: &Content) -> Option<Listed> {
    let [chunk] = &*content.chunks else { return None };
    match chunk.check {
        Check::V1(md5) => Some(Listed::V1(md5)),
        Check::Sha256(sha256) => {
            Some(Listed::Object { sha256, key: chunk.key.as_str().parse::<ObjectKey>().ok()? })
        }
    }
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, CommitError> + Send + 'static,
) -> Result<T, CommitError> {
    tokio::task::spawn_blocking(job).await.expect("looking does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_ancestors_the_newest_are_kept() {
        let ancestor = |number: usize, moved| {
            let mut sha256 = [0; 32];
            sha256[..8].copy_from_slice(&number.to_le_bytes());
            Ancestor { sha256, moved: vec![(Vec::new(), Vec::new()); moved] }
        };
        let all: Vec<_> = (0..MAX_ANCESTORS + 2).map(|number| ancestor(number, 0)).collect();
        let mut kept = all.clone();
        keep_newest(&mut kept);
        assert_eq!(kept, all[2..]);

        let mut kept = vec![ancestor(0, 1), ancestor(1, MAX_MOVED - 2), ancestor(2, 0)];
        keep_newest(&mut kept);
        assert_eq!(kept.len(), 2, "the lines are counted");
    }
}
