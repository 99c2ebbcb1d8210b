//! Ways through directories: long, winding, or gone.

use std::env;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, fstat, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "paths":
    paths_beyond_the_limit_are_walked_step_by_step
    symlinks_are_followed_or_not
    links_to_links_end_somewhere
    dots_are_no_names
    a_directory_that_is_gone_takes_nothing_in
    a_directory_is_moved_with_all_that_is_in_it
    trailing_slashes_want_directories
}

fn directory(at: &OwnedFd, name: &str) -> OwnedFd {
    openat(at, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("opened")
}

fn paths_beyond_the_limit_are_walked_step_by_step(at: &Path) {
    const LEVELS: usize = 40;
    let name = "level".repeat(40);
    let mut levels: Vec<OwnedFd> = vec![File::open(at).expect("opened").into()];
    for _ in 0..LEVELS {
        let above = levels.last().expect("the root at least");
        mkdirat(above, &name, Mode::RWXU).expect("made");
        let below = directory(above, &name);
        levels.push(below);
    }
    let bottom = levels.last().expect("many");
    let flags = OFlags::CREATE | OFlags::RDWR;
    let file = openat(bottom, "file", flags, Mode::RUSR | Mode::WUSR).expect("made");
    rustix::io::write(&file, b"deep").expect("written");
    linkat(bottom, "file", bottom, "link", AtFlags::empty()).expect("linked");
    symlinkat("file", bottom, "symlink").expect("linked");
    renameat(bottom, "link", &levels[LEVELS / 2], "moved").expect("renamed");
    assert_eq!(fstat(&file).expect("open").st_nlink, 2);

    // From here it is too long, from half way it is not.
    let path = [name.as_str(); LEVELS].join("/");
    assert_eq!(statat(&levels[0], &path, AtFlags::empty()).map(|_| ()), Err(Errno::NAMETOOLONG));
    let half = format!("{}/file", [name.as_str(); LEVELS / 4].join("/"));
    let found = statat(&levels[LEVELS - LEVELS / 4], &half, AtFlags::empty()).expect("it is there");
    assert_eq!(found.st_ino, fstat(&file).expect("open").st_ino);
    let up = statat(bottom, [".."; LEVELS].join("/"), AtFlags::empty()).expect("the root");
    assert_eq!(up.st_ino, fs::metadata(at).expect("it exists").ino());
    assert_eq!(Dir::read_from(bottom).expect("a listing").count(), 4);

    unlinkat(bottom, "file", AtFlags::empty()).expect("removed");
    unlinkat(bottom, "symlink", AtFlags::empty()).expect("removed");
    unlinkat(&levels[LEVELS / 2], "moved", AtFlags::empty()).expect("removed");
    for above in levels[..LEVELS].iter().rev() {
        unlinkat(above, &name, AtFlags::REMOVEDIR).expect("removed");
    }
    assert_eq!(fs::read_dir(at).expect("listed").count(), 0);
}

fn symlinks_are_followed_or_not(at: &Path) {
    fs::create_dir_all(at.join("dir/sub")).expect("made");
    fs::write(at.join("dir/file"), "x").expect("written");
    symlink("dir", at.join("to-dir")).expect("linked");
    symlink("file", at.join("dir/to-file")).expect("linked");
    symlink(at.join("dir/file"), at.join("absolute")).expect("linked");
    symlink("nothing", at.join("dangling")).expect("linked");
    for path in ["to-dir/file", "to-dir/to-file", "absolute", "to-dir/sub/../to-file"] {
        assert_eq!(fs::read(at.join(path)).expect("followed"), b"x", "{path}");
    }
    let nofollow = |path: &str| openat(CWD, at.join(path), OFlags::NOFOLLOW, Mode::empty()).map(drop);
    assert_eq!(nofollow("absolute"), Err(Errno::LOOP));
    assert_eq!(nofollow("to-dir/file"), Ok(()), "only the last name counts");
    // What is made at a link that leads nowhere is made where it leads to.
    fs::write(at.join("dangling"), "made").expect("written");
    assert_eq!(fs::read(at.join("nothing")).expect("read"), b"made");
    let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let refused = openat(CWD, at.join("dangling"), exclusive, Mode::RUSR).map(drop);
    assert_eq!(refused, Err(Errno::EXIST));
    // A hard link to a link is one more name of the link.
    fs::hard_link(at.join("dangling"), at.join("again")).expect("linked");
    assert_eq!(fs::read_link(at.join("again")).expect("a link"), Path::new("nothing"));
    assert_eq!(fs::symlink_metadata(at.join("again")).expect("it exists").nlink(), 2);
    fs::remove_file(at.join("to-dir")).expect("the link is removed");
    assert!(at.join("dir/file").exists());
}

fn links_to_links_end_somewhere(at: &Path) {
    fs::write(at.join("0"), "end").expect("written");
    for number in 1..=45 {
        symlink((number - 1).to_string(), at.join(number.to_string())).expect("linked");
    }
    assert_eq!(fs::read(at.join("40")).expect("followed"), b"end");
    let lost = fs::read(at.join("45")).expect_err("too far");
    assert_eq!(Errno::from_io_error(&lost), Some(Errno::LOOP));
    symlink("b", at.join("a")).expect("linked");
    symlink("a", at.join("b")).expect("linked");
    let lost = fs::read(at.join("a")).expect_err("nowhere");
    assert_eq!(Errno::from_io_error(&lost), Some(Errno::LOOP));
}

fn dots_are_no_names(at: &Path) {
    fs::create_dir_all(at.join("dir/sub")).expect("made");
    let remove = |path: &str| unlinkat(CWD, at.join("dir").join(path), AtFlags::REMOVEDIR);
    let rename =
        |from: &str, to: &str| renameat(CWD, at.join("dir").join(from), CWD, at.join("dir").join(to));
    assert_eq!(remove("sub/."), Err(Errno::INVAL));
    assert_eq!(remove("sub/.."), Err(Errno::NOTEMPTY));
    assert_eq!(rename("sub/.", "new"), Err(Errno::BUSY));
    assert_eq!(rename("sub", "."), Err(Errno::BUSY));
    assert_eq!(rename("..", "new"), Err(Errno::BUSY));
    assert_eq!(mkdirat(CWD, at.join("dir/."), Mode::RWXU), Err(Errno::EXIST));
    assert_eq!(unlinkat(CWD, at.join("dir/sub/."), AtFlags::empty()), Err(Errno::ISDIR));
    assert!(at.join("dir/sub/./../sub").is_dir());
}

fn a_directory_that_is_gone_takes_nothing_in(at: &Path) {
    fs::create_dir(at.join("dir")).expect("made");
    let gone: OwnedFd = File::open(at.join("dir")).expect("opened").into();
    let before = fstat(&gone).expect("open");
    fs::remove_dir(at.join("dir")).expect("removed, though it is open");
    let after = fstat(&gone).expect("still open");
    assert_eq!((after.st_ino, after.st_nlink), (before.st_ino, 0));
    let create = OFlags::CREATE | OFlags::WRONLY;
    assert_eq!(openat(&gone, "new", create, Mode::RUSR).map(drop), Err(Errno::NOENT));
    assert_eq!(mkdirat(&gone, "new", Mode::RWXU), Err(Errno::NOENT));
    assert_eq!(symlinkat("x", &gone, "new"), Err(Errno::NOENT));
    let names = Dir::read_from(&gone).expect("a listing").map(|entry| entry.expect("an entry"));
    assert_eq!(names.filter(|entry| !entry.file_name().to_bytes().starts_with(b".")).count(), 0);
    // A new one of the same name is another one.
    fs::create_dir(at.join("dir")).expect("made");
    File::create(at.join("dir/f")).expect("made");
    assert_eq!(statat(&gone, "f", AtFlags::empty()).map(|_| ()), Err(Errno::NOENT));
}

fn a_directory_is_moved_with_all_that_is_in_it(at: &Path) {
    fs::create_dir_all(at.join("from/a/b")).expect("made");
    fs::create_dir(at.join("to")).expect("made");
    fs::write(at.join("from/a/b/f"), "before").expect("written");
    let inside: OwnedFd = File::open(at.join("from/a/b")).expect("opened").into();
    let mut file = File::options().append(true).open(at.join("from/a/b/f")).expect("opened");
    env::set_current_dir(at.join("from/a")).expect("entered");
    fs::rename(at.join("from/a"), at.join("to/c")).expect("moved");

    std::io::Write::write_all(&mut file, b" and after").expect("still open");
    assert_eq!(fs::read("b/f").expect("the working directory moved along"), b"before and after");
    assert_eq!(fs::read(at.join("to/c/b/f")).expect("moved"), b"before and after");
    assert!(!at.join("from/a").exists() && at.join("from").exists());
    let up = statat(&inside, "../..", AtFlags::empty()).expect("it has a parent");
    assert_eq!(up.st_ino, fs::metadata(at.join("to")).expect("it exists").ino());
    assert_eq!(env::current_dir().expect("it is somewhere"), at.join("to/c"));
    env::set_current_dir("/").expect("left");
}

fn trailing_slashes_want_directories(at: &Path) {
    fs::create_dir(at.join("dir")).expect("made");
    fs::write(at.join("file"), "x").expect("written");
    symlink("dir", at.join("link")).expect("linked");
    let errno = |path: &str| Errno::from_io_error(&fs::metadata(at.join(path)).expect_err("no directory"));
    assert!(fs::symlink_metadata(at.join("link/")).expect("followed").is_dir());
    assert_eq!(errno("file/"), Some(Errno::NOTDIR));
    assert_eq!(errno("none/"), Some(Errno::NOENT));
    fs::create_dir(at.join("new/")).expect("made");
    fs::rename(at.join("new/"), at.join("newer/")).expect("renamed");
    let refused = fs::rename(at.join("file"), at.join("new/")).expect_err("no directory");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOTDIR));
    let refused = File::create(at.join("f/")).expect_err("no directory");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ISDIR));
}
