//! Making, linking, renaming and removing.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "names":
    all_kinds_are_made
    odd_names_are_kept
    long_names_are_refused
    removal_follows_the_rules
    hard_links_share_a_file
    rename_follows_the_rules
    rename_flags
    an_open_file_survives_its_name
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.expect_err("it must fail"))
}

fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("it exists").ino()
}

fn all_kinds_are_made(at: &Path) {
    fs::write(at.join("file"), "x").expect("a file");
    assert_eq!(fs::read(at.join("file")).expect("readable"), b"x");
    fs::create_dir(at.join("dir")).expect("a directory");
    symlink("file", at.join("link")).expect("a symlink");
    assert_eq!(fs::read_link(at.join("link")).expect("a target"), Path::new("file"));
    assert_eq!(fs::read(at.join("link")).expect("followed"), b"x");
    let long = "x".repeat(4000);
    symlink(&long, at.join("long")).expect("a long symlink");
    assert_eq!(fs::read_link(at.join("long")).expect("a target"), Path::new(&long));
    // By a relative path: that of a socket is short.
    env::set_current_dir(at).expect("entered");
    let listener = UnixListener::bind("socket").expect("a socket");
    assert!(fs::metadata(at.join("socket")).expect("it exists").file_type().is_socket());
    drop(listener);

    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at.join("fifo"), FileType::Fifo, mode, 0).expect("a fifo");
    let fifo = fs::metadata(at.join("fifo")).expect("it exists");
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o640 & !0o022);
    for (name, kind, major, minor) in
        [("null", FileType::CharacterDevice, 1, 3), ("disk", FileType::BlockDevice, 259, 0xabcde)]
    {
        mknodat(CWD, at.join(name), kind, mode, makedev(major, minor)).expect("a device");
        let made = fs::metadata(at.join(name)).expect("it exists");
        assert_eq!(made.rdev(), makedev(major, minor), "{name}");
        assert_eq!(FileType::from_raw_mode(made.mode()), kind);
    }
    let mut null = OpenOptions::new().write(true).open(at.join("null")).expect("a device that works");
    null.write_all(b"gone").expect("swallowed");
}

fn odd_names_are_kept(at: &Path) {
    let names: [&[u8]; 6] = [b"a|b", b"new\nline", b"\xff\xfe", "\u{fc}\u{1f600}".as_bytes(), b"...", b" "];
    for name in names {
        fs::write(at.join(OsStr::from_bytes(name)), name).expect("made");
    }
    let mut listed: Vec<_> =
        fs::read_dir(at).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
    let mut made: Vec<_> = names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect();
    listed.sort();
    made.sort();
    assert_eq!(listed, made);
    for name in made {
        assert_eq!(fs::read(at.join(&name)).expect("readable"), name.as_bytes());
    }
}

fn long_names_are_refused(at: &Path) {
    let longest = at.join("x".repeat(255));
    let longer = at.join("x".repeat(256));
    fs::write(&longest, "fits").expect("255 bytes are a name");
    assert_eq!(fs::read(&longest).expect("readable"), b"fits");
    assert_eq!(errno(File::create(&longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::metadata(&longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::create_dir(&longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(symlink("x", &longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::rename(&longest, &longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::hard_link(&longest, &longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::remove_file(&longer)), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::remove_dir(&longer)), Some(Errno::NAMETOOLONG));
}

fn removal_follows_the_rules(at: &Path) {
    fs::create_dir_all(at.join("dir/sub")).expect("directories");
    fs::write(at.join("file"), "").expect("a file");
    assert_eq!(errno(fs::remove_dir(at.join("dir"))), Some(Errno::NOTEMPTY));
    assert_eq!(errno(fs::remove_dir(at.join("file"))), Some(Errno::NOTDIR));
    assert_eq!(errno(fs::remove_file(at.join("dir"))), Some(Errno::ISDIR));
    assert_eq!(errno(fs::remove_file(at.join("none"))), Some(Errno::NOENT));
    assert_eq!(errno(fs::remove_file(at.join("file/below"))), Some(Errno::NOTDIR));
    assert_eq!(errno(fs::create_dir(at.join("file"))), Some(Errno::EXIST));
    assert_eq!(errno(File::create_new(at.join("file"))), Some(Errno::EXIST));
    fs::remove_dir(at.join("dir/sub")).expect("an empty directory");
    fs::remove_dir(at.join("dir")).expect("an empty directory");
    fs::remove_file(at.join("file")).expect("a file");
    assert_eq!(fs::read_dir(at).expect("listed").count(), 0);
}

fn hard_links_share_a_file(at: &Path) {
    let (a, b) = (at.join("a"), at.join("b"));
    fs::write(&a, "one").expect("a file");
    fs::hard_link(&a, &b).expect("linked");
    assert_eq!((ino(&a), fs::metadata(&a).expect("it exists").nlink()), (ino(&b), 2));
    fs::write(&b, "two").expect("written");
    assert_eq!(fs::read(&a).expect("readable"), b"two");
    fs::remove_file(&a).expect("removed");
    assert_eq!(fs::metadata(&b).expect("it exists").nlink(), 1);
    fs::create_dir(at.join("dir")).expect("a directory");
    assert_eq!(errno(fs::hard_link(at.join("dir"), at.join("other"))), Some(Errno::PERM));
    assert_eq!(errno(fs::hard_link(&b, at.join("dir"))), Some(Errno::EXIST));
    assert_eq!(errno(fs::hard_link(&a, at.join("c"))), Some(Errno::NOENT));
}

fn rename_follows_the_rules(at: &Path) {
    let path = |name: &str| at.join(name);
    fs::write(path("a"), "a").expect("a file");
    fs::write(path("b"), "b").expect("a file");
    let a = ino(&path("a"));
    let mut replaced = File::open(path("b")).expect("opened");
    fs::rename(path("a"), path("b")).expect("it replaces a file");
    assert_eq!(errno(fs::metadata(path("a"))), Some(Errno::NOENT));
    assert_eq!((ino(&path("b")), fs::read(path("b")).expect("readable")), (a, b"a".to_vec()));
    let mut text = String::new();
    replaced.read_to_string(&mut text).expect("an open file stays");
    assert_eq!((text.as_str(), replaced.metadata().expect("open").nlink()), ("b", 0));

    fs::hard_link(path("b"), path("same")).expect("linked");
    fs::rename(path("b"), path("same")).expect("nothing to do");
    assert_eq!(ino(&path("b")), ino(&path("same")));

    fs::create_dir_all(path("dir/sub/deep")).expect("directories");
    fs::create_dir(path("empty")).expect("a directory");
    assert_eq!(errno(fs::rename(path("dir"), path("dir/sub/x"))), Some(Errno::INVAL));
    assert_eq!(errno(fs::rename(path("dir/sub"), path("dir"))), Some(Errno::NOTEMPTY));
    assert_eq!(errno(fs::rename(path("empty"), path("dir"))), Some(Errno::NOTEMPTY));
    assert_eq!(errno(fs::rename(path("b"), path("dir"))), Some(Errno::ISDIR));
    assert_eq!(errno(fs::rename(path("dir"), path("b"))), Some(Errno::NOTDIR));
    assert_eq!(errno(fs::rename(path("none"), path("b"))), Some(Errno::NOENT));
    let sub = ino(&path("dir/sub"));
    fs::rename(path("dir/sub"), path("empty")).expect("it replaces an empty directory");
    assert_eq!(ino(&path("empty")), sub);
    assert!(path("empty/deep").is_dir());
    assert_eq!(fs::metadata(path("dir")).expect("it exists").nlink(), 2);
    assert_eq!(ino(&path("empty/deep/../..")), ino(at));
}

fn rename_flags(at: &Path) {
    let path = |name: &str| at.join(name);
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, path(from), CWD, path(to), flags);
    fs::write(path("a"), "a").expect("a file");
    fs::create_dir_all(path("dir/sub")).expect("directories");
    assert_eq!(rename("a", "dir", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("a", "b", RenameFlags::NOREPLACE).expect("a free name");
    assert_eq!(rename("b", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(rename("dir", "dir/sub", RenameFlags::EXCHANGE), Err(Errno::INVAL));
    rename("b", "dir/sub", RenameFlags::EXCHANGE).expect("swapped");
    assert!(path("b").is_dir());
    assert_eq!(fs::read(path("dir/sub")).expect("a file"), b"a");
    assert_eq!(fs::metadata(path("dir")).expect("it exists").nlink(), 2);
    // A kind of move that a filesystem may lack, but not do by halves.
    match rename("b", "c", RenameFlags::WHITEOUT) {
        Ok(()) => assert!(path("b").exists() && path("c").is_dir()),
        Err(errno) => {
            assert_eq!(errno, Errno::INVAL);
            assert!(path("b").is_dir() && !path("c").exists());
        }
    }
}

fn an_open_file_survives_its_name(at: &Path) {
    let path = at.join("f");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("made");
    file.write_all(b"before").expect("written");
    fs::remove_file(&path).expect("removed");
    assert_eq!(fs::metadata(&path).expect_err("gone").kind(), ErrorKind::NotFound);
    file.write_all(b" and after").expect("written");
    file.rewind().expect("rewound");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before and after");
    file.set_len(3).expect("truncated");
    let left = file.metadata().expect("it has attributes");
    assert_eq!((left.nlink(), left.len()), (0, 3));
    fs::write(&path, "another").expect("the name is free");
    assert_ne!(fs::metadata(&path).expect("made").ino(), left.ino());
}
