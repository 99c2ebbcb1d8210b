//! The cache directory: what is trusted of it, and how files get into it.
//!
//! A file appears under its final name complete and verified, in one step: it is written without a name
//! (`O_TMPFILE`), sealed, and linked. Where the filesystem cannot do that it is written in `partial/` under a name
//! that begins with the id of its process, and renamed. A crash leaves nothing, or a name that the next start
//! removes.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use md5::{Digest, Md5};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_OMIT,
    fchmod, flock, fstat, ftruncate, futimens, linkat, mkdirat, openat, renameat, seek, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, getpid, test_kill_process};
use sha2::Sha256;
use tempfile::{SpooledTempFile, TempPath};
use tokio::time::Instant;

use super::age::{Clock, Seconds};
use super::lock;
use super::seal::{Boot, Seal, Stamp};
use super::usage::{Claim, Usage, blocks};
use super::verified::{Name, VerifiedFile};
use crate::ContentId;

/// Where files are that have a name but no content yet.
const PARTIAL: &str = "partial";

/// How long the directory is left alone after it could not be written.
const PAUSE: Duration = Duration::from_secs(10);

/// How much of a v1 body is kept in memory while it may still be the file itself.
const SPOOL_IN_MEMORY: usize = 1 << 20;

/// Why a directory cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A symlink, or no directory.
    #[error("{} is not a directory of its own: remove it, or choose another path for the backend", .0.display())]
    NotADirectory(PathBuf),
    /// Someone else could change what it holds.
    #[error("{} belongs to user {owner}, not to the user who runs aysfs: remove it, or choose another path for the backend", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The uid that owns it.
        owner: u32,
    },
    /// It cannot be made or opened.
    #[error("cannot use {} as the cache", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The cache directory.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    root: Arc<OwnedFd>,
    boot: Boot,
    clock: Clock,
    usage: Arc<Usage>,
    /// Verified by this process, where the filesystem cannot keep a seal.
    unsealed: Mutex<HashMap<ContentId, Stamp>>,
    /// Known to be unreadable or wrong, and perhaps still there.
    shunned: Mutex<HashSet<ContentId>>,
    /// Until when nothing is written.
    paused: Mutex<Option<Instant>>,
    /// Whether the log knows that it cannot be written.
    failing: AtomicBool,
}

/// What the directory has under an id.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that could be the content.
    Absent,
    /// The content, verified since the machine started.
    Verified(VerifiedFile),
    /// A file of the right size.
    Doubtful(Doubtful),
}

/// A file that has to be hashed before it is trusted.
#[derive(Debug)]
pub(super) struct Doubtful {
    file: File,
    other_use: Use,
    /// The digest of its bytes according to its seal, where it need not be the id.
    sealed: Option<ContentId>,
}

/// What others do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// They read it at most: while it is open here, nobody can lend it.
    Read,
    /// Somebody has lent it.
    Lent,
}

impl Use {
    fn of(file: &File) -> Self {
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Self::Lent,
            Ok(()) => {
                let _ = flock(file, FlockOperation::Unlock);
                Self::Read
            }
            // Where there are no locks, nothing is lent.
            Err(_) => Self::Read,
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct PartialFile {
    file: File,
    /// Its name, if it had to have one; removed when dropped.
    name: Option<TempPath>,
    /// The room that it takes, until it counts as a file.
    claims: Mutex<Vec<Claim>>,
}

impl PartialFile {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// It takes room that was claimed.
    pub(super) fn take(&self, claim: Claim) {
        lock(&self.claims).push(claim);
    }

    /// A path that leads to it whatever its name is, if it has one.
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

impl Disk {
    pub(super) fn open(path: &Path, boot: Boot, clock: Clock, usage: Arc<Usage>) -> Result<Self, CacheError> {
        // A slash at the end would make the kernel follow a symlink.
        let path: PathBuf = path.components().collect();
        let io = |source: io::Error| CacheError::Io { path: path.clone(), source };

        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(CacheError::NotADirectory(path)),
            Err(error) => return Err(io(error.into())),
        };
        let stat = fstat(&root).map_err(|error| io(error.into()))?;
        if stat.st_uid != geteuid().as_raw() {
            return Err(CacheError::Foreign { path, owner: stat.st_uid });
        }
        if Mode::from_raw_mode(stat.st_mode) != Mode::RWXU {
            fchmod(&root, Mode::RWXU).map_err(|error| io(error.into()))?;
        }
        // A directory that cannot be written serves what it has; what is missing is read through.
        let _ = mkdirat(&root, PARTIAL, Mode::RWXU);
        sweep(&path.join(PARTIAL));
        Ok(Self {
            path,
            root: Arc::new(root),
            boot,
            clock,
            usage,
            unsealed: Mutex::default(),
            shunned: Mutex::default(),
            paused: Mutex::default(),
            failing: AtomicBool::new(false),
        })
    }

    /// Looks for a content. What could not be it (a symlink, another size, a second name, another owner) is as
    /// good as absent: it is replaced when the content was fetched.
    pub(super) fn find(&self, id: &ContentId, size: u64) -> Found {
        if lock(&self.shunned).contains(id) {
            return Found::Absent;
        }
        // A FIFO that someone put there must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match openat(&self.root, name(id), flags, Mode::empty()) {
            // No FIFO says that: somebody just asks whether he is the only one who has it open.
            Err(Errno::AGAIN) => openat(&self.root, name(id), flags - OFlags::NONBLOCK, Mode::empty()),
            opened => opened,
        };
        let Ok(file) = opened.map(File::from) else {
            return Found::Absent;
        };
        // Before the seal: a file that is given away loses its seal first, and then its lock.
        let other_use = Use::of(&file);
        let stat = match fstat(&file) {
            Ok(stat) if is_ours(&stat) && u64::try_from(stat.st_size) == Ok(size) => stat,
            Ok(_) | Err(_) => return Found::Absent,
        };
        let seal = Seal::read(&file).filter(|seal| seal.is_of(id));
        let sealed = seal.as_ref().is_some_and(|seal| seal.fits(&self.boot, &stat));
        if sealed || lock(&self.unsealed).get(id) == Some(&Stamp::of(&stat)) {
            Found::Verified(self.verified(file, id, other_use, last_read(&stat)))
        } else {
            Found::Doubtful(Doubtful { file, other_use, sealed: seal.and_then(|seal| seal.plain) })
        }
    }

    /// Hashes a file, all of it: if it is the content, it is sealed again; otherwise it is shunned.
    pub(super) fn verify(&self, doubtful: Doubtful, id: &ContentId) -> io::Result<Option<VerifiedFile>> {
        let Doubtful { file, other_use, sealed } = doubtful;
        let found = digest(&file, id);
        if !self.name(id).leads_to(&file) {
            // It was given away meanwhile, or replaced: whoever reads it will find that out.
            return Ok(Some(self.verified(file, id, Use::Lent, self.clock.now())));
        }
        let found = found.inspect_err(|_| self.shun(id))?;
        // The MD5 in a v1 flist may be that of the stored body: then only the seal knows that of the file.
        if found == *id || sealed == Some(found) {
            // Without a new seal it is hashed again by the next process: no reason not to use it.
            if let Err(error) = self.seal(&file, id, found) {
                tracing::debug!("{id} cannot be sealed: {error}");
            }
            let noted = fstat(&file).map_or(0, |stat| last_read(&stat));
            Ok(Some(self.verified(file, id, other_use, noted)))
        } else {
            self.shun(id);
            Ok(None)
        }
    }

    fn verified(&self, file: File, id: &ContentId, other_use: Use, noted: Seconds) -> VerifiedFile {
        let file = VerifiedFile::new(file, &self.clock, noted);
        match other_use {
            Use::Lent => file.watched(self.name(id)),
            Use::Read => file,
        }
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Whether a file is the one that the directory has under an id.
    pub(super) fn leads_to(&self, id: &ContentId, file: &File) -> bool {
        self.name(id).leads_to(file)
    }

    /// The directory has nothing under an id any more.
    pub(super) fn forget(&self, id: &ContentId) {
        lock(&self.unsealed).remove(id);
    }

    /// Writes down when a verified file of this directory was read last. A file whose seal does not fit is left alone: it may have been
    /// changed, and is to be hashed. Nobody may give the file away meanwhile.
    pub(super) fn note_read(&self, id: &ContentId, file: &File, at: Seconds) -> io::Result<()> {
        let stat = fstat(file)?;
        let seal = Seal::read(file).filter(|seal| seal.is_of(id) && seal.fits(&self.boot, &stat));
        let is_unsealed = || lock(&self.unsealed).get(id) == Some(&Stamp::of(&stat));
        let plain = match seal {
            Some(seal) => seal.plain.unwrap_or(*id),
            None if is_unsealed() => *id,
            None => return Ok(()),
        };
        if !self.has(id, file) {
            return Ok(());
        }
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let read = Timespec { tv_sec: at.into(), tv_nsec: 0 };
        futimens(file, &Timestamps { last_access: omitted, last_modification: read })?;
        self.seal(file, id, plain)
    }

    fn name(&self, id: &ContentId) -> Name {
        Name { root: self.root.clone(), name: name(id) }
    }

    /// Whether a file is the one that the directory has under an id, and has no other name.
    pub(super) fn has(&self, id: &ContentId, file: &File) -> bool {
        self.name(id).leads_to(file) && fstat(file).is_ok_and(|stat| stat.st_nlink == 1)
    }

    /// A new file of `size` bytes, all of them a hole.
    pub(super) fn create(&self, size: u64) -> io::Result<PartialFile> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let partial = match openat(&self.root, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => PartialFile { file: file.into(), name: None, claims: Mutex::default() },
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => self.create_named()?,
            Err(error) => return Err(error.into()),
        };
        ftruncate(&partial.file, size)?;
        Ok(partial)
    }

    /// A new file in `partial/`, for filesystems that know only files with names.
    fn create_named(&self) -> io::Result<PartialFile> {
        let (file, name) = tempfile::Builder::new()
            .prefix(&format!("{}-", getpid().as_raw_pid()))
            .tempfile_in(self.path.join(PARTIAL))?
            .into_parts();
        Ok(PartialFile { file, name: Some(name), claims: Mutex::default() })
    }

    /// A file with the bytes of another one, its holes included.
    pub(super) fn copy(&self, from: &File) -> io::Result<PartialFile> {
        let size = from.metadata()?.len();
        let copy = self.create(size)?;
        let mut end = 0;
        while end < size {
            let start = match seek(from, SeekFrom::Data(end)) {
                Ok(start) => start,
                // The rest is a hole.
                Err(Errno::NXIO) => break,
                // A filesystem that cannot tell.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => end,
                Err(error) => return Err(error.into()),
            };
            end = seek(from, SeekFrom::Hole(start)).unwrap_or(size);
            copy_part(from, &copy.file, start..end)?;
        }
        Ok(copy)
    }

    /// Puts a copy in the place of a verified file, which gets another name, in another directory, and loses its seal.
    /// If that fails, nothing has happened.
    pub(super) fn swap(
        &self,
        id: &ContentId,
        file: &File,
        copy: &PartialFile,
        directory: &OwnedFd,
        new_name: &[u8],
    ) -> io::Result<File> {
        let plain = Seal::read(file).and_then(|seal| seal.plain).unwrap_or(*id);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        linkat(CWD, path, directory, new_name, AtFlags::SYMLINK_FOLLOW)?;
        let placed = Seal::remove(file).and_then(|()| self.publish(copy, id, plain));
        if placed.is_err() {
            let _ = unlinkat(directory, new_name, AtFlags::empty());
            // Without it the file is hashed again by others, and sealed then.
            let _ = self.seal(file, id, plain);
        }
        placed
    }

    /// Tries to give a file of this directory a name in another one.
    pub(super) fn can_give_to(&self, directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let file = self.create(0)?;
        linkat(CWD, file.link(), directory, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(unlinkat(directory, name, AtFlags::empty())?)
    }

    /// Gives a verified file its name, and opens it for reading only.
    pub(super) fn publish(
        &self,
        partial: &PartialFile,
        id: &ContentId,
        plain: ContentId,
    ) -> io::Result<File> {
        self.seal(&partial.file, id, plain)?;
        let read_only = File::open(partial.link())?;
        let name = name(id);
        match self.place(partial, &name) {
            Err(Errno::NOENT) => match mkdirat(&self.root, &name[..2], Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => self.place(partial, &name)?,
                Err(error) => return Err(error.into()),
            },
            placed => placed?,
        }
        lock(&self.shunned).remove(id);
        self.usage.add(fstat(&read_only).map_or(0, |stat| blocks(&stat)));
        lock(&partial.claims).clear();
        Ok(read_only)
    }

    /// Notes that it could be written; returns whether that is news.
    pub(super) fn works(&self) -> bool {
        let news = self.failing.swap(false, Ordering::Relaxed);
        if news {
            tracing::info!("the cache in {} works again", self.path.display());
        }
        news
    }

    /// Removes a file that is not what it should be; where that fails, it is never looked at again.
    pub(super) fn shun(&self, id: &ContentId) {
        if let Err(error) = self.remove(id) {
            tracing::warn!("cannot remove {id} from the cache in {}: {error}", self.path.display());
            lock(&self.shunned).insert(*id);
        }
    }

    /// Removes a content; one that is not there is no error.
    pub(super) fn remove(&self, id: &ContentId) -> io::Result<()> {
        self.forget(id);
        let bytes = self.bytes_of(&name(id));
        match unlinkat(&self.root, name(id), AtFlags::empty()) {
            Ok(()) => {
                self.usage.subtract(bytes);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What a file takes of the disk; nothing if it is not there.
    fn bytes_of(&self, name: &str) -> u64 {
        statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| blocks(&stat))
    }

    /// Where a v1 body is kept while it is not known what it is.
    pub(super) fn spool(&self) -> SpooledTempFile {
        tempfile::spooled_tempfile_in(SPOOL_IN_MEMORY, self.path.join(PARTIAL))
    }

    /// Whether it is worth trying to write.
    pub(super) fn is_writable(&self) -> bool {
        lock(&self.paused).is_none_or(|until| Instant::now() >= until)
    }

    /// Notes that it could not be written, or gave wrong bytes back.
    pub(super) fn failed(&self, error: &io::Error) {
        *lock(&self.paused) = Some(Instant::now() + PAUSE);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the cache in {} fails, reading through it until it works again: {error}",
                self.path.display()
            );
        }
    }

    fn seal(&self, file: &File, id: &ContentId, plain: ContentId) -> io::Result<()> {
        let stamp = Stamp::of(&fstat(file)?);
        let seal = Seal::new(self.boot.clone(), stamp, id, plain);
        if !seal.write(file)? {
            lock(&self.unsealed).insert(*id, stamp);
        }
        Ok(())
    }

    /// Makes `name` lead to the file, whatever it led to before.
    fn place(&self, partial: &PartialFile, name: &str) -> Result<(), Errno> {
        let replaced = self.bytes_of(name);
        let placed = self.place_whatever_is_there(partial, name);
        if placed.is_ok() {
            self.usage.subtract(replaced);
        }
        placed
    }

    fn place_whatever_is_there(&self, partial: &PartialFile, name: &str) -> Result<(), Errno> {
        if let Some(temporary) = &partial.name {
            return renameat(CWD, &**temporary, &self.root, name);
        }
        let link = |name: &str| linkat(CWD, partial.link(), &self.root, name, AtFlags::SYMLINK_FOLLOW);
        match link(name) {
            Err(Errno::EXIST) => {
                // A link replaces nothing; a rename does.
                let temporary = format!("{PARTIAL}/{}-{:016x}", getpid().as_raw_pid(), fastrand::u64(..));
                link(&temporary)?;
                let renamed = renameat(&self.root, &temporary, &self.root, name);
                // Still there if that failed, or if both names led to this file already.
                let _ = unlinkat(&self.root, &temporary, AtFlags::empty());
                renamed
            }
            linked => linked,
        }
    }
}

/// The digest of a whole file, of the same kind as `id`.
pub(super) fn digest(file: &File, id: &ContentId) -> io::Result<ContentId> {
    fn hash<D: Digest>(file: &File) -> io::Result<D> {
        let mut hash = D::new();
        let mut bytes = vec![0; 128 << 10];
        let mut offset = 0;
        loop {
            match file.read_at(&mut bytes, offset) {
                Ok(0) => return Ok(hash),
                Ok(n) => {
                    hash.update(&bytes[..n]);
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(match id {
        ContentId::Md5(_) => ContentId::Md5(hash::<Md5>(file)?.finalize().into()),
        ContentId::Sha256(_) => ContentId::Sha256(hash::<Sha256>(file)?.finalize().into()),
    })
}

/// Copies a part of a file to the same place in another one, without moving the bytes where the filesystem can.
fn copy_part(from: &File, to: &File, part: Range<u64>) -> io::Result<()> {
    let (mut source, mut target) = (part.start, part.start);
    while source < part.end {
        let length = usize::try_from(part.end - source).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The last read of a file that is not open, as far as the directory knows.
fn last_read(stat: &Stat) -> Seconds {
    Seconds::try_from(stat.st_mtime.max(0)).unwrap_or(Seconds::MAX)
}

/// A content's name below the directory.
pub(super) fn name(id: &ContentId) -> String {
    let hex = id.to_string();
    format!("{}/{hex}", &hex[..2])
}

/// Whether nobody else can have a hand in a file.
pub(super) fn is_ours(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_uid == geteuid().as_raw() && stat.st_nlink == 1
}

/// Removes what processes that are gone have left behind.
fn sweep(partial: &Path) {
    let Ok(entries) = std::fs::read_dir(partial) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let owner =
            file.to_str().and_then(|name| name.split_once('-')?.0.parse().ok()).and_then(Pid::from_raw);
        let alive = owner.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
        if !alive && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!("cannot remove {}, left by a crash: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::usage::Limits;
    use super::*;

    fn open(path: &Path) -> Result<Disk, CacheError> {
        let usage = Arc::new(Usage::new(Limits::default()));
        Disk::open(path, Boot::with_id("now"), Clock::default(), usage)
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).map_or(0, Iterator::count)
    }

    #[test]
    fn files_with_and_without_a_name_are_published_alike() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = open(directory.path()).expect("a cache");
        let id = ContentId::Md5(Md5::digest(b"12345").into());
        let partials = [
            disk.create(5).expect("writable"),
            disk.create_named().expect("writable"),
            disk.create_named().expect("writable"),
            disk.create(5).expect("writable"),
        ];
        // Each replaces the one before.
        for partial in partials {
            partial.file().write_all_at(b"12345", 0).expect("writable");
            let file = disk.publish(&partial, &id, id).expect("published");
            assert_eq!(digest(&file, &id).expect("readable"), id);
            let Found::Verified(found) = disk.find(&id, 5) else { panic!("published and sealed") };
            let inode = |file: &File| file.metadata().expect("stat").ino();
            assert_eq!(inode(found.file()), inode(partial.file()));
            file.write_at(b"x", 0).expect_err("what is handed out cannot be written");
        }
        assert_eq!(files(&directory.path().join(PARTIAL)), 0);
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = open(directory.path()).expect("a cache");
        drop(disk.create(5).expect("writable"));
        drop(disk.create_named().expect("writable"));
        assert_eq!((files(directory.path()), files(&directory.path().join(PARTIAL))), (1, 0));
    }
}
