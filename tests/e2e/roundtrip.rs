//! A tree goes into a stor and comes back the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Lab, Mounted, Stor, pack, run_ok};
use crate::tree;

/// The number of files that a mount must show without any difference.
const MANY: usize = 50_000;

#[test]
fn fifty_thousand_files_are_mounted_without_any_difference() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::odd(&source.join("odd"));
    tree::plain(&source.join("plain"), MANY);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    assert!(assert_same(&source, &mounted.point, Fidelity::Everything) > MANY);
    mounted.stop();
}

#[test]
fn unpack_restores_the_tree_without_any_difference() {
    let lab = Lab::new();
    let source = lab.path("source");
    tree::odd(&source);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let copy = lab.path("copy");
    unpack(&flist, &copy, &stor.url());
    assert_same(&source, &copy, Fidelity::Settable);
}

#[test]
fn v1_long_keeps_what_it_can() {
    let lab = Lab::new();
    let source = lab.path("source");
    tree::odd(&source);
    // What v1 has no way to say.
    fs::remove_dir_all(source.join("names|\n%")).expect("removed");
    for name in ["time-2", "time-3"] {
        fs::remove_file(source.join(name)).expect("removed");
    }
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v1-long");
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    assert_same(&source, &mounted.point, Fidelity::Seconds);
    mounted.stop();
}

#[test]
fn v1_keeps_the_content_of_regular_files() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 300);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v1");
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    assert_same(&source, &mounted.point, Fidelity::Content);
    mounted.stop();
}

#[test]
fn a_directory_serves_as_a_stor() {
    let lab = Lab::new();
    let source = lab.path("source");
    tree::odd(&source);
    let stor = format!("file://{}", lab.dir("stor").display());
    let flist = pack(&lab, &source, &stor, "v2");
    let mounted = Mounted::new(&lab, &flist, &stor);
    assert_same(&source, &mounted.point, Fidelity::Everything);
    mounted.stop();
}

#[test]
fn packing_the_same_tree_again_gives_the_same_list() {
    let lab = Lab::new();
    let source = lab.path("source");
    tree::odd(&source);
    let stor = format!("file://{}", lab.dir("stor").display());
    let entries = |flist: &Path| {
        let text = fs::read(flist).expect("a flist");
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"# created"));
        lines.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let first = entries(&pack(&lab, &source, &stor, "v2"));
    assert_eq!(entries(&pack(&lab, &source, &stor, "v2")), first);
}

#[test]
fn a_program_runs_from_the_mount() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::copy("/bin/sh", source.join("sh")).expect("a shell");
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    let mounted = Mounted::new(&lab, &flist, &stor.url());
    let output =
        Command::new(mounted.point.join("sh")).args(["-c", "echo it runs"]).output().expect("it starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "it runs\n");
    mounted.stop();
}

fn unpack(flist: &Path, copy: &Path, stor: &str) {
    let text = |path: &Path| path.to_str().expect("a test path").to_owned();
    run_ok(["unpack", &text(flist), &text(copy), "--stor", stor, "--namespace", "test"]);
}
