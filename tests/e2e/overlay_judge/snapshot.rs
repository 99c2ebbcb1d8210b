//! All that two trees can be compared by.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// Times before this were set by somebody, those behind it are of now.
const RECENT: i64 = 1_500_000_000;

/// What is at each path.
pub(super) struct Snapshot(BTreeMap<PathBuf, Found>);

struct Found {
    is_file: bool,
    /// `None`: it is of now.
    mtime: Option<(i64, i64)>,
    /// All the rest.
    text: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mtime {
            Some((secs, nanos)) => write!(f, "{secs}.{nanos:09} {}", self.text),
            None => write!(f, "recent {}", self.text),
        }
    }
}

impl Snapshot {
    /// `with_links`: names of one file are marked as such.
    pub(super) fn of(root: &Path, with_links: bool) -> Self {
        let mut all = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        // The first path of each inode in the order of paths, since hard links must be the same ones.
        let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut inodes = BTreeMap::new();
        while let Some(path) = pending.pop() {
            let full = root.join(&path);
            let meta = full.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            let inode = (meta.dev(), meta.ino());
            let known = first.entry(inode).or_insert_with(|| path.clone());
            if path < *known {
                known.clone_from(&path);
            }
            inodes.insert(path.clone(), inode);
            if meta.is_dir() {
                for entry in fs::read_dir(&full).expect("a directory can be listed") {
                    let entry = entry.expect("an entry");
                    let child = path.join(entry.file_name());
                    match root.join(&child).symlink_metadata() {
                        Ok(meta) => {
                            let listed = entry.file_type().expect("a type");
                            assert_eq!(listed, meta.file_type(), "d_type of {child:?}");
                            let is_ours = root.ends_with("mnt-ours");
                            assert!(!is_ours || entry.ino() == meta.ino(), "d_ino of {child:?}");
                            pending.push(child);
                        }
                        Err(error) => {
                            let text = format!("listed, but {error}");
                            all.insert(child, Found { is_file: false, mtime: None, text });
                        }
                    }
                }
            }
            all.insert(path.clone(), describe(&full, &meta));
        }
        for (path, inode) in inodes {
            if with_links
                && first[&inode] != path
                && let Some(found) = all.get_mut(&path)
            {
                found.text.push_str(&format!(" same as {:?}", first[&inode]));
            }
        }
        Self(all)
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

pub(super) fn differences(ours: &Snapshot, kernel: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for (path, a) in &ours.0 {
        match kernel.0.get(path) {
            None => found.push(format!("{path:?}: {a}\n    not there")),
            Some(b) if (a.mtime, &a.text) != (b.mtime, &b.text) => {
                found.push(format!("{path:?}: {a}\n    {b}"));
            }
            Some(_) => {}
        }
    }
    let more = kernel.0.iter().filter(|(path, _)| !ours.0.contains_key(*path));
    found.extend(more.map(|(path, b)| format!("{path:?}: not there\n    {b}")));
    found
}

/// Gives files back the times that the kernel has lost; returns whether there are any.
pub(super) fn restore_times(ours: &Snapshot, kernel: &Snapshot, root: &Path) -> bool {
    let mut any = false;
    for (path, a) in ours.0.iter().filter(|(_, a)| a.is_file) {
        if let (Some((secs, nanos)), Some(Found { mtime: None, .. })) = (a.mtime, kernel.0.get(path)) {
            let time = Timespec { tv_sec: secs, tv_nsec: nanos };
            let times = Timestamps { last_access: time, last_modification: time };
            any |= rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        }
    }
    any
}

/// The same of one path.
pub(super) fn restore_time(ours: &Path, kernel: &Path) {
    let (Ok(a), Ok(b)) = (ours.symlink_metadata(), kernel.symlink_metadata()) else { return };
    if let (Some((secs, nanos)), None) = (mtime(&a), mtime(&b)) {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, kernel, &times, AtFlags::SYMLINK_NOFOLLOW).expect("it is ours");
    }
}

/// `None`: now.
fn mtime(meta: &fs::Metadata) -> Option<(i64, i64)> {
    (meta.mtime() < RECENT).then(|| (meta.mtime(), meta.mtime_nsec()))
}

fn describe(path: &Path, meta: &fs::Metadata) -> Found {
    let kind = meta.file_type();
    let mtime = mtime(meta);
    let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if !kind.is_dir() {
        text.push_str(&format!(" nlink {} size {}", meta.nlink(), meta.size()));
    }
    if kind.is_char_device() || kind.is_block_device() {
        text.push_str(&format!(" rdev {:x}", meta.rdev()));
    }
    if kind.is_symlink() {
        text.push_str(&format!(" -> {:?}", fs::read_link(path).expect("a symlink")));
    }
    if kind.is_file() {
        text.push_str(&match fs::read(path) {
            Ok(content) => format!(" content {}", digest(&content)),
            Err(error) => format!(" unreadable: {error}"),
        });
    }
    match xattr::list(path) {
        Ok(names) => {
            let mut names: Vec<_> = names.collect();
            names.sort();
            // The kernel's security modules add some of their own.
            for name in names.into_iter().filter(|name| !name.as_bytes().starts_with(b"security.")) {
                let value = xattr::get(path, &name).expect("an attribute can be read");
                text.push_str(&format!(" {name:?}={}", value.map_or("gone".into(), |value| digest(&value))));
            }
        }
        Err(error) => text.push_str(&format!(" no attributes: {error}")),
    }
    Found { is_file: kind.is_file(), mtime, text }
}

/// Short enough to be printed.
fn digest(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{}:{hash:016x}", bytes.len())
}

/// Gives a directory the attributes of another one.
pub(super) fn copy_attributes(from: &Path, to: &Path) {
    let meta = from.metadata().expect("a directory");
    for name in xattr::list(from).expect("attributes") {
        let value = xattr::get(from, &name).expect("an attribute").expect("it is there");
        // Those of security modules are not for us to set.
        let _ = xattr::set(to, &name, &value);
    }
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).expect("an owner");
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).expect("a mode");
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::empty()).expect("times");
}
