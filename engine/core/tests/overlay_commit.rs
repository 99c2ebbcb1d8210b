//! Local changes as a new flist.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aysfs_engine::{CommitError, CommitOptions, Committed, SendProgress};
use aysfs_flist::{Content, Dialect, Entry, Flist, Header, Kind, Owner, ParseOptions, Source};
use aysfs_store::fault::Trouble;
use aysfs_store::{Fault, Key, Store};
use aysfs_vfs::{Fh, FileKind, Ino, RenameMode, SetAttr, Vfs};
use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest, Md5};
use support::Lab;
use support::mount::{Mount, ROOT, WRITE, directory, has_metacopy, mount, mount_base, name, tree};

async fn commit(mounted: &Mount) -> Result<(Committed, Vec<u8>), CommitError> {
    let header = Header { name: Some("new".into()), version: Some(2), ..Header::default() };
    let options = CommitOptions { header };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let progress = Arc::<SendProgress>::default();
    let committed = mounted.0.commit(&options, file.reopen().expect("there"), &progress).await;
    let flist = std::fs::read(file).expect("read");
    if committed.is_err() {
        assert!(flist.is_empty(), "a list that is not whole was written");
    }
    committed.map(|committed| (committed, flist))
}

/// How many objects the stor has.
async fn stored(lab: &Lab) -> usize {
    lab.objects.list().await.expect("listed").count().await
}

fn parse(bytes: &[u8]) -> Flist {
    Flist::parse(Source::Bytes { name: "new.flist", bytes }, &ParseOptions::default()).expect("a good list")
}

fn entry<'a>(list: &'a Flist, path: &str) -> &'a Entry {
    let found = list.entries.iter().find(|entry| entry.path == path.as_bytes());
    found.unwrap_or_else(|| panic!("{path} is not listed"))
}

#[tokio::test]
async fn what_did_not_change_is_listed_as_it_was_and_only_what_is_new_is_sent() {
    let lab = Lab::new();
    let first = lab.file("d/one", b"two names");
    let second = Entry { path: b"d/two".to_vec(), link: Some(b"d/one".to_vec()), ..first.clone() };
    let kept = Entry {
        perm: 0o4711,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        ..lab.file("kept", b"kept")
    };
    let base =
        [directory(""), directory("d"), first.clone(), second, lab.file("gone", b"gone"), kept.clone()];
    let mounted = mount(&lab, &base);
    let before = stored(&lab).await;
    mounted.unlink("gone").await;
    mounted.write("new", WRITE, 0, b"new content").await;
    mounted.write("same", WRITE, 0, b"new content").await;
    mounted.write("empty", WRITE, 0, b"").await;
    let new = mounted.ino("new").await;
    let d = mounted.ino("d").await;
    mounted.0.link(new, d, &name("again")).await.expect("linked");

    let (committed, list) = commit(&mounted).await.expect("committed");
    let expected =
        Committed { entries: 9, files: 4, reused: 2, new_objects: 1, new_bytes: committed.new_bytes };
    assert_eq!(committed, expected);
    assert_eq!(stored(&lab).await, before + 1);
    let list = parse(&list);
    assert_eq!(
        (list.dialect, list.header.name.as_deref(), list.header.version),
        (Dialect::V2, Some("new"), Some(2))
    );
    assert_eq!(entry(&list, "kept"), &kept);
    assert_eq!(entry(&list, "d/one"), &first);
    assert_eq!(entry(&list, "d/two").link.as_deref(), Some(&b"d/one"[..]));
    assert_eq!(entry(&list, "new").link.as_deref(), Some(&b"d/again"[..]));
    assert_eq!(entry(&list, "new").content, entry(&list, "same").content);
    assert_eq!(entry(&list, "empty").content, None);
    assert!(list.entries.iter().all(|entry| entry.path != b"gone"));

    let before = mounted.tree().await;
    let again = lab.path("again");
    std::fs::create_dir(&again).expect("made");
    let fresh =
        support::mount::mount_in(&lab, &again, lab.base_of(&commit(&mounted).await.expect("committed").1));
    assert_eq!(fresh.tree().await, before, "the list shows the same");
}

#[tokio::test]
async fn content_of_old_lists_is_taken_over_without_being_fetched() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let md5: [u8; 16] = Md5::digest(b"one").into();
    lab.objects.insert(Key::md5(md5), b"one".to_vec());
    let line = format!("a|{0}|3\nb|{0}|3\n", hex::encode(md5));
    let mounted = mount_base(&lab, lab.base_of(line.as_bytes()));
    mounted.chmod("a", 0o600).await;
    mounted.write("c", WRITE, 0, b"new").await;
    let (committed, list) = commit(&mounted).await.expect("committed");
    assert_eq!((committed.reused, committed.new_objects), (2, 1));
    let parsed = parse(&list);
    for path in ["a", "b"] {
        assert_eq!(entry(&parsed, path).content, Some(Content::V1(md5)), "{path}");
    }
    drop(mounted);
    let mounted = mount_base(&lab, lab.base_of(&list));
    assert_eq!(mounted.tree().await, tree(&[("a", "one"), ("b", "one"), ("c", "new")]));
}

#[tokio::test]
async fn on_top_of_the_committed_list_the_same_changes_show_the_same() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let base = [
        lab.file("a/1", b"1"),
        lab.file("a/sub/2", b"2"),
        lab.file("b/3", b"3"),
        lab.file("c/4", b"4"),
        lab.file("file", b"file"),
        lab.file("gone", b"gone"),
        lab.file("again/5", b"5"),
    ];
    let mut mounted = mount(&lab, &base);
    mounted.rename("c", "moved").await;
    mounted.unlink("again/5").await;
    mounted.rmdir("again").await;
    mounted.mkdir("again").await;
    mounted.write("again/6", WRITE, 0, b"6").await;
    mounted.rename("file", "moved file").await;
    mounted.chmod("moved file", 0o600).await;
    mounted.unlink("gone").await;
    mounted.rename("a/sub", "sub").await;
    mounted
        .0
        .rename(Ino::ROOT, &name("a"), Ino::ROOT, &name("b"), RenameMode::Exchange)
        .await
        .expect("exchanged");
    mounted.write("moved/new", WRITE, 0, b"new").await;
    let mut lists = vec![lab.base(&base)];
    for round in 0..3 {
        let before = mounted.tree().await;
        let attr = mounted.find("moved file").await.expect("there");
        let (_, list) = commit(&mounted).await.expect("committed");
        drop(mounted);
        mounted = mount_base(&lab, lab.base_of(&list));
        assert_eq!(mounted.tree().await, before, "round {round}");
        assert_eq!(mounted.find("moved file").await.expect("there").perm, attr.perm);
        assert_eq!(mounted.0.diff().await.expect("compared"), [], "round {round}: nothing is new");
        lists.push(lab.base_of(&list));
        // Once more, with moves that only fit the list that is mounted now.
        match round {
            0 => {
                mounted
                    .0
                    .rename(Ino::ROOT, &name("a"), Ino::ROOT, &name("b"), RenameMode::Exchange)
                    .await
                    .expect("exchanged");
                mounted.rename("moved", "moved again").await;
            }
            1 => mounted.rename("sub", "moved again/sub").await,
            _ => {}
        }
    }
    // Without a commit in between, too.
    let before = mounted.tree().await;
    let last = lists.pop().expect("pushed");
    drop(mounted);
    assert_eq!(mount_base(&lab, last).tree().await, before);
}

#[tokio::test]
async fn a_file_that_never_stops_changing_is_named() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[directory("d")]);
    let d = mounted.ino("d").await;
    let ino = mounted.0.mknod(ROOT, d, &name("busy"), FileKind::Regular, 0o644).await.expect("made").attr.ino;
    mounted.0.open(ino, WRITE).await.expect("opened");
    let large = Bytes::from(vec![7; 32 << 20]);
    mounted.0.write(ino, Fh::NONE, 0, large).await.expect("written");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (fs, stop) = (mounted.0.clone(), stop.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            while !stop.load(Ordering::Relaxed) {
                let bytes = Bytes::from_static(b"x");
                runtime.block_on(fs.write(ino, Fh::NONE, 0, bytes)).expect("written");
            }
        }
    });
    let refused = commit(&mounted).await;
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("no panic");
    let message = "/d/busy changes while it is committed: commit again when nothing writes to it";
    assert_eq!(refused.expect_err("it changed").to_string(), message);
    commit(&mounted).await.expect("it has stopped");
}

#[tokio::test]
async fn what_is_known_and_gone_is_sent_again_or_said() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("same", WRITE, 0, b"the same").await;
    mounted.write("other", WRITE, 0, b"another content").await;
    let (_, list) = commit(&mounted).await.expect("committed");
    drop(mounted);
    let again = lab.path("again");
    std::fs::create_dir(&again).expect("made");
    let mounted = support::mount::mount_in(&lab, &again, lab.base_of(&list));
    for key in lab.objects.keys() {
        lab.objects.delete(&key).await.expect("deleted");
    }
    mounted.write("copy", WRITE, 0, b"the same").await;
    let error = commit(&mounted).await.expect_err("nobody has it").to_string();
    assert!(error.contains("1 files") && error.contains("/other: put it back"), "{error}");
    mounted.unlink("other").await;
    let (committed, list) = commit(&mounted).await.expect("committed");
    assert_eq!(committed.new_objects, 0, "it is there since the one that failed");
    let parsed = parse(&list);
    for path in ["copy", "same"] {
        let content = support::packed::content_of(&*lab.objects, &parsed, entry(&parsed, path), None).await;
        assert_eq!(content, b"the same", "{path}");
    }
}

#[tokio::test]
async fn a_stor_that_may_not_be_written_is_said_so() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("new", WRITE, 0, b"new").await;
    lab.stor.set(Trouble::Fail(|| Fault::Denied));
    let message = commit(&mounted).await.expect_err("denied").to_string();
    let start = "the stor takes nothing from the account of this mount: mount with one that may write, then commit again (";
    assert!(message.starts_with(start), "{message}");
    lab.stor.set(Trouble::None);
    commit(&mounted).await.expect("it may be written again");
}

#[tokio::test]
async fn owners_that_are_unknown_here_stay_what_they_are_called() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let owner = |name: &str, id| Owner { name: Some(name.into()), id };
    let (user, group) = (owner("no such user", Some(4242)), owner("no such group", None));
    let owned = |entry: Entry| Entry { user: user.clone(), group: group.clone(), ..entry };
    let base = [
        directory(""),
        owned(directory("d")),
        owned(lab.file("d/content", b"1")),
        owned(lab.file("d/given", b"2")),
        owned(lab.file("d/mode", b"3")),
    ];
    let mounted = mount(&lab, &base);
    mounted.chmod("d", 0o711).await;
    mounted.chmod("d/mode", 0o600).await;
    mounted.write("d/content", WRITE, 0, b"new").await;
    let given = SetAttr { uid: Some(0), ..SetAttr::default() };
    mounted.0.setattr(mounted.ino("d/given").await, None, given).await.expect("given away");
    mounted.write("d/new", WRITE, 0, b"new").await;

    let list = parse(&commit(&mounted).await.expect("committed").1);
    for path in ["d", "d/mode", "d/content"] {
        assert_eq!(entry(&list, path).user, user, "{path}");
        assert_eq!(entry(&list, path).group, group, "{path}");
    }
    assert_eq!((&entry(&list, "d/given").user, &entry(&list, "d/given").group), (&Owner::root(), &group));
    assert_eq!(entry(&list, "d/new").user, Owner::root());
}

#[tokio::test]
async fn names_come_and_go_while_a_commit_reads_them() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[directory("d"), directory("e")]);
    // Empty: to move a file while it is read is to change it.
    mounted.write("d/file", WRITE, 0, b"").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mover = std::thread::spawn({
        let (fs, stop) = (mounted.0.clone(), stop.clone());
        let (d, e) = (mounted.ino("d").await, mounted.ino("e").await);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let file = name("file");
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in [(d, e), (e, d)] {
                    runtime
                        .block_on(fs.rename(from, &file, to, &file, RenameMode::Replace))
                        .expect("renamed");
                }
            }
        }
    });
    for _ in 0..50 {
        let (_, list) = commit(&mounted).await.expect("committed");
        let files = parse(&list).entries.into_iter().filter(|entry| entry.kind == Kind::Regular).count();
        assert_eq!(files, 1, "it is in one of the two");
    }
    stop.store(true, Ordering::Relaxed);
    mover.join().expect("no panic");
}
