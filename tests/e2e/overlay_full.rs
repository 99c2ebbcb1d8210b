//! Local changes on a disk that is full: whoever writes is told, nothing that was acknowledged is lost, what is there can be
//! read, and all goes on when there is room again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::small_disk::SmallDisk;
use crate::support::{Lab, Mounted, Stor, pack, wait_for};
use crate::tree;

const LARGE: usize = 6 << 20;

/// A packed tree, and a mount whose local changes and cache are on a small disk.
struct Trial {
    disk: SmallDisk,
    stor: Stor,
    flist: PathBuf,
    lab: Lab,
}

impl Trial {
    fn new() -> Option<Self> {
        let lab = Lab::new();
        let source = lab.dir("source");
        fs::write(source.join("large"), tree::noise(1, LARGE)).expect("a file");
        fs::write(source.join("log"), b"the beginning\n").expect("a file");
        fs::create_dir_all(source.join("dir/empty")).expect("a directory");
        for number in 0..20 {
            fs::write(source.join(format!("dir/{number}")), tree::noise(number, 5000)).expect("a file");
        }
        let disk = SmallDisk::mount(&lab, "cache", 32)?;
        let stor = Stor::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.url(), "v2");
        Some(Self { disk, stor, flist, lab })
    }

    fn mount(&self) -> Mounted {
        Mounted::with(&self.lab, &self.flist, &self.stor.url(), &["--mode", "OL"])
    }

    /// Kills the daemon, and mounts again.
    fn again(&self, mut mounted: Mounted) -> Mounted {
        mounted.daemon.signal(Signal::KILL);
        mounted.daemon.wait();
        self.mount()
    }

    /// The one directory in `cache/<kind>`.
    fn directory(&self, kind: &str) -> PathBuf {
        let all = fs::read_dir(self.lab.path("cache").join(kind)).expect("it was mounted");
        let mut directories = all.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir());
        directories.next().expect("it was mounted")
    }

    #[track_caller]
    fn assert_work_is_empty(&self) {
        let left = fs::read_dir(self.directory("work")).expect("the work directory");
        let left: Vec<_> = left.map(|entry| entry.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{left:?} in the work directory");
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path)
}

#[test]
fn a_writer_is_told_that_the_disk_is_full_and_nothing_acknowledged_is_lost() {
    // A file that was opened before it was copied up is written by messages, any other by the kernel itself.
    for by_messages in [false, true] {
        let Some(trial) = Trial::new() else { return };
        let mounted = trial.mount();
        let kept = tree::noise(2, 100_000);
        fs::write(mounted.point.join("kept"), &kept).expect("written");
        let path = mounted.point.join("log");
        let reader = by_messages.then(|| File::open(&path).expect("opened"));
        let mut log = append(&path).expect("opened");
        trial.disk.leave(1 << 20);

        let mut expected = b"the beginning\n".to_vec();
        let error = loop {
            let piece = tree::noise(expected.len() as u64, 50_000);
            match log.write(&piece) {
                Ok(written) => expected.extend_from_slice(&piece[..written]),
                Err(error) => break error,
            }
            assert!(expected.len() < 10 << 20, "it is never full");
        };
        assert!(is_full(&error), "{error}");
        let create = fs::write(mounted.point.join("new"), [1; 200_000]).expect_err("there is no room");
        assert!(is_full(&create), "{create}");
        assert!(fs::read(&path).expect("read") == expected, "by messages: {by_messages}");
        assert!(mounted.read("large").expect("read through") == tree::noise(1, LARGE));
        drop((log, reader));

        let mounted = trial.again(mounted);
        assert!(mounted.read("log").expect("read") == expected, "by messages: {by_messages}");
        assert!(mounted.read("kept").expect("read") == kept);
        assert!(mounted.read("dir/3").expect("read") == tree::noise(3, 5000));
        trial.assert_work_is_empty();

        trial.disk.free();
        let mut log = append(&mounted.point.join("log")).expect("opened");
        log.write_all(b"the end").expect("there is room again");
        expected.extend_from_slice(b"the end");
        let mounted = trial.again(mounted);
        assert!(mounted.read("log").expect("read") == expected);
        mounted.stop();
    }
}

#[test]
fn a_copy_up_that_does_not_fit_leaves_the_file_as_it_was() {
    // Whether its content is in the cache, and whether its attributes were copied up before.
    for (is_cached, has_attributes) in [(false, false), (true, false), (true, true)] {
        let what = format!("cached: {is_cached}, attributes: {has_attributes}");
        let Some(trial) = Trial::new() else { return };
        let mounted = trial.mount();
        let path = mounted.point.join("large");
        if is_cached {
            assert!(mounted.read("large").expect("read") == tree::noise(1, LARGE));
        }
        if has_attributes {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        }
        trial.disk.leave(3 << 20);
        let before = trial.disk.available();
        for _ in 0..3 {
            let error = append(&path).expect_err("there is no room for it");
            assert!(is_full(&error), "{what}: {error}");
            trial.assert_work_is_empty();
            let gone = || before.saturating_sub(trial.disk.available());
            // A fetch that was under way gives its room back when it ends.
            wait_for(&format!("{what}: the room to come back"), || gone() < 256 << 10);
        }
        assert!(mounted.read("large").expect("read") == tree::noise(1, LARGE), "{what}");
        let meta = fs::metadata(&path).expect("it is there");
        let perm = if has_attributes { 0o600 } else { 0o644 };
        assert_eq!((meta.len(), meta.mode() & 0o777), (LARGE as u64, perm), "{what}");

        let mounted = trial.again(mounted);
        assert!(mounted.read("large").expect("read") == tree::noise(1, LARGE), "{what}");
        trial.disk.free();
        let mut opened = None;
        // The cache leaves its directory alone for a while.
        wait_for("room", || {
            opened = append(&path).ok();
            opened.is_some()
        });
        opened.expect("just now").write_all(b" and more").expect("written");
        let mut expected = tree::noise(1, LARGE);
        expected.extend_from_slice(b" and more");
        let mounted = trial.again(mounted);
        assert!(mounted.read("large").expect("read") == expected, "{what}");
        mounted.stop();
    }
}

#[test]
fn what_is_removed_on_a_full_disk_is_gone_for_good_or_still_there() {
    let Some(trial) = Trial::new() else { return };
    let mounted = trial.mount();
    let at = |name: &str| mounted.point.join(name);
    // Something of each kind: of the base, of the base and changed, local, local in the place of the base.
    for number in 5..10 {
        fs::set_permissions(at(&format!("dir/{number}")), fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    for number in 10..15 {
        fs::write(at(&format!("dir/{number}")), "local").expect("written");
    }
    fs::create_dir(at("local")).expect("a directory");
    for number in 0..5 {
        fs::write(at(&format!("local/{number}")), tree::noise(number, 20_000)).expect("written");
    }
    trial.disk.fill();

    let mut expected = Vec::new();
    let mut done = 0;
    let names =
        (0..20).map(|number| format!("dir/{number}")).chain((0..5).map(|number| format!("local/{number}")));
    for name in names {
        match fs::remove_file(at(&name)) {
            Ok(()) => done += 1,
            Err(error) => {
                assert!(is_full(&error), "{name}: {error}");
                expected.push(name);
            }
        }
    }
    for name in ["dir/empty", "local"] {
        match fs::remove_dir(at(name)) {
            Ok(()) => done += 1,
            Err(error) => {
                assert!(is_full(&error), "{name}: {error}");
                expected.push(name.into());
            }
        }
    }
    assert!(done > 10, "only {done} could be removed");
    let present = |point: &Path| {
        let mut names = Vec::new();
        for directory in ["dir", "local"] {
            for entry in fs::read_dir(point.join(directory)).into_iter().flatten() {
                names.push(format!("{directory}/{}", entry.expect("an entry").file_name().to_string_lossy()));
            }
        }
        if point.join("local").exists() {
            names.push("local".into());
        }
        names.sort();
        names
    };
    expected.sort();
    assert_eq!(present(&mounted.point), expected);
    trial.assert_work_is_empty();
    let mounted = trial.again(mounted);
    assert_eq!(present(&mounted.point), expected);
    trial.disk.free();
    fs::write(mounted.point.join("dir/1"), "again").expect("there is room again");
    assert_eq!(mounted.read("dir/1").expect("read"), b"again");
    mounted.stop();
}

#[test]
fn holes_that_are_filled_on_a_full_disk_are_the_writers_error() {
    let Some(trial) = Trial::new() else { return };
    let mounted = trial.mount();
    let path = mounted.point.join("holes");
    let file = File::create(&path).expect("a file");
    file.set_len(8 << 20).expect("a hole takes no room");
    trial.disk.leave(1 << 20);
    let mut written = 0;
    let error = loop {
        match file.write_all_at(&tree::noise(written, 65_536), written) {
            Ok(()) => written += 65_536,
            Err(error) => break error,
        }
        assert!(written < 8 << 20, "it is never full");
    };
    assert!(is_full(&error), "{error}");
    drop(file);
    let mounted = trial.again(mounted);
    let bytes = mounted.read("holes").expect("read");
    assert_eq!(bytes.len(), 8 << 20);
    for start in (0..written).step_by(65_536) {
        let at = usize::try_from(start).expect("small");
        assert!(bytes[at..at + 65_536] == tree::noise(start, 65_536), "{start}");
    }
    mounted.stop();
}
