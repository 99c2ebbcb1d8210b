//! A mount of a user without privileges: what that user and root can ask about it.
//!
//! The user exists for the test only: in its mount namespace there are another `/etc/passwd` and a `/dev/fuse` that this user
//! may open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::{Daemon, Lab, Stor, is_root, pack, run_ok};

const USER: &str = "54321";

/// Arguments: the program, a directory, the user, a flist, the address of a stor, a copy of the new flist.
const SCRIPT: &str = r#"
    set -e
    mount -t tmpfs -o mode=755 tmpfs "$1"
    mknod -m 666 "$1/fuse" c 10 229
    mount --bind "$1/fuse" /dev/fuse
    { cat /etc/passwd; echo "aysfs-e2e:x:$2:$2::$1/home:/bin/sh"; } >"$1/passwd"
    mount --bind "$1/passwd" /etc/passwd
    mkdir "$1/home" "$1/mnt"
    chown "$2:$2" "$1/home" "$1/mnt"
    user() { env -u XDG_RUNTIME_DIR -u XDG_CACHE_HOME "HOME=$home" setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"; }
    home=$1/home uid=$2

    # Not a function call, whose process would be a shell that ends before what it started.
    env -u XDG_RUNTIME_DIR -u XDG_CACHE_HOME "HOME=$home" setpriv --reuid "$uid" --regid "$uid" --clear-groups \
        "$0" mount "$3" "$1/mnt" --stor "$4" --namespace test --mode OL 2>"$1/log" &
    daemon=$!
    trap 'kill "$daemon" 2>/dev/null; wait "$daemon"; cat "$1/log" >&2' EXIT
    until grep -q "all mounts are up" "$1/log"; do kill -0 "$daemon"; sleep 0.02; done

    stat -c "directory %a %u" "$home/.cache/aysfs/run"
    stat -c "socket %a %u" "$home/.cache/aysfs/run/$daemon.sock"
    user sh -c 'cd "$0" && printf new >written && rm gone && mkdir made && printf new >made/file && chmod 600 dir/kept' "$1/mnt"
    user touch -d @1000000000 "$1/mnt/dir/kept"
    echo "the user sees"
    user "$0" diff "$1/mnt"
    echo "root sees"
    "$0" diff "$1/mnt"
    user "$0" commit "$1/mnt" -o "$1/new.flist" && exit 1
    user "$0" commit "$1/mnt" -o "$home/new.flist" >/dev/null
    cp "$home/new.flist" "$5"
    kill "$daemon"
    wait "$daemon"
    trap - EXIT
    echo "left: $(ls -A "$home/.cache/aysfs/run")"
"#;

#[test]
fn a_user_is_answered_by_his_own_mount_and_writes_with_his_own_rights() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let source = lab.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    for name in ["dir/kept", "written", "gone"] {
        fs::write(source.join(name), "old").expect("a file");
    }
    let owner = format!("{USER}:{USER}");
    assert!(Command::new("chown").args(["-R", &owner]).arg(&source).status().expect("it runs").success());
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let (world, committed) = (lab.dir("world"), lab.path("new.flist"));
    let mut command = Command::new("timeout");
    command.args(["100", "unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT]);
    command
        .arg(env!("CARGO_BIN_EXE_aysfs"))
        .arg(&world)
        .arg(USER)
        .arg(&flist)
        .arg(stor.url())
        .arg(&committed);
    let output = command.output().expect("it runs");
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let changes = "M /dir/kept (mode, times)\nD /gone\nA /made\nA /made/file\nM /written (content)\n";
    let expected = format!(
        "directory 700 {USER}\nsocket 600 {USER}\nthe user sees\n{changes}root sees\n{changes}left: \n"
    );
    assert_eq!(said, expected, "{log}");
    assert!(
        log.contains(&format!("aysfs: cannot write the flist into {}: Permission denied", world.display())),
        "{log}"
    );

    let (point, cache) = (lab.dir("mnt"), lab.path("cache"));
    let url = stor.url();
    let args =
        ["mount".as_ref(), committed.as_os_str(), point.as_os_str(), "--cache".as_ref(), cache.as_os_str()];
    let mut daemon =
        Daemon::start(args.into_iter().chain(["--namespace", "test", "--stor", &url].map(AsRef::as_ref)));
    daemon.wait_for_log("all mounts are up");
    for (name, content) in [("dir/kept", "old"), ("written", "new"), ("made/file", "new")] {
        assert_eq!(fs::read_to_string(point.join(name)).expect("read"), content, "{name}");
        assert_eq!(fs::metadata(point.join(name)).expect("there").uid().to_string(), USER);
    }
    assert_eq!(fs::metadata(point.join("dir/kept")).expect("there").mode() & 0o777, 0o600);
    assert!(!point.join("gone").exists());
    assert_eq!(run_ok(["diff".as_ref(), point.as_os_str()]), "");
    daemon.stop();
}
