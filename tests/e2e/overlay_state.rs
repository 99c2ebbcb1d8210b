//! Local changes outlive the mount: with the same flist, with a newer one, and however the mount point is typed; and one
//! process at a time makes them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, is_mounted, pack, run, wait_for};
use crate::tree;

/// One change of each kind, and at the end times that do not depend on when it was made.
const CHANGES: &str = r#"
    set -e
    chmod 600 noise-4096
    chown 12:34 noise-65536
    printf more >> compressible-4097
    printf over | dd of=noise-1048577 bs=1 seek=1000000 conv=notrunc 2>/dev/null
    mv compressible-65536 moved
    mv other moved-directory
    rm zeros link
    rm -r sticky empty-dir
    mkdir sticky
    printf new > sticky/new
    ln hard-1 hard-4
    chmod 640 hard-2
    ln -s elsewhere symlink
    mkfifo pipe
    truncate -s 10000 noise-131072
    rm same-1; mkdir same-1; printf x > same-1/x
    printf x > level0/level1/level2/x
    touch -h -d @1500000000.123456789 compressible-4097 noise-1048577 moved sticky/new sticky symlink pipe noise-131072 \
        same-1/x same-1 level0/level1/level2/x level0/level1/level2 moved-directory .
"#;

pub(crate) fn change(at: &Path) {
    let output = Command::new("sh").args(["-c", CHANGES]).current_dir(at).output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn overlay(lab: &Lab, flist: &Path, stor: &str, lib: &str) -> Mounted {
    Mounted::with(lab, flist, stor, &["--mode", "OL", "--lib", lib])
}

#[test]
fn local_changes_are_there_again_whatever_library_made_them() {
    let lab = Lab::new();
    let (source, plain) = (lab.path("source"), lab.path("plain"));
    tree::odd(&source);
    let copied = Command::new("cp").arg("-a").args([&source, &plain]).status().expect("cp runs");
    assert!(copied.success());
    change(&plain);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    change(&mounted.point);
    assert_same(&plain, &mounted.point, Fidelity::Settable);
    mounted.stop();
    for lib in LIBS {
        let mounted = overlay(&lab, &flist, &stor.url(), lib);
        // polyfuse does not show holes.
        let fidelity = if lib == "polyfuse" { Fidelity::Content } else { Fidelity::Settable };
        assert_same(&plain, &mounted.point, fidelity);
        mounted.stop();
    }
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    assert_same(&source, &mounted.point, Fidelity::Everything);
    mounted.stop();
}

#[test]
fn local_changes_stay_on_top_of_a_newer_flist() {
    let lab = Lab::new();
    let source = lab.dir("source");
    let write = |name: &str, content: &str| fs::write(source.join(name), content).expect("a file");
    for name in ["untouched", "written", "script", "removed", "gone"] {
        write(name, "old");
    }
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    let at = |name: &str| mounted.point.join(name);
    fs::write(at("written"), "ours").expect("written");
    for name in ["script", "gone"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).expect("a mode");
    }
    fs::remove_file(at("removed")).expect("removed");
    fs::write(at("added"), "ours").expect("written");
    mounted.stop();

    for name in ["untouched", "written", "script", "removed", "added", "theirs"] {
        write(name, "newer");
    }
    fs::remove_file(source.join("gone")).expect("removed");
    pack(&lab, &source, &stor.url(), "v2");
    // What was not copied is fetched, and may be fetched for the first time.
    fs::remove_dir_all(lab.path("cache/cache")).expect("removed");
    let mounted = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    let mut found: Vec<_> = fs::read_dir(&mounted.point)
        .expect("listed")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let content = fs::read_to_string(&path).expect("read");
            format!("{}: {content}", path.file_name().expect("a name").to_string_lossy())
        })
        .collect();
    found.sort();
    let expected =
        ["added: ours", "gone: old", "script: old", "theirs: newer", "untouched: newer", "written: ours"];
    assert_eq!(found, expected);
    mounted.stop();
}

#[test]
fn a_second_mount_on_the_same_changes_is_told_whose_they_are() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "content").expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let mut first = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    fs::write(first.point.join("ours"), "ours").expect("written");
    let busy = File::open(first.point.join("file")).expect("opened");
    // Nobody sees it any more, but it is served until the file is closed.
    rustix::mount::unmount(&first.point, rustix::mount::UnmountFlags::DETACH).expect("detached");
    assert!(!is_mounted(&first.point));

    let cache = lab.path("cache");
    let args =
        ["mount".as_ref(), flist.as_os_str(), first.point.as_os_str(), "--cache".as_ref(), cache.as_os_str()];
    let url = stor.url();
    let more = ["--namespace", "test", "--stor", &url, "--mode", "OL"].map(OsStr::new);
    let second = run(args.into_iter().chain(more));
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("in use by process {}", first.daemon.pid())), "{said}");
    assert!(!is_mounted(&first.point));

    drop(busy);
    assert!(first.daemon.wait().success());
    let third = overlay(&lab, &flist, &stor.url(), LIBS[0]);
    assert_eq!(third.read("ours").expect("read"), b"ours");
    third.stop();
}

#[test]
fn a_mount_point_has_one_set_of_changes_however_it_is_typed() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), "content").expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let point = lab.dir("mnt");
    std::os::unix::fs::symlink("mnt", lab.path("link")).expect("a symlink");
    let dir = lab.path("");
    for (number, typed) in ["mnt", "mnt/", "./mnt", "../{}/mnt", "link"].into_iter().enumerate() {
        let name = dir.file_name().expect("a name").to_string_lossy();
        let mut daemon = Daemon::start_in(
            &dir,
            [
                "mount".as_ref(),
                flist.as_os_str(),
                OsStr::new(&typed.replace("{}", &name)),
                "--cache".as_ref(),
            ]
            .into_iter()
            .chain([lab.path("cache").as_os_str()])
            .chain(["--namespace", "test", "--stor", &stor.url(), "--mode", "OL"].map(OsStr::new)),
        );
        daemon.wait_for_log("all mounts are up");
        for earlier in 0..number {
            assert!(point.join(earlier.to_string()).exists(), "{typed} lacks what was changed before");
        }
        fs::write(point.join(number.to_string()), "").expect("written");
        daemon.stop();
        wait_for("the mount to disappear", || !is_mounted(&point));
    }
}
