//! Two filesystems that are given the same calls: local changes on a base, and the reference; with what a kernel would
//! know of both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_engine::{AysFs, Form, Overlay, Upper};
use aysfs_flist::Entry as ListEntry;
use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{
    Attr, Caller, Device, DirEntry, DirSink, Entry, ErrorKind, Fh, FileKind, FileRange, Filled, Ino, Lookup,
    Name, OpenFlags, RenameMode, Result, SeekWhence, SetAttr, SetTime, Time, Vfs,
};
use bytes::Bytes;
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use crate::base::{self, Seed, name};
use crate::steps::{Access, Dir, Make, Object, Place, Step};
use crate::support::Lab;

pub(crate) type Outcome<T = ()> = std::result::Result<T, TestCaseError>;

/// Times before this were set by somebody, times behind it are those of the test itself.
const RECENT: i64 = 1_500_000_000;

/// The same inode on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Both {
    ours: Ino,
    model: Ino,
}

const ROOT: Both = Both { ours: Ino::ROOT, model: Ino::ROOT };

struct OpenFile {
    of: Both,
    ours: Fh,
    model: Fh,
    access: Access,
    backing: Option<Arc<File>>,
}

/// A listing that is under way.
struct Listing {
    of: Both,
    ours: Fh,
    model: Fh,
    cookie: u64,
    seen: Vec<Name>,
    /// What was there all the time since it was opened.
    constant: BTreeSet<Name>,
}

pub(crate) struct Pair {
    lab: Lab,
    entries: Vec<ListEntry>,
    form: Form,
    /// The copies of what the model holds are counted alike.
    ours: Option<Overlay>,
    model: MemFs,
    /// The lookups that the kernel holds, by the model's number; the root is never forgotten.
    held: BTreeMap<Ino, (Both, u64)>,
    to_model: HashMap<Ino, Ino>,
    to_ours: HashMap<Ino, Ino>,
    files: Vec<OpenFile>,
    listings: Vec<Listing>,
    /// The model's numbers: of directories of the base, and of what lost a name.
    from_base: BTreeSet<Ino>,
    unaware: BTreeSet<Ino>,
}

/// What was listed of a directory.
#[derive(Default)]
struct Names {
    room: usize,
    with_attributes: bool,
    entries: Vec<Listed>,
}

struct Listed {
    name: Vec<u8>,
    ino: Ino,
    kind: FileKind,
    next: u64,
    entry: Option<Entry>,
}

impl DirSink for Names {
    fn wants_attributes(&self) -> bool {
        self.with_attributes
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        if self.entries.len() >= self.room {
            return ControlFlow::Break(());
        }
        self.entries.push(Listed {
            name: entry.name.to_vec(),
            ino: entry.ino,
            kind: entry.kind,
            next: entry.next,
            entry: attributes.copied(),
        });
        ControlFlow::Continue(())
    }
}

/// One of several; `None` if there are none.
fn choose<T>(from: &[T], number: u8) -> Option<usize> {
    (!from.is_empty()).then(|| usize::from(number) % from.len())
}

fn kind_of<T>(result: &Result<T>) -> Option<ErrorKind> {
    result.as_ref().err().map(aysfs_vfs::Error::kind)
}

/// The same errno, or none; says whether it is none.
fn agree<T, U>(what: &str, ours: &Result<T>, model: &Result<U>) -> Outcome<bool> {
    let cause = ours.as_ref().err().map(ToString::to_string).unwrap_or_default();
    prop_assert_eq!(kind_of(ours), kind_of(model), "{}: {}", what, cause);
    Ok(ours.is_ok())
}

/// A time as far as it can be compared.
fn set_by_somebody(time: Time) -> Option<Time> {
    (time.secs < RECENT).then_some(time)
}

/// A backing file as the kernel opens it for a handle that writes.
fn opened_anew(backing: &File) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", backing.as_raw_fd());
    match OpenOptions::new().write(true).open(path) {
        // The kernel asks for no permissions here.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => backing.try_clone(),
        opened => opened,
    }
}

fn flags(access: Access) -> OpenFlags {
    let Access { read, write, truncate } = access;
    OpenFlags { read, write, truncate, passthrough: true, ..OpenFlags::default() }
}

impl Pair {
    pub(crate) async fn new(form: Form, seeds: &[Seed]) -> Self {
        let lab = Lab::new();
        let entries = base::entries(&lab, seeds);
        let model = MemFs::default();
        let from_base = base::fill(&model, &entries).await.into_iter().collect();
        let mut pair = Self {
            lab,
            entries,
            form,
            ours: None,
            model,
            held: BTreeMap::new(),
            to_model: HashMap::new(),
            to_ours: HashMap::new(),
            files: Vec::new(),
            listings: Vec::new(),
            from_base,
            unaware: BTreeSet::new(),
        };
        pair.mount();
        pair
    }

    fn backend(&self) -> PathBuf {
        self.lab.path("backend")
    }

    fn mount(&mut self) {
        let upper = Upper::open_as(&self.backend(), Path::new("/mnt"), self.form).expect("an upper");
        let base = self.lab.base(&self.entries);
        let lower = AysFs::new(base, self.lab.cache(), self.lab.stors());
        self.ours = Some(Overlay::lending_from(1, lower, upper).expect("a view"));
        self.held = BTreeMap::from([(Ino::ROOT, (ROOT, 0))]);
        self.to_model = HashMap::from([(Ino::ROOT, Ino::ROOT)]);
        self.to_ours = self.to_model.clone();
    }

    fn ours(&self) -> &Overlay {
        self.ours.as_ref().expect("mounted")
    }

    /// Asks both.
    async fn both<'a, A, B>(
        &'a self,
        ours: impl FnOnce(&'a Overlay) -> A,
        model: impl FnOnce(&'a MemFs) -> B,
    ) -> (A::Output, B::Output)
    where
        A: Future,
        B: Future,
    {
        // Ours first: it is the one that may refuse for reasons of its own.
        let ours = ours(self.ours()).await;
        (ours, model(&self.model).await)
    }

    // ---- What both know ----

    /// Two inodes that must be the same one, now and until the unmount.
    fn pair_up(&mut self, ours: &Attr, model: &Attr) -> Outcome<Both> {
        let known = *self.to_model.entry(ours.ino).or_insert(model.ino);
        prop_assert_eq!(known, model.ino, "{} was another inode before, or is several", ours.ino);
        let known = *self.to_ours.entry(model.ino).or_insert(ours.ino);
        prop_assert_eq!(known, ours.ino, "inode {} of the model had another number before", model.ino);
        self.same_attributes(ours, model)?;
        Ok(Both { ours: ours.ino, model: model.ino })
    }

    fn same_attributes(&self, ours: &Attr, model: &Attr) -> Outcome {
        let shown = |attr: &Attr| {
            let size = if attr.kind == FileKind::Directory { 0 } else { attr.size };
            let mtime = set_by_somebody(attr.mtime);
            format!(
                "{:?} perm {:o} nlink {} owner {}:{} size {size} mtime {mtime:?}",
                attr.kind, attr.perm, attr.nlink, attr.uid, attr.gid
            )
        };
        prop_assert_eq!(shown(ours), shown(model), "attributes of {} (model: {})", ours.ino, model.ino);
        if set_by_somebody(model.ctime).is_none() && !self.unaware.contains(&model.ino) {
            prop_assert_eq!(set_by_somebody(ours.ctime), None, "{} did not change", ours.ino);
        }
        Ok(())
    }

    /// Two answers that count one lookup each.
    fn looked_up(&mut self, ours: &Attr, model: &Attr) -> Outcome<Both> {
        let both = self.pair_up(ours, model)?;
        if both != ROOT {
            self.held.entry(both.model).or_insert((both, 0)).1 += 1;
        }
        Ok(both)
    }

    async fn lookup(&mut self, dir: Both, name: &Name) -> Outcome<Option<(Both, FileKind)>> {
        let (ours, model) = self.both(|fs| fs.lookup(dir.ours, name), |fs| fs.lookup(dir.model, name)).await;
        if !agree("lookup", &ours, &model)? {
            return Ok(None);
        }
        match (ours.expect("agreed"), model.expect("agreed")) {
            (Lookup::Found(ours), Lookup::Found(model)) => {
                Ok(Some((self.looked_up(&ours.attr, &model.attr)?, model.attr.kind)))
            }
            (Lookup::Absent(_), Lookup::Absent(_)) => Ok(None),
            (ours, model) => {
                prop_assert!(false, "lookup of {name}: {ours:?}, but {model:?}");
                Ok(None)
            }
        }
    }

    fn forget(&mut self, both: Both, count: u64) {
        let Some((_, lookups)) = self.held.get_mut(&both.model) else { return };
        *lookups -= count;
        if *lookups == 0 && both != ROOT {
            self.held.remove(&both.model);
        }
        self.ours().forget(both.ours, count);
        self.model.forget(both.model, count);
        // An inode without name and holder is gone, and its number may be for nobody else.
    }

    async fn dir(&mut self, dir: &Dir) -> Outcome<Both> {
        match dir {
            Dir::Path(path) => {
                let mut at = ROOT;
                for component in path {
                    match self.lookup(at, &name(*component)).await? {
                        Some((next, FileKind::Directory)) => at = next,
                        _ => break,
                    }
                }
                Ok(at)
            }
            Dir::Held(number) => {
                let mut directories = Vec::new();
                for (both, _) in self.held.values() {
                    if self.model.getattr(both.model, None).await.expect("held").attr.kind
                        == FileKind::Directory
                    {
                        directories.push(*both);
                    }
                }
                Ok(directories[choose(&directories, *number).expect("the root at least")])
            }
        }
    }

    async fn place(&mut self, place: &Place) -> Outcome<(Both, Name)> {
        Ok((self.dir(&place.dir).await?, name(place.name)))
    }

    async fn object(&mut self, object: &Object) -> Outcome<Option<(Both, FileKind)>> {
        match object {
            Object::At(place) => {
                let (dir, name) = self.place(place).await?;
                self.lookup(dir, &name).await
            }
            Object::Held(number) => {
                let held: Vec<Both> = self.held.values().map(|(both, _)| *both).collect();
                let both = held[choose(&held, *number).expect("the root at least")];
                let kind = self.model.getattr(both.model, None).await.expect("held").attr.kind;
                Ok(Some((both, kind)))
            }
        }
    }

    // ---- Steps ----

    pub(crate) async fn step(&mut self, step: &Step) -> Outcome {
        self.perform(step).await?;
        let held: Vec<Both> = self.held.values().map(|(both, _)| *both).collect();
        for both in held {
            let (ours, model) =
                self.both(|fs| fs.getattr(both.ours, None), |fs| fs.getattr(both.model, None)).await;
            if agree("getattr", &ours, &model)? {
                self.pair_up(&ours.expect("agreed").attr, &model.expect("agreed").attr)?;
            }
        }
        Ok(())
    }

    async fn perform(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Look(object) => {
                if let Some((both, kind)) = self.object(object).await? {
                    self.look(both, kind).await?;
                }
            }
            Step::Make { at, what, perm, as_user } => self.make(at, *what, *perm, *as_user).await?,
            Step::Create { at, access, exclusive, perm, as_user } => {
                self.create(at, *access, *exclusive, *perm, *as_user).await?;
            }
            Step::Link { object, at } => {
                let Some((both, _)) = self.object(object).await? else { return Ok(()) };
                let (dir, name) = self.place(at).await?;
                let (ours, model) = self
                    .both(
                        |fs| fs.link(both.ours, dir.ours, &name),
                        |fs| fs.link(both.model, dir.model, &name),
                    )
                    .await;
                let of_two_reasons =
                    kind_of(&ours) == Some(ErrorKind::Exists) && kind_of(&model) == Some(ErrorKind::NotFound);
                if !of_two_reasons && agree("link", &ours, &model)? {
                    self.looked_up(&ours.expect("agreed").attr, &model.expect("agreed").attr)?;
                }
            }
            Step::Unlink(at) => {
                let (dir, name) = self.place(at).await?;
                self.about_to_lose(dir, &name).await?;
                let (ours, model) =
                    self.both(|fs| fs.unlink(dir.ours, &name), |fs| fs.unlink(dir.model, &name)).await;
                agree("unlink", &ours, &model)?;
                self.changed(dir, &name).await;
            }
            Step::Rmdir(at) => {
                let (dir, name) = self.place(at).await?;
                self.about_to_lose(dir, &name).await?;
                let (ours, model) =
                    self.both(|fs| fs.rmdir(dir.ours, &name), |fs| fs.rmdir(dir.model, &name)).await;
                agree("rmdir", &ours, &model)?;
                self.changed(dir, &name).await;
            }
            Step::Rename { from, to, mode } => self.rename(from, to, *mode).await?,
            Step::Open { object, access } => {
                let Some((both, _)) = self.object(object).await? else { return Ok(()) };
                self.open(both, *access).await?;
            }
            Step::Close(number) => {
                if let Some(position) = choose(&self.files, *number) {
                    self.close(position).await?;
                }
            }
            Step::Write { handle, offset, length, byte, through } => {
                self.write(*handle, *offset, *length, *byte, *through).await?;
            }
            Step::Read { handle, offset, length } => {
                if let Some(position) = choose(&self.files, *handle)
                    && self.files[position].access.read
                {
                    self.read(&self.files[position], *offset, *length).await?;
                }
            }
            Step::Truncate { object, size } => {
                let Some((both, FileKind::Regular)) = self.object(object).await? else { return Ok(()) };
                self.set(both, SetAttr { size: Some(*size), ..SetAttr::default() }).await?;
            }
            Step::SetPerm { object, perm } => {
                let Some((both, kind)) = self.object(object).await? else { return Ok(()) };
                // The kernel refuses it before anybody is asked.
                if kind != FileKind::Symlink {
                    self.set(both, SetAttr { perm: Some(*perm), ..SetAttr::default() }).await?;
                }
            }
            Step::SetOwner { object, uid, gid } => {
                let Some((both, _)) = self.object(object).await? else { return Ok(()) };
                self.set(both, SetAttr { uid: *uid, gid: *gid, ..SetAttr::default() }).await?;
            }
            Step::SetTimes { object, mtime } => {
                let Some((both, _)) = self.object(object).await? else { return Ok(()) };
                let time = mtime.map_or(SetTime::Now, |secs| SetTime::At(Time { secs, nanos: 5 }));
                let changes = SetAttr { mtime: Some(time), atime: Some(time), ..SetAttr::default() };
                self.set(both, changes).await?;
            }
            Step::SetXattr { object, name, value, mode } => {
                let Some((both, kind)) = self.object(object).await? else { return Ok(()) };
                let Some(name) = attribute(*name, kind) else { return Ok(()) };
                let value = vec![*value; usize::from(*value)];
                let (ours, model) = self
                    .both(
                        |fs| fs.setxattr(both.ours, name, &value, *mode),
                        |fs| fs.setxattr(both.model, name, &value, *mode),
                    )
                    .await;
                agree("setxattr", &ours, &model)?;
            }
            Step::RemoveXattr { object, name } => {
                let Some((both, kind)) = self.object(object).await? else { return Ok(()) };
                let Some(name) = attribute(*name, kind) else { return Ok(()) };
                let (ours, model) = self
                    .both(|fs| fs.removexattr(both.ours, name), |fs| fs.removexattr(both.model, name))
                    .await;
                agree("removexattr", &ours, &model)?;
            }
            Step::Fallocate { handle, offset, length, mode } => {
                let Some(file) = self.writable(*handle) else { return Ok(()) };
                let ours = self.ours().fallocate(file.of.ours, file.ours, *offset, *length, *mode).await;
                // Not every local filesystem has every mode.
                if kind_of(&ours) != Some(ErrorKind::NotSupported) {
                    let (of, fh) = (file.of.model, file.model);
                    let model = self.model.fallocate(of, fh, *offset, *length, *mode).await;
                    agree("fallocate", &ours, &model)?;
                }
                // Which of them counts as a change of the content is up to the local filesystem.
                let of = file.of;
                self.touch(of).await?;
            }
            Step::Copy { from, to, from_offset, to_offset, length } => {
                self.copy((*from, *from_offset), (*to, *to_offset), *length).await?;
            }
            Step::Sync(number) => {
                let Some(position) = choose(&self.files, *number) else { return Ok(()) };
                let file = &self.files[position];
                let synced = self.ours().fsync(file.of.ours, file.ours, number % 2 == 0).await;
                agree("fsync", &synced, &Ok(()))?;
            }
            Step::OpenDir(object) => {
                let Some((both, FileKind::Directory)) = self.object(object).await? else { return Ok(()) };
                let (ours, model) = self.both(|fs| fs.opendir(both.ours), |fs| fs.opendir(both.model)).await;
                if agree("opendir", &ours, &model)? {
                    let (ours, model) = (ours.expect("agreed").fh, model.expect("agreed").fh);
                    let constant = self.model_names(both, model).await.into_keys().collect();
                    self.listings.push(Listing {
                        of: both,
                        ours,
                        model,
                        cookie: 0,
                        seen: Vec::new(),
                        constant,
                    });
                }
            }
            Step::List { handle, count, with_attributes } => {
                self.list(*handle, *count, *with_attributes).await?;
            }
            Step::CloseDir(number) => {
                if let Some(position) = choose(&self.listings, *number) {
                    self.close_listing(position).await?;
                }
            }
            Step::Forget(number) => {
                let held: Vec<_> = self.held.values().copied().collect();
                let (both, lookups) = held[choose(&held, *number).expect("the root at least")];
                if both != ROOT {
                    self.forget(both, lookups);
                }
            }
            Step::Check => self.check().await?,
            Step::Remount => self.remount().await?,
        }
        Ok(())
    }

    fn caller(as_user: bool) -> Caller {
        let id = if as_user { 1000 } else { 0 };
        Caller { uid: id, gid: id, pid: 1, umask: if as_user { 0o022 } else { 0 } }
    }

    async fn make(&mut self, at: &Place, what: Make, perm: u16, as_user: bool) -> Outcome {
        let (dir, name) = self.place(at).await?;
        let caller = Self::caller(as_user);
        let target = ["x", "../b", "/absolute/c", &"long/".repeat(200)];
        let node = |kind| Ok::<_, u8>(kind);
        let what = match what {
            Make::Directory => Err(0),
            Make::Symlink(number) => Err(number % 4 + 1),
            Make::File => node(FileKind::Regular),
            Make::Fifo => node(FileKind::Fifo),
            Make::Socket => node(FileKind::Socket),
            Make::Device => node(FileKind::BlockDevice(Device { major: 7, minor: 300 })),
        };
        let (ours, model) = match what {
            Ok(kind) => {
                self.both(
                    |fs| fs.mknod(caller, dir.ours, &name, kind, perm),
                    |fs| fs.mknod(caller, dir.model, &name, kind, perm),
                )
                .await
            }
            Err(0) => {
                self.both(
                    |fs| fs.mkdir(caller, dir.ours, &name, perm),
                    |fs| fs.mkdir(caller, dir.model, &name, perm),
                )
                .await
            }
            Err(number) => {
                let target = target[usize::from(number) - 1].as_bytes();
                self.both(
                    |fs| fs.symlink(caller, dir.ours, &name, target),
                    |fs| fs.symlink(caller, dir.model, &name, target),
                )
                .await
            }
        };
        if agree("make", &ours, &model)? {
            self.looked_up(&ours.expect("agreed").attr, &model.expect("agreed").attr)?;
        }
        Ok(())
    }

    async fn create(
        &mut self,
        at: &Place,
        access: Access,
        exclusive: bool,
        perm: u16,
        as_user: bool,
    ) -> Outcome {
        let (dir, name) = self.place(at).await?;
        let caller = Self::caller(as_user);
        let flags = OpenFlags { exclusive, ..flags(access) };
        let (ours, model) = self
            .both(
                |fs| fs.create(caller, dir.ours, &name, perm, flags),
                |fs| fs.create(caller, dir.model, &name, perm, flags),
            )
            .await;
        if agree("create", &ours, &model)? {
            let (ours, model) = (ours.expect("agreed"), model.expect("agreed"));
            let of = self.looked_up(&ours.entry.attr, &model.entry.attr)?;
            self.opened(of, access, ours.opened, model.opened)?;
        }
        Ok(())
    }

    async fn rename(&mut self, from: &Place, to: &Place, mode: RenameMode) -> Outcome {
        let (from, name) = self.place(from).await?;
        let (to, new_name) = self.place(to).await?;
        // The kernel does not ask for what it knows to be impossible.
        self.about_to_lose(to, &new_name).await?;
        let moved = self.lookup(from, &name).await?;
        let target = self.lookup(to, &new_name).await?;
        let ours = self.ours().rename(from.ours, &name, to.ours, &new_name, mode).await;
        if kind_of(&ours) == Some(ErrorKind::CrossDevice) {
            // Without redirects a directory of the base cannot be moved.
            prop_assert_eq!(self.form, Form::User);
            let is_from_base = |found: Option<(Both, FileKind)>| {
                found.is_some_and(|(both, _)| self.from_base.contains(&both.model))
            };
            prop_assert!(is_from_base(moved) || mode == RenameMode::Exchange && is_from_base(target));
            return Ok(());
        }
        let model = self.model.rename(from.model, &name, to.model, &new_name, mode).await;
        agree("rename", &ours, &model)?;
        self.changed(from, &name).await;
        self.changed(to, &new_name).await;
        Ok(())
    }

    async fn open(&mut self, of: Both, access: Access) -> Outcome {
        let flags = flags(access);
        let (ours, model) = self.both(|fs| fs.open(of.ours, flags), |fs| fs.open(of.model, flags)).await;
        if agree("open", &ours, &model)? {
            self.opened(of, access, ours.expect("agreed"), model.expect("agreed"))?;
        }
        Ok(())
    }

    fn opened(
        &mut self,
        of: Both,
        access: Access,
        ours: aysfs_vfs::Opened,
        model: aysfs_vfs::Opened,
    ) -> Outcome {
        if let Some(other) = self.files.iter().find(|file| file.of == of) {
            let same = match (&other.backing, &ours.backing) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            };
            prop_assert!(same, "handles of one inode with different backing files");
        }
        let backing = ours.backing.clone();
        self.files.push(OpenFile { of, ours: ours.fh, model: model.fh, access, backing });
        Ok(())
    }

    async fn close(&mut self, position: usize) -> Outcome {
        let file = self.files.swap_remove(position);
        let (ours, model) = self
            .both(|fs| fs.release(file.of.ours, file.ours), |fs| fs.release(file.of.model, file.model))
            .await;
        agree("release", &ours, &model)?;
        Ok(())
    }

    fn writable(&self, number: u8) -> Option<&OpenFile> {
        let position = choose(&self.files, number)?;
        Some(&self.files[position]).filter(|file| file.access.write)
    }

    async fn write(&mut self, number: u8, offset: u64, length: usize, byte: u8, through: bool) -> Outcome {
        let Some(file) = self.writable(number) else { return Ok(()) };
        let data = Bytes::from(vec![byte; length]);
        let model = self.model.write(file.of.model, file.model, offset, data.clone()).await;
        let ours = match file.backing.as_ref().filter(|_| through) {
            // As the kernel does it, if the frontend gives it the file.
            Some(backing) => {
                let written = opened_anew(backing).and_then(|file| file.write_all_at(&data, offset));
                written.map(|()| u32::try_from(length).expect("small")).map_err(Into::into)
            }
            None => self.ours().write(file.of.ours, file.ours, offset, data).await,
        };
        if agree("write", &ours, &model)? {
            prop_assert_eq!(ours.expect("agreed"), model.expect("agreed"));
        }
        Ok(())
    }

    async fn read(&self, file: &OpenFile, offset: u64, length: u32) -> Outcome {
        let (ours, model) = self
            .both(
                |fs| fs.read(file.of.ours, file.ours, offset, length),
                |fs| fs.read(file.of.model, file.model, offset, length),
            )
            .await;
        if !agree("read", &ours, &model)? {
            return Ok(());
        }
        let model = model.expect("agreed");
        same_bytes(&ours.expect("agreed"), &model)?;
        if let Some(backing) = &file.backing {
            let mut bytes = vec![0; model.len() + 1];
            let read = backing.read_at(&mut bytes, offset).expect("a local file");
            same_bytes(&bytes[..read.min(model.len())], &model)?;
        }
        self.seek(file, offset).await
    }

    /// What is said to be a hole reads as zeros.
    async fn seek(&self, file: &OpenFile, offset: u64) -> Outcome {
        let size = self.model.getattr(file.of.model, None).await.expect("open").attr.size;
        let zeros = async |from: u64, to: u64| {
            let length = u32::try_from(to - from).expect("small");
            let bytes = self.model.read(file.of.model, file.model, from, length).await.expect("read");
            bytes.iter().all(|byte| *byte == 0)
        };
        match self.ours().lseek(file.of.ours, file.ours, offset, SeekWhence::Data).await {
            Ok(data) => prop_assert!(data >= offset && data < size && zeros(offset, data).await),
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::NothingThere);
                prop_assert!(offset >= size || zeros(offset, size).await);
            }
        }
        match self.ours().lseek(file.of.ours, file.ours, offset, SeekWhence::Hole).await {
            Ok(hole) => prop_assert!(hole >= offset && hole <= size),
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::NothingThere);
                prop_assert!(offset >= size);
            }
        }
        Ok(())
    }

    async fn copy(&mut self, from: (u8, u64), to: (u8, u64), length: u64) -> Outcome {
        let Some(source) = choose(&self.files, from.0).map(|position| &self.files[position]) else {
            return Ok(());
        };
        let Some(target) = self.writable(to.0).filter(|_| source.access.read) else { return Ok(()) };
        let range = |of: Ino, fh, offset| FileRange { ino: of, fh, offset };
        let (ours, model) = self
            .both(
                |fs| {
                    fs.copy_file_range(
                        range(source.of.ours, source.ours, from.1),
                        range(target.of.ours, target.ours, to.1),
                        length,
                    )
                },
                |fs| {
                    fs.copy_file_range(
                        range(source.of.model, source.model, from.1),
                        range(target.of.model, target.model, to.1),
                        length,
                    )
                },
            )
            .await;
        if agree("copy_file_range", &ours, &model)? {
            prop_assert_eq!(ours.expect("agreed"), model.expect("agreed"));
        }
        // Whether a copy of nothing is a change is up to the local filesystem.
        let of = target.of;
        self.touch(of).await
    }

    async fn set(&mut self, both: Both, changes: SetAttr) -> Outcome {
        let (ours, model) = self
            .both(|fs| fs.setattr(both.ours, None, changes), |fs| fs.setattr(both.model, None, changes))
            .await;
        if agree("setattr", &ours, &model)? {
            self.pair_up(&ours.expect("agreed").attr, &model.expect("agreed").attr)?;
        }
        Ok(())
    }

    async fn touch(&mut self, both: Both) -> Outcome {
        self.set(both, SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() }).await
    }

    async fn list(&mut self, number: u8, count: u8, with_attributes: bool) -> Outcome {
        let Some(position) = choose(&self.listings, number) else { return Ok(()) };
        let (of, ours, cookie) =
            (self.listings[position].of, self.listings[position].ours, self.listings[position].cookie);
        let mut page = Names { room: usize::from(count), with_attributes, entries: Vec::new() };
        let listed = self.ours().readdir(of.ours, ours, cookie, &mut page).await;
        agree("readdir", &listed, &Ok(()))?;
        let done = page.entries.len() < page.room;
        for listed in page.entries {
            self.listings[position].cookie = listed.next;
            let Ok(name) = Name::new(&listed.name) else { continue };
            if let Some(entry) = listed.entry {
                prop_assert_eq!(entry.attr.ino, listed.ino);
                // The kernel takes it for a lookup: so it must be true now.
                let found = self.model.lookup(of.model, &name).await.expect("a directory");
                let Lookup::Found(model) = found else {
                    prop_assert!(false, "{name} is listed with attributes, but gone");
                    continue;
                };
                self.looked_up(&entry.attr, &model.attr)?;
            }
            self.listings[position].seen.push(name);
        }
        let listing = &self.listings[position];
        for name in &listing.constant {
            let seen = listing.seen.iter().filter(|seen| *seen == name).count();
            prop_assert!(
                seen == 1 || seen == 0 && !done,
                "{name} was there all the time, and listed {seen} times"
            );
        }
        Ok(())
    }

    async fn close_listing(&mut self, position: usize) -> Outcome {
        let listing = self.listings.swap_remove(position);
        let (of, ours, model) = (listing.of, listing.ours, listing.model);
        let (ours, model) =
            self.both(|fs| fs.releasedir(of.ours, ours), |fs| fs.releasedir(of.model, model)).await;
        agree("releasedir", &ours, &model)?;
        Ok(())
    }

    /// A name may be about to go, or to lead to something else.
    async fn about_to_lose(&mut self, dir: Both, name: &Name) -> Outcome {
        if let Ok(Lookup::Found(found)) = self.model.lookup(dir.model, name).await {
            self.model.forget(found.attr.ino, 1);
            // What is only in the base has no place to note that a name of it is gone.
            self.unaware.insert(found.attr.ino);
        }
        Ok(())
    }

    /// A name may have changed: it was not there all the time, for listings that are under way.
    async fn changed(&mut self, dir: Both, name: &Name) {
        let is_there = matches!(self.model.lookup(dir.model, name).await, Ok(Lookup::Found(found))
            if { self.model.forget(found.attr.ino, 1); true });
        for listing in self.listings.iter_mut().filter(|listing| listing.of == dir && !is_there) {
            listing.constant.remove(name);
        }
    }

    // ---- Comparing ----

    async fn model_names(&self, of: Both, fh: Fh) -> BTreeMap<Name, FileKind> {
        let mut all = Names { room: usize::MAX, ..Names::default() };
        self.model.readdir(of.model, fh, 0, &mut all).await.expect("a directory");
        let names = all.entries.into_iter();
        names.filter_map(|listed| Some((Name::new(&listed.name).ok()?, listed.kind))).collect()
    }

    /// What one inode holds.
    async fn look(&mut self, both: Both, kind: FileKind) -> Outcome {
        match kind {
            FileKind::Regular => {
                let access = Access { read: true, write: false, truncate: false };
                self.open(both, access).await?;
                let position = self.files.len() - 1;
                self.read(&self.files[position], 0, 1 << 20).await?;
                self.close(position).await?;
            }
            FileKind::Symlink => {
                let (ours, model) =
                    self.both(|fs| fs.readlink(both.ours), |fs| fs.readlink(both.model)).await;
                if agree("readlink", &ours, &model)? {
                    prop_assert_eq!(ours.expect("agreed"), model.expect("agreed"));
                }
            }
            _ => {}
        }
        let (ours, model) = self.both(|fs| fs.listxattr(both.ours), |fs| fs.listxattr(both.model)).await;
        if !agree("listxattr", &ours, &model)? {
            return Ok(());
        }
        let names = |listed: &Bytes| -> BTreeSet<Vec<u8>> {
            listed.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let (ours, model) = (names(&ours.expect("agreed")), names(&model.expect("agreed")));
        prop_assert_eq!(&ours, &model, "attributes of {:?}", both);
        for name in ours {
            let (ours, model) =
                self.both(|fs| fs.getxattr(both.ours, &name), |fs| fs.getxattr(both.model, &name)).await;
            prop_assert_eq!(ours.expect("listed"), model.expect("listed"));
        }
        Ok(())
    }

    /// The whole tree.
    pub(crate) async fn check(&mut self) -> Outcome {
        let mut pending = vec![(ROOT, ROOT)];
        let mut forget = Vec::new();
        while let Some((dir, parent)) = pending.pop() {
            for (name, kind) in self.same_names(dir, parent).await? {
                let found = self.lookup(dir, &name).await?;
                prop_assert!(found.is_some(), "{name} is listed, but not there");
                let (both, kind_now) = found.expect("it is there");
                prop_assert_eq!(kind, kind_now);
                forget.push(both);
                self.look(both, kind).await?;
                if kind == FileKind::Directory {
                    pending.push((both, dir));
                }
            }
        }
        for both in forget {
            self.forget(both, 1);
        }
        let work = self.backend().join("work/mnt");
        let left: Vec<_> = work.read_dir().expect("a work directory").collect();
        prop_assert!(left.is_empty(), "left in the work directory: {left:?}");
        Ok(())
    }

    async fn same_names(&mut self, dir: Both, parent: Both) -> Outcome<BTreeMap<Name, FileKind>> {
        let (ours, model) = self.both(|fs| fs.opendir(dir.ours), |fs| fs.opendir(dir.model)).await;
        let (ours, model) = (ours.expect("a directory").fh, model.expect("a directory").fh);
        let expected = self.model_names(dir, model).await;
        let mut all = Names { room: usize::MAX, ..Names::default() };
        let listed = self.ours().readdir(dir.ours, ours, 0, &mut all).await;
        agree("readdir", &listed, &Ok(()))?;
        let dots: Vec<_> = all.entries.iter().take(2).map(|listed| (&listed.name[..], listed.ino)).collect();
        prop_assert_eq!(dots, vec![(&b"."[..], dir.ours), (&b".."[..], parent.ours)]);
        let mut found = BTreeMap::new();
        for listed in &all.entries[2..] {
            let name = Name::new(&listed.name).expect("a name");
            prop_assert!(found.insert(name.clone(), listed.kind).is_none(), "{name} is listed twice");
            let looked_up = self.ours().lookup(dir.ours, &name).await;
            let Ok(Lookup::Found(entry)) = looked_up else {
                prop_assert!(false, "{name} is listed, but {looked_up:?}");
                continue;
            };
            self.ours().forget(entry.attr.ino, 1);
            prop_assert_eq!(entry.attr.ino, listed.ino, "d_ino of {}", name);
            if let Some(model) = self.to_model.get(&listed.ino) {
                prop_assert_eq!(self.to_ours.get(model), Some(&listed.ino));
            }
        }
        let without_numbers = |names: &BTreeMap<Name, FileKind>| -> BTreeMap<Name, FileKind> {
            let listed = |kind: &FileKind| match kind {
                FileKind::CharDevice(_) => FileKind::CharDevice(Device::default()),
                FileKind::BlockDevice(_) => FileKind::BlockDevice(Device::default()),
                kind => *kind,
            };
            names.iter().map(|(name, kind)| (name.clone(), listed(kind))).collect()
        };
        prop_assert_eq!(without_numbers(&found), without_numbers(&expected), "names in {:?}", dir);
        let (ours, model) =
            self.both(|fs| fs.releasedir(dir.ours, ours), |fs| fs.releasedir(dir.model, model)).await;
        agree("releasedir", &ours, &model)?;
        Ok(expected)
    }

    /// Unmounts, and mounts the same upper again.
    pub(crate) async fn remount(&mut self) -> Outcome {
        while !self.files.is_empty() {
            self.close(0).await?;
        }
        while !self.listings.is_empty() {
            self.close_listing(0).await?;
        }
        let held: Vec<_> = self.held.values().copied().collect();
        for (both, lookups) in held.into_iter().filter(|(both, _)| *both != ROOT) {
            self.forget(both, lookups);
        }
        self.ours = None;
        self.mount();
        Ok(())
    }
}

/// Attributes that can be set on a kind of file.
fn attribute(number: u8, kind: FileKind) -> Option<&'static [u8]> {
    const NAMES: [&[u8]; 6] = [
        b"user.base",
        b"user.other",
        b"user.overlay.opaque",
        b"trusted.overlay.metacopy",
        b"trusted.mine",
        b"trusted.overlay.overlay.x",
    ];
    let name = NAMES[usize::from(number) % NAMES.len()];
    let takes_user_attributes = matches!(kind, FileKind::Regular | FileKind::Directory);
    (takes_user_attributes || name.starts_with(b"trusted.")).then_some(name)
}

fn same_bytes(ours: &[u8], model: &[u8]) -> Outcome {
    prop_assert_eq!(ours.len(), model.len(), "length of what was read");
    if let Some(at) = ours.iter().zip(model).position(|(ours, model)| ours != model) {
        prop_assert!(false, "byte {at} is {}, and should be {}", ours[at], model[at]);
    }
    Ok(())
}
