//! A daemon that is killed while local changes are made loses nothing that it acknowledged, and leaves nothing half made.
//!
//! Processes change the mount at random, and write down outside of it what they are about to do and what came of it (see
//! [`journal`]). After each kill the filesystem is mounted again and must look as if each operation that was acknowledged had
//! happened, none that was refused, and the one that nobody answered either way (see [`model`]).
//!
//! The number of kills is `AYSFS_CRASH_KILLS`, the seed of the operations `AYSFS_CRASH_SEED`.

mod contest;
mod journal;
mod load;
mod model;
mod op;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hint;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::io::Errno;
use rustix::process::Signal;

use self::contest::{REGISTERS, name_of};
use self::journal::{End, Record};
use self::load::{Kind, Load, Running};
use self::model::{Model, View, What, differences, is_between, view};
use self::op::Op;
use crate::compare::{Fidelity, assert_same};
use crate::small_disk::SmallDisk;
use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, pack, wait_for};
use crate::tree;

/// How often it is killed if nobody says.
const KILLS: usize = 30;
/// How long the changes pile up before everything begins anew, so that there is always something left to copy up.
const KILLS_PER_LIFE: usize = 10;
/// Whose processes they are, if root can choose.
const WORKERS: [(u32, u32); 3] = [(0, 0), (54_321, 12_345), (0, 0)];
const CONTENDERS: [(u32, u32); 2] = [(0, 0), (54_321, 12_345)];

#[test]
fn kills_at_random_moments_lose_nothing_and_leave_nothing_half_made() {
    let (kills, mut rng) = settings();
    let arena = Arena::new(Lab::new(), None);
    run(&arena, kills, &mut rng);
}

#[test]
fn kills_on_a_disk_that_is_full_lose_nothing_and_leave_nothing_half_made() {
    let (kills, mut rng) = settings();
    let Some(arena) = Arena::on_a_small_disk() else { return };
    run(&arena, kills.div_ceil(5), &mut rng);
}

/// The number of kills, and what chooses the operations.
fn settings() -> (usize, Rng) {
    let number = |name| env::var(name).ok().map(|value| value.parse().expect("a number"));
    let kills =
        number("AYSFS_CRASH_KILLS").map_or(KILLS, |kills: u64| usize::try_from(kills).expect("a few"));
    let seed = number("AYSFS_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("AYSFS_CRASH_SEED={seed}");
    (kills, Rng::with_seed(seed))
}

fn run(arena: &Arena, kills: usize, rng: &mut Rng) {
    let mut libs = LIBS.into_iter().cycle();
    let mut left = kills;
    while left > 0 {
        let kills = left.min(KILLS_PER_LIFE);
        let mut life = Life::begin(arena, libs.next().expect("they come again"));
        for _ in 0..kills {
            life.survive(rng);
        }
        life.compare_with_the_kernel();
        left -= kills;
    }
    arena.assert_base_unharmed();
}

/// A packed tree with something for everyone.
struct Arena {
    disk: Option<SmallDisk>,
    stor: Stor,
    flist: PathBuf,
    source: PathBuf,
    lab: Lab,
}

impl Arena {
    /// One whose local changes and cache lack room all the time.
    fn on_a_small_disk() -> Option<Self> {
        let lab = Lab::new();
        let disk = SmallDisk::mount(&lab, "cache", 32)?;
        Some(Self::new(lab, Some(disk)))
    }

    fn new(lab: Lab, disk: Option<SmallDisk>) -> Self {
        // Others than root must get to the mount point.
        fs::set_permissions(lab.path("."), fs::Permissions::from_mode(0o755)).expect("a mode");
        let source = lab.dir("source");
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).expect("a mode");
        for (number, owner) in owners(&WORKERS).into_iter().enumerate() {
            grow(&source.join(worker(number)), number as u64, owner);
        }
        for (number, (uid, gid)) in owners(&CONTENDERS).into_iter().enumerate() {
            let own = source.join(contender(number));
            fs::create_dir(&own).expect("a directory");
            chown(own, Some(uid), Some(gid)).expect("an owner");
        }
        let shared = source.join("shared");
        fs::create_dir(&shared).expect("a directory");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("a mode");
        for register in 0..REGISTERS / 2 {
            fs::write(shared.join(name_of(register)), tree::noise(register as u64, 70_000)).expect("a file");
        }
        // Nobody touches these, and some have the content of what everybody changes.
        grow(&source.join("frozen"), 99, (0, 0));
        for number in 0..WORKERS.len() {
            for name in ["f2", "a/f0", "a/f2", "b/f0", "a/c/f1", "b/new/f1"] {
                let twin =
                    source.join("frozen").join(format!("{}-{}", worker(number), name.replace('/', "-")));
                fs::copy(source.join(worker(number)).join(name), twin).expect("a copy");
            }
        }
        let stor = Stor::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.url(), "v2");
        Self { disk, stor, flist, source, lab }
    }

    fn mount(&self, lib: &str) -> Mounted {
        Mounted::with(&self.lab, &self.flist, &self.stor.url(), &["--mode", "OL", "--lib", lib])
    }

    /// No file is the cache's and a local change at the same time.
    fn assert_nothing_shared(&self) {
        let inodes = |directory: &str| {
            let files = walkdir::WalkDir::new(self.lab.path("cache").join(directory)).into_iter();
            let files = files.map(|entry| entry.expect("it can be listed").metadata().expect("there"));
            files.filter(fs::Metadata::is_file).map(|meta| meta.ino()).collect::<BTreeSet<_>>()
        };
        let shared: Vec<_> = inodes("cache").intersection(&inodes("upper")).copied().collect();
        assert!(shared.is_empty(), "{shared:?} are in the cache and in the upper directory");
    }

    /// Starts a mount, and kills it before anybody knows how far it got.
    fn kill_while_starting(&self, rng: &mut Rng) {
        let point = self.lab.dir("mnt");
        let daemon = Daemon::start(
            ["mount".as_ref(), self.flist.as_os_str(), point.as_os_str(), "--cache".as_ref()]
                .into_iter()
                .chain([self.lab.path("cache").as_os_str()])
                .chain(["--namespace", "test", "--stor", &self.stor.url(), "--mode", "OL"].map(OsStr::new)),
        );
        spin(rng, Duration::from_millis(60));
        drop(daemon);
    }

    /// The one directory in `cache/<kind>`.
    fn directory(&self, kind: &str) -> PathBuf {
        let all = fs::read_dir(self.lab.path("cache").join(kind)).expect("it was mounted");
        let mut directories = all.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir());
        let found = directories.next().expect("it was mounted");
        assert_eq!(directories.next(), None, "one mount has one directory");
        found
    }

    fn assert_base_unharmed(&self) {
        let mounted = Mounted::new(&self.lab, &self.flist, &self.stor.url());
        assert_same(&self.source, &mounted.point, Fidelity::Everything);
        mounted.stop();
    }
}

/// Local changes, from the first one on.
struct Life<'a> {
    arena: &'a Arena,
    lib: &'static str,
    workers: Vec<View>,
    shared: View,
    frozen: View,
}

impl<'a> Life<'a> {
    fn begin(arena: &'a Arena, lib: &'static str) -> Self {
        if let Some(disk) = &arena.disk {
            disk.free();
        }
        for kind in ["upper", "work"] {
            fs::remove_dir_all(arena.lab.path("cache").join(kind)).ok();
        }
        let look = |name: String| view(&arena.source.join(name)).expect("the source");
        Self {
            arena,
            lib,
            workers: (0..WORKERS.len()).map(|number| look(worker(number))).collect(),
            shared: look("shared".into()),
            frozen: look("frozen".into()),
        }
    }

    /// One kill, and what must be there afterwards.
    fn survive(&mut self, rng: &mut Rng) {
        if rng.u8(..4) == 0 {
            self.arena.kill_while_starting(rng);
        }
        let mut mounted = self.arena.mount(self.lib);
        if rng.bool() {
            // Now it knows all directories.
            view(&mounted.point).expect("it can be looked at");
        }
        if let Some(disk) = &self.arena.disk {
            disk.leave(rng.u64(..2 << 20));
        }
        let mut start = |kind, name: String, owner| {
            let point = &mounted.point;
            let journal = self.arena.lab.path(&format!("journal-{kind:?}-{name}"));
            let (own, shared) = (point.join(name), point.join("shared"));
            Load { kind, own, shared, journal, owner, seed: rng.u64(..) }.start()
        };
        let owned = owners(&WORKERS).into_iter().enumerate();
        let mut workers: Vec<_> =
            owned.map(|(number, owner)| start(Kind::Worker, worker(number), owner)).collect();
        let owned = owners(&CONTENDERS).into_iter().enumerate();
        let contenders: Vec<_> =
            owned.map(|(number, owner)| start(Kind::Contender, contender(number), owner)).collect();
        // They read where others write: what passes through is given away under them.
        let readers: Vec<_> = (0..WORKERS.len())
            .map(|number| start(Kind::Reader, worker(number), owners(&[(0, 0)])[0]))
            .collect();

        let enough = rng.u64(2_000..120_000);
        wait_for("enough operations", || {
            assert!(!workers.iter_mut().any(Running::has_ended), "{}", mounted.daemon.log());
            workers.iter().chain(&contenders).map(Running::progress).sum::<u64>() > enough
        });
        spin(rng, Duration::from_millis(3));
        kill(&mut mounted);
        readers.into_iter().for_each(Running::end);
        let records: Vec<_> = workers.into_iter().map(Running::operations).collect();
        let changes: Vec<_> = contenders.into_iter().flat_map(Running::changes).collect();

        let mut mounted = self.arena.mount(self.lib);
        let left = fs::read_dir(self.arena.directory("work")).expect("the work directory");
        let left: Vec<_> = left.map(|entry| entry.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{left:?} in the work directory");
        self.arena.assert_nothing_shared();
        let look = |name: &str| view(&mounted.point.join(name)).expect("it can be looked at");
        for (number, records) in records.iter().enumerate() {
            let found = look(&worker(number));
            let owner = owners(&WORKERS)[number];
            check(&self.workers[number], records, &found, owner, self.arena.disk.is_some());
            self.workers[number] = found;
        }
        let shared = look("shared");
        let wrong = contest::check(&self.shared, &changes, &shared);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.shared = shared;
        if let Some(disk) = &self.arena.disk {
            disk.free();
        }
        let wrong = differences(&self.frozen, &look("frozen"));
        assert!(wrong.is_empty(), "what nobody touched changed:\n{}", wrong.join("\n"));
        if rng.bool() {
            kill(&mut mounted);
        } else {
            mounted.stop();
        }
    }

    /// The kernel finds the same in the upper directory.
    fn compare_with_the_kernel(&self) {
        let filesystems = fs::read_to_string("/proc/filesystems").expect("the kernel lists them");
        if !rustix::process::geteuid().is_root() || !filesystems.contains("overlay") {
            println!("skipped: root and a kernel with overlayfs are needed to compare with it");
            return;
        }
        let point = self.arena.lab.dir("kernel");
        let layers = format!("{}:{}", self.arena.directory("upper").display(), self.arena.source.display());
        let status = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(format!("ro,redirect_dir=follow,metacopy=on,lowerdir={layers}"))
            .arg(&point)
            .status()
            .expect("mount runs");
        assert!(status.success(), "the kernel does not take the upper directory");
        let look = |name: &str| view(&point.join(name)).expect("it can be looked at");
        let mut wrong: Vec<_> = differences(&self.shared, &look("shared"));
        for (number, expected) in self.workers.iter().enumerate() {
            wrong.extend(differences(expected, &look(&worker(number))));
        }
        // A process that another test just starts may hold it for a moment.
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        assert!(wrong.is_empty(), "the kernel sees something else:\n{}", wrong.join("\n"));
    }
}

/// Whether `found` is what the operations made of `before`; on a small disk any of them may find no room.
#[track_caller]
fn check(before: &View, records: &[Record<Op>], found: &View, owner: (u32, u32), is_small: bool) {
    let mut model = Model::new(before, owner);
    let (mut unanswered, mut cut_short) = (None, None);
    for (number, record) in records.iter().enumerate() {
        match record.end {
            End::Done(_, moved) => {
                if moved < record.op.length() {
                    // The kernel sends a long write in pieces: what it has an answer for is acknowledged, and the piece that
                    // the daemon died of may be there as well.
                    let mut whole = model.clone();
                    cut_short = whole
                        .apply(&record.op, record.op.length())
                        .ok()
                        .map(|()| (model.may_be_partial(&record.op), whole.view()));
                }
                if let Err(error) = model.apply(&record.op, moved) {
                    panic!(
                        "{:?} was done, and should have been {error}\n{}",
                        record.op,
                        story(records, number)
                    );
                }
            }
            End::Failed(_, errno) if errno == Errno::NOSPC.raw_os_error() && is_small => {
                model.fail_for_lack_of_room(&record.op);
            }
            End::Failed(_, errno) => {
                let done = model.clone().apply(&record.op, 0);
                let errno = Errno::from_raw_os_error(errno);
                assert!(done.is_err(), "{:?} was {errno}\n{}", record.op, story(records, number));
            }
            End::Unknown => {
                assert_eq!(number, records.len() - 1, "only the last one can have no answer");
                unanswered = Some(&record.op);
            }
        }
    }
    let mut without = model.view();
    let mut wrong = differences(&without, found);
    if wrong.is_empty() {
        return;
    }
    if let Some((paths, whole)) = cut_short {
        accept_part(&mut without, &paths, &whole, found);
        wrong = differences(&without, found);
        if wrong.is_empty() {
            return;
        }
    }
    if let Some(op) = unanswered {
        // What was copied up for it may have been all that happened: then the time of a directory may not be back in place.
        forget_directory_times(&mut without);
        if differences(&without, found).is_empty() {
            return;
        }
        let paths = model.may_be_partial(op);
        // A copy ends where its source ends.
        let done = (0..=op.length()).rev().any(|moved| model.apply(op, moved).is_ok());
        let mut with = model.view();
        forget_directory_times(&mut with);
        if done {
            let mut part = without.clone();
            accept_part(&mut part, &paths, &with, found);
            if differences(&part, found).is_empty() {
                return;
            }
        }
        let wrong_with = differences(&with, found);
        if done && wrong_with.is_empty() {
            return;
        }
        wrong.push(format!("or, with {op:?}:"));
        wrong.extend(wrong_with);
    }
    panic!("{}\n{}", wrong.join("\n"), story(records, records.len()));
}

/// Lets a file that was written to be anything between what it was and what it was to be.
fn accept_part(view: &mut View, paths: &[PathBuf], whole: &View, found: &View) {
    for path in paths {
        let contents =
            [view.get(path), whole.get(path), found.get(path)].map(|seen| seen.map(|seen| &seen.what));
        if let [Some(What::File(old)), Some(What::File(new)), Some(What::File(part))] = contents
            && is_between(old, new, part)
        {
            let part = What::File(part.clone());
            let seen = view.get_mut(path).expect("just now");
            (seen.what, seen.mtime) = (part, None);
        }
    }
}

fn forget_directory_times(view: &mut View) {
    for seen in view.values_mut().filter(|seen| seen.what == What::Directory) {
        seen.mtime = None;
    }
}

/// The last operations before one.
fn story(records: &[Record<Op>], until: usize) -> String {
    let first = until.saturating_sub(60);
    let lines = records[first..until].iter().map(|record| format!("{:?} {:?}", record.op, record.end));
    lines.collect::<Vec<_>>().join("\n")
}

fn kill(mounted: &mut Mounted) {
    mounted.daemon.signal(Signal::KILL);
    let status = mounted.daemon.wait();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it ended by itself:\n{}", mounted.daemon.log());
}

/// Lets some time pass, so that no two kills are alike.
fn spin(rng: &mut Rng, at_most: Duration) {
    let (start, time) = (Instant::now(), at_most.mul_f64(rng.f64()));
    while start.elapsed() < time {
        hint::spin_loop();
    }
}

fn worker(number: usize) -> String {
    format!("worker{number}")
}

fn contender(number: usize) -> String {
    format!("contender{number}")
}

/// Root chooses; everybody else is who they are.
fn owners(wanted: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let this = (rustix::process::geteuid(), rustix::process::getegid());
    let this = (this.0.as_raw(), this.1.as_raw());
    wanted.iter().map(|wanted| if this.0 == 0 { *wanted } else { this }).collect()
}

/// A tree of one owner: files of all sizes, hard links, symlinks, attributes.
fn grow(root: &Path, seed: u64, (uid, gid): (u32, u32)) {
    for directory in ["", "a", "a/c", "b", "b/new"] {
        fs::create_dir(root.join(directory)).expect("a directory");
    }
    let sizes = [0, 1, 4096, 10_000, 100_000, 250_000, 65_536, 5, 300, 20_000, 4097, 130_000];
    let names = [
        "f0", "f1", "f2", "a/f0", "a/f1", "a/f2", "b/f0", "b/f3", "a/c/f0", "a/c/f1", "b/new/f1", "b/new/f2",
    ];
    for (name, size) in names.into_iter().zip(sizes) {
        fs::write(root.join(name), tree::noise(seed + size as u64, size)).expect("a file");
    }
    let holes = fs::File::create(root.join("a/f3")).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&holes, &tree::noise(seed, 9000), 150_000).expect("some data");
    holes.set_len(200_000).expect("a hole at the end");
    symlink("nowhere", root.join("f3")).expect("a symlink");
    fs::hard_link(root.join("f2"), root.join("hard1")).expect("a hard link");
    fs::hard_link(root.join("f2"), root.join("b/hard2")).expect("a hard link");
    fs::hard_link(root.join("a/f2"), root.join("a/c/hard1")).expect("a hard link");
    xattr::set(root.join("a/f1"), "user.one", &tree::noise(seed, 50)).expect("an attribute");
    let mut all: BTreeMap<PathBuf, _> = view(root).expect("it was made");
    for (path, _) in std::mem::take(&mut all) {
        let path = root.join(path);
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).expect("an owner");
        let is_symlink = path.symlink_metadata().expect("it was made").mode() & 0o170_000 == 0o120_000;
        if !is_symlink {
            let perm = if path.is_dir() { 0o750 } else { 0o640 };
            fs::set_permissions(&path, fs::Permissions::from_mode(perm)).expect("a mode");
        }
    }
}
