//! A directory as flist entries: everything that can be told without opening files.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use aysfs_flist::{Entry, Kind, Owner, Timestamp, V1Keys};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::io::Errno;
use uzers::{Groups, Users, UsersCache};
use walkdir::WalkDir;

use super::PackError;

/// A file with several names, of which not all were found yet.
struct Named {
    /// The first name, and the position of its entry.
    path: Vec<u8>,
    position: usize,
    /// How many more there are.
    others: u64,
}

/// Walks `root` in the order of a flist: parents before children, names sorted by bytes. `found` takes each entry, with the position
/// of the one that it is another name of, and returns the position of its own.
///
/// The first name of a file that has several carries its content; the others become links to it.
pub(super) fn scan(
    root: &Path,
    exclude: &Gitignore,
    mut found: impl FnMut(&Entry, Option<usize>) -> Result<usize, PackError>,
) -> Result<(), PackError> {
    let users = UsersCache::new();
    let mut named: HashMap<(u64, u64), Named> = HashMap::new();
    let walk = WalkDir::new(root).sort_by(|a, b| a.file_name().cmp(b.file_name())).into_iter().filter_entry(
        |item| item.depth() == 0 || !exclude.matched(item.path(), item.file_type().is_dir()).is_ignore(),
    );
    for item in walk {
        let item = item.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            let source = error.into_io_error().expect("links are not followed, so there are no loops");
            PackError::Read { path, source }
        })?;
        let failed = |source| PackError::Read { path: item.path().to_owned(), source };
        let relative = item.path().strip_prefix(root).expect("the walk stays below its root");
        let meta = item.path().symlink_metadata().map_err(failed)?;
        let mut entry = describe(relative.as_os_str().as_bytes().to_vec(), &meta, &users);
        entry.xattrs = xattrs(item.path()).map_err(failed)?;
        if entry.kind == Kind::Symlink {
            entry.target = item.path().read_link().map_err(failed)?.into_os_string().into_vec();
        }
        if entry.kind == Kind::Directory || meta.nlink() <= 1 {
            found(&entry, None)?;
            continue;
        }
        match named.entry((meta.dev(), meta.ino())) {
            Slot::Occupied(mut first) => {
                let Named { path, position, others } = first.get_mut();
                *others -= 1;
                let (position, is_last) = (*position, *others == 0);
                entry.link = Some(if is_last { first.remove().path } else { path.clone() });
                found(&entry, Some(position))?;
            }
            Slot::Vacant(first) => {
                let position = found(&entry, None)?;
                first.insert(Named { path: entry.path, position, others: meta.nlink() - 1 });
            }
        }
    }
    Ok(())
}

/// The patterns of what is left out of the tree at `root`.
pub(super) fn exclude(root: &Path, patterns: &[String]) -> Result<Gitignore, PackError> {
    let failed = |pattern: &str| {
        let pattern = pattern.to_owned();
        move |source| PackError::Pattern { pattern, source }
    };
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(failed(pattern))?;
    }
    builder.build().map_err(failed(&patterns.join(" ")))
}

fn describe(path: Vec<u8>, meta: &Metadata, users: &UsersCache) -> Entry {
    let kind = meta.file_type();
    let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        let (major, minor) = device();
        Kind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        let (major, minor) = device();
        Kind::BlockDevice { major, minor }
    } else {
        Kind::Regular
    };
    let user = users.get_user_by_uid(meta.uid()).map(|user| user.name().as_bytes().to_vec());
    let group = users.get_group_by_gid(meta.gid()).map(|group| group.name().as_bytes().to_vec());
    let (mtime, ctime) = times(meta);
    Entry {
        path,
        kind,
        perm: (meta.mode() & 0o7777) as u16,
        user: Owner { name: user, id: Some(meta.uid()) },
        group: Owner { name: group, id: Some(meta.gid()) },
        size: if kind == Kind::Regular { meta.size() } else { 0 },
        mtime,
        ctime,
        content: None,
        v1_keys: V1Keys::default(),
        target: Vec::new(),
        link: None,
        xattrs: Vec::new(),
        data: None,
    }
}

/// mtime and ctime.
pub(super) fn times(meta: &Metadata) -> (Timestamp, Timestamp) {
    let time = |secs, nanos: i64| Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
    (time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec()))
}

/// All extended attributes of `path` itself (never of what a symlink leads to), sorted by name.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for name in names {
        // An attribute that is gone again was removed meanwhile.
        if let Some(value) = xattr::get(path, &name)? {
            all.push((name.into_vec(), value));
        }
    }
    all.sort();
    Ok(all)
}
