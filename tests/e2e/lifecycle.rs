//! Starting, stopping, and being stopped.

use std::fs::{self, File};
use std::process::Command;

use rustix::process::Signal;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, is_mounted, pack, run, run_ok, wait_for};
use crate::tree;

#[test]
fn sigterm_and_sigint_unmount() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 10);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let both = LIBS.into_iter().flat_map(|lib| [(lib, Signal::TERM), (lib, Signal::INT)]);
    for (lib, signal) in both {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        mounted.daemon.signal(signal);
        assert!(mounted.daemon.wait().success());
        assert!(!is_mounted(&mounted.point));
    }
}

#[test]
fn a_busy_mount_is_detached_with_a_warning_and_the_reader_goes_on() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), tree::bytes(1, 100_000)).expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    for lib in LIBS {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        let mut open = File::open(mounted.point.join("file")).expect("an open file keeps it busy");
        mounted.daemon.signal(Signal::TERM);
        mounted.daemon.wait_for_log("busy");
        wait_for("the mount to disappear", || !is_mounted(&mounted.point));
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut open, &mut content).expect("the file is still served");
        assert_eq!(content, tree::bytes(1, 100_000), "{lib}");
        drop(open);
        assert!(mounted.daemon.wait().success(), "{lib}");
    }
}

#[test]
fn umount_ends_the_daemon() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 10);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");

    for lib in LIBS {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        run_ok(["umount".as_ref(), mounted.point.as_os_str()]);
        assert!(mounted.daemon.wait().success(), "{lib}");
    }

    let mut mounted = Mounted::new(&lab, &flist, &stor.url());
    let status = Command::new("umount").arg(&mounted.point).status().expect("umount runs");
    assert!(status.success());
    assert!(mounted.daemon.wait().success());
}

#[test]
fn umount_says_what_is_wrong() {
    let lab = Lab::new();
    let plain = lab.dir("plain");
    let output = run(["umount".as_ref(), plain.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("aysfs: {} is not mounted\n", plain.display());
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}

#[test]
fn a_mount_left_by_a_killed_daemon_is_cleaned_at_start() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 10);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    for lib in LIBS {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        mounted.daemon.signal(Signal::KILL);
        mounted.daemon.wait();
        assert!(fs::read_dir(&mounted.point).is_err(), "a dead mount answers nothing");

        let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--lib", lib]);
        assert_same(&source, &mounted.point, Fidelity::Everything);
        mounted.stop();
        assert!(!is_mounted(&lab.path("mnt")), "the dead mount is gone as well");
    }
}

#[test]
fn several_mounts_share_a_backend_and_may_lie_inside_each_other() {
    let lab = Lab::new();
    let (outer, inner) = (lab.dir("outer"), lab.dir("inner"));
    tree::plain(&outer, 60);
    fs::create_dir(outer.join("plugins")).expect("a directory to mount on");
    fs::write(inner.join("plugin"), b"inside").expect("a file");
    let stor = Stor::start(&lab.dir("stor"));
    let outer_list = pack(&lab, &outer, &stor.url(), "v2");
    let kept = lab.path("outer.flist");
    fs::rename(outer_list, &kept).expect("a name of its own");
    let inner_list = pack(&lab, &inner, &stor.url(), "v2");
    let point = lab.dir("mnt");
    // The inner mount is named first: the order of the file must not matter.
    let config = lab.file(
        "config.toml",
        format!(
            "[[mount]]\npath = {:?}\nflist = {inner_list:?}\nbackend = \"main\"\nmode = \"RO\"\n\
             [[mount]]\npath = {point:?}\nflist = {kept:?}\nbackend = \"main\"\nmode = \"ro\"\n\
             [backend.main]\npath = {:?}\nstor = \"one\"\nnamespace = \"test\"\n\
             [stor.one]\nurl = {:?}\n",
            point.join("plugins"),
            lab.path("backend"),
            stor.url()
        ),
    );
    let mut daemon = Daemon::start(["-c".as_ref(), config.as_os_str()]);
    daemon.wait_for_log("all mounts are up");
    assert_eq!(fs::read(point.join("plugins/plugin")).expect("inner"), b"inside");
    assert!(point.join("d000/e00/file7.dat").exists());
    daemon.stop();
    assert!(!is_mounted(&point));
}
