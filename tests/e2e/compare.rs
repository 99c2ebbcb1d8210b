//! Whether two trees are the same, to the last bit that a program can see.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What a flist dialect keeps of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fidelity {
    /// Content and paths of regular files.
    Content,
    /// And kinds, modes, owners, whole seconds; of all but the root.
    Seconds,
    /// Everything that a program can set: all but the time of the last inode change.
    Settable,
    /// Everything.
    Everything,
}

/// Panics with the first differences of `copy` from `source`.
#[track_caller]
pub(crate) fn assert_same(source: &Path, copy: &Path, fidelity: Fidelity) -> usize {
    let (expected, found) = (listing(source), listing(copy));
    let mut differences = Vec::new();
    for (path, inode) in &expected {
        match found.get(path) {
            None => differences.push(format!("{path:?} is missing")),
            Some(other) => {
                let (a, b) = (source.join(path), copy.join(path));
                compare(
                    &a,
                    &b,
                    (*inode, *other),
                    path.as_os_str().is_empty(),
                    fidelity,
                    &mut |what, a, b| {
                        differences.push(format!("{path:?}: {what}: {a} became {b}"));
                    },
                );
            }
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        differences.push(format!("{path:?} is new"));
    }
    let count = differences.len();
    differences.truncate(20);
    assert!(count == 0, "{count} differences, such as\n{}", differences.join("\n"));
    expected.len()
}

/// All paths below `root`, itself included, each with a number that names share if they are one file.
fn listing(root: &Path) -> BTreeMap<PathBuf, usize> {
    let mut inodes = HashMap::new();
    let mut all = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = full.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        if meta.is_dir() {
            for entry in fs::read_dir(&full).expect("a directory can be listed") {
                let entry = entry.expect("an entry");
                let child = path.join(entry.file_name());
                let meta = entry.metadata().expect("metadata");
                assert_eq!(entry.file_type().expect("a type"), meta.file_type(), "d_type of {child:?}");
                assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), meta.ino(), "d_ino of {child:?}");
                pending.push(child);
            }
        }
        let next = inodes.len();
        let group = *inodes.entry((meta.dev(), meta.ino())).or_insert(next);
        all.insert(path, group);
    }
    // The order of discovery differs; the smallest path of a group does not.
    let mut first: HashMap<usize, usize> = HashMap::new();
    let numbered: Vec<_> = all.values().copied().enumerate().collect();
    for (position, group) in numbered {
        first.entry(group).or_insert(position);
    }
    all.into_iter().map(|(path, group)| (path, first[&group])).collect()
}

fn compare(
    a: &Path,
    b: &Path,
    groups: (usize, usize),
    is_root: bool,
    fidelity: Fidelity,
    differ: &mut dyn FnMut(&str, String, String),
) {
    let (x, y) = (a.symlink_metadata().expect("metadata"), b.symlink_metadata().expect("metadata"));
    let mut check = |what: &str, a: String, b: String| {
        if a != b {
            differ(what, a, b);
        }
    };
    let kind = |meta: &fs::Metadata| format!("{:?}", meta.file_type());
    check("type", kind(&x), kind(&y));
    if x.is_file() {
        check("size", x.size().to_string(), y.size().to_string());
        check("content", same_content(a, b), String::new());
    }
    if fidelity == Fidelity::Content || (fidelity == Fidelity::Seconds && is_root) {
        return;
    }
    check("mode", format!("{:o}", x.mode()), format!("{:o}", y.mode()));
    check("owner", format!("{}:{}", x.uid(), x.gid()), format!("{}:{}", y.uid(), y.gid()));
    check("mtime", x.mtime().to_string(), y.mtime().to_string());
    if x.is_symlink() {
        check("target", format!("{:?}", fs::read_link(a)), format!("{:?}", fs::read_link(b)));
    }
    if x.file_type().is_char_device() || x.file_type().is_block_device() {
        check("device", x.rdev().to_string(), y.rdev().to_string());
    }
    if fidelity != Fidelity::Settable {
        check("ctime", x.ctime().to_string(), y.ctime().to_string());
    }
    if fidelity == Fidelity::Seconds {
        return;
    }
    if fidelity == Fidelity::Everything {
        check("ctime nanoseconds", x.ctime_nsec().to_string(), y.ctime_nsec().to_string());
    }
    check("mtime nanoseconds", x.mtime_nsec().to_string(), y.mtime_nsec().to_string());
    check("hard links", groups.0.to_string(), groups.1.to_string());
    if !x.is_dir() {
        check("nlink", x.nlink().to_string(), y.nlink().to_string());
    }
    check("xattrs", xattrs(a), xattrs(b));
    if x.is_file() {
        check("holes", holes(a, x.size()), holes(b, y.size()));
    }
}

/// Empty if the files are the same, else where they begin to differ.
fn same_content(a: &Path, b: &Path) -> String {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut a, mut b) = (open(a), open(b));
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut x), fill(&mut b, &mut y));
        if x[..n] != y[..m] {
            let at = x[..n].iter().zip(&y[..m]).take_while(|(x, y)| x == y).count();
            return format!("differs at byte {}", offset + at);
        }
        if n == 0 {
            return String::new();
        }
        offset += n;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).expect("the file can be read") {
            0 => break,
            n => filled += n,
        }
    }
    filled
}

fn xattrs(path: &Path) -> String {
    let mut all: Vec<_> = xattr::list(path)
        .expect("attributes can be listed")
        .map(|name| (xattr::get(path, &name).expect("an attribute can be read"), name))
        .map(|(value, name)| format!("{name:?}={value:?}"))
        .collect();
    all.sort();
    all.join(" ")
}

fn holes(path: &Path, size: u64) -> String {
    let file = File::open(path).expect("the file can be opened");
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).expect("data ends");
        segments.push(start..at.min(size));
    }
    format!("{segments:?}")
}
