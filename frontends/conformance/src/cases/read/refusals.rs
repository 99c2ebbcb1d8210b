//! Nothing can be changed, by no call, not even by root; and every refusal says `EROFS`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, XattrFlags,
    accessat, mknodat, removexattr, renameat_with, setxattr, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::acl;
use crate::case::cases;
use crate::nobody::as_nobody;

cases! { Refuse "refusals":
    nothing_is_opened_for_writing
    nothing_is_made
    nothing_is_removed
    nothing_is_renamed
    no_attribute_changes
    no_extended_attribute_changes
    writing_is_not_among_the_rights
    handles_for_reading_do_not_write
    what_exists_can_be_opened_as_if_to_be_made
    pipes_and_locks_work_nevertheless
}

/// The errno of a call that must not succeed.
#[track_caller]
fn refused<T, E: Into<std::io::Error>>(result: Result<T, E>) -> Errno {
    match result {
        Ok(_) => panic!("it is allowed"),
        Err(error) => Errno::from_io_error(&error.into()).expect("an error of the system"),
    }
}

const ROFS: Errno = Errno::ROFS;

fn nothing_is_opened_for_writing(at: &Path, tree: &Path) {
    for name in ["file", "dir/file", "size-0", "mode-7777", "mode-0", "link"] {
        let path = at.join(name);
        assert_eq!(refused(OpenOptions::new().write(true).open(&path)), ROFS, "{name}");
        assert_eq!(refused(OpenOptions::new().read(true).write(true).open(&path)), ROFS, "{name}");
        assert_eq!(refused(OpenOptions::new().append(true).open(&path)), ROFS, "{name}");
        assert_eq!(refused(OpenOptions::new().write(true).truncate(true).open(&path)), ROFS, "{name}");
    }
    assert_eq!(refused(OpenOptions::new().write(true).open(at.join("dir"))), Errno::ISDIR);
    assert_eq!(fs::read(at.join("file")).expect("read"), fs::read(tree.join("file")).expect("read"));
    assert_eq!(fs::metadata(at.join("file")).expect("it exists").len(), 6);
}

fn nothing_is_made(at: &Path, _: &Path) {
    for dir in ["", "dir", "empty", "sticky"] {
        let new = at.join(dir).join("new");
        assert_eq!(refused(File::create(&new)), ROFS);
        assert_eq!(refused(File::create_new(&new)), ROFS);
        assert_eq!(refused(fs::create_dir(&new)), ROFS);
        assert_eq!(refused(symlink("file", &new)), ROFS);
        assert_eq!(refused(fs::hard_link(at.join("file"), &new)), ROFS);
        for kind in [FileType::RegularFile, FileType::Fifo, FileType::Socket, FileType::CharacterDevice] {
            assert_eq!(refused(mknodat(CWD, &new, kind, Mode::RWXU, 0)), ROFS);
        }
        let unnamed = OFlags::TMPFILE.bits().cast_signed();
        let opened = OpenOptions::new().write(true).custom_flags(unnamed).open(at.join(dir));
        assert!([ROFS, Errno::OPNOTSUPP].contains(&refused(opened)));
        assert!(!new.exists());
    }
    // What is there already is found before anything is refused, whoever does the refusing.
    assert_eq!(refused(fs::create_dir(at.join("dir"))), Errno::EXIST);
    assert_eq!(refused(symlink("x", at.join("file"))), Errno::EXIST);
    assert_eq!(refused(fs::hard_link(at.join("file"), at.join("dir"))), Errno::EXIST);
    assert_eq!(refused(File::create_new(at.join("file"))), Errno::EXIST);
    assert_eq!(refused(File::create(at.join("none/new"))), Errno::NOENT);
    assert_eq!(refused(File::create(at.join("file/new"))), Errno::NOTDIR);
}

fn nothing_is_removed(at: &Path, _: &Path) {
    for name in ["file", "link", "hard", "fifo", "sticky/inside", "dir/sub"] {
        let flags = if name == "dir/sub" { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        assert_eq!(refused(unlinkat(CWD, at.join(name), flags)), ROFS, "{name}");
        assert!(at.join(name).symlink_metadata().is_ok(), "{name}");
    }
    assert_eq!(refused(fs::remove_dir(at.join("empty"))), ROFS);
    // Which of the two rules is seen first is not laid down.
    assert!([ROFS, Errno::NOTEMPTY].contains(&refused(fs::remove_dir(at.join("dir")))));
    assert!([ROFS, Errno::NOENT].contains(&refused(fs::remove_file(at.join("none")))));
}

fn nothing_is_renamed(at: &Path, _: &Path) {
    for (from, to) in
        [("file", "new"), ("file", "dir/new"), ("dir", "new"), ("file", "hard"), ("empty", "dir/sub")]
    {
        assert_eq!(refused(fs::rename(at.join(from), at.join(to))), ROFS, "{from} to {to}");
        assert!(at.join(from).exists() && !at.join("new").exists());
    }
    for flags in [RenameFlags::NOREPLACE, RenameFlags::EXCHANGE] {
        let to = if flags == RenameFlags::NOREPLACE { "new" } else { "dir" };
        assert_eq!(refused(renameat_with(CWD, at.join("file"), CWD, at.join(to), flags)), ROFS);
    }
}

fn no_attribute_changes(at: &Path, _: &Path) {
    for name in ["file", "dir", "", "fifo"] {
        let path = at.join(name);
        let before = fs::symlink_metadata(&path).expect("it exists");
        assert_eq!(refused(fs::set_permissions(&path, Permissions::from_mode(0o600))), ROFS, "{name}");
        assert_eq!(refused(chown(&path, Some(5), Some(5))), ROFS, "{name}");
        let at_epoch = Timespec { tv_sec: 0, tv_nsec: 0 };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        for time in [at_epoch, now] {
            let times = Timestamps { last_access: time, last_modification: time };
            assert_eq!(refused(utimensat(CWD, &path, &times, AtFlags::empty())), ROFS, "{name}");
        }
        let after = fs::symlink_metadata(&path).expect("it exists");
        assert_eq!((after.mode(), after.uid(), after.mtime()), (before.mode(), before.uid(), before.mtime()));
    }
    assert_eq!(refused(lchown(at.join("link"), Some(5), Some(5))), ROFS);
    let file = File::open(at.join("file")).expect("opened");
    assert_eq!(refused(file.set_permissions(Permissions::from_mode(0o600))), ROFS);
    // Reading is no change.
    let atime =
        |path: &Path| fs::metadata(path).map(|meta| (meta.atime(), meta.atime_nsec())).expect("it exists");
    let before = atime(&at.join("time-2"));
    fs::read(at.join("time-2")).expect("read");
    assert_eq!(atime(&at.join("time-2")), before);
}

fn no_extended_attribute_changes(at: &Path, _: &Path) {
    for name in ["attributes", "file", "dir"] {
        let path = at.join(name);
        assert_eq!(refused(setxattr(&path, "user.new", b"x", XattrFlags::empty())), ROFS, "{name}");
        assert_eq!(refused(setxattr(&path, "trusted.new", b"x", XattrFlags::empty())), ROFS, "{name}");
        let acl = acl::granting(acl::READ, 5);
        assert_eq!(refused(setxattr(&path, acl::ACCESS, &acl, XattrFlags::empty())), ROFS, "{name}");
    }
    assert_eq!(refused(setxattr(at.join("attributes"), "user.note", b"x", XattrFlags::REPLACE)), ROFS);
    assert_eq!(refused(removexattr(at.join("attributes"), "user.note")), ROFS);
    assert_eq!(xattr::get(at.join("attributes"), "user.note").expect("read"), Some(b"plain".to_vec()));
}

fn writing_is_not_among_the_rights(at: &Path, _: &Path) {
    for name in ["file", "mode-7777", "dir", "bin/true"] {
        let may = |access| accessat(CWD, at.join(name), access, AtFlags::empty());
        may(Access::READ_OK | Access::EXISTS).expect("it can be read");
        // Root has all rights where the filesystem refuses by itself; the kernel knows no better then.
        let writing = may(Access::WRITE_OK);
        assert!(writing == Err(ROFS) || refuses_by_itself(at), "{name}: {writing:?}");
    }
    assert!(!as_nobody(at, "echo x >> mode-7777"));
    assert!(!as_nobody(at, "touch sticky/new"));
}

/// Whether it is mounted as if it could be written.
fn refuses_by_itself(at: &Path) -> bool {
    let space = rustix::fs::statvfs(at).expect("statvfs");
    !space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
}

fn handles_for_reading_do_not_write(at: &Path, _: &Path) {
    use std::io::Write;
    let mut file = File::open(at.join("file")).expect("opened");
    assert_eq!(refused(file.write(b"x")), Errno::BADF);
    assert!([Errno::INVAL, Errno::BADF].contains(&refused(file.set_len(0))));
    file.sync_all().expect("there is nothing to write");
    file.sync_data().expect("there is nothing to write");
    File::open(at.join("dir")).expect("opened").sync_all().expect("there is nothing to write");
    rustix::fs::syncfs(&file).expect("there is nothing to write");
}

fn what_exists_can_be_opened_as_if_to_be_made(at: &Path, _: &Path) {
    let create = OFlags::CREATE.bits().cast_signed();
    let open =
        |name: &str| OpenOptions::new().read(true).custom_flags(create).mode(0o644).open(at.join(name));
    open("file").expect("it is there");
    assert_eq!(refused(open("new")), ROFS);
}

fn pipes_and_locks_work_nevertheless(at: &Path, _: &Path) {
    use std::io::{Read, Write};
    let open = |options: &mut OpenOptions| options.open(at.join("fifo")).expect("opened");
    // Opened for both, it does not wait for another end.
    let mut both = open(OpenOptions::new().read(true).write(true));
    let mut writer = open(OpenOptions::new().write(true));
    writer.write_all(b"through").expect("written");
    let mut text = [0; 7];
    both.read_exact(&mut text).expect("read");
    assert_eq!(&text, b"through");
    let file = File::open(at.join("file")).expect("opened");
    file.lock_shared().expect("locked");
}
