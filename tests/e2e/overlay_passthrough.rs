//! Files of the base of a writable mount that the kernel reads by itself: that it does, and what other mounts and processes
//! with the same content see of it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rustix::fs::{Advice, fadvise};

use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, objects, pack, wait_for};
use crate::tree;

const PAGE: usize = 4096;
const PAGES: usize = 100;

/// A packed directory with a few files of the same size.
struct Place {
    stor: Stor,
    flist: PathBuf,
    source: PathBuf,
    lab: Lab,
}

const FILES: usize = 6;

impl Place {
    fn new() -> Self {
        let lab = Lab::new();
        let source = lab.dir("source");
        for number in 0..FILES {
            let content = tree::noise(number as u64, PAGES * PAGE);
            fs::write(source.join(format!("f{number}")), content).expect("a file");
        }
        let stor = Stor::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.url(), "v2");
        Self { stor, flist, source, lab }
    }

    fn mount(&self, more: &[&str]) -> Mounted {
        Mounted::with(&self.lab, &self.flist, &self.stor.url(), &[&["--mode", "OL"], more].concat())
    }

    /// One more process with the same backend.
    fn mount_beside(&self) -> (Daemon, PathBuf) {
        let (point, cache) = (self.lab.dir("beside"), self.lab.path("cache"));
        let args = [OsStr::new("mount"), self.flist.as_os_str(), point.as_os_str(), OsStr::new("--cache")];
        let url = self.stor.url();
        let more =
            ["--namespace", "test", "--cache-min-free", "0", "--mode", "OL", "--stor", &url].map(OsStr::new);
        let mut daemon = Daemon::start(args.into_iter().chain([cache.as_os_str()]).chain(more));
        daemon.wait_for_log("all mounts are up");
        (daemon, point)
    }

    /// Where the content of a file is in the cache.
    fn cached(&self, name: &str) -> PathBuf {
        let id = objects(&self.flist)[Path::new(name)].id.clone();
        self.lab.path("cache/cache").join(&id[..2]).join(id)
    }

    fn content(&self, number: usize) -> Vec<u8> {
        fs::read(self.source.join(format!("f{number}"))).expect("it was made")
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root may have the kernel read files by itself");
    }
    root
}

/// How many answers a process has given so far.
fn answers(daemon: &Daemon) -> u64 {
    let counters = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).expect("a kernel that counts");
    let line = counters.lines().find_map(|line| line.strip_prefix("syscw: "));
    line.expect("it counts writes").parse().expect("a number")
}

/// How many messages it takes to read all pages, the last ones first.
fn messages(daemon: &Daemon, file: &File) -> u64 {
    fadvise(file, 0, None, Advice::Random).expect("a hint");
    fadvise(file, 0, None, Advice::DontNeed).expect("a hint");
    let before = answers(daemon);
    let mut page = [0; PAGE];
    for number in (0..PAGES).rev() {
        file.read_exact_at(&mut page, (number * PAGE) as u64).expect("read");
    }
    answers(daemon) - before
}

/// Opens a file that is cached until it passes through: what was closed before is released a moment later.
fn open_through(daemon: &Daemon, path: &Path) -> File {
    fs::read(path).expect("it can be fetched");
    let mut through = None;
    wait_for("the kernel to read a file by itself", || {
        let file = File::open(path).expect("opened");
        let few = messages(daemon, &file) < PAGES as u64 / 2;
        through = few.then_some(file);
        through.is_some()
    });
    through.expect("just now")
}

fn write(path: &Path, byte: u8, at: usize) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(&[byte; PAGE], at as u64).expect("written");
}

fn map(file: &File) -> Mmap {
    // SAFETY: the files of these tests keep their size.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(file).expect("mapped")
    }
}

#[test]
fn files_of_the_base_are_read_without_a_message_before_and_after_they_are_written() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mounted = place.mount(&["--lib", "fuser"]);
    let path = mounted.point.join("f0");
    let reader = open_through(&mounted.daemon, &path);
    let mapping = map(&reader);
    write(&path, 7, PAGE);
    let mut expected = place.content(0);
    expected[PAGE..2 * PAGE].fill(7);
    assert!(mapping[..] == expected && fs::read(&path).expect("read") == expected);
    let writer = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    let new = File::create(mounted.point.join("new")).expect("made");
    let [ours, others] = [&writer, &new].map(|file| {
        let before = answers(&mounted.daemon);
        for number in 0..PAGES {
            file.write_all_at(&[9; PAGE], (number * PAGE) as u64).expect("written");
        }
        answers(&mounted.daemon) - before
    });
    // The kernel may ask for something else before each write.
    assert!(ours < others + PAGES as u64 / 2, "{ours} messages, and {others} for a new file");
    assert!(mapping.iter().all(|byte| *byte == 9));
    assert!(messages(&mounted.daemon, &reader) < PAGES as u64 / 2);
    assert!(fs::read(place.cached("f0")).expect("cached") == place.content(0), "the cache has what it had");
    drop((reader, mapping, writer, new));
    mounted.stop();
}

#[test]
fn only_a_file_that_passes_through_costs_a_copy_when_its_attributes_change() {
    if !is_root() {
        return;
    }
    for (lib, more, is_copied) in [(LIBS[0], &[][..], true), (LIBS[1], &[], false), (LIBS[2], &[], false)] {
        let place = Place::new();
        let mounted = place.mount(&[&["--lib", lib], more].concat());
        let path = mounted.point.join("f0");
        let reader = match is_copied {
            true => open_through(&mounted.daemon, &path),
            false => {
                fs::read(&path).expect("fetched");
                File::open(&path).expect("opened")
            }
        };
        let inode = || fs::metadata(place.cached("f0")).expect("cached").ino();
        let before = inode();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("changed");
        assert_eq!(inode() != before, is_copied, "{lib}");
        assert!(fs::read(place.cached("f0")).expect("cached") == place.content(0));
        drop(reader);
        mounted.stop();
    }
}

#[test]
fn two_processes_with_one_backend_see_nothing_of_each_others_changes() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let first = place.mount(&[]);
    let (mut second, beside) = place.mount_beside();
    for number in 0..FILES {
        let name = format!("f{number}");
        let (ours, theirs) = (first.point.join(&name), beside.join(&name));
        let content = place.content(number);
        // Who comes first borrows it; sometimes the other one has read it before.
        if number % 2 == 0 {
            assert!(fs::read(&theirs).expect("fetched") == content);
        }
        assert!(fs::read(&ours).expect("fetched") == content);
        let readers = [File::open(&ours).expect("opened"), File::open(&theirs).expect("opened")];
        let mappings = readers.each_ref().map(map);
        assert!(mappings.iter().all(|mapping| mapping[..] == content));
        write(&ours, 1, 0);
        let [mut one, mut other] = [content.clone(), content.clone()];
        one[..PAGE].fill(1);
        assert!(mappings[0][..] == one && fs::read(&ours).expect("read") == one, "{name}");
        assert!(mappings[1][..] == other && fs::read(&theirs).expect("read") == other, "{name}");
        write(&theirs, 2, PAGE);
        other[PAGE..2 * PAGE].fill(2);
        assert!(mappings[0][..] == one && fs::read(&ours).expect("read") == one, "{name}");
        assert!(mappings[1][..] == other && fs::read(&theirs).expect("read") == other, "{name}");
        assert!(fs::read(place.cached(&name)).expect("cached") == content, "{name}");
    }
    second.signal(rustix::process::Signal::TERM);
    assert!(second.wait().success());
    first.stop();
}

#[test]
fn what_a_dead_daemon_has_lent_is_not_given_to_another_file() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let mut mounted = place.mount(&["--lib", "fuser"]);
    let path = mounted.point.join("f0");
    let reader = open_through(&mounted.daemon, &path);
    let mapping = map(&reader);
    mounted.daemon.signal(rustix::process::Signal::KILL);
    mounted.daemon.wait();
    let again = place.mount(&["--lib", "fuser"]);
    let path = again.point.join("f0");
    let second = (File::open(&path).expect("opened"), fs::read(&path).expect("read"));
    write(&path, 3, 0);
    assert!(mapping[..] == place.content(0), "a program that still runs sees what it has mapped");
    assert_eq!(fs::read(&path).expect("read")[..PAGE], [3; PAGE]);
    drop((reader, mapping, second));
    again.stop();
}
