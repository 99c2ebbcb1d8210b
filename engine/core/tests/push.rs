//! Local changes, pushed to a stor and published.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aysfs_engine::push::{Pushed, Pusher, PusherOptions, static_name};
use aysfs_engine::{AysFs, Destination, Overlay, Upper};
use aysfs_flist::{Entry, Flist, ParseOptions, Source};
use aysfs_store::codec::Compression;
use aysfs_store::fault::{Gate, Trouble};
use aysfs_store::{Fault, Key, Mirror, Named, Store};
use aysfs_vfs::{Fh, SetAttr, SetTime, Time, Vfs};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use support::mount::{Mount, READ, TRUNCATE, WRITE, mount, mount_base, mount_in};
use support::{Lab, key_of};

/// Pushes the changes of a mount to the stor of the lab.
fn pusher(lab: &Lab, mounted: &Mount) -> Pusher {
    pusher_to(lab, mounted, "stor")
}

fn pusher_to(lab: &Lab, mounted: &Mount, destination: &str) -> Pusher {
    let options = PusherOptions {
        dir: lab.path("push"),
        namespace: "app".parse().expect("a namespace"),
        publish: true,
        destination: Destination::new(destination, b""),
        compression: Compression::default(),
        log: lab.path("push.log"),
    };
    Pusher::open((*mounted.0).clone(), options).expect("opened")
}

async fn push(pusher: &Pusher) -> Pushed {
    pusher.round(&Arc::default()).await.expect("pushed")
}

/// Pushes one new object, and gives up when its list is about to reach the stor.
async fn give_up_at_the_list(lab: &Lab, pusher: &Pusher) {
    let gate = Gate::default();
    // Whether the stor has the pack, the pack, whether it has it now, whether it has all that the list names, the list.
    let before = std::iter::repeat_n(Trouble::None, 4);
    lab.stor.script(before.chain([Trouble::Wait(gate.clone())]));
    let progress = Arc::default();
    tokio::select! {
        _ = pusher.round(&progress) => panic!("it waits"),
        () = gate.reached_by(1) => {}
    }
}

/// The published list.
async fn published(lab: &Lab) -> Flist {
    let name = static_name(&"app".parse().expect("a namespace"));
    let Named::Found { body, .. } = lab.objects.read_named(&name, None).await.expect("published") else {
        panic!("no version was named")
    };
    let pieces: Vec<Bytes> = body.stream.try_collect().await.expect("memory");
    let bytes = pieces.concat();
    Flist::parse(Source::Bytes { name: "app.flist", bytes: &bytes }, &ParseOptions::default()).expect("good")
}

fn entry<'a>(list: &'a Flist, path: &str) -> Option<&'a Entry> {
    list.entries.iter().find(|entry| entry.path == path.as_bytes())
}

fn paths(list: &Flist) -> Vec<String> {
    list.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

async fn stored(lab: &Lab) -> BTreeSet<Key> {
    let listed = lab.objects.list().await.expect("listed");
    listed.map(|object| object.expect("memory").key).collect().await
}

/// The tree of the published list, as another machine shows it.
async fn elsewhere(lab: &Lab) -> std::collections::BTreeMap<String, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let backend = lab.path(&format!("elsewhere-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&backend).expect("made");
    let list = support::list(&published(lab).await.header, &published(lab).await.entries);
    mount_in(lab, &backend, lab.base_of(&list)).tree().await
}

#[tokio::test]
async fn what_is_new_is_sent_once_and_the_published_list_shows_the_tree() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.mkdir("d").await;
    mounted.write("d/a", WRITE, 0, b"content of a").await;
    mounted.write("b", WRITE, 0, b"content of b").await;
    mounted.write("empty", WRITE, 0, b"").await;
    let pusher = pusher(&lab, &mounted);
    let pushed = push(&pusher).await;
    assert_eq!((pushed.files, pushed.new_objects, pushed.version), (2, 1, Some(1)), "one pack");
    assert!(pushed.published && pushed.waiting.is_empty());
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);

    lab.stor.set(Trouble::Fail(|| Fault::Denied));
    assert_eq!(push(&pusher).await, Pushed::default(), "nothing is new, and nobody is asked");
    lab.stor.set(Trouble::None);

    mounted.write("b", WRITE, 0, b"CONTENT").await;
    mounted.rename("d", "e").await;
    mounted.unlink("empty").await;
    let pushed = push(&pusher).await;
    assert_eq!((pushed.files, pushed.new_objects, pushed.version), (1, 1, Some(2)));
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
    assert_eq!(paths(&published(&lab).await), ["", "b", "e", "e/a"]);

    let log = std::fs::read_to_string(lab.path("push.log")).expect("written");
    let mut of: Vec<&str> = log.lines().map(|line| line.split('|').next().expect("a path")).collect();
    of.sort_unstable();
    assert_eq!(of, ["/b", "/b", "/d/a"]);
}

#[tokio::test]
async fn the_queue_is_on_the_disk() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"a").await;
    let first = pusher(&lab, &mounted);
    push(&first).await;
    mounted.write("b", WRITE, 0, b"b").await;
    drop((first, mounted));

    let mounted = mount(&lab, &[]);
    let second = pusher(&lab, &mounted);
    let pending = second.status(Duration::ZERO).await.expect("told").pending;
    assert_eq!(pending.iter().map(|file| &*file.path).collect::<Vec<_>>(), [b"b"]);
    assert_eq!(push(&second).await.files, 1);
    assert_eq!(second.status(Duration::ZERO).await.expect("told").version, Some(2));
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn what_was_sent_to_one_stor_is_sent_again_to_another() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"a").await;
    push(&pusher(&lab, &mounted)).await;
    // Such as the same stor with a secret.
    let other = pusher_to(&lab, &mounted, "other");
    assert_eq!(other.status(Duration::ZERO).await.expect("told").pending.len(), 1);
    let pushed = push(&other).await;
    assert_eq!((pushed.files, pushed.new_objects, pushed.published), (1, 0, true));
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn a_change_that_hides_behind_the_old_times_is_pushed() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"one").await;
    let pusher = pusher(&lab, &mounted);
    push(&pusher).await;
    let attr = mounted.find("a").await.expect("there");
    mounted.write("a", WRITE, 0, b"two").await;
    let old = SetAttr { mtime: Some(SetTime::At(attr.mtime)), ..SetAttr::default() };
    mounted.0.setattr(attr.ino, None, old).await.expect("set");
    assert_eq!(push(&pusher).await.files, 1);

    // Written by one who is not seen: nothing but the time was set through the mount.
    let upper = lab.path("upper/mnt/a");
    std::fs::write(&upper, b"six").expect("written");
    mounted.0.setattr(attr.ino, None, old).await.expect("set");
    assert_eq!(push(&pusher).await.files, 1);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn an_open_file_waits_and_is_listed_as_it_was() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("old", WRITE, 0, b"complete").await;
    let pusher = pusher(&lab, &mounted);
    push(&pusher).await;
    let before = published(&lab).await;

    mounted.write("new", WRITE, 0, b"half").await;
    let (old, new) = (mounted.ino("old").await, mounted.ino("new").await);
    for ino in [old, new] {
        mounted.0.open(ino, WRITE).await.expect("opened");
    }
    let truncated = SetAttr { size: Some(0), ..SetAttr::default() };
    mounted.0.setattr(old, None, truncated).await.expect("truncated");
    mounted.write("other", WRITE, 0, b"other").await;
    let pushed = push(&pusher).await;
    assert_eq!(pushed.files, 1);
    let waiting: BTreeSet<_> = pushed.waiting.iter().map(|file| file.path.clone()).collect();
    assert_eq!(waiting, BTreeSet::from([b"new".to_vec(), b"old".to_vec()]));
    let list = published(&lab).await;
    assert!(entry(&list, "new").is_none(), "there is no version of it yet");
    let listed = |list: &Flist| {
        let entry = entry(list, "old").expect("listed");
        (entry.content, entry.size, entry.mtime)
    };
    assert_eq!(listed(&list), listed(&before));
    let status = pusher.status(Duration::ZERO).await.expect("told");
    assert!(status.pending.iter().all(|file| file.why.as_deref() == Some("it is open for writing")));

    // One that was left alone for long is pushed although it is open.
    let long_ago = SetAttr { mtime: Some(SetTime::At(Time { secs: 1, nanos: 0 })), ..SetAttr::default() };
    mounted.0.setattr(new, None, long_ago).await.expect("set");
    assert_eq!(push(&pusher).await.files, 1);
    for ino in [old, new] {
        mounted.0.release(ino, Fh::NONE).await.expect("released");
    }
    let pushed = push(&pusher).await;
    assert!(pushed.waiting.is_empty());
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn a_file_that_is_written_while_it_is_pushed_ends_with_its_last_content() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"first").await;
    let pusher = Arc::new(pusher(&lab, &mounted));
    let gate = Gate::default();
    lab.stor.set(Trouble::Wait(gate.clone()));
    let pushing = tokio::spawn({
        let pusher = pusher.clone();
        async move { push(&pusher).await }
    });
    gate.reached_by(1).await;
    // Its content is read by now. The time of its last change does not tell.
    let attr = mounted.find("a").await.expect("there");
    mounted.write("a", WRITE, 0, b"other").await;
    let same = SetAttr { mtime: Some(SetTime::At(attr.mtime)), ..SetAttr::default() };
    mounted.0.setattr(attr.ino, None, same).await.expect("set");
    gate.open();
    pushing.await.expect("no panic");
    assert_eq!(push(&pusher).await.files, 1);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
    assert_eq!(mounted.read("a").await.expect("read"), "other");
}

#[tokio::test]
async fn what_is_written_while_others_are_sent_is_not_listed_by_half() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"first").await;
    let pusher = Arc::new(pusher(&lab, &mounted));
    push(&pusher).await;
    mounted.write("a", WRITE, 0, b"again").await;
    let gate = Gate::default();
    lab.stor.set(Trouble::Wait(gate.clone()));
    let pushing = tokio::spawn({
        let pusher = pusher.clone();
        async move { push(&pusher).await }
    });
    gate.reached_by(1).await;
    // Somebody begins to replace it, and is not ready when it has arrived.
    let ino = mounted.ino("a").await;
    mounted.0.open(ino, TRUNCATE).await.expect("opened");
    mounted.0.write(ino, Fh::NONE, 0, Bytes::from_static(b"half")).await.expect("written");
    gate.open();
    let pushed = pushing.await.expect("no panic");
    assert_eq!(pushed.waiting.len(), 1);
    assert_eq!(elsewhere(&lab).await["a"], "first");
    mounted.0.release(ino, Fh::NONE).await.expect("released");
    assert_eq!(push(&pusher).await.files, 1);
    assert_eq!(elsewhere(&lab).await["a"], "half");
}

#[tokio::test]
async fn a_file_that_replaces_another_one_does_not_leave_a_gap() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"whole").await;
    let pusher = pusher(&lab, &mounted);
    push(&pusher).await;
    mounted.write("new", WRITE, 0, b"to come").await;
    let new = mounted.ino("new").await;
    mounted.0.open(new, WRITE).await.expect("opened");
    mounted.rename("new", "a").await;
    assert_eq!(push(&pusher).await.waiting.len(), 1);
    assert_eq!(elsewhere(&lab).await, support::mount::tree(&[("a", "whole")]));
    mounted.0.release(new, Fh::NONE).await.expect("released");
    push(&pusher).await;
    assert_eq!(elsewhere(&lab).await, support::mount::tree(&[("a", "to come")]));
}

#[tokio::test]
async fn who_reads_a_file_does_not_hold_it_up() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[lab.file("base", b"of the base")]);
    mounted.write("a", WRITE, 0, b"a").await;
    let a = mounted.ino("a").await;
    mounted.0.open(a, READ).await.expect("opened");
    let pusher = pusher(&lab, &mounted);
    let pushed = push(&pusher).await;
    assert_eq!((pushed.files, pushed.waiting.len()), (1, 0));
    assert_eq!(push(&pusher).await, Pushed::default(), "it is marked");
    // One of the base stays what it was for others, as long as it is written to.
    let base = mounted.ino("base").await;
    mounted.0.open(base, WRITE).await.expect("opened");
    mounted.0.write(base, Fh::NONE, 0, Bytes::from_static(b"HALF")).await.expect("written");
    assert_eq!(push(&pusher).await.waiting.len(), 1);
    assert_eq!(elsewhere(&lab).await["base"], "of the base");
}

#[tokio::test]
async fn what_the_stor_does_not_take_holds_up_nothing_else() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("b", WRITE, 0, b"taken").await;
    let pusher = pusher(&lab, &mounted);
    push(&pusher).await;
    for path in ["a", "c"] {
        mounted.write(path, WRITE, 0, b"refused").await;
    }
    // A pack of one chunk is what an object of this content would be.
    let refused = key_of(&lab.file("x", b"refused"));
    lab.objects.delete(&refused).await.expect("it was only made to know its key");
    lab.stor.script_for(&refused, [Trouble::Fail(|| Fault::Refused("too large".into()))]);
    mounted.unlink("b").await;
    let pushed = push(&pusher).await;
    assert_eq!((pushed.files, pushed.published), (0, true));
    assert_eq!(pushed.waiting.len(), 2);
    assert!(pushed.waiting.iter().all(|file| file.why.as_ref().is_some_and(|why| why.contains("refused"))));
    assert_eq!(paths(&published(&lab).await), [""]);
    assert_eq!(push(&pusher).await.files, 2);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn a_stor_that_is_down_loses_nothing_and_is_named() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    let pusher = pusher(&lab, &mounted);
    for path in ["a", "b"] {
        mounted.write(path, WRITE, 0, b"content").await;
    }
    lab.stor.set(Trouble::Fail(|| Fault::Unavailable("down".into())));
    pusher.round(&Arc::default()).await.expect_err("down");
    let status = pusher.status(Duration::ZERO).await.expect("told");
    assert_eq!(status.pending.len(), 2);
    assert!(status.last_error.as_ref().is_some_and(|error| error.contains("down")), "{status:?}");
    lab.stor.set(Trouble::None);
    let pushed = push(&pusher).await;
    assert_eq!((pushed.files, pushed.new_objects), (2, 1));
    let status = pusher.status(Duration::ZERO).await.expect("told");
    assert!(status.pending.is_empty() && status.last_error.is_none() && status.last_success.is_some());
}

#[tokio::test]
async fn every_object_is_named_by_the_list_or_by_the_journal() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"one").await;
    let first = pusher(&lab, &mounted);
    // The objects are sent; then the stor is gone before the list is published.
    give_up_at_the_list(&lab, &first).await;
    drop(first);
    lab.stor.set(Trouble::None);
    mounted.write("a", WRITE, 0, b"two").await;
    let second = pusher(&lab, &mounted);
    push(&second).await;
    let list = published(&lab).await;
    let named: BTreeSet<Key> =
        list.header.packs.iter().map(|pack| support::packed::store_key(pack.key)).collect();
    let journal = std::fs::read_to_string(lab.path("push/journal")).expect("there");
    let noted: BTreeSet<Key> =
        journal.lines().map(|line| line.split(' ').next().expect("a key").parse().expect("a key")).collect();
    let all = stored(&lab).await;
    assert_eq!(all.len(), 2);
    assert_eq!(&named | &noted, all);
}

#[tokio::test]
async fn a_list_that_another_machine_published_is_not_replaced() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"one").await;
    let pusher = pusher(&lab, &mounted);
    push(&pusher).await;
    let name = static_name(&"app".parse().expect("a namespace"));
    let other = aysfs_store::Upload::Bytes(Bytes::from_static(b"# aysfs-flist 2\n"));
    lab.objects.write_named(&name, &other, aysfs_store::Precondition::None).await.expect("written");
    mounted.write("a", WRITE, 0, b"two").await;
    let error = pusher.round(&Arc::default()).await.expect_err("stale").to_string();
    assert!(error.contains("another app.flist") && error.contains("namespace of its own"), "{error}");
    assert!(published(&lab).await.entries.is_empty(), "nothing was replaced");
    // Whoever removes it decides for this tree.
    lab.objects.remove_named(&name);
    assert!(push(&pusher).await.published);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

#[tokio::test]
async fn a_list_that_arrived_unnoticed_is_known_as_ours() {
    let lab = Lab::new();
    let mounted = mount(&lab, &[]);
    mounted.write("a", WRITE, 0, b"one").await;
    let first = pusher(&lab, &mounted);
    // The answer to the list is lost; what it was is known only from what is kept for it.
    give_up_at_the_list(&lab, &first).await;
    let name = static_name(&"app".parse().expect("a namespace"));
    let list = std::fs::read(lab.path("push/published.flist")).expect("kept");
    let sent = aysfs_store::Upload::Bytes(list.into());
    lab.objects.write_named(&name, &sent, aysfs_store::Precondition::None).await.expect("written");
    drop(first);
    lab.stor.set(Trouble::None);
    mounted.write("b", WRITE, 0, b"two").await;
    let second = pusher(&lab, &mounted);
    assert!(push(&second).await.published);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
}

/// As a collection of garbage does it that knows no list of this mount.
async fn delete(lab: &Lab, which: impl Fn(&Key) -> bool) {
    for key in stored(lab).await.into_iter().filter(which) {
        lab.objects.delete(&key).await.expect("deleted");
    }
}

/// Bytes that do not repeat, and do not shrink.
fn noise(seed: u64, length: usize) -> &'static [u8] {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect::<Vec<_>>().leak()
}

async fn assert_published(lab: &Lab, expected: &[(&str, &[u8])]) {
    let list = published(lab).await;
    assert_eq!(list.entries.iter().filter(|entry| entry.size > 0).count(), expected.len());
    for (path, content) in expected {
        let entry = entry(&list, path).expect("listed");
        let found = support::packed::content_of(&*lab.objects, &list, entry, None).await;
        assert!(found == *content, "{path}");
    }
}

#[tokio::test]
async fn what_was_deleted_before_a_list_named_it_is_sent_again() {
    let (large, small) = (noise(1, 3 << 20), noise(2, 1000));
    // Nothing is left; or all but the packs that only chunk tables name; or all but what is small.
    for left in [0, 1, 2] {
        let lab = Lab::new();
        let mounted = mount(&lab, &[]);
        mounted.write("small", WRITE, 0, small).await;
        let first = pusher(&lab, &mounted);
        let name = static_name(&"app".parse().expect("a namespace"));
        let other = aysfs_store::Upload::Bytes(Bytes::from_static(b"# aysfs-flist 2\n"));
        lab.objects.write_named(&name, &other, aysfs_store::Precondition::None).await.expect("written");
        first.round(&Arc::default()).await.expect_err("the list is that of another machine");
        let of_small = stored(&lab).await;
        mounted.write("large", WRITE, 0, large).await;
        first.round(&Arc::default()).await.expect_err("the list is that of another machine");
        drop(first);
        let second = pusher(&lab, &mounted);
        assert!(second.status(Duration::ZERO).await.expect("told").pending.is_empty(), "all is marked");
        let length = |key: &Key| lab.objects.bytes(key).expect("there").len();
        match left {
            0 => delete(&lab, |_| true).await,
            1 => delete(&lab, |key| length(key) > 1 << 20).await,
            _ => delete(&lab, |key| of_small.contains(key)).await,
        }
        lab.objects.remove_named(&name);
        let pushed = push(&second).await;
        assert_eq!((pushed.files, pushed.published), ([2, 1, 1][left], true), "{left}");
        assert_published(&lab, &[("small", small), ("large", large)]).await;
        lab.stor.set(Trouble::Fail(|| Fault::Denied));
        assert_eq!(push(&second).await, Pushed::default(), "that is all");
    }
}

#[tokio::test]
async fn packs_of_a_round_that_failed_are_named_by_the_next_list() {
    let (lab, large) = (Lab::new(), noise(1, 3 << 20));
    let mounted = mount(&lab, &[]);
    mounted.write("large", WRITE, 0, large).await;
    let first = pusher(&lab, &mounted);
    // The content is sent, and marked; then the list cannot be kept.
    std::fs::create_dir_all(lab.path("push/published.flist/x")).expect("made");
    first.round(&Arc::default()).await.expect_err("a directory is in the way");
    std::fs::remove_dir_all(lab.path("push/published.flist")).expect("removed");
    let pushed = push(&first).await;
    assert_eq!((pushed.files, pushed.published), (0, true));
    assert_published(&lab, &[("large", large)]).await;
}

#[tokio::test]
async fn what_nobody_has_any_more_is_an_error_that_names_it() {
    let lab = Lab::new();
    let mounted = mount_base(&lab, lab.base(&[]));
    mounted.write("base", WRITE, 0, b"of the base").await;
    mounted.write("same", WRITE, 0, b"the same").await;
    push(&pusher(&lab, &mounted)).await;
    let list = support::list(&published(&lab).await.header, &published(&lab).await.entries);
    drop(mounted);
    let backend = lab.path("other");
    std::fs::create_dir(&backend).expect("made");
    let mounted = mount_in(&lab, &backend, lab.base_of(&list));
    lab.objects.remove_named(&static_name(&"app".parse().expect("a namespace")));
    std::fs::remove_dir_all(lab.path("push")).expect("removed");
    delete(&lab, |_| true).await;
    mounted.write("copy", WRITE, 0, b"the same").await;
    let pusher = pusher(&lab, &mounted);
    let error = pusher.round(&Arc::default()).await.expect_err("gone");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("1 files") && cause.contains("/base: put it back"), "{cause}");
    mounted.unlink("base").await;
    assert!(push(&pusher).await.published);
    assert_published(&lab, &[("copy", b"the same"), ("same", b"the same")]).await;
}

#[tokio::test]
async fn a_mirror_that_missed_a_round_gets_everything_in_the_next() {
    let (lab, second) = (Lab::new(), Lab::new());
    let stors = Arc::new(Mirror::new(lab.stor.clone(), [second.stor.clone() as Arc<dyn Store>]));
    let lower = AysFs::new(lab.base(&[]), lab.cache(), stors);
    let upper = Upper::open(lab.dir.path(), std::path::Path::new("/mnt")).expect("free");
    let mounted = Mount(Arc::new(Overlay::lending_from(1, lower, upper).expect("a root")));
    let pusher = pusher(&lab, &mounted);
    mounted.write("a", WRITE, 0, b"one").await;
    push(&pusher).await;
    second.stor.set(Trouble::Fail(|| Fault::Unavailable("down".into())));
    mounted.write("b", WRITE, 0, b"two").await;
    push(&pusher).await;
    assert_published(&lab, &[("a", b"one"), ("b", b"two")]).await;
    assert_published(&second, &[("a", b"one")]).await;
    second.stor.set(Trouble::None);
    push(&pusher).await;
    assert_published(&second, &[("a", b"one"), ("b", b"two")]).await;
    for stor in [&lab.stor, &second.stor] {
        stor.set(Trouble::Fail(|| Fault::Denied));
    }
    assert_eq!(push(&pusher).await, Pushed::default(), "nothing is left to be done");
}

#[tokio::test]
async fn what_the_base_has_is_listed_and_not_sent() {
    let lab = Lab::new();
    let entries = [lab.file("kept", b"kept"), lab.file("gone", b"gone"), lab.file("changed", b"old")];
    let mounted = mount_base(&lab, lab.base(&entries));
    mounted.unlink("gone").await;
    mounted.write("changed", WRITE, 0, b"new").await;
    let pusher = pusher(&lab, &mounted);
    let pushed = push(&pusher).await;
    assert_eq!(pushed.files, 1);
    assert_eq!(elsewhere(&lab).await, mounted.tree().await);
    // Readers are no writers.
    let ino = mounted.ino("changed").await;
    mounted.0.open(ino, READ).await.expect("opened");
    assert_eq!(push(&pusher).await, Pushed::default());
}
