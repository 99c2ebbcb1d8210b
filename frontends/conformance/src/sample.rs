//! A tree with everything that a filesystem can hold, and the same tree in a stor.
//!
//! It is made once per run. Cases compare what they see with the tree itself.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aysfs_engine::load::{self, Request};
use aysfs_engine::pack::{self, Progress};
use aysfs_engine::{AysFs, Base, Overlay, Upper};
use aysfs_flist::{Dialect, Header, ParseOptions};
use aysfs_store::{Cache, CacheOptions, Mirror, StorOptions, Store};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode as NodeMode, Timespec, Timestamps, makedev, mknodat, utimensat,
};
use tokio::runtime::Runtime;
use url::Url;

use crate::acl;
use crate::nobody::NOBODY;
use crate::target::Tree;

/// Names in the directory `many`.
pub(crate) const MANY: usize = 5000;

/// A packed tree. Everything is below one directory.
pub(crate) struct Sample<'a>(pub(crate) &'a Path);

impl Sample<'_> {
    /// The tree itself.
    pub(crate) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    fn flist(&self) -> PathBuf {
        self.0.join("tree.flist")
    }

    /// Makes the tree, and packs it.
    pub(crate) fn make(&self) {
        // There may be the rest of one that failed.
        if self.0.exists() {
            fs::remove_dir_all(self.0).expect("our own");
        }
        fs::create_dir_all(self.tree()).expect("a new directory");
        fill(&self.tree());
        let runtime = Runtime::new().expect("a runtime");
        let options = pack::Options {
            dialect: Dialect::V2,
            header: Header::default(),
            exclude: Vec::new(),
            sealing: None,
            base: None,
            profile: None,
            spool: self.0.to_owned(),
        };
        let flist = File::create(self.flist()).expect("a new file");
        let (tree, stor, progress) = (self.tree(), self.stor(), Arc::new(Progress::default()));
        let packed = pack::pack(&tree, &*stor, &options, flist, &progress);
        runtime.block_on(packed).expect("packed");
        // Compiles it, so that each mount finds it done.
        drop(self.base(&runtime));
    }

    /// The tree as the engine shows it, with an empty cache in `dir`.
    pub(crate) fn mountable(&self, dir: &Path, runtime: &Runtime) -> AysFs {
        let cache = Cache::open(&dir.join("cache"), CacheOptions::default()).expect("a cache");
        AysFs::new(self.base(runtime), cache, Arc::new(Mirror::new(self.stor(), [])))
    }

    /// The tree, or nothing, below local changes, with everything that is kept in `dir`.
    pub(crate) fn changeable(&self, dir: &Path, tree: Tree, runtime: &Runtime) -> Overlay {
        let base = match tree {
            Tree::Sample => self.base(runtime),
            Tree::Nothing => Base::empty(&dir.join("index")).expect("an index of nothing"),
        };
        let cache = Cache::open(&dir.join("cache"), CacheOptions::default()).expect("a cache");
        let lower = AysFs::new(base, cache, Arc::new(Mirror::new(self.stor(), [])));
        let upper = Upper::open(dir, Path::new("/conformance")).expect("local changes");
        Overlay::new(lower, upper).expect("a new upper")
    }

    fn stor(&self) -> Arc<dyn Store> {
        let url = Url::from_file_path(self.0.join("stor")).expect("an absolute path");
        aysfs_store::open(&StorOptions::new(url), &"test".parse().expect("a name")).expect("a stor")
    }

    fn base(&self, runtime: &Runtime) -> Base {
        let request = Request {
            source: load::Source::File(self.flist()),
            parse: ParseOptions::default(),
            trusted_keys: Vec::new(),
            private_keys: Vec::new(),
        };
        let loaded = load::load(&request, &[], Duration::from_secs(30), self.0);
        runtime.block_on(loaded).expect("a good flist")
    }
}

/// Bytes that differ from file to file; every other page of them compresses well.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut state = (len as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let random = if bytes.len() / 4096 % 2 == 0 { state } else { state & 0x0101 };
        bytes.extend(random.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn fill(tree: &Path) {
    kinds(tree);
    sizes(tree);
    modes_and_owners(tree);
    attributes(tree);
    names(tree);
    programs(tree);
    // Last, since whatever is made in a directory changes its time.
    times(tree);
}

fn write(path: PathBuf, content: &[u8]) {
    fs::write(path, content).expect("a file");
}

fn set_mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn kinds(tree: &Path) {
    let at = |name: &str| tree.join(name);
    write(at("file"), b"a file");
    fs::create_dir_all(at("dir/sub")).expect("directories");
    write(at("dir/file"), b"another file");
    fs::create_dir(at("empty")).expect("a directory");
    symlink("file", at("link")).expect("a symlink");
    symlink("dir/sub", at("link-to-dir")).expect("a symlink");
    symlink("../file", at("dir/up")).expect("a symlink");
    symlink("/does/not/exist", at("dangling")).expect("a symlink");
    symlink("loop", at("loop")).expect("a symlink");
    symlink(OsStr::from_bytes(b"\xff|\n%"), at("odd-target")).expect("a symlink");
    symlink("x".repeat(4000), at("long-target")).expect("a symlink");

    let node = |name: &str, kind, device| {
        mknodat(CWD, at(name), kind, NodeMode::from_raw_mode(0o640), device).expect("a node");
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("disk", FileType::BlockDevice, makedev(259, 70_000));
    node("socket", FileType::Socket, 0);

    write(at("hard"), b"three names");
    fs::hard_link(at("hard"), at("hard-again")).expect("linked");
    fs::hard_link(at("hard"), at("dir/hard-too")).expect("linked");
    fs::hard_link(at("fifo"), at("dir/fifo-too")).expect("linked");
    fs::hard_link(at("link"), at("dir/link-too")).expect("linked");
}

fn sizes(tree: &Path) {
    // Around everything that a page, a message and a codec hold.
    for size in
        [0, 1, 4095, 4096, 4097, 131_071, 131_073, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 123]
    {
        write(tree.join(format!("size-{size}")), &content(size));
    }
    for twin in ["twin-1", "twin-2"] {
        write(tree.join(twin), &content(200_000));
    }
    let sparse = File::create(tree.join("sparse")).expect("a file");
    for offset in [64 << 10, 1 << 20, 30 << 20] {
        sparse.write_all_at(&content(5000), offset).expect("some data");
    }
    sparse.set_len((40 << 20) + 123).expect("a hole at the end");
    File::create(tree.join("hole")).expect("a file").set_len(10 << 20).expect("nothing but a hole");
}

fn modes_and_owners(tree: &Path) {
    for mode in [0o000, 0o400, 0o644, 0o711, 0o755, 0o1644, 0o2755, 0o4755, 0o7777] {
        write(tree.join(format!("mode-{mode:o}")), b"x");
        set_mode(tree.join(format!("mode-{mode:o}")), mode);
    }
    for (name, mode) in [("closed", 0o700), ("passage", 0o711), ("sticky", 0o1777), ("setgid", 0o2750)] {
        fs::create_dir(tree.join(name)).expect("a directory");
        write(tree.join(name).join("inside"), b"inside");
        set_mode(tree.join(name), mode);
    }
    for (name, uid, gid) in
        [("owner-daemon", 1, 1), ("owner-nobody", 65_534, 65_534), ("owner-unknown", 123_456, 654_321)]
    {
        write(tree.join(name), b"x");
        chown(tree.join(name), Some(uid), Some(gid)).expect("an owner");
    }
    symlink("file", tree.join("owned-link")).expect("a symlink");
    lchown(tree.join("owned-link"), Some(7), Some(8)).expect("an owner");
}

fn attributes(tree: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        xattr::set(tree.join(name), attribute, value).expect("an attribute");
    };
    write(tree.join("attributes"), b"x");
    set("attributes", "user.note", b"plain");
    set("attributes", "user.empty", b"");
    set("attributes", "user.binary|\u{e9}", &content(900));
    set("attributes", "trusted.secret", b"for root");
    fs::create_dir(tree.join("attributes-dir")).expect("a directory");
    set("attributes-dir", "user.note", b"of a directory");

    // Readable by its owner, its group and one more user.
    write(tree.join("acl"), b"for few");
    set_mode(tree.join("acl"), 0o600);
    set("acl", acl::ACCESS, &acl::granting(acl::READ, NOBODY));
    fs::create_dir(tree.join("acl-dir")).expect("a directory");
    set("acl-dir", acl::DEFAULT, &acl::granting(acl::READ, NOBODY));
}

fn names(tree: &Path) {
    let odd: [&[u8]; 9] = [
        b"pipe|in|name",
        b"new\nline",
        b"percent%41%",
        b" leading and trailing ",
        "\u{43f}\u{440} \u{4e16}\u{754c} \u{1f980}".as_bytes(),
        b"not utf-8 \xff\xfe\x80",
        b"#hash",
        b"back\\slash\ttab\x01\x7f",
        b"-dash=equals,comma",
    ];
    let dir = tree.join("names|\n%");
    fs::create_dir(&dir).expect("a directory");
    for name in odd {
        write(dir.join(OsStr::from_bytes(name)), name);
    }
    write(tree.join("n".repeat(255)), b"the longest name");
    write(tree.join("Case"), b"upper");
    write(tree.join("case"), b"lower");

    let mut deep = tree.join("deep");
    for level in 0..60 {
        deep.push(format!("level{level}"));
    }
    fs::create_dir_all(&deep).expect("directories");
    write(deep.join("bottom"), b"deep");
    // Almost as long as a path can be.
    let mut long = tree.join("long");
    while long.as_os_str().len() < 3800 {
        long.push("component".repeat(22));
    }
    fs::create_dir_all(&long).expect("directories");
    write(long.join("end"), b"far");

    fs::create_dir(tree.join("many")).expect("a directory");
    for number in 0..MANY {
        File::create(tree.join("many").join(format!("{number:05}{}", "x".repeat(number % 100))))
            .expect("a file");
    }
}

fn programs(tree: &Path) {
    fs::create_dir(tree.join("bin")).expect("a directory");
    for (from, to, mode) in [
        ("/bin/true", "bin/true", 0o755),
        ("/bin/cat", "bin/cat", 0o755),
        ("/usr/bin/id", "bin/id", 0o755),
        ("/usr/bin/id", "bin/setuid-id", 0o4755),
    ] {
        fs::copy(from, tree.join(to)).expect("copied");
        set_mode(tree.join(to), mode);
    }
    write(tree.join("bin/script"), b"#!/bin/sh\necho \"script $1\"\n");
    set_mode(tree.join("bin/script"), 0o755);
}

fn times(tree: &Path) {
    let set = |path: PathBuf, tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    };
    // ext4 begins in 1901 and ends in 2446.
    let times =
        [(0, 0), (1, 999_999_999), (-1, 1), (-1, 0), (-2_000_000_000, 123_456_789), (15_000_000_000, 7)];
    for (number, (secs, nanos)) in times.into_iter().enumerate() {
        write(tree.join(format!("time-{number}")), b"x");
        set(tree.join(format!("time-{number}")), secs, nanos);
    }
    set(tree.join("link"), 1_000_000_000, 42);
    set(tree.join("dir"), 1_234_567_890, 987_654_321);
    set(tree.to_owned(), -86_400, 222_222_222);
}
