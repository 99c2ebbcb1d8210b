//! Many at once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use super::tree::{files, paths};
use crate::case::cases;

cases! { Read "readers":
    all_who_read_one_file_first_get_it
    readers_of_many_files_do_not_disturb_each_other
    parts_are_read_by_many
    walkers_and_readers_work_side_by_side
}

const READERS: usize = 16;
const LARGE: &str = "size-5243003";

/// Runs `work` in many threads at the same moment.
fn together(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(READERS);
    thread::scope(|scope| {
        for number in 0..READERS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(number);
            });
        }
    });
}

fn all_who_read_one_file_first_get_it(at: &Path, tree: &Path) {
    let expected = fs::read(tree.join(LARGE)).expect("read");
    together(|_| assert!(fs::read(at.join(LARGE)).expect("read") == expected));
}

fn readers_of_many_files_do_not_disturb_each_other(at: &Path, tree: &Path) {
    let all: Vec<_> = files(tree).into_iter().filter(|path| !path.ends_with("sparse")).collect();
    together(|number| {
        for path in all.iter().cycle().skip(number * 7).take(all.len()) {
            let expected = fs::read(tree.join(path)).expect("read");
            assert!(fs::read(at.join(path)).expect("read") == expected, "{path:?}");
        }
    });
}

fn parts_are_read_by_many(at: &Path, tree: &Path) {
    const PART: usize = 10_007;
    let expected = fs::read(tree.join(LARGE)).expect("read");
    let shared = File::open(at.join(LARGE)).expect("opened");
    together(|number| {
        let own = File::open(at.join(LARGE)).expect("opened");
        for (index, part) in expected.chunks(PART).enumerate().skip(number).step_by(READERS / 4) {
            let mut found = vec![0; part.len()];
            let file = if index % 2 == 0 { &own } else { &shared };
            file.read_exact_at(&mut found, (index * PART) as u64).expect("read");
            assert!(found == part, "part {index}");
        }
    });
}

fn walkers_and_readers_work_side_by_side(at: &Path, tree: &Path) {
    let expected = fs::read(tree.join(LARGE)).expect("read");
    let count = paths(tree).len();
    together(|number| match number % 8 {
        0 => assert_eq!(paths(at).len(), count),
        _ => {
            for _ in 0..5 {
                assert!(fs::read(at.join(LARGE)).expect("read") == expected);
                assert_eq!(fs::read_dir(at.join("dir")).expect("listed").count(), 6);
            }
        }
    });
}
