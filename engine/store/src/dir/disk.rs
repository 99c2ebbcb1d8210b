//! The layout of a stor on disk, and the calls on it. Everything here blocks.
//!
//! ```text
//! {root}/{namespace}/{h0h1}/{h2h3}/{hash}   objects; h0 is the first digit of the hash
//! {root}/.static/{name}                     named files
//! {root}/.static/.lock                      held while a named file is compared and replaced
//! {root}/.incoming/                         files that are being written
//! ```
//!
//! - What has its final name is whole, verified and durable: temporary file, verify, fsync, rename, fsync of the
//!   directory. A file with a final name is never written to.
//! - No symlink below the root is followed: every component is opened by itself.
//! - Several processes may use one root.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, mkdirat, open, openat,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::incoming::Incoming;
use crate::fit::Digesting;
use crate::{ETag, Fault, Key, Listed, Namespace, Precondition, StaticName};

const INCOMING: &str = ".incoming";
const STATIC: &str = ".static";
const LOCK: &str = ".lock";

/// When a temporary file belongs to nobody any more.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// A root directory.
pub(crate) struct Disk {
    path: PathBuf,
    root: OwnedFd,
    incoming: Arc<OwnedFd>,
    named: OwnedFd,
    /// Shards (the first four digits) whose directories this process has made durable.
    durable: Mutex<HashSet<(Namespace, String)>>,
    /// The versions of named files, as long as the files are the same.
    versions: Mutex<HashMap<StaticName, (Stamp, ETag)>>,
}

/// A file that is there.
pub(crate) struct Found {
    pub(crate) file: Arc<File>,
    pub(crate) length: u64,
}

impl Disk {
    /// Opens a root, makes it if need be, and removes what writers that died have left.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let context = |error| at(path, error);
        make_durable(path).map_err(context)?;
        let root = open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|error| context(error.into()))?;
        let (incoming, _) = make_directory(&root, INCOMING).map_err(context)?;
        let (named, _) = make_directory(&root, STATIC).map_err(context)?;
        fsync(&root)?;
        let disk = Self {
            path: path.into(),
            root,
            incoming: Arc::new(incoming),
            named,
            durable: Mutex::default(),
            versions: Mutex::default(),
        };
        disk.remove_left_over().map_err(context)?;
        Ok(disk)
    }

    fn remove_left_over(&self) -> io::Result<()> {
        for (name, stat) in regular_files(&self.incoming)? {
            if modified(&stat).elapsed().is_ok_and(|age| age > LEFT_OVER) {
                tracing::info!(root = %self.path.display(), name, "removing what an interrupted upload left");
                remove(&self.incoming, &name)?;
            }
        }
        Ok(())
    }

    /// Begins a file that will be published.
    pub(crate) fn incoming(&self, digest: Digesting) -> io::Result<Incoming> {
        Incoming::create(self.incoming.clone(), digest).map_err(|error| at(&self.path, error))
    }

    /// An object, open for reading.
    pub(crate) fn object(&self, namespace: &Namespace, key: &Key) -> io::Result<Option<Found>> {
        let found = || match self.shard(namespace, key)? {
            Some(shard) => open_file(&shard, key.as_str()),
            None => Ok(None),
        };
        found().map_err(|error| self.at_object(namespace, key, error))
    }

    /// Keeps a written file as an object; returns whether there was none.
    ///
    /// An object that is there already is replaced, which repairs it if the disk has damaged it.
    pub(crate) fn publish(&self, namespace: &Namespace, key: &Key, body: Incoming) -> Result<bool, Fault> {
        let context = |error| self.at_object(namespace, key, error);
        if !body.fits(key).map_err(context)? {
            return Err(Fault::Refused("the body does not fit the hash".into()));
        }
        let publish = || {
            body.sync()?;
            let shard = self.make_shard(namespace, key)?;
            let is_new = stat_file(&shard, key.as_str())?.is_none();
            body.publish(&shard, key.as_str())?;
            Ok(is_new)
        };
        publish().map_err(|error| context(error).into())
    }

    /// Removes an object; returns whether it was there.
    pub(crate) fn remove(&self, namespace: &Namespace, key: &Key) -> io::Result<bool> {
        let removed = || match self.shard(namespace, key)? {
            Some(shard) => {
                let removed = remove(&shard, key.as_str())?;
                fsync(&shard)?;
                Ok(removed)
            }
            None => Ok(false),
        };
        removed().map_err(|error| self.at_object(namespace, key, error))
    }

    /// Shows all objects of a namespace to `visit`, until it breaks.
    pub(crate) fn list(
        &self,
        namespace: &Namespace,
        mut visit: impl FnMut(Listed) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut list = || {
            let Some(top) = open_directory(&self.root, namespace.as_str())? else { return Ok(()) };
            for first in shard_names(&top)? {
                let Some(middle) = open_directory(&top, &first)? else { continue };
                for second in shard_names(&middle)? {
                    let Some(shard) = open_directory(&middle, &second)? else { continue };
                    for (name, stat) in regular_files(&shard)? {
                        let Ok(key) = name.parse::<Key>() else { continue };
                        let listed = Listed { key, size: length(&stat), created: modified(&stat) };
                        if visit(listed).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
            Ok(())
        };
        list().map_err(|error| at(&self.path.join(namespace.as_str()), error))
    }

    /// A named file and its version.
    pub(crate) fn read_named(&self, name: &StaticName) -> io::Result<Option<(Found, ETag)>> {
        let read = || match open_file(&self.named, name.as_str())? {
            Some(found) => {
                let version = self.version(name, &found)?;
                Ok(Some((found, version)))
            }
            None => Ok(None),
        };
        read().map_err(|error| self.at_named(name, error))
    }

    /// Replaces a named file if `condition` holds; returns its version, and whether there was none before.
    pub(crate) fn write_named(
        &self,
        name: &StaticName,
        body: Incoming,
        condition: &Precondition,
    ) -> Result<(ETag, bool), Fault> {
        let context = |error| Fault::Local(self.at_named(name, error));
        let version = ETag(body.key().as_str().to_owned());
        body.sync().map_err(context)?;
        let _lock = self.lock_named().map_err(context)?;
        let is_new = stat_file(&self.named, name.as_str()).map_err(context)?.is_none();
        let holds = match condition {
            Precondition::None => true,
            Precondition::Absent => is_new,
            Precondition::Version(known) => {
                self.read_named(name)?.is_some_and(|(_, version)| version == *known)
            }
        };
        if !holds {
            return Err(Fault::Conflict);
        }
        body.publish(&self.named, name.as_str()).map_err(context)?;
        Ok((version, is_new))
    }

    /// The lock of all named files, which other processes respect too; it is released when dropped.
    fn lock_named(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&self.named, LOCK, flags, Mode::from_raw_mode(0o600))?;
        loop {
            match flock(&lock, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The SHA-256 of a named file. It is read only if it is not the file that was read last.
    fn version(&self, name: &StaticName, found: &Found) -> io::Result<ETag> {
        let stat = fstat(&found.file)?;
        let stamp = Stamp::of(&stat);
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, version)) = versions.get(name)
            && *known == stamp
        {
            return Ok(version.clone());
        }
        drop(versions);
        let mut digest = Digesting::sha256();
        read_file(&found.file, found.length, |bytes| {
            digest.update(bytes);
            Ok(())
        })?;
        let version = ETag(digest.key().as_str().to_owned());
        // The clock of the filesystem is coarse: a file may change again without a new time.
        if time(stat.st_ctime, stat.st_ctime_nsec).elapsed().is_ok_and(|age| age > Duration::from_secs(2)) {
            versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.insert(name.clone(), (stamp, version.clone()));
        }
        Ok(version)
    }

    /// The directory of an object, if it is there.
    fn shard(&self, namespace: &Namespace, key: &Key) -> io::Result<Option<OwnedFd>> {
        let (first, second) = shard_of(key);
        let Some(top) = open_directory(&self.root, namespace.as_str())? else { return Ok(None) };
        let Some(middle) = open_directory(&top, first)? else { return Ok(None) };
        open_directory(&middle, second)
    }

    /// The directory of an object, made and durable.
    fn make_shard(&self, namespace: &Namespace, key: &Key) -> io::Result<OwnedFd> {
        let (first, second) = shard_of(key);
        let shard = (namespace.clone(), format!("{first}{second}"));
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&shard);
        let descend = |parent: &OwnedFd, name| {
            let (directory, made) = make_directory(parent, name)?;
            // A directory that is there may have been made by a process that died before this.
            if made || !durable {
                fsync(parent)?;
            }
            io::Result::Ok(directory)
        };
        let top = descend(&self.root, namespace.as_str())?;
        let middle = descend(&top, first)?;
        let directory = descend(&middle, second)?;
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
        Ok(directory)
    }

    fn at_object(&self, namespace: &Namespace, key: &Key, error: io::Error) -> io::Error {
        let (first, second) = shard_of(key);
        let relative: PathBuf = [namespace.as_str(), first, second, key.as_str()].iter().collect();
        at(&self.path.join(relative), error)
    }

    fn at_named(&self, name: &StaticName, error: io::Error) -> io::Error {
        at(&self.path.join(STATIC).join(name.as_str()), error)
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What tells one file of a name from the next.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Reads the first `length` bytes of a file in pieces.
pub(crate) fn read_file(
    file: &File,
    length: u64,
    mut piece: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; super::PIECE];
    let mut offset = 0;
    while offset < length {
        let wanted = usize::try_from(length - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..wanted], offset)?;
        piece(&buffer[..wanted])?;
        offset += wanted as u64;
    }
    Ok(())
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The two levels of directories of an object.
fn shard_of(key: &Key) -> (&str, &str) {
    (&key.as_str()[..2], &key.as_str()[2..4])
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a directory with its parents, so that none of them is lost in a crash.
fn make_durable(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    std::fs::create_dir_all(&path)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn open_directory(parent: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory; returns whether it had to be made.
fn make_directory(parent: &OwnedFd, name: &str) -> io::Result<(OwnedFd, bool)> {
    if let Some(directory) = open_directory(parent, name)? {
        return Ok((directory, false));
    }
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok((openat(parent, name, DIRECTORY, Mode::empty())?, true)),
        Err(error) => Err(error.into()),
    }
}

fn open_file(directory: &OwnedFd, name: &str) -> io::Result<Option<Found>> {
    // Not blocking, since a fifo would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Some(Found { file: Arc::new(file), length: length(&stat) }))
}

fn stat_file(directory: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove(directory: &OwnedFd, name: &str) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        // Every name of ours is ASCII.
        if let Ok(name) = entry?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn shard_names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = names(directory)?;
    names.retain(|name| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    Ok(names)
}

fn regular_files(directory: &OwnedFd) -> io::Result<Vec<(String, Stat)>> {
    let mut files = Vec::new();
    for name in names(directory)? {
        if let Some(stat) = stat_file(directory, &name)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        {
            files.push((name, stat));
        }
    }
    Ok(files)
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn modified(stat: &Stat) -> SystemTime {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH + seconds + Duration::from_nanos(nanoseconds)
}
