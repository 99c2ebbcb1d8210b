//! Modes, owners, times and sizes.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, statvfs, utimensat};

use crate::case::cases;

cases! { Write "attributes":
    modes_and_owners_change
    times_are_exact_to_the_nanosecond
    changes_move_the_right_times
    setgid_directories_hand_on_their_group
    link_counts_of_directories
    the_filesystem_has_a_size
}

type Stamp = (i64, i64);

fn times(path: &Path) -> (Stamp, Stamp, Stamp) {
    let meta = fs::symlink_metadata(path).expect("it exists");
    ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

fn mtime(path: &Path) -> Stamp {
    times(path).1
}

fn ctime(path: &Path) -> Stamp {
    times(path).2
}

fn modes_and_owners_change(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    for mode in [0o7777, 0, 0o4755, 0o2711, 0o1700] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("changed");
        assert_eq!(fs::metadata(&file).expect("it exists").mode() & 0o7777, mode);
    }
    chown(&file, Some(1234), None).expect("changed");
    chown(&file, None, Some(0x7fff_0001)).expect("changed");
    let meta = fs::metadata(&file).expect("it exists");
    assert_eq!((meta.uid(), meta.gid()), (1234, 0x7fff_0001));
    symlink("f", at.join("l")).expect("a symlink");
    lchown(at.join("l"), Some(7), Some(8)).expect("changed");
    let link = fs::symlink_metadata(at.join("l")).expect("it exists");
    assert_eq!((link.uid(), link.gid()), (7, 8));
    assert_eq!(fs::metadata(&file).expect("it exists").uid(), 1234);
}

fn times_are_exact_to_the_nanosecond(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    let set = |atime: Timespec, mtime: Timespec| {
        let stamps = Timestamps { last_access: atime, last_modification: mtime };
        utimensat(CWD, &file, &stamps, AtFlags::empty()).expect("set");
    };
    let stamp = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    for (secs, nanos) in [
        (0, 0),
        (1, 999_999_999),
        (-1, 0),
        (-1, 999_999_999),
        (-5, 250_000_000),
        (-2_000_000_000, 1),
        // ext4 ends in 2446.
        (15_000_000_000, 123_456_789),
    ] {
        set(stamp(secs, nanos), stamp(secs + 7, nanos));
        let (atime, mtime, _) = times(&file);
        assert_eq!((atime, mtime), ((secs, nanos), (secs + 7, nanos)));
    }
    set(stamp(100, 1), stamp(0, UTIME_OMIT));
    let (atime, mtime_before, _) = times(&file);
    assert_eq!((atime, mtime_before), ((100, 1), (15_000_000_007, 123_456_789)));
    set(stamp(0, UTIME_OMIT), stamp(0, UTIME_NOW));
    let (atime, mtime, ctime) = times(&file);
    assert_eq!(atime, (100, 1));
    assert_eq!(mtime, ctime);
    assert!(mtime.0 > 1_600_000_000 && mtime < mtime_before);
}

fn changes_move_the_right_times(at: &Path) {
    let file = at.join("f");
    let mut handle = File::create(&file).expect("made");
    let (_, made, _) = times(&file);
    assert!(mtime(at) >= made);

    let (_, mtime_before, ctime_before) = times(&file);
    handle.write_all(b"x").expect("written");
    assert!(mtime(&file) > mtime_before && ctime(&file) > ctime_before);

    let (_, mtime_before, ctime_before) = times(&file);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("changed");
    assert!(mtime(&file) == mtime_before && ctime(&file) > ctime_before);

    let ctime_before = ctime(&file);
    fs::hard_link(&file, at.join("g")).expect("linked");
    assert!(mtime(&file) == mtime_before && ctime(&file) > ctime_before);

    let (ctime_before, parent_before) = (ctime(&file), times(at));
    fs::remove_file(at.join("g")).expect("removed");
    assert!(mtime(&file) == mtime_before && ctime(&file) > ctime_before);
    assert!(mtime(at) > parent_before.1 && ctime(at) > parent_before.2);

    let (before, parent_before) = (times(&file), times(at));
    fs::create_dir(at.join("d")).expect("made");
    assert!(mtime(at) > parent_before.1);
    let (parent_before, target_before) = (times(at), times(&at.join("d")));
    fs::rename(&file, at.join("d/f")).expect("renamed");
    assert!(mtime(at) > parent_before.1 && mtime(&at.join("d")) > target_before.1);
    assert!(mtime(&at.join("d/f")) == before.1 && ctime(&at.join("d/f")) > before.2);

    let before = times(&at.join("d/f"));
    handle.set_len(0).expect("truncated");
    assert!(mtime(&at.join("d/f")) > before.1);
}

fn setgid_directories_hand_on_their_group(at: &Path) {
    let shared = at.join("shared");
    fs::create_dir(&shared).expect("made");
    chown(&shared, None, Some(4321)).expect("changed");
    fs::set_permissions(&shared, Permissions::from_mode(0o2775)).expect("changed");
    File::create(shared.join("f")).expect("made");
    fs::create_dir(shared.join("d")).expect("made");
    symlink("f", shared.join("l")).expect("made");
    for name in ["f", "d", "l"] {
        assert_eq!(fs::symlink_metadata(shared.join(name)).expect("it exists").gid(), 4321, "{name}");
    }
    let setgid = |name| fs::metadata(shared.join(name)).expect("it exists").mode() & 0o2000 != 0;
    assert!(setgid("d") && !setgid("f"));
}

fn link_counts_of_directories(at: &Path) {
    let nlink = |path: &Path| fs::metadata(path).expect("it exists").nlink();
    assert_eq!(nlink(at), 2);
    fs::create_dir_all(at.join("a/b")).expect("made");
    fs::write(at.join("a/f"), "").expect("made");
    assert_eq!((nlink(at), nlink(&at.join("a")), nlink(&at.join("a/b"))), (3, 3, 2));
    fs::rename(at.join("a/b"), at.join("b")).expect("renamed");
    assert_eq!((nlink(at), nlink(&at.join("a"))), (4, 2));
    fs::remove_dir(at.join("b")).expect("removed");
    assert_eq!(nlink(at), 3);
}

fn the_filesystem_has_a_size(at: &Path) {
    let space = statvfs(at).expect("statvfs");
    assert_eq!(space.f_namemax, 255);
    assert!(space.f_blocks > 0 && space.f_bfree > 0 && space.f_files > 0);
    assert!(space.f_bavail <= space.f_bfree && space.f_bfree <= space.f_blocks);
    // That free space shrinks cannot be shown here: others use a local disk as well.
    let mut file = File::create(at.join("f")).expect("made");
    file.write_all(&vec![1; 1 << 20]).expect("written");
    assert!(file.metadata().expect("open").blocks() >= 2048);
}
