//! What local changes come to, as the command shows it; and the socket that it asks.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::support::{Daemon, Faulty, LIBS, Lab, Mounted, Stor, aysfs, is_root, objects, pack, run, run_ok};

/// The control socket of a process of root.
fn socket(daemon: &Daemon) -> PathBuf {
    format!("/run/aysfs/{}.sock", daemon.pid()).into()
}

fn diff(point: &Path) -> String {
    run_ok(["diff".as_ref(), point.as_os_str()])
}

fn overlay(lab: &Lab, flist: &Path, stor: &str, lib: &str) -> Mounted {
    Mounted::with(lab, flist, stor, &["--mode", "OL", "--lib", lib])
}

/// A few files, packed.
fn packed(lab: &Lab, stor: &str) -> PathBuf {
    let source = lab.dir("source");
    for directory in ["dir", "gone", "gone/deep"] {
        fs::create_dir(source.join(directory)).expect("a directory");
    }
    for file in
        ["changed", "chmodded", "dir/kept", "gone/deep/file", "longer", "replaced", "touched", "written back"]
    {
        fs::write(source.join(file), "old").expect("a file");
    }
    symlink("there", source.join("link")).expect("a symlink");
    pack(lab, &source, stor, "v2")
}

fn change(at: &Path) {
    let write =
        |name: &[u8], content: &str| fs::write(at.join(OsStr::from_bytes(name)), content).expect("written");
    write(b"changed", "new");
    fs::set_permissions(at.join("chmodded"), Permissions::from_mode(0o600)).expect("a mode");
    fs::create_dir(at.join("dir/new")).expect("made");
    write(b"dir/new/file", "new");
    fs::remove_dir_all(at.join("gone")).expect("removed");
    write(b"longer", "longer than it was");
    fs::remove_file(at.join("replaced")).expect("removed");
    fs::create_dir(at.join("replaced")).expect("made");
    fs::File::open(at.join("touched"))
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("touched");
    let time = fs::metadata(at.join("written back")).and_then(|meta| meta.modified()).expect("a time");
    write(b"written back", "old");
    fs::File::open(at.join("written back")).and_then(|file| file.set_modified(time)).expect("touched");
    fs::remove_file(at.join("link")).expect("removed");
    symlink("elsewhere", at.join("link")).expect("made");
    write(b"odd\n|\\\xff", "new");
}

const CHANGED: &str = "\
M /changed (content)
M /chmodded (mode)
A /dir/new
A /dir/new/file
D /gone
M /link (target)
M /longer (content, size)
A /odd\\n|\\\\\\xff
M /replaced (type)
M /touched (times)
";

#[test]
fn changes_are_listed_by_path_whatever_library_serves_them() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    for lib in LIBS {
        let mounted = overlay(&lab, &flist, &stor.url(), lib);
        assert_eq!(diff(&mounted.point), "", "{lib}");
        change(&mounted.point);
        assert_eq!(diff(&mounted.point), CHANGED, "{lib}");
        let json = run_ok(["diff".as_ref(), "--json".as_ref(), mounted.point.as_os_str()]);
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), CHANGED.lines().count());
        let what = serde_json::json!({"change": "modified", "path": "/longer", "what": ["content", "size"]});
        assert_eq!(lines[6], what);
        assert_eq!(lines[7], serde_json::json!({"change": "added", "path": "/odd\\n|\\\\\\xff"}));
        mounted.stop();
        // It is what is in the directory, not what a process remembers.
        let mounted = overlay(&lab, &flist, &stor.url(), lib);
        assert_eq!(diff(&mounted.point), CHANGED, "{lib}");
        mounted.stop();
        fs::remove_dir_all(lab.path("cache/upper")).expect("removed");
    }
}

#[test]
fn what_root_moves_is_told_with_where_it_was() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    let at = |name: &str| mounted.point.join(name);
    fs::rename(at("gone"), at("moved")).expect("moved");
    fs::rename(at("moved/deep/file"), at("file")).expect("moved");
    fs::set_permissions(at("file"), Permissions::from_mode(0o600)).expect("a mode");
    let expected = "R /gone/deep/file -> /file (mode)\nR /gone -> /moved\n";
    assert_eq!(diff(&mounted.point), expected);
    let json = run_ok(["diff".as_ref(), "--json".as_ref(), mounted.point.as_os_str()]);
    let line = json.lines().next().expect("a line");
    assert_eq!(line, r#"{"change":"renamed","path":"/file","from":"/gone/deep/file","what":["mode"]}"#);
    mounted.stop();
}

#[test]
fn nothing_is_fetched_for_it() {
    let lab = Lab::new();
    let stor = Faulty::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.direct());
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    fs::remove_file(mounted.point.join("changed")).expect("removed");
    fs::write(mounted.point.join("changed"), "new").expect("written");
    assert_eq!(diff(&mounted.point), "M /changed (content)\n");
    for object in objects(&flist).values() {
        assert_eq!(stor.gets(object), 0);
    }
    mounted.stop();
}

#[test]
fn a_mount_is_found_however_it_is_typed() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    fs::remove_dir_all(mounted.point.join("gone")).expect("removed");
    symlink("mnt", lab.path("link")).expect("a symlink");
    symlink(lab.path(""), lab.path("source/around")).expect("a symlink");
    for typed in ["mnt", "./mnt/", "link", "source/../mnt", "source/around/link"] {
        let output = aysfs().current_dir(lab.path("")).args(["diff", typed]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "D /gone\n", "{typed}");
    }
    mounted.stop();
}

#[test]
fn a_read_only_mount_has_no_changes_and_without_a_base_all_is_new() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    assert_eq!(diff(&mounted.point), "");
    mounted.stop();

    let point = lab.dir("mnt");
    let config = format!(
        "[[mount]]\npath = {point:?}\nbackend = \"main\"\nmode = \"RW\"\n\n[backend.main]\npath = {:?}\nstor = \"one\"\n\
         [stor.one]\nurl = {:?}\n",
        lab.path("backend"),
        stor.url()
    );
    let config = lab.file("config.toml", config);
    let mut daemon = Daemon::start(["-config".as_ref(), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    fs::create_dir(point.join("dir")).expect("made");
    fs::write(point.join("dir/file"), "new").expect("written");
    assert_eq!(diff(&point), "A /dir\nA /dir/file\n");
    daemon.stop();
}

#[test]
fn nobody_else_is_answered() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).expect("a mode");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    let output = aysfs().arg("diff").arg(&mounted.point).uid(65_534).gid(65_534).output().expect("it runs");
    let message = format!(
        "aysfs: {} was mounted by user 0: only that user and root may ask about it\n",
        mounted.point.display()
    );
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()),
        (Some(1), message)
    );
    let socket = fs::metadata(socket(&mounted.daemon)).expect("a socket");
    assert_eq!(socket.mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata("/run/aysfs").expect("a directory").mode() & 0o7777, 0o700);
    mounted.stop();
}

#[test]
fn who_does_not_speak_the_protocol_is_told_so_and_disturbs_nobody() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    fs::remove_dir_all(mounted.point.join("gone")).expect("removed");
    let connect = || UnixStream::connect(socket(&mounted.daemon)).expect("it listens");
    // More than can be answered, but they leave again.
    let idle: Vec<_> = (0..40).map(|_| connect()).collect();
    drop(idle);
    let long = vec![b'x'; 1 << 20];
    for (said, answer) in [
        (&b"GET / HTTP/1.1\n"[..], "a line is not understood: expected value at line 1 column 1"),
        (b"{\"request\":\"diff\",\"mount\":\"1\"}\n", "a line is not understood: expected major:minor"),
        (b"{\"request\":\"diff\",\"mount\":\"0:0\"}\n", "mount 0:0 is not served here"),
        (&long, "a line is longer than 65536 bytes"),
    ] {
        let mut stream = connect();
        // It stops reading when it has seen enough.
        stream.write_all(said).ok();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok();
        let error = format!("{{\"error\":\"{answer}");
        assert!(said.len() > 1000 || reply.starts_with(&error), "{reply}");
    }
    // One that asks and does not wait.
    connect().write_all(b"{\"request\":\"mounts\"}\n").expect("sent");
    assert_eq!(diff(&mounted.point), "D /gone\n");
    mounted.stop();
}

#[test]
fn a_mount_that_cannot_be_asked_says_why() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let flist = packed(&lab, &stor.url());
    let refused = |point: &Path, message: &str| {
        for command in ["diff", "commit"] {
            let output = lab.path("new.flist");
            let args = [command.as_ref(), point.as_os_str()];
            let more = ["-o".as_ref(), output.as_os_str()];
            let output = run(args.into_iter().chain(more.into_iter().filter(|_| command == "commit")));
            let said = String::from_utf8_lossy(&output.stderr).replace(&point.display().to_string(), "POINT");
            assert_eq!(
                (output.status.code(), &*said),
                (Some(1), &*format!("aysfs: {message}\n")),
                "{command}"
            );
        }
        assert!(!lab.path("new.flist").exists());
    };
    let point = lab.dir("mnt");
    refused(&point, "POINT is not a mount of aysfs");
    refused(&lab.path("nope"), "cannot find POINT: No such file or directory (os error 2)");
    refused(Path::new("/proc"), "POINT is a mount of proc, not of aysfs");
    let mut mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    let inside = point.join("dir");
    refused(&inside, &format!("POINT is inside of the mount {}: name that one", point.display()));
    mounted.daemon.signal(rustix::process::Signal::KILL);
    mounted.daemon.wait();
    let message = "the process that served POINT is gone: take the mount away with aysfs umount --lazy POINT, and mount again";
    refused(&point, message);
    // Its socket was found to be dead, and is gone.
    assert!(!is_root() || !socket(&mounted.daemon).exists());
    run_ok(["umount".as_ref(), "--lazy".as_ref(), point.as_os_str()]);
}
