//! A daemon that is killed leaves nothing wrong behind, and nothing that lies in its directories is believed before
//! it is verified.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aysfs_store::fault::ServerTrouble;
use rustix::process::Signal;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Faulty, Lab, Mounted, Object, objects, pack, wait_for};
use crate::tree;

/// A packed tree, and a cache that outlives its daemons.
struct Trial {
    stor: Faulty,
    flist: PathBuf,
    objects: BTreeMap<PathBuf, Object>,
    source: PathBuf,
    lab: Lab,
}

impl Trial {
    fn new(format: &str, grow: impl Fn(&Path)) -> Self {
        let lab = Lab::new();
        let source = lab.dir("source");
        grow(&source);
        let stor = Faulty::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.direct(), format);
        Self { stor, objects: objects(&flist), flist, source, lab }
    }

    fn mount(&self) -> Mounted {
        Mounted::new(&self.lab, &self.flist, &self.stor.url())
    }

    fn expected(&self, path: &Path) -> Vec<u8> {
        fs::read(self.source.join(path)).expect("the source")
    }

    /// Where the cache keeps a file.
    fn cached(&self, path: impl AsRef<Path>) -> PathBuf {
        let id = &self.objects[path.as_ref()].id;
        self.lab.path("cache/cache").join(&id[..2]).join(id)
    }

    /// The files that the cache has. Each of them must be what its name says.
    fn verified(&self) -> Vec<&Object> {
        let by_id: BTreeMap<_, _> =
            self.objects.iter().map(|(path, object)| (&object.id, (path, object))).collect();
        let mut found = Vec::new();
        // Before the first mount there is no cache.
        for dir in fs::read_dir(self.lab.path("cache/cache")).into_iter().flatten() {
            let dir = dir.expect("an entry");
            // What is in packs is verified at each read.
            if ["partial", "packs"].iter().any(|name| dir.file_name() == *name) {
                continue;
            }
            for file in fs::read_dir(dir.path()).expect("a directory") {
                let file = file.expect("an entry");
                let id = file.file_name().into_string().expect("hex digits");
                let (path, object) = by_id[&id];
                let read = fs::read(file.path()).expect("a cached file");
                assert!(read == self.expected(path), "{path:?} is wrong in the cache");
                found.push(object);
            }
        }
        found
    }
}

fn kill(mounted: &mut Mounted) {
    mounted.daemon.signal(Signal::KILL);
    mounted.daemon.wait();
}

#[test]
fn a_kill_in_the_middle_of_a_fetch_leaves_nothing_wrong() {
    {
        let trial = Trial::new("v1-long", |source| {
            fs::write(source.join("large"), tree::noise(1, 3_000_000)).expect("a file");
        });
        let large = &trial.objects[Path::new("large")];
        let mut mounted = trial.mount();
        trial.stor.set(ServerTrouble::Stall(2_000_000));
        let path = mounted.point.join("large");
        let reader = thread::spawn(move || fs::read(path));
        // Bytes arrive: the file without a name that they are written to is open.
        let descriptors = PathBuf::from(format!("/proc/{}/fd", mounted.daemon.pid()));
        wait_for("the first bytes", || {
            let open = fs::read_dir(&descriptors).expect("it runs").flatten();
            open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| {
                target.starts_with(trial.lab.path("cache/cache"))
                    && target.to_string_lossy().ends_with("(deleted)")
            })
        });
        kill(&mut mounted);
        reader.join().expect("a reader").expect_err("nobody can have served it");
        assert_eq!(trial.verified(), Vec::<&Object>::new());

        trial.stor.set(ServerTrouble::None);
        let before = trial.stor.gets(large);
        let mounted = trial.mount();
        assert!(mounted.read("large").expect("read") == trial.expected(Path::new("large")));
        assert_eq!(trial.stor.gets(large), before + 1);
        assert_eq!(trial.verified(), [large]);
        mounted.stop();
    }
}

/// 300 files of which no two are the same.
fn mixed(source: &Path) {
    for number in 0..300usize {
        let length = match number % 10 {
            9 => 600_000,
            8 => 150_000,
            odd if odd % 2 == 1 => 4096 * odd,
            even => 500 * even + 10,
        };
        let path = source.join(format!("dir{}/file{number}", number % 7));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, tree::noise(number as u64, length)).expect("a file");
    }
}

#[test]
fn a_kill_in_the_middle_of_a_pack_leaves_nothing_wrong() {
    let trial = Trial::new("v2", |source| {
        fs::write(source.join("large"), tree::noise(1, 3_000_000)).expect("a file");
        fs::write(source.join("small"), tree::noise(2, 3_000)).expect("a file");
    });
    for name in ["large", "small"] {
        let mut mounted = trial.mount();
        let before = trial.stor.gets(&trial.objects[Path::new("small")]);
        trial.stor.set(ServerTrouble::Stall(2_000));
        let path = mounted.point.join(name);
        let reader = thread::spawn(move || fs::read(path));
        wait_for("a request", || trial.stor.gets(&trial.objects[Path::new("small")]) > before);
        kill(&mut mounted);
        reader.join().expect("a reader").expect_err("nobody can have served it");
        trial.stor.set(ServerTrouble::None);
    }
    let mounted = trial.mount();
    assert_same(&trial.source, &mounted.point, Fidelity::Everything);
    mounted.stop();
}

#[test]
fn twenty_kills_at_any_moment_leave_nothing_wrong_and_lose_nothing() {
    thread::scope(|scope| {
        for format in ["v1-long", "v2"] {
            scope.spawn(|| twenty_kills(format));
        }
    });
}

fn twenty_kills(format: &str) {
    const KILLS: usize = 20;
    const READERS: usize = 4;
    let trial = Trial::new(format, mixed);
    // Those of a pack are fetched together.
    let are_objects = format != "v2";
    let paths: Vec<_> = trial.objects.keys().collect();
    assert_eq!(paths.len(), 300);
    for round in 0..KILLS {
        let survivors = trial.verified();
        let asked_before: Vec<_> = survivors.iter().map(|object| trial.stor.gets(object)).collect();
        let mut mounted = trial.mount();
        let point = mounted.point.clone();
        let (read, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        // Each round begins elsewhere and ends after another number of reads.
        let die_after = 1 + round * 37 % 23;
        thread::scope(|scope| {
            for reader in 0..READERS {
                let (trial, paths, point, read, over) = (&trial, &paths, &point, &read, &over);
                scope.spawn(move || {
                    for step in 0..1000 {
                        if over.load(Ordering::SeqCst) {
                            break;
                        }
                        let path = paths[(reader * 75 + round * 13 + step * 7) % paths.len()];
                        match fs::read(point.join(path)) {
                            Ok(bytes) => assert!(bytes == trial.expected(path), "{path:?} was read wrong"),
                            Err(error) => {
                                assert!(is_dead(&error) && over.load(Ordering::SeqCst), "{path:?}: {error}");
                            }
                        }
                        read.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            wait_for("enough reads", || read.load(Ordering::SeqCst) >= die_after);
            over.store(true, Ordering::SeqCst);
            kill(&mut mounted);
        });
        for (object, before) in survivors.iter().zip(asked_before).filter(|_| are_objects) {
            assert_eq!(trial.stor.gets(object), before, "{object:?} was fetched although it was cached");
        }
        trial.verified();
    }
    let mounted = trial.mount();
    let fidelity = if are_objects { Fidelity::Seconds } else { Fidelity::Everything };
    assert_same(&trial.source, &mounted.point, fidelity);
    mounted.stop();
    assert!(!are_objects || trial.verified().len() == 300);
}

/// What a reader may see when nobody serves the mount any more.
fn is_dead(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[test]
fn a_cached_file_that_was_tampered_with_is_never_read_wrong() {
    type Tamper = fn(&Path);
    let tampers: [(&str, Tamper); 9] = [
        ("a flipped byte under the old mtime", |path| flip_under_the_old_mtime(path, 4321)),
        ("a flipped byte", |path| flip(path, 0)),
        ("a truncated file", |path| truncate(path, 5)),
        ("an empty file", |path| truncate(path, 0)),
        ("a longer file", |path| truncate(path, 90_000)),
        ("a symlink", |path| {
            let elsewhere = path.with_extension("elsewhere");
            fs::write(&elsewhere, tree::noise(99, 50_000)).expect("a file");
            fs::remove_file(path).expect("removed");
            symlink(elsewhere, path).expect("a symlink");
        }),
        ("a directory", |path| {
            fs::remove_file(path).expect("removed");
            fs::create_dir(path).expect("a directory");
        }),
        ("a foreign owner", |path| {
            flip(path, 1);
            chown(path, Some(1234), Some(1234)).expect("an owner");
        }),
        ("a file that anyone may write to", |path| {
            flip_under_the_old_mtime(path, 2);
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("a mode");
        }),
    ];
    for format in ["v1-long", "v2"] {
        let trial = Trial::new(format, |source| {
            for number in 0..tampers.len() {
                fs::write(source.join(number.to_string()), tree::noise(number as u64, 80_000))
                    .expect("a file");
            }
        });
        let mounted = trial.mount();
        for number in 0..tampers.len() {
            mounted.read(&number.to_string()).expect("read");
        }
        mounted.stop();
        // A change in the second of the publication, or in the next one, cannot be told from it by its time; and the
        // clock of the filesystem is a little late.
        let last = trial.cached((tampers.len() - 1).to_string());
        let published =
            UNIX_EPOCH + Duration::from_secs(fs::metadata(last).expect("cached").ctime().unsigned_abs());
        let past = published + Duration::from_millis(2100);
        wait_for("the time of the publication to pass", || SystemTime::now() > past);
        for (number, (_, tamper)) in tampers.iter().enumerate() {
            tamper(&trial.cached(number.to_string()));
        }

        let mounted = trial.mount();
        for (number, (what, _)) in tampers.iter().enumerate() {
            let name = number.to_string();
            let read = mounted.read(&name).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(read == trial.expected(Path::new(&name)), "{what} was believed");
        }
        mounted.stop();
    }
}

#[test]
fn a_pack_in_the_cache_that_was_tampered_with_is_never_read_wrong() {
    type Tamper = fn(&Path);
    let tampers: [(&str, Tamper); 7] = [
        ("flipped bytes under the old mtime", |path| {
            (0..40).for_each(|n| flip_under_the_old_mtime(path, n * 5000 + 17));
        }),
        ("a truncated file", |path| truncate(path, 70_000)),
        ("an empty file", |path| truncate(path, 0)),
        ("a longer file", |path| truncate(path, 10_000_000)),
        ("a symlink", |path| {
            let elsewhere = path.with_extension("elsewhere");
            fs::rename(path, &elsewhere).expect("moved");
            symlink(elsewhere, path).expect("a symlink");
        }),
        ("another name", |path| fs::hard_link(path, path.with_extension("other")).expect("a link")),
        ("a directory", |path| {
            fs::remove_file(path).expect("removed");
            fs::create_dir(path).expect("a directory");
        }),
    ];
    let trial = Trial::new("v2", |source| {
        (0..40).for_each(|n| fs::write(source.join(n.to_string()), tree::noise(n, 5_000)).expect("a file"));
    });
    let pack = trial.lab.path("cache/cache/packs").join(&trial.objects[Path::new("0")].key);
    for (what, tamper) in tampers {
        let mounted = trial.mount();
        assert_same(&trial.source, &mounted.point, Fidelity::Everything);
        mounted.stop();
        tamper(&pack);
        let mounted = trial.mount();
        for number in 0..40 {
            let name = number.to_string();
            let read = mounted.read(&name).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(read == tree::noise(number, 5_000), "{what} was believed");
        }
        mounted.stop();
        fs::remove_dir_all(trial.lab.path("cache")).expect("the next one begins without it");
    }
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("another byte");
}

fn flip_under_the_old_mtime(path: &Path, offset: u64) {
    let before = fs::metadata(path).and_then(|meta| meta.modified()).expect("a time");
    flip(path, offset);
    File::options().write(true).open(path).expect("opened").set_modified(before).expect("a time");
}

fn truncate(path: &Path, length: u64) {
    File::options().write(true).open(path).expect("opened").set_len(length).expect("a length");
}

#[test]
fn a_damaged_index_or_seal_is_made_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("a flipped byte", |path| {
            let middle = fs::metadata(path).expect("it is there").len() / 2;
            flip(path, middle);
        }),
        ("a flipped byte under the old mtime", |path| {
            let end = fs::metadata(path).expect("it is there").len() - 9;
            flip_under_the_old_mtime(path, end);
        }),
        ("half of it", |path| truncate(path, fs::metadata(path).expect("it is there").len() / 2)),
        ("nothing in it", |path| truncate(path, 0)),
        ("garbage", |path| fs::write(path, tree::noise(3, 5000)).expect("written")),
        ("nothing at all", |path| fs::remove_file(path).expect("removed")),
    ];
    let trial = Trial::new("v2", |source| tree::odd(&source.join("odd")));
    trial.mount().stop();
    let dir = trial.lab.path("cache/index");
    for kind in ["index", "seal", "list"] {
        for (what, damage) in &damages {
            // What a mount makes anew is there for the next damage; a seal and a list as soon as they are not new.
            let of_kind = || -> Vec<PathBuf> {
                let files = fs::read_dir(&dir).expect("indexes").map(|entry| entry.expect("an entry").path());
                files.filter(|path| path.extension().is_some_and(|extension| extension == kind)).collect()
            };
            wait_for("the file to be made", || {
                !of_kind().is_empty() || {
                    trial.mount().stop();
                    false
                }
            });
            of_kind().iter().for_each(|path| damage(path));
            let mounted = trial.mount();
            // The content is compared at the end; each listing and each attribute comes from the index.
            assert_eq!(listing(&mounted.point), listing(&trial.source), "{what} of the {kind}");
            mounted.stop();
        }
    }
    let mounted = trial.mount();
    assert_same(&trial.source, &mounted.point, Fidelity::Everything);
    mounted.stop();
}

/// Names, modes, sizes and times of a whole tree.
fn listing(root: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().expect("stat");
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).expect("listed").map(|entry| entry.expect("an entry").path()));
        }
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let relative = path.strip_prefix(root).expect("below the root").to_owned();
        all.insert(relative, (meta.mode(), size, meta.mtime(), meta.mtime_nsec()));
    }
    all
}

#[test]
fn a_flist_that_is_replaced_shows_at_the_next_mount() {
    replaced("v1-long");
    replaced("v2");
}

fn replaced(format: &str) {
    let trial = Trial::new(format, |source| {
        fs::write(source.join("same"), b"the same in both").expect("a file");
        fs::write(source.join("changed"), b"old").expect("a file");
        fs::write(source.join("removed"), b"gone later").expect("a file");
    });
    let mounted = trial.mount();
    assert_eq!(mounted.read("same").expect("read"), b"the same in both");

    fs::write(trial.source.join("changed"), b"newer").expect("a file");
    fs::remove_file(trial.source.join("removed")).expect("removed");
    fs::write(trial.source.join("added"), b"not there before").expect("a file");
    assert_eq!(pack(&trial.lab, &trial.source, &trial.stor.direct(), format), trial.flist);
    assert_eq!(mounted.read("changed").expect("read"), b"old");
    assert_eq!(mounted.read("removed").expect("read"), b"gone later");
    assert_eq!(mounted.read("added").expect_err("not in this mount").kind(), io::ErrorKind::NotFound);
    // Even if it is gone, or wrong.
    fs::rename(&trial.flist, trial.lab.path("kept")).expect("renamed");
    assert_eq!(fs::read_dir(&mounted.point).expect("listed").count(), 3);
    mounted.stop();

    fs::rename(trial.lab.path("kept"), &trial.flist).expect("renamed");
    let mounted = trial.mount();
    let fidelity = if format == "v2" { Fidelity::Everything } else { Fidelity::Seconds };
    assert_same(&trial.source, &mounted.point, fidelity);
    mounted.stop();
    // Each has its own pack.
    assert_eq!(trial.stor.gets(&trial.objects[Path::new("same")]), 1, "{format}: it was cached");
}
