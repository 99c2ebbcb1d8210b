//! The rules of the contract, on the trait itself.

use std::ops::ControlFlow;

use super::*;
use crate::{DirEntry, Error, Filled, SetTime, Time};

const ALICE: Caller = Caller { uid: 1000, gid: 100, pid: 1, umask: 0o022 };
const READ_WRITE: OpenFlags = OpenFlags::READ_WRITE;

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a valid name")
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("it must fail").kind()
}

async fn mkdir(fs: &MemFs, parent: Ino, path: &str) -> Ino {
    fs.mkdir(ALICE, parent, &name(path), 0o777).await.expect("a new directory").attr.ino
}

/// Makes and opens an empty file.
async fn create(fs: &MemFs, parent: Ino, path: &str) -> (Ino, Fh) {
    let created = fs.create(ALICE, parent, &name(path), 0o666, READ_WRITE).await.expect("a new file");
    (created.entry.attr.ino, created.opened.fh)
}

async fn attr(fs: &MemFs, ino: Ino) -> Attr {
    fs.getattr(ino, None).await.expect("it exists").attr
}

async fn find(fs: &MemFs, parent: Ino, path: &str) -> Option<Ino> {
    match fs.lookup(parent, &name(path)).await.expect("a directory") {
        Lookup::Found(entry) => {
            fs.forget(entry.attr.ino, 1);
            Some(entry.attr.ino)
        }
        Lookup::Absent(_) => None,
    }
}

struct Page {
    room: usize,
    attributes: bool,
    taken: Vec<(String, u64)>,
}

impl Page {
    fn new(room: usize) -> Self {
        Self { room, attributes: false, taken: Vec::new() }
    }
}

impl DirSink for Page {
    fn wants_attributes(&self) -> bool {
        self.attributes
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        if self.taken.len() == self.room {
            return ControlFlow::Break(());
        }
        assert_eq!(attributes.is_some(), self.attributes && !entry.name.starts_with(b"."));
        self.taken.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
        ControlFlow::Continue(())
    }
}

#[tokio::test]
async fn what_is_made_belongs_to_the_caller() {
    let fs = MemFs::default();
    let made = fs.mkdir(ALICE, Ino::ROOT, &name("d"), 0o777).await.expect("made").attr;
    assert_eq!((made.uid, made.gid, made.perm, made.nlink), (1000, 100, 0o755, 2));
    assert_eq!(attr(&fs, Ino::ROOT).await.nlink, 3);
    let fifo = fs.mknod(ALICE, made.ino, &name("p"), FileKind::Fifo, 0o640).await.expect("made").attr;
    assert_eq!((fifo.kind, fifo.perm, fifo.nlink), (FileKind::Fifo, 0o640, 1));
    let link = fs.symlink(ALICE, made.ino, &name("l"), b"to/where").await.expect("made").attr;
    assert_eq!((link.perm, link.size), (0o777, 8));
    assert_eq!(&fs.readlink(link.ino).await.expect("a symlink")[..], b"to/where");
    assert_eq!(kind(fs.readlink(made.ino).await), ErrorKind::Invalid);
    assert_eq!(kind(fs.mkdir(ALICE, Ino::ROOT, &name("d"), 0o777).await), ErrorKind::Exists);
    assert_eq!(kind(fs.symlink(ALICE, made.ino, &name("x"), &[b'x'; 4096]).await), ErrorKind::NameTooLong);
    assert_eq!(kind(fs.mkdir(ALICE, fifo.ino, &name("x"), 0o777).await), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.getattr(Ino(999), None).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_setgid_directory_hands_on_its_group() {
    let fs = MemFs::default();
    let shared = mkdir(&fs, Ino::ROOT, "shared").await;
    let changes = SetAttr { perm: Some(0o2775), gid: Some(7), ..SetAttr::default() };
    fs.setattr(shared, None, changes).await.expect("changed");
    let below = fs.mkdir(ALICE, shared, &name("d"), 0o777).await.expect("made").attr;
    assert_eq!((below.gid, below.perm), (7, 0o2755));
    let (file, _) = create(&fs, shared, "f").await;
    assert_eq!((attr(&fs, file).await.gid, attr(&fs, file).await.perm), (7, 0o644));
}

#[tokio::test]
async fn hard_links_share_an_inode() {
    let fs = MemFs::default();
    let (file, fh) = create(&fs, Ino::ROOT, "a").await;
    let dir = mkdir(&fs, Ino::ROOT, "d").await;
    let before = attr(&fs, file).await;
    assert_eq!(fs.link(file, dir, &name("b")).await.expect("linked").attr.nlink, 2);
    assert!(attr(&fs, file).await.ctime > before.ctime);
    assert_eq!(find(&fs, dir, "b").await, Some(file));
    assert_eq!(kind(fs.link(dir, Ino::ROOT, &name("x")).await), ErrorKind::NotPermitted);
    assert_eq!(kind(fs.link(file, dir, &name("b")).await), ErrorKind::Exists);
    fs.unlink(Ino::ROOT, &name("a")).await.expect("removed");
    fs.unlink(dir, &name("b")).await.expect("removed");
    assert_eq!(attr(&fs, file).await.nlink, 0);
    assert_eq!(kind(fs.link(file, dir, &name("c")).await), ErrorKind::NotFound);
    fs.release(file, fh).await.expect("released");
}

#[tokio::test]
async fn an_inode_lives_until_names_lookups_and_handles_are_gone() {
    let fs = MemFs::default();
    let (file, fh) = create(&fs, Ino::ROOT, "f").await;
    fs.write(file, fh, 0, Bytes::from_static(b"still here")).await.expect("written");
    fs.unlink(Ino::ROOT, &name("f")).await.expect("removed");
    fs.forget(file, 1);
    assert_eq!((fs.live_inodes(), fs.lookups(file), fs.open_handles()), (2, 0, 1));
    assert_eq!(&fs.read(file, fh, 0, 100).await.expect("read")[..], b"still here");
    fs.release(file, fh).await.expect("released");
    assert_eq!((fs.live_inodes(), fs.open_handles()), (1, 0));
    assert_eq!(kind(fs.read(file, fh, 0, 1).await), ErrorKind::BadHandle);
    assert_eq!(fs.statfs(Ino::ROOT).await.expect("space").blocks_free, (1 << 30) / 4096);

    let dir = mkdir(&fs, Ino::ROOT, "d").await;
    fs.rmdir(Ino::ROOT, &name("d")).await.expect("removed");
    assert_eq!(attr(&fs, dir).await.nlink, 0);
    assert_eq!(kind(fs.mkdir(ALICE, dir, &name("x"), 0o777).await), ErrorKind::NotFound);
    fs.forget(dir, 1);
    assert_eq!(fs.live_inodes(), 1);
}

#[tokio::test]
async fn removal_tells_directories_from_files() {
    let fs = MemFs::default();
    let dir = mkdir(&fs, Ino::ROOT, "d").await;
    create(&fs, dir, "f").await;
    assert_eq!(kind(fs.unlink(Ino::ROOT, &name("d")).await), ErrorKind::IsADirectory);
    assert_eq!(kind(fs.rmdir(Ino::ROOT, &name("d")).await), ErrorKind::NotEmpty);
    assert_eq!(kind(fs.rmdir(dir, &name("f")).await), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.unlink(dir, &name("g")).await), ErrorKind::NotFound);
    let before = attr(&fs, dir).await;
    fs.unlink(dir, &name("f")).await.expect("removed");
    let after = attr(&fs, dir).await;
    assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    fs.rmdir(Ino::ROOT, &name("d")).await.expect("removed");
    assert_eq!(attr(&fs, Ino::ROOT).await.nlink, 2);
}

async fn rename(fs: &MemFs, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<()> {
    fs.rename(from.0, &name(from.1), to.0, &name(to.1), mode).await
}

#[tokio::test]
async fn rename_replaces_what_may_be_replaced() {
    use RenameMode::Replace;
    const ROOT: Ino = Ino::ROOT;
    let fs = MemFs::default();
    let (a, _) = create(&fs, ROOT, "a").await;
    let (b, _) = create(&fs, ROOT, "b").await;
    let before = attr(&fs, a).await;
    rename(&fs, (ROOT, "a"), (ROOT, "b"), Replace).await.expect("renamed");
    assert_eq!((find(&fs, ROOT, "a").await, find(&fs, ROOT, "b").await), (None, Some(a)));
    assert_eq!(attr(&fs, b).await.nlink, 0);
    assert!(attr(&fs, a).await.ctime > before.ctime);
    assert_eq!(attr(&fs, a).await.mtime, before.mtime);

    fs.link(a, ROOT, &name("c")).await.expect("linked");
    rename(&fs, (ROOT, "b"), (ROOT, "c"), Replace).await.expect("nothing to do");
    assert_eq!((find(&fs, ROOT, "b").await, find(&fs, ROOT, "c").await), (Some(a), Some(a)));

    let d = mkdir(&fs, ROOT, "d").await;
    let e = mkdir(&fs, d, "e").await;
    assert_eq!(kind(rename(&fs, (ROOT, "d"), (e, "x"), Replace).await), ErrorKind::Invalid);
    assert_eq!(kind(rename(&fs, (ROOT, "d"), (d, "x"), Replace).await), ErrorKind::Invalid);
    assert_eq!(kind(rename(&fs, (d, "e"), (ROOT, "d"), Replace).await), ErrorKind::NotEmpty);
    assert_eq!(kind(rename(&fs, (ROOT, "b"), (ROOT, "d"), Replace).await), ErrorKind::IsADirectory);
    assert_eq!(kind(rename(&fs, (ROOT, "d"), (ROOT, "b"), Replace).await), ErrorKind::NotADirectory);
    assert_eq!(kind(rename(&fs, (ROOT, "none"), (ROOT, "b"), Replace).await), ErrorKind::NotFound);

    mkdir(&fs, ROOT, "empty").await;
    rename(&fs, (d, "e"), (ROOT, "empty"), Replace).await.expect("an empty directory is replaced");
    assert_eq!(find(&fs, ROOT, "empty").await, Some(e));
    assert_eq!((attr(&fs, d).await.nlink, attr(&fs, ROOT).await.nlink), (2, 4));
    rename(&fs, (ROOT, "d"), (e, "below"), Replace).await.expect("it is no parent any more");
    assert_eq!((attr(&fs, e).await.nlink, attr(&fs, ROOT).await.nlink), (3, 3));
}

#[tokio::test]
async fn rename_modes() {
    const ROOT: Ino = Ino::ROOT;
    let fs = MemFs::default();
    let (a, _) = create(&fs, ROOT, "a").await;
    let d = mkdir(&fs, ROOT, "d").await;
    let e = mkdir(&fs, d, "e").await;
    assert_eq!(kind(rename(&fs, (ROOT, "a"), (ROOT, "d"), RenameMode::NoReplace).await), ErrorKind::Exists);
    assert_eq!(kind(rename(&fs, (ROOT, "a"), (ROOT, "x"), RenameMode::Exchange).await), ErrorKind::NotFound);
    assert_eq!(kind(rename(&fs, (ROOT, "d"), (d, "e"), RenameMode::Exchange).await), ErrorKind::Invalid);
    assert_eq!(kind(rename(&fs, (d, "e"), (ROOT, "d"), RenameMode::Exchange).await), ErrorKind::Invalid);
    rename(&fs, (ROOT, "a"), (d, "e"), RenameMode::Exchange).await.expect("swapped");
    assert_eq!((find(&fs, ROOT, "a").await, find(&fs, d, "e").await), (Some(e), Some(a)));
    assert_eq!((attr(&fs, d).await.nlink, attr(&fs, ROOT).await.nlink), (2, 4));
    rename(&fs, (d, "e"), (ROOT, "new"), RenameMode::NoReplace).await.expect("a free name");
    assert_eq!(find(&fs, ROOT, "new").await, Some(a));
}

#[tokio::test]
async fn a_listing_holds_each_lasting_name_once() {
    let fs = MemFs::default();
    for i in 0..10 {
        create(&fs, Ino::ROOT, &format!("f{i}")).await;
    }
    let dir = fs.opendir(Ino::ROOT).await.expect("opened").fh;
    let mut listed = Vec::new();
    let mut cookie = 0;
    for round in 0.. {
        let mut page = Page::new(3);
        fs.readdir(Ino::ROOT, dir, cookie, &mut page).await.expect("listed");
        let Some((_, next)) = page.taken.last() else { break };
        cookie = *next;
        listed.extend(page.taken.into_iter().map(|(name, _)| name));
        if round == 1 {
            fs.unlink(Ino::ROOT, &name("f0")).await.expect("removed behind the cookie");
            fs.unlink(Ino::ROOT, &name("f9")).await.expect("removed before it comes");
            create(&fs, Ino::ROOT, "late").await;
            rename(&fs, (Ino::ROOT, "f8"), (Ino::ROOT, "f1"), RenameMode::Replace).await.expect("renamed");
        }
    }
    assert_eq!(listed, [".", "..", "f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "late"]);
    fs.releasedir(Ino::ROOT, dir).await.expect("released");
    assert_eq!(kind(fs.readdir(Ino::ROOT, dir, 0, &mut Page::new(1)).await), ErrorKind::BadHandle);
}

#[tokio::test]
async fn a_listing_with_attributes_counts_what_was_taken() {
    let fs = MemFs::default();
    let (a, _) = create(&fs, Ino::ROOT, "a").await;
    let (b, _) = create(&fs, Ino::ROOT, "b").await;
    let dir = fs.opendir(Ino::ROOT).await.expect("opened").fh;
    let mut page = Page { attributes: true, ..Page::new(3) };
    fs.readdir(Ino::ROOT, dir, 0, &mut page).await.expect("listed");
    assert_eq!((fs.lookups(a), fs.lookups(b), fs.lookups(Ino::ROOT)), (2, 1, 0));
}

#[tokio::test]
async fn setattr_changes_all_that_is_asked_and_the_ctime() {
    let fs = MemFs::default();
    let (file, fh) = create(&fs, Ino::ROOT, "f").await;
    fs.write(file, fh, 0, Bytes::from_static(b"0123456789")).await.expect("written");
    let before = attr(&fs, file).await;
    let old = Time { secs: -5, nanos: 123_456_789 };
    let changes = SetAttr {
        perm: Some(0o4711),
        uid: Some(1),
        gid: Some(2),
        size: Some(4),
        mtime: Some(SetTime::At(old)),
        atime: Some(SetTime::Now),
        ctime: None,
    };
    let after = fs.setattr(file, Some(fh), changes).await.expect("changed").attr;
    assert_eq!((after.perm, after.uid, after.gid, after.size, after.mtime), (0o4711, 1, 2, 4, old));
    assert!(after.ctime > before.ctime && after.atime > before.atime);
    let resized = SetAttr { size: Some(9000), ..SetAttr::default() };
    let after = fs.setattr(file, None, resized).await.expect("changed").attr;
    assert_eq!((after.size, after.blocks, after.perm), (9000, 8, 0o4711));
    assert!(after.mtime > old);
    assert_eq!(kind(fs.setattr(Ino::ROOT, None, resized).await), ErrorKind::IsADirectory);
}

#[tokio::test]
async fn create_opens_what_exists_unless_exclusive() {
    let fs = MemFs::default();
    let (file, fh) = create(&fs, Ino::ROOT, "f").await;
    fs.write(file, fh, 0, Bytes::from_static(b"content")).await.expect("written");
    let exclusive = OpenFlags { exclusive: true, ..READ_WRITE };
    assert_eq!(kind(fs.create(ALICE, Ino::ROOT, &name("f"), 0o600, exclusive).await), ErrorKind::Exists);
    let (again, _) = create(&fs, Ino::ROOT, "f").await;
    assert_eq!((again, fs.lookups(file)), (file, 2));
    assert_eq!(attr(&fs, file).await.size, 7);
    let read_only = OpenFlags { read: true, ..OpenFlags::default() };
    let opened = fs.open(file, read_only).await.expect("opened").fh;
    assert_eq!(kind(fs.write(file, opened, 0, Bytes::from_static(b"x")).await), ErrorKind::BadHandle);
    let truncating = OpenFlags { truncate: true, ..READ_WRITE };
    fs.open(file, truncating).await.expect("opened");
    assert_eq!(attr(&fs, file).await.size, 0);
    assert_eq!(kind(fs.open(Ino::ROOT, read_only).await), ErrorKind::IsADirectory);
}

#[tokio::test]
async fn space_runs_out_and_comes_back() {
    let fs = MemFs::new(MemFsOptions { capacity: 8192, ..MemFsOptions::default() });
    let (file, fh) = create(&fs, Ino::ROOT, "f").await;
    fs.write(file, fh, 0, vec![1; 8192].into()).await.expect("it fits");
    assert_eq!(kind(fs.write(file, fh, 8192, Bytes::from_static(b"x")).await), ErrorKind::NoSpace);
    assert_eq!(attr(&fs, file).await.size, 8192);
    let punched = fs.fallocate(file, fh, 0, 4096, FallocateMode::PunchHole).await;
    punched.expect("space is given back");
    fs.write(file, fh, 8192, Bytes::from_static(b"x")).await.expect("it fits");
    let space = fs.statfs(Ino::ROOT).await.expect("space");
    assert_eq!((space.blocks, space.blocks_free), (2, 0));
}

#[tokio::test]
async fn ranges_are_copied() {
    let fs = MemFs::default();
    let (from, from_fh) = create(&fs, Ino::ROOT, "from").await;
    let (to, to_fh) = create(&fs, Ino::ROOT, "to").await;
    fs.write(from, from_fh, 0, Bytes::from_static(b"0123456789")).await.expect("written");
    let range = |ino, fh, offset| FileRange { ino, fh, offset };
    let copied = fs.copy_file_range(range(from, from_fh, 5), range(to, to_fh, 2), 100).await;
    assert_eq!(copied.expect("copied"), 5);
    assert_eq!(&fs.read(to, to_fh, 0, 100).await.expect("read")[..], b"\0\x0056789");
    let overlapping = fs.copy_file_range(range(from, from_fh, 0), range(from, from_fh, 2), 5).await;
    assert_eq!(kind(overlapping), ErrorKind::Invalid);
}

#[tokio::test]
async fn extended_attributes() {
    let fs = MemFs::default();
    let (file, _) = create(&fs, Ino::ROOT, "f").await;
    let set = async |name: &str, mode| fs.setxattr(file, name.as_bytes(), b"v\0", mode).await;
    set("user.a", SetXattrMode::Create).await.expect("set");
    set("system.posix_acl_access", SetXattrMode::Set).await.expect("set");
    assert_eq!(kind(set("user.a", SetXattrMode::Create).await), ErrorKind::Exists);
    assert_eq!(kind(set("user.b", SetXattrMode::Replace).await), ErrorKind::NoData);
    assert_eq!(kind(set("system.other", SetXattrMode::Set).await), ErrorKind::NotSupported);
    assert_eq!(&fs.getxattr(file, b"user.a").await.expect("set")[..], b"v\0");
    assert_eq!(&fs.listxattr(file).await.expect("listed")[..], b"system.posix_acl_access\0user.a\0");
    fs.removexattr(file, b"user.a").await.expect("removed");
    assert_eq!(kind(fs.removexattr(file, b"user.a").await), ErrorKind::NoData);
    assert_eq!(kind(fs.getxattr(file, b"user.a").await), ErrorKind::NoData);
}

#[tokio::test]
async fn a_gate_holds_up_reads_of_its_file_only() {
    let fs = Arc::new(MemFs::default());
    let (slow, slow_fh) = create(&fs, Ino::ROOT, "slow").await;
    let (fast, fast_fh) = create(&fs, Ino::ROOT, "fast").await;
    let gate = fs.gate(slow);
    let reader = tokio::spawn({
        let fs = Arc::clone(&fs);
        async move { fs.read(slow, slow_fh, 0, 1).await }
    });
    gate.waiting(1).await;
    assert!(!reader.is_finished());
    fs.read(fast, fast_fh, 0, 1).await.expect("nothing holds it up");
    drop(gate);
    reader.await.expect("no panic").expect("read");
    fs.read(slow, slow_fh, 0, 1).await.expect("the gate is open");
}

#[tokio::test]
async fn a_stateless_one_needs_no_open_and_never_changes() {
    let caps = Caps { stateless: true, ..Caps::default() };
    let fs = MemFs::new(MemFsOptions { caps, ..MemFsOptions::default() });
    let file = fs.add_file("a/b/c", b"content");
    assert_eq!(&fs.read(file, Fh::NONE, 3, 100).await.expect("read")[..], b"tent");
    let mut page = Page::new(10);
    fs.readdir(Ino::ROOT, Fh::NONE, 0, &mut page).await.expect("listed");
    assert_eq!(page.taken.len(), 3);
    assert_eq!(kind(fs.unlink(Ino::ROOT, &name("a")).await), ErrorKind::ReadOnly);
    assert_eq!((fs.calls("read"), fs.calls("unlink"), fs.calls("open")), (1, 1, 0));
    assert_eq!((fs.live_inodes(), fs.lookups(file)), (4, 0));
}
