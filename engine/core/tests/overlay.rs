//! Local changes over time: what becomes of them when the base is replaced, and of what a crash left half done.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aysfs_engine::AysFs;
use aysfs_flist::Entry as ListEntry;
use aysfs_store::fault::{Gate, Trouble};
use aysfs_vfs::{ErrorKind, Fh, Ino, Lookup, OpenFlags, SetAttr, Vfs};
use bytes::Bytes;
use support::Lab;
use support::mount::{Mount, READ, TRUNCATE, WRITE, directory, has_metacopy, mount, name, tree};

#[tokio::test]
async fn what_was_changed_stays_and_what_was_not_follows_a_newer_base() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let old = [
        lab.file("untouched", b"old"),
        lab.file("written", b"old"),
        lab.file("chmodded", b"old attributes"),
        lab.file("moved", b"old, moved"),
        lab.file("deleted", b"old"),
        lab.file("gone/untouched", b"old"),
        lab.file("gone/written", b"old"),
        lab.file("gone/chmodded", b"old, gone"),
        lab.file("emptied/a", b"old"),
        lab.file("dir/deleted", b"old"),
        lab.file("dir/untouched", b"old"),
        lab.file("becomes a directory", b"old"),
        lab.file("becomes a file/inside", b"old"),
    ];
    let mounted = mount(&lab, &old);
    mounted.write("written", WRITE, 0, b"ours").await;
    mounted.chmod("chmodded", 0o600).await;
    mounted.rename("moved", "moved here").await;
    mounted.unlink("deleted").await;
    mounted.write("gone/written", WRITE, 3, b" ours").await;
    mounted.chmod("gone/chmodded", 0o600).await;
    mounted.unlink("emptied/a").await;
    mounted.rmdir("emptied").await;
    mounted.mkdir("emptied").await;
    mounted.unlink("dir/deleted").await;
    mounted.write("dir/ours", WRITE, 0, b"ours").await;
    mounted.write("becomes a directory", WRITE, 0, b"ours").await;
    mounted.write("becomes a file/ours", WRITE, 0, b"ours").await;
    mounted.mkdir("added").await;
    mounted.write("added/ours", WRITE, 0, b"ours").await;
    mounted.write("added too", WRITE, 0, b"ours").await;
    let before = mounted.tree().await;
    drop(mounted);

    let mounted = mount(&lab, &old);
    assert_eq!(mounted.tree().await, before, "the same base shows the same");
    drop(mounted);

    let new = [
        lab.file("untouched", b"new"),
        lab.file("written", b"new"),
        lab.file("chmodded", b"new, and of another length"),
        lab.file("moved", b"new"),
        lab.file("deleted", b"new"),
        lab.file("emptied/a", b"new"),
        lab.file("emptied/b", b"new"),
        lab.file("dir/deleted", b"new"),
        lab.file("dir/untouched", b"new"),
        lab.file("dir/added", b"new"),
        lab.file("becomes a directory/inside", b"new"),
        lab.file("becomes a file", b"new"),
        lab.file("added/theirs", b"new"),
        lab.file("added/ours", b"new"),
        lab.file("added too", b"new"),
    ];
    let mounted = mount(&lab, &new);
    let expected = tree(&[
        ("untouched", "new"),
        ("written", "ours"),
        // Its attributes are old, so is its content: as if all of it had been copied.
        ("chmodded", "old attributes"),
        // The name was taken from another file.
        ("moved here", "old, moved"),
        ("gone", "/"),
        ("gone/written", "old ours"),
        ("gone/chmodded", "old, gone"),
        ("emptied", "/"),
        ("dir", "/"),
        ("dir/untouched", "new"),
        ("dir/added", "new"),
        ("dir/ours", "ours"),
        ("becomes a directory", "ours"),
        ("becomes a file", "/"),
        ("becomes a file/ours", "ours"),
        ("added", "/"),
        ("added/theirs", "new"),
        ("added/ours", "ours"),
        ("added too", "ours"),
    ]);
    assert_eq!(mounted.tree().await, expected);
    assert_eq!(mounted.find("chmodded").await.expect("it is there").perm, 0o600);
    mounted.write("chmodded", WRITE, 4, b"content   ").await;
    assert_eq!(mounted.read("chmodded").await.expect("read"), "old content   ");
    drop(mounted);

    let mounted = mount(&lab, &old);
    let mut expected = before;
    expected.insert("chmodded".into(), "old content   ".into());
    assert_eq!(mounted.tree().await, expected, "the old base shows the old again");
}

#[tokio::test]
async fn a_moved_directory_shows_what_the_newer_base_has_where_it_was() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("kept/a", b"old"), lab.file("gone/a", b"old")]);
    for (from, to) in [("kept", "kept here"), ("gone", "gone here")] {
        mounted.rename(from, to).await;
        mounted.write(&format!("{to}/ours"), WRITE, 0, b"ours").await;
    }
    drop(mounted);
    let mounted = mount(&lab, &[lab.file("kept/a", b"new"), lab.file("kept/b", b"new")]);
    let expected = tree(&[
        ("kept here", "/"),
        ("kept here/a", "new"),
        ("kept here/b", "new"),
        ("kept here/ours", "ours"),
        ("gone here", "/"),
        ("gone here/ours", "ours"),
    ]);
    assert_eq!(mounted.tree().await, expected);
}

/// What the kernel's overlayfs makes of a chmod has no mark that tells the content.
fn forget_which_content(lab: &Lab, path: &str) {
    let path = lab.path("upper/mnt").join(path);
    rustix::fs::lremovexattr(path, "trusted.overlay.aysfs.content").expect("it has the mark");
}

#[tokio::test]
async fn a_copy_that_the_kernel_made_has_the_content_that_the_base_has() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("a", b"old")]);
    mounted.chmod("a", 0o600).await;
    drop(mounted);
    forget_which_content(&lab, "a");
    let mounted = mount(&lab, &[lab.file("a", b"newer")]);
    assert_eq!(mounted.read("a").await.expect("read"), "newer");
    assert_eq!(mounted.find("a").await.expect("it is there").perm, 0o600);
}

#[tokio::test]
async fn content_that_nobody_knows_any_more_can_be_replaced_for_good() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("a", b"old")]);
    mounted.chmod("a", 0o600).await;
    drop(mounted);
    forget_which_content(&lab, "a");
    let base = [directory("other")];
    let mounted = mount(&lab, &base);
    let ino = mounted.ino("a").await;
    mounted.0.open(ino, READ).await.expect("opened");
    let error = mounted.0.read(ino, Fh::NONE, 0, 10).await.expect_err("nobody knows it");
    assert!(error.to_string().contains("mount the old flist"), "{error}");
    mounted.0.release(ino, Fh::NONE).await.expect("released");
    assert_eq!(mounted.0.open(ino, WRITE).await.expect_err("nothing to copy").kind(), ErrorKind::Io);
    mounted.write("a", TRUNCATE, 0, b"ours").await;
    drop(mounted);
    assert_eq!(mount(&lab, &base).read("a").await.expect("read"), "ours");
}

#[tokio::test]
async fn what_is_written_under_one_name_is_there_under_a_name_that_nobody_has_looked_at() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let first = lab.file("a/x", b"one file");
    let base = [first.clone(), ListEntry { path: b"b/x".to_vec(), link: Some(b"a/x".to_vec()), ..first }];
    let mounted = mount(&lab, &base);
    mounted.chmod("a/x", 0o600).await;
    drop(mounted);

    // It knows one of the names only, and loses it while the file is open.
    let mounted = mount(&lab, &base);
    let ino = mounted.ino("a/x").await;
    mounted.0.open(ino, READ).await.expect("opened");
    mounted.unlink("a/x").await;
    mounted.0.open(ino, WRITE).await.expect("opened once more");
    mounted.0.write(ino, Fh::NONE, 0, Bytes::from_static(b"our")).await.expect("written");
    assert_eq!(mounted.read("b/x").await.expect("read"), "our file");
    assert_eq!(mounted.ino("b/x").await, ino, "it is the same file");
    drop(mounted);
    assert_eq!(mount(&lab, &base).read("b/x").await.expect("read"), "our file");
}

#[tokio::test]
async fn a_chmod_does_not_wait_for_the_content_that_a_writer_waits_for() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("a", b"content")]);
    let gate = Gate::default();
    lab.stor.set(Trouble::Wait(gate.clone()));
    let ino = mounted.ino("a").await;
    let writer = tokio::spawn({
        let fs = mounted.0.clone();
        async move { fs.open(ino, WRITE).await }
    });
    gate.reached_by(1).await;
    mounted.chmod("a", 0o600).await;
    gate.open();
    writer.await.expect("no panic").expect("opened");
    let attr = mounted.find("a").await.expect("it is there");
    assert_eq!((attr.perm, attr.size), (0o600, 7));
    assert_eq!(mounted.read("a").await.expect("read"), "content");
}

const LENDING: OpenFlags = OpenFlags { passthrough: true, ..READ };

/// A mount, and the content of its files in the cache.
async fn mount_cached(lab: &Lab, entries: &[ListEntry]) -> Mount {
    let mounted = mount(lab, entries);
    for entry in entries {
        mounted.read(std::str::from_utf8(&entry.path).expect("a plain path")).await.expect("fetched");
    }
    mounted
}

/// The bytes of a file that the kernel reads by itself.
fn content(backing: &File) -> String {
    let mut bytes = vec![0; 1000];
    let length = backing.read_at(&mut bytes, 0).expect("readable");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

impl Mount {
    async fn open(&self, path: &str, flags: OpenFlags) -> Option<Arc<File>> {
        self.0.open(self.ino(path).await, flags).await.expect("opened").backing
    }

    async fn release(&self, path: &str) {
        self.0.release(self.ino(path).await, Fh::NONE).await.expect("released");
    }
}

#[tokio::test]
async fn the_kernel_gets_a_cached_file_itself_once_nobody_reads_it_another_way() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("file", b"hello"), lab.file("other", b"x")]);
    assert!(mounted.0.caps().backing_files);
    assert!(mounted.open("file", LENDING).await.is_none(), "it is not cached yet");
    mounted.0.read(mounted.ino("file").await, Fh::NONE, 0, 1).await.expect("fetched");
    assert!(mounted.open("file", LENDING).await.is_none(), "there is a handle without one");
    mounted.release("file").await;
    assert!(mounted.open("file", LENDING).await.is_none(), "there still is one");
    mounted.release("file").await;
    mounted.release("file").await;

    assert!(mounted.open("file", READ).await.is_none(), "the frontend has no use for it");
    mounted.release("file").await;
    let backing = mounted.open("file", LENDING).await.expect("cached, and open nowhere else");
    assert_eq!(content(&backing), "hello");
    backing.write_at(b"x", 0).expect_err("the kernel may read it, no more");
    let again = mounted.open("file", LENDING).await.expect("as the handle before");
    assert!(Arc::ptr_eq(&backing, &again));
    assert!(mounted.open("other", LENDING).await.is_none());
}

#[tokio::test]
async fn what_passes_through_shows_what_is_written_later() {
    let lab = Lab::new();
    let files = ["written", "truncated", "emptied", "chmodded", "moved", "linked"];
    let entries = files.map(|path| lab.file(path, format!("base of {path}").as_bytes()));
    let mounted = mount_cached(&lab, &entries).await;
    for (number, path) in files.into_iter().enumerate() {
        let ino = mounted.ino(path).await;
        let backing = mounted.open(path, LENDING).await.expect("cached");
        let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
        match number {
            0 => {}
            1 => drop(mounted.0.setattr(ino, None, size(4)).await.expect("truncated")),
            2 => {
                drop(mounted.0.open(ino, OpenFlags { passthrough: true, ..TRUNCATE }).await.expect("emptied"))
            }
            3 => mounted.chmod(path, 0o600).await,
            4 => mounted.rename(path, "moved here").await,
            _ => drop(mounted.0.link(ino, Ino::ROOT, &name("link")).await.expect("linked")),
        }
        let writing = mounted.0.open(ino, WRITE).await.expect("opened").backing.expect("as before");
        assert!(Arc::ptr_eq(&backing, &writing), "{path}: all handles agree");
        mounted.0.write(ino, Fh::NONE, 0, Bytes::from_static(b"BASE")).await.expect("written");
        let expected = match number {
            1 | 2 => "BASE".to_owned(),
            _ => format!("BASE of {path}"),
        };
        assert_eq!(content(&backing), expected, "{path}");
        assert_eq!(mounted.0.read(ino, Fh::NONE, 0, 100).await.expect("readable"), expected, "{path}");
        assert_eq!(mounted.0.getattr(ino, None).await.expect("there").attr.size, expected.len() as u64);
    }
    assert_eq!(std::fs::read_dir(lab.path("work/mnt")).expect("listed").count(), 0);
    drop(mounted);
    // The cache has what it had.
    let plain = AysFs::new(lab.base(&entries), lab.cache(), lab.stors());
    for path in files {
        let Lookup::Found(entry) = plain.lookup(Ino::ROOT, &name(path)).await.expect("looked up") else {
            panic!("{path} is there");
        };
        let read = plain.read(entry.attr.ino, Fh::NONE, 0, 100).await.expect("readable");
        assert_eq!(read, format!("base of {path}"));
    }
}

#[tokio::test]
async fn files_with_the_same_content_do_not_see_each_others_changes() {
    let lab = Lab::new();
    let entries = [lab.file("one", b"same"), lab.file("other", b"same")];
    let mounted = mount_cached(&lab, &entries).await;
    let one = mounted.open("one", LENDING).await.expect("cached");
    assert!(mounted.open("other", LENDING).await.is_none(), "the file is lent");
    mounted.write("one", WRITE, 0, b"ONE!").await;
    assert_eq!(content(&one), "ONE!");
    assert_eq!(mounted.read("other").await.expect("readable"), "same");
    mounted.write("other", WRITE, 0, b"otherwise").await;
    assert_eq!(mounted.read("other").await.expect("readable"), "otherwise");
    assert_eq!(content(&one), "ONE!");
}

#[tokio::test]
async fn a_file_that_changed_sides_and_found_no_place_is_what_the_next_try_takes() {
    let lab = Lab::new();
    let entries = [directory("dir"), lab.file("dir/file", b"base")];
    let mounted = mount(&lab, &entries);
    mounted.read("dir/file").await.expect("fetched");
    let ino = mounted.ino("dir/file").await;
    let backing = mounted.open("dir/file", LENDING).await.expect("cached");
    // Somebody who must not puts something in the way.
    std::fs::write(lab.path("upper/mnt/dir"), "no directory").expect("a file");
    assert!(mounted.0.open(ino, WRITE).await.is_err());
    assert_eq!(content(&backing), "base");
    assert_eq!(mounted.read("dir/file").await.expect("readable"), "base");
    std::fs::remove_file(lab.path("upper/mnt/dir")).expect("removed");
    mounted.write("dir/file", WRITE, 0, b"ours").await;
    assert_eq!(content(&backing), "ours");
    assert_eq!(std::fs::read(lab.path("upper/mnt/dir/file")).expect("readable"), b"ours");
    assert_eq!(std::fs::read_dir(lab.path("work/mnt")).expect("listed").count(), 0);
}
