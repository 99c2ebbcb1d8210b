//! Whatever a stor does, nothing wrong is ever read: a read gives the right bytes or EIO, the log says why, nobody
//! else is held up, and the next read after the trouble is fine.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use aysfs_store::fault::ServerTrouble;
use rustix::fs::Advice;
use rustix::process::Signal;

use crate::support::{Daemon, Faulty, Lab, Mounted, Object, SECRET, is_mounted, objects, pack, wait_for};
use crate::tree;

/// How long a reader waits in these tests; long enough for a busy machine to answer when there is no trouble.
const DEADLINE: &str = "2s";

/// The files that are read while there is trouble: one page, one answer, one answer that is decoded on its way.
const SIZES: [(&str, usize); 3] = [("small", 3000), ("dir/medium", 100_000), ("dir/large", 2_000_000)];

/// A mounted tree, and the stor that it depends on.
struct Trial {
    // In the order in which they have to go.
    mounted: Mounted,
    stor: Faulty,
    objects: BTreeMap<PathBuf, Object>,
    is_packed: bool,
    source: PathBuf,
    _lab: Lab,
}

impl Trial {
    fn new(format: &str) -> Self {
        Self::with_deadline(format, DEADLINE)
    }

    fn with_deadline(format: &str, deadline: &str) -> Self {
        let lab = Lab::new();
        let source = sources(&lab);
        let stor = Faulty::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.direct(), format);
        let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--deadline", deadline]);
        let is_packed = format == "v2";
        let trial = Self { mounted, stor, objects: objects(&flist), is_packed, source, _lab: lab };
        trial.reads_well("cached");
        trial
    }

    fn reads_well(&self, name: &str) {
        let read = self.mounted.read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == fs::read(self.source.join(name)).expect("the source"), "{name} is not the same");
    }

    /// Everything that needs no stor.
    fn the_rest_works(&self) {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).expect("listed");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        for dir in ["", "dir"] {
            assert_eq!(names(&self.mounted.point.join(dir)), names(&self.source.join(dir)));
        }
        for (name, size) in SIZES {
            assert_eq!(fs::metadata(self.mounted.point.join(name)).expect("stat").len(), size as u64);
        }
        assert_eq!(fs::read_link(self.mounted.point.join("link")).expect("a link"), Path::new("dir"));
        let cached = self.mounted.point.join("cached");
        let file = fs::File::open(&cached).expect("opened");
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("a hint");
        self.reads_well("cached");
    }

    /// What the log says of a file that could not be read from the one stor there is.
    fn line(&self, name: &str, cause: &str) -> String {
        let id = &self.objects[Path::new(name)].id;
        // Of a large file it is a chunk that cannot be had, which is in the pack that the others are in; its table is fetched when it is mounted.
        let of = if self.is_packed && name == "dir/large" { "small" } else { name };
        let key = &self.objects[Path::new(of)].key;
        let stor = self.stor.shown();
        format!(
            "input/output error: cannot read /{name}: content {id} could not be had: {stor} (test): {key}: {cause}"
        )
    }

    fn ends_well(self) {
        assert!(!self.mounted.daemon.log().contains(SECRET), "{}", self.mounted.daemon.log());
        self.mounted.stop();
    }
}

fn sources(lab: &Lab) -> PathBuf {
    let source = lab.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    for (name, size) in SIZES {
        fs::write(source.join(name), tree::noise(size as u64, size)).expect("a file");
    }
    fs::write(source.join("cached"), tree::bytes(7, 50_000)).expect("a file");
    std::os::unix::fs::symlink("dir", source.join("link")).expect("a symlink");
    source
}

/// Makes trouble, and expects of every read EIO with this cause in the log, and the right bytes afterwards.
#[track_caller]
fn is_an_io_error(trouble: &ServerTrouble, cause: &str) {
    is_an_io_error_in(&["v1-long", "v2"], trouble, cause);
}

#[track_caller]
fn is_an_io_error_in(formats: &[&str], trouble: &ServerTrouble, cause: &str) {
    thread::scope(|scope| {
        for format in formats {
            scope.spawn(move || {
                let mut trial = Trial::new(format);
                trial.stor.set(trouble.clone());
                thread::scope(|scope| {
                    let readers = SIZES.map(|(name, _)| {
                        let path = trial.mounted.point.join(name);
                        (name, scope.spawn(move || fs::read(path)))
                    });
                    trial.the_rest_works();
                    for (name, reader) in readers {
                        assert_io_error(name, reader.join().expect("a reader"));
                    }
                });
                for (name, _) in SIZES {
                    let line = trial.line(name, cause);
                    trial.mounted.daemon.wait_for_log(&line);
                    assert_eq!(trial.mounted.daemon.log().matches(&line).count(), 1, "logged once");
                }
                trial.the_rest_works();

                trial.stor.set(ServerTrouble::None);
                for (name, _) in SIZES {
                    // For a moment after the failure the kernel is told what it was told already.
                    wait_for("the read to succeed", || trial.mounted.read(name).is_ok());
                    trial.reads_well(name);
                }
                trial.ends_well();
            });
        }
    });
}

#[track_caller]
fn assert_io_error(name: &str, read: io::Result<Vec<u8>>) {
    let error = read.expect_err(name);
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{name}: {error}");
}

#[test]
fn a_stopped_stor_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Stopped, "unavailable: ");
}

#[test]
fn a_stor_that_answers_500_is_an_io_error() {
    let cause = "unavailable: 500 Internal Server Error: trouble was asked for";
    is_an_io_error(&ServerTrouble::Status(500), cause);
}

#[test]
fn a_missing_object_is_an_io_error_and_never_a_missing_file() {
    is_an_io_error(&ServerTrouble::Status(404), "not found");
}

#[test]
fn a_stor_that_does_not_let_us_in_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Status(401), "access denied: check login and passwd of the stor");
}

#[test]
fn a_body_that_is_cut_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Cut(0), "the answer ended early, after 0 of ");
}

#[test]
fn a_body_that_stops_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Stall(1000), "no answer within ");
}

#[test]
fn a_flipped_byte_is_an_io_error() {
    // Of a part of a pack it may be one of a neighbour.
    is_an_io_error_in(&["v1-long"], &ServerTrouble::Flip(1500), "");
}

#[test]
fn garbage_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Garbage, "");
}

#[test]
fn a_body_that_is_longer_than_announced_is_an_io_error() {
    is_an_io_error(&ServerTrouble::WrongLength(-10), "");
}

#[test]
fn a_body_that_is_shorter_than_announced_is_an_io_error() {
    is_an_io_error(&ServerTrouble::WrongLength(10), "");
}

#[test]
fn a_flood_is_an_io_error() {
    // What comes before it of a part of a pack is verified, and serves as well as it would without.
    is_an_io_error_in(&["v1-long"], &ServerTrouble::Flood(8 << 30), "");
}

#[test]
fn silence_is_an_io_error() {
    is_an_io_error(&ServerTrouble::Silence, "no answer within ");
}

#[test]
fn a_redirect_to_another_server_is_an_io_error_and_is_not_followed() {
    let lab = Lab::new();
    let elsewhere = Faulty::start(&lab.dir("elsewhere"));
    let target = elsewhere.shown();
    let trouble = ServerTrouble::Redirect(target.parse().expect("a URL"));
    is_an_io_error(&trouble, &format!("unexpected answer: 307 Temporary Redirect to \"{target}store/test/"));
    assert!(
        !elsewhere.stor.daemon.log().contains("method="),
        "somebody came: {}",
        elsewhere.stor.daemon.log()
    );
}

#[test]
fn a_failed_read_waits_for_the_stor_once() {
    // With its neighbours, and then by itself.
    for (format, requests) in [("v1-long", 1), ("v2", 2)] {
        let trial = Trial::new(format);
        let small = &trial.objects[Path::new("small")];
        let before = trial.stor.gets(small);
        trial.stor.set(ServerTrouble::Silence);
        assert_io_error("small", trial.mounted.read("small"));
        assert_eq!(trial.stor.gets(small) - before, requests, "{format}: the kernel asked twice");
        trial.ends_well();
    }
}

#[test]
fn a_flood_takes_no_memory_and_no_disk() {
    for format in ["v1-long", "v2"] {
        flooded(format);
    }
}

fn flooded(format: &str) {
    let trial = Trial::new(format);
    trial.stor.set(ServerTrouble::Flood(8 << 30));
    for (name, _) in SIZES {
        match trial.mounted.read(name) {
            Ok(read) if trial.is_packed => {
                assert!(read == fs::read(trial.source.join(name)).expect("the source"), "{name}");
            }
            read => assert_io_error(name, read),
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", trial.mounted.daemon.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 200 << 10, "{peak} KiB");
    trial.ends_well();
}

#[test]
fn a_second_stor_serves_what_the_first_cannot() {
    let troubles = [
        ServerTrouble::Stopped,
        ServerTrouble::Status(500),
        ServerTrouble::Status(404),
        ServerTrouble::Status(401),
        ServerTrouble::Cut(0),
        ServerTrouble::Stall(1000),
        ServerTrouble::Flip(1500),
        ServerTrouble::Garbage,
        ServerTrouble::WrongLength(10),
        ServerTrouble::Flood(8 << 30),
        ServerTrouble::Silence,
    ];
    let lab = Lab::new();
    let (source, root) = (sources(&lab), lab.dir("stor"));
    let second = Faulty::start(&root);
    for format in ["v1-long", "v2"] {
        let flist = pack(&lab, &source, &second.direct(), format);
        thread::scope(|scope| {
            for trouble in &troubles {
                let (root, source, flist, second) = (&root, &source, &flist, &second);
                scope.spawn(move || {
                    let first = Faulty::start(root);
                    first.set(trouble.clone());
                    let two = TwoStors::mount(flist, &first, second);
                    for (name, _) in SIZES {
                        let read = fs::read(two.point.join(name));
                        let read = read.unwrap_or_else(|error| panic!("{trouble:?}: {name}: {error}"));
                        assert!(
                            read == fs::read(source.join(name)).expect("the source"),
                            "{name} is not the same"
                        );
                    }
                    two.daemon.stop();
                });
            }
        });
    }
}

#[test]
fn when_no_stor_helps_the_log_tells_why_of_each() {
    let lab = Lab::new();
    let source = sources(&lab);
    let (first, second) = (Faulty::start(&lab.dir("first")), Faulty::start(&lab.dir("second")));
    let flist = pack(&lab, &source, &first.direct(), "v2");
    first.set(ServerTrouble::Status(404));
    second.set(ServerTrouble::Status(403));
    let mut two = TwoStors::mount(&flist, &first, &second);
    assert_io_error("small", fs::read(two.point.join("small")));
    let Object { id, key } = &objects(&flist)[Path::new("small")];
    two.daemon.wait_for_log(&format!(
        "cannot read /small: content {id} could not be had: {} (test): {key}: not found; {} (test): {key}: access denied",
        first.shown(),
        second.shown()
    ));
    assert!(!two.daemon.log().contains(SECRET));
    two.daemon.stop();
}

/// A mount with two stors.
struct TwoStors {
    daemon: Daemon,
    point: PathBuf,
    _lab: Lab,
}

impl TwoStors {
    fn mount(flist: &Path, first: &Faulty, second: &Faulty) -> Self {
        let lab = Lab::new();
        let point = lab.dir("mnt");
        let config = lab.file(
            "config.toml",
            format!(
                "[[mount]]\npath = {point:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n\
                 [backend.main]\npath = {:?}\nstor = [\"first\", \"second\"]\nnamespace = \"test\"\ndeadline = \"4s\"\n\
                 [stor.first]\nurl = {:?}\n[stor.second]\nurl = {:?}\n",
                lab.path("backend"),
                first.url(),
                second.url()
            ),
        );
        let mut daemon = Daemon::start(["-config".as_ref(), config.as_os_str()]);
        daemon.wait_for_log("all mounts are up");
        Self { daemon, point, _lab: lab }
    }
}

#[test]
fn a_killed_reader_disturbs_nobody() {
    let trial = Trial::new("v2");
    let gate = trial.stor.hold();
    let path = trial.mounted.point.join("small");
    let reader = || Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn().expect("cat runs");
    let mut killed = [Signal::INT, Signal::TERM, Signal::KILL].map(|signal| (signal, reader()));
    let patient = reader();
    trial.stor.held(&gate, 1);
    for (signal, child) in &killed {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, *signal).expect("it can be signalled");
    }
    gate.open();
    for (signal, child) in &mut killed {
        wait_for(&format!("the end of a reader after {signal:?}"), || {
            child.try_wait().expect("a child").is_some()
        });
    }
    let read = patient.wait_with_output().expect("it ends").stdout;
    assert!(read == fs::read(trial.source.join("small")).expect("the source"));
    trial.ends_well();
}

#[test]
fn a_reader_that_waits_gets_its_bytes_although_the_daemon_was_told_to_end() {
    let trial = Trial::with_deadline("v2", "1h");
    let gate = trial.stor.hold();
    let path = trial.mounted.point.join("small");
    let reader = thread::spawn(move || fs::read(path));
    trial.stor.held(&gate, 1);
    let Trial { mut mounted, stor, source, _lab, .. } = trial;
    mounted.daemon.signal(Signal::TERM);
    mounted.daemon.wait_for_log("is still busy: detached");
    wait_for("the mount to disappear", || !is_mounted(&mounted.point));
    gate.open();
    let read = reader.join().expect("a reader").expect("it is served to its end");
    assert!(read == fs::read(source.join("small")).expect("the source"));
    assert!(mounted.daemon.wait().success());
    drop(stor);
}

#[test]
fn a_slow_stor_is_waited_for() {
    let trial = Trial::with_deadline("v2", "1h");
    trial.stor.set(ServerTrouble::Slow(Duration::from_millis(500)));
    for (name, _) in SIZES {
        trial.reads_well(name);
    }
    trial.ends_well();
}
