//! Ends of a mount, wanted or not: nothing that was written is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Ino, MountError, MountOptions, OpenFlags, Vfs};
use memmap2::{MmapMut, MmapOptions};
use rustix::process::Signal;

use crate::case::cases;
use crate::rig::{MemMount, Rig, eventually, mount_line};
use crate::user::Server;

cases! { Mount "unmounting":
    a_busy_mount_is_not_unmounted
    a_working_directory_keeps_a_mount_busy
    a_detached_mount_serves_its_users_to_the_end(work_on)
    changed_pages_are_not_lost_when_their_process_is_killed(change_a_page)
    changed_pages_are_not_lost_when_the_mount_is_dropped(change_a_page)
    an_answer_under_way_is_waited_for
    unmounting_from_outside_ends_the_session
    dropping_a_mount_unmounts_it_even_if_it_is_busy
    another_mount_on_the_same_place_is_left_alone
    several_mounts_are_independent
    mounts_come_and_go_without_a_trace
}

const PAGE: usize = 4096;

const READ: OpenFlags = OpenFlags::READ;

fn a_busy_mount_is_not_unmounted(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let path = mounted.path().join("f");
    let mut file = File::create(&path).expect("made");
    let busy = mounted.unmount().expect_err("a file is open");
    assert!(matches!(&busy, MountError::Busy(at) if at == mounted.path()), "{busy}");
    file.write_all(b"still served").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"still served");
    drop(file);
    mounted.unmount_eventually();
    assert!(!path.exists());
    mounted.unmount().expect("it is unmounted already");
    mounted.wait_until_unmounted();
}

fn a_working_directory_keeps_a_mount_busy(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let mut process = Command::new("cat");
    process.current_dir(mounted.path()).stdin(std::process::Stdio::piped());
    let mut process = process.spawn().expect("cat runs");
    let busy = mounted.unmount().expect_err("a process is there");
    assert!(matches!(busy, MountError::Busy(_)), "{busy}");
    // The end of its input is the end of the process.
    drop(process.stdin.take());
    assert!(process.wait().expect("a child").success());
    mounted.unmount_eventually();
}

/// What a file that has no way to it any more holds.
fn content(rig: &Rig<'_>, fs: &MemFs, ino: Ino) -> Vec<u8> {
    let read = async {
        let opened = fs.open(ino, READ).await.expect("opened");
        fs.read(ino, opened.fh, 0, 1 << 20).await.expect("read")
    };
    rig.runtime.block_on(read).to_vec()
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("opened")
}

fn mapped(file: &File) -> MmapMut {
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().map_mut(file).expect("mapped")
    }
}

fn a_detached_mount_serves_its_users_to_the_end(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let ino = mounted.fs.add_file("f", &[0; 3 * PAGE]);
    let mut user = rig.user(mounted.path());
    user.hear("open");
    mounted.detach();
    assert!(!mounted.path().join("f").exists());
    user.go_on();
    user.finish();
    mounted.wait_until_unmounted();
    let found = content(rig, &mounted.fs, ino);
    assert_eq!((&found[..6], &found[PAGE..PAGE + 7]), (&b"mapped"[..], &b"written"[..]));
    assert_eq!((found[100], found[2 * PAGE], found.len()), (b'x', b'y', 3 * PAGE));
}

fn work_on(at: &Path, server: &mut Server<'_>) {
    let mut file = read_write(&at.join("f"));
    let mut mapping = mapped(&file);
    mapping[..6].copy_from_slice(b"mapped");
    server.say("open");
    server.wait();
    file.write_all_at(b"written", PAGE as u64).expect("still served");
    mapping[100] = b'x';
    mapping.flush().expect("still served");
    let mut seen = vec![0; 3 * PAGE];
    file.rewind().expect("rewound");
    file.read_exact(&mut seen).expect("still served");
    assert_eq!((&seen[..6], seen[100], &seen[PAGE..PAGE + 7]), (&b"mapped"[..], b'x', &b"written"[..]));
    // The last page is left to the kernel, which writes it when the mapping ends.
    mapping[2 * PAGE] = b'y';
}

fn changed_pages_are_not_lost_when_their_process_is_killed(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let ino = mounted.fs.add_file("f", &[0; PAGE]);
    let mut user = rig.user(mounted.path());
    user.hear("changed");
    let busy = mounted.unmount().expect_err("it is mapped");
    assert!(matches!(busy, MountError::Busy(_)), "{busy}");
    user.signal(Signal::KILL);
    assert!(!user.wait().success());
    mounted.unmount_eventually();
    assert_eq!(&content(rig, &mounted.fs, ino)[..7], b"changed");
}

fn changed_pages_are_not_lost_when_the_mount_is_dropped(rig: &Rig<'_>) {
    let mut mounted = rig.memfs(MemFsOptions::default());
    let ino = mounted.fs.add_file("f", &[0; PAGE]);
    let mut user = rig.user(mounted.path());
    user.hear("changed");
    mounted.drop_mount();
    assert!(!mounted.is_mounted());
    user.go_on();
    user.finish();
    eventually("the page is written", || content(rig, &mounted.fs, ino).starts_with(b"changed"));
}

fn change_a_page(at: &Path, server: &mut Server<'_>) {
    let mut mapping = mapped(&read_write(&at.join("f")));
    mapping[..7].copy_from_slice(b"changed");
    server.say("changed");
    server.wait();
}

fn an_answer_under_way_is_waited_for(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    let gate = mounted.fs.gate(mounted.fs.add_file("f", b"slow"));
    let file = File::open(mounted.path().join("f")).expect("opened");
    let reader = thread::spawn(move || {
        let mut text = [0; 4];
        file.read_exact_at(&mut text, 0).map(|()| text)
    });
    rig.wait_for("the read arrives", gate.waiting(1));
    mounted.detach();
    let unmounted = async {
        tokio::select! {
            biased;
            () = mounted.mount().unmounted() => true,
            () = tokio::task::yield_now() => false,
        }
    };
    assert!(!rig.runtime.block_on(unmounted));
    drop(gate);
    assert_eq!(&reader.join().expect("no panic").expect("it is answered"), b"slow");
    mounted.wait_until_unmounted();
}

fn unmounting_from_outside_ends_the_session(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    fs::write(mounted.path().join("f"), "x").expect("written");
    let umount = || Command::new("umount").arg(mounted.path()).output().expect("it runs").status.success();
    eventually("it is unused", umount);
    mounted.wait_until_unmounted();
    mounted.unmount().expect("it is unmounted already");
}

fn dropping_a_mount_unmounts_it_even_if_it_is_busy(rig: &Rig<'_>) {
    let mut mounted = rig.memfs(MemFsOptions::default());
    let mut file = File::create(mounted.path().join("f")).expect("made");
    mounted.drop_mount();
    assert!(!mounted.is_mounted());
    file.write_all(b"x").expect("still served");
}

fn another_mount_on_the_same_place_is_left_alone(rig: &Rig<'_>) {
    let mut mounted = rig.memfs(MemFsOptions::default());
    let options = MountOptions { source: "above".into(), ..MountOptions::default() };
    let (fs, at) = (Arc::new(MemFs::default()), mounted.path().to_owned());
    let above = rig.frontend().mount(fs, &at, &options, rig.runtime.handle()).expect("mounted above");
    mounted.drop_mount();
    assert!(mount_line(&at).expect("mounted").starts_with("above "));
    drop(above);
    // What was below is still there; the end of the trial takes it away.
    assert!(mounted.is_mounted());
}

fn several_mounts_are_independent(rig: &Rig<'_>) {
    let mut mounts: Vec<MemMount<'_>> = (0..8).map(|_| rig.memfs(MemFsOptions::default())).collect();
    for (number, mounted) in mounts.iter().enumerate() {
        fs::write(mounted.path().join("f"), number.to_string()).expect("written");
    }
    while let Some(mounted) = mounts.pop() {
        let number = mounts.len();
        assert_eq!(fs::read_to_string(mounted.path().join("f")).expect("read"), number.to_string());
        mounted.unmount_eventually();
        let devices: Vec<_> =
            mounts.iter().map(|left| fs::metadata(left.path()).expect("it exists").dev()).collect();
        assert!(devices.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

/// A daemon that mounts and unmounts for months must not collect descriptors or threads.
fn mounts_come_and_go_without_a_trace(rig: &Rig<'_>) {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).expect("of this process").count();
    let once = || {
        let mounted = rig.memfs(MemFsOptions::default());
        fs::write(mounted.path().join("f"), "x").expect("written");
        assert_eq!(fs::read_dir(mounted.path()).expect("listed").count(), 1);
        mounted.unmount_eventually();
        let fs = Arc::clone(&mounted.fs);
        drop(mounted);
        eventually("nobody holds the filesystem any more", || Arc::strong_count(&fs) == 1);
    };
    // What is made once, such as the runtime's threads for what blocks.
    (0..3).for_each(|_| once());
    let (descriptors, threads) = (count("fd"), count("task"));
    (0..20).for_each(|_| once());
    // Less than one for each mount: the runtime may make some more, and ends those that have nothing to do.
    eventually("they end", || count("fd") < descriptors + 10 && count("task") < threads + 10);
}
