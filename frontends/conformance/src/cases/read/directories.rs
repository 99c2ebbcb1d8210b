//! Reading directories.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use rustix::fs::{Dir, FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::tree::paths;
use crate::case::cases;
use crate::sample::MANY;

cases! { Read "directories":
    entries_have_their_type_and_inode
    names_are_those_of_the_tree
    every_name_is_listed_once
    a_listing_goes_on_from_any_place
    a_listing_can_start_again
    small_buffers_are_filled
    listings_do_not_disturb_each_other
    only_directories_are_listed
}

fn names(path: &Path) -> BTreeSet<OsString> {
    fs::read_dir(path).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect()
}

fn entries_have_their_type_and_inode(at: &Path, tree: &Path) {
    let directories =
        paths(tree).into_iter().filter(|path| tree.join(path).is_dir() && !path.starts_with("many"));
    for path in directories.filter(|path| !tree.join(path).is_symlink() && path.as_os_str().len() < 3000) {
        // Twice: the first listing may carry attributes, and the second come from a cache.
        for _ in 0..2 {
            let dir = Dir::read_from(File::open(at.join(&path)).expect("opened")).expect("a listing");
            for entry in dir {
                let entry = entry.expect("an entry");
                let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                if path.as_os_str().is_empty() && name == ".." {
                    continue;
                }
                let meta = fs::symlink_metadata(at.join(&path).join(&name)).expect("it exists");
                let found = (entry.file_type(), entry.ino());
                assert_eq!(found, (FileType::from_raw_mode(meta.mode()), meta.ino()), "{path:?}/{name:?}");
            }
        }
    }
}

fn names_are_those_of_the_tree(at: &Path, tree: &Path) {
    for path in paths(tree).iter().filter(|path| !tree.join(path).is_symlink() && tree.join(path).is_dir()) {
        assert_eq!(names(&at.join(path)), names(&tree.join(path)), "{path:?}");
    }
}

fn every_name_is_listed_once(at: &Path, tree: &Path) {
    for _ in 0..2 {
        let mut seen = HashSet::new();
        for entry in fs::read_dir(at.join("many")).expect("listed") {
            let name = entry.expect("an entry").file_name();
            assert!(seen.insert(name.clone()), "{name:?} is listed twice");
        }
        assert_eq!(seen.len(), MANY);
        assert!(seen.into_iter().collect::<BTreeSet<_>>() == names(&tree.join("many")));
    }
    let dots = Dir::read_from(File::open(at.join("empty")).expect("opened")).expect("a listing");
    let dots: BTreeSet<_> = dots.map(|entry| entry.expect("an entry").file_name().to_owned()).collect();
    assert_eq!(dots, [c".".to_owned(), c"..".to_owned()].into());
}

fn a_listing_goes_on_from_any_place(at: &Path, _: &Path) {
    let mut dir = Dir::read_from(File::open(at.join("many")).expect("opened")).expect("a listing");
    let all: Vec<_> = dir
        .by_ref()
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.offset(), entry.file_name().to_owned()))
        .collect();
    assert_eq!(all.len(), MANY + 2);
    for from in [MANY + 1, 0, 1, 2, 77, MANY / 2, 3] {
        dir.seek(all[from].0).expect("a place in the listing");
        let next = dir.next().map(|entry| entry.expect("an entry").file_name().to_owned());
        assert_eq!(next.as_ref(), all.get(from + 1).map(|(_, name)| name), "behind entry {from}");
    }
    dir.seek(all[MANY / 3].0).expect("a place in the listing");
    assert_eq!(dir.count(), MANY + 1 - MANY / 3);
}

fn a_listing_can_start_again(at: &Path, _: &Path) {
    let mut dir = Dir::read_from(File::open(at.join("many")).expect("opened")).expect("a listing");
    for taken in [10, MANY, 0, 1000] {
        assert_eq!(dir.by_ref().take(taken).filter(Result::is_ok).count(), taken);
        dir.rewind();
    }
    assert_eq!(dir.count(), MANY + 2);
}

/// Sizes that hold a few names only, and end in the middle of one.
fn small_buffers_are_filled(at: &Path, _: &Path) {
    for size in [150, 512, 1000, 4097] {
        let mut buffer = vec![MaybeUninit::uninit(); size];
        let directory = File::open(at.join("many")).expect("opened");
        let mut listing = RawDir::new(&directory, &mut buffer);
        let mut seen = HashSet::new();
        while let Some(entry) = listing.next() {
            let entry = entry.unwrap_or_else(|errno| panic!("a buffer of {size} bytes: {errno}"));
            assert!(seen.insert(entry.file_name().to_owned()), "{:?} is listed twice", entry.file_name());
        }
        assert_eq!(seen.len(), MANY + 2, "a buffer of {size} bytes");
        assert_eq!(seek(&directory, SeekFrom::Start(0)), Ok(0));
    }
    let mut tiny = [MaybeUninit::uninit(); 16];
    let directory = File::open(at.join("many")).expect("opened");
    let first = RawDir::new(&directory, &mut tiny).next().expect("an answer").map(|_| ());
    assert_eq!(first, Err(Errno::INVAL), "not even one entry fits");
}

fn listings_do_not_disturb_each_other(at: &Path, _: &Path) {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(names(&at.join("many")).len(), MANY);
                    assert_eq!(names(&at.join("dir")).len(), 6);
                }
            });
        }
    });
}

fn only_directories_are_listed(at: &Path, _: &Path) {
    for path in ["file", "size-0", "fifo"] {
        let refused = fs::read_dir(at.join(path)).expect_err("no directory");
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOTDIR), "{path}");
    }
    let directory = File::open(at.join("dir")).expect("opened");
    let refused = rustix::io::pread(&directory, &mut [0; 10], 0);
    assert_eq!(refused, Err(Errno::ISDIR));
}
