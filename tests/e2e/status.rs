//! `aysfs status`, `why` and `umount`: what the processes that serve mounts say, and do when they are asked.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use aysfs_store::fault::ServerTrouble;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Daemon, Faulty, LIBS, Lab, Mounted, Stor, is_mounted, is_root, objects, pack, run, run_ok, wait_for,
};

/// A few files, packed.
fn packed(lab: &Lab, stor: &str) -> PathBuf {
    let source = lab.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    for name in ["cached", "changed", "mode", "gone", "dir/file"] {
        fs::write(source.join(name), format!("what is in {name}")).expect("a file");
    }
    fs::write(source.join("empty"), "").expect("a file");
    symlink("cached", source.join("link")).expect("a symlink");
    pack(lab, &source, stor, "v2")
}

fn json(args: &[&OsStr]) -> Vec<Value> {
    let lines = run_ok(args.iter().copied().chain(["--json".as_ref()]));
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn why(path: &Path) -> Value {
    json(&["why".as_ref(), path.as_os_str()]).pop().expect("an answer")
}

/// What the status of all mounts says of one.
fn among_all(point: &Path) -> Option<Value> {
    json(&["status".as_ref()]).into_iter().find(|status| status["mount"] == *point.to_str().expect("text"))
}

fn umount(args: &[&OsStr]) -> std::process::Output {
    run([OsStr::new("umount")].iter().chain(args))
}

/// A config with two mounts, the first inside of the second, and two stors, of which the first has nothing.
fn two_mounts(lab: &Lab, flist: &Path, stor: &str) -> (Daemon, [PathBuf; 2]) {
    let outer = lab.dir("mnt");
    let inner = outer.join("dir");
    let config = lab.file(
        "config.toml",
        format!(
            "[[mount]]\npath = {inner:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n\
             [[mount]]\npath = {outer:?}\nbackend = \"main\"\nmode = \"OL\"\nflist = {flist:?}\n\
             [backend.main]\npath = {:?}\nstor = [\"near\", \"far\"]\nnamespace = \"test\"\n\
             [stor.near]\nurl = \"file://{}\"\n[stor.far]\nurl = {stor:?}\n",
            lab.path("backend"),
            lab.dir("near").display(),
        ),
    );
    let mut daemon = Daemon::start(["-c".as_ref(), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    (daemon, [inner, outer])
}

#[test]
fn status_tells_of_every_mount_of_every_process() {
    let (lab, other) = (Lab::new(), Lab::new());
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let (daemon, [inner, outer]) = two_mounts(&lab, &flist, &stor.url());
    let mut mounted = Mounted::with(&other, &flist, &stor.url(), &["--lib", "fuse3"]);
    mounted.read("cached").expect("fetched");

    for (point, mode, lib, pid, stors) in [
        (&inner, "RO", "fuser", daemon.pid(), 2),
        (&outer, "OL", "fuser", daemon.pid(), 2),
        (&mounted.point, "RO", "fuse3", mounted.daemon.pid(), 1),
    ] {
        let status = among_all(point).expect("it is told");
        assert_eq!(json(&["status".as_ref(), point.as_os_str()])[0]["device"], status["device"]);
        assert_eq!((status["mode"].as_str(), status["lib"].as_str()), (Some(mode), Some(lib)));
        assert_eq!(status["process"]["pid"], pid);
        assert_eq!(status["flist"]["source"], *flist.to_str().expect("text"));
        assert_eq!(status["flist"]["entries"], 9);
        assert_eq!(status["flist"]["sha256"].as_str().map(str::len), Some(64));
        let shown = status["stors"].as_array().expect("a list");
        assert_eq!(shown.len(), stors);
        assert!(shown.iter().all(|stor| stor["stands_back"] == false), "{status}");
        assert!(status.get("push").is_none(), "nothing is pushed");
    }
    let status = among_all(&mounted.point).expect("it is told");
    assert_eq!((&status["cache"]["fetches"], &status["stors"][0]["requests"]), (&1.into(), &1.into()));

    let text = run_ok(["status".as_ref(), mounted.point.as_os_str()]);
    assert!(
        text.starts_with(&format!("{}\n  mode     RO with fuse3, by process ", mounted.point.display())),
        "{text}"
    );
    assert!(
        text.contains(&format!("  stor     {}", stor.url())) && text.contains(": ready, 1 requests"),
        "{text}"
    );

    mounted.daemon.signal(Signal::KILL);
    mounted.daemon.wait();
    let status = among_all(&mounted.point).expect("it is still in the mount table");
    assert!(status["problem"].as_str().is_some_and(|problem| problem.contains("is gone")), "{status}");
    assert!(umount(&["--lazy".as_ref(), mounted.point.as_os_str()]).status.success());
    assert!(among_all(&mounted.point).is_none());
    let output = run(["status".as_ref(), mounted.point.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    daemon.stop();
}

#[test]
fn trouble_with_a_stor_shows_in_the_status() {
    let lab = Lab::new();
    let stor = Faulty::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.direct());
    let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--deadline", "2s"]);
    stor.set(ServerTrouble::Garbage);
    mounted.read("cached").expect_err("nothing wrong is shown");
    let status = among_all(&mounted.point).expect("it is told");
    assert!(status["cache"]["verification_failures"].as_u64() > Some(0), "{status}");
    assert!(status["stors"][0]["verification_failures"].as_u64() > Some(0), "{status}");
    stor.set(ServerTrouble::Status(503));
    mounted.read("changed").expect_err("no stor");
    let status = among_all(&mounted.point).expect("it is told");
    assert!(status["stors"][0]["failures"].as_u64() > Some(0), "{status}");
    assert!(status["stors"][0]["name"].as_str().is_some_and(|name| name.contains(&stor.shown())), "{status}");
    stor.set(ServerTrouble::None);
    mounted.stop();
}

#[test]
fn why_tells_layer_content_and_stor() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let known = objects(&flist);
    let (daemon, [inner, outer]) = two_mounts(&lab, &flist, &stor.url());
    fs::read(outer.join("cached")).expect("fetched");
    fs::write(outer.join("changed"), "new").expect("written");
    fs::write(outer.join("new"), "new").expect("written");
    fs::remove_file(outer.join("gone")).expect("removed");
    fs::set_permissions(outer.join("mode"), fs::Permissions::from_mode(0o600)).expect("changed");

    let layer = |path: &str| why(&outer.join(path))["layer"].as_str().expect("a layer").to_owned();
    for (path, expected) in [
        ("cached", "base"),
        ("link", "base"),
        ("changed", "upper"),
        ("new", "upper"),
        ("gone", "removed"),
        ("gone/below", "removed"),
        ("mode", if is_root() { "upper-metadata" } else { "upper" }),
        ("", "merged"),
    ] {
        assert_eq!(layer(path), expected, "{path}");
    }
    assert_eq!(why(&outer.join("link"))["kind"], "symlink", "it is not followed");
    assert_eq!(why(&outer.join("new"))["content"]["where"], "local");
    assert_eq!(why(&outer.join("empty"))["content"]["where"], "empty");

    let told = why(&outer.join("cached"));
    assert_eq!(told["content"]["id"], *known[Path::new("cached")].id);
    assert_eq!(told["content"]["cached"], true);
    // Another mount, inside of the first one; nobody has read there.
    let file = inner.join("dir/file");
    let told = why(&file);
    assert_eq!((&told["mount"], &told["path"]), (&inner.to_str().into(), &"/dir/file".into()));
    assert_eq!((&told["content"]["cached"], &told["content"]["size"]), (&false.into(), &19.into()));
    let stors = told["content"]["stors"].as_array().expect("a list");
    let has: Vec<_> = stors.iter().map(|stor| stor["has"].as_bool()).collect();
    // The nearer one does not have it, which is no reason to think less of it.
    assert_eq!(has, [Some(false), Some(true)]);
    let text = run_ok(["why".as_ref(), file.as_os_str()]);
    let last = text.lines().last().expect("a line");
    assert!(last.contains(&stor.url()) && last.ends_with(", has it: would serve it"), "{text}");
    assert_eq!(why(&file)["content"]["cached"], false, "nothing was fetched for it");

    for (path, message) in [
        (outer.join("nope"), "there is no /nope, neither in the flist nor in local changes"),
        (outer.join("cached/below"), "there is no /cached/below, neither in the flist nor in local changes"),
        (lab.path("source"), "is not in a mount of aysfs"),
    ] {
        let output = run(["why".as_ref(), path.as_os_str()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{output:?}");
    }
    drop(stor);
    let told = why(&file);
    assert_eq!(told["content"]["stors"][1]["has"], Value::Null, "nobody can tell");
    assert!(told["content"]["stors"][1]["error"].is_string());
    daemon.stop();
}

#[test]
fn umount_asks_the_process_that_serves() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    for lib in LIBS {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        let point = mounted.point.clone();
        let open = File::open(point.join("cached")).expect("it keeps the mount busy");
        let output = umount(&[point.as_os_str()]);
        assert_eq!(output.status.code(), Some(1));
        let busy = format!(
            "aysfs: {} is busy: close the files that are open there, or use --lazy\n",
            point.display()
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), busy, "{lib}");
        assert!(is_mounted(&point));
        assert!(umount(&["--lazy".as_ref(), point.as_os_str()]).status.success());
        assert!(!is_mounted(&point));
        assert_eq!(std::io::read_to_string(&open).expect("still served"), "what is in cached", "{lib}");
        drop(open);
        assert!(mounted.daemon.wait().success(), "{lib}");
        assert!(mounted.daemon.log().contains("asked to unmount"), "{}", mounted.daemon.log());
    }

    let (mut daemon, [inner, outer]) = two_mounts(&lab, &flist, &stor.url());
    assert!(!umount(&[outer.as_os_str()]).status.success(), "another mount is in it");
    assert!(umount(&[inner.as_os_str()]).status.success());
    assert!(among_all(&inner).is_none() && among_all(&outer).is_some());
    fs::read(outer.join("cached")).expect("it is still served");
    assert!(umount(&[outer.as_os_str()]).status.success());
    assert!(daemon.wait().success());
    // What is not mounted any more can be mounted at once.
    let (daemon, _) = two_mounts(&lab, &flist, &stor.url());
    daemon.stop();
}

#[test]
fn umount_takes_away_what_nobody_else_can() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mut mounted = Mounted::new(&lab, &flist, &stor.url());

    // The same filesystem in another place: that one goes, and the mount stays.
    let bound = lab.dir("bound");
    let bind = |what: &Path| {
        let status = Command::new("mount").arg("--bind").args([what, &bound]).status().expect("mount runs");
        assert!(status.success());
    };
    bind(&mounted.point);
    assert!(umount(&[bound.as_os_str()]).status.success());
    assert!(!is_mounted(&bound) && is_mounted(&mounted.point));
    // A part of it: paths are those of the whole.
    bind(&mounted.point.join("dir"));
    assert_eq!(why(&bound.join("file"))["path"], "/dir/file");
    assert!(umount(&[bound.as_os_str()]).status.success());

    // A process that does not answer is not waited for.
    mounted.daemon.signal(Signal::STOP);
    let output = umount(&["--lazy".as_ref(), mounted.point.as_os_str()]);
    mounted.daemon.signal(Signal::CONT);
    assert!(output.status.success(), "{output:?}");
    wait_for("the mount to disappear", || !is_mounted(&mounted.point));
    assert!(mounted.daemon.wait().success());
}
