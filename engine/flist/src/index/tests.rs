//! Tests of the index that need its insides, or another time than now.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::stamp::{FileState, Stamp, boot_id};
use super::*;
use crate::Entry;

const LIST: &str = "\
# aysfs-flist 2
# name: test
# version: 3
# pack 2 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 100
|||root|0|1777|4|1.5|2|
usr|||root|root|755|4|0|0||x.security.selinux=YWJj
usr/bin/ls|e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|7|root|root|755|2|0|9.000000001||\
obj=d41d8cd98f00b204e9800998ecf8427e|data=0+2,5+1|x.user.a=YQ==|x.user.b=
usr/bin/dir||0|||755|2|0|0||link=usr/bin/ls
usr/bin/vdir||0|||755|2|0|0||link=usr/bin/dir
usr/share/doc/a|e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|100|alice|7|600|2|0|0||at=2:0:100
usr/share/doc/b|e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|100|||600|2|0|0||chunks=2:0:9|table=7:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855|x.security.selinux=YWJj
usr/share/empty||0|||600|2|0|0|
sh|||||777|1|0|0|usr/bin/ls
null|||||666|5|0|0|1,3
";

/// A list in a file, and a directory for its index.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("list"), LIST).expect("writable");
        Self { dir }
    }

    fn list(&self) -> PathBuf {
        self.dir.path().join("list")
    }

    fn shelf_dir(&self) -> PathBuf {
        self.dir.path().join("indexes")
    }

    /// Mounts now.
    fn open(&self) -> (Index, Provenance) {
        Index::open_or_compile(&self.list(), &ParseOptions::default(), &self.shelf_dir())
            .expect("a valid list")
    }

    /// Mounts when nothing has changed for a while.
    fn open_later(&self) -> (Index, Provenance) {
        let shelf = Shelf { dir: &self.shelf_dir(), now: SystemTime::now() + Duration::from_secs(60) };
        let list = self.list();
        shelf.open_or_compile(&Source::File(&list), &ParseOptions::default()).expect("a valid list")
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.shelf_dir()).expect("the directory of indexes");
        let paths = entries.map(|entry| entry.expect("readable").path());
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
    }

    fn index_file(&self) -> PathBuf {
        let [index] = &self.files("index")[..] else { panic!("one index") };
        index.clone()
    }
}

fn entries(index: &Index) -> Vec<Entry> {
    index.entries().collect::<Result<_, _>>().expect("a sound index")
}

fn resolve(index: &Index, path: &str) -> Option<Node> {
    path.split('/')
        .try_fold(Node::ROOT, |dir, name| index.lookup(dir, name.as_bytes()).expect("a sound index"))
}

fn node<'a>(index: &'a Index, path: &str) -> NodeRef<'a> {
    index.node(resolve(index, path).expect(path)).expect("a sound index")
}

#[test]
fn an_index_answers_for_every_entry() {
    let fixture = Fixture::new();
    let (index, provenance) = fixture.open();
    assert_eq!(provenance, Provenance::Compiled);
    assert_eq!(index.dialect(), Dialect::V2);
    assert_eq!(index.times(), TimeOrder::Spec);
    assert_eq!((index.header().name.as_deref(), index.header().version), (Some("test"), Some(3)));
    assert_eq!(index.header().packs[0].bytes, 100);
    assert_eq!(index.len(), 11);
    assert_eq!(index.total_size(), 207);

    let root = index.node(index.root()).expect("the root");
    assert_eq!((root.kind(), root.perm(), root.nlink()), (Kind::Directory, 0o1777, 3));
    assert_eq!(root.parent(), Node::ROOT);
    assert_eq!(root.ctime(), Timestamp { secs: 1, nanos: 500_000_000 });
    assert_eq!(index.users()[root.user()], Owner { name: Some(b"root".to_vec()), id: None });
    assert_eq!(index.groups()[root.group()], Owner { name: None, id: Some(0) });

    let share = node(&index, "usr/share");
    assert_eq!((share.perm(), share.nlink()), (0o755, 3), "made, since no line names it");
    assert_eq!(index.users()[share.user()], Owner::root());
    assert_eq!(Some(share.parent()), resolve(&index, "usr"));

    let ls = node(&index, "usr/bin/ls");
    assert_eq!((ls.kind(), ls.size(), ls.nlink()), (Kind::Regular, 7, 3));
    assert_eq!(ls.number(), node(&index, "usr/bin/vdir").number());
    assert_eq!(ls.mtime().nanos, 1);
    assert_eq!(ls.data().expect("sound").expect("sparse").collect::<Vec<_>>(), [0..2, 5..6]);
    assert!(ls.has_xattrs());
    let xattrs: BTreeMap<_, _> = ls.xattrs().expect("sound").map(|xattr| xattr.expect("sound")).collect();
    assert_eq!(xattrs, BTreeMap::from([(&b"user.a"[..], &b"a"[..]), (b"user.b", b"")]));
    let Some(Content::Object { key, .. }) = ls.content().expect("sound") else { panic!("an object") };
    assert_eq!(key.to_string(), "d41d8cd98f00b204e9800998ecf8427e");

    let a = node(&index, "usr/share/doc/a");
    let pack = index.header().packs[0].key;
    let at = Place { pack, offset: 0, stored: 100 };
    assert!(matches!(a.content().expect("sound"), Some(Content::Pack { at: found, .. }) if found == at));
    assert!(!a.has_xattrs());
    assert!(a.data().expect("sound").is_none());
    assert!(matches!(
        node(&index, "usr/share/doc/b").content().expect("sound"),
        Some(Content::Chunks { .. })
    ));
    assert_eq!(node(&index, "usr/share/empty").content().expect("sound"), None);

    let sh = node(&index, "sh");
    assert_eq!((sh.kind(), sh.size(), sh.target().expect("sound")), (Kind::Symlink, 10, &b"usr/bin/ls"[..]));
    assert_eq!(node(&index, "null").kind(), Kind::CharDevice { major: 1, minor: 3 });

    let children = index.children(Node::ROOT).expect("sound");
    assert_eq!(children.len(), 3);
    let names: Vec<_> = children.map(|child| child.expect("sound").0).collect();
    assert_eq!(names, [&b"null"[..], b"sh", b"usr"]);
    assert_eq!(index.child_at(Node::ROOT, 1).expect("sound").expect("there").0, b"sh");
    assert_eq!(index.child_at(Node::ROOT, 3), Ok(None));
    assert_eq!(index.child_at(Node::ROOT, usize::MAX - 1), Ok(None));
    for absent in ["a", "sha", "sh ", "zz", "usr/bin", ""] {
        assert_eq!(index.lookup(Node::ROOT, absent.as_bytes()), Ok(None));
    }
    assert_eq!(index.lookup(sh.number(), b"x"), Ok(None), "nothing is in a symlink");
    assert!(index.node(Node(11)).is_err());
}

#[test]
fn v1_times_are_swapped_in_the_index_too() {
    let list = b"a|d41d8cd98f00b204e9800998ecf8427e|1|r|r|755|2|5|9|\n";
    let dir = tempfile::tempdir().expect("a directory");
    let source = Source::Bytes { name: "v1", bytes: list };
    let index = Index::compile(source, &ParseOptions::default(), dir.path()).expect("a valid list");
    assert_eq!((index.dialect(), index.times()), (Dialect::V1Long, TimeOrder::Swapped));
    assert_eq!((node(&index, "a").mtime().secs, node(&index, "a").ctime().secs), (5, 9));
    assert_eq!(
        node(&index, "a").content(),
        Ok(Some(Content::V1([
            0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e
        ])))
    );
}

#[test]
fn the_same_list_gives_the_same_bytes() {
    let (one, two) = (Fixture::new(), Fixture::new());
    one.open();
    two.open();
    assert_eq!(one.index_file().file_name(), two.index_file().file_name());
    assert_eq!(fs::read(one.index_file()).expect("one"), fs::read(two.index_file()).expect("two"));
}

#[test]
fn a_second_mount_reuses_the_index() {
    let fixture = Fixture::new();
    let (first, _) = fixture.open();
    let (second, provenance) = fixture.open();
    assert_eq!(provenance, Provenance::Reused);
    assert_eq!(entries(&first), entries(&second));
    let options = ParseOptions { trim: Some("/usr".into()), ..ParseOptions::default() };
    let trimmed =
        Index::open_or_compile(&fixture.list(), &options, &fixture.shelf_dir()).expect("a valid list");
    assert_eq!(trimmed.1, Provenance::Compiled, "other options, other tree");
    assert!(resolve(&trimmed.0, "bin/ls").is_some());
    assert_eq!(fixture.open().1, Provenance::Reused);
}

#[test]
fn lists_in_memory_have_indexes_too() {
    let fixture = Fixture::new();
    let open = |name, bytes| {
        let source = Source::Bytes { name, bytes };
        Index::open_or_compile(source, &ParseOptions::default(), &fixture.shelf_dir())
            .expect("a valid list")
            .1
    };
    assert_eq!(open("http://stor/a.flist", LIST.as_bytes()), Provenance::Compiled);
    assert_eq!(open("http://stor/a.flist", LIST.as_bytes()), Provenance::Reused);
    assert_eq!(open("http://stor/b.flist", LIST.as_bytes()), Provenance::Reused, "the same bytes elsewhere");
    assert_eq!(open("http://stor/a.flist", b"# aysfs-flist 2\n"), Provenance::Compiled);
    assert_eq!(fixture.files("index").len(), 1, "the outgrown index is gone");
}

#[test]
fn a_bad_list_leaves_no_index_and_keeps_the_old_one() {
    let fixture = Fixture::new();
    fixture.open();
    let before = fs::read_dir(fixture.shelf_dir()).expect("the directory").count();
    fs::write(fixture.list(), format!("{LIST}sh|||||755|4|0|0|\n")).expect("writable");
    let error = Index::open_or_compile(&fixture.list(), &ParseOptions::default(), &fixture.shelf_dir());
    let message = error.expect_err("a duplicate").to_string();
    assert_eq!(
        message,
        format!("{}: line 15, column 1: \"sh\" is in line 13 already", fixture.list().display())
    );
    assert_eq!(fs::read_dir(fixture.shelf_dir()).expect("the directory").count(), before);
    fs::write(fixture.list(), LIST).expect("writable");
    assert_eq!(fixture.open().1, Provenance::Reused);
}

#[test]
fn what_a_crash_left_is_swept_away() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.shelf_dir()).expect("the directory of indexes");
    let [old, recent] = ["new-old", "new-recent"].map(|name| fixture.shelf_dir().join(name));
    File::create(&recent).expect("writable");
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
    File::create(&old).and_then(|file| file.set_modified(long_ago)).expect("writable");
    fixture.open();
    assert!(!old.exists());
    assert!(recent.exists(), "someone may be writing it");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let fixture = Fixture::new();
    let dir = fixture.list().join("below-a-file");
    let error =
        Index::open_or_compile(&fixture.list(), &ParseOptions::default(), &dir).expect_err("no directory");
    assert!(error.to_string().starts_with(&format!("cannot keep the index of a flist in {}", dir.display())));
}

#[test]
fn an_unchanged_list_is_not_read_again() {
    let fixture = Fixture::new();
    fixture.open_later();
    let [memory] = &fixture.files("list")[..] else { panic!("one list is known") };
    let stamp = Stamp::read(memory).expect("a stamp");
    let state = FileState::of(&File::open(fixture.list()).expect("the list")).expect("stat");
    assert_eq!(stamp.state, state);

    // A stamp that says otherwise is believed, which shows that the list is not read.
    let other = b"# aysfs-flist 2\nother|||||755|4|0|0|\n";
    let source = Source::Bytes { name: "other", bytes: other };
    Index::compile(source, &ParseOptions::default(), &fixture.shelf_dir()).expect("a valid list");
    let digest = Source::Bytes { name: "other", bytes: other }.open().and_then(|mut raw| raw.sha256());
    Stamp::new(state, digest.expect("memory can be read"), [0; 16]).write(memory);
    assert!(resolve(&fixture.open_later().0, "other").is_some());

    // Until it changes in any way.
    let list = File::options().write(true).open(fixture.list()).expect("the list");
    list.set_modified(SystemTime::UNIX_EPOCH).expect("writable");
    let (index, provenance) = fixture.open_later();
    assert_eq!(provenance, Provenance::Reused);
    assert!(resolve(&index, "sh").is_some());
}

#[test]
fn a_list_that_has_just_changed_is_read_again() {
    let fixture = Fixture::new();
    fixture.open();
    let [memory] = &fixture.files("list")[..] else { panic!("one list is known") };
    assert_eq!(Stamp::read(memory).expect("a stamp").state, FileState::UNKNOWN);
    let (_, provenance) = fixture.open_later();
    assert_eq!(provenance, Provenance::Reused);
    assert_ne!(Stamp::read(memory).expect("a stamp").state, FileState::UNKNOWN);
}

#[test]
fn an_index_is_sealed_when_it_was_verified() {
    let fixture = Fixture::new();
    fixture.open();
    fixture.open();
    assert!(fixture.files("seal").is_empty(), "it has just changed");
    fixture.open_later();
    let [seal] = &fixture.files("seal")[..] else { panic!("one seal") };
    let stamp = Stamp::read(seal).expect("a stamp");
    assert_eq!(Some(stamp.boot), boot_id());

    // The seal is believed, so that what is damaged afterwards is found by looking at it ...
    let index = File::options().read(true).write(true).open(fixture.index_file()).expect("the index");
    damage_root(&index);
    Stamp::new(FileState::of(&index).expect("stat"), stamp.digest, stamp.boot).write(seal);
    let (damaged, provenance) = fixture.open_later();
    assert_eq!(provenance, Provenance::Reused);
    let message = damaged.node(Node::ROOT).expect_err("damaged").to_string();
    assert!(message.ends_with("is damaged (an unknown type): mount again to rebuild it"), "{message}");
    // ... and then no longer.
    assert!(fixture.files("seal").is_empty());
    let (index, provenance) = fixture.open_later();
    assert_eq!(provenance, Provenance::Compiled);
    index.node(Node::ROOT).expect("rebuilt");
}

#[test]
fn a_seal_of_an_earlier_boot_is_not_believed() {
    let fixture = Fixture::new();
    fixture.open_later();
    fixture.open_later();
    let [seal] = &fixture.files("seal")[..] else { panic!("one seal") };
    let stamp = Stamp::read(seal).expect("a stamp");
    let index = File::options().read(true).write(true).open(fixture.index_file()).expect("the index");
    damage_root(&index);
    Stamp::new(FileState::of(&index).expect("stat"), stamp.digest, [1; 16]).write(seal);
    assert_eq!(fixture.open_later().1, Provenance::Compiled);
}

/// Gives the root an unknown type, in place.
fn damage_root(index: &File) {
    let mut start = [0; format::FileHeader::LENGTH];
    index.read_exact_at(&mut start, 0).expect("the header");
    let header = <format::FileHeader as zerocopy::FromBytes>::read_from_bytes(&start).expect("the header");
    let nodes = header.sections[Section::Nodes as usize].offset.get();
    let kind = std::mem::offset_of!(Record, kind) as u64;
    index.write_all_at(&[0xEE], nodes + kind).expect("writable");
}

#[test]
fn a_foreign_or_older_index_is_made_again() {
    let fixture = Fixture::new();
    let expected = entries(&fixture.open().0);
    let other = b"# aysfs-flist 2\nother|||||755|4|0|0|\n";
    let other_dir = fixture.dir.path().join("other");
    let source = Source::Bytes { name: "other", bytes: other };
    let foreign = Index::compile(source, &ParseOptions::default(), &other_dir).expect("a valid list");
    let foreign = fs::read(&foreign.path).expect("the index");
    let mut older = fs::read(fixture.index_file()).expect("the index");
    older[8] = 0;
    for bytes in [foreign, older, Vec::new(), b"not an index".repeat(1000)] {
        fs::write(fixture.index_file(), bytes).expect("writable");
        let (index, provenance) = fixture.open();
        assert_eq!(provenance, Provenance::Compiled);
        assert_eq!(entries(&index), expected);
    }
}

/// Looks at everything there is; whatever is wrong must end in an error.
fn look_at_everything(index: &Index) -> Result<(), Corrupt> {
    for number in 0..u32::try_from(index.len()).expect("a small index") {
        let node = index.node(Node(number))?;
        node.content()?;
        node.target()?;
        node.data()?.map(Iterator::count);
        for xattr in node.xattrs()? {
            xattr?;
        }
        for child in index.children(Node(number))? {
            let (name, _) = child?;
            index.lookup(Node(number), name)?;
        }
    }
    index.entries().try_for_each(|entry| entry.map(drop))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_found_and_repaired(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let fixture = Fixture::new();
        let expected = entries(&fixture.open().0);
        let sound = fs::read(fixture.index_file()).expect("the index");
        let mut damaged = sound.clone();
        for (at, mask) in flips {
            damaged[at.index(sound.len())] ^= mask;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(sound.len()));
        }
        prop_assume!(damaged != sound);
        fs::write(fixture.index_file(), &damaged).expect("writable");
        let (index, provenance) = fixture.open();
        prop_assert_eq!(provenance, Provenance::Compiled);
        prop_assert_eq!(entries(&index), expected);
        prop_assert_eq!(fs::read(fixture.index_file()).expect("the index"), sound);
    }

    /// As if the checksum had not been looked at.
    #[test]
    fn no_accessor_believes_an_offset(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..40),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let source = Source::Bytes { name: "list", bytes: LIST.as_bytes() };
        let index = Index::compile(source, &ParseOptions::default(), dir.path()).expect("a valid list");
        let mut damaged = fs::read(&index.path).expect("the index");
        let header = format::FileHeader::LENGTH;
        let body = damaged.len() - header;
        for (at, mask) in flips {
            damaged[header + at.index(body)] ^= mask;
        }
        let path = dir.path().join("damaged");
        fs::write(&path, &damaged).expect("writable");
        let key = Key::new(&Source::Bytes { name: "list", bytes: LIST.as_bytes() }
            .open().and_then(|mut raw| raw.sha256()).expect("memory can be read"), &ParseOptions::default());
        let file = File::open(&path).expect("the damaged index");
        if let Ok(index) = Index::map(&file, path, &key) {
            let _ = look_at_everything(&index);
        }
    }
}
