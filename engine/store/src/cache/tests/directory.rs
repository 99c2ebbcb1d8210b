//! What is trusted of the cache directory, and what happens when it fails.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::*;
use crate::cache::CacheError;

/// Fetches one small file.
async fn fetched(bench: &Bench) -> Content {
    let (content, stored) = object(b"kept for later");
    bench.stor().give(&content.chunks[0].key, &stored);
    bench.file(&content).fetch_all().await.expect("fetched");
    content
}

async fn reads_well(bench: &Bench, content: &Content, asked: usize) {
    assert_eq!(bench.file(content).read(0, 100).await.expect("readable"), "kept for later");
    assert_eq!(bench.stor().asked(&content.chunks[0].key), asked);
}

/// A filesystem of its own, unmounted when dropped.
pub(super) struct Mounted(pub(super) PathBuf);

impl Mounted {
    /// `None`, with a word about it, where mounting is not allowed.
    pub(super) fn new(kind: &str, at: PathBuf, data: Option<&std::ffi::CStr>) -> Option<Self> {
        fs::create_dir_all(&at).expect("a mount point");
        match mount("none", &at, kind, MountFlags::empty(), data) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: mounting a {kind} needs root: {error}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_restart_reuses_what_is_sealed() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    bench.restart(options());
    assert!(bench.file(&content).complete().is_some());
    reads_well(&bench, &content, 1).await;
    assert_eq!(bench.cache.stats().reverified, 0);
}

#[tokio::test]
async fn a_reboot_verifies_once() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    bench.restart(after_reboot());
    assert!(bench.file(&content).complete().is_none(), "nothing is trusted before it was hashed");
    assert!(!bench.cache.contains(&content));
    reads_well(&bench, &content, 1).await;
    assert_eq!(bench.cache.stats().reverified, 1);
    bench.restart(after_reboot());
    reads_well(&bench, &content, 1).await;
    assert_eq!(bench.cache.stats().reverified, 0);
}

#[tokio::test]
async fn a_v1_file_survives_a_reboot_under_either_hash() {
    let plain = b"an old file".repeat(100);
    let mut body = Vec::new();
    codec::encode_v1(&plain[..], &mut body, 5).expect("memory");
    for hash in [md5(&plain), md5(&body)] {
        let mut bench = Bench::new(1);
        let content = Content::v1(hash, plain.len() as u64);
        bench.stor().give(&content.chunks[0].key, &body);
        bench.file(&content).fetch_all().await.expect("fetched");
        bench.restart(after_reboot());
        assert_eq!(bench.file(&content).read(0, 2000).await.expect("cached"), plain);
        assert_eq!((bench.cache.stats().reverified, bench.cache.stats().fetches), (1, 0));

        File::options()
            .write(true)
            .open(bench.published(&content))
            .expect("ours")
            .write_all_at(b"A", 0)
            .expect("ours");
        bench.restart(after_reboot());
        assert_eq!(bench.file(&content).read(0, 2000).await.expect("fetched again"), plain);
        assert_eq!((bench.cache.stats().damaged_files, bench.cache.stats().fetches), (1, 1));
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_after_a_reboot() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    let path = bench.published(&content);
    let file = File::options().write(true).open(&path).expect("ours");
    let before = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    file.write_all_at(b"K", 0).expect("ours");
    file.set_modified(before).expect("ours");
    bench.restart(after_reboot());
    reads_well(&bench, &content, 2).await;
    assert_eq!(bench.cache.stats().damaged_files, 1);
    bench.restart(after_reboot());
    reads_well(&bench, &content, 2).await;
}

#[tokio::test]
async fn a_changed_file_is_found_in_the_same_boot() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    let file = File::options().write(true).open(bench.published(&content)).expect("ours");
    file.write_all_at(b"K", 0).expect("ours");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("ours");
    bench.restart(options());
    reads_well(&bench, &content, 2).await;
}

#[tokio::test]
async fn a_flipped_byte_under_the_old_mtime_is_found_in_the_same_boot() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    let file = File::options().write(true).open(bench.published(&content)).expect("ours");
    let before = file.metadata().expect("ours");
    // Earlier, the change could not be told from the publication.
    let apart = std::time::Duration::from_millis(1100);
    let published = std::time::UNIX_EPOCH + std::time::Duration::from_secs(before.ctime().unsigned_abs() + 1);
    while std::time::SystemTime::now() < published + apart {
        tokio::time::sleep(apart / 20).await;
    }
    file.write_all_at(b"K", 0).expect("ours");
    file.set_modified(before.modified().expect("a time")).expect("ours");
    bench.restart(options());
    reads_well(&bench, &content, 2).await;
    assert_eq!(bench.cache.stats().damaged_files, 1);
}

#[tokio::test]
async fn a_truncated_file_is_fetched_again() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    let truncate = |length| {
        let file = File::options().write(true).open(bench.published(&content)).expect("ours");
        file.set_len(length).expect("ours");
    };
    truncate(5);
    // Open already: noticed when it is read.
    reads_well(&bench, &content, 2).await;
    bench.cache.remove(&content.id, content.size).expect("removable");
    bench.restart(options());
    reads_well(&bench, &content, 3).await;
    bench.restart(options());
    let file = File::options().write(true).open(bench.published(&content)).expect("ours");
    file.set_len(0).expect("ours");
    reads_well(&bench, &content, 4).await;
}

#[tokio::test]
async fn a_file_under_the_wrong_name_is_not_believed() {
    let mut bench = Bench::new(1);
    let content = fetched(&bench).await;
    let (other, stored) = object(b"as long as it!");
    bench.stor().give(&other.chunks[0].key, &stored);
    assert_eq!(other.size, content.size);
    let name = bench.published(&other);
    fs::create_dir_all(name.parent().expect("it has one")).expect("ours");
    fs::rename(bench.published(&content), name).expect("ours");
    bench.restart(options());
    assert_eq!(bench.file(&other).read(0, 100).await.expect("fetched"), "as long as it!");
    assert_eq!(bench.stor().asked(&other.chunks[0].key), 1);
}

#[tokio::test]
async fn what_others_may_have_had_a_hand_in_is_replaced() {
    type Tamper = fn(&Bench, PathBuf);
    let tampers: [(&str, Tamper); 5] = [
        ("a symlink", |bench, path| {
            let target = bench.path().join("target");
            fs::rename(&path, &target).expect("ours");
            symlink(target, path).expect("ours");
        }),
        ("a second name", |bench, path| fs::hard_link(path, bench.path().join("second")).expect("ours")),
        ("a fifo", |_, path| {
            fs::remove_file(&path).expect("ours");
            rustix::fs::mkfifoat(CWD, path, rustix::fs::Mode::RWXU).expect("ours");
        }),
        ("a foreign owner", |_, path| {
            if let Err(error) = chown(path, Some(12_345), None) {
                eprintln!("skipped: giving a file away needs root: {error}");
            }
        }),
        ("other bytes of another length", |_, path| fs::write(path, "x").expect("ours")),
    ];
    for (what, tamper) in tampers {
        let mut bench = Bench::new(1);
        let content = fetched(&bench).await;
        let path = bench.published(&content);
        tamper(&bench, path.clone());
        bench.restart(options());
        assert_eq!(bench.file(&content).read(0, 100).await.expect(what), "kept for later");
        let metadata = fs::symlink_metadata(&path).expect("published again");
        assert!(
            metadata.is_file()
                && metadata.nlink() == 1
                && metadata.uid() == rustix::process::geteuid().as_raw()
        );
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert_eq!(bench.names(), [content.id.to_string()], "{what}");
    }
}

#[tokio::test]
async fn the_directory_is_private() {
    let mut bench = Bench::new(1);
    let path = bench.path().join("cache");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    bench.restart(options());
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o700);

    let link = bench.path().join("link");
    symlink(&path, &link).expect("ours");
    for link in [link.clone(), link.join("")] {
        assert!(matches!(Cache::open(&link, options()), Err(CacheError::NotADirectory(_))));
    }
    fs::write(bench.path().join("file"), "").expect("ours");
    assert!(matches!(Cache::open(&bench.path().join("file"), options()), Err(CacheError::NotADirectory(_))));

    match chown(&path, Some(12_345), None) {
        Ok(()) => {
            let error = Cache::open(&path, options()).expect_err("foreign").to_string();
            assert!(error.contains("belongs to user 12345"), "{error}");
        }
        Err(error) => eprintln!("skipped: giving a directory away needs root: {error}"),
    }
}

#[tokio::test]
async fn what_a_crash_left_is_removed() {
    let mut bench = Bench::new(1);
    let partial = bench.path().join("cache/partial");
    let ours = format!("{}-abc", std::process::id());
    for name in ["2147483647-abc", "nonsense", &ours] {
        fs::write(partial.join(name), "half").expect("ours");
    }
    bench.restart(options());
    assert_eq!(bench.names(), [ours], "those of processes that live are not touched");
}

#[tokio::test]
async fn a_filesystem_without_attributes_is_verified_once_a_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new("ramfs", directory.path().join("ramfs"), None) else { return };
    let path = mounted.0.join("cache");
    let bench = Bench { cache: Cache::open(&path, options()).expect("a cache"), ..Bench::new(1) };
    let content = fetched(&bench).await;
    let open = |cache: &Arc<Cache>| cache.file(&content, &bench.sources);

    // Not in the table of open files any more, known to be verified nevertheless.
    lock_out_open_files(&bench.cache);
    assert!(open(&bench.cache).complete().is_some());
    let again = Cache::open(&path, options()).expect("a cache");
    assert!(open(&again).complete().is_none());
    assert_eq!(open(&again).read(0, 4).await.expect("cached"), "kept");
    assert_eq!((again.stats().reverified, again.stats().fetches), (1, 0));
    lock_out_open_files(&again);
    assert_eq!(open(&again).read(0, 4).await.expect("cached"), "kept");
    assert_eq!(again.stats().reverified, 1);
}

fn lock_out_open_files(cache: &Cache) {
    crate::cache::lock(&cache.files).open.clear();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_reads_through_until_there_is_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new("tmpfs", directory.path().join("tmpfs"), Some(c"size=256k")) else {
        return;
    };
    let path = mounted.0.join("cache");
    let bench = Bench { cache: Cache::open(&path, options()).expect("a cache"), ..Bench::new(1) };
    let noise: Vec<u8> =
        (0..1_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (content, stored) = chunked(&[&noise[..100_000], &noise[100_000..2_000_000], &noise[2_000_000..]]);
    for (chunk, stored) in content.chunks.iter().zip(&stored) {
        bench.stor().give(&chunk.key, stored);
    }
    let file = bench.file(&content);
    assert!(file.read(0, 50_000).await.expect("it fits") == noise[..50_000]);
    assert_eq!(bench.cache.stats().read_through, 0);
    for _ in 0..2 {
        assert!(file.read(0, noise.len()).await.expect("read through") == noise);
    }
    assert_eq!(bench.cache.stats().read_through, 2, "what is in memory is not fetched again");
    let error = file.fetch_all().await.expect_err("there is no room for the file").to_string();
    assert!(error.contains("the cache directory cannot be written"), "{error}");
    assert_eq!(fs::read_dir(&path).expect("the cache").count(), 1, "nothing was published");

    mount_remount(&mounted.0, MountFlags::empty(), c"size=64m").expect("remounted");
    tokio::time::advance(Duration::from_secs(20)).await;
    file.fetch_all().await.expect("there is room now");
    assert_eq!(fs::read_dir(&path).expect("the cache").count(), 2, "published");
    assert!(file.read(0, noise.len()).await.expect("cached") == noise);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_directory_reads_through() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new("tmpfs", directory.path().join("tmpfs"), None) else { return };
    let path = mounted.0.join("cache");
    let mut bench = Bench { cache: Cache::open(&path, options()).expect("a cache"), ..Bench::new(1) };
    let kept = fetched(&bench).await;
    mount_remount(&mounted.0, MountFlags::RDONLY, c"").expect("remounted");
    bench.cache = Cache::open(&path, options()).expect("a cache");
    reads_well(&bench, &kept, 1).await;

    let plain = b"an old file, ".repeat(500_000);
    let mut body = Vec::new();
    codec::encode_v1(&plain[..], &mut body, 1).expect("memory");
    let v1 = (Content::v1(md5(&plain), plain.len() as u64), body);
    // The first fetch finds out that the directory fails, and begins again; the next ones know.
    for ((content, body), asked) in [(object(&plain), 2), (v1, 1)] {
        let key = &content.chunks[0].key;
        bench.stor().give_with(key, &body, Trouble::Pieces(10_000));
        for _ in 0..3 {
            assert!(bench.file(&content).read(5, 1000).await.expect("read through") == plain[5..1005]);
        }
        assert_eq!(bench.stor().asked(key), asked);
    }
}

#[tokio::test]
async fn memory_for_reading_through_is_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new("tmpfs", directory.path().join("tmpfs"), Some(c"size=4k")) else {
        return;
    };
    let options = CacheOptions { memory: 100_000, ..options() };
    let cache = Cache::open(&mounted.0, options).expect("a cache");
    let bench = Bench { cache, ..Bench::new(1) };
    for round in 0..2 {
        for n in 0..10_u8 {
            let (content, stored) = object(&[n; 30_000]);
            bench.stor().give(&content.chunks[0].key, &stored);
            assert_eq!(bench.file(&content).read(29_999, 9).await.expect("one fits"), &[n][..], "{round}");
        }
    }
    let (content, stored) = object(&[1; 200_000]);
    bench.stor().give(&content.chunks[0].key, &stored);
    let error = bench.file(&content).read(0, 1).await.expect_err("it does not fit").to_string();
    assert!(error.contains("does not fit in the memory set aside"), "{error}");
}
