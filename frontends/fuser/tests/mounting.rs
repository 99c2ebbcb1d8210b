//! Mounting, unmounting, caching and waiting: what this frontend promises to the one who mounts.

#![allow(unreachable_pub)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{
    Caller, Caps, Frontend, Ino, KernelCache, MountError, MountOptions, Name, OpenFlags, Passthrough,
    TimeToLive, Vfs,
};
use bytes::Bytes;
use memmap2::MmapOptions;
use rustix::io::Errno;
use support::{Mounted, eventually, mount_table};

const DAY: Duration = Duration::from_secs(86_400);
const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
const READ_WRITE: OpenFlags =
    OpenFlags { read: true, write: true, truncate: false, exclusive: false, direct: false };

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a valid name")
}

fn day_long() -> MemFsOptions {
    MemFsOptions { ttl: TimeToLive { entry: DAY, attr: DAY }, ..MemFsOptions::default() }
}

// ---- Mounting ----

#[test]
fn the_mount_table_shows_source_type_and_options() {
    let options = MountOptions {
        source: "a source, with\\all".into(),
        read_only: true,
        allow_other: true,
        ..MountOptions::default()
    };
    let mounted = Mounted::new(MemFsOptions::default(), &options);
    let path = mounted.path().to_str().expect("a plain path");
    let table = mount_table();
    let line = table.lines().find(|line| line.contains(path)).expect("mounted");
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("a\\040source,\\040with\\134all", "fuse.aysfs"));
    let shown: Vec<_> = fields[3].split(',').collect();
    for option in ["ro", "nosuid", "nodev", "default_permissions", "allow_other"] {
        assert!(shown.contains(&option), "{option} is missing in {line}");
    }
    let refused = File::create(mounted.path().join("f")).expect_err("read-only");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    assert_eq!(mounted.fs.calls("create"), 0);
}

#[test]
fn suid_dev_and_all_users_are_not_the_default() {
    let mounted = Mounted::of(MemFsOptions::default());
    let path = mounted.path().to_str().expect("a plain path");
    let table = mount_table();
    let line = table.lines().find(|line| line.contains(path)).expect("mounted");
    assert!(line.contains("nosuid") && line.contains("nodev") && !line.contains("allow_other"), "{line}");
}

#[test]
fn what_cannot_be_mounted_on_says_why() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    File::create(&file).expect("made");
    for (at, expected) in [(dir.path().join("missing"), Errno::NOENT), (file, Errno::NOTDIR)] {
        let fs = Arc::new(MemFs::default());
        let error = Fuser.mount(fs, &at, &MountOptions::default(), runtime.handle()).err().expect("refused");
        let MountError::Mount { path, source } = error else { panic!("another error: {error}") };
        assert_eq!(path, at);
        assert!(
            Errno::from_io_error(&source) == Some(expected)
                || source.kind() == std::io::ErrorKind::NotADirectory
        );
        assert!(!mount_table().contains(at.to_str().expect("a plain path")));
    }
}

// ---- Unmounting ----

#[test]
fn a_busy_mount_is_not_unmounted() {
    let mut mounted = Mounted::of(MemFsOptions::default());
    let path = mounted.path().join("f");
    let mut file = File::create(&path).expect("made");
    let busy = mounted.runtime.block_on(mounted.mount_ref().unmount(false)).expect_err("a file is open");
    assert!(matches!(busy, MountError::Busy(_)), "{busy}");
    file.write_all(b"still served").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"still served");
    drop(file);
    // A process that another test is starting may hold a copy of the file for a moment.
    eventually("it is unused", || mounted.runtime.block_on(mounted.mount_ref().unmount(false)).is_ok());
    assert!(!mounted.is_mounted() && !path.exists());
    mounted.runtime.block_on(mounted.mount_ref().unmount(false)).expect("it is unmounted already");
    mounted.mount.take();
}

#[test]
fn a_detached_mount_serves_its_users_to_the_end() {
    let mounted = Mounted::of(MemFsOptions::default());
    let path = mounted.path().join("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("made");
    file.write_all(&[0; 8192]).expect("written");
    file.rewind().expect("rewound");
    let ino = Ino(file.metadata().expect("open").ino());
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mut mapping = unsafe { MmapOptions::new().map_mut(&file).expect("mapped") };
    mapping[..6].copy_from_slice(b"mapped");
    mounted.runtime.block_on(mounted.mount_ref().unmount(true)).expect("detached");
    assert!(!mounted.is_mounted() && !path.exists());
    file.write_all_at(b"written", 4096).expect("still served");
    mapping[100] = b'x';
    // Not left to the unmapping: in the process that serves the file it could deadlock.
    mapping.flush().expect("still served");
    drop(mapping);
    let mut content = vec![0; 8192];
    file.read_exact(&mut content).expect("still served");
    assert_eq!((&content[..6], content[100], &content[4096..4103]), (&b"mapped"[..], b'x', &b"written"[..]));
    drop(file);
    mounted.wait_until_unmounted();
    let read = async {
        let opened = mounted.fs.open(ino, READ_WRITE).await.expect("opened");
        mounted.fs.read(ino, opened.fh, 0, 8192).await.expect("read")
    };
    assert!(mounted.runtime.block_on(read) == content, "what was written before the end is there");
}

#[test]
fn an_answer_under_way_is_waited_for() {
    let mounted = Mounted::of(MemFsOptions::default());
    let path = mounted.path().join("f");
    fs::write(&path, "slow").expect("written");
    let gate = mounted.fs.gate(Ino(fs::metadata(&path).expect("it exists").ino()));
    let file = File::open(&path).expect("opened");
    let reader = thread::spawn(move || {
        let mut text = [0; 4];
        file.read_exact_at(&mut text, 0).map(|()| text)
    });
    mounted.runtime.block_on(gate.waiting(1));
    mounted.runtime.block_on(mounted.mount_ref().unmount(true)).expect("detached");
    let unmounted = async {
        tokio::select! {
            biased;
            () = mounted.mount_ref().unmounted() => true,
            () = tokio::task::yield_now() => false,
        }
    };
    assert!(!mounted.runtime.block_on(unmounted));
    drop(gate);
    assert_eq!(&reader.join().expect("no panic").expect("it is answered"), b"slow");
    mounted.wait_until_unmounted();
}

#[test]
fn unmounting_from_outside_ends_the_session() {
    let mounted = Mounted::of(MemFsOptions::default());
    fs::write(mounted.path().join("f"), "x").expect("written");
    let umount = || Command::new("umount").arg(mounted.path()).output().expect("it runs").status.success();
    eventually("it is unused", umount);
    mounted.wait_until_unmounted();
}

#[test]
fn dropping_a_mount_unmounts_it_even_if_it_is_busy() {
    let mut mounted = Mounted::of(MemFsOptions::default());
    let mut file = File::create(mounted.path().join("f")).expect("made");
    mounted.mount.take();
    assert!(!mounted.is_mounted());
    file.write_all(b"x").expect("still served");
}

#[test]
fn another_mount_on_the_same_place_is_left_alone() {
    let mut mounted = Mounted::of(MemFsOptions::default());
    let above = Fuser.mount(
        Arc::new(MemFs::default()),
        mounted.path(),
        &MountOptions { source: "above".into(), ..MountOptions::default() },
        mounted.runtime.handle(),
    );
    let above = above.expect("mounted above");
    mounted.mount.take();
    assert!(mount_table().contains(&format!("above {}", mounted.path().display())));
    drop(above);
    // What was below is still there, and the mount point's guard takes it away.
    assert!(mounted.is_mounted());
}

// ---- Waiting ----

#[test]
fn slow_reads_hold_up_nobody_else() {
    const READERS: usize = 64;
    let mounted = Mounted::of(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    let at = mounted.path();
    fs::write(at.join("slow"), vec![7; READERS]).expect("written");
    fs::write(at.join("fast"), "fast").expect("written");
    let gate = mounted.fs.gate(Ino(fs::metadata(at.join("slow")).expect("it exists").ino()));
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
        mounted.runtime.block_on(gate.waiting(READERS));
        assert_eq!(fs::read(at.join("fast")).expect("read"), b"fast");
        assert_eq!(fs::metadata(at.join("slow")).expect("it exists").len(), READERS as u64);
        assert_eq!(fs::read_dir(at).expect("listed").count(), 2);
        fs::write(at.join("new"), "x").expect("written");
        fs::rename(at.join("new"), at.join("newer")).expect("renamed");
        drop(gate);
    });
}

#[test]
fn a_full_filesystem_says_so_and_keeps_what_it_has() {
    let mounted = Mounted::of(MemFsOptions { capacity: 1 << 20, ..MemFsOptions::default() });
    let path = mounted.path().join("f");
    let mut file = File::create(&path).expect("made");
    file.write_all(&vec![1; 1 << 20]).expect("it fits");
    let full = file.write_all(&[2; 4096]).expect_err("nothing is left");
    assert_eq!(Errno::from_io_error(&full), Some(Errno::NOSPC));
    assert!(fs::read(&path).expect("read") == vec![1; 1 << 20]);
    fs::remove_file(&path).expect("removed");
    drop(file);
    eventually("the space comes back", || fs::write(&path, vec![3; 1 << 20]).is_ok());
}

// ---- Caching ----

#[test]
fn cached_pages_are_kept_where_the_filesystem_says_so() {
    for (cache, messages) in [(KernelCache::Keep, 1), (KernelCache::Fresh, 2), (KernelCache::Direct, 2)] {
        let mounted = Mounted::of(MemFsOptions { cache, ..day_long() });
        mounted.fs.add_file("f", b"content");
        for _ in 0..2 {
            let mut text = [0; 7];
            File::open(mounted.path().join("f")).expect("opened").read_exact(&mut text).expect("read");
            assert_eq!(&text, b"content");
        }
        assert_eq!(mounted.fs.calls("read"), messages, "{cache:?}");
    }
}

#[test]
fn an_uncached_file_can_be_mapped() {
    let mounted = Mounted::of(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    let path = mounted.path().join("f");
    fs::write(&path, vec![1; 4096]).expect("written");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mut mapping = unsafe { MmapOptions::new().map_mut(&file).expect("mapped") };
    mapping[7] = 2;
    // See `a_detached_mount_serves_its_users_to_the_end`.
    mapping.flush().expect("synced");
    assert_eq!(fs::read(&path).expect("read")[6..9], [1, 2, 1]);
}

#[test]
fn a_stateless_mount_sends_no_message_twice() {
    let caps = Caps { stateless: true, ..Caps::default() };
    let options = MemFsOptions { caps, cache: KernelCache::Keep, absent: DAY, ..day_long() };
    let fs = MemFs::new(options);
    for i in 0..50 {
        fs.add_file(&format!("dir/sub{}/file{i}", i % 5), format!("content {i}").as_bytes());
    }
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    let mounted = Mounted::mount(fs, &read_only).expect("mounted");
    let walk = || {
        let mut found = 0;
        let dir = mounted.path().join("dir");
        for sub in fs::read_dir(&dir).expect("listed") {
            for file in fs::read_dir(sub.expect("an entry").path()).expect("listed") {
                let path = file.expect("an entry").path();
                let text = fs::read_to_string(&path).expect("read");
                let number = path.file_name().expect("a name").to_str().expect("plain").replace("file", "");
                assert_eq!(text, format!("content {number}"));
                assert!(fs::metadata(path.with_extension("none")).is_err());
                found += 1;
            }
        }
        assert_eq!(found, 50);
    };
    let messages = || ["lookup", "getattr", "read", "readdir"].map(|operation| mounted.fs.calls(operation));
    walk();
    let first = messages();
    assert_eq!(first[2], 50);
    walk();
    assert_eq!(messages(), first);
    for operation in ["open", "release", "flush", "opendir", "releasedir"] {
        assert_eq!(mounted.fs.calls(operation), 0, "{operation}");
    }
    let device = fs::metadata(mounted.path()).expect("it exists").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let readahead = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    assert_eq!(readahead.expect("a setting").trim(), "1024");
}

#[test]
fn the_kernel_believes_until_it_is_told() {
    let mounted = Mounted::of(MemFsOptions { absent: DAY, cache: KernelCache::Keep, ..day_long() });
    let (at, fs, mount) = (mounted.path(), &mounted.fs, mounted.mount_ref());
    let ino = fs.add_file("f", b"old");
    assert_eq!(fs::read(at.join("f")).expect("read"), b"old");
    assert!(!at.join("later").exists());

    mounted.runtime.block_on(async {
        let opened = fs.open(ino, READ_WRITE).await.expect("opened");
        fs.write(ino, opened.fh, 0, Bytes::from_static(b"new")).await.expect("written");
        fs.release(ino, opened.fh).await.expect("released");
        fs.mknod(ROOT, Ino::ROOT, &name("later"), aysfs_vfs::FileKind::Regular, 0o644).await.expect("made");
    });
    assert_eq!(fs::read(at.join("f")).expect("read"), b"old");
    assert!(!at.join("later").exists());

    mount.invalidate_inode(ino).expect("told");
    mount.invalidate_entry(Ino::ROOT, &name("later")).expect("told");
    assert_eq!(fs::read(at.join("f")).expect("read"), b"new");
    assert!(at.join("later").exists());

    mounted.runtime.block_on(fs.unlink(Ino::ROOT, &name("f"))).expect("removed");
    assert!(at.join("f").exists());
    mount.invalidate_entry(Ino::ROOT, &name("f")).expect("told");
    assert!(!at.join("f").exists());

    mount.invalidate_inode(Ino(999_999)).expect("nothing to tell is no error");
    mount.invalidate_entry(Ino::ROOT, &name("unheard of")).expect("nothing to tell is no error");
    mount.invalidate_entry(Ino(999_999), &name("x")).expect("nothing to tell is no error");
}

#[test]
fn all_lookups_and_handles_come_back() {
    let mounted = Mounted::of(day_long());
    let at = mounted.path();
    for round in 0..3 {
        let dir = at.join(format!("dir{round}"));
        fs::create_dir(&dir).expect("made");
        for i in 0..500 {
            fs::write(dir.join(format!("f{i}")), "x").expect("written");
        }
        fs::hard_link(dir.join("f0"), dir.join("link")).expect("linked");
        symlink("f1", dir.join("symlink")).expect("linked");
        fs::rename(dir.join("f2"), dir.join("f3")).expect("renamed");
        // With attributes, and more than fits into one page of a listing.
        assert_eq!(fs::read_dir(&dir).expect("listed").count(), 501);
        let open = File::open(dir.join("f4")).expect("opened");
        fs::remove_dir_all(&dir).expect("removed");
        drop(open);
    }
    eventually("only the root is left", || mounted.fs.live_inodes() == 1 && mounted.fs.open_handles() == 0);
}

#[test]
fn the_umask_applies_once_with_acls_too() {
    let caps = Caps { posix_acl: true, ..Caps::default() };
    let mounted = Mounted::of(MemFsOptions { caps, ..MemFsOptions::default() });
    let made = Command::new("sh")
        .args(["-c", "umask 027; touch f; mkdir d; ln -s f l"])
        .current_dir(mounted.path())
        .status();
    assert!(made.expect("a shell").success());
    let mode =
        |name| fs::symlink_metadata(mounted.path().join(name)).expect("made").permissions().mode() & 0o7777;
    assert_eq!(["f", "d", "l"].map(mode), [0o640, 0o750, 0o777]);
}

// ---- Passthrough ----

/// A mount with a file whose own content is "asked" and whose local twin holds "passed".
fn with_backing(passthrough: Passthrough) -> (Mounted, Ino, tempfile::NamedTempFile) {
    let caps = Caps { backing_files: true, ..Caps::default() };
    let options = MountOptions { passthrough, ..MountOptions::default() };
    let mounted = Mounted::new(MemFsOptions { caps, ..day_long() }, &options);
    let ino = mounted.fs.add_file("f", b"asked.");
    let mut twin = tempfile::NamedTempFile::new().expect("a local file");
    twin.write_all(b"passed").expect("written");
    (mounted, ino, twin)
}

fn reopened(file: &tempfile::NamedTempFile) -> File {
    OpenOptions::new().read(true).write(true).open(file.path()).expect("opened")
}

#[test]
fn backing_files_are_read_and_written_without_a_message() {
    let (mounted, ino, twin) = with_backing(Passthrough::Auto);
    let path = mounted.path().join("f");
    mounted.fs.set_backing(ino, reopened(&twin));
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    assert_eq!(fs::read(&path).expect("read"), b"passed");
                }
            });
        }
    });
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    file.write_all_at(b"WRITE", 0).expect("written");
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mapping = unsafe { MmapOptions::new().len(6).map_copy_read_only(&file).expect("mapped") };
    assert_eq!(&mapping[..], b"WRITEd");
    drop((mapping, file));
    assert_eq!(fs::read(twin.path()).expect("read"), b"WRITEd");
    assert_eq!((mounted.fs.calls("read"), mounted.fs.calls("write")), (0, 0));
    eventually("all handles are released", || mounted.fs.open_handles() == 0);
    assert_eq!(fs::read(&path).expect("registered anew"), b"WRITEd");
}

#[test]
fn an_open_that_was_cached_keeps_others_from_passing_through() {
    let (mounted, ino, twin) = with_backing(Passthrough::Auto);
    let path = mounted.path().join("f");
    let cached = File::open(&path).expect("opened");
    mounted.fs.set_backing(ino, reopened(&twin));
    assert_eq!(fs::read(&path).expect("no EIO"), b"asked.");
    drop(cached);
    eventually("all handles are released", || mounted.fs.open_handles() == 0);
    assert_eq!(fs::read(&path).expect("read"), b"passed");
}

#[test]
fn passthrough_can_be_turned_off() {
    let (mounted, ino, twin) = with_backing(Passthrough::Off);
    mounted.fs.set_backing(ino, reopened(&twin));
    assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"asked.");
}

#[test]
fn a_backing_file_that_the_kernel_refuses_is_read_by_messages() {
    let (mounted, ino, _twin) = with_backing(Passthrough::Auto);
    // A pipe is no file that could be read at an offset.
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    mounted.fs.set_backing(ino, File::from(OwnedFd::from(reader)));
    assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"asked.");
}
