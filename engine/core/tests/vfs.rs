//! A mount without a kernel: what each call of the contract answers.

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aysfs_engine::AysFs;
use aysfs_flist::{Entry as ListEntry, Kind, Owner, Timestamp};
use aysfs_store::Fault;
use aysfs_store::fault::Trouble;
use aysfs_vfs::{
    Attr, Caller, Device, DirEntry, DirSink, Entry, ErrorKind, FallocateMode, Fh, FileKind, FileRange,
    Filled, Ino, KernelCache, Lookup, Name, OpenFlags, RenameMode, SeekWhence, SetAttr, SetXattrMode, Time,
    Vfs,
};
use support::{Lab, key_of};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const READ: OpenFlags = OpenFlags::READ;

fn mount(lab: &Lab, entries: &[ListEntry]) -> Arc<dyn Vfs> {
    Arc::new(AysFs::new(lab.base(entries), lab.cache(), lab.stors()))
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn directory(path: &str) -> ListEntry {
    ListEntry::new(path, Kind::Directory)
}

/// What is at a path.
async fn find(fs: &dyn Vfs, path: &str) -> Attr {
    let mut at = fs.getattr(Ino::ROOT, None).await.expect("the root").attr;
    for component in path.split('/').filter(|component| !component.is_empty()) {
        match fs.lookup(at.ino, &name(component)).await.expect("a directory") {
            Lookup::Found(entry) => at = entry.attr,
            Lookup::Absent(_) => panic!("{path} is not there"),
        }
    }
    at
}

fn kind<T: std::fmt::Debug>(result: aysfs_vfs::Result<T>) -> ErrorKind {
    result.expect_err("refused").kind()
}

#[tokio::test]
async fn a_lookup_is_believed_for_a_day_whether_it_hits_or_misses() {
    let lab = Lab::new();
    let fs = mount(&lab, &[lab.file("dir/file", b"x")]);
    let Lookup::Found(dir) = fs.lookup(Ino::ROOT, &name("dir")).await.expect("answered") else {
        panic!("dir is there")
    };
    assert_eq!((dir.ttl.entry, dir.ttl.attr), (DAY, DAY));
    assert_eq!(dir.attr.kind, FileKind::Directory);
    assert_eq!(fs.getattr(dir.attr.ino, None).await.expect("answered"), dir);
    for (parent, missing) in [(Ino::ROOT, "file"), (dir.attr.ino, "fil"), (dir.attr.ino, "filee")] {
        assert_eq!(fs.lookup(parent, &name(missing)).await.expect("answered"), Lookup::Absent(DAY));
    }
    let file = find(&*fs, "dir/file").await;
    assert_eq!(kind(fs.lookup(file.ino, &name("x")).await), ErrorKind::NotADirectory);
    fs.forget(file.ino, u64::MAX);
    assert_eq!(find(&*fs, "dir/file").await, file, "nothing was kept that could be forgotten");
}

#[tokio::test]
async fn attributes_are_those_of_the_list() {
    let lab = Lab::new();
    let device = |minor| ListEntry::new(format!("device{minor}"), Kind::CharDevice { major: 259, minor });
    let fs = mount(
        &lab,
        &[
            ListEntry {
                perm: 0o6711,
                mtime: Timestamp { secs: -5, nanos: 999_999_999 },
                ctime: Timestamp { secs: 7, nanos: 1 },
                user: Owner { name: Some(b"no such user".to_vec()), id: Some(12_345) },
                group: Owner { name: Some(b"no such group".to_vec()), id: None },
                ..lab.file("file", &[7; 5000])
            },
            ListEntry { perm: 0o1777, ..directory("dir") },
            directory("dir/sub"),
            ListEntry {
                target: b"some/where".to_vec(),
                perm: 0o777,
                ..ListEntry::new("link", Kind::Symlink)
            },
            ListEntry::new("fifo", Kind::Fifo),
            ListEntry::new("socket", Kind::Socket),
            device(1),
            ListEntry::new("block", Kind::BlockDevice { major: 8, minor: 1 << 19 }),
            ListEntry {
                user: Owner::default(),
                group: Owner::default(),
                ..ListEntry::new("empty", Kind::Regular)
            },
        ],
    );
    let file = find(&*fs, "file").await;
    assert_eq!((file.kind, file.perm, file.nlink), (FileKind::Regular, 0o6711, 1));
    assert_eq!((file.size, file.blocks), (5000, 16));
    assert_eq!(file.mtime, Time { secs: -5, nanos: 999_999_999 });
    assert_eq!((file.atime, file.ctime), (file.mtime, Time { secs: 7, nanos: 1 }));
    assert_eq!(file.uid, 12_345, "a name that nobody has here falls back to the number");
    let nogroup = uzers::get_group_by_name("nogroup").map_or(65534, |group| group.gid());
    assert_eq!(file.gid, nogroup, "without a number to the group of nobody, never to root");

    let dir = find(&*fs, "dir").await;
    assert_eq!((dir.kind, dir.perm, dir.nlink), (FileKind::Directory, 0o1777, 3));
    assert_eq!((dir.size, dir.blocks, dir.uid, dir.gid), (4096, 8, 0, 0));
    assert_eq!(find(&*fs, "").await.nlink, 3);

    let link = find(&*fs, "link").await;
    assert_eq!((link.kind, link.size, link.blocks), (FileKind::Symlink, 10, 0));
    assert_eq!(fs.readlink(link.ino).await.expect("a symlink"), "some/where");
    assert_eq!(kind(fs.readlink(file.ino).await), ErrorKind::Invalid);

    assert_eq!(find(&*fs, "fifo").await.kind, FileKind::Fifo);
    assert_eq!(find(&*fs, "socket").await.kind, FileKind::Socket);
    assert_eq!(find(&*fs, "device1").await.kind, FileKind::CharDevice(Device { major: 259, minor: 1 }));
    assert_eq!(find(&*fs, "block").await.kind, FileKind::BlockDevice(Device { major: 8, minor: 1 << 19 }));
    let empty = find(&*fs, "empty").await;
    let nobody = uzers::get_user_by_name("nobody").map_or(65534, |user| user.uid());
    assert_eq!((empty.size, empty.blocks, empty.uid), (0, 0, nobody));
}

#[tokio::test]
async fn old_lists_have_names_or_numbers_as_owners() {
    let lab = Lab::new();
    let list = b"a|900150983cd24fb0d6963f7d28e17f72|3|1234|4321|644|2|5|5|\n\
                 b|900150983cd24fb0d6963f7d28e17f72|3|root|nobody knows|644|2|5|5|\n\
                 c|900150983cd24fb0d6963f7d28e17f72|3|4294967295|0|644|2|5|5|\n";
    let fs = AysFs::new(lab.base_of(list), lab.cache(), lab.stors());
    let owners = async |path| {
        let attr = find(&fs, path).await;
        (attr.uid, attr.gid)
    };
    let nobody = uzers::get_user_by_name("nobody").map_or(65534, |user| user.uid());
    let nogroup = uzers::get_group_by_name("nogroup").map_or(65534, |group| group.gid());
    assert_eq!(owners("a").await, (1234, 4321));
    assert_eq!(owners("b").await, (0, nogroup));
    assert_eq!(owners("c").await, (nobody, 0));
}

#[tokio::test]
async fn hard_links_are_one_inode() {
    let lab = Lab::new();
    let link = |path: &str, to: &str, kind| ListEntry { link: Some(to.into()), ..ListEntry::new(path, kind) };
    let file = lab.file("a/first", b"shared");
    let second = ListEntry { path: b"b/second".to_vec(), link: Some(b"a/first".to_vec()), ..file.clone() };
    let fs = mount(
        &lab,
        &[file, second, ListEntry::new("fifo", Kind::Fifo), link("other fifo", "fifo", Kind::Fifo)],
    );
    let (first, second) = (find(&*fs, "a/first").await, find(&*fs, "b/second").await);
    assert_eq!(first, second);
    assert_eq!(first.nlink, 2);
    assert_eq!(fs.read(second.ino, Fh::NONE, 0, 100).await.expect("fetched"), "shared");
    assert_eq!(find(&*fs, "fifo").await, find(&*fs, "other fifo").await);
    assert_eq!(fs.statfs(Ino::ROOT).await.expect("answered").files, 5, "inodes, not names");
}

/// Takes as many entries as it has room for.
struct Sink {
    room: usize,
    wants_attributes: bool,
    taken: Vec<(Ino, FileKind, String, u64, Option<Entry>)>,
}

impl DirSink for Sink {
    fn wants_attributes(&self) -> bool {
        self.wants_attributes
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        if self.taken.len() == self.room {
            return ControlFlow::Break(());
        }
        let name = String::from_utf8(entry.name.to_vec()).expect("ASCII");
        self.taken.push((entry.ino, entry.kind, name, entry.next, attributes.copied()));
        ControlFlow::Continue(())
    }
}

/// Lists a directory in as many calls as it takes.
async fn list_dir(fs: &dyn Vfs, dir: Ino, room: usize, wants_attributes: bool) -> Sink {
    let mut all = Sink { room, wants_attributes, taken: Vec::new() };
    let mut cookie = 0;
    loop {
        let mut sink = Sink { room, wants_attributes, taken: Vec::new() };
        fs.readdir(dir, Fh::NONE, cookie, &mut sink).await.expect("listed");
        let Some((.., next, _)) = sink.taken.last() else { return all };
        cookie = *next;
        all.taken.append(&mut sink.taken);
    }
}

fn names(sink: &Sink) -> Vec<&str> {
    sink.taken.iter().map(|(_, _, name, ..)| name.as_str()).collect()
}

#[tokio::test]
async fn a_listing_continues_exactly_where_the_sink_was_full() {
    let lab = Lab::new();
    let mut entries: Vec<_> = (0..20).map(|n| lab.file(&format!("dir/{n:02}"), b"x")).collect();
    entries.push(directory("dir/sub/deeper"));
    let fs = mount(&lab, &entries);
    let dir = find(&*fs, "dir").await.ino;
    let whole = list_dir(&*fs, dir, 100, false).await;
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    expected.extend((0..20).map(|n| format!("{n:02}")));
    expected.push("sub".into());
    assert_eq!(names(&whole), expected);
    let mut cookies: Vec<_> = whole.taken.iter().map(|(.., next, _)| *next).collect();
    assert!(cookies.iter().all(|cookie| *cookie != 0));
    cookies.dedup();
    assert_eq!(cookies.len(), expected.len());
    for room in 1..=expected.len() {
        let pieces = list_dir(&*fs, dir, room, false).await;
        assert_eq!(pieces.taken, whole.taken, "{room} at a time");
    }
    for beyond in [cookies[cookies.len() - 1], 1000, u64::MAX] {
        let mut sink = Sink { room: 100, wants_attributes: false, taken: Vec::new() };
        fs.readdir(dir, Fh::NONE, beyond, &mut sink).await.expect("at its end");
        assert!(sink.taken.is_empty());
    }
}

#[tokio::test]
async fn dot_and_dotdot_are_the_directory_and_its_parent() {
    let lab = Lab::new();
    let fs = mount(&lab, &[directory("dir/sub"), lab.file("dir/file", b"x")]);
    let (dir, sub) = (find(&*fs, "dir").await.ino, find(&*fs, "dir/sub").await.ino);
    for (of, parent) in [(Ino::ROOT, Ino::ROOT), (dir, Ino::ROOT), (sub, dir)] {
        let listed = list_dir(&*fs, of, 100, true).await;
        assert_eq!(names(&listed)[..2], [".", ".."]);
        let dots: Vec<_> =
            listed.taken[..2].iter().map(|(ino, kind, .., entry)| (*ino, *kind, *entry)).collect();
        assert_eq!(dots, [(of, FileKind::Directory, None), (parent, FileKind::Directory, None)]);
    }
    let file = find(&*fs, "dir/file").await.ino;
    let mut sink = Sink { room: 1, wants_attributes: false, taken: Vec::new() };
    assert_eq!(kind(fs.readdir(file, Fh::NONE, 0, &mut sink).await), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.opendir(file).await), ErrorKind::NotADirectory);
    let opened = fs.opendir(dir).await.expect("a directory");
    assert_eq!(opened.cache, KernelCache::Keep);
    fs.fsyncdir(dir, opened.fh, false).await.expect("nothing to do");
    fs.releasedir(dir, opened.fh).await.expect("nothing to do");
}

#[tokio::test]
async fn a_listing_with_attributes_says_what_lookups_say() {
    let lab = Lab::new();
    let symlink = ListEntry { target: b"file".to_vec(), ..ListEntry::new("link", Kind::Symlink) };
    let fs = mount(&lab, &[lab.file("file", b"x"), symlink, directory("dir")]);
    for wants in [false, true] {
        let listed = list_dir(&*fs, Ino::ROOT, 2, wants).await;
        assert_eq!(listed.taken.len(), 5);
        for (ino, kind, entry_name, _, attributes) in &listed.taken[2..] {
            let Lookup::Found(found) = fs.lookup(Ino::ROOT, &name(entry_name)).await.expect("answered")
            else {
                panic!("{entry_name} is listed")
            };
            assert_eq!((*ino, *kind), (found.attr.ino, found.attr.kind));
            assert_eq!(*attributes, wants.then_some(found));
        }
    }
}

#[tokio::test]
async fn holes_are_found_without_fetching() {
    let lab = Lab::new();
    let mut content = vec![0; 100_000];
    content[8192..12_288].fill(1);
    let sparse = ListEntry { data: Some(vec![8192..12_288, 65_536..70_000]), ..lab.file("sparse", &content) };
    let all_hole = ListEntry { data: Some(Vec::new()), ..lab.file("hole", &[0; 5000]) };
    let whole = lab.file("whole", &[1; 5000]);
    let key = key_of(&sparse);
    let fs = mount(&lab, &[sparse, all_hole, whole, ListEntry::new("empty", Kind::Regular)]);
    let seek = async |path, offset, whence| {
        let ino = find(&*fs, path).await.ino;
        fs.lseek(ino, Fh::NONE, offset, whence).await.map_err(|error| error.kind())
    };
    use SeekWhence::{Data, Hole};
    for (path, offset, whence, expected) in [
        ("sparse", 0, Data, Ok(8192)),
        ("sparse", 0, Hole, Ok(0)),
        ("sparse", 9000, Data, Ok(9000)),
        ("sparse", 9000, Hole, Ok(12_288)),
        ("sparse", 69_999, Hole, Ok(70_000)),
        ("sparse", 70_000, Data, Err(ErrorKind::NothingThere)),
        ("sparse", 99_999, Hole, Ok(99_999)),
        ("sparse", 100_000, Hole, Err(ErrorKind::NothingThere)),
        ("sparse", u64::MAX, Data, Err(ErrorKind::NothingThere)),
        ("hole", 0, Data, Err(ErrorKind::NothingThere)),
        ("hole", 0, Hole, Ok(0)),
        ("whole", 17, Data, Ok(17)),
        ("whole", 0, Hole, Ok(5000)),
        ("empty", 0, Data, Err(ErrorKind::NothingThere)),
        ("empty", 0, Hole, Err(ErrorKind::NothingThere)),
        ("", 0, Data, Err(ErrorKind::IsADirectory)),
    ] {
        assert_eq!(seek(path, offset, whence).await, expected, "{path} {offset} {whence:?}");
    }
    assert_eq!(find(&*fs, "sparse").await.blocks, (4096 + 8192) / 512);
    assert_eq!(find(&*fs, "hole").await.blocks, 0);
    assert_eq!(lab.stor.calls(&key).get, 0);
}

#[tokio::test]
async fn extended_attributes() {
    let lab = Lab::new();
    let attribute = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let xattrs =
        vec![attribute("user.a", b"one"), attribute("user.b", b"\0\xff"), attribute("user.empty", b"")];
    let fs = mount(&lab, &[ListEntry { xattrs, ..lab.file("file", b"x") }, directory("none")]);
    assert!(!fs.caps().posix_acl);
    let (file, none) = (find(&*fs, "file").await.ino, find(&*fs, "none").await.ino);
    assert_eq!(fs.listxattr(file).await.expect("listed"), &b"user.a\0user.b\0user.empty\0"[..]);
    assert_eq!(fs.getxattr(file, b"user.b").await.expect("there"), &b"\0\xff"[..]);
    assert_eq!(fs.getxattr(file, b"user.empty").await.expect("there"), "");
    assert_eq!(kind(fs.getxattr(file, b"user").await), ErrorKind::NoData);
    assert_eq!(fs.listxattr(none).await.expect("listed"), "");
    assert_eq!(kind(fs.getxattr(none, b"user.a").await), ErrorKind::NoData);

    let acl = vec![attribute("system.posix_acl_default", b"\x02\0\0\0")];
    let with_acl = mount(&lab, &[ListEntry { xattrs: acl, ..directory("dir") }]);
    assert!(with_acl.caps().posix_acl);
}

#[tokio::test]
async fn every_call_that_changes_something_is_refused_as_read_only() {
    let lab = Lab::new();
    let fs = mount(&lab, &[lab.file("file", b"x"), directory("dir")]);
    let (file, root, fh) = (find(&*fs, "file").await.ino, Ino::ROOT, Fh::NONE);
    let caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
    let (old, new) = (name("file"), name("new"));
    let range = FileRange { ino: file, fh, offset: 0 };
    let write = OpenFlags { write: true, ..READ };
    let truncate = OpenFlags { truncate: true, ..READ };
    assert_eq!(kind(fs.setattr(file, None, SetAttr::default()).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.mknod(caller, root, &new, FileKind::Fifo, 0o600).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.mkdir(caller, root, &new, 0o700).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.symlink(caller, root, &new, b"file").await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.link(file, root, &new).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.unlink(root, &old).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.rmdir(root, &name("dir")).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.rename(root, &old, root, &new, RenameMode::Replace).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.open(file, write).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.open(file, truncate).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.create(caller, root, &new, 0o600, write).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.write(file, fh, 0, "y".into()).await), ErrorKind::ReadOnly);
    let allocate = FallocateMode::Allocate { keep_size: false };
    assert_eq!(kind(fs.fallocate(file, fh, 0, 1, allocate).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.copy_file_range(range, range, 1).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.setxattr(file, b"user.x", b"", SetXattrMode::Set).await), ErrorKind::ReadOnly);
    assert_eq!(kind(fs.removexattr(file, b"user.x").await), ErrorKind::ReadOnly);
    assert_eq!(ErrorKind::ReadOnly.errno(), rustix::io::Errno::ROFS);
    fs.fsync(file, fh, true).await.expect("nothing was written");
}

#[tokio::test]
async fn an_inode_that_is_not_there_is_stale() {
    let lab = Lab::new();
    let fs = mount(&lab, &[lab.file("file", b"x")]);
    let beyond = fs.statfs(Ino::ROOT).await.expect("answered").files + 1;
    for ino in [0, beyond, u64::from(u32::MAX), 1 << 32, (1 << 32) + 1, u64::MAX].map(Ino) {
        let mut sink = Sink { room: 1, wants_attributes: false, taken: Vec::new() };
        assert_eq!(kind(fs.lookup(ino, &name("file")).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.getattr(ino, None).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.readlink(ino).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.open(ino, READ).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.read(ino, Fh::NONE, 0, 1).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.opendir(ino).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.readdir(ino, Fh::NONE, 0, &mut sink).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.lseek(ino, Fh::NONE, 0, SeekWhence::Data).await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.getxattr(ino, b"user.x").await), ErrorKind::Stale, "{ino}");
        assert_eq!(kind(fs.listxattr(ino).await), ErrorKind::Stale, "{ino}");
        fs.forget(ino, 1);
        fs.release(ino, Fh::NONE).await.expect("nothing was open");
    }
}

#[tokio::test]
async fn reads_end_where_the_file_ends() {
    let lab = Lab::new();
    let symlink = ListEntry { target: b"file".to_vec(), ..ListEntry::new("link", Kind::Symlink) };
    let fs = mount(
        &lab,
        &[
            lab.file("file", b"hello"),
            symlink,
            ListEntry::new("fifo", Kind::Fifo),
            ListEntry::new("empty", Kind::Regular),
        ],
    );
    let file = find(&*fs, "file").await.ino;
    for (offset, size, expected) in [
        (0, 5, "hello"),
        (0, u32::MAX, "hello"),
        (4, 9, "o"),
        (5, 1, ""),
        (u64::MAX, u32::MAX, ""),
        (2, 0, ""),
    ] {
        assert_eq!(fs.read(file, Fh::NONE, offset, size).await.expect("fetched"), expected);
    }
    for (path, refused) in
        [("", ErrorKind::IsADirectory), ("link", ErrorKind::Invalid), ("fifo", ErrorKind::Invalid)]
    {
        let ino = find(&*fs, path).await.ino;
        assert_eq!(kind(fs.read(ino, Fh::NONE, 0, 1).await), refused, "{path}");
        assert_eq!(kind(fs.open(ino, READ).await), refused, "{path}");
    }
    let empty = find(&*fs, "empty").await.ino;
    assert_eq!(fs.read(empty, Fh::NONE, 0, 100).await.expect("nothing to fetch"), "");
    assert!(fs.caps().stateless && !fs.caps().backing_files);
}

#[tokio::test]
async fn content_that_cannot_be_had_is_an_io_error_with_path_and_cause() {
    let lab = Lab::new();
    let entry = lab.file("some/where/file", b"hello");
    let key = key_of(&entry);
    lab.stor.set_for(&key, Trouble::Fail(|| Fault::NotFound));
    let fs = mount(&lab, &[entry]);
    let ino = find(&*fs, "some/where/file").await.ino;
    let error = fs.read(ino, Fh::NONE, 0, 2).await.expect_err("missing everywhere");
    assert_eq!(error.errno(), rustix::io::Errno::IO, "never ENOENT: the file exists");
    let message = error.to_string();
    assert!(message.starts_with("input/output error: cannot read /some/where/file: content "), "{message}");
    assert!(message.ends_with(&format!("memory: {key}: not found")), "{message}");

    assert_eq!(find(&*fs, "some/where/file").await.size, 5, "what is not content is not affected");
    lab.stor.set_for(&key, Trouble::None);
    assert_eq!(fs.read(ino, Fh::NONE, 2, 5).await.expect("the next read tries again"), "llo");
}

#[tokio::test]
async fn statfs_counts_what_the_list_has() {
    let lab = Lab::new();
    let fs = mount(&lab, &[lab.file("dir/file", &[1; 10_000]), lab.file("other", b"x")]);
    let stat = fs.statfs(Ino::ROOT).await.expect("answered");
    assert_eq!((stat.block_size, stat.blocks, stat.files, stat.name_max), (4096, 3, 4, 255));
    assert_eq!((stat.blocks_free, stat.blocks_available, stat.files_free), (0, 0, 0));
}
