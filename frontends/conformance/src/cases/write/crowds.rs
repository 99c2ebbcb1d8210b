//! Many who change the same things at once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::case::cases;

cases! { Write "crowds":
    all_that_is_made_in_one_directory_is_there
    a_name_is_made_by_one
    appended_lines_stay_whole
    a_name_that_is_replaced_is_never_missing
    swapped_names_are_never_missing
    links_are_counted
    directories_move_across_each_other
    a_tree_is_removed_by_many
    descriptors_of_one_file_agree_on_its_size
}

const CROWD: usize = 8;

/// Runs `work` in many threads at the same moment.
fn crowd(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(CROWD);
    thread::scope(|scope| {
        for number in 0..CROWD {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(number);
            });
        }
    });
}

fn names(at: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(at).expect("listed").map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.into_string().expect("a plain name")).collect()
}

fn all_that_is_made_in_one_directory_is_there(at: &Path) {
    crowd(|number| {
        for i in 0..100 {
            let path = at.join(format!("{number}-{i}"));
            match i % 4 {
                0 => drop(File::create_new(&path).expect("made")),
                1 => fs::create_dir(&path).expect("made"),
                2 => std::os::unix::fs::symlink("x", &path).expect("made"),
                _ => {
                    File::create_new(&path).expect("made");
                    fs::remove_file(&path).expect("removed");
                }
            }
        }
    });
    let expected =
        (0..CROWD).flat_map(|number| (0..100).filter(|i| i % 4 != 3).map(move |i| format!("{number}-{i}")));
    assert!(names(at) == expected.collect());
    assert_eq!(fs::metadata(at).expect("it exists").nlink(), 2 + 25 * CROWD as u64);
}

fn a_name_is_made_by_one(at: &Path) {
    for round in 0..30 {
        let path = at.join(round.to_string());
        let made = AtomicUsize::new(0);
        crowd(|number| {
            let result = match round % 3 {
                0 => File::create_new(&path).map(drop),
                1 => fs::create_dir(&path),
                _ => std::os::unix::fs::symlink(number.to_string(), &path),
            };
            match result {
                Ok(()) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
            }
        });
        assert_eq!(made.into_inner(), 1, "round {round}");
    }
}

fn appended_lines_stay_whole(at: &Path) {
    const LINES: usize = 200;
    let path = at.join("log");
    File::create(&path).expect("made");
    crowd(|number| {
        let mut log = OpenOptions::new().append(true).open(&path).expect("opened");
        let line = format!("{}\n", number.to_string().repeat(37));
        for _ in 0..LINES {
            log.write_all(line.as_bytes()).expect("written");
        }
    });
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text.len(), CROWD * LINES * 38);
    for number in 0..CROWD {
        let line = number.to_string().repeat(37);
        assert_eq!(text.lines().filter(|found| *found == line).count(), LINES);
    }
}

/// Lets one thread change something while the others look at it.
fn while_changing(change: impl Fn(usize), look: impl Fn() + Sync) {
    let done = AtomicBool::new(false);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                start.wait();
                while !done.load(Ordering::Relaxed) {
                    look();
                }
            });
        }
        start.wait();
        // Also when it panics, so that the others end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (0..300).for_each(&change)));
        done.store(true, Ordering::Relaxed);
        result.expect("the changes succeed");
    });
}

fn a_name_that_is_replaced_is_never_missing(at: &Path) {
    let path = at.join("f");
    fs::write(&path, "text 0").expect("written");
    while_changing(
        |round| {
            fs::write(at.join("new"), format!("text {round}")).expect("written");
            fs::rename(at.join("new"), &path).expect("replaced");
        },
        || {
            let text = fs::read_to_string(&path).expect("there is always a file");
            assert!(text.starts_with("text "), "{text:?}");
        },
    );
}

fn swapped_names_are_never_missing(at: &Path) {
    let (a, b) = (at.join("a"), at.join("b"));
    fs::write(&a, "one").expect("written");
    fs::write(&b, "two").expect("written");
    while_changing(
        |_| renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).expect("swapped"),
        || {
            for path in [&a, &b] {
                let text = fs::read(path).expect("there is always a file");
                assert!(text == b"one" || text == b"two");
            }
        },
    );
    // After an even number of swaps.
    assert_eq!((fs::read(a).expect("read"), fs::read(b).expect("read")), (b"one".to_vec(), b"two".to_vec()));
}

fn links_are_counted(at: &Path) {
    let path = at.join("f");
    File::create(&path).expect("made");
    crowd(|number| {
        for i in 0..50 {
            fs::hard_link(&path, at.join(format!("{number}-{i}"))).expect("linked");
            if i % 5 == 0 {
                fs::remove_file(at.join(format!("{number}-{i}"))).expect("removed");
            }
        }
    });
    assert_eq!(fs::metadata(&path).expect("it exists").nlink(), 1 + 40 * CROWD as u64);
    assert_eq!(names(at).len(), 1 + 40 * CROWD);
}

fn directories_move_across_each_other(at: &Path) {
    for dir in ["left", "right"] {
        fs::create_dir(at.join(dir)).expect("made");
    }
    for number in 0..CROWD {
        fs::create_dir_all(at.join(format!("left/{number}/sub"))).expect("made");
    }
    crowd(|number| {
        let (left, right) = (at.join(format!("left/{number}")), at.join(format!("right/{number}")));
        for _ in 0..50 {
            fs::rename(&left, &right).expect("moved");
            fs::rename(&right, &left).expect("moved back");
        }
    });
    assert_eq!((names(&at.join("left")).len(), names(&at.join("right")).len()), (CROWD, 0));
    let links = |name: &str| fs::metadata(at.join(name)).expect("it exists").nlink();
    assert_eq!((links("left"), links("right")), (2 + CROWD as u64, 2));
}

fn a_tree_is_removed_by_many(at: &Path) {
    let tree = at.join("tree");
    for i in 0..200 {
        let dir = tree.join(format!("{}/{}", i % 10, i % 7));
        fs::create_dir_all(&dir).expect("made");
        File::create(dir.join(i.to_string())).expect("made");
    }
    crowd(|_| {
        // Whoever comes too late finds nothing, or not any more what it has just seen.
        while let Err(error) = fs::remove_dir_all(&tree) {
            match error.kind() {
                ErrorKind::NotFound => return,
                ErrorKind::DirectoryNotEmpty => {}
                _ => panic!("{error}"),
            }
        }
    });
    assert!(!tree.exists());
    assert_eq!(fs::metadata(at).expect("it exists").nlink(), 2);
}

fn descriptors_of_one_file_agree_on_its_size(at: &Path) {
    let path = at.join("f");
    let file = File::create(&path).expect("made");
    crowd(|number| {
        for i in 0..50 {
            match number % 4 {
                0 => file.set_len((i * 1000) as u64).expect("changed"),
                1 => drop(fs::read(&path).expect("read")),
                2 => std::os::unix::fs::FileExt::write_all_at(&file, &[7; 5000], 10_000).expect("written"),
                _ => drop(fs::metadata(&path).expect("it exists")),
            }
        }
    });
    file.set_len(12_345).expect("changed");
    let by_name = fs::metadata(&path).expect("it exists").len();
    assert_eq!((by_name, file.metadata().expect("open").len()), (12_345, 12_345));
    let content = fs::read(&path).expect("read");
    assert_eq!(content.len(), 12_345);
    assert!(content.iter().all(|byte| [0, 7].contains(byte)));
}
