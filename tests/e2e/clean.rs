//! The cache within its limits: while many read and write, by age, on a full disk, and when somebody asks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{Advice, fadvise};

use crate::small_disk::SmallDisk;
use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, is_mounted, objects, pack, run, run_ok, wait_for};
use crate::tree;

const MIB: u64 = 1 << 20;

/// A packed directory of files without order.
struct Place {
    stor: Stor,
    flist: PathBuf,
    lab: Lab,
}

impl Place {
    /// Each file is an object of its own, and has a file of its own in the cache.
    fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self::in_lab(Lab::new(), lengths, "v1-long")
    }

    fn in_lab(lab: Lab, lengths: impl IntoIterator<Item = usize>, format: &str) -> Self {
        let source = lab.dir("source");
        for (number, length) in lengths.into_iter().enumerate() {
            fs::write(source.join(format!("f{number}")), tree::noise(number as u64, length)).expect("a file");
        }
        let stor = Stor::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.url(), format);
        Self { stor, flist, lab }
    }

    fn mount(&self, more: &[&str]) -> Mounted {
        Mounted::with(&self.lab, &self.flist, &self.stor.url(), more)
    }

    /// Mounts with a config that has these lines in its backend.
    fn configured(&self, mode: &str, backend: &str) -> Mounted {
        let point = self.lab.dir("mnt");
        let config = format!(
            "[[mount]]\npath = {point:?}\nbackend = \"main\"\nmode = \"{mode}\"\nflist = {:?}\n\
             [backend.main]\npath = {:?}\nstor = \"stor\"\nnamespace = \"test\"\ncache_min_free = \"0\"\n{backend}\n\
             [stor.stor]\nurl = \"{}\"\n",
            self.flist,
            self.lab.path("cache"),
            self.stor.url()
        );
        let config = self.lab.file("config.toml", config);
        let mut daemon = Daemon::start([OsStr::new("--config"), config.as_os_str()]);
        daemon.wait_for_log("all mounts are up");
        assert!(!daemon.log().contains("without effect"), "{}", daemon.log());
        assert!(is_mounted(&point));
        Mounted { daemon, point }
    }

    /// Where the content of a file is in the cache.
    fn cached(&self, number: usize) -> PathBuf {
        let id = objects(&self.flist)[Path::new(&format!("f{number}"))].id.clone();
        self.lab.path("cache/cache").join(&id[..2]).join(id)
    }

    /// As if nobody had read a file for two hours.
    fn age(&self, number: usize) {
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let file = File::open(self.cached(number)).expect("cached");
        file.set_modified(long_ago).expect("a time");
    }
}

/// What `aysfs cache` says, as numbers.
fn cache(args: &[&OsStr]) -> BTreeMap<String, Option<u64>> {
    let args = [&[OsStr::new("cache")], args, &[OsStr::new("--json")]].concat();
    serde_json::from_str(&run_ok(args)).expect("JSON")
}

fn clean(dir: &Path, more: &[&str]) -> BTreeMap<String, Option<u64>> {
    let more: Vec<_> = more.iter().map(OsStr::new).collect();
    cache(&[&[OsStr::new("clean"), dir.as_os_str()], &more[..]].concat())
}

/// Reads a file anew, past what the kernel has kept of it.
fn read_anew(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the cache takes of the disk: its files, and what its process is writing without a name.
fn taken(cache: &Path, pid: u32) -> (u64, u64) {
    let mut inodes = BTreeMap::new();
    for folder in fs::read_dir(cache).expect("the cache").flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if let Ok(meta) = file.metadata() {
                inodes.insert(meta.ino(), meta.blocks() * 512);
            }
        }
    }
    let named = inodes.values().sum();
    for open in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if fs::read_link(open.path()).is_ok_and(|to| to.starts_with(cache))
            && let Ok(meta) = fs::metadata(open.path())
            && meta.is_file()
        {
            inodes.entry(meta.ino()).or_insert(meta.blocks() * 512);
        }
    }
    (named, inodes.values().sum())
}

#[test]
fn the_size_of_the_cache_holds_under_load_and_no_reader_notices() {
    const FILES: usize = 160;
    const READERS: u64 = 8;
    const WRITERS: usize = 4;
    const LARGEST: u64 = 256 << 10;
    const SIZE: u64 = 6 * MIB;
    // What is in use stays, and a file that is about to be changed is needed at any rate.
    const TOLERANCE: u64 = (READERS + WRITERS as u64) * LARGEST;

    let length = |number: usize| (16 << 10) + number * 7919 % (240 << 10);
    for (format, backend) in [
        ("v1-long", "lib = \"fuser\""),
        ("v2", "lib = \"fuser\""),
        ("v1-long", "lib = \"fuser\"\npassthrough = \"off\""),
        ("v2", "lib = \"polyfuse\""),
    ] {
        let place = Place::in_lab(Lab::new(), (0..FILES).map(length), format);
        let mounted = place.configured("OL", &format!("{backend}\ncache_size = \"6MiB\""));
        let (cache, pid) = (place.lab.path("cache/cache"), mounted.daemon.pid());
        let is_over = AtomicBool::new(false);
        let most = thread::scope(|scope| {
            let measured = scope.spawn(|| {
                let mut most = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let (named, all) = taken(&cache, pid);
                    most = (named.max(most.0), all.max(most.1));
                }
                most
            });
            let readers: Vec<_> = (0..READERS)
                .map(|reader| {
                    let point = &mounted.point;
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(reader);
                        for _ in 0..150 {
                            // The last ones are changed by writers.
                            let number = random.usize(..FILES - 2 * WRITERS);
                            let read = read_anew(&point.join(format!("f{number}"))).expect("readable");
                            assert!(
                                read == tree::noise(number as u64, length(number)),
                                "f{number}: wrong bytes"
                            );
                        }
                    })
                })
                .collect();
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let point = &mounted.point;
                    scope.spawn(move || {
                        for number in [FILES - 1 - writer, FILES - 1 - WRITERS - writer] {
                            let path = point.join(format!("f{number}"));
                            let mut expected = tree::noise(number as u64, length(number));
                            // Open before and after it changes sides.
                            let mut reader = File::open(&path).expect("opened");
                            for round in 0..20_u8 {
                                let mut file = File::options().append(true).open(&path).expect("opened");
                                file.write_all(&[round; 3000]).expect("written");
                                expected.extend_from_slice(&[round; 3000]);
                                assert!(fs::read(&path).expect("readable") == expected, "f{number}");
                                fs::write(point.join(format!("new{writer}-{round}")), &expected)
                                    .expect("written");
                            }
                            let mut read = Vec::new();
                            reader.read_to_end(&mut read).expect("readable");
                            assert!(read == expected, "f{number}");
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = readers.into_iter().chain(writers).map(|thread| thread.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            ended.into_iter().for_each(|ended| ended.expect("a thread has found something wrong"));
            measured.join().expect("measured")
        });
        println!(
            "{format}, {backend}: at most {} bytes with names, {} with what was being written",
            most.0, most.1
        );
        assert!(most.0 <= SIZE + TOLERANCE && most.1 <= SIZE + TOLERANCE, "{backend}: {most:?}");
        assert!(most.0 > SIZE / 2, "{most:?}: it was never nearly full");
        let log = mounted.daemon.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        wait_for("the cache to be within its size", || taken(&cache, pid).1 <= SIZE);
        mounted.stop();
    }
}

#[test]
fn a_file_larger_than_the_cache_is_read_and_drives_nothing_out() {
    let place = Place::new([3 << 20, 100_000]);
    for lib in LIBS {
        let mounted = place.mount(&["--lib", lib, "--cache-size", "1MiB"]);
        for _ in 0..2 {
            for (number, length) in [(1, 100_000), (0, 3 << 20)] {
                let read = read_anew(&mounted.point.join(format!("f{number}"))).expect("readable");
                assert!(read == tree::noise(number, length), "{lib}");
            }
        }
        assert!(place.cached(1).exists() && !place.cached(0).exists(), "{lib}");
        mounted.stop();
    }
}

#[test]
fn what_was_not_read_for_long_is_cleaned_when_asked_with_and_without_a_process() {
    let place = Place::new([50_000; 4]);
    let mounted = place.mount(&[]);
    (0..4).for_each(|number| drop(mounted.read(&format!("f{number}")).expect("readable")));
    let point = mounted.point.clone();
    let stat = cache(&[OsStr::new("stat"), point.as_os_str()]);
    assert_eq!((stat["files"], stat["bytes"]), (Some(4), Some(4 * 53_248)));
    mounted.stop();
    place.age(0);
    place.age(1);

    let backend = place.lab.path("cache");
    let refused = run([OsStr::new("cache"), OsStr::new("clean"), backend.as_os_str()]);
    assert_eq!(refused.status.code(), Some(2));
    let none = run([OsStr::new("cache"), OsStr::new("stat"), place.lab.path("source").as_os_str()]);
    assert_eq!(none.status.code(), Some(1));
    let is_there = || (0..4).map(|number| place.cached(number).exists()).collect::<Vec<_>>();

    let would = clean(&backend, &["--older-than", "1h", "--dry-run"]);
    assert_eq!((would["files"], would["evicted_files"]), (Some(4), Some(2)));
    assert_eq!(is_there(), [true; 4]);
    // Read again, so it stays.
    let mounted = place.mount(&[]);
    mounted.read("f1").expect("readable");
    let cleaned = clean(&mounted.point, &["--older-than", "1h"]);
    assert_eq!((cleaned["files"], cleaned["evicted_files"]), (Some(4), Some(1)));
    assert_eq!(is_there(), [false, true, true, true]);
    mounted.stop();

    let cleaned = clean(&backend, &["--size", "120kB"]);
    assert_eq!(cleaned["evicted_files"], Some(1), "the oldest of them");
    assert_eq!(clean(&backend, &["--size", "0"])["evicted_files"], Some(2));
    let mounted = place.mount(&[]);
    assert!(mounted.read("f0").expect("fetched again") == tree::noise(0, 50_000));
    mounted.stop();
}

#[test]
fn the_schedule_of_a_backend_cleans_what_is_too_old() {
    let place = Place::new([50_000; 2]);
    let mounted = place.configured("RO", "cleanup_older_than = 1");
    (0..2).for_each(|number| drop(mounted.read(&format!("f{number}")).expect("readable")));
    let stat = cache(&[OsStr::new("stat"), mounted.point.as_os_str()]);
    assert_eq!(stat["older_than"], Some(3600));
    mounted.stop();
    place.age(1);
    let mut mounted = place.configured("RO", "cleanup_older_than = 1\ncleanup_cron = \"* * * * * *\"");
    mounted.daemon.wait_for_log("cleaned the cache");
    assert!(place.cached(0).exists() && !place.cached(1).exists());
    mounted.stop();
}

#[test]
fn what_a_program_has_open_on_a_writable_mount_stays_and_can_be_written() {
    let place = Place::new([200_000; 3]);
    for lib in LIBS {
        let mounted = place.mount(&["--mode", "OL", "--lib", lib]);
        let path = |number: usize| mounted.point.join(format!("f{number}"));
        (0..3).for_each(|number| drop(fs::read(path(number)).expect("readable")));
        // Closed files are released a moment later.
        wait_for("all others to go", || {
            let open = File::open(path(0)).expect("opened");
            clean(&mounted.point, &["--size", "0"]);
            let [open_one, others] =
                [place.cached(0).exists(), place.cached(1).exists() || place.cached(2).exists()];
            assert!(open_one, "{lib}");
            drop(open);
            !others
        });
        let mut open = File::open(path(0)).expect("opened");
        let cleaned = clean(&mounted.point, &["--size", "0"]);
        assert_eq!((cleaned["evicted_files"], cleaned["busy_files"]), (Some(0), Some(1)), "{lib}");
        let mut writer = File::options().append(true).open(path(0)).expect("opened");
        writer.write_all(b"more").expect("written");
        let mut read = Vec::new();
        open.read_to_end(&mut read).expect("readable");
        let mut expected = tree::noise(0, 200_000);
        expected.extend_from_slice(b"more");
        assert!(read == expected, "{lib}");
        drop((open, writer));
        mounted.stop();
        fs::remove_dir_all(place.lab.path("cache")).expect("the next one begins without it");
    }
}

#[test]
fn on_a_full_disk_cached_content_goes_first() {
    let lab = Lab::new();
    let Some(disk) = SmallDisk::mount(&lab, "cache", 32) else { return };
    let place = Place::in_lab(lab, [1 << 20; 48], "v2");
    let mounted = place.mount(&["--mode", "OL", "--lib", "fuse3"]);
    for number in 0..48 {
        let read = mounted.read(&format!("f{number}")).expect("readable");
        assert!(read == tree::noise(number, 1 << 20), "f{number}");
    }
    let log = mounted.daemon.log();
    assert!(!log.contains("reading through"), "{log}");
    assert!(log.contains("the disk is full: evicted"), "{log}");
    assert!(disk.available() < 8 * MIB, "it has become full");

    // Local changes, and copies of what is in the flist.
    let local = tree::noise(1000, 16 << 20);
    fs::write(mounted.point.join("local"), &local).expect("there is room for that");
    let path = mounted.point.join("f7");
    let opened = File::options().append(true).open(&path);
    opened
        .unwrap_or_else(|error| panic!("{error}\n{}", mounted.daemon.log()))
        .write_all(b"more")
        .expect("written");
    assert!(mounted.read("local").expect("readable") == local);
    let mut expected = tree::noise(7, 1 << 20);
    expected.extend_from_slice(b"more");
    assert!(mounted.read("f7").expect("readable") == expected);
    mounted.stop();
}
