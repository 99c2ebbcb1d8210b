//! Another base for a filesystem that is mounted.

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use aysfs_engine::{AysFs, Changes, CommitOptions, RebaseError, SendProgress};
use aysfs_flist::{Entry, Kind, Timestamp};
use aysfs_vfs::{DirEntry, DirSink, Entry as Found, ErrorKind, Fh, FileKind, Filled, Ino, Lookup, Vfs};
use bytes::Bytes;
use support::Lab;
use support::mount::{Mount, READ, ROOT, WRITE, directory, has_metacopy, mount, mount_base, name, tree};

fn shown(lab: &Lab, entries: &[Entry]) -> AysFs {
    AysFs::new(lab.base(entries), lab.cache(), lab.stors())
}

async fn look_up(fs: &AysFs, path: &str) -> Option<Found> {
    let mut at = fs.getattr(Ino::ROOT, None).await.expect("a root");
    for component in path.split('/') {
        match fs.lookup(at.attr.ino, &name(component)).await.expect("a directory") {
            Lookup::Found(found) => at = found,
            Lookup::Absent(_) => return None,
        }
    }
    Some(at)
}

async fn ino(fs: &AysFs, path: &str) -> Ino {
    look_up(fs, path).await.unwrap_or_else(|| panic!("{path} is not there")).attr.ino
}

async fn read(fs: &AysFs, ino: Ino) -> Bytes {
    fs.read(ino, Fh::NONE, 0, 1 << 20).await.expect("read")
}

fn told(changes: &Changes) -> Vec<String> {
    changes.names().iter().map(|(_, name)| name.to_string()).collect()
}

fn counts(changes: &Changes) -> (u64, u64, u64) {
    (changes.added, changes.removed, changes.changed)
}

fn link(path: &str, target: &str) -> Entry {
    Entry { target: target.into(), ..Entry::new(path, Kind::Symlink) }
}

#[tokio::test]
async fn what_is_the_same_keeps_its_number_and_what_changed_gets_another() {
    let lab = Lab::new();
    let fs = shown(
        &lab,
        &[
            directory("d"),
            lab.file("d/changed", b"old"),
            lab.file("d/same", b"same"),
            lab.file("gone", b"gone"),
            link("link", "here"),
            lab.file("mode", b"mode"),
            lab.file("z", b"last"),
        ],
    );
    let mut before = BTreeMap::new();
    for path in ["d", "d/changed", "d/same", "gone", "link", "mode", "z"] {
        before.insert(path, ino(&fs, path).await);
    }
    let changes = fs
        .rebase(lab.base(&[
            lab.file("a", b"first"),
            directory("d"),
            lab.file("d/changed", b"new and longer"),
            lab.file("d/same", b"same"),
            link("link", "there"),
            Entry { perm: 0o600, ..lab.file("mode", b"mode") },
            lab.file("z", b"last"),
        ]))
        .expect("another base");
    assert_eq!(counts(&changes), (1, 1, 3));
    assert_eq!(told(&changes), ["a", "gone", "link", "changed"]);
    assert_eq!(changes.inodes(), [before["mode"], Ino::ROOT, before["d"]]);
    for path in ["d", "d/same", "mode", "z"] {
        assert_eq!(ino(&fs, path).await, before[path], "{path}");
    }
    for path in ["d/changed", "link", "a"] {
        let new = ino(&fs, path).await;
        assert!(before.values().all(|old| *old != new), "{path}");
    }
    assert!(look_up(&fs, "gone").await.is_none());
    assert_eq!(look_up(&fs, "mode").await.expect("there").attr.perm, 0o600);

    // Whoever holds what is gone goes on with what it was.
    let (old, new) = (before["d/changed"], ino(&fs, "d/changed").await);
    assert_eq!((read(&fs, old).await, read(&fs, new).await), ("old".into(), "new and longer".into()));
    assert_eq!(read(&fs, before["gone"]).await, "gone");
    let gone = fs.getattr(old, None).await.expect("it is held").attr;
    assert_eq!((gone.ino, gone.size, gone.nlink), (old, 3, 0));
    assert_eq!(fs.readlink(before["link"]).await.expect("read"), "here");
}

#[tokio::test]
async fn the_same_list_changes_nothing() {
    let lab = Lab::new();
    let entries = [directory("d"), lab.file("d/f", b"f")];
    let fs = shown(&lab, &entries);
    let changes = fs.rebase(lab.base(&entries)).expect("the same");
    assert_eq!(changes, Changes::default());
    assert_eq!(fs.bases(), 1);
    // The same tree in another list.
    let header = aysfs_flist::Header { name: Some("other".into()), ..Default::default() };
    let changes = fs.rebase(lab.base_of(&support::list(&header, &entries))).expect("the same tree");
    assert!(changes.is_empty() && changes.names().is_empty() && changes.inodes().is_empty());
}

#[tokio::test]
async fn a_file_becomes_a_directory_and_back() {
    let lab = Lab::new();
    let file = [lab.file("x", b"file")];
    let fs = shown(&lab, &file);
    let old = ino(&fs, "x").await;
    let changes =
        fs.rebase(lab.base(&[directory("x"), lab.file("x/below", b"below")])).expect("another base");
    assert_eq!(counts(&changes), (1, 0, 2), "the root has a subdirectory more");
    let (directory, below) = (ino(&fs, "x").await, ino(&fs, "x/below").await);
    assert_eq!(read(&fs, old).await, "file");
    assert_eq!(counts(&fs.rebase(lab.base(&file)).expect("the first again")), (0, 1, 2));
    let again = ino(&fs, "x").await;
    assert!(again != old && again != directory, "a number is never used again");
    assert_eq!((read(&fs, old).await, read(&fs, below).await), ("file".into(), "below".into()));
    assert_eq!(fs.getattr(directory, None).await.expect("held").attr.kind, FileKind::Directory);
}

#[tokio::test]
async fn hard_links_are_one_inode_before_and_after() {
    let lab = Lab::new();
    let first = lab.file("a", b"linked");
    let linked = |path: &str| Entry { path: path.into(), link: Some(b"a".to_vec()), ..first.clone() };
    let fs = shown(&lab, &[first.clone(), linked("b"), lab.file("c", b"linked")]);
    let (a, c) = (ino(&fs, "a").await, ino(&fs, "c").await);
    let changes =
        fs.rebase(lab.base(&[first.clone(), lab.file("b", b"linked"), linked("c")])).expect("based");
    assert_eq!((ino(&fs, "a").await, ino(&fs, "c").await), (a, a));
    assert_ne!(ino(&fs, "b").await, a);
    assert_eq!(told(&changes), ["b", "c"]);
    assert_eq!(read(&fs, c).await, "linked");
}

#[tokio::test]
async fn a_base_is_kept_as_long_as_the_kernel_holds_what_only_it_has() {
    let lab = Lab::new();
    let version = |number: u32| {
        let content = format!("version {number}");
        [directory("d"), lab.file("d/changes", content.as_bytes()), lab.file("stays", b"stays")]
    };
    let fs = shown(&lab, &version(0));
    let open = ino(&fs, "d/changes").await;
    for number in 1..=100 {
        fs.rebase(lab.base(&version(number))).expect("another base");
        let (directory, file) = (ino(&fs, "d").await, ino(&fs, "d/changes").await);
        assert_eq!(read(&fs, file).await, format!("version {number}"));
        assert_eq!(read(&fs, open).await, "version 0");
        assert!(fs.bases() <= 3, "{}", fs.bases());
        fs.forget(file, 1);
        fs.forget(directory, 1);
    }
    fs.forget(open, 1);
    fs.rebase(lab.base(&version(0))).expect("another base");
    assert_eq!(fs.bases(), 2);
    assert_eq!(fs.read(open, Fh::NONE, 0, 1).await.expect_err("nobody held it").kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn acls_that_nobody_would_check_are_refused() {
    let lab = Lab::new();
    let fs = shown(&lab, &[lab.file("f", b"f")]);
    let acl = vec![(b"system.posix_acl_access".to_vec(), vec![2, 0, 0, 0])];
    let refused = fs.rebase(lab.base(&[Entry { xattrs: acl, ..lab.file("f", b"f") }]));
    assert!(matches!(refused, Err(RebaseError::Acls)));
    assert_eq!(
        fs.getxattr(ino(&fs, "f").await, b"system.posix_acl_access").await.expect_err("none").kind(),
        ErrorKind::NoData
    );
}

/// A page of a listing.
struct Page {
    room: usize,
    names: Vec<String>,
    next: u64,
}

impl DirSink for Page {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, entry: &DirEntry<'_>, _: Option<&Found>) -> Filled {
        if self.room == 0 {
            return ControlFlow::Break(());
        }
        self.room -= 1;
        self.names.push(String::from_utf8_lossy(entry.name).into_owned());
        self.next = entry.next;
        ControlFlow::Continue(())
    }
}

#[tokio::test]
async fn a_listing_that_began_before_goes_on_where_it_was() {
    let lab = Lab::new();
    let fs = shown(&lab, &["b", "d", "f", "h"].map(|path| lab.file(path, b"")));
    let mut page = Page { room: 4, names: Vec::new(), next: 0 };
    fs.readdir(Ino::ROOT, Fh::NONE, 0, &mut page).await.expect("listed");
    fs.rebase(lab.base(&["a", "b", "c", "f", "g", "h"].map(|path| lab.file(path, b"")))).expect("based");
    for room in [1, 100] {
        let next = page.next;
        page.room = room;
        fs.readdir(Ino::ROOT, Fh::NONE, next, &mut page).await.expect("listed");
    }
    assert_eq!(page.names, [".", "..", "b", "d", "f", "g", "h"]);
}

// ---- With local changes ----

async fn inos(mounted: &Mount) -> BTreeMap<String, Ino> {
    let mut all = BTreeMap::new();
    for path in mounted.tree().await.into_keys() {
        all.insert(path.clone(), mounted.ino(&path).await);
    }
    all
}

#[tokio::test]
async fn local_changes_stay_on_top() {
    let lab = Lab::new();
    let mounted = mount(
        &lab,
        &[
            directory("d"),
            lab.file("d/kept", b"kept"),
            lab.file("d/removed", b"removed"),
            lab.file("d/theirs", b"theirs"),
            lab.file("gone", b"gone"),
            lab.file("open", b"open"),
            directory("emptied"),
        ],
    );
    mounted.write("d/ours", WRITE, 0, b"ours").await;
    mounted.write("d/kept", WRITE, 0, b"KEPT").await;
    mounted.unlink("d/removed").await;
    mounted.rmdir("emptied").await;
    let before = inos(&mounted).await;
    let (open, gone) = (mounted.ino("open").await, mounted.ino("gone").await);
    mounted.0.open(open, READ).await.expect("opened");
    let changes = mounted
        .0
        .rebase(lab.base(&[
            directory("d"),
            lab.file("d/kept", b"of the new base"),
            lab.file("d/more", b"more"),
            lab.file("d/ours", b"of the new base"),
            lab.file("d/removed", b"again"),
            lab.file("d/theirs", b"changed"),
            lab.file("open", b"changed"),
            directory("emptied"),
            lab.file("emptied/full", b"again"),
        ]))
        .expect("another base");
    assert_eq!(told(&changes), ["gone", "open", "more", "theirs"]);
    let expected = tree(&[
        ("d", "/"),
        ("d/kept", "KEPT"),
        ("d/more", "more"),
        ("d/ours", "ours"),
        ("d/theirs", "changed"),
        ("open", "changed"),
    ]);
    assert_eq!(mounted.tree().await, expected);
    let after = inos(&mounted).await;
    for path in ["d", "d/kept", "d/ours"] {
        assert_eq!(after[path], before[path], "{path}");
    }
    for path in ["d/theirs", "open"] {
        assert_ne!(after[path], before[path], "{path}");
    }
    assert_eq!(mounted.0.read(open, Fh::NONE, 0, 100).await.expect("read"), "open");
    assert_eq!(mounted.0.getattr(open, None).await.expect("held").attr.nlink, 0);
    // What is written to what is gone is seen by those who have it open, and nowhere else.
    mounted.0.open(open, WRITE).await.expect("opened");
    mounted.0.write(open, Fh::NONE, 0, Bytes::from_static(b"OP")).await.expect("written");
    assert_eq!(mounted.0.read(open, Fh::NONE, 0, 100).await.expect("read"), "OPen");
    for _ in 0..2 {
        mounted.0.release(open, Fh::NONE).await.expect("released");
    }
    assert_eq!(mounted.tree().await, expected);
    assert_eq!(mounted.0.getattr(gone, None).await.expect("held").attr.nlink, 0);

    drop(mounted);
    let again = lab.base(&[
        directory("d"),
        lab.file("d/kept", b"of the new base"),
        lab.file("d/more", b"more"),
        lab.file("d/ours", b"of the new base"),
        lab.file("d/removed", b"again"),
        lab.file("d/theirs", b"changed"),
        lab.file("open", b"changed"),
        directory("emptied"),
        lab.file("emptied/full", b"again"),
    ]);
    assert_eq!(mount_base(&lab, again).tree().await, expected, "a new mount shows the same");
}

/// What is shown, as a list.
async fn committed(mounted: &Mount) -> Vec<u8> {
    let options = CommitOptions { header: Default::default() };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let progress = Arc::<SendProgress>::default();
    mounted.0.commit(&options, file.reopen().expect("there"), &progress).await.expect("committed");
    std::fs::read(file).expect("read")
}

#[tokio::test]
async fn a_base_that_is_what_is_shown_changes_nothing() {
    if !has_metacopy() {
        return;
    }
    let lab = Lab::new();
    let mounted = mount(
        &lab,
        &[
            directory("d"),
            directory("d/sub"),
            lab.file("d/sub/deep", b"deep"),
            lab.file("f", b"f"),
            lab.file("moves", b"moves"),
            lab.file("removed", b"removed"),
            lab.file("stays", b"stays"),
        ],
    );
    let mut directory = "d".to_owned();
    for round in ["first", "second", "third"] {
        let moved = format!("{round}-d");
        mounted.rename(&directory, &moved).await;
        directory.clone_from(&moved);
        mounted.mkdir(&format!("{round}-made")).await;
        mounted.mkdir(&format!("{moved}/sub/{round}-made")).await;
        mounted.write(&format!("{round}-made/file"), WRITE, 0, b"new").await;
        mounted.write("f", WRITE, 0, b"F").await;
        mounted.chmod("stays", 0o640).await;
        if round == "first" {
            mounted.rename("moves", "first-made/moved").await;
            mounted.unlink("removed").await;
        }
        let (tree, before) = (mounted.tree().await, inos(&mounted).await);
        let deep = mounted.ino(&format!("{moved}/sub/deep")).await;
        mounted.0.open(deep, READ).await.expect("opened");
        let changes = mounted.0.rebase(lab.base_of(&committed(&mounted).await)).expect("another base");
        assert_eq!((changes.names(), changes.inodes()), (&[][..], &[][..]), "{round}");
        assert_eq!(mounted.tree().await, tree, "{round}");
        assert_eq!(inos(&mounted).await, before, "{round}");
        assert_eq!(mounted.0.read(deep, Fh::NONE, 0, 100).await.expect("read"), "deep");
        mounted.0.release(deep, Fh::NONE).await.expect("released");
        assert_eq!(mounted.0.diff().await.expect("compared"), [], "{round}");
    }
}

#[tokio::test]
async fn bases_below_local_changes_are_dropped_as_well() {
    let lab = Lab::new();
    let version = |number: u32| {
        let content = format!("version {number}");
        [directory("d"), lab.file("d/changes", content.as_bytes()), lab.file("ours", b"ours")]
    };
    let mounted = mount(&lab, &version(0));
    mounted.write("ours", WRITE, 0, b"OURS").await;
    mounted.write("d/ours", WRITE, 0, b"OURS").await;
    for number in 1..=100 {
        mounted.0.rebase(lab.base(&version(number))).expect("another base");
        let (directory, file) = (mounted.ino("d").await, mounted.ino("d/changes").await);
        assert_eq!(mounted.0.read(file, Fh::NONE, 0, 100).await.expect("read"), format!("version {number}"));
        mounted.0.forget(file, 1);
        mounted.0.forget(directory, 2);
        assert!(mounted.0.bases() <= 2, "{}", mounted.0.bases());
    }
}

/// Numbers in no order.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let position = self.below(from.len().max(1) as u64);
        from.get(usize::try_from(position).expect("less than there are"))
    }
}

/// A tree of few names, so that much meets.
fn random_list(lab: &Lab, random: &mut Random) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(above) = directories.pop() {
        for one in ["a", "b", "c", "d"] {
            let path = if above.is_empty() { one.to_owned() } else { format!("{above}/{one}") };
            let time = Timestamp { secs: 1_000_000_000 + random.below(2) as i64, nanos: 0 };
            let entry = match random.below(7) {
                0 | 1 if path.len() < 6 => {
                    directories.push(path.clone());
                    directory(&path)
                }
                2 => lab.file(&path, b"one"),
                3 => lab.file(&path, b"other"),
                4 => lab.file(&path, b"third"),
                5 => link(&path, "x"),
                _ => continue,
            };
            entries.push(Entry { mtime: time, ..entry });
        }
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

async fn random_step(mounted: &Mount, random: &mut Random) {
    let tree = mounted.tree().await;
    let paths: Vec<_> = tree.keys().cloned().collect();
    let Some(one) = random.pick(&paths).cloned() else { return };
    let is_directory = |path: &str| tree.get(path).is_some_and(|content| content == "/");
    let (parent, last) = mounted.parent(&one).await;
    match random.below(6) {
        0 if is_directory(&one) => drop(mounted.0.rmdir(parent, &last).await),
        0 => drop(mounted.0.unlink(parent, &last).await),
        1 if !is_directory(&one) => {
            if mounted.find(&one).await.is_ok_and(|attr| attr.kind == FileKind::Regular) {
                mounted.write(&one, WRITE, 0, b"ours").await;
            }
        }
        2 => {
            let ino = mounted.ino(&one).await;
            let changes = aysfs_vfs::SetAttr { uid: Some(7), ..Default::default() };
            mounted.0.setattr(ino, None, changes).await.expect("changed");
        }
        3 | 4 => {
            let Some(other) = random.pick(&paths).cloned() else { return };
            let to = format!("{other}{}", if random.below(2) == 0 { "" } else { "x" });
            let (to, new_name) = mounted.parent(&to).await;
            let mode = aysfs_vfs::RenameMode::Replace;
            drop(mounted.0.rename(parent, &last, to, &new_name, mode).await);
        }
        _ => {
            let new = random.pick(&["a", "b", "c"]).expect("one of them");
            let at = if is_directory(&one) { mounted.ino(&one).await } else { Ino::ROOT };
            drop(mounted.0.mkdir(ROOT, at, &name(new), 0o755).await);
        }
    }
}

/// Everything that a program sees, but for numbers and for when it was read.
async fn view(mounted: &Mount) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for (path, content) in mounted.tree().await {
        let attr = mounted.find(&path).await.expect("listed");
        let attr = aysfs_vfs::Attr { ino: Ino::ROOT, atime: attr.mtime, ..attr };
        all.insert(path, (content, format!("{attr:?}")));
    }
    all
}

/// Whether the kernel drops what it knows of a path: its last name, or one above.
fn is_told(changes: &Changes, before: &BTreeMap<String, Ino>, path: &str) -> bool {
    let (parent, last) = match path.rsplit_once('/') {
        Some((above, last)) => (before[above], last),
        None => (Ino::ROOT, path),
    };
    changes.names().contains(&(parent, name(last)))
        || path.rsplit_once('/').is_some_and(|(above, _)| is_told(changes, before, above))
}

#[tokio::test]
async fn the_view_is_that_of_a_new_mount_whatever_was_changed() {
    for seed in 0..25 {
        let lab = Lab::new();
        let mut random = Random(seed);
        let mut mounted = mount(&lab, &random_list(&lab, &mut random));
        for round in 0..4 {
            for _ in 0..random.below(12) {
                random_step(&mounted, &mut random).await;
            }
            let (before, old) = (inos(&mounted).await, mounted.tree().await);
            let list = match random.below(3) {
                0 => committed(&mounted).await,
                _ => support::list(&Default::default(), &random_list(&lab, &mut random)),
            };
            let changes = mounted.0.rebase(lab.base_of(&list)).expect("another base");
            let (mut live, after) = (view(&mounted).await, inos(&mounted).await);
            for (path, was) in &before {
                let Some(is) = after.get(path) else { continue };
                if is == was {
                    assert_eq!(live[path].0, old[path], "seed {seed} round {round}: {path}");
                } else {
                    assert!(is_told(&changes, &before, path), "seed {seed} round {round}: {path}");
                }
            }
            for path in before.keys().filter(|path| !after.contains_key(*path)) {
                assert!(is_told(&changes, &before, path), "seed {seed} round {round}: {path}");
            }
            drop(mounted);
            mounted = mount_base(&lab, lab.base_of(&list));
            for (path, seen) in view(&mounted).await {
                assert_eq!(live.get(&path), Some(&seen), "seed {seed} round {round}: {path}");
                live.remove(&path);
            }
            assert!(live.is_empty(), "seed {seed} round {round}: {live:?}");
        }
    }
}
