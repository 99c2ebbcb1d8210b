//! A flist as a plain directory again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::iter;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aysfs_flist::{Entry, Kind, Timestamp};
use aysfs_store::{Cache, Content, ContentId, FetchError, Key, Mirror};
use futures::{StreamExt, TryStreamExt, stream};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use crate::base::{Base, BaseError, LENDS_RIGHTS};
use crate::copy::copy_segment;

/// How many files are fetched at the same time.
const PARALLEL: usize = 32;

/// How far it is; read by whoever shows it, while [`unpack`] runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of content that are written.
    pub bytes_done: AtomicU64,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries that were made.
    pub entries: u64,
    /// Regular files with content.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Why a tree could not be unpacked. What was written so far stays.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UnpackError {
    /// The tree would mix with other files, and could be led astray by their symlinks.
    #[error("{} is not empty: name a directory that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot get the content of {}", .path.display())]
    Fetch { path: PathBuf, source: FetchError },
    #[error(transparent)]
    Base(#[from] BaseError),
}

/// Writes the tree of `base` into `target`, which must be empty or missing.
///
/// Content is fetched through `cache`, and leaves it again when its last copy is written, so that it takes its
/// space once.
pub async fn unpack(
    base: &Arc<Base>,
    cache: &Arc<Cache>,
    stors: &Arc<Mirror>,
    target: &Path,
    progress: &Progress,
) -> Result<Summary, UnpackError> {
    let (of, to) = (base.clone(), target.to_owned());
    let plan = Arc::new(blocking(move || lay_out(&of, &to)).await?);

    let left = Mutex::new(plan.uses());
    let packs = Mutex::new(plan.packs());
    stream::iter(&plan.files)
        .map(Ok::<_, UnpackError>)
        .try_for_each_concurrent(PARALLEL, |file| {
            let (left, packs) = (&left, &packs);
            async move {
                let path = target.join(&file.path);
                let fetched = cache.file(&file.content, stors).fetch_all().await;
                let fetched = fetched.map_err(|source| UnpackError::Fetch { path: path.clone(), source })?;
                let (size, data) = (file.content.size, file.data.clone());
                blocking(move || copy(fetched.file(), &path, size, &data)).await?;
                progress.bytes_done.fetch_add(size, Ordering::Relaxed);
                let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                let uses = left.get_mut(&file.content.id).expect("every content was counted");
                *uses -= 1;
                if *uses == 0 {
                    cache.remove(&file.content.id, size).ok();
                }
                drop(left);
                let mut packs = packs.lock().unwrap_or_else(PoisonError::into_inner);
                for key in packs_of(&file.content) {
                    let uses = packs.get_mut(key).expect("every pack was counted");
                    *uses -= 1;
                    if *uses == 0 {
                        cache.remove_pack(key);
                    }
                }
                Ok(())
            }
        })
        .await?;

    // Those that were still in use.
    plan.packs().keys().for_each(|key| cache.remove_pack(key));

    let (of, to, planned) = (base.clone(), target.to_owned(), plan.clone());
    blocking(move || finish(&of, &to, &planned)).await?;
    let bytes = plan.files.iter().map(|file| file.content.size).sum();
    Ok(Summary { entries: plan.entries.len() as u64, files: plan.files.len() as u64, bytes })
}

struct Plan {
    /// In the order of the flist.
    entries: Vec<Entry>,
    files: Vec<PlannedFile>,
}

struct PlannedFile {
    path: PathBuf,
    content: Content,
    data: Vec<Range<u64>>,
}

impl Plan {
    /// How many files each pack is needed for.
    fn packs(&self) -> HashMap<Key, u32> {
        let mut uses = HashMap::new();
        for key in self.files.iter().flat_map(|file| packs_of(&file.content)) {
            *uses.entry(key.clone()).or_default() += 1;
        }
        uses
    }

    /// How many files have each content.
    fn uses(&self) -> HashMap<ContentId, u32> {
        let mut uses = HashMap::new();
        for file in &self.files {
            *uses.entry(file.content.id).or_default() += 1;
        }
        uses
    }
}

/// The packs that a content is in, as far as the list says.
fn packs_of(content: &Content) -> impl Iterator<Item = &Key> {
    let tables = content.table.iter().flat_map(|table| table.chunks.iter());
    content.chunks.iter().chain(tables).filter(|chunk| chunk.part.is_some()).map(|chunk| &chunk.key)
}

/// Makes everything that needs no content.
fn lay_out(base: &Base, target: &Path) -> Result<Plan, UnpackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError::Write { path, source }
    };
    fs::create_dir_all(target).map_err(failed(target))?;
    if fs::read_dir(target).map_err(failed(target))?.next().is_some() {
        return Err(UnpackError::NotEmpty(target.to_owned()));
    }
    // Nobody else looks in, or puts anything in the way, before the attributes are what they should be.
    fs::set_permissions(target, Permissions::from_mode(0o700)).map_err(failed(target))?;
    let mut plan = Plan { entries: Vec::new(), files: Vec::new() };
    for entry in base.index().entries() {
        let entry = entry.map_err(BaseError::from)?;
        let path = target.join(OsStr::from_bytes(&entry.path));
        if entry.link.is_none() && !entry.path.is_empty() {
            make(&entry, &path).map_err(failed(&path))?;
        }
        if let (None, Some(content)) = (&entry.link, base.content(entry.content, entry.size)) {
            let data = entry.data.clone().unwrap_or_else(|| iter::once(0..entry.size).collect());
            plan.files.push(PlannedFile { path, content, data });
        }
        plan.entries.push(entry);
    }
    Ok(plan)
}

/// Makes an entry without content and attributes.
fn make(entry: &Entry, path: &Path) -> io::Result<()> {
    let node = |kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).map_err(io::Error::from)
    };
    match entry.kind {
        Kind::Directory => DirBuilder::new().mode(0o700).create(path),
        Kind::Regular => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop),
        Kind::Symlink => std::os::unix::fs::symlink(OsStr::from_bytes(&entry.target), path),
        Kind::Fifo => node(FileType::Fifo, 0, 0),
        Kind::Socket => node(FileType::Socket, 0, 0),
        Kind::CharDevice { major, minor } => node(FileType::CharacterDevice, major, minor),
        Kind::BlockDevice { major, minor } => node(FileType::BlockDevice, major, minor),
    }
}

/// Copies the segments of a cached file that hold data; the rest of the target stays a hole.
fn copy(from: &File, path: &Path, size: u64, data: &[Range<u64>]) -> Result<(), UnpackError> {
    let write = || -> io::Result<()> {
        let to = OpenOptions::new().write(true).open(path)?;
        to.set_len(size)?;
        data.iter().try_for_each(|segment| copy_segment(from, &to, segment))
    };
    write().map_err(|source| UnpackError::Write { path: path.to_owned(), source })
}

/// Makes the further names of files, then gives every file and directory its attributes: children first, since
/// whatever is made in a directory changes its times.
fn finish(base: &Base, target: &Path, plan: &Plan) -> Result<(), UnpackError> {
    for entry in &plan.entries {
        if let Some(first) = &entry.link {
            let path = target.join(OsStr::from_bytes(&entry.path));
            fs::hard_link(target.join(OsStr::from_bytes(first)), &path)
                .map_err(|source| UnpackError::Write { path, source })?;
        }
    }
    let root = rustix::process::geteuid().is_root();
    for entry in plan.entries.iter().rev().filter(|entry| entry.link.is_none()) {
        let path = target.join(OsStr::from_bytes(&entry.path));
        let owner = root.then(|| base.owner(entry));
        set_attributes(entry, owner, &path).map_err(|source| UnpackError::Write { path, source })?;
    }
    Ok(())
}

/// As a user without privileges (`owner` is `None`), what only root may set is left out, as tar does; so are set-uid
/// and set-gid: they would lend this user's rights, not those of whom the list names.
fn set_attributes(entry: &Entry, owner: Option<(u32, u32)>, path: &Path) -> io::Result<()> {
    // Changing the owner clears capabilities and set-uid, so it comes first; an ACL is part of the mode.
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl_");
    let set = |acls: bool| -> io::Result<()> {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_acl(name) == acls) {
            match xattr::set(path, OsStr::from_bytes(name), value) {
                Err(error) if owner.is_none() && error.kind() == io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
        }
        Ok(())
    };
    set(false)?;
    if entry.kind != Kind::Symlink {
        let perm = if owner.is_some() { entry.perm } else { entry.perm & !LENDS_RIGHTS };
        fs::set_permissions(path, Permissions::from_mode(perm.into()))?;
    }
    set(true)?;
    let time = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    let times = Timestamps { last_access: time(entry.mtime), last_modification: time(entry.mtime) };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, UnpackError> + Send + 'static,
) -> Result<T, UnpackError> {
    tokio::task::spawn_blocking(job).await.expect("unpacking does not panic")
}
