//! Names, attributes and kinds.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxFlags, openat, statvfs, statx};
use rustix::io::Errno;

use crate::acl;
use crate::case::cases;
use crate::nobody::as_nobody;

cases! { Read "tree":
    every_entry_has_its_attributes
    every_entry_has_its_extended_attributes
    inodes_are_numbered_consistently
    parents_are_found
    symlinks_lead_where_they_should
    what_is_not_there_is_not_found
    deep_and_long_paths_are_walked
    special_nodes_are_shown_but_do_nothing
    other_users_may_what_the_modes_say
    acls_are_honoured
    the_filesystem_describes_itself
    attributes_come_in_any_way_of_asking
}

/// All paths of the tree, itself included, relative to it.
pub(super) fn paths(tree: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(tree.join(&path)).expect("it exists").is_dir() {
            let names = fs::read_dir(tree.join(&path)).expect("listed");
            found.extend(names.map(|entry| path.join(entry.expect("an entry").file_name())));
        }
    }
    found
}

/// The regular files of the tree, relative to it; without those of the large directory.
pub(super) fn files(tree: &Path) -> Vec<PathBuf> {
    let mut paths = paths(tree);
    paths.retain(|path| {
        !path.starts_with("many") && fs::symlink_metadata(tree.join(path)).expect("it exists").is_file()
    });
    paths
}

fn look(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn every_entry_has_its_attributes(at: &Path, tree: &Path) {
    let shown = |meta: &Metadata| {
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let kind = meta.file_type();
        let device = (kind.is_char_device() || kind.is_block_device()).then_some(meta.rdev());
        format!(
            "mode {:o}, {} links, owner {}:{}, size {size}, device {device:?}, modified {}.{:09}, changed {}.{:09}",
            meta.mode(),
            meta.nlink(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        )
    };
    for path in paths(tree) {
        let (expected, found) = (look(&tree.join(&path)), look(&at.join(&path)));
        assert_eq!(shown(&found), shown(&expected), "{path:?}");
        assert_eq!(found.dev(), look(at).dev(), "{path:?}");
        // What a file takes up is counted in whole pages, without what the local disk needs for itself.
        if found.is_file() {
            let limit = expected.blocks().max(found.size().div_ceil(4096) * 8);
            assert!(found.blocks() <= limit, "{path:?} takes up {} blocks", found.blocks());
            assert_eq!(found.blocks() == 0, expected.blocks() == 0, "{path:?}");
        }
    }
    assert_eq!(paths(at).len(), paths(tree).len());
}

fn every_entry_has_its_extended_attributes(at: &Path, tree: &Path) {
    let attributes = |path: &Path| {
        let names = xattr::list(path).expect("listed");
        let mut all: Vec<_> = names.map(|name| (xattr::get(path, &name).expect("read"), name)).collect();
        all.sort();
        all
    };
    let mut some = 0;
    for path in paths(tree).iter().filter(|path| !path.starts_with("many")) {
        let expected = attributes(&tree.join(path));
        assert_eq!(attributes(&at.join(path)), expected, "{path:?}");
        assert_eq!(xattr::get(at.join(path), "user.nowhere").expect("none"), None);
        some += usize::from(!expected.is_empty());
    }
    assert!(some >= 4, "the sample has attributes");
}

fn inodes_are_numbered_consistently(at: &Path, tree: &Path) {
    let mut by_source = HashMap::new();
    let mut by_number = HashMap::new();
    for path in paths(tree) {
        let (source, found) = (look(&tree.join(&path)).ino(), look(&at.join(&path)).ino());
        assert_ne!(found, 0);
        // Two names have one number exactly if they are one file.
        assert_eq!(*by_source.entry(source).or_insert(found), found, "{path:?}");
        assert_eq!(*by_number.entry(found).or_insert(source), source, "{path:?}");
    }
}

fn parents_are_found(at: &Path, tree: &Path) {
    for path in paths(tree).iter().filter(|path| tree.join(path).is_dir() && !path.as_os_str().is_empty()) {
        let Some(parent) = path.parent() else { continue };
        if tree.join(path).is_symlink() || path.as_os_str().len() > 3000 {
            continue;
        }
        let directory = File::open(at.join(path)).expect("opened");
        let up = openat(&directory, "..", OFlags::PATH, Mode::empty()).expect("opened");
        let up = rustix::fs::fstat(&up).expect("it exists");
        assert_eq!(up.st_ino, look(&at.join(parent)).ino(), "{path:?}");
    }
}

fn symlinks_lead_where_they_should(at: &Path, tree: &Path) {
    let mut some = 0;
    for path in paths(tree).iter().filter(|path| tree.join(path).is_symlink()) {
        let target = fs::read_link(tree.join(path)).expect("a target");
        assert_eq!(fs::read_link(at.join(path)).expect("a target"), target, "{path:?}");
        assert_eq!(look(&at.join(path)).size(), target.as_os_str().len() as u64);
        some += 1;
    }
    assert!(some >= 8, "the sample has symlinks");
    assert_eq!(fs::read(at.join("link")).expect("read"), b"a file");
    assert_eq!(fs::read(at.join("link-to-dir/../../dir/up")).expect("read"), b"a file");
    let errno = |path: &str| fs::metadata(at.join(path)).map_err(|error| Errno::from_io_error(&error)).err();
    assert_eq!(errno("dangling"), Some(Some(Errno::NOENT)));
    assert_eq!(errno("loop"), Some(Some(Errno::LOOP)));
    assert_eq!(errno("long-target"), Some(Some(Errno::NAMETOOLONG)));
    let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
    let refused =
        File::options().read(true).custom_flags(nofollow).open(at.join("link")).expect_err("a link");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::LOOP));
    let refused = fs::read_link(at.join("file")).expect_err("no link");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::INVAL));
}

fn what_is_not_there_is_not_found(at: &Path, _: &Path) {
    let errno = |path: &str| Errno::from_io_error(&fs::metadata(at.join(path)).expect_err("nothing"));
    // Twice: the second answer may come from the kernel.
    for _ in 0..2 {
        for path in ["none", "dir/none", "FILE", "files", "fil", "file ", "dir/sub/file", "none/below"] {
            assert_eq!(errno(path), Some(Errno::NOENT), "{path}");
        }
        assert_eq!(errno("file/below"), Some(Errno::NOTDIR));
        assert_eq!(errno("file/"), Some(Errno::NOTDIR));
        assert_eq!(errno("fifo/below"), Some(Errno::NOTDIR));
        assert_eq!(errno(&"n".repeat(256)), Some(Errno::NAMETOOLONG));
    }
    assert_eq!(fs::read(at.join("Case")).expect("read"), b"upper");
    assert_eq!(fs::read(at.join("case")).expect("read"), b"lower");
    assert!(fs::metadata(at.join("./dir//sub/../.")).expect("found").is_dir());
}

fn deep_and_long_paths_are_walked(at: &Path, tree: &Path) {
    let files = files(tree);
    let bottom = files.iter().find(|path| path.ends_with("bottom")).expect("in the sample");
    assert_eq!(fs::read(at.join(bottom)).expect("read"), b"deep");
    let end = files.iter().find(|path| path.ends_with("end")).expect("in the sample");
    assert!(end.as_os_str().len() > 3500);
    assert_eq!(fs::read(at.join(end)).expect("read"), b"far");
    // Step by step, since the whole path might be too long from here.
    let mut directory = File::open(at).expect("opened");
    for component in end.parent().expect("a directory").components() {
        let name = CString::new(component.as_os_str().as_bytes()).expect("no NUL in it");
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        directory = openat(&directory, name, flags, Mode::empty()).expect("opened").into();
    }
    openat(&directory, "end", OFlags::RDONLY, Mode::empty()).expect("opened");
}

fn special_nodes_are_shown_but_do_nothing(at: &Path, _: &Path) {
    assert!(look(&at.join("fifo")).file_type().is_fifo());
    assert!(look(&at.join("socket")).file_type().is_socket());
    let errno = |path: &str| File::open(at.join(path)).map_err(|error| Errno::from_io_error(&error)).err();
    // It is mounted without devices.
    assert_eq!(errno("null"), Some(Some(Errno::ACCESS)));
    assert_eq!(errno("disk"), Some(Some(Errno::ACCESS)));
    assert_eq!(errno("socket"), Some(Some(Errno::NXIO)));
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(nonblock).open(at.join("fifo")).expect("a pipe without a writer");
}

fn other_users_may_what_the_modes_say(at: &Path, _: &Path) {
    assert!(as_nobody(at, "cat file && cat mode-644 && cat owner-nobody && ls dir"));
    assert!(as_nobody(at, "stat mode-0 && test ! -r mode-0 && test ! -x mode-644 && test -x mode-755"));
    assert!(!as_nobody(at, "cat mode-400"));
    assert!(!as_nobody(at, "cat mode-0"));
    assert!(!as_nobody(at, "ls closed"));
    assert!(!as_nobody(at, "cat closed/inside"));
    assert!(!as_nobody(at, "ls passage"));
    assert!(as_nobody(at, "cat passage/inside"));
    assert!(!as_nobody(at, "cat setgid/inside"));
    // Root may read what nobody is allowed to.
    assert_eq!(fs::read(at.join("mode-0")).expect("read"), b"x");
}

fn acls_are_honoured(at: &Path, _: &Path) {
    assert_eq!(look(&at.join("acl")).mode() & 0o777, 0o640, "the group's bits show the mask");
    assert!(as_nobody(at, "cat acl"), "it is granted to this user");
    let value = xattr::get(at.join("acl"), acl::ACCESS).expect("read");
    assert_eq!(value, Some(acl::granting(acl::READ, crate::nobody::NOBODY)));
}

fn the_filesystem_describes_itself(at: &Path, _: &Path) {
    let space = statvfs(at).expect("statvfs");
    assert_eq!(space.f_namemax, 255);
    assert!(space.f_blocks > 0 && space.f_files > 5000 && space.f_bavail <= space.f_blocks);
    assert!(space.f_flag.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
    let file = File::open(at.join("file")).expect("opened");
    assert_eq!(rustix::fs::fstatvfs(&file).expect("statvfs").f_blocks, space.f_blocks);
}

fn attributes_come_in_any_way_of_asking(at: &Path, _: &Path) {
    for name in ["file", "dir", "size-4097", "sparse"] {
        let path = at.join(name);
        let by_name = look(&path);
        let file = File::open(&path).expect("opened");
        let by_handle = file.metadata().expect("open");
        let asked = |flags| {
            let found = statx(CWD, &path, flags, StatxFlags::BASIC_STATS).expect("statx");
            (found.stx_ino, found.stx_size, found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec)
        };
        let shown = |meta: &Metadata| {
            let nanos = u32::try_from(meta.mtime_nsec()).expect("less than a second");
            (meta.ino(), meta.size(), meta.mtime(), nanos)
        };
        assert_eq!(shown(&by_handle), shown(&by_name), "{name}");
        assert_eq!(asked(AtFlags::empty()), shown(&by_name), "{name}");
        assert_eq!(asked(AtFlags::STATX_FORCE_SYNC), shown(&by_name), "{name}");
        assert_eq!(asked(AtFlags::STATX_DONT_SYNC), shown(&by_name), "{name}");
    }
}
