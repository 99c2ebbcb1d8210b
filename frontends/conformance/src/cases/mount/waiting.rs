//! Whoever waits for a fetch waits alone, and may be called off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use aysfs_vfs::memfs::{Gate, MemFsOptions};
use aysfs_vfs::{KernelCache, TimeToLive};
use rustix::io::Errno;
use rustix::process::Signal;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::case::cases;
use crate::rig::Rig;
use crate::user::Server;

cases! { Mount "waiting":
    slow_reads_hold_up_nobody_else
    slow_reads_of_cached_files_hold_up_nobody_else
    readers_of_one_file_wait_together
    an_interrupted_reader_returns_at_once(read_until_interrupted)
    a_reader_that_is_killed_ends_at_once(read_until_interrupted)
    a_bug_in_the_filesystem_is_an_error_of_one_call
}

/// As many fetches as may be on their way at once.
const READERS: usize = 64;

/// Everything that must work while others wait.
fn nobody_else_waits(at: &Path) {
    fs::write(at.join("new"), "x").expect("written");
    assert_eq!(fs::read(at.join("new")).expect("read"), b"x");
    fs::rename(at.join("new"), at.join("newer")).expect("renamed");
    fs::create_dir(at.join("dir")).expect("made");
    assert!(fs::metadata(at.join("dir")).expect("it exists").is_dir());
    assert_eq!(fs::read_dir(at.join("dir")).expect("listed").count(), 0);
    fs::remove_dir(at.join("dir")).expect("removed");
    fs::remove_file(at.join("newer")).expect("removed");
}

fn slow_reads_hold_up_nobody_else(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    let at = mounted.path();
    let gate = mounted.fs.gate(mounted.fs.add_file("slow", &[7; READERS]));
    mounted.fs.add_file("fast", b"fast");
    let slow = File::open(at.join("slow")).expect("opened");
    thread::scope(|scope| {
        for reader in 0..READERS {
            let slow = &slow;
            scope.spawn(move || {
                let mut byte = [0];
                slow.read_exact_at(&mut byte, reader as u64).expect("read in the end");
                assert_eq!(byte, [7]);
            });
        }
        rig.wait_for("all reads arrive", gate.waiting(READERS));
        assert_eq!(fs::read(at.join("fast")).expect("read"), b"fast");
        assert_eq!(fs::metadata(at.join("slow")).expect("it exists").len(), READERS as u64);
        assert_eq!(fs::read_dir(at).expect("listed").count(), 2);
        nobody_else_waits(at);
        drop(gate);
    });
}

/// The kernel reads ahead for the page cache, and takes up only so many such requests at once (`max_background`).
fn slow_reads_of_cached_files_hold_up_nobody_else(rig: &Rig<'_>) {
    const SIZE: usize = 1 << 20;
    let day = Duration::from_secs(86_400);
    let ttl = TimeToLive { entry: day, attr: day };
    let options = MemFsOptions { cache: KernelCache::Keep, ttl, ..MemFsOptions::default() };
    let mounted = rig.memfs(options);
    let at = mounted.path();
    mounted.fs.add_file("fast", &[1; SIZE]);
    let gates: Vec<Gate> = (0..READERS)
        .map(|reader| mounted.fs.gate(mounted.fs.add_file(&format!("slow{reader}"), &[7; SIZE])))
        .collect();
    thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                let content = fs::read(at.join(format!("slow{reader}"))).expect("read in the end");
                assert!(content == vec![7; SIZE]);
            });
        }
        for gate in &gates {
            rig.wait_for("the read arrives", gate.waiting(1));
        }
        assert!(fs::read(at.join("fast")).expect("read") == vec![1; SIZE]);
        nobody_else_waits(at);
        drop(gates);
    });
}

fn readers_of_one_file_wait_together(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let gate = mounted.fs.gate(mounted.fs.add_file("f", b"content"));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"content"));
        }
        rig.wait_for("the read arrives", gate.waiting(1));
        nobody_else_waits(mounted.path());
        drop(gate);
    });
}

/// How long a reader may need to return that is called off; a fetch may take much longer.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends a signal to a process that waits for a file, beside another one that is not to be disturbed.
fn called_off_by(rig: &Rig<'_>, signal: Signal) -> ExitStatus {
    let mounted = rig.memfs(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    let at = mounted.path();
    let gate = mounted.fs.gate(mounted.fs.add_file("f", b"content"));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(fs::read(at.join("f")).expect("not disturbed"), b"content"));
        rig.wait_for("the read arrives", gate.waiting(1));
        let mut user = rig.user(at);
        user.hear("reading");
        rig.wait_for("the other read arrives", gate.waiting(2));
        user.signal(signal);
        let returned = user.ends_within(AT_ONCE);
        // In any case now: without the answer it could not even be killed.
        drop(gate);
        let status = user.wait();
        assert!(returned, "it waits until the file has come");
        status
    })
}

fn an_interrupted_reader_returns_at_once(rig: &Rig<'_>) {
    let status = called_off_by(rig, Signal::USR1);
    assert!(status.success(), "{status}");
}

fn a_reader_that_is_killed_ends_at_once(rig: &Rig<'_>) {
    let status = called_off_by(rig, Signal::KILL);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
}

fn read_until_interrupted(at: &Path, server: &mut Server<'_>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let _handled = signal(SignalKind::user_defined1()).expect("a handler");
    let file = File::open(at.join("f")).expect("opened");
    server.say("reading");
    let read = rustix::io::pread(&file, &mut [0; 7], 0);
    assert_eq!(read, Err(Errno::INTR));
}

/// Whether the call panics on the thread that read its message, or after it has waited.
fn a_bug_in_the_filesystem_is_an_error_of_one_call(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    let at = mounted.path();
    let (at_once, later) = (mounted.fs.add_file("at once", b"x"), mounted.fs.add_file("later", b"x"));
    let gate = mounted.fs.gate(later);
    mounted.fs.make_panic(at_once);
    mounted.fs.make_panic(later);
    let read = |name: &str| Errno::from_io_error(&fs::read(at.join(name)).expect_err("a bug"));
    // More often than there could be threads to lose.
    for _ in 0..10 {
        assert_eq!(read("at once"), Some(Errno::IO));
    }
    thread::scope(|scope| {
        let readers: Vec<_> = (0..10).map(|_| scope.spawn(|| read("later"))).collect();
        rig.wait_for("all reads arrive", gate.waiting(readers.len()));
        drop(gate);
        for reader in readers {
            assert_eq!(reader.join().expect("no panic here"), Some(Errno::IO));
        }
    });
    nobody_else_waits(at);
}
