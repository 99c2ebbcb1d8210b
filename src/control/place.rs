//! Where the sockets are: in directories that nobody but their user (and root) can enter.
//!
//! `/run/aysfs` for root; for a user `$XDG_RUNTIME_DIR/aysfs`, or `/run/user/<uid>/aysfs`, or, where there is neither,
//! `run` in the directory of his caches. A socket is called by the pid of its process. It gets that name when somebody
//! listens to it already, so one that refuses a connection is left from a process that died.
//!
//! Root looks into directories of others, who may put there what they like. So a directory is opened once, as what it is,
//! never through a link in its place; a socket in it is reached by descriptor as well; and only in one's own directory
//! is anything removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use uzers::os::unix::UserExt;

use super::protocol::PATIENCE;

/// What the names of sockets end with.
const SUFFIX: &str = "sock";

/// Most processes of one pid in namespaces that share a directory.
const MOST: u32 = 100;

/// Where sockets of a user may be, the best place first.
pub(super) fn directories(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec!["/run/aysfs".into()];
    }
    let mut directories = Vec::new();
    let own = uid == rustix::process::geteuid().as_raw();
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if own {
        directories.extend(absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("aysfs")));
    }
    let of_login = Path::new("/run/user").join(uid.to_string()).join("aysfs");
    if !directories.contains(&of_login) {
        directories.push(of_login);
    }
    let home = match own {
        true => absolute("HOME"),
        false => uzers::get_user_by_uid(uid).map(|user| user.home_dir().to_owned()),
    };
    let cache = if own { absolute("XDG_CACHE_HOME") } else { None };
    let cache = cache.or_else(|| home.map(|home| home.join(".cache")));
    directories.extend(cache.map(|cache| cache.join("aysfs/run")));
    directories
}

/// The name of a socket, removed when it is dropped.
pub(super) struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

/// Listens at the best place where this process can.
pub(super) async fn listen() -> io::Result<(Socket, UnixListener)> {
    let mut last = io::Error::other("there is no directory for it: set XDG_RUNTIME_DIR or HOME");
    for directory in directories(rustix::process::geteuid().as_raw()) {
        match listen_in(&directory).await {
            Ok(listening) => return Ok(listening),
            Err(error) => last = io::Error::new(error.kind(), format!("{}: {error}", directory.display())),
        }
    }
    Err(last)
}

async fn listen_in(directory: &Path) -> io::Result<(Socket, UnixListener)> {
    make_private(directory)?;
    for socket in sockets(directory, rustix::process::geteuid().as_raw())? {
        // Removes the dead.
        drop(socket.connect().await);
    }
    let pid = std::process::id();
    let unnamed = directory.join(format!(".{pid}"));
    fs::remove_file(&unnamed).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let listener = UnixListener::bind(&unnamed)?;
    let named = (|| {
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))?;
        for number in 0..MOST {
            let name = if number == 0 { pid.to_string() } else { format!("{pid}-{number}") };
            let path = directory.join(name).with_extension(SUFFIX);
            match fs::hard_link(&unnamed, &path) {
                // Of a process that has the same pid elsewhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked.map(|()| path),
            }
        }
        Err(io::Error::other("too many sockets"))
    })();
    fs::remove_file(&unnamed)?;
    Ok((Socket { path: named? }, listener))
}

/// Makes a directory that only this user can enter, or makes sure that it is one.
fn make_private(directory: &Path) -> io::Result<()> {
    // Where the parent of a login's directory is missing, there is no login.
    let is_in_home = directory.ends_with("aysfs/run");
    match DirBuilder::new().mode(0o700).recursive(is_in_home).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let meta = fs::symlink_metadata(directory)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it is no directory of this user"));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A socket in a directory, whatever becomes of its name.
pub(super) struct Found {
    directory: Arc<OwnedFd>,
    name: OsString,
    socket: OwnedFd,
    path: PathBuf,
    /// Whether the directory is that of this user.
    is_own: bool,
}

/// The sockets in a directory of `user`; anything else there is passed over, and so is what belongs to somebody else.
///
/// # Errors
/// It is no directory of that user, or cannot be read.
pub(super) fn sockets(directory: &Path, user: u32) -> io::Result<Vec<Found>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = Arc::new(rustix::fs::open(directory, flags, Mode::empty())?);
    if rustix::fs::fstat(&opened)?.st_uid != user {
        return Err(io::Error::other(format!("it is no directory of user {user}")));
    }
    let is_own = user == rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&opened)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if Path::new(&name).extension() != Some(OsStr::new(SUFFIX)) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // One that is gone again is none.
        let Ok(socket) = rustix::fs::openat(&opened, &name, flags, Mode::empty()) else { continue };
        let stat = rustix::fs::fstat(&socket)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Socket && stat.st_uid == user {
            let path = directory.join(&name);
            found.push(Found { directory: opened.clone(), name, socket, path, is_own });
        }
    }
    Ok(found)
}

impl Found {
    /// Where it was found, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to it. One that nobody listens to any more is removed, if it is this user's.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        // Its name may lead elsewhere by now.
        let socket = format!("/proc/self/fd/{}", self.socket.as_raw_fd());
        match timeout(PATIENCE, UnixStream::connect(socket)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if self.is_own {
                    rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()).ok();
                }
                Err(error)
            }
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("aysfs/run");
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).expect("made");
        let dead = dir.join("1.sock");
        drop(net::UnixListener::bind(&dead).expect("bound"));
        let bound = listen_in(&dir).await.expect("bound");
        let again = listen_in(&dir).await.expect("bound");
        assert!(!dead.exists(), "nobody listens");
        assert_eq!(fs::metadata(&dir).expect("there").mode() & 0o777, 0o700);
        let found = sockets(&dir, rustix::process::geteuid().as_raw()).expect("listed");
        assert_eq!(found.len(), 2);
        for socket in found {
            assert!([&bound.0.path, &again.0.path].contains(&&socket.path));
            assert_eq!(fs::metadata(&socket.path).expect("there").mode() & 0o777, 0o600);
            socket.connect().await.expect("somebody listens");
        }
        drop((bound, again));
        assert_eq!(fs::read_dir(&dir).expect("listed").count(), 0);
    }

    #[tokio::test]
    async fn no_socket_is_made_where_somebody_else_could_have_put_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("real")).expect("made");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).expect("made");
        let error = listen_in(&link).await.err().expect("refused");
        assert_eq!(error.to_string(), "it is no directory of this user");
    }

    #[tokio::test]
    async fn in_directories_of_others_no_link_is_followed_and_nothing_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = rustix::process::geteuid().as_raw();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).expect("made");
        let dead = theirs.join("1.sock");
        drop(net::UnixListener::bind(&dead).expect("bound"));
        fs::write(theirs.join("file.sock"), "").expect("written");
        let living = dir.path().join("living");
        let _listener = net::UnixListener::bind(&living).expect("bound");
        std::os::unix::fs::symlink(&living, theirs.join("link.sock")).expect("made");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("theirs", &link).expect("made");

        sockets(&link, own).err().expect("a link");
        sockets(&theirs, own + 1).err().expect("of another user");
        let mut found = sockets(&theirs, own).expect("listed");
        assert_eq!(found.iter().map(Found::path).collect::<Vec<_>>(), [&dead]);
        found[0].is_own = false;
        found[0].connect().await.expect_err("nobody listens");
        assert!(dead.exists(), "another user's");
        found[0].is_own = true;
        found[0].connect().await.expect_err("nobody listens");
        assert!(!dead.exists());
    }
}
