//! Local changes as a new flist: the same tree for everyone, and only what is new is sent.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::compare::{Fidelity, assert_same};
use crate::overlay_state::change;
use crate::support::{Daemon, Faulty, LIBS, Lab, Mounted, SECRET, Stor, objects, pack, run, run_ok};
use crate::tree;

fn overlay(lab: &Lab, flist: &Path, stor: &str, lib: &str) -> Mounted {
    Mounted::with(lab, flist, stor, &["--mode", "OL", "--lib", lib])
}

/// Commits what is mounted; returns the flist, and what was said about it.
fn commit(lab: &Lab, point: &Path, name: &str) -> (PathBuf, serde_json::Value) {
    let flist = lab.path(name);
    let args = ["commit".as_ref(), point.as_os_str(), "-o".as_ref(), flist.as_os_str(), "--json".as_ref()];
    let said = run_ok(args);
    (flist, serde_json::from_str(&said).expect("JSON"))
}

/// Shows a flist on `lab/fresh`, with a backend of its own.
fn fresh(lab: &Lab, flist: &Path, stor: &str) -> (Daemon, PathBuf) {
    let (point, cache) = (lab.dir("fresh"), lab.path("fresh-cache"));
    let args =
        ["mount".as_ref(), flist.as_os_str(), point.as_os_str(), "--cache".as_ref(), cache.as_os_str()];
    let mut daemon = Daemon::start(
        args.into_iter().chain(["--namespace", "test", "--stor", stor, "--prefetch", "none"].map(OsStr::new)),
    );
    daemon.wait_for_log("all mounts are up");
    (daemon, point)
}

#[test]
fn a_committed_flist_shows_what_the_mount_did() {
    let lab = Lab::new();
    let (source, plain) = (lab.path("source"), lab.path("plain"));
    tree::odd(&source);
    assert!(Command::new("cp").arg("-a").args([&source, &plain]).status().expect("cp runs").success());
    change(&plain);
    let stor = Faulty::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.direct(), "v2");
    let keys: BTreeMap<_, _> =
        objects(&flist).into_values().map(|object| (object.key.clone(), object)).collect();
    let gets = || keys.values().map(|object| stor.gets(object)).sum::<usize>();
    for lib in LIBS {
        let mounted = overlay(&lab, &flist, &stor.url(), lib);
        change(&mounted.point);
        let before = gets();
        let (committed, said) = commit(&lab, &mounted.point, "new.flist");
        assert_eq!(gets(), before, "{lib}: something was fetched for it");
        let number = |key: &str| said[key].as_u64().expect("a number");
        assert!(number("files") > number("reused") && number("reused") > 30, "{said}");
        assert_eq!(number("new_objects") == 0, lib != LIBS[0], "{lib}: the stor has them by now: {said}");
        // Nothing has happened to the mount.
        let (again, _) = commit(&lab, &mounted.point, "again.flist");
        assert_eq!(entries(&again), entries(&committed));

        let (daemon, point) = fresh(&lab, &committed, &stor.direct());
        assert_same(&plain, &point, Fidelity::Settable);
        daemon.stop();
        mounted.stop();

        // On top of what they have become, the changes change nothing.
        let mounted = overlay(&lab, &committed, &stor.direct(), lib);
        let fidelity = if lib == "polyfuse" { Fidelity::Content } else { Fidelity::Settable };
        assert_same(&plain, &mounted.point, fidelity);
        assert_eq!(run_ok(["diff".as_ref(), mounted.point.as_os_str()]), "", "{lib}");
        mounted.stop();
        for dir in ["cache", "fresh-cache"] {
            fs::remove_dir_all(lab.path(dir)).expect("removed");
        }
    }
}

fn entries(flist: &Path) -> Vec<String> {
    let text = fs::read(flist).expect("a flist");
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn old_lists_are_committed_without_fetching_what_did_not_change() {
    let lab = Lab::new();
    let (source, plain) = (lab.path("source"), lab.path("plain"));
    tree::plain(&source, 60);
    let stor = Faulty::start(&lab.dir("stor"));
    for format in ["v1", "v1-long"] {
        assert!(Command::new("cp").arg("-a").args([&source, &plain]).status().expect("cp runs").success());
        let flist = pack(&lab, &source, &stor.direct(), format);
        let gets = || objects(&flist).values().map(|object| stor.gets(object)).sum::<usize>();
        let before = gets();
        let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
        for at in [&plain, &mounted.point] {
            fs::write(at.join("d000/e00/file1.dat"), "changed").expect("written");
            fs::remove_file(at.join("d000/e00/file2.dat")).expect("removed");
            fs::write(at.join("new"), "new").expect("written");
        }
        let (committed, _) = commit(&lab, &mounted.point, "new.flist");
        assert_eq!(gets(), before, "{format}: something was fetched");
        assert!(run_ok(["flist".as_ref(), "check".as_ref(), committed.as_os_str()]).contains("fine (v2"));
        let (daemon, point) = fresh(&lab, &committed, &stor.direct());
        assert_same(&plain, &point, Fidelity::Content);
        assert_same(&mounted.point, &point, Fidelity::Settable);
        daemon.stop();
        mounted.stop();
        for dir in ["cache", "fresh-cache", "plain"] {
            fs::remove_dir_all(lab.path(dir)).expect("removed");
        }
    }
}

#[test]
fn the_header_goes_on_from_the_old_one_unless_it_is_said() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "old").expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let (flist, url) = (lab.path("v7.flist"), stor.url());
    let args =
        ["pack", "--stor", &url, "--namespace", "test", "--name", "app", "--version", "7"].map(OsStr::new);
    run_ok(args.into_iter().chain([source.as_os_str(), "-o".as_ref(), flist.as_os_str()]));
    let mounted = overlay(&lab, &flist, &url, LIBS[0]);
    let header = |flist: &Path| {
        let said = run_ok(["flist".as_ref(), "check".as_ref(), "--json".as_ref(), flist.as_os_str()]);
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        (said["name"].as_str().map(str::to_owned), said["version"].as_u64())
    };
    let (new, _) = commit(&lab, &mounted.point, "new.flist");
    assert_eq!(header(&new), (Some("app".into()), Some(8)));
    let args = ["commit", "--name", "other", "--version", "100", "-o"].map(OsStr::new);
    let said = run_ok(args.into_iter().chain([new.as_os_str(), mounted.point.as_os_str()]));
    assert_eq!(header(&new), (Some("other".into()), Some(100)));
    let expected = format!(
        "committed 2 entries (1 files, 1 as they were) to {}; 0 new objects (0 B) in the stor\n",
        new.display()
    );
    assert_eq!(said, expected);
    mounted.stop();
}

#[test]
fn what_was_written_to_mapped_memory_is_committed() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "old").expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    for lib in LIBS {
        let mounted = overlay(&lab, &flist, &stor.url(), lib);
        let script = "import mmap, sys\n\
                      file = open(sys.argv[1], 'r+b')\n\
                      memory = mmap.mmap(file.fileno(), 3)\n\
                      memory[:] = b'new'\n\
                      print('written', flush=True)\n\
                      sys.stdin.read()\n";
        let mut writer = Command::new("python3");
        writer
            .args(["-c", script])
            .arg(mounted.point.join("file"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut writer = writer.spawn().expect("python runs");
        let mut line = String::new();
        BufReader::new(writer.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "written\n");
        let (committed, _) = commit(&lab, &mounted.point, "new.flist");
        drop(writer.stdin.take());
        assert!(writer.wait().expect("a child").success());
        let (daemon, point) = fresh(&lab, &committed, &stor.url());
        assert_eq!(fs::read(point.join("file")).expect("read"), b"new", "{lib}");
        daemon.stop();
        mounted.stop();
        fs::remove_dir_all(lab.path("cache/upper")).expect("removed");
    }
}

#[test]
fn mode_rw_is_committed_too() {
    let lab = Lab::new();
    let plain = lab.path("plain");
    tree::odd(&plain);
    let stor = Stor::start(&lab.dir("stor"));
    let point = lab.dir("mnt");
    let config = format!(
        "[[mount]]\npath = {point:?}\nbackend = \"main\"\nmode = \"RW\"\n\n[backend.main]\npath = {:?}\nstor = \"one\"\n\
         namespace = \"test\"\n[stor.one]\nurl = {:?}\n",
        lab.path("backend"),
        stor.url()
    );
    let config = lab.file("config.toml", config);
    let mut daemon = Daemon::start(["-config".as_ref(), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    let copied =
        Command::new("cp").arg("-a").args([plain.join("."), point.clone()]).status().expect("cp runs");
    assert!(copied.success());
    let (committed, said) = commit(&lab, &point, "new.flist");
    assert_eq!(said["reused"], 0);
    let (other, fresh) = fresh(&lab, &committed, &stor.url());
    assert_same(&plain, &fresh, Fidelity::Settable);
    other.stop();
    daemon.stop();
}

#[test]
fn a_commit_that_cannot_be_says_why_and_writes_nothing() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "old").expect("a file");
    let accounts = [format!("writer:{SECRET}:rw"), format!("reader:{SECRET}:r")];
    let stor = Stor::start_with(&lab.dir("stor"), &["--account", &accounts[0], "--account", &accounts[1]]);
    let with = |login: &str| stor.url().replace("http://", &format!("http://{login}:{SECRET}@"));
    let flist = pack(&lab, &source, &with("writer"), "v2");
    let to = lab.path("new.flist");
    let commit = |point: &Path, output: &Path| {
        let output = run(["commit".as_ref(), point.as_os_str(), "-o".as_ref(), output.as_os_str()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains(SECRET), "{said}");
        (output.status.code(), said)
    };

    let mounted = Mounted::new(&lab, &flist, &with("reader"));
    let point = mounted.point.clone();
    let shown = point.display();
    let message = format!(
        "aysfs: {shown} is mounted read-only: its flist is what it shows, and there is nothing to commit\n"
    );
    assert_eq!(commit(&point, &to), (Some(1), message));
    mounted.stop();

    let mounted = overlay(&lab, &flist, &with("reader"), LIBS[0]);
    // What is there already needs no right to write.
    fs::remove_file(mounted.point.join("file")).expect("removed");
    assert_eq!(commit(&point, &to).0, Some(0));
    fs::remove_file(&to).expect("removed");
    fs::write(mounted.point.join("new"), "new").expect("written");
    let (code, said) = commit(&point, &to);
    let start = format!(
        "aysfs: cannot commit {shown}: the stor takes nothing from the account of this mount: mount with one that may write, \
         then commit again ({} (test): ",
        stor.url()
    );
    assert!(said.starts_with(&start) && said.lines().count() == 1, "{said}");
    assert_eq!(code, Some(1));

    let message = format!("aysfs: {} is a directory: name a file to write\n", source.display());
    assert_eq!(commit(&point, &source), (Some(2), message));
    let nowhere = lab.path("nope/new.flist");
    let (code, said) = commit(&point, &nowhere);
    assert!(said.starts_with("aysfs: cannot write the flist into "), "{said}");
    assert_eq!(code, Some(1));
    assert!(!to.exists());
    mounted.stop();
    let left: Vec<_> = fs::read_dir(lab.path(""))
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

#[test]
fn a_client_that_goes_away_ends_what_it_asked_for() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "old").expect("a file");
    let stor = Faulty::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.direct(), "v2");
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    fs::write(mounted.point.join("new"), "new").expect("written");
    let gate = stor.hold();
    let to = lab.path("new.flist");
    let mut client = crate::support::aysfs();
    client.args(["commit".as_ref(), mounted.point.as_os_str(), "-o".as_ref(), to.as_os_str()]);
    let mut client = client.spawn().expect("it runs");
    stor.held(&gate, 1);
    client.kill().expect("killed");
    client.wait().expect("a child");
    gate.open();
    stor.set(aysfs_store::fault::ServerTrouble::None);
    // The mount is as good as before.
    commit(&lab, &mounted.point, "other.flist");
    assert!(!to.exists());
    mounted.stop();
}
