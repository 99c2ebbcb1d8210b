//! What local changes come to.

mod support;

use aysfs_engine::{Aspect, Change, Changed};
use aysfs_flist::{Content, Entry, Kind, Timestamp};
use aysfs_store::Fault;
use aysfs_store::fault::Trouble;
use aysfs_vfs::{FileKind, Ino, SetAttr, SetTime, SetXattrMode, Time, Vfs};
use support::Lab;
use support::mount::{Mount, ROOT, TRUNCATE, WRITE, directory, has_metacopy, mount, name};

/// The changes, as a person would write them down.
async fn diff(mounted: &Mount) -> Vec<String> {
    mounted.0.diff().await.expect("compared").iter().map(line).collect()
}

fn line(Change { path, what }: &Change) -> String {
    let text = |bytes: &[u8]| format!("/{}", bytes.escape_ascii());
    let aspects = |aspects: &[Aspect]| {
        let names: Vec<_> = aspects.iter().map(|aspect| format!("{aspect:?}").to_lowercase()).collect();
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    };
    match what {
        Changed::Added => format!("A {}", text(path)),
        Changed::Deleted => format!("D {}", text(path)),
        Changed::Modified(what) => format!("M {}{}", text(path), aspects(what)),
        Changed::Renamed { from, aspects: what } => {
            format!("R {} -> {}{}", text(from), text(path), aspects(what))
        }
    }
}

async fn touch(mounted: &Mount, path: &str, secs: i64) {
    let mtime = Some(SetTime::At(Time { secs, nanos: 0 }));
    let ino = mounted.ino(path).await;
    mounted.0.setattr(ino, None, SetAttr { mtime, ..SetAttr::default() }).await.expect("touched");
}

fn link(path: &str, to: &Entry) -> Entry {
    Entry { path: path.into(), link: Some(to.path.clone()), ..to.clone() }
}

#[tokio::test]
async fn nothing_is_different_at_first_and_what_is_undone_is_not() {
    let lab = Lab::new();
    let base = [lab.file("d/a", b"old"), lab.file("b", b"old")];
    let mounted = mount(&lab, &base);
    assert_eq!(diff(&mounted).await, [""; 0]);
    mounted.write("d/new", WRITE, 0, b"x").await;
    mounted.unlink("d/new").await;
    touch(&mounted, "d", 0).await;
    mounted.write("b", WRITE, 0, b"new").await;
    mounted.write("b", WRITE, 0, b"old").await;
    touch(&mounted, "b", 0).await;
    // The root is not in the list, and not told when it changed last.
    assert_eq!(diff(&mounted).await, [""; 0]);
}

#[tokio::test]
async fn each_difference_is_one_line() {
    let lab = Lab::new();
    let first = lab.file("one/x", b"two names");
    let mtime = Timestamp { secs: 5, nanos: 0 };
    let base = [
        lab.file("a", b"old"),
        lab.file("gone/deep/file", b"old"),
        lab.file("kept/gone", b"old"),
        lab.file("kept/kept", b"old"),
        lab.file("longer", b"old"),
        Entry { mtime, ..lab.file("touched", b"old") },
        lab.file("type", b"old"),
        lab.file("emptied", b"old"),
        Entry { target: b"there".to_vec(), ..Entry::new("link", Kind::Symlink) },
        Entry::new("device", Kind::CharDevice { major: 1, minor: 3 }),
        first.clone(),
        link("two/x", &first),
    ];
    let mounted = mount(&lab, &base);
    mounted.write("a", WRITE, 0, b"new").await;
    mounted.unlink("gone/deep/file").await;
    mounted.rmdir("gone/deep").await;
    mounted.rmdir("gone").await;
    mounted.unlink("kept/gone").await;
    mounted.mkdir("kept/new").await;
    mounted.write("kept/new/file", WRITE, 0, b"x").await;
    mounted.write("longer", WRITE, 3, b" and longer").await;
    touch(&mounted, "touched", 6).await;
    mounted.unlink("type").await;
    mounted.mkdir("type").await;
    mounted.write("type/inside", WRITE, 0, b"x").await;
    mounted.write("emptied", TRUNCATE, 0, b"").await;
    for gone in ["link", "device"] {
        mounted.unlink(gone).await;
    }
    mounted.0.symlink(ROOT, Ino::ROOT, &name("link"), b"elsewhere").await.expect("made");
    let other = FileKind::CharDevice(aysfs_vfs::Device { major: 1, minor: 5 });
    mounted.0.mknod(ROOT, Ino::ROOT, &name("device"), other, 0o755).await.expect("made");
    mounted.write("two/x", WRITE, 0, b"TWO").await;
    touch(&mounted, "link", 0).await;
    touch(&mounted, ".", 0).await;
    let expected = [
        "M /a (content)",
        "M /device (type)",
        "M /emptied (content, size)",
        "D /gone",
        "D /kept/gone",
        "A /kept/new",
        "A /kept/new/file",
        "M /link (target)",
        "M /longer (content, size)",
        "M /one/x (content)",
        "M /touched (times)",
        "M /two/x (content)",
        "M /type (type)",
        "A /type/inside",
    ];
    assert_eq!(diff(&mounted).await, expected);
    drop(mounted);
    assert_eq!(diff(&mount(&lab, &base)).await, expected, "of an upper that was read again");
}

#[tokio::test]
async fn attributes_are_told_and_nothing_is_fetched_for_them() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let base = [lab.file("a", b"old"), lab.file("d/b", b"old")];
    let mounted = mount(&lab, &base);
    lab.stor.set(Trouble::Fail(|| Fault::NotFound));
    mounted.chmod("a", 0o600).await;
    let owner = SetAttr { uid: Some(12), ..SetAttr::default() };
    mounted.0.setattr(mounted.ino("d/b").await, None, owner).await.expect("changed");
    mounted.chmod("d", 0o700).await;
    let d = mounted.ino("d").await;
    mounted.0.setxattr(d, b"user.note", b"x", SetXattrMode::Set).await.expect("set");
    assert_eq!(diff(&mounted).await, ["M /a (mode)", "M /d (mode, xattrs)", "M /d/b (owner)"]);
}

#[tokio::test]
async fn what_was_moved_is_told_with_where_it_was() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let base = [
        lab.file("dir/a", b"a"),
        lab.file("dir/b", b"b"),
        lab.file("dir/sub/c", b"c"),
        lab.file("file", b"file"),
        lab.file("left/here", b"here"),
        lab.file("one/1", b"1"),
        lab.file("two/2", b"2"),
        lab.file("over", b"over"),
        lab.file("under", b"under"),
    ];
    let mounted = mount(&lab, &base);
    mounted.rename("dir", "moved").await;
    mounted.unlink("moved/a").await;
    mounted.write("moved/new", WRITE, 0, b"x").await;
    mounted.rename("moved/sub", "sub").await;
    mounted.chmod("sub", 0o700).await;
    mounted.rename("moved/b", "b").await;
    mounted.rename("file", "moved/file").await;
    mounted.rename("left/here", "here").await;
    mounted.rmdir("left").await;
    mounted.rename("over", "under").await;
    for (from, to) in [("one", "swap"), ("two", "one"), ("swap", "two")] {
        mounted.rename(from, to).await;
    }
    let expected = [
        "R /dir/b -> /b",
        "R /left/here -> /here",
        "D /left",
        "R /dir -> /moved",
        "D /dir/a",
        "R /file -> /moved/file",
        "A /moved/new",
        "R /two -> /one",
        "D /over",
        "R /dir/sub -> /sub (mode)",
        "R /one -> /two",
        "M /under (content, size)",
    ];
    let mut expected = expected.map(str::to_owned);
    let mut found = diff(&mounted).await;
    // By the path that is different, which is not where each line begins.
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    drop(mounted);
    let mut found = diff(&mount(&lab, &base)).await;
    found.sort();
    assert_eq!(found, expected, "of an upper that was read again");
}

#[tokio::test]
async fn one_more_name_is_no_move() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let base = [lab.file("a", b"a")];
    let mounted = mount(&lab, &base);
    let ino = mounted.ino("a").await;
    mounted.0.link(ino, Ino::ROOT, &name("b")).await.expect("linked");
    assert_eq!(diff(&mounted).await, ["A /b"]);
    mounted.unlink("a").await;
    assert_eq!(diff(&mounted).await, ["R /a -> /b"]);
    mounted.0.link(ino, Ino::ROOT, &name("c")).await.expect("linked");
    assert_eq!(diff(&mounted).await, ["R /a -> /b", "A /c"]);
}

#[tokio::test]
async fn a_directory_that_was_made_again_is_compared_with_what_it_was() {
    let lab = Lab::new();
    let base = [directory("d"), lab.file("d/a", b"a"), lab.file("d/b", b"b")];
    let mounted = mount(&lab, &base);
    for gone in ["d/a", "d/b"] {
        mounted.unlink(gone).await;
    }
    mounted.rmdir("d").await;
    mounted.mkdir("d").await;
    let caller = aysfs_vfs::Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: 1,
        umask: 0,
    };
    let d = mounted.ino("d").await;
    mounted.0.mknod(caller, d, &name("a"), FileKind::Regular, 0o755).await.expect("made");
    mounted.write("d/a", WRITE, 0, b"a").await;
    touch(&mounted, "d/a", 0).await;
    assert_eq!(diff(&mounted).await, ["D /d/b"]);
}

#[tokio::test]
async fn all_of_it_is_added_to_an_empty_base() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.mkdir("d").await;
    mounted.write("d/a", WRITE, 0, b"a").await;
    assert_eq!(diff(&mounted).await, ["A /d", "A /d/a"]);
}

#[tokio::test]
async fn old_lists_are_compared_too() {
    let lab = Lab::new();
    let object = lab.file("a", b"one");
    let md5 = {
        use md5::Digest;
        md5::Md5::digest(b"one").into()
    };
    let line = format!("a|{}|3\n", hex::encode::<[u8; 16]>(md5));
    lab.objects.insert(aysfs_store::Key::md5(md5), b"one".to_vec());
    assert!(matches!(object.content, Some(Content::Object { .. })));
    let mounted = support::mount::mount_base(&lab, lab.base_of(line.as_bytes()));
    mounted.write("a", WRITE, 0, b"two").await;
    touch(&mounted, "a", 0).await;
    assert_eq!(diff(&mounted).await, ["M /a (content)"]);
    mounted.write("a", WRITE, 0, b"one").await;
    touch(&mounted, "a", 0).await;
    assert_eq!(diff(&mounted).await, [""; 0]);
}
