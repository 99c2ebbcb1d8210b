//! Messages arrive as they were meant: none is lost, and their edges are right.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use aysfs_vfs::memfs::MemFsOptions;
use aysfs_vfs::{KernelCache, TimeToLive};
use rustix::fs::{XattrFlags, setxattr, statvfs};
use rustix::io::Errno;

use crate::case::cases;
use crate::rig::{Rig, eventually};

cases! { Mount "messages":
    all_lookups_and_handles_come_back
    all_lookups_of_a_listing_that_is_given_up_come_back
    a_full_filesystem_says_so_and_keeps_what_it_has
    free_space_is_shown
    the_largest_attribute_passes
    reads_and_writes_of_any_size_pass
    syncing_and_closing_reach_the_filesystem
}

fn day_long() -> MemFsOptions {
    let day = std::time::Duration::from_secs(86_400);
    MemFsOptions { ttl: TimeToLive { entry: day, attr: day }, ..MemFsOptions::default() }
}

fn all_lookups_and_handles_come_back(rig: &Rig<'_>) {
    let mounted = rig.memfs(day_long());
    let at = mounted.path();
    for round in 0..3 {
        let dir = at.join(format!("dir{round}"));
        fs::create_dir(&dir).expect("made");
        for i in 0..500 {
            fs::write(dir.join(format!("f{i}")), "x").expect("written");
        }
        fs::hard_link(dir.join("f0"), dir.join("link")).expect("linked");
        symlink("f1", dir.join("symlink")).expect("linked");
        fs::rename(dir.join("f2"), dir.join("f3")).expect("renamed");
        // With attributes, and more than fits into one page of a listing.
        assert_eq!(fs::read_dir(&dir).expect("listed").count(), 501);
        let open = File::open(dir.join("f4")).expect("opened");
        fs::remove_dir_all(&dir).expect("removed");
        drop(open);
    }
    eventually("only the root is left", || mounted.fs.live_inodes() == 1 && mounted.fs.open_handles() == 0);
}

/// A page of a listing holds lookups; so does one that nobody reads to its end, and one that does not fit.
fn all_lookups_of_a_listing_that_is_given_up_come_back(rig: &Rig<'_>) {
    let mounted = rig.memfs(day_long());
    let dir = mounted.path().join("dir");
    for i in 0..700 {
        mounted.fs.add_file(&format!("dir/{i}{}", "x".repeat(i % 250)), b"");
    }
    for taken in [1, 3, 50, 300, 700] {
        assert_eq!(fs::read_dir(&dir).expect("listed").take(taken).count(), taken);
        for entry in fs::read_dir(&dir).expect("listed").take(taken) {
            entry.expect("an entry").metadata().expect("it exists");
        }
    }
    fs::remove_dir_all(&dir).expect("removed");
    eventually("only the root is left", || mounted.fs.live_inodes() == 1 && mounted.fs.open_handles() == 0);
}

fn a_full_filesystem_says_so_and_keeps_what_it_has(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions { capacity: 1 << 20, ..MemFsOptions::default() });
    let path = mounted.path().join("f");
    let mut file = File::create(&path).expect("made");
    file.write_all(&vec![1; 1 << 20]).expect("it fits");
    let full = file.write_all(&[2; 4096]).expect_err("nothing is left");
    assert_eq!(Errno::from_io_error(&full), Some(Errno::NOSPC));
    assert!(fs::read(&path).expect("read") == vec![1; 1 << 20]);
    fs::remove_file(&path).expect("removed");
    drop(file);
    eventually("the space comes back", || fs::write(&path, vec![3; 1 << 20]).is_ok());
}

fn free_space_is_shown(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions { capacity: 64 << 20, ..MemFsOptions::default() });
    let space = || statvfs(mounted.path()).expect("statvfs");
    let before = space();
    assert_eq!((before.f_frsize, before.f_bsize, before.f_namemax), (4096, 4096, 255));
    assert_eq!(before.f_blocks * before.f_frsize, 64 << 20);
    assert_eq!((before.f_bfree, before.f_bavail), (before.f_blocks, before.f_blocks));
    fs::write(mounted.path().join("f"), vec![1; 1 << 20]).expect("written");
    let after = space();
    assert_eq!((before.f_bfree - after.f_bfree) * before.f_frsize, 1 << 20);
    assert_eq!(before.f_ffree - after.f_ffree, 1);
}

fn the_largest_attribute_passes(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let path = mounted.path().join("f");
    File::create(&path).expect("made");
    let largest: Vec<u8> = (0..=250).cycle().take(65_536).collect();
    setxattr(&path, "user.largest", &largest, XattrFlags::empty()).expect("the largest there is");
    assert!(xattr::get(&path, "user.largest").expect("read") == Some(largest));
    let longest = format!("user.{}", "n".repeat(250));
    setxattr(&path, &longest, b"v", XattrFlags::empty()).expect("the longest name there is");
    assert_eq!(xattr::get(&path, &longest).expect("read"), Some(b"v".to_vec()));
    assert_eq!(xattr::list(&path).expect("listed").count(), 2);
}

/// Sizes around what one message holds: a page, 128 KiB, 1 MiB; cached and not.
fn reads_and_writes_of_any_size_pass(rig: &Rig<'_>) {
    let sizes =
        [1, 511, 4095, 4096, 4097, 131_071, 131_072, 131_073, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20];
    for cache in [KernelCache::Direct, KernelCache::Fresh] {
        let mounted = rig.memfs(MemFsOptions { cache, ..MemFsOptions::default() });
        for size in sizes {
            for offset in [0, 1, 4095, 131_073] {
                pass(&mounted.path().join(format!("{size}-{offset}")), size, offset);
            }
        }
    }
}

fn pass(path: &Path, size: usize, offset: u64) {
    let data: Vec<u8> = (0..=250).cycle().take(size).collect();
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("made");
    assert_eq!(file.write_at(&data, offset).expect("written"), size, "{path:?}");
    let mut found = vec![0; size + 1];
    assert_eq!(file.read_at(&mut found, offset).expect("read"), size, "{path:?}");
    assert!(found[..size] == data, "{path:?}");
    fs::remove_file(path).expect("removed");
}

fn syncing_and_closing_reach_the_filesystem(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let calls = |name| mounted.fs.calls(name);
    let mut file = File::create(mounted.path().join("f")).expect("made");
    file.write_all(b"x").expect("written");
    assert_eq!((calls("fsync"), calls("flush"), calls("release")), (0, 0, 0));
    file.sync_all().expect("synced");
    file.sync_data().expect("synced");
    assert_eq!(calls("fsync"), 2);
    let again = file.try_clone().expect("duplicated");
    drop(file);
    assert_eq!((calls("flush"), calls("release")), (1, 0));
    drop(again);
    assert_eq!(calls("flush"), 2);
    eventually("the handle is released", || calls("release") == 1 && mounted.fs.open_handles() == 0);
    let directory = File::open(mounted.path()).expect("opened");
    directory.sync_all().expect("synced");
    assert_eq!(calls("fsyncdir"), 1);
    drop(directory);
    eventually("the handle is released", || calls("releasedir") == 1 && mounted.fs.open_handles() == 0);
}
