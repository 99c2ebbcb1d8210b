//! What is evicted, when, and what never is.

use std::fs;
use std::os::unix::fs::MetadataExt;

use futures::future::join_all;

use super::directory::Mounted;
use super::*;
use crate::cache::{Borrower, CleanMode, Limits, MinFree};

const HOUR: Duration = Duration::from_secs(3600);
const LENGTH: usize = 100_000;

/// What a file of that length takes of the disk.
const TAKEN: u64 = 25 * 4096;

fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Options with a clock of their own.
fn limited(limits: Limits) -> CacheOptions {
    CacheOptions { limits, ..options() }
}

fn size(size: u64) -> Limits {
    Limits { size: Some(size), ..Limits::default() }
}

impl Bench {
    /// Content that the stor has.
    fn given(&self, seed: u32, length: usize) -> Content {
        let (content, stored) = object(&noise(seed, length));
        self.stor().give(&content.chunks[0].key, &stored);
        content
    }

    async fn fetched(&self, seed: u32) -> Content {
        let content = self.given(seed, LENGTH);
        self.reads_well(seed, &content).await;
        content
    }

    async fn reads_well(&self, seed: u32, content: &Content) {
        let length = usize::try_from(content.size).expect("small");
        let read = self.file(content).read(0, length).await.expect("readable");
        assert!(read == noise(seed, length), "{seed}");
    }

    fn is_there(&self, content: &Content) -> bool {
        self.published(content).exists()
    }

    /// What the files with a name take of the disk.
    fn taken(&self) -> u64 {
        self.taken_in(&self.path().join("cache"))
    }

    fn taken_in(&self, cache: &Path) -> u64 {
        let folders = fs::read_dir(cache).expect("the cache").map(|entry| entry.expect("an entry").path());
        let files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
    }

    fn clean(&self, limits: Limits) -> crate::cache::Cleaned {
        self.cache.clean(&limits, CleanMode::Remove).expect("cleaned")
    }
}

#[tokio::test]
async fn what_was_not_read_for_long_enough_goes_also_after_a_restart() {
    let options = options();
    let mut bench = Bench::with(1, options.clone());
    let [read, unread] = [bench.fetched(1).await, bench.fetched(2).await];
    options.clock.pass(10 * HOUR);
    bench.reads_well(1, &read).await;
    options.clock.pass(HOUR);
    let older_than = Limits { older_than: Some(5 * HOUR), ..Limits::default() };

    // What nobody has read for a minute is closed, and its time is written down.
    bench.cache.close_idle();
    let would = bench.cache.clean(&older_than, CleanMode::DryRun).expect("looked at");
    assert_eq!((would.files, would.evicted_files, would.evicted_bytes), (2, 1, TAKEN));
    assert!(bench.is_there(&unread), "a dry run changes nothing");
    bench.restart(options.clone());
    assert_eq!(bench.clean(older_than), would);
    assert!(bench.is_there(&read) && !bench.is_there(&unread));

    bench.reads_well(1, &read).await;
    assert_eq!(bench.stor().asked(&read.chunks[0].key), 1);
    assert_eq!(bench.cache.stats().reverified, 0, "the seal fits");
    options.clock.pass(6 * HOUR);
    assert_eq!(bench.clean(older_than).evicted_files, 1);
    assert_eq!(bench.cache.inventory().expect("looked at").bytes, 0);
}

#[tokio::test]
async fn the_time_of_a_read_is_written_down_while_a_file_is_in_use() {
    let options = options();
    let bench = Bench::with(1, options.clone());
    let content = bench.fetched(1).await;
    let mtime = || fs::metadata(bench.published(&content)).expect("there").mtime();
    let before = mtime();
    options.clock.pass(HOUR / 2);
    bench.reads_well(1, &content).await;
    bench.cache.note_reads(HOUR);
    assert_eq!(mtime(), before, "it is not far behind");
    options.clock.pass(HOUR);
    bench.reads_well(1, &content).await;
    bench.cache.note_reads(HOUR);
    assert!(mtime() >= before + 5400);
}

#[tokio::test]
async fn a_file_that_was_changed_gets_no_new_seal_for_being_read() {
    let options = options();
    let mut bench = Bench::with(1, options.clone());
    let content = bench.fetched(1).await;
    let file = fs::File::options().write(true).open(bench.published(&content)).expect("ours");
    std::os::unix::fs::FileExt::write_at(&file, b"changed", 0).expect("ours");
    file.set_modified(std::time::UNIX_EPOCH).expect("ours");
    options.clock.pass(HOUR);
    bench.file(&content).complete().expect("it is open");
    bench.cache.note_reads(Duration::ZERO);
    bench.restart(options);
    bench.reads_well(1, &content).await;
    assert_eq!(bench.stor().asked(&content.chunks[0].key), 2);
}

#[tokio::test]
async fn what_was_read_longest_ago_goes_first() {
    let options = limited(size(12 * TAKEN));
    let bench = Bench::with(1, options.clone());
    let mut contents = Vec::new();
    for seed in 0..30 {
        contents.push(bench.fetched(seed).await);
        options.clock.pass(Duration::from_secs(10));
        bench.reads_well(0, &contents[0]).await;
    }
    assert!(bench.is_there(&contents[0]), "it is read all the time");
    assert!(contents[1..19].iter().all(|content| !bench.is_there(content)));
    assert!(contents[22..].iter().all(|content| bench.is_there(content)));
    assert_eq!(bench.stor().asked(&contents[0].chunks[0].key), 1);
    assert_eq!(bench.cache.stats().read_through, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_size_holds_while_many_fetch() {
    const SIZE: u64 = 20 * TAKEN;
    let bench = Bench::with(1, limited(size(SIZE)));
    let upkeep = bench.cache.upkeep();
    let contents: Vec<_> = (0..60).map(|seed| bench.given(seed, LENGTH)).collect();
    let readers = (0..8).map(|reader| {
        let (bench, contents) = (&bench, &contents);
        async move {
            for step in 0..60 {
                let seed = (step * 7 + reader * 11) % 60;
                bench.reads_well(u32::try_from(seed).expect("small"), &contents[seed]).await;
                let (taken, total) = (bench.taken(), bench.cache.usage.total());
                // Who looks through the directory may see a file, and then the one that took its room.
                assert!(taken <= SIZE + 8 * TAKEN, "{taken} bytes are taken");
                assert!(total <= SIZE + 8 * TAKEN, "{total} bytes are counted");
            }
        }
    });
    join_all(readers).await;
    drop(upkeep);
    // What was begun to be evicted may still go.
    let inventory = loop {
        let inventory = bench.cache.inventory().expect("looked at");
        if inventory.bytes == bench.taken() {
            break inventory;
        }
    };
    assert_eq!(inventory.writing, 0);
    assert!(inventory.bytes > SIZE / 2, "no more is evicted than has to be: {inventory:?}");
}

#[tokio::test]
async fn the_counters_say_what_a_scan_finds() {
    let bench = Bench::with(1, options());
    let contents = [bench.fetched(1).await, bench.fetched(2).await, bench.fetched(3).await];
    let counted = || bench.cache.usage.total();
    assert_eq!((counted(), bench.taken()), (3 * TAKEN, 3 * TAKEN));
    bench.cache.remove(&contents[0].id, contents[0].size).expect("removable");
    assert_eq!(counted(), 2 * TAKEN);
    let directory = fs::File::open(bench.path()).expect("opened").into();
    let lent = bench.file(&contents[1]).lend(Borrower { filesystem: 1, inode: 1 }).expect("nobody uses it");
    lent.give_away(&directory, b"given").expect("given");
    assert_eq!((counted(), bench.taken()), (2 * TAKEN, 2 * TAKEN), "a copy is in its place");
    bench.clean(size(TAKEN));
    assert_eq!((counted(), bench.taken()), (TAKEN, TAKEN));
    fs::remove_file(bench.published(&contents[2]))
        .or_else(|_| fs::remove_file(bench.published(&contents[1])))
        .expect("one of them is there");
    bench.cache.inventory().expect("looked at");
    assert_eq!(counted(), 0, "another process may remove what it wants");
}

#[tokio::test]
async fn what_is_in_use_stays() {
    type Use = fn(&Bench, &Content) -> Box<dyn std::any::Any>;
    let uses: [(&str, Use); 5] = [
        ("read", |bench, content| Box::new(bench.file(content).complete().expect("there"))),
        ("lent", |bench, content| {
            Box::new(bench.file(content).lend(Borrower { filesystem: 1, inode: 1 }).expect("nobody uses it"))
        }),
        ("held", |bench, content| Box::new(bench.file(content).hold())),
        ("open in another process", |bench, content| {
            let cache = Cache::open(&bench.path().join("cache"), options()).expect("a cache");
            cache.file(content, &bench.sources).complete().expect("there");
            Box::new(cache)
        }),
        ("open in a program", |bench, content| {
            Box::new(fs::File::open(bench.published(content)).expect("opened"))
        }),
    ];
    for (what, use_) in uses {
        let bench = Bench::new(1);
        let content = bench.fetched(1).await;
        let in_use = use_(&bench, &content);
        for mode in [CleanMode::DryRun, CleanMode::Remove] {
            let cleaned = bench.cache.clean(&size(0), mode).expect("cleaned");
            assert_eq!((cleaned.evicted_files, cleaned.busy_files), (0, 1), "{what}");
        }
        assert!(bench.is_there(&content), "{what}");
        bench.reads_well(1, &content).await;
        drop(in_use);
        assert_eq!(bench.clean(size(0)).evicted_files, 1, "{what}");
        assert!(!bench.is_there(&content), "{what}");
        bench.reads_well(1, &content).await;
        assert_eq!(bench.stor().asked(&content.chunks[0].key), 2);
    }
}

#[tokio::test]
async fn who_has_lent_a_file_that_a_program_has_mapped_still_knows_it_after_cleaning() {
    let bench = Bench::new(1);
    let content = bench.fetched(1).await;
    let borrower = Borrower { filesystem: 1, inode: 1 };
    drop(bench.file(&content).lend(borrower).expect("nobody uses it"));
    let program = fs::File::open(bench.published(&content)).expect("opened");
    assert_eq!(bench.clean(size(0)).busy_files, 1);
    assert!(bench.file(&content).lent(borrower).is_some());
    drop(program);
    assert_eq!(bench.clean(size(0)).evicted_files, 1);
}

#[tokio::test]
async fn a_process_closes_what_it_does_not_read_so_that_another_can_evict_it() {
    let options = options();
    let bench = Bench::with(1, options.clone());
    let content = bench.fetched(1).await;
    let other = Cache::open(&bench.path().join("cache"), options.clone()).expect("a cache");
    let clean = || other.clean(&size(0), CleanMode::Remove).expect("cleaned");
    bench.cache.close_idle();
    assert_eq!(clean().busy_files, 1, "it was read just now");
    options.clock.pass(2 * HOUR);
    bench.cache.close_idle();
    assert_eq!(clean().evicted_files, 1);
    bench.reads_well(1, &content).await;
}

#[tokio::test]
async fn a_file_that_is_larger_than_the_cache_is_read_through_and_drives_nothing_out() {
    let bench = Bench::with(1, limited(size(10 * TAKEN)));
    let small = bench.fetched(1).await;
    let large = bench.given(2, 30 * LENGTH);
    for _ in 0..5 {
        bench.reads_well(2, &large).await;
    }
    assert_eq!(bench.stor().asked(&large.chunks[0].key), 1, "it is kept in memory");
    assert!(!bench.is_there(&large) && bench.is_there(&small));
    assert_eq!(bench.cache.stats().read_through, 1);

    // Who needs a file gets one, and as soon as he does not need it any more it goes.
    let file = bench.file(&large).fetch_all().await.expect("fetched");
    assert!(bench.is_there(&large) && bench.is_there(&small));
    drop(file);
    bench.fetched(3).await;
    assert!(!bench.is_there(&large) && bench.is_there(&small));
}

#[tokio::test]
async fn a_full_cache_of_files_in_use_is_read_through() {
    let bench = Bench::with(1, limited(size(2 * TAKEN)));
    let used = [bench.fetched(1).await, bench.fetched(2).await];
    let held = used.each_ref().map(|content| bench.file(content).hold());
    let more = bench.given(3, LENGTH);
    for _ in 0..3 {
        bench.reads_well(3, &more).await;
    }
    assert_eq!((bench.stor().asked(&more.chunks[0].key), bench.is_there(&more)), (1, false));
    drop(held);
}

#[tokio::test]
async fn a_full_disk_evicts_before_it_reads_through() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new("tmpfs", directory.path().join("tmpfs"), Some(c"size=1m")) else {
        return;
    };
    let path = mounted.0.join("cache");
    let bench = Bench { cache: Cache::open(&path, options()).expect("a cache"), ..Bench::new(1) };
    for seed in 0..30 {
        bench.fetched(seed).await;
    }
    assert_eq!(bench.cache.stats().read_through, 0);
    assert!(bench.cache.stats().evicted_files > 10);
}

#[tokio::test]
async fn so_much_of_the_disk_stays_free() {
    for min_free in [MinFree::Percent(50), MinFree::Bytes(2 << 20)] {
        let directory = tempfile::tempdir().expect("a directory");
        let Some(mounted) = Mounted::new("tmpfs", directory.path().join("tmpfs"), Some(c"size=4m")) else {
            return;
        };
        let path = mounted.0.join("cache");
        let options = limited(Limits { min_free, ..Limits::default() });
        let bench = Bench { cache: Cache::open(&path, options).expect("a cache"), ..Bench::new(1) };
        for seed in 0..40 {
            bench.fetched(seed).await;
            let space = rustix::fs::statvfs(&mounted.0).expect("a filesystem");
            let free = space.f_bavail * space.f_frsize;
            assert!(free >= 2 << 20, "{free} bytes are free");
        }
        assert_eq!(bench.cache.stats().read_through, 0);
        assert!(bench.taken_in(&path) > 1 << 20);
    }
}

#[tokio::test]
async fn what_was_fetched_of_an_incomplete_file_counts_and_goes() {
    let options = limited(size(12 * TAKEN));
    let bench = Bench::with(1, options.clone());
    let parts = [noise(1, 4 * LENGTH), noise(2, LENGTH)];
    let (content, stored) = chunked(&[&parts[0], &parts[1]]);
    bench.stor().give(&content.chunks[0].key, &stored[0]);
    bench.file(&content).read(0, 10).await.expect("the first chunk is there");
    assert!(bench.cache.usage.total() >= 4 * (LENGTH as u64), "it takes room");
    options.clock.pass(HOUR);
    for seed in 10..30 {
        bench.fetched(seed).await;
    }
    assert_eq!(bench.cache.stats().evicted_partials, 1);
    assert_eq!(bench.cache.usage.total(), bench.taken());
}
