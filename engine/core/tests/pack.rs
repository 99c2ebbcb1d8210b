//! A directory, as a flist with its objects, and as a directory again.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aysfs_engine::Base;
use aysfs_engine::pack::{self, Options, PackError};
use aysfs_engine::unpack::{self, UnpackError, unpack};
use aysfs_flist::{Content, Dialect, Entry, Flist, Header, Index, Kind, Owner, ParseOptions, Source};
use aysfs_store::contract::{md5, noise};
use aysfs_store::fault::{ServerTrouble, Trouble};
use aysfs_store::{Fault, Mirror, Store};
use futures::TryStreamExt;
use rustix::fs::{AtFlags, CWD, Mode};
use support::{Lab, PATIENT, Running, USER, USERS_DIR, cache, key_of, list};

struct Packed {
    summary: pack::Summary,
    list: Vec<u8>,
    progress: Arc<pack::Progress>,
}

impl Packed {
    fn flist(&self) -> Flist {
        let source = Source::Bytes { name: "packed", bytes: &self.list };
        Flist::parse(source, &ParseOptions::default()).expect("a good list")
    }

    fn entry(&self, path: &str) -> Entry {
        let found = self.flist().entries.into_iter().find(|entry| entry.path == path.as_bytes());
        found.unwrap_or_else(|| panic!("{path} is not listed"))
    }

    fn paths(&self) -> Vec<String> {
        self.flist().entries.into_iter().map(|entry| String::from_utf8(entry.path).expect("ASCII")).collect()
    }
}

async fn pack_with(
    root: &Path,
    stor: &dyn Store,
    dialect: Dialect,
    exclude: &[&str],
) -> Result<Packed, (PackError, Vec<u8>)> {
    let spool = tempfile::tempdir().expect("a directory");
    let options = Options {
        dialect,
        header: Header::default(),
        exclude: exclude.iter().map(|&pattern| pattern.into()).collect(),
        sealing: None,
        base: None,
        profile: None,
        spool: spool.path().into(),
    };
    let progress = Arc::new(pack::Progress::default());
    let file = tempfile::NamedTempFile::new().expect("a file");
    let done = pack::pack(root, stor, &options, file.reopen().expect("there"), &progress).await;
    let list = std::fs::read(file).expect("read");
    match done {
        Ok(summary) => Ok(Packed { summary, list, progress }),
        Err(error) => Err((error, list)),
    }
}

async fn packed(root: &Path, stor: &dyn Store, dialect: Dialect) -> Packed {
    pack_with(root, stor, dialect, &[]).await.map_err(|(error, _)| error).expect("packed")
}

fn base_of(list: &[u8], dir: &Path) -> Arc<Base> {
    let source = Source::Bytes { name: "packed", bytes: list };
    let index = Index::compile(source, &ParseOptions::default(), dir).expect("a good list");
    Arc::new(Base::new(index).expect("a tree"))
}

/// Unpacks a list from one stor, with a cache of its own.
async fn unpacked(list: &[u8], stor: Arc<dyn Store>, target: &Path) -> Result<unpack::Summary, UnpackError> {
    let backend = tempfile::tempdir().expect("a directory");
    let base = base_of(list, &backend.path().join("index"));
    let progress = unpack::Progress::default();
    let cache = cache(&backend.path().join("cache"));
    let done = unpack(&base, &cache, &Arc::new(Mirror::new(stor, [])), target, &progress).await;
    if let Ok(summary) = &done {
        assert_eq!(progress.bytes_done.load(Ordering::Relaxed), summary.bytes);
        assert_eq!(base.index().total_size(), summary.bytes);
        assert!(files_in(&backend.path().join("cache")).is_empty(), "what is unpacked leaves the cache");
    }
    done
}

/// The regular files below a directory.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.expect("readable"));
    files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

/// All that can be seen of a tree, by path; hard links by the number of their inode, in order of appearance.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut inodes = Vec::new();
    let entries = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
    let see = |entry: walkdir::Result<walkdir::DirEntry>| {
        let entry = entry.expect("readable");
        let path = entry.path();
        let meta = path.symlink_metadata().expect("stat");
        let inode = inodes.iter().position(|inode| *inode == meta.ino()).unwrap_or(inodes.len());
        inodes.push(meta.ino());
        let content = if meta.is_file() {
            format!("{} {}", md5(&fs::read(path).expect("readable")), meta.blocks())
        } else {
            fs::read_link(path).map(|target| format!("{target:?}")).unwrap_or_default()
        };
        let xattrs: BTreeMap<_, _> = xattr::list(path)
            .expect("listed")
            .map(|name| (name.clone(), xattr::get(path, &name).expect("readable")))
            .collect();
        let text = format!(
            "{:o} {}:{} {}.{:09} rdev {} nlink {} #{inode} {content} {xattrs:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev(),
            if meta.is_dir() { 0 } else { meta.nlink() },
        );
        (path.strip_prefix(root).expect("below the root").to_owned(), text)
    };
    entries.map(see).collect()
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("made");
}

/// `user::rw-, user:1234:rw-, group::r--, mask::rw-, other::---`.
fn acl() -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 6, 1234), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// A tree with everything that a user without privileges can make.
fn tree(root: &Path) {
    let path = |name: &str| root.join(name);
    for dir in ["bin", "lib/deep", "empty", "secret"] {
        fs::create_dir_all(path(dir)).expect("made");
    }
    fs::write(path("bin/app"), b"#!/bin/sh\n".repeat(1000)).expect("written");
    fs::set_permissions(path("bin/app"), Permissions::from_mode(0o755)).expect("ours");
    fs::write(path("bin/same"), b"#!/bin/sh\n".repeat(1000)).expect("written");
    fs::write(path("lib/noise"), noise(1, 3 << 20)).expect("written");
    fs::write(path("lib/deep/empty"), "").expect("written");
    fs::write(path("odd | %name\n\u{fc}"), "odd").expect("written");
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff")), "odder").expect("written");
    let sparse = fs::File::create(path("sparse")).expect("made");
    sparse.set_len(8 << 20).expect("resizable");
    sparse.write_all_at(&[1; 4096], 4 << 20).expect("written");
    symlink("../bin/app", path("lib/link")).expect("made");
    symlink("nowhere", path("dangling")).expect("made");
    fs::hard_link(path("bin/app"), path("lib/app")).expect("made");
    fs::hard_link(path("dangling"), path("lib/dangling")).expect("made");
    fifo(&path("fifo"));
    fs::hard_link(path("fifo"), path("lib/fifo")).expect("made");
    xattr::set(path("bin/app"), "user.note", b"\0\xff").expect("kept");
    fs::write(path("shared"), "with others").expect("written");
    xattr::set(path("shared"), "system.posix_acl_access", &acl()).expect("kept");
    for (name, mode) in [("secret", 0o000), ("lib/noise", 0o000), ("bin", 0o555), ("", 0o750)] {
        fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("ours");
    }
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: -5, tv_nsec: 999_999_999 },
    };
    for name in ["bin/app", "lib", "dangling", "fifo", ""] {
        rustix::fs::utimensat(CWD, path(name), &times, AtFlags::SYMLINK_NOFOLLOW).expect("ours");
    }
}

#[tokio::test]
async fn a_tree_comes_back_as_it_was() {
    let lab = Lab::new();
    let source = lab.path("source");
    tree(&source);
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            CWD,
            source.join("null"),
            rustix::fs::FileType::CharacterDevice,
            Mode::RUSR,
            device,
        )
        .expect("made");
        fs::set_permissions(source.join("shared"), Permissions::from_mode(0o4660)).expect("ours");
        std::os::unix::fs::lchown(source.join("dangling"), Some(12_345), Some(54_321)).expect("root");
        fs::write(source.join("theirs"), "theirs").expect("written");
        std::os::unix::fs::chown(source.join("theirs"), Some(12_345), Some(54_321)).expect("root");
        fs::set_permissions(source.join("theirs"), Permissions::from_mode(0o6711)).expect("root");
    }
    let packed = packed(&source, &*lab.stor, Dialect::V2).await;
    let target = lab.path("target");
    let summary = unpacked(&packed.list, lab.stor.clone(), &target).await.expect("unpacked");
    assert_eq!(summary.entries, packed.summary.entries);
    assert_eq!(seen(&target), seen(&source));

    let again = self::packed(&target, &*lab.stor, Dialect::V2).await;
    assert_eq!(again.summary.new_objects, 0);
}

#[tokio::test]
async fn equal_content_is_stored_once_and_is_sent_once() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).expect("made");
    for n in 0..100 {
        fs::write(source.join(format!("same{n}")), "the same in all of them").expect("written");
    }
    fs::write(source.join("other"), "another").expect("written");
    fs::hard_link(source.join("other"), source.join("link")).expect("made");
    fs::write(source.join("empty"), "").expect("written");
    let first = packed(&source, &*lab.stor, Dialect::V2).await;
    assert_eq!((first.summary.entries, first.summary.files, first.summary.new_objects), (104, 101, 1));
    assert_eq!(first.summary.bytes, 100 * 23 + 7);
    let stored: Vec<_> = lab.stor.list().await.expect("listed").try_collect().await.expect("listed");
    assert_eq!(stored.len(), 1);
    assert_eq!(first.summary.new_bytes, 24 + 8, "each content, and its codec");
    assert_eq!(first.summary.new_bytes, stored.iter().map(|object| object.size).sum::<u64>());
    for object in &stored {
        assert_eq!(lab.stor.calls(&object.key).put, 1);
    }
    assert_eq!(first.entry("same0").content, first.entry("same99").content);

    let second = packed(&source, &*lab.stor, Dialect::V2).await;
    assert_eq!((second.summary.new_objects, second.summary.new_bytes), (0, 0));
    assert_eq!(
        (second.summary.files, second.list),
        (101, first.list.clone()),
        "it depends on the tree alone"
    );
    for object in &stored {
        assert_eq!(lab.stor.calls(&object.key).put, 1, "what is there is not sent again");
    }
    for Packed { progress, summary, .. } in [&first, &Packed { list: Vec::new(), ..second }] {
        assert!(progress.scanned.load(Ordering::Relaxed));
        assert_eq!(progress.entries.load(Ordering::Relaxed), summary.entries);
        assert_eq!(progress.bytes_found.load(Ordering::Relaxed), summary.bytes);
        assert_eq!(progress.bytes_done.load(Ordering::Relaxed), summary.bytes);
    }
}

#[tokio::test]
async fn the_old_dialects_keep_what_they_can() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir_all(source.join("dir/empty")).expect("made");
    let plain = noise(1, 2 << 20);
    fs::write(source.join("dir/large"), &plain).expect("written");
    fs::write(source.join("text"), "text ".repeat(1000)).expect("written");
    fs::write(source.join("nothing"), "").expect("written");
    fs::hard_link(source.join("text"), source.join("zlink")).expect("made");
    symlink("text", source.join("symlink")).expect("made");
    for (dialect, entries, left_out) in [(Dialect::V1Long, 7, 0), (Dialect::V1Short, 4, 3)] {
        let packed = packed(&source, &*lab.stor, dialect).await;
        assert_eq!((packed.summary.entries, packed.summary.left_out), (entries, left_out), "{dialect}");
        assert_eq!(packed.summary.files, 3, "the link has no content of its own; the empty file has");
        assert_eq!(packed.flist().dialect, dialect);
        assert_eq!(packed.entry("text").content, packed.entry("zlink").content, "a link repeats its file");
        assert_eq!(key_of(&packed.entry("dir/large")), md5(&plain), "the MD5 of the plain file");
        let there = lab.stor.has(&[md5(b"")]).await.expect("answered");
        assert_eq!(there, [true], "an old client fetches the empty file, too");
        let target = lab.path(&format!("{dialect}"));
        unpacked(&packed.list, lab.stor.clone(), &target).await.expect("unpacked");
        assert!(fs::read(target.join("dir/large")).expect("there") == plain);
        assert_eq!(fs::read(target.join("zlink")).expect("there"), b"text ".repeat(1000));
        assert_eq!(target.join("symlink").exists(), dialect == Dialect::V1Long);
    }
}

#[tokio::test]
async fn patterns_say_what_is_left_out() {
    let lab = Lab::new();
    let source = lab.path("source");
    for dir in ["cache", "sub/cache", "sub/keep"] {
        fs::create_dir_all(source.join(dir)).expect("made");
    }
    for file in ["a.pyc", "keep.pyc", "cache/x", "sub/cache/x", "sub/keep/b.pyc", "sub/keep/c.py"] {
        fs::write(source.join(file), file).expect("written");
    }
    // The first name that is packed describes the file.
    fs::hard_link(source.join("a.pyc"), source.join("b")).expect("made");
    fs::hard_link(source.join("a.pyc"), source.join("c")).expect("made");
    let patterns = ["*.pyc", "!keep.pyc", "/cache/", "# nothing", ""];
    let packed = pack_with(&source, &*lab.stor, Dialect::V2, &patterns).await;
    let packed = packed.map_err(|(error, _)| error).expect("packed");
    assert_eq!(
        packed.paths(),
        ["", "b", "c", "keep.pyc", "sub", "sub/cache", "sub/cache/x", "sub/keep", "sub/keep/c.py"]
    );
    assert_eq!(packed.entry("b").link, None);
    assert_eq!(packed.entry("c").link, Some(b"b".to_vec()));

    let (error, _) = pack_with(&source, &*lab.stor, Dialect::V2, &["[z-a]"]).await.err().expect("no pattern");
    assert_eq!(error.to_string(), "\"[z-a]\" is not a pattern of what to leave out");
}

#[tokio::test]
async fn a_stor_that_fails_half_way_leaves_no_list() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).expect("made");
    for n in 0..200 {
        fs::write(source.join(format!("{n:03}")), noise(n, 200_000)).expect("written");
    }
    let good = packed(&source, &*Lab::new().stor, Dialect::V2).await;
    let last = key_of(&good.entry("199"));
    lab.stor.set_for(&last, Trouble::Fail(|| Fault::Denied));
    let (error, list) = pack_with(&source, &*lab.stor, Dialect::V2, &[]).await.err().expect("denied");
    assert!(matches!(&error, PackError::Store(error) if error.subject == last.to_string()), "{error}");
    assert!(list.is_empty());

    lab.stor.set(Trouble::Fail(|| Fault::Unavailable("down".into())));
    let (error, list) = pack_with(&source, &*lab.stor, Dialect::V2, &[]).await.err().expect("down");
    assert!(matches!(error, PackError::Store(_)), "{error}");
    assert!(list.is_empty());

    lab.stor.set(Trouble::None);
    lab.stor.set_for(&last, Trouble::None);
    let second = packed(&source, &*lab.stor, Dialect::V2).await;
    assert_eq!(second.list, good.list);
    assert!(
        second.summary.new_objects < good.summary.new_objects,
        "what was sent before the failure is not sent again"
    );
}

#[tokio::test]
async fn only_directories_can_be_packed() {
    let lab = Lab::new();
    let file = lab.path("file");
    fs::write(&file, "x").expect("written");
    for root in [file, lab.path("missing")] {
        let (error, _) = pack_with(&root, &*lab.stor, Dialect::V2, &[]).await.err().expect("refused");
        assert_eq!(error.to_string(), format!("{} is not a directory", root.display()));
    }
}

#[tokio::test]
async fn a_symlink_to_the_tree_is_followed_and_those_inside_are_not() {
    let lab = Lab::new();
    let (source, link) = (lab.path("source"), lab.path("link"));
    fs::create_dir(&source).expect("made");
    fs::write(source.join("file"), "x").expect("written");
    symlink("/etc", source.join("etc")).expect("made");
    symlink(&source, &link).expect("made");
    let packed = packed(&link, &*lab.stor, Dialect::V2).await;
    assert_eq!(packed.paths(), ["", "etc", "file"]);
    assert_eq!(packed.entry("").kind, Kind::Directory);
    assert_eq!(packed.entry("etc").target, b"/etc");
}

#[tokio::test]
async fn a_stor_that_chooses_keys_itself_is_understood() {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir(&source).expect("made");
    let large = noise(1, 3 << 20);
    fs::write(source.join("large"), &large).expect("written");
    fs::write(source.join("small"), "small ".repeat(100)).expect("written");
    fs::write(source.join("twin"), "small ".repeat(100)).expect("written");
    let server = Running::start().await;
    server.faulty.set(ServerTrouble::Old).await.expect("set");
    for (dialect, objects) in [(Dialect::V2, 2), (Dialect::V1Long, 2)] {
        let stor = server.stor(PATIENT);
        let packed = packed(&source, &*stor, dialect).await;
        assert_eq!(packed.summary.new_objects, objects, "{dialect}: two files, or a pack and the tables");
        let keys = ["small", "twin"].map(|path| key_of(&packed.entry(path)));
        assert!(
            keys.iter().all(|key| key.as_str().len() == 32),
            "{dialect}: the MD5 of what is stored: {keys:?}"
        );
        assert_eq!(keys[0], keys[1]);
        match packed.entry("small").content {
            Some(Content::Pack { .. }) => assert_eq!(dialect, Dialect::V2),
            other => assert!(dialect == Dialect::V1Long && matches!(other, Some(Content::V1(_)))),
        }
        let target = lab.path(&format!("{dialect}"));
        unpacked(&packed.list, stor, &target).await.expect("found under the keys of the list");
        assert!(fs::read(target.join("large")).expect("there") == large);
        assert_eq!(fs::read(target.join("twin")).expect("there"), b"small ".repeat(100));
    }
    assert_eq!(server.faulty.requests("POST", "/store/test"), 4, "each object once");
}

#[tokio::test]
async fn a_list_that_leads_out_of_its_tree_is_not_even_begun() {
    let lab = Lab::new();
    let outside = lab.path("outside");
    fs::create_dir(&outside).expect("made");
    let link = Entry { target: outside.as_os_str().as_bytes().to_vec(), ..Entry::new("link", Kind::Symlink) };
    let bytes = list(&Header::default(), &[link, lab.file("link/evil", b"evil")]);
    let source = Source::Bytes { name: "hostile", bytes: &bytes };
    let error = Index::compile(source, &ParseOptions::default(), &lab.path("index")).expect_err("hostile");
    assert_eq!(
        error.to_string(),
        "hostile: line 3, column 1: the parent \"link\" (line 2) is not a directory"
    );
}

#[tokio::test]
async fn a_directory_with_anything_in_it_is_left_alone() {
    let lab = Lab::new();
    let target = lab.path("target");
    fs::create_dir(&target).expect("made");
    fs::set_permissions(&target, Permissions::from_mode(0o705)).expect("ours");
    symlink("/etc", target.join("link")).expect("made");
    let list = list(&Header::default(), &[lab.file("file", b"x")]);
    let error = unpacked(&list, lab.stor.clone(), &target).await.expect_err("not empty");
    assert_eq!(
        error.to_string(),
        format!("{} is not empty: name a directory that does not exist yet", target.display())
    );
    assert_eq!(fs::metadata(&target).expect("stat").mode() & 0o777, 0o705);
    fs::remove_file(target.join("link")).expect("ours");
    unpacked(&list, lab.stor.clone(), &target).await.expect("an empty one will do");
    assert_eq!(fs::read(target.join("file")).expect("there"), b"x");
}

#[tokio::test]
async fn a_missing_object_is_told_with_the_file_that_needs_it() {
    let lab = Lab::new();
    let lost = lab.file("dir/lost", b"lost");
    lab.stor.delete(&key_of(&lost)).await.expect("deleted");
    let list = list(&Header::default(), &[lost.clone(), lab.file("other", b"x")]);
    let target = lab.path("target");
    let error = unpacked(&list, lab.stor.clone(), &target).await.expect_err("missing");
    assert_eq!(error.to_string(), format!("cannot get the content of {}", target.join("dir/lost").display()));
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.ends_with(&format!("memory: {}: not found", key_of(&lost))), "{cause}");
}

#[tokio::test]
async fn a_cache_on_another_filesystem_will_do() {
    let lab = Lab::new();
    let memory = tempfile::tempdir_in("/dev/shm").expect("a filesystem in memory");
    let device = |path: &Path| fs::metadata(path).expect("stat").dev();
    if device(memory.path()) == device(lab.dir.path()) {
        eprintln!("skipped: /dev/shm and the temporary directory are one filesystem");
        return;
    }
    let mut content = noise(7, 3 << 20);
    content[1 << 20..2 << 20].fill(0);
    let data = Some(vec![0..1 << 20, 2 << 20..3 << 20]);
    let base = Arc::new(lab.base(&[Entry { data, ..lab.file("file", &content) }]));
    let target = lab.path("target");
    let progress = unpack::Progress::default();
    unpack(&base, &cache(&memory.path().join("cache")), &lab.stors(), &target, &progress)
        .await
        .expect("unpacked");
    let file = target.join("file");
    assert!(fs::read(&file).expect("there") == content);
    assert!(fs::metadata(&file).expect("stat").blocks() * 512 < 3 << 20, "the hole is one");
}

#[tokio::test]
async fn an_owner_that_is_unknown_here_is_nobody() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: giving files away needs root");
        return;
    }
    let lab = Lab::new();
    let owner = |id| Owner { name: Some(b"nobody has this name".to_vec()), id };
    let unknown = Entry { user: owner(None), group: owner(Some(u32::MAX)), ..lab.file("unknown", b"x") };
    let target = lab.path("target");
    unpacked(&list(&Header::default(), &[unknown]), lab.stor.clone(), &target).await.expect("unpacked");
    let meta = fs::metadata(target.join("unknown")).expect("stat");
    let nobody = uzers::get_user_by_name("nobody").map_or(65534, |user| user.uid());
    let nogroup = uzers::get_group_by_name("nogroup").map_or(65534, |group| group.gid());
    assert_eq!((meta.uid(), meta.gid()), (nobody, nogroup));
}

#[test]
fn a_user_without_privileges_packs_and_unpacks() {
    let arguments = ["--exact", "as_a_user", "--ignored", "--nocapture"];
    let Some(output) = support::as_user(&arguments) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("skipped"), "{said}");
}

#[tokio::test]
#[ignore = "runs as a user, started by another test"]
async fn as_a_user() {
    let Some(dir) = std::env::var_os(USERS_DIR).map(PathBuf::from) else {
        eprintln!("skipped: started without the test that makes its directory");
        return;
    };
    let lab = Lab::new();
    let source = dir.join("source");
    fs::create_dir(&source).expect("made");
    fs::write(source.join("locked"), "x").expect("written");
    fs::set_permissions(source.join("locked"), Permissions::from_mode(0o000)).expect("ours");
    let (error, list) = pack_with(&source, &*lab.stor, Dialect::V2, &[]).await.err().expect("unreadable");
    assert_eq!(error.to_string(), format!("cannot read {}", source.join("locked").display()));
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!((cause.as_str(), list.len()), ("Permission denied (os error 13)", 0));

    let root = |path: &str, perm| Entry { perm, ..lab.file(path, b"of root") };
    let capability = (b"security.capability".to_vec(), [&[0, 0, 0, 2], &[1; 16][..]].concat());
    let trusted = (b"trusted.note".to_vec(), b"x".to_vec());
    let entries = [
        Entry { perm: 0o500, ..Entry::new("dir", Kind::Directory) },
        root("dir/setuid", 0o6755),
        Entry { xattrs: vec![capability, trusted], ..root("dir/capable", 0o755) },
        root("dir/locked", 0),
        Entry { perm: 0, ..Entry::new("none", Kind::Directory) },
        root("none/inside", 0o644),
    ];
    let list = support::list(&Header::default(), &entries);
    let target = dir.join("target");
    unpacked(&list, lab.stor.clone(), &target).await.expect("what only root may do is left out");
    let mode = |path: &str| {
        let meta = fs::metadata(target.join(path)).expect("stat");
        assert_eq!(meta.uid(), USER, "{path}");
        meta.mode() & 0o7777
    };
    assert_eq!(mode("dir"), 0o500);
    assert_eq!(mode("dir/setuid"), 0o755, "it would lend the rights of the wrong user");
    assert_eq!((mode("dir/capable"), mode("dir/locked"), mode("none")), (0o755, 0, 0));
    assert_eq!(fs::read(target.join("dir/capable")).expect("readable"), b"of root");
    assert_eq!(xattr::list(target.join("dir/capable")).expect("listed").count(), 0);
    fs::set_permissions(target.join("none"), Permissions::from_mode(0o700)).expect("ours");
    assert_eq!(fs::read(target.join("none/inside")).expect("readable"), b"of root");

    let device = Entry::new("device", Kind::CharDevice { major: 1, minor: 3 });
    let list = support::list(&Header::default(), &[device]);
    let target = dir.join("devices");
    let error = unpacked(&list, lab.stor.clone(), &target).await.expect_err("devices need root");
    assert_eq!(error.to_string(), format!("cannot write {}", target.join("device").display()));
}
