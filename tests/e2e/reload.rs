//! Another flist for what is mounted: all of it or nothing, and nobody who has a file open notices.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::{Daemon, Faulty, LIBS, Lab, Mounted, Stor, is_mounted, pack, run, run_ok, wait_for};

/// Reloads between two versions.
const RELOADS: u32 = 100;
const READERS: usize = 8;
/// Files that differ between the versions.
const FILES: usize = 6;

/// The flist of a tree, under a name of its own.
fn packed(lab: &Lab, tree: &Path, stor: &str, name: &str) -> PathBuf {
    let flist = lab.path(name);
    fs::rename(pack(lab, tree, stor, "v2"), &flist).expect("renamed");
    flist
}

/// Puts a list in the place of the one that is mounted, whole.
fn put(lab: &Lab, list: &Path) {
    let new = lab.path("new.flist");
    fs::copy(list, &new).expect("copied");
    fs::rename(new, lab.path("mounted.flist")).expect("renamed");
}

fn reload(point: &Path) -> String {
    let said = run_ok(["reload".as_ref(), point.as_os_str()]);
    said.trim_end().rsplit(": ").next().expect("a mount and what became of it").to_owned()
}

/// Content of a version: large enough that it takes several messages, and in the second one longer.
fn content(version: u8, file: usize) -> Vec<u8> {
    let length = 150_000 + 40_000 * usize::from(version) + 1000 * file;
    (0..length).map(|at| b'a' + version * 13 + u8::try_from(at / 4096 % 13).expect("small")).collect()
}

/// Two versions of a tree: files with other content, one that only one of them has, one that is a directory in the other.
fn versions(lab: &Lab, stor: &str) -> [PathBuf; 2] {
    [0, 1].map(|version| {
        let tree = lab.dir(&format!("tree-{version}"));
        fs::create_dir(tree.join("d")).expect("made");
        for file in 0..FILES {
            let place = if file % 2 == 0 { format!("f{file}") } else { format!("d/f{file}") };
            fs::write(tree.join(place), content(version, file)).expect("written");
        }
        fs::write(tree.join("same"), "same").expect("written");
        match version {
            0 => fs::write(tree.join("d/turns"), content(0, 0)).expect("written"),
            _ => {
                fs::create_dir(tree.join("d/turns")).expect("made");
                fs::write(tree.join("d/turns/below"), content(1, 0)).expect("written");
                fs::write(tree.join("a-new-one"), content(1, 1)).expect("written");
            }
        }
        packed(lab, &tree, stor, &format!("version-{version}.flist"))
    })
}

/// The version that all of an open file is of, however it is read.
fn version_of(opened: &File, file: usize) -> u8 {
    let length = opened.metadata().expect("it is open").len();
    let version = u8::from(length != content(0, file).len() as u64);
    let expected = content(version, file);
    let mut bytes = vec![0; expected.len() + 1];
    for (at, half) in [(0, expected.len() / 2), (expected.len() / 2, bytes.len())] {
        thread::yield_now();
        let mut filled = at;
        while filled < half {
            match opened.read_at(&mut bytes[filled..half], filled as u64).expect("it is open") {
                0 => break,
                read => filled += read,
            }
        }
        let shown = filled.min(expected.len());
        assert!(bytes[at..shown] == expected[at..shown], "file {file} shows two versions");
    }
    assert_eq!(opened.metadata().expect("it is open").len(), length, "file {file}");
    version
}

/// Reads until it is told to stop; counts how often it saw each version.
fn read_on(point: &Path, reader: usize, stop: &AtomicBool, seen: &[AtomicU64; 2]) {
    let mut round = reader;
    while !stop.load(Ordering::Relaxed) {
        let file = round % FILES;
        round += 1;
        let place = if file.is_multiple_of(2) { format!("f{file}") } else { format!("d/f{file}") };
        let opened = File::open(point.join(place)).expect("both versions have it");
        let version = version_of(&opened, file);
        seen[usize::from(version)].fetch_add(1, Ordering::Relaxed);
        assert_eq!(version_of(&opened, file), version);

        assert_eq!(fs::read(point.join("same")).expect("both versions have it"), b"same");
        let names: Vec<_> = fs::read_dir(point.join("d"))
            .expect("both versions have it")
            .map(|entry| entry.expect("listed").file_name())
            .collect();
        for name in ["f1", "f3", "f5", "turns"] {
            assert_eq!(names.iter().filter(|listed| **listed == *name).count(), 1, "{names:?}");
        }
        match File::open(point.join("d/turns/below")) {
            Ok(below) => assert_eq!(version_of(&below, 0), 1),
            Err(error) => {
                let expected = [ErrorKind::NotADirectory, ErrorKind::NotFound];
                assert!(expected.contains(&error.kind()), "{error}");
            }
        }
    }
}

/// How many descriptors a process has, and how many compiled flists it has mapped.
fn kept(daemon: &Daemon) -> (usize, usize) {
    let process = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let descriptors = fs::read_dir(process.join("fd")).expect("it runs").count();
    let maps = fs::read_to_string(process.join("maps")).expect("it runs");
    (descriptors, maps.lines().filter(|line| line.contains("/index/")).count())
}

#[test]
fn reload_under_load() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let versions = versions(&lab, &stor.url());
    for lib in LIBS {
        for mode in ["RO", "OL"] {
            put(&lab, &versions[0]);
            let options = ["--mode", mode, "--lib", lib];
            let mounted = Mounted::with(&lab, &lab.path("mounted.flist"), &stor.url(), &options);
            let (stop, seen) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
            let mut early = (0, 0);
            thread::scope(|scope| {
                let readers: Vec<_> = (0..READERS)
                    .map(|reader| {
                        scope.spawn({
                            let (point, stop, seen) = (&mounted.point, &stop, &seen);
                            move || read_on(point, reader, stop, seen)
                        })
                    })
                    .collect();
                for number in 1..=RELOADS {
                    put(&lab, &versions[number as usize % 2]);
                    assert_ne!(reload(&mounted.point), "unchanged", "{lib} {mode}");
                    if number == 10 {
                        early = kept(&mounted.daemon);
                    }
                    if readers.iter().any(thread::ScopedJoinHandle::is_finished) {
                        break;
                    }
                }
                stop.store(true, Ordering::Relaxed);
                for reader in readers {
                    reader.join().unwrap_or_else(|_| panic!("{lib} {mode}: a reader failed"));
                }
            });
            let counts = seen.map(AtomicU64::into_inner);
            assert!(counts.iter().all(|count| *count > 0), "{lib} {mode}: {counts:?}");
            assert_eq!(reload(&mounted.point), "unchanged", "{lib} {mode}");
            // What nobody has open any more goes with the reload after.
            for version in [1, 0] {
                put(&lab, &versions[version]);
                reload(&mounted.point);
            }
            let late = kept(&mounted.daemon);
            assert!(late.0 <= early.0 + 16, "{lib} {mode}: {late:?} descriptors and bases, after {early:?}");
            assert!(late.1 <= 3, "{lib} {mode}: {} bases are kept", late.1);
            assert_eq!(mounted.read("f0").expect("read"), content(0, 0), "{lib} {mode}");
            mounted.stop();
        }
    }
}

#[test]
fn what_changed_is_seen_at_once_and_what_is_open_stays() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let tree = lab.dir("tree");
    for directory in ["d", "gone", "becomes-file"] {
        fs::create_dir(tree.join(directory)).expect("made");
    }
    for (file, content) in [
        ("d/f", "old"),
        ("d/mode", "mode"),
        ("gone/f", "gone"),
        ("becomes-directory", "file"),
        ("same", "same"),
    ] {
        fs::write(tree.join(file), content).expect("written");
    }
    let old = packed(&lab, &tree, &stor.url(), "old.flist");
    fs::write(tree.join("d/f"), "new and longer").expect("written");
    fs::write(tree.join("d/more"), "more").expect("written");
    fs::set_permissions(tree.join("d/mode"), fs::Permissions::from_mode(0o600)).expect("changed");
    fs::remove_dir_all(tree.join("gone")).expect("removed");
    fs::remove_dir(tree.join("becomes-file")).expect("removed");
    fs::write(tree.join("becomes-file"), "a file now").expect("written");
    fs::remove_file(tree.join("becomes-directory")).expect("removed");
    fs::create_dir(tree.join("becomes-directory")).expect("made");
    fs::write(tree.join("becomes-directory/f"), "below").expect("written");
    let new = packed(&lab, &tree, &stor.url(), "new-version.flist");
    for lib in LIBS {
        for mode in ["RO", "OL"] {
            put(&lab, &old);
            let options = ["--mode", mode, "--lib", lib];
            let mounted = Mounted::with(&lab, &lab.path("mounted.flist"), &stor.url(), &options);
            let at = |path: &str| mounted.point.join(path);
            let names = |path: &str| {
                let entries = fs::read_dir(at(path)).expect("listed");
                let mut names: Vec<_> = entries
                    .map(|entry| entry.expect("listed").file_name().into_string().expect("text"))
                    .collect();
                names.sort();
                names
            };
            // All of it is in the caches of the kernel, also what is not there.
            assert_eq!(names("d"), ["f", "mode"]);
            assert!(!at("d/more").exists());
            assert_eq!(at("d/mode").metadata().expect("there").mode() & 0o777, 0o644);
            let (number, same) = (|path: &str| at(path).metadata().expect("there").ino(), "same");
            let before = (number("d"), number("d/f"), number("d/mode"), number(same));
            let open: Vec<_> = ["d/f", "gone/f", "becomes-directory", same]
                .map(|path| File::open(at(path)).expect("opened"))
                .into();
            assert_eq!(mounted.read("d/f").expect("read"), b"old");
            let directory = File::open(at("gone")).expect("opened");

            put(&lab, &new);
            assert_eq!(reload(&mounted.point), "2 added, 2 removed, 6 changed", "{lib} {mode}");
            assert_eq!(names("d"), ["f", "mode", "more"], "{lib} {mode}");
            assert_eq!(names("."), ["becomes-directory", "becomes-file", "d", "same"], "{lib} {mode}");
            for (path, content) in [
                ("d/f", "new and longer"),
                ("d/more", "more"),
                ("becomes-file", "a file now"),
                ("becomes-directory/f", "below"),
                (same, "same"),
            ] {
                let read = mounted.read(path).unwrap_or_else(|error| panic!("{lib} {mode} {path}: {error}"));
                assert_eq!(read, content.as_bytes(), "{lib} {mode} {path}");
            }
            assert_eq!(at("d/mode").metadata().expect("there").mode() & 0o777, 0o600, "{lib} {mode}");
            let after = (number("d"), number("d/f"), number("d/mode"), number(same));
            assert_eq!((before.0, before.2, before.3), (after.0, after.2, after.3), "{lib} {mode}");
            assert_ne!(before.1, after.1, "{lib} {mode}");
            for (opened, content) in open.iter().zip(["old", "gone", "file", "same"]) {
                let mut read = vec![0; 100];
                let length = opened.read_at(&mut read, 0).expect("it is open");
                assert_eq!(&read[..length], content.as_bytes(), "{lib} {mode}");
            }
            drop((open, directory));

            // By its signal.
            put(&lab, &old);
            mounted.daemon.signal(Signal::USR1);
            wait_for("the old list", || mounted.read("d/f").is_ok_and(|read| read == b"old"));
            mounted.stop();
        }
    }
}

#[test]
fn a_bad_list_leaves_the_old_one() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let tree = lab.dir("tree");
    fs::write(tree.join("f"), "old").expect("written");
    let good = packed(&lab, &tree, &stor.url(), "good.flist");
    put(&lab, &good);
    let mounted = Mounted::new(&lab, &lab.path("mounted.flist"), &stor.url());
    let bad = lab.file("bad.flist", "# aysfs-flist 2\n../../etc/passwd|\n");
    for list in [bad, lab.file("empty.flist", "")] {
        put(&lab, &list);
        let refused = run(["reload".as_ref(), mounted.point.as_os_str()]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains("the flist that was mounted stays: ") && said.contains("mounted.flist"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(mounted.read("f").expect("read"), b"old");
    }
    fs::remove_file(lab.path("mounted.flist")).expect("removed");
    assert_eq!(run(["reload".as_ref(), mounted.point.as_os_str()]).status.code(), Some(1));
    fs::write(tree.join("f"), "new").expect("written");
    put(&lab, &packed(&lab, &tree, &stor.url(), "better.flist"));
    let args = ["reload".as_ref(), mounted.point.as_os_str(), "--json".as_ref()];
    let said: serde_json::Value = serde_json::from_str(&run_ok(args)).expect("JSON");
    assert_eq!((&said["added"], &said["removed"]), (&0.into(), &0.into()), "{said}");
    assert_eq!(Path::new(said["mount"].as_str().expect("a path")), mounted.point);
    assert_eq!(mounted.read("f").expect("read"), b"new");
    mounted.stop();
}

#[test]
fn local_changes_stay_on_top_of_another_list() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let tree = lab.dir("tree");
    fs::create_dir(tree.join("d")).expect("made");
    for (file, content) in [
        ("d/appended", "base"),
        ("d/removed", "base"),
        ("d/moved", "moved"),
        ("d/theirs", "old"),
        ("d/open", "open"),
    ] {
        fs::write(tree.join(file), content).expect("written");
    }
    let old = packed(&lab, &tree, &stor.url(), "old.flist");
    for file in ["appended", "removed", "moved", "theirs", "open", "made"] {
        fs::write(tree.join("d").join(file), "of the new list").expect("written");
    }
    let new = packed(&lab, &tree, &stor.url(), "new-version.flist");
    for lib in LIBS {
        put(&lab, &old);
        let options = ["--mode", "OL", "--lib", lib];
        let mounted = Mounted::with(&lab, &lab.path("mounted.flist"), &stor.url(), &options);
        let at = |path: &str| mounted.point.join(path);
        fs::write(at("d/appended"), "base and ours").expect("written");
        fs::remove_file(at("d/removed")).expect("removed");
        fs::rename(at("d/moved"), at("d/moved-by-us")).expect("moved");
        fs::write(at("d/made"), "made by us").expect("written");
        let open = File::options().read(true).write(true).open(at("d/open")).expect("opened");
        let kept = File::open(at("d/theirs")).expect("opened");
        let writer = File::options().append(true).open(at("d/made")).expect("opened");
        put(&lab, &new);
        reload(&mounted.point);
        // What is open is written to as if nothing had happened.
        open.write_all_at(b"OP", 0).expect("written");
        writer.write_all_at(b"", 0).expect("written");
        std::io::Write::write_all(&mut &writer, b", and more").expect("written");
        let mut names: Vec<_> =
            fs::read_dir(at("d")).expect("listed").map(|entry| entry.expect("listed").file_name()).collect();
        names.sort();
        assert_eq!(names, ["appended", "made", "moved-by-us", "open", "theirs"], "{lib}");
        for (path, content) in [
            ("d/appended", "base and ours"),
            ("d/moved-by-us", "moved"),
            ("d/made", "made by us, and more"),
            ("d/theirs", "of the new list"),
            ("d/open", "OPen"),
        ] {
            assert_eq!(mounted.read(path).expect("read"), content.as_bytes(), "{lib} {path}");
        }
        let mut read = [0; 3];
        kept.read_exact_at(&mut read, 0).expect("it is open");
        assert_eq!(&read, b"old", "{lib}");
        drop((open, kept, writer));
        mounted.stop();
        fs::remove_dir_all(lab.path("cache")).expect("removed");
    }
}

#[test]
fn a_flist_behind_a_url_is_looked_for_on_a_schedule() {
    let lab = Lab::new();
    let tree = lab.dir("tree");
    fs::write(tree.join("f"), "old").expect("written");
    let stor = Faulty::start(&lab.dir("stor"));
    let named = lab.path("stor/.static/app.flist");
    let publish = || {
        fs::copy(pack(&lab, &tree, &stor.direct(), "v2"), lab.path("stor/.static/app.new")).expect("copied");
        fs::rename(lab.path("stor/.static/app.new"), &named).expect("published");
    };
    publish();
    let point = lab.dir("mnt");
    let config = format!(
        "[[mount]]\npath = {point:?}\nbackend = \"main\"\nmode = \"RO\"\nflist = \"{}static/app.flist\"\n\
         flist_refresh = \"@every 1s\"\n\
         [backend.main]\npath = {:?}\nstor = \"stor\"\nnamespace = \"test\"\ndeadline = \"3s\"\n\
         [stor.stor]\nurl = \"{}\"\nlogin = \"tester\"\npasswd = \"{}\"\n",
        stor.shown(),
        lab.path("cache"),
        stor.shown(),
        crate::support::SECRET,
    );
    let config = lab.file("config.toml", config);
    let mut daemon = Daemon::start([OsStr::new("--config"), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    assert!(is_mounted(&point) && !daemon.log().contains("without effect"), "{}", daemon.log());
    assert_eq!(fs::read(point.join("f")).expect("read"), b"old");
    let asked = || stor.requests("/static/app.flist");
    let before = asked();
    wait_for("three looks at the list", || asked() >= before + 3);
    assert!(!daemon.log().contains("another flist"), "{}", daemon.log());
    fs::write(tree.join("f"), "new").expect("written");
    publish();
    wait_for("the new list", || fs::read(point.join("f")).expect("read") == b"new");

    // Who asks is told that it cannot be reached; what is mounted stays.
    stor.set(aysfs_store::fault::ServerTrouble::Stopped);
    let refused = run(["reload".as_ref(), point.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("cannot fetch the flist"), "{said}");
    assert_eq!(fs::read(point.join("f")).expect("it is cached"), b"new");
    stor.set(aysfs_store::fault::ServerTrouble::None);
    assert_eq!(reload(&point), "unchanged");
    daemon.stop();
}

#[test]
fn what_has_no_flist_is_not_reloaded() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let point = lab.dir("mnt");
    let config = format!(
        "[[mount]]\npath = {point:?}\nbackend = \"main\"\nmode = \"RW\"\n\
         [backend.main]\npath = {:?}\nstor = \"stor\"\nnamespace = \"test\"\n[stor.stor]\nurl = \"{}\"\n",
        lab.path("cache"),
        stor.url(),
    );
    let config = lab.file("config.toml", config);
    let mut daemon = Daemon::start([OsStr::new("--config"), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    let refused = run(["reload".as_ref(), point.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("there is nothing to reload"), "{said}");
    // Its signal ends nothing.
    daemon.signal(Signal::USR1);
    daemon.wait_for_log("reloading 0 flists");
    daemon.stop();
}
