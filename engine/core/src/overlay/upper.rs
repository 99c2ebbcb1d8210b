//! The upper directory on the local disk, and the work directory beside it.
//!
//! Both belong to one process at a time, for as long as it holds the lock. Nothing in the upper directory appears half
//! made: what takes more than one step is made in the work directory and renamed. What a crash leaves in the work directory is
//! removed at the next start.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_vfs::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::at::At;
use super::marks::{Form, Mark};

/// Why a directory cannot hold local changes.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UpperError {
    #[error(
        "the local changes in {} are in use by process {owner}: unmount it first, or name another backend",
        .path.display()
    )]
    Locked { path: PathBuf, owner: String },
    #[error(
        "{} belongs to user {owner}, not to the user who runs aysfs: choose another path for the backend",
        .path.display()
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error("cannot keep local changes in {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "cannot keep local changes in {}: its filesystem has no extended attributes {names}*; choose another path for the backend",
        .path.display()
    )]
    NoXattrs { path: PathBuf, names: &'static str },
    #[error(
        "cannot keep local changes in {}: its filesystem cannot rename and leave a whiteout (overlayfs and NFS, for two); choose another path for the backend",
        .path.display()
    )]
    NoWhiteouts { path: PathBuf },
}

/// A directory of local changes, in the format of the kernel's overlayfs.
#[derive(Debug)]
pub struct Upper {
    pub(super) root: Arc<OwnedFd>,
    pub(super) work: Arc<OwnedFd>,
    pub(super) form: Form,
    pub(super) owner: Owner,
    next_temporary: AtomicU64,
    /// What it is called before it has its name.
    unfinished: Option<PathBuf>,
    path: PathBuf,
    _lock: File,
}

/// Whom what this process makes belongs to, and which permissions it does not get.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u16,
}

impl Owner {
    fn of_this_process() -> Self {
        use rustix::process::{getegid, geteuid};
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), umask: umask().unwrap_or(0o777) }
    }
}

/// The umask of this process; the system call that tells it would change it for a moment, and for all threads.
fn umask() -> Option<u16> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u16::from_str_radix(umask.trim(), 8).ok()
}

impl Upper {
    /// Opens the local changes of one mount in the directory of its backend, which is made if it is missing.
    ///
    /// # Errors
    /// [`UpperError`]; nothing is changed then.
    pub fn open(backend: &Path, mount: &Path) -> Result<Self, UpperError> {
        Self::open_in(backend, mount, None)
    }

    /// The same, with the marks in a form that the caller chooses.
    ///
    /// # Errors
    /// As [`open`](Self::open), also where this process may not write that form.
    pub fn open_as(backend: &Path, mount: &Path, form: Form) -> Result<Self, UpperError> {
        Self::open_in(backend, mount, Some(form))
    }

    fn open_in(backend: &Path, mount: &Path, form: Option<Form>) -> Result<Self, UpperError> {
        let name = file_name(mount);
        let (uppers, work) = (backend.join("upper"), backend.join("work").join(&name));
        let trouble = |path: &Path, source: io::Error| UpperError::Io { path: path.into(), source };
        for directory in [&uppers, &work] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|error| trouble(directory, error))?;
        }
        let owner = fs::metadata(backend).map_err(|error| trouble(backend, error))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(UpperError::Foreign { path: backend.into(), owner });
        }
        let upper = uppers.join(&name);
        let lock = lock(&uppers.join(format!("{name}%lock")), &upper)?;
        // From here on nobody else has a hand in it. Until its root has the attributes of the base's, it has another name.
        let unfinished = (!upper.exists()).then(|| uppers.join(format!("{name}%new")));
        let upper = unfinished.clone().unwrap_or(upper);
        if unfinished.is_some() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&upper);
            made.map_err(|error| trouble(&upper, error))?;
        }
        let root = open_directory(&upper).map_err(|error| trouble(&upper, error))?;
        let work_fd = open_directory(&work).map_err(|error| trouble(&work, error))?;
        let mut this = Self {
            root: Arc::new(root),
            work: Arc::new(work_fd),
            form: form.unwrap_or(Form::Trusted),
            owner: Owner::of_this_process(),
            next_temporary: AtomicU64::new(0),
            unfinished,
            path: uppers.join(&name),
            _lock: lock,
        };
        this.sweep().map_err(|error| trouble(&work, error.into_io()))?;
        if form.is_none() && !this.may_mark()? {
            this.form = Form::User;
        }
        if this.may_mark()? { Ok(this) } else { Err(trouble(&this.path, Errno::PERM.into())) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is called among those of its backend.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().expect("it is a name in a directory of uppers")
    }

    /// Whether it is new, and its root as it was made.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Gives a new one its name.
    pub(super) fn finish(&mut self) -> Result<(), UpperError> {
        if let Some(unfinished) = self.unfinished.take() {
            let renamed = fs::rename(unfinished, &self.path);
            renamed.map_err(|source| UpperError::Io { path: self.path.clone(), source })?;
        }
        Ok(())
    }

    /// Whether nothing was changed yet but the attributes of the root.
    pub(super) fn is_blank(&self) -> Result<bool, UpperError> {
        let listed = names(&self.root);
        let trouble = |error: Error| UpperError::Io { path: self.path.clone(), source: error.into_io() };
        listed.map(|names| names.is_empty()).map_err(trouble)
    }

    /// A name in the work directory that nothing has.
    pub(super) fn temporary(&self) -> Vec<u8> {
        format!("#{:x}", self.next_temporary.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Removes a name of the work directory, with everything below it.
    pub(super) fn discard(&self, temporary: &[u8]) {
        if let Err(error) = remove_all(&self.work, temporary) {
            tracing::warn!("cannot remove {} from the work directory: {error}", temporary.escape_ascii());
        }
    }

    /// Removes what a crash has left in the work directory.
    fn sweep(&self) -> Result<()> {
        self.take_back_names()?;
        for (name, _) in names(&self.work)? {
            remove_all(&self.work, &name)?;
        }
        Ok(())
    }

    /// Finds out now, not at the first change, whether there can be marks of this form and whiteouts, and whether this
    /// process may make them.
    fn may_mark(&self) -> Result<bool, UpperError> {
        let trouble = |error: Errno| UpperError::Io { path: self.path.clone(), source: error.into() };
        let temporary = self.temporary();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let other = self.temporary();
        let renamed = openat(&self.work, &*temporary, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|_| renameat_with(&self.work, &*temporary, &self.work, &*other, RenameFlags::WHITEOUT));
        self.discard(&temporary);
        self.discard(&other);
        // On what is there already: on a full disk there is no room for more.
        let at = At::Named(self.work.clone(), b".".into());
        let set = self.set_mark(&at, Mark::Opaque, b"y").and_then(|()| self.clear_mark(&at, Mark::Opaque));
        match set {
            Err(error) if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::QuotaExceeded) => {}
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                return Err(UpperError::NoXattrs { path: self.path.clone(), names: self.form.prefix() });
            }
            // Also for the root of a user namespace.
            Err(error) if error.kind() == ErrorKind::NotPermitted => return Ok(false),
            Err(error) => {
                return Err(UpperError::Io { path: self.path.clone(), source: error.into_io() });
            }
            Ok(()) => {}
        }
        match renamed {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Err(UpperError::NoWhiteouts { path: self.path.clone() }),
            // What is there can be read, and may be removed to make room.
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(true),
            renamed => renamed.map_err(trouble).map(|()| true),
        }
    }
}

/// The names of an open directory, without `.` and `..`, and their types.
pub(super) fn names(directory: impl AsFd) -> Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    let listing =
        openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(listing)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Removes a name with everything below it; one that is not there is no error.
fn remove_all(directory: &impl AsFd, name: &[u8]) -> Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(directory, name, flags, Mode::empty())?;
    for (name, _) in names(&inner)? {
        remove_all(&inner, &name)?;
    }
    Ok(unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Takes the lock, and leaves our pid in it for those who find it taken.
fn lock(path: &Path, upper: &Path) -> Result<File, UpperError> {
    let trouble = |source| UpperError::Io { path: path.into(), source };
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(trouble)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(trouble)?;
            let owner = owner.lines().next().unwrap_or("unknown").to_owned();
            return Err(UpperError::Locked { path: upper.into(), owner });
        }
        Err(TryLockError::Error(error)) => return Err(trouble(error)),
    }
    let pid = format!("{}\n", std::process::id());
    // Over what was there: on a full disk there may be no room for more.
    match file.write_all_at(pid.as_bytes(), 0).and_then(|()| file.set_len(pid.len() as u64)) {
        Err(error) if !is_full(&error) => Err(trouble(error)),
        Ok(()) | Err(_) => Ok(file),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A mount point as one file name, however it is typed: slashes, and what is an escape, are percent-encoded; a name too long
/// is cut, and made its own by a digest.
fn file_name(mount: &Path) -> String {
    use sha2::{Digest, Sha256};
    /// Leaves room for the digest and for `.lock`.
    const LONGEST: usize = 160;
    let mount: PathBuf = mount.components().collect();
    let bytes = mount.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let mut name = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
            b'.' if !name.is_empty() => name.push('.'),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.is_empty() {
        return "%2f".into();
    }
    if name.len() > LONGEST {
        name.truncate(LONGEST);
        name.push('%');
        name.push_str(&hex::encode(&Sha256::digest(bytes)[..8]));
    }
    name
}

/// The error of the local filesystem behind one of the contract.
trait IntoIo {
    fn into_io(self) -> io::Error;
}

impl IntoIo for Error {
    fn into_io(self) -> io::Error {
        io::Error::from(self.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_become_names_of_their_own() {
        let name = |path: &str| file_name(Path::new(path));
        assert_eq!(name("/opt/app"), "opt%2fapp");
        assert_eq!(name("/"), "%2f");
        assert_eq!(name("/.x"), "%2ex");
        assert_eq!(name("/a%2fb"), "a%252fb");
        for path in ["/opt/app/", "/opt//app", "/opt/./app"] {
            assert_eq!(name(path), "opt%2fapp", "{path}");
        }
        let (long, other) = (format!("/{}x", "a/".repeat(300)), format!("/{}y", "a/".repeat(300)));
        assert!(name(&long).len() < 200 && name(&long) != name(&other));
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Upper::open(dir.path(), Path::new("/mnt")).expect("opened");
        let error = Upper::open(dir.path(), Path::new("/mnt")).expect_err("locked");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        Upper::open(dir.path(), Path::new("/other")).expect("another mount");
        drop(first);
        Upper::open(dir.path(), Path::new("/mnt")).expect("free again");
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Upper::open(dir.path(), Path::new("/m")).expect("opened"));
        let work = dir.path().join("work/m");
        fs::create_dir_all(work.join("#1/deep")).expect("made");
        fs::write(work.join("#1/deep/file"), "x").expect("made");
        Upper::open(dir.path(), Path::new("/m")).expect("opened");
        assert_eq!(fs::read_dir(work).expect("a directory").count(), 0);
    }
}
