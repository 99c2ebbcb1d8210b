//! Reading directories.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, mknodat};

use crate::case::cases;

cases! { Write "listing":
    entries_have_their_type_and_inode
    ten_thousand_names_are_listed_once_while_others_change
    a_listing_can_start_again
}

fn entries_have_their_type_and_inode(at: &Path) {
    File::create(at.join("file")).expect("made");
    fs::create_dir(at.join("dir")).expect("made");
    symlink("file", at.join("link")).expect("made");
    mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("made");
    // Twice: the first listing may carry attributes, and the second come from a cache.
    for _ in 0..2 {
        let dir = Dir::read_from(File::open(at.join(".")).expect("opened")).expect("a listing");
        let mut found = HashMap::new();
        for entry in dir {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_str().expect("a plain name").to_owned();
            let (kind, ino) = (entry.file_type(), entry.ino());
            if name != ".." {
                let meta = fs::symlink_metadata(at.join(&name)).expect("it exists");
                assert_eq!((FileType::from_raw_mode(meta.mode()), meta.ino()), (kind, ino), "{name}");
            }
            found.insert(name, kind);
        }
        let expected = [
            (".", FileType::Directory),
            ("..", FileType::Directory),
            ("file", FileType::RegularFile),
            ("dir", FileType::Directory),
            ("link", FileType::Symlink),
            ("fifo", FileType::Fifo),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)).into());
    }
}

fn ten_thousand_names_are_listed_once_while_others_change(at: &Path) {
    const LASTING: usize = 10_000;
    for i in 0..LASTING {
        File::create(at.join(format!("lasting{i}"))).expect("made");
        if i % 10 == 0 {
            File::create(at.join(format!("passing{i}"))).expect("made");
        }
    }
    let mut seen = HashSet::new();
    for (i, entry) in fs::read_dir(at).expect("a listing").enumerate() {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        assert!(seen.insert(name.clone()), "{name} is listed twice");
        if i % 100 == 0 {
            File::create(at.join(format!("new{i}"))).expect("made");
            // Not all of them are left: it is enough that names go while others are listed.
            let _ = fs::remove_file(at.join(format!("passing{}", i * 37 % LASTING / 10 * 10)));
        }
    }
    for i in 0..LASTING {
        assert!(seen.contains(&format!("lasting{i}")), "lasting{i} is missing");
    }
}

fn a_listing_can_start_again(at: &Path) {
    for i in 0..300 {
        File::create(at.join(format!("f{i}"))).expect("made");
    }
    let mut dir = Dir::read_from(File::open(at).expect("opened")).expect("a listing");
    assert_eq!(dir.by_ref().count(), 302);
    fs::remove_file(at.join("f7")).expect("removed");
    File::create(at.join("late")).expect("made");
    File::create(at.join("later")).expect("made");
    dir.rewind();
    let names: Vec<_> =
        dir.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.len(), 303);
    assert!(names.iter().any(|name| name == "later") && names.iter().all(|name| name != "f7"));
}
