//! Processes that are called off while they wait or work.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::case::cases;

cases! { Write "signals":
    who_waits_for_a_lock_can_be_called_off
    a_writer_that_is_killed_leaves_a_file_that_works
    a_process_that_is_killed_leaves_no_lock
}

fn start(program: &str, arguments: &[&str], at: &Path) -> Child {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// Waits for what another process does; the time limit of the trial is the limit.
fn until(happened: impl Fn() -> bool) {
    while !happened() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process holds a lock, or waits for one.
fn lock_of(process: &Child, waiting: bool) -> bool {
    let locks = fs::read_to_string("/proc/locks").expect("the locks of all files");
    let pid = process.id().to_string();
    locks.lines().any(|line| line.contains("->") == waiting && line.split(' ').any(|field| field == pid))
}

fn who_waits_for_a_lock_can_be_called_off(at: &Path) {
    let file = File::create(at.join("f")).expect("made");
    file.lock().expect("locked");
    let mut waiting = start("flock", &["f", "true"], at);
    until(|| lock_of(&waiting, true));
    kill_process(Pid::from_child(&waiting), Signal::TERM).expect("it runs");
    assert!(!waiting.wait().expect("a child").success());
    let mut next = start("flock", &["f", "true"], at);
    until(|| lock_of(&next, true));
    file.unlock().expect("unlocked");
    assert!(next.wait().expect("a child").success());
}

fn a_process_that_is_killed_leaves_no_lock(at: &Path) {
    let file = File::create(at.join("f")).expect("made");
    // Runs until its input ends, unless it is killed before; `exec`, so that the lock is that of one process.
    let mut holding = start("flock", &["--no-fork", "f", "cat"], at);
    until(|| lock_of(&holding, false));
    assert!(file.try_lock().is_err());
    holding.kill().expect("it runs");
    holding.wait().expect("a child");
    file.lock().expect("it is free");
}

fn a_writer_that_is_killed_leaves_a_file_that_works(at: &Path) {
    let path = at.join("f");
    let size = || fs::metadata(&path).map_or(0, |meta| meta.len());
    for block in ["bs=1M", "bs=7k"] {
        let mut writer = start("dd", &["if=/dev/zero", "of=f", block], at);
        until(|| size() > 4 << 20);
        writer.kill().expect("it runs");
        writer.wait().expect("a child");
        let written = size();
        let content = fs::read(&path).expect("read");
        assert!(content.len() as u64 == written && content.iter().all(|byte| *byte == 0));
        fs::write(&path, "new").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        fs::remove_file(&path).expect("removed");
    }
}
