//! `aysfs bench`: what it prints, and what it leaves behind.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Daemon, Lab, mounts_below, run, run_ok, wait_for};

const SMALL: [&str; 6] = ["--files", "120", "--size", "1MiB", "--runs", "1"];

const READS: [&str; 6] =
    ["sequential-read", "random-read", "random-read-4-threads", "stat", "find", "open-read-close"];
const WRITES: [&str; 2] = ["create", "sequential-write"];

fn is_empty(lab: &Lab) -> bool {
    mounts_below(&lab.path("dir")).is_empty()
        && fs::read_dir(lab.path("dir")).expect("a directory").next().is_none()
}

#[test]
fn everything_is_measured_and_nothing_is_left_behind() {
    let lab = Lab::new();
    let dir = lab.dir("dir");
    let args = ["bench", "--json", "--dir", dir.to_str().expect("a plain path")];
    let report = run_ok(args.into_iter().chain(SMALL));
    let report: Value = serde_json::from_str(&report).expect("valid JSON");
    assert_eq!((&report["files"], &report["large_bytes"]), (&120.into(), &(1 << 20).into()));
    let columns = report["columns"].as_array().expect("a list");
    assert!(columns.iter().any(|column| column["lib"] == "fuser"), "{report}");
    let results = report["results"].as_array().expect("a list");
    let find = |column: &Value, workload: &str, pass: &str| {
        let wanted = |result: &&Value| {
            (&result["column"], &result["workload"], &result["pass"])
                == (column, &workload.into(), &pass.into())
        };
        results.iter().filter(wanted).collect::<Vec<_>>()
    };
    for column in columns {
        assert!(column["error"].is_null(), "{column}");
        let reads = READS.iter().flat_map(|read| [(read, "first", true), (read, "again", true)]);
        let writes = WRITES.iter().map(|write| (write, "first", column["mode"] == "OL"));
        for (workload, pass, can) in reads.chain(writes) {
            let found = find(&column["column"], workload, pass);
            let [result] = found[..] else { panic!("{workload}, {pass}, {column}: {found:?}") };
            for figure in ["value", "ratio", "ratio_lowest", "ratio_highest"] {
                assert_eq!(result[figure].as_f64().is_some_and(|figure| figure > 0.0), can, "{result}");
            }
        }
    }
    for (workload, pass) in
        READS.map(|read| (read, "again")).into_iter().chain(WRITES.map(|write| (write, "first")))
    {
        let found = find(&"native".into(), workload, pass);
        assert!(
            matches!(found[..], [native] if native["value"].as_f64() > Some(0.0)),
            "{workload}: {found:?}"
        );
    }
    assert!(is_empty(&lab));
}

#[test]
fn the_table_holds_what_was_asked_for() {
    let lab = Lab::new();
    let dir = lab.dir("dir");
    let args = ["bench", "--lib", "fuser", "--mode", "ro", "--dir", dir.to_str().expect("a plain path")];
    let table = run_ok(args.into_iter().chain(SMALL));
    assert!(table.contains("mode RO") && !table.contains("mode OL") && !table.contains("create"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    assert!(is_empty(&lab));
}

#[test]
fn a_signal_in_the_middle_leaves_nothing_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let dir = lab.dir("dir");
        // Longer than anybody waits.
        let args = ["bench", "--files", "500", "--size", "8MiB", "--runs", "100000"];
        let mut bench = Daemon::start(args.into_iter().chain(["--dir", dir.to_str().expect("a plain path")]));
        wait_for("a mount", || !mounts_below(&dir).is_empty());
        bench.signal(signal);
        assert_eq!(bench.wait().code(), Some(1));
        bench.wait_for_log("aysfs: stopped by SIG");
        assert!(is_empty(&lab));
    }
}

#[test]
fn one_that_is_killed_leaves_no_mount() {
    let lab = Lab::new();
    let dir = lab.dir("dir");
    let args = ["bench", "--files", "500", "--size", "8MiB", "--runs", "100000"];
    let mut bench = Daemon::start(args.into_iter().chain(["--dir", dir.to_str().expect("a plain path")]));
    wait_for("a mount", || !mounts_below(&dir).is_empty());
    bench.signal(Signal::KILL);
    bench.wait();
    wait_for("the mount to disappear", || mounts_below(&dir).is_empty());
}

#[test]
fn bad_arguments_are_one_clear_error() {
    for (args, code, message) in [
        (&["--size", "1"][..], 2, "aysfs: --size: at least 4096 bytes are needed\n"),
        (&["--files", "0"], 2, "0 is not in 1.."),
        (&["--lib", "nothing"], 2, "\"nothing\" is not one of"),
        (&["--mode", "RW"], 2, "invalid value 'RW'"),
        (&["--size", "4000000TiB"], 1, "choose another directory with --dir, or measure less"),
        (&["--dir", "/nowhere"], 1, "aysfs: cannot use /nowhere: No such file or directory"),
        (&["--dir", "/proc/self/io"], 1, "aysfs: "),
    ] {
        let output = run([&["bench"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(message) && output.stdout.is_empty(), "{args:?}: {stderr}");
    }
}
