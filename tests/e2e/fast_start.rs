//! What is fetched before anybody reads it, and what is recorded to know that: with real mounts, stors that fail, and programs that
//! start.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use aysfs_store::fault::ServerTrouble;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Daemon, Faulty, LIBS, Lab, Mounted, aysfs, pack, run, run_ok, wait_for};
use crate::tree;

/// A packed tree, behind a stor that can fail.
struct Trial {
    lab: Lab,
    source: PathBuf,
    stor: Faulty,
    flist: PathBuf,
}

const SMALL: usize = 200;

impl Trial {
    fn new() -> Self {
        let lab = Lab::new();
        let source = lab.dir("source");
        for directory in ["app", "other"] {
            fs::create_dir(source.join(directory)).expect("made");
            for number in 0..SMALL {
                let content = tree::noise(number as u64, 1000 + number);
                fs::write(source.join(format!("{directory}/f{number:03}")), content).expect("written");
            }
        }
        fs::write(source.join("app/large"), tree::noise(7, 3 << 20)).expect("written");
        fs::write(source.join("other/large"), tree::noise(9, 3 << 20)).expect("written");
        fs::write(source.join("app/medium"), tree::noise(8, 200_000)).expect("written");
        let stor = Faulty::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.direct(), "v2");
        Self { lab, source, stor, flist }
    }

    fn mount(&self, more: &[&str]) -> Mounted {
        Mounted::with(&self.lab, &self.flist, &self.stor.url(), more)
    }

    /// No stor gives anything any more.
    fn fail(&self) {
        self.stor.set(ServerTrouble::Status(404));
    }

    /// From the beginning: without a cache, with a stor.
    fn again(&self) {
        self.stor.set(ServerTrouble::None);
        fs::remove_dir_all(self.lab.path("cache")).expect("removed");
    }

    #[track_caller]
    fn assert_same(&self, mounted: &Mounted, directory: &str) {
        for entry in fs::read_dir(self.source.join(directory)).expect("listed") {
            let entry = entry.expect("listed");
            let path = Path::new(directory).join(entry.file_name());
            let read = fs::read(mounted.point.join(&path));
            let read = read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(
                read == fs::read(entry.path()).expect("the source"),
                "{} is not the same",
                path.display()
            );
        }
    }
}

fn warm(point: &Path, paths: &[&str]) -> Output {
    let args = ["warm".as_ref(), "--json".as_ref(), point.as_os_str()];
    run(args.into_iter().chain(paths.iter().map(OsStr::new)))
}

#[track_caller]
fn warmed(point: &Path, paths: &[&str]) -> Value {
    let output = warm(point, paths);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Records a command; returns what it said and the profile.
fn record(lab: &Lab, point: &Path, command: &[&str]) -> (Output, String) {
    let profile = lab.path("app.profile");
    let args = ["profile".as_ref(), "record".as_ref(), point.as_os_str(), "-o".as_ref(), profile.as_os_str()];
    let output = run(args.into_iter().chain(["--"].iter().chain(command).map(OsStr::new)));
    (output, fs::read_to_string(profile).unwrap_or_default())
}

#[test]
fn what_was_warmed_is_read_while_no_stor_answers() {
    let trial = Trial::new();
    for (lib, mode) in LIBS.iter().flat_map(|lib| [(*lib, "RO"), (*lib, "OL")]) {
        let mounted = trial.mount(&["--lib", lib, "--mode", mode]);
        let all = warmed(&mounted.point, &[]);
        assert_eq!((&all["files"], &all["failed_files"]), (&Value::from(2 * SMALL + 3), &Value::from(0)));
        trial.fail();
        trial.assert_same(&mounted, "app");
        trial.assert_same(&mounted, "other");
        assert_eq!(warmed(&mounted.point, &[])["fetched_files"], 0, "{lib} {mode}");
        mounted.stop();
        trial.again();
    }
}

#[test]
fn what_could_not_be_warmed_is_told_and_what_is_not_there_is_an_error() {
    let trial = Trial::new();
    let mounted = trial.mount(&["--mode", "OL", "--prefetch", "none"]);
    let point = mounted.point.as_path();
    fs::write(point.join("new"), "local").expect("written");
    std::os::unix::fs::symlink("app/f007", point.join("link")).expect("made");
    fs::rename(point.join("other"), point.join("moved")).expect("renamed");
    let refused = warm(point, &["nothing"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("there is no /nothing"), "{said}");
    assert_eq!(warmed(point, &["new"])["files"], 0, "there is nothing to fetch");
    assert_eq!(warmed(point, &["link"])["bytes"], 1007);
    let absolute = point.join("moved");
    assert_eq!(warmed(point, &[absolute.to_str().expect("ASCII")])["files"], SMALL + 1);
    let outside = warm(point, &["/etc/passwd"]);
    assert!(!outside.status.success());

    trial.fail();
    let failed = warm(point, &["app/large"]);
    assert_eq!(failed.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&failed.stdout).expect("JSON");
    assert_eq!((&told["failed_files"], &told["failed"][0]["path"]), (&Value::from(1), &"/app/large".into()));
    mounted.stop();
}

#[test]
fn warming_goes_on_where_a_daemon_or_a_client_was_killed() {
    let trial = Trial::new();
    let mut mounted = trial.mount(&[]);
    warmed(&mounted.point, &["app"]);
    mounted.daemon.signal(Signal::KILL);
    mounted.daemon.wait();

    let mounted = trial.mount(&[]);
    let gate = trial.stor.hold();
    let other = mounted.point.join("other");
    let mut client = Daemon::start(["warm".as_ref(), mounted.point.as_os_str(), other.as_os_str()]);
    trial.stor.held(&gate, 1);
    client.signal(Signal::INT);
    assert!(!client.wait().success());
    gate.open();
    trial.stor.set(ServerTrouble::None);
    assert_eq!(warmed(&mounted.point, &["app"])["fetched_files"], 0, "it was here before");
    assert_eq!(warmed(&mounted.point, &[])["failed_files"], 0);
    trial.fail();
    trial.assert_same(&mounted, "app");
    trial.assert_same(&mounted, "other");
    mounted.stop();
}

#[test]
fn what_is_read_first_is_recorded_packed_and_fetched_before_it_is_read() {
    let trial = Trial::new();
    for (lib, mode) in LIBS.iter().flat_map(|lib| [(*lib, "RO"), (*lib, "OL")]) {
        let mounted = trial.mount(&["--lib", lib, "--mode", mode]);
        let read = ["other/f100", "app/medium", "app/f003"];
        // What the kernel has in memory is seen as well.
        trial.assert_same(&mounted, "other");
        trial.assert_same(&mounted, "app");
        let paths = read.map(|path| mounted.point.join(path).to_str().expect("ASCII").to_owned());
        let command = format!("cat {} | cksum; stat {}; exit 7", paths.join(" "), mounted.point.display());
        let (output, profile) = record(&trial.lab, &mounted.point, &["sh", "-c", &command]);
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("File:"), "it is the command's");
        let expected =
            "# aysfs-profile 1\n0+1100 other/f100\n0+200000 app/medium\n0+1003 app/f003\n".to_owned();
        assert_eq!(profile, expected, "{lib} {mode}");
        mounted.stop();
        trial.again();

        let flist = trial.lab.path("started.flist");
        let url = trial.stor.direct();
        let args = ["pack", "--stor", &url, "--namespace", "test", "--profile"].map(OsStr::new);
        let profile = trial.lab.path("app.profile");
        let to = [profile.as_os_str(), "-o".as_ref(), flist.as_os_str(), trial.source.as_os_str()];
        run_ok(args.into_iter().chain(to));
        let more = ["--lib", lib, "--mode", mode, "-v"];
        let mut mounted = Mounted::with(&trial.lab, &flist, &trial.stor.url(), &more);
        mounted.daemon.wait_for_log("what is read first is here");
        trial.fail();
        for path in read {
            assert!(
                mounted.read(path).expect("here") == fs::read(trial.source.join(path)).expect("the source")
            );
        }
        mounted.read("other/f000").expect_err("nobody has read it");
        mounted.stop();
        trial.again();
    }
}

#[test]
fn everything_is_prefetched_if_that_is_wanted_and_again_after_a_reload() {
    let trial = Trial::new();
    let mut mounted = trial.mount(&["--prefetch", "all"]);
    mounted.daemon.wait_for_log("all content is in the cache");
    fs::write(trial.source.join("app/new"), tree::noise(99, 70_000)).expect("written");
    pack(&trial.lab, &trial.source, &trial.stor.direct(), "v2");
    run_ok(["reload".as_ref(), mounted.point.as_os_str()]);
    let told = || mounted.daemon.log().matches("all content is in the cache").count();
    wait_for("the new list", || told() == 2);
    trial.fail();
    trial.assert_same(&mounted, "app");
    trial.assert_same(&mounted, "other");
    mounted.stop();
}

#[test]
fn a_mount_with_prefetch_ends_while_its_stor_does_not_answer() {
    let trial = Trial::new();
    let gate = trial.stor.hold();
    let mounted = trial.mount(&["--prefetch", "all"]);
    trial.stor.held(&gate, 1);
    mounted.stop();
    gate.open();
}

#[test]
fn recording_without_a_command_ends_with_a_signal_or_after_a_time_and_one_records_at_a_time() {
    let trial = Trial::new();
    let mounted = trial.mount(&[]);
    let profile = trial.lab.path("app.profile");
    let args = |output: &Path, more: &[&str]| {
        let mut command = aysfs();
        command.args(["profile", "record"]).arg(&mounted.point).arg("-o").arg(output).args(more);
        command
    };
    let mut recorder = Daemon::start([
        "profile".as_ref(),
        "record".as_ref(),
        mounted.point.as_os_str(),
        "-o".as_ref(),
        profile.as_os_str(),
    ]);
    let other = trial.lab.path("other.profile");
    recorder.wait_for_log("recording what is read");
    let second = args(&other, &["--seconds", "0"]).output().expect("run");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("somebody records what is read from it already"), "{said}");
    mounted.read("app/f005").expect("fetched");
    recorder.signal(Signal::TERM);
    assert!(recorder.wait().success(), "{}", recorder.log());
    assert_eq!(fs::read_to_string(&profile).expect("written"), "# aysfs-profile 1\n0+1005 app/f005\n");
    wait_for("it to end", || args(&other, &["--seconds", "0"]).status().expect("run").success());
    assert_eq!(fs::read_to_string(&other).expect("written"), "# aysfs-profile 1\n");

    let missing = run([
        "profile".as_ref(),
        "record".as_ref(),
        mounted.point.as_os_str(),
        "-o".as_ref(),
        other.as_os_str(),
        "--".as_ref(),
        "/no/such/command".as_ref(),
    ]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot run /no/such/command"));
    mounted.stop();
}
