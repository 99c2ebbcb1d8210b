//! Local changes on a base: what was wrong once, case by case. [`overlay_model`](../overlay_model) looks for more.

mod support;

use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use aysfs_engine::{AysFs, FileData, Form, Layer, Overlay, Trace, Upper};
use aysfs_flist::{Entry as ListEntry, Kind};
use aysfs_vfs::{
    Attr, Caller, DirEntry, DirSink, Entry, ErrorKind, Fh, FileKind, Filled, Ino, Lookup, Name, OpenFlags,
    RenameMode, SetAttr, SetXattrMode, Vfs,
};
use bytes::Bytes;
use support::Lab;
use support::mount::{READ, WRITE, directory, name};

/// A mount that is ended by dropping it.
fn mount(lab: &Lab, entries: &[ListEntry]) -> Overlay {
    mount_as(lab, entries, Form::Trusted)
}

fn mount_as(lab: &Lab, entries: &[ListEntry], form: Form) -> Overlay {
    let starting = support::no_start();
    let upper = Upper::open_as(&lab.path("backend"), Path::new("/m"), form).expect("local changes");
    drop(starting);
    let lower = AysFs::new(lab.base(entries), lab.cache(), lab.stors());
    Overlay::new(lower, upper).expect("a view")
}

/// A path in the upper directory.
fn upper(lab: &Lab, path: &str) -> PathBuf {
    lab.path("backend/upper/m").join(path)
}

/// Only root may write the marks that most of these tests are about.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: trusted.* attributes need root");
    }
    root
}

fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, pid: 1, umask: 0 }
}

fn link(path: &str, to: &ListEntry) -> ListEntry {
    ListEntry { path: path.into(), link: Some(to.path.clone()), ..to.clone() }
}

async fn look_up(fs: &Overlay, path: &str) -> Option<Attr> {
    let mut at = fs.getattr(Ino::ROOT, None).await.expect("the root").attr;
    for component in path.split('/').filter(|component| !component.is_empty()) {
        match fs.lookup(at.ino, &name(component)).await.expect("a directory") {
            Lookup::Found(entry) => at = entry.attr,
            Lookup::Absent(_) => return None,
        }
    }
    Some(at)
}

async fn find(fs: &Overlay, path: &str) -> Attr {
    look_up(fs, path).await.unwrap_or_else(|| panic!("{path} is not there"))
}

async fn split(fs: &Overlay, path: &str) -> (Ino, Name) {
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    (find(fs, parent).await.ino, name(last))
}

async fn rename(fs: &Overlay, from: &str, to: &str) -> aysfs_vfs::Result<()> {
    let ((from, name), (to, new_name)) = (split(fs, from).await, split(fs, to).await);
    fs.rename(from, &name, to, &new_name, RenameMode::Replace).await
}

async fn unlink(fs: &Overlay, path: &str) {
    let (parent, name) = split(fs, path).await;
    fs.unlink(parent, &name).await.expect("unlinked");
}

async fn write(fs: &Overlay, ino: Ino, data: &'static [u8]) {
    let opened = fs.open(ino, WRITE).await.expect("opened for writing");
    fs.write(ino, opened.fh, 0, Bytes::from_static(data)).await.expect("written");
    fs.release(ino, opened.fh).await.expect("released");
}

async fn try_read(fs: &Overlay, ino: Ino) -> aysfs_vfs::Result<Bytes> {
    let opened = fs.open(ino, READ).await?;
    let read = fs.read(ino, opened.fh, 0, 1 << 20).await;
    fs.release(ino, opened.fh).await.expect("released");
    read
}

async fn read(fs: &Overlay, path: &str) -> Bytes {
    let ino = find(fs, path).await.ino;
    try_read(fs, ino).await.expect("read")
}

/// A listing with attributes, a page at a time.
#[derive(Default)]
struct Page {
    room: usize,
    names: Vec<String>,
    next: u64,
}

impl DirSink for Page {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn add(&mut self, entry: &DirEntry<'_>, _attributes: Option<&Entry>) -> Filled {
        if self.names.len() == self.room {
            return ControlFlow::Break(());
        }
        self.names.push(String::from_utf8_lossy(entry.name).into_owned());
        self.next = entry.next;
        ControlFlow::Continue(())
    }
}

async fn names(fs: &Overlay, path: &str) -> Vec<String> {
    let ino = find(fs, path).await.ino;
    let fh = fs.opendir(ino).await.expect("opened").fh;
    let mut page = Page { room: usize::MAX, ..Page::default() };
    fs.readdir(ino, fh, 0, &mut page).await.expect("listed");
    fs.releasedir(ino, fh).await.expect("released");
    page.names.split_off(2)
}

// ---- Names and inodes ----

#[tokio::test]
async fn extended_attributes_of_an_unlinked_file_are_still_there() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[lab.file("f", b"x")], Form::User);
    let ino = find(&fs, "f").await.ino;
    fs.setxattr(ino, b"user.a", b"1", SetXattrMode::Set).await.expect("set");
    unlink(&fs, "f").await;
    assert_eq!(fs.getxattr(ino, b"user.a").await.expect("kept"), &b"1"[..]);
    fs.setxattr(ino, b"user.b", b"2", SetXattrMode::Set).await.expect("set");
    let mut listed: Vec<_> = fs.listxattr(ino).await.expect("listed").to_vec();
    listed.sort_unstable();
    let mut expected = b"user.a\0user.b\0".to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    fs.removexattr(ino, b"user.a").await.expect("removed");
    assert_eq!(fs.getxattr(ino, b"user.a").await.expect_err("removed").kind(), ErrorKind::NoData);
}

#[tokio::test]
async fn a_hard_link_in_a_directory_that_nobody_has_looked_at_keeps_its_inode() {
    let lab = Lab::new();
    let entries = [directory("a"), directory("b")];
    let fs = mount_as(&lab, &entries, Form::User);
    let (a, b) = (find(&fs, "a").await.ino, find(&fs, "b").await.ino);
    let made = fs.mknod(caller(), a, &name("f"), FileKind::Regular, 0o644).await.expect("made").attr.ino;
    fs.link(made, b, &name("g")).await.expect("linked");
    drop(fs);

    let fs = mount_as(&lab, &entries, Form::User);
    let first = find(&fs, "a/f").await;
    unlink(&fs, "a/f").await;
    assert_eq!(fs.getattr(first.ino, None).await.expect("held").attr.nlink, 1);
    let other = find(&fs, "b/g").await;
    assert_eq!(other.ino, first.ino);
    drop(fs);

    // The same with nobody who holds it in between, and with a name that comes back.
    let fs = mount_as(&lab, &entries, Form::User);
    let ino = find(&fs, "b/g").await.ino;
    let a = find(&fs, "a").await.ino;
    fs.link(ino, a, &name("f")).await.expect("linked");
    drop(fs);
    let fs = mount_as(&lab, &entries, Form::User);
    let ino = find(&fs, "a/f").await.ino;
    unlink(&fs, "a/f").await;
    let a = find(&fs, "a").await.ino;
    fs.link(ino, a, &name("h")).await.expect("it has a name, if not one that was looked at");
    unlink(&fs, "a/h").await;
    fs.forget(ino, 2);
    assert_eq!(find(&fs, "b/g").await.ino, ino);
}

#[tokio::test]
async fn what_is_written_to_an_unlinked_file_is_seen_through_the_name_that_is_left() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [directory("a"), directory("b"), lab.file("a/f", b"old")];
    let fs = mount(&lab, &entries);
    let (ino, b) = (find(&fs, "a/f").await.ino, find(&fs, "b").await.ino);
    fs.link(ino, b, &name("g")).await.expect("linked, with the content still in the base");
    drop(fs);

    let fs = mount(&lab, &entries);
    let ino = find(&fs, "a/f").await.ino;
    unlink(&fs, "a/f").await;
    write(&fs, ino, b"new").await;
    drop(fs);
    assert_eq!(read(&mount(&lab, &entries), "b/g").await, &b"new"[..]);
}

#[tokio::test]
async fn hard_links_of_the_base_stay_together_when_one_is_in_a_directory_that_was_moved() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let file = lab.file("a/f", b"old");
    let entries = [
        directory("a"),
        directory("d"),
        directory("d/sub"),
        directory("x"),
        file.clone(),
        link("d/sub/g", &file),
    ];
    let fs = mount(&lab, &entries);
    rename(&fs, "d/sub", "x/moved").await.expect("moved");
    drop(fs);

    let fs = mount(&lab, &entries);
    let ino = find(&fs, "a/f").await.ino;
    write(&fs, ino, b"new").await;
    let other = find(&fs, "x/moved/g").await;
    assert_eq!((other.ino, other.nlink), (ino, 2));
    drop(fs);
    assert_eq!(read(&mount(&lab, &entries), "x/moved/g").await, &b"new"[..]);
}

#[tokio::test]
async fn names_that_a_file_of_the_base_has_lost_do_not_count_after_a_remount() {
    let lab = Lab::new();
    let file = lab.file("a/f", b"x");
    let entries = [directory("a"), directory("b"), file.clone(), link("b/g", &file), link("b/h", &file)];
    let fs = mount_as(&lab, &entries, Form::User);
    assert_eq!(find(&fs, "a/f").await.nlink, 3);
    unlink(&fs, "b/g").await;
    assert_eq!(find(&fs, "a/f").await.nlink, 2);
    drop(fs);
    let fs = mount_as(&lab, &entries, Form::User);
    assert_eq!(find(&fs, "a/f").await.nlink, 2);
    unlink(&fs, "b/h").await;
    assert_eq!(find(&fs, "a/f").await.nlink, 1);
}

#[tokio::test]
async fn two_directories_that_were_exchanged_are_still_so_after_a_remount() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [directory("a"), directory("b"), lab.file("a/in-a", b""), lab.file("b/in-b", b"")];
    let fs = mount(&lab, &entries);
    let exchanged = fs.rename(Ino::ROOT, &name("a"), Ino::ROOT, &name("b"), RenameMode::Exchange).await;
    exchanged.expect("exchanged");
    drop(fs);
    for _ in 0..2 {
        let fs = mount(&lab, &entries);
        assert_eq!(
            (names(&fs, "a").await, names(&fs, "b").await),
            (vec!["in-b".into()], vec!["in-a".into()])
        );
    }
}

// ---- Listings ----

#[tokio::test]
async fn a_listing_that_goes_on_does_not_bring_back_names_that_are_gone() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[lab.file("a", b"1"), lab.file("b", b"2"), lab.file("c", b"3")], Form::User);
    let fh = fs.opendir(Ino::ROOT).await.expect("opened").fh;
    let mut page = Page { room: 3, ..Page::default() };
    fs.readdir(Ino::ROOT, fh, 0, &mut page).await.expect("listed");
    assert_eq!(page.names, [".", "..", "a"]);
    unlink(&fs, "b").await;
    let mut rest = Page { room: usize::MAX, ..Page::default() };
    fs.readdir(Ino::ROOT, fh, page.next, &mut rest).await.expect("listed");
    assert_eq!(rest.names, ["c"]);
}

#[tokio::test]
async fn a_directory_that_was_removed_while_it_is_listed_is_empty_and_not_stale() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[], Form::User);
    let made = fs.mkdir(caller(), Ino::ROOT, &name("d"), 0o755).await.expect("made").attr.ino;
    let fh = fs.opendir(made).await.expect("opened").fh;
    fs.rmdir(Ino::ROOT, &name("d")).await.expect("removed");
    fs.forget(made, 1);
    let mut page = Page { room: 9, ..Page::default() };
    fs.readdir(made, fh, 0, &mut page).await.expect("listed");
    assert_eq!(page.names, [".", ".."]);
    fs.releasedir(made, fh).await.expect("released");
    assert_eq!(fs.getattr(made, None).await.expect_err("gone").kind(), ErrorKind::Stale);
}

// ---- Attributes and content ----

#[tokio::test]
async fn the_attributes_of_a_removed_directory_of_the_base_can_be_changed() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[directory("d")], Form::User);
    let ino = find(&fs, "d").await.ino;
    fs.rmdir(Ino::ROOT, &name("d")).await.expect("removed");
    let changes = SetAttr { perm: Some(0o700), ..SetAttr::default() };
    let attr = fs.setattr(ino, None, changes).await.expect("changed").attr;
    assert_eq!((attr.perm, attr.nlink), (0o700, 0));
    fs.setxattr(ino, b"user.a", b"1", SetXattrMode::Set).await.expect("set");
    assert_eq!(fs.getxattr(ino, b"user.a").await.expect("kept"), &b"1"[..]);
    assert_eq!(fs::read_dir(lab.path("backend/work/m")).expect("listed").count(), 0);
}

#[tokio::test]
async fn truncating_a_fifo_is_refused_and_not_waited_for() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[ListEntry::new("fifo", Kind::Fifo)], Form::User);
    let ino = find(&fs, "fifo").await.ino;
    for size in [0, 1] {
        let changes = SetAttr { size: Some(size), ..SetAttr::default() };
        assert_eq!(fs.setattr(ino, None, changes).await.expect_err("refused").kind(), ErrorKind::Invalid);
    }
    let changes = SetAttr { size: Some(0), ..SetAttr::default() };
    let refused = fs.setattr(Ino::ROOT, None, changes).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::IsADirectory);
}

#[tokio::test]
async fn a_file_whose_content_nobody_knows_can_be_written_anew() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    upper_with(&lab, &[]).await;
    // The kernel copied it up from a base that had it.
    fs::write(upper(&lab, "f"), "").expect("made");
    trusted(&lab, "f", "metacopy", b"");
    let fs = mount(&lab, &[]);
    let ino = find(&fs, "f").await.ino;
    assert_eq!(try_read(&fs, ino).await.expect_err("gone").kind(), ErrorKind::Io);
    assert_eq!(fs.open(ino, WRITE).await.expect_err("gone").kind(), ErrorKind::Io);
    let opened = fs.open(ino, OpenFlags { truncate: true, ..WRITE }).await.expect("opened");
    fs.write(ino, opened.fh, 0, Bytes::from_static(b"new")).await.expect("written");
    fs.release(ino, opened.fh).await.expect("released");
    assert_eq!(try_read(&fs, ino).await.expect("read"), &b"new"[..]);
    drop(fs);
    assert_eq!(read(&mount(&lab, &[]), "f").await, &b"new"[..]);
}

#[tokio::test]
async fn an_empty_file_that_the_kernel_copied_up_keeps_its_time_when_it_is_opened_for_writing() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [ListEntry { perm: 0o644, ..ListEntry::new("f", Kind::Regular) }];
    upper_with(&lab, &entries).await;
    fs::write(upper(&lab, "f"), "").expect("made");
    trusted(&lab, "f", "metacopy", b"");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(upper(&lab, "f")).expect("opened");
    file.set_modified(old).expect("a time");
    let fs = mount(&lab, &entries);
    let ino = find(&fs, "f").await.ino;
    let opened = fs.open(ino, WRITE).await.expect("opened");
    fs.release(ino, opened.fh).await.expect("released");
    assert_eq!(find(&fs, "f").await.mtime.secs, 1_000_000_000);
}

#[tokio::test]
async fn a_program_that_runs_is_not_truncated() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[lab.file("f", b"program")], Form::User);
    let ino = find(&fs, "f").await.ino;
    let run = OpenFlags { read: true, execute: true, ..OpenFlags::default() };
    let programs = [fs.open(ino, run).await.expect("run"), fs.open(ino, run).await.expect("run")];
    // The kernel refuses whatever asks for the right to write.
    let truncate = OpenFlags { read: true, truncate: true, ..OpenFlags::default() };
    for program in programs {
        assert_eq!(fs.open(ino, truncate).await.expect_err("busy").kind(), ErrorKind::TextBusy);
        fs.release(ino, program.fh).await.expect("ended");
    }
    fs.open(ino, truncate).await.expect("truncated");
    assert_eq!(find(&fs, "f").await.size, 0);
}

#[tokio::test]
async fn copies_belong_to_their_owner_where_that_is_possible() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let owned = |id| aysfs_flist::Owner { name: None, id: Some(id) };
    let entry = ListEntry { user: owned(12), group: owned(34), perm: 0o4755, ..lab.file("f", b"x") };
    let fs = mount_as(&lab, &[entry], Form::User);
    let ino = find(&fs, "f").await.ino;
    fs.setxattr(ino, b"user.a", b"1", SetXattrMode::Set).await.expect("set");
    let attr = find(&fs, "f").await;
    assert_eq!((attr.uid, attr.gid, attr.perm), (12, 34, 0o4755));
}

// ---- An upper that is damaged, or not ours ----

fn trusted(lab: &Lab, path: &str, mark: &str, value: &[u8]) {
    xattr::set(upper(lab, path), format!("trusted.overlay.{mark}"), value).expect("an attribute");
}

/// An upper in which the test may do damage.
async fn upper_with(lab: &Lab, entries: &[ListEntry]) {
    drop(mount(lab, entries));
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_harms_one_name_only() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [directory("d"), directory("d/sub"), lab.file("d/f", b"base"), lab.file("other", b"whole")];
    upper_with(&lab, &entries).await;
    let long = [b'x'; 3000];
    let values: [&[u8]; 16] = [
        b"",
        b"/",
        b"..",
        b"/..",
        b"/../etc",
        b"/d/../../etc",
        b".",
        b"/.",
        b"d/sub",
        b"/d//sub",
        b"/d/sub/",
        b"/nothing",
        b"/d/f",
        b"/d/f/x",
        b"\0",
        &long,
    ];
    for (number, value) in values.iter().enumerate() {
        let (directory, file) = (format!("dir{number}"), format!("file{number}"));
        fs::create_dir(upper(&lab, &directory)).expect("made");
        fs::write(upper(&lab, &directory).join("own"), "own").expect("made");
        trusted(&lab, &directory, "redirect", value);
        fs::write(upper(&lab, &file), "").expect("made");
        trusted(&lab, &file, "metacopy", b"");
        trusted(&lab, &file, "redirect", value);
    }
    let fs = mount(&lab, &entries);
    assert_eq!(read(&fs, "other").await, &b"whole"[..]);
    for (number, value) in values.iter().enumerate() {
        let (directory, file) = (format!("dir{number}"), format!("file{number}"));
        assert_eq!(names(&fs, &directory).await, ["own"], "{:?}", value.escape_ascii().to_string());
        let ino = find(&fs, &file).await.ino;
        match *value {
            b"/d/f" => assert_eq!(try_read(&fs, ino).await.expect("read"), &b"base"[..]),
            _ => assert_eq!(try_read(&fs, ino).await.expect_err("nothing there").kind(), ErrorKind::Io),
        }
        // It is a name like any other.
        rename(&fs, &directory, "d/here").await.expect("moved");
        fs.unlink(find(&fs, "d/here").await.ino, &name("own")).await.expect("unlinked");
        fs.rmdir(find(&fs, "d").await.ino, &name("here")).await.expect("removed");
        unlink(&fs, &file).await;
    }
    assert_eq!(names(&fs, "").await, ["d", "other"]);
}

#[tokio::test]
async fn a_file_that_the_kernel_copied_up_without_its_content_finds_it_under_another_name() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [lab.file("f", b"of f"), lab.file("g", b"of g"), lab.file("h", b"of h"), directory("d")];
    upper_with(&lab, &entries).await;
    // Without a redirect, and with one that is only right in this directory.
    for (path, redirect) in [("f", None), ("moved", Some("g")), ("linked", Some("h"))] {
        fs::write(upper(&lab, path), "").expect("made");
        trusted(&lab, path, "metacopy", b"");
        if let Some(redirect) = redirect {
            trusted(&lab, path, "redirect", redirect.as_bytes());
            whiteout(&lab, redirect);
        }
    }
    let fs = mount(&lab, &entries);
    rename(&fs, "f", "d/f2").await.expect("moved");
    rename(&fs, "moved", "d/g2").await.expect("moved");
    let (ino, d) = (find(&fs, "linked").await.ino, find(&fs, "d").await.ino);
    fs.link(ino, d, &name("h2")).await.expect("linked");
    unlink(&fs, "linked").await;
    drop(fs);
    let fs = mount(&lab, &entries);
    for (path, content) in [("d/f2", "of f"), ("d/g2", "of g"), ("d/h2", "of h")] {
        assert_eq!(read(&fs, path).await, content.as_bytes());
    }
}

#[tokio::test]
async fn a_symlink_in_the_upper_is_never_followed() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let outside = lab.path("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret"), "secret").expect("made");
    fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let entries = [directory("d"), lab.file("d/secret", b"base"), lab.file("f", b"base")];
    upper_with(&lab, &entries).await;
    std::os::unix::fs::symlink(&outside, upper(&lab, "d")).expect("made");
    std::os::unix::fs::symlink(outside.join("secret"), upper(&lab, "f")).expect("made");
    std::os::unix::fs::symlink("loop", upper(&lab, "loop")).expect("made");
    // Marks have no meaning here.
    trusted_on_symlink(&lab, "loop", "redirect", b"/d");
    trusted_on_symlink(&lab, "loop", "opaque", b"y");
    let fs = mount(&lab, &entries);
    for path in ["d", "f", "loop"] {
        let attr = find(&fs, path).await;
        assert_eq!(attr.kind, FileKind::Symlink);
        assert_eq!(
            fs.lookup(attr.ino, &name("secret")).await.expect_err("a symlink").kind(),
            ErrorKind::NotADirectory
        );
        assert_eq!(fs.open(attr.ino, WRITE).await.expect_err("a symlink").kind(), ErrorKind::Invalid);
        fs.setattr(attr.ino, None, SetAttr { uid: Some(5), perm: Some(0o777), ..SetAttr::default() })
            .await
            .expect("the symlink is changed");
        let _ = fs.setxattr(attr.ino, b"trusted.x", b"1", SetXattrMode::Set).await;
    }
    let meta = fs::metadata(outside.join("secret")).expect("untouched");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 0);
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    assert!(xattr::get(outside.join("secret"), "trusted.x").expect("readable").is_none());
}

fn trusted_on_symlink(lab: &Lab, path: &str, mark: &str, value: &[u8]) {
    let name = format!("trusted.overlay.{mark}");
    rustix::fs::lsetxattr(upper(lab, path), name, value, rustix::fs::XattrFlags::empty())
        .expect("an attribute");
}

#[tokio::test]
async fn a_directory_of_the_base_is_shown_once() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [
        directory("a"),
        directory("a/b"),
        lab.file("a/b/f", b"1"),
        directory("still-there"),
        lab.file("still-there/g", b"2"),
        directory("z"),
    ];
    upper_with(&lab, &entries).await;
    let moved = |path: &str, to: &[u8]| {
        fs::create_dir(upper(&lab, path)).expect("made");
        trusted(&lab, path, "redirect", to);
    };
    whiteout(&lab, "a");
    moved("first", b"/a");
    moved("second", b"/a");
    // Inside of what it was the inside of.
    moved("first/up", b"/a/b");
    moved("first/up/loop", b"/a");
    moved("copy", b"/still-there");
    moved("z", b"/z");
    for look_first in ["copy", "second", "first", "z", "still-there"] {
        let fs = mount(&lab, &entries);
        find(&fs, look_first).await;
        assert_eq!(names(&fs, "").await, ["copy", "first", "second", "still-there", "z"]);
        assert_eq!(names(&fs, "first").await, ["b", "up"], "a/b was not taken away");
        assert_eq!(names(&fs, "first/b").await, ["f"]);
        assert_eq!(names(&fs, "first/up").await, ["loop"]);
        assert!(names(&fs, "first/up/loop").await.is_empty());
        assert!(names(&fs, "second").await.is_empty());
        assert!(names(&fs, "copy").await.is_empty());
        assert_eq!(names(&fs, "still-there").await, ["g"]);
        assert_eq!(find(&fs, "").await.nlink, 2 + 5);
    }
}

fn whiteout(lab: &Lab, path: &str) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, upper(lab, path), FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
}

#[tokio::test]
async fn whiteouts_in_the_form_of_attributes_hide_what_the_base_has() {
    let lab = Lab::new();
    let entries = [directory("d"), lab.file("d/f", b"1"), lab.file("d/g", b"2"), directory("d/h")];
    let fs = mount_as(&lab, &entries, Form::User);
    let ino = find(&fs, "d").await.ino;
    fs.setxattr(ino, b"user.copied", b"up", SetXattrMode::Set).await.expect("set");
    drop(fs);
    for hidden in ["d/f", "d/h"] {
        fs::write(upper(&lab, hidden), "").expect("made");
        xattr::set(upper(&lab, hidden), "user.overlay.whiteout", b"y").expect("a mark");
    }
    xattr::set(upper(&lab, "d"), "user.overlay.opaque", b"x").expect("a mark");
    let fs = mount_as(&lab, &entries, Form::User);
    assert_eq!(names(&fs, "d").await, ["g"]);
    assert!(look_up(&fs, "d/f").await.is_none());
    // They are replaced like others.
    let d = find(&fs, "d").await.ino;
    fs.mknod(caller(), d, &name("f"), FileKind::Regular, 0o644).await.expect("made");
    fs.mkdir(caller(), d, &name("h"), 0o755).await.expect("made");
    assert_eq!(names(&fs, "d").await, ["f", "g", "h"]);
    for path in ["f", "g"] {
        fs.unlink(d, &name(path)).await.expect("unlinked");
    }
    fs.rmdir(d, &name("h")).await.expect("removed");
    assert!(names(&fs, "d").await.is_empty());
    fs.rmdir(Ino::ROOT, &name("d")).await.expect("removed");
    drop(fs);
    assert!(names(&mount_as(&lab, &entries, Form::User), "").await.is_empty());
}

#[tokio::test]
async fn marks_that_have_no_meaning_where_they_are_change_nothing() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let entries = [directory("d"), lab.file("d/f", b"base"), lab.file("g", b"base")];
    upper_with(&lab, &entries).await;
    fs::write(upper(&lab, "g"), "upper").expect("made");
    trusted(&lab, "g", "redirect", b"/d/f");
    trusted(&lab, "g", "opaque", b"y");
    trusted(&lab, "g", "whiteout", b"");
    fs::create_dir(upper(&lab, "d")).expect("made");
    trusted(&lab, "d", "metacopy", b"");
    trusted(&lab, "d", "whiteout", b"");
    trusted(&lab, "d", "opaque", b"nonsense");
    trusted(&lab, "d", "origin", &[0xff; 60]);
    let fs = mount(&lab, &entries);
    assert_eq!(read(&fs, "g").await, &b"upper"[..]);
    assert_eq!(read(&fs, "d/f").await, &b"base"[..]);
    let d = find(&fs, "d").await.ino;
    assert!(fs.listxattr(d).await.expect("listed").is_empty(), "marks are nobody's business");
}

#[tokio::test]
async fn an_upper_that_is_no_directory_is_refused() {
    let lab = Lab::new();
    let backend = lab.path("backend");
    fs::create_dir_all(backend.join("upper")).expect("made");
    fs::create_dir(backend.join("elsewhere")).expect("made");
    for make in [(&|path: &Path| fs::write(path, "a file")) as &dyn Fn(&Path) -> io::Result<()>, &|path| {
        std::os::unix::fs::symlink("../elsewhere", path)
    }] {
        let path = backend.join("upper/m");
        make(&path).expect("made");
        let refused = Upper::open(&backend, Path::new("/m")).expect_err("no directory").to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
        fs::remove_file(path).expect("removed");
    }
}

#[tokio::test]
async fn mount_points_that_differ_by_an_ending_have_changes_of_their_own() {
    let lab = Lab::new();
    let backend = lab.path("backend");
    let open = |mount: &str| Upper::open(&backend, Path::new(mount)).expect("local changes of its own");
    let all = ["/app.new", "/app.lock", "/app", "/app%new", "/app%lock"].map(open);
    let paths: std::collections::BTreeSet<_> = all.iter().map(Upper::path).collect();
    assert_eq!(paths.len(), all.len());
}

#[tokio::test]
async fn a_handle_that_made_a_read_only_file_can_write_it() {
    let lab = Lab::new();
    let fs = mount_as(&lab, &[], Form::User);
    let flags = OpenFlags { exclusive: true, ..WRITE };
    let made = fs.create(caller(), Ino::ROOT, &name("f"), 0o444, flags).await.expect("made");
    let ino = made.entry.attr.ino;
    fs.write(ino, made.opened.fh, 0, Bytes::from_static(b"object")).await.expect("written");
    fs.release(ino, made.opened.fh).await.expect("released");
    assert_eq!(find(&fs, "f").await.perm, 0o444);
    assert_eq!(read(&fs, "f").await, &b"object"[..]);
    assert_eq!(fs.getattr(ino, Some(Fh::NONE)).await.expect("there").attr.size, 6);
}

#[tokio::test]
async fn what_is_in_a_read_only_directory_of_the_base_can_be_copied_up() {
    let lab = Lab::new();
    let closed = ListEntry { perm: 0o555, ..directory("d") };
    let inner = ListEntry { perm: 0o555, ..directory("d/e") };
    let entries = [closed, inner, lab.file("d/e/f", b"old")];
    let fs = mount_as(&lab, &entries, Form::User);
    let ino = find(&fs, "d/e/f").await.ino;
    write(&fs, ino, b"new").await;
    drop(fs);
    let fs = mount_as(&lab, &entries, Form::User);
    assert_eq!(read(&fs, "d/e/f").await, &b"new"[..]);
    assert_eq!((find(&fs, "d").await.perm, find(&fs, "d/e").await.perm), (0o555, 0o555));
}

/// All of this once more, by a process that may not do what the permission bits forbid.
#[test]
fn the_same_without_privileges() {
    let Some(output) = support::as_user(&[]) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// Where a path comes from, where the base has it, and whether its content is in stors.
async fn traced(fs: &Overlay, path: &str) -> Option<(Layer, Option<String>, &'static str)> {
    let Trace { layer, base_path, data, .. } = fs.trace(path.as_bytes()).await.expect("no damage")?;
    let data = match data {
        None => "none",
        Some(FileData::Empty) => "empty",
        Some(FileData::Local) => "local",
        Some(FileData::Stored(_)) => "stored",
        Some(FileData::Lost) => "lost",
    };
    Some((layer, base_path.map(|path| String::from_utf8(path).expect("text")), data))
}

#[tokio::test]
async fn every_path_is_traced_to_its_layer() {
    let lab = Lab::new();
    let form = if rustix::process::geteuid().is_root() { Form::Trusted } else { Form::User };
    let list = [
        directory("d"),
        lab.file("d/kept", b"kept"),
        lab.file("d/mode", b"mode"),
        lab.file("d/gone", b"gone"),
        ListEntry { perm: 0o644, ..ListEntry::new("empty", Kind::Regular) },
        directory("plain"),
        lab.file("plain/file", b"plain"),
    ];
    let fs = mount_as(&lab, &list, form);
    let at = |path: &'static str| {
        let fs = &fs;
        async move { look_up(fs, path).await.expect("it is there").ino }
    };
    let d = at("d").await;
    fs.unlink(d, &name("gone")).await.expect("removed");
    fs.mkdir(caller(), d, &name("new"), 0o755).await.expect("made");
    fs.symlink(caller(), d, &name("link"), b"kept").await.expect("made");
    let made = fs.create(caller(), d, &name("made"), 0o644, WRITE).await.expect("made");
    fs.release(made.entry.attr.ino, made.opened.fh).await.expect("closed");
    let changes = SetAttr { perm: Some(0o600), ..SetAttr::default() };
    fs.setattr(at("d/mode").await, None, changes).await.expect("changed");

    let base = |path: &str| Some(path.to_owned());
    let attributes_only = match form {
        Form::Trusted => (Layer::Metacopy, base("d/mode"), "stored"),
        Form::User => (Layer::Upper, None, "local"),
    };
    for (path, expected) in [
        ("", Some((Layer::Merged, base(""), "none"))),
        ("/d/", Some((Layer::Merged, base("d"), "none"))),
        ("d/kept", Some((Layer::Base, base("d/kept"), "stored"))),
        ("d/mode", Some(attributes_only)),
        ("d/gone", Some((Layer::Whiteout, None, "none"))),
        ("d/gone/below", Some((Layer::Whiteout, None, "none"))),
        ("d/new", Some((Layer::Upper, None, "none"))),
        ("d/link", Some((Layer::Upper, None, "none"))),
        ("d/made", Some((Layer::Upper, None, "local"))),
        ("empty", Some((Layer::Base, base("empty"), "empty"))),
        ("plain", Some((Layer::Base, base("plain"), "none"))),
        ("plain/file/below", None),
        ("plain/none", None),
    ] {
        assert_eq!(traced(&fs, path).await, expected, "{path}");
    }
    if form == Form::Trusted {
        fs.rename(Ino::ROOT, &name("plain"), d, &name("moved"), RenameMode::Replace).await.expect("moved");
        assert_eq!(traced(&fs, "d/moved").await, Some((Layer::Merged, base("plain"), "none")));
        assert_eq!(traced(&fs, "d/moved/file").await, Some((Layer::Base, base("plain/file"), "stored")));
        assert_eq!(traced(&fs, "plain").await, Some((Layer::Whiteout, None, "none")));
    }
}
