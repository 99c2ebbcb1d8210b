//! What the kernel keeps, for how long, and how it is told to drop it.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{
    Caller, Caps, FileKind, Ino, KernelCache, MountOptions, Name, OpenFlags, SetAttr, TimeToLive, Vfs,
};
use bytes::Bytes;
use memmap2::MmapOptions;

use crate::case::cases;
use crate::rig::{MemMount, Rig};
use crate::user::Server;

cases! { Mount "caching":
    cached_pages_are_kept_where_the_filesystem_says_so
    names_and_attributes_are_believed_as_long_as_the_filesystem_says
    names_are_believed_when_attributes_are_not
    an_uncached_file_can_be_mapped(map)
    a_stateless_mount_sends_no_message_twice
    a_stateless_mount_reads_far_ahead
    the_kernel_believes_until_it_is_told
    told_to_drop_an_open_file_the_kernel_asks_again
    a_cached_listing_shows_what_has_changed
}

const DAY: Duration = Duration::from_secs(86_400);
const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
const READ_WRITE: OpenFlags = OpenFlags::READ_WRITE;

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a valid name")
}

/// Everything is believed for a day.
fn believed() -> MemFsOptions {
    MemFsOptions {
        ttl: TimeToLive { entry: DAY, attr: DAY },
        absent: DAY,
        cache: KernelCache::Keep,
        ..MemFsOptions::default()
    }
}

fn cached_pages_are_kept_where_the_filesystem_says_so(rig: &Rig<'_>) {
    for (cache, messages) in [(KernelCache::Keep, 1), (KernelCache::Fresh, 2), (KernelCache::Direct, 2)] {
        let mounted = rig.memfs(MemFsOptions { cache, ..believed() });
        mounted.fs.add_file("f", b"content");
        for _ in 0..2 {
            let mut text = [0; 7];
            File::open(mounted.path().join("f")).expect("opened").read_exact(&mut text).expect("read");
            assert_eq!(&text, b"content");
        }
        assert_eq!(mounted.fs.calls("read"), messages, "{cache:?}");
    }
}

/// How many lookups and getattrs three looks at a name and at none take, when both are known.
fn asked(rig: &Rig<'_>, options: MemFsOptions) -> (u64, u64) {
    let mounted = rig.memfs(options);
    mounted.fs.add_file("f", b"content");
    let look = || {
        assert_eq!(fs::metadata(mounted.path().join("f")).expect("it exists").len(), 7);
        assert!(!mounted.path().join("none").exists());
    };
    let messages = || (mounted.fs.calls("lookup"), mounted.fs.calls("getattr"));
    look();
    let before = messages();
    (0..3).for_each(|_| look());
    (messages().0 - before.0, messages().1 - before.1)
}

fn names_and_attributes_are_believed_as_long_as_the_filesystem_says(rig: &Rig<'_>) {
    assert_eq!(asked(rig, believed()), (0, 0));
    let zero = Duration::ZERO;
    let not_believed = TimeToLive { entry: zero, attr: zero };
    assert_eq!(asked(rig, MemFsOptions { ttl: not_believed, absent: zero, ..believed() }).0, 6);
    assert_eq!(asked(rig, MemFsOptions { absent: zero, ..believed() }), (3, 0));
}

fn names_are_believed_when_attributes_are_not(rig: &Rig<'_>) {
    let only_names = TimeToLive { entry: DAY, attr: Duration::ZERO };
    let (lookups, getattrs) = asked(rig, MemFsOptions { ttl: only_names, ..believed() });
    assert!(lookups == 0 && getattrs >= 3, "{lookups} lookups, {getattrs} getattrs");
}

fn an_uncached_file_can_be_mapped(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions { cache: KernelCache::Direct, ..MemFsOptions::default() });
    mounted.fs.add_file("f", &[1; 4096]);
    rig.user(mounted.path()).finish();
    assert_eq!(fs::read(mounted.path().join("f")).expect("read")[6..9], [1, 2, 1]);
}

fn map(at: &Path, _: &mut Server<'_>) {
    let file = OpenOptions::new().read(true).write(true).open(at.join("f")).expect("opened");
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mut mapping = unsafe { MmapOptions::new().map_mut(&file).expect("mapped") };
    mapping[7] = 2;
    mapping.flush().expect("synced");
}

/// A stateless mount of fifty files.
fn stateless<'a>(rig: &'a Rig<'_>) -> MemMount<'a> {
    let caps = Caps { stateless: true, ..Caps::default() };
    let fs = MemFs::new(MemFsOptions { caps, ..believed() });
    for i in 0..50 {
        fs.add_file(&format!("dir/sub{}/file{i}", i % 5), format!("content {i}").as_bytes());
    }
    rig.mount(fs, &MountOptions { read_only: true, ..MountOptions::default() }).expect("mounted")
}

fn a_stateless_mount_sends_no_message_twice(rig: &Rig<'_>) {
    let mounted = stateless(rig);
    let walk = || {
        let mut found = 0;
        for sub in fs::read_dir(mounted.path().join("dir")).expect("listed") {
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
}

fn a_stateless_mount_reads_far_ahead(rig: &Rig<'_>) {
    let mounted = stateless(rig);
    let device = fs::metadata(mounted.path()).expect("it exists").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let readahead = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    assert_eq!(readahead.expect("a setting").trim(), "1024");
}

fn the_kernel_believes_until_it_is_told(rig: &Rig<'_>) {
    let mounted = rig.memfs(believed());
    let (at, fs, mount) = (mounted.path(), &mounted.fs, mounted.mount());
    // Without a look at the attributes, which would tell a kernel that minds them (FUSE_AUTO_INVAL_DATA).
    let read = || {
        let mut text = [0; 3];
        File::open(at.join("f")).and_then(|mut file| file.read_exact(&mut text)).map(|()| text)
    };
    let ino = fs.add_file("f", b"old");
    assert_eq!(&read().expect("read"), b"old");
    assert!(!at.join("later").exists());

    rig.runtime.block_on(async {
        write(fs, ino, b"new").await;
        fs.mknod(ROOT, Ino::ROOT, &name("later"), FileKind::Regular, 0o644).await.expect("made");
    });
    assert_eq!(&read().expect("read"), b"old");
    assert!(!at.join("later").exists());

    mount.invalidate_inode(ino).expect("told");
    mount.invalidate_entry(Ino::ROOT, &name("later")).expect("told");
    assert_eq!(&read().expect("read"), b"new");
    assert!(at.join("later").exists());

    rig.runtime.block_on(fs.unlink(Ino::ROOT, &name("f"))).expect("removed");
    assert!(at.join("f").exists());
    mount.invalidate_entry(Ino::ROOT, &name("f")).expect("told");
    assert!(!at.join("f").exists());

    mount.invalidate_inode(Ino(999_999)).expect("nothing to tell is no error");
    mount.invalidate_entry(Ino::ROOT, &name("unheard of")).expect("nothing to tell is no error");
    mount.invalidate_entry(Ino(999_999), &name("x")).expect("nothing to tell is no error");
}

fn told_to_drop_an_open_file_the_kernel_asks_again(rig: &Rig<'_>) {
    let mounted = rig.memfs(believed());
    let ino = mounted.fs.add_file("f", b"old content");
    let file = File::open(mounted.path().join("f")).expect("opened");
    let read = || {
        let mut text = [0; 3];
        file.read_exact_at(&mut text, 0).map(|()| text)
    };
    assert_eq!(&read().expect("read"), b"old");
    rig.runtime.block_on(async {
        write(&mounted.fs, ino, b"new").await;
        let longer = SetAttr { size: Some(20), ..SetAttr::default() };
        mounted.fs.setattr(ino, None, longer).await.expect("longer");
    });
    assert_eq!(&read().expect("read"), b"old");
    mounted.mount().invalidate_inode(ino).expect("told");
    assert_eq!(&read().expect("read"), b"new");
    assert_eq!(file.metadata().expect("open").len(), 20);
    assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"new content\0\0\0\0\0\0\0\0\0");
}

fn a_cached_listing_shows_what_has_changed(rig: &Rig<'_>) {
    for cache in [KernelCache::Keep, KernelCache::Fresh, KernelCache::Direct] {
        let mounted = rig.memfs(MemFsOptions { cache, ..believed() });
        let dir = mounted.path().join("dir");
        for number in 0..300 {
            mounted.fs.add_file(&format!("dir/{number}"), b"x");
        }
        let count = || fs::read_dir(&dir).expect("listed").filter(Result::is_ok).count();
        assert_eq!((count(), count()), (300, 300));
        let before = mounted.fs.calls("readdir");
        assert_eq!(count(), 300);
        // What was listed to its end is kept.
        assert_eq!(mounted.fs.calls("readdir") == before, cache == KernelCache::Keep, "{cache:?}");
        fs::write(dir.join("new"), "x").expect("written");
        assert_eq!(count(), 301, "{cache:?}");
        fs::remove_file(dir.join("7")).expect("removed");
        fs::rename(dir.join("8"), dir.join("9")).expect("renamed");
        assert_eq!(count(), 299, "{cache:?}");
        let ino = Ino(fs::metadata(&dir).expect("it exists").ino());
        let behind = name("behind");
        let made = mounted.fs.mknod(ROOT, ino, &behind, FileKind::Regular, 0o644);
        rig.runtime.block_on(made).expect("made");
        mounted.mount().invalidate_inode(ino).expect("told");
        assert_eq!(count(), 300, "{cache:?}");
    }
}

/// Changes the beginning of a file behind the kernel's back.
async fn write(fs: &MemFs, ino: Ino, data: &'static [u8]) {
    let opened = fs.open(ino, READ_WRITE).await.expect("opened");
    fs.write(ino, opened.fh, 0, Bytes::from_static(data)).await.expect("written");
    fs.release(ino, opened.fh).await.expect("released");
}
