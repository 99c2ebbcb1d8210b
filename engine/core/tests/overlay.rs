//! Local changes over time: what becomes of them when the base is replaced, and of what a crash left half done.

mod support;

use aysfs_flist::Entry as ListEntry;
use aysfs_store::fault::{Gate, Trouble};
use aysfs_vfs::{ErrorKind, Fh, Vfs};
use bytes::Bytes;
use support::Lab;
use support::mount::{READ, TRUNCATE, WRITE, directory, has_metacopy, mount, tree};

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
