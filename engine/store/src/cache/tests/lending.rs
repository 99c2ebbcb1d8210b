//! Files that are lent, and given away.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::cache::{Borrower, Lent};

const PLAIN: &[u8] = b"what all of them read";

fn inode(inode: u64) -> Borrower {
    Borrower { filesystem: 1, inode }
}

/// A cache with one file, and a directory beside it.
struct Place {
    bench: Bench,
    content: Content,
    directory: PathBuf,
}

impl Place {
    async fn new() -> Self {
        let bench = Bench::new(1);
        let (content, stored) = object(PLAIN);
        bench.stor().give(&content.chunks[0].key, &stored);
        bench.file(&content).fetch_all().await.expect("fetched");
        let directory = bench.path().join("local");
        fs::create_dir(&directory).expect("a directory");
        Self { bench, content, directory }
    }

    fn file(&self) -> CachedFile {
        self.bench.file(&self.content)
    }

    fn give(&self, lent: &Lent, name: &str) -> std::io::Result<PathBuf> {
        lent.give_away(&open(&self.directory), name.as_bytes())?;
        Ok(self.directory.join(name))
    }

    async fn reads_well(&self) {
        assert_eq!(self.file().read(0, 100).await.expect("readable"), PLAIN);
        assert_eq!(self.bench.stor().asked(&self.content.chunks[0].key), 1);
    }

    /// What another process does that uses the same directory.
    fn other_process(&self) -> CachedFile {
        let cache = Cache::open(&self.bench.path().join("cache"), options()).expect("a cache");
        cache.file(&self.content, &self.bench.sources)
    }
}

fn open(directory: &Path) -> OwnedFd {
    File::open(directory).expect("opened").into()
}

fn overwrite(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("it is the new owner's");
    file.write_all_at(b"WRITTEN LATER", 0).expect("written");
    file.set_len(5).expect("shortened");
}

#[tokio::test]
async fn a_file_is_lent_to_one_inode_at_a_time() {
    let place = Place::new().await;
    assert!(place.file().lent(inode(7)).is_none());
    let lent = place.file().lend(inode(7)).expect("nobody uses it");
    assert!(place.file().lend(inode(8)).is_none(), "it is lent");
    let again = place.file().lend(inode(7)).expect("to the same one");
    assert!(Arc::ptr_eq(&lent, &again));
    assert!(place.file().lent(inode(7)).is_some_and(|known| Arc::ptr_eq(&lent, &known)));
    assert!(place.file().lent(inode(8)).is_none());
    place.reads_well().await;
    drop((lent, again));

    assert!(place.file().lent(inode(7)).is_none(), "nobody uses it any more");
    assert!(place.file().lend(inode(8)).is_some());
    assert!(place.file().lend(inode(9)).is_some(), "the one before does not use it");
    let (empty, _) = object(b"");
    assert!(place.bench.file(&empty).lend(inode(1)).is_none(), "there is nothing to lend");
}

#[tokio::test]
async fn what_is_not_there_is_not_lent() {
    let mut place = Place::new().await;
    place.bench.restart(after_reboot());
    assert!(place.file().lend(inode(1)).is_none(), "it has to be verified first");
    place.file().fetch_all().await.expect("verified");
    assert!(place.file().lend(inode(1)).is_some());
    let (other, _) = object(b"never fetched");
    assert!(place.bench.file(&other).lend(inode(2)).is_none());
}

#[tokio::test]
async fn a_file_that_is_given_away_is_replaced_by_a_copy() {
    let mut place = Place::new().await;
    let published = place.bench.published(&place.content);
    let before = fs::metadata(&published).expect("there").ino();
    let reader = place.file().complete().expect("there");
    let lent = place.file().lend(inode(7)).expect("nobody else uses it");
    let given = place.give(&lent, "given").expect("given");
    assert_eq!(fs::metadata(&given).expect("there").ino(), before, "it is what the kernel has open");
    assert_ne!(fs::metadata(&published).expect("there").ino(), before);
    assert_eq!(xattr::list(&given).expect("listed").count(), 0, "no seal of the cache");
    assert!(!reader.is_intact(), "whoever had it before is told");

    overwrite(&given);
    assert_eq!(lent.file().metadata().expect("stat").len(), 5);
    place.reads_well().await;
    assert!(place.file().complete().is_some_and(|file| file.is_intact()));
    let again = place.file().lend(inode(8)).expect("the copy can be lent as well");
    assert!(!Arc::ptr_eq(again.file(), lent.file()));
    drop(again);
    place.bench.restart(options());
    place.reads_well().await;
    assert_eq!(place.bench.cache.stats().reverified, 0, "the copy has a seal of its own");
}

#[tokio::test]
async fn a_copy_keeps_the_holes() {
    let place = Place::new().await;
    let mut plain = vec![0; 4 << 20];
    plain[1 << 20..][..5000].fill(7);
    let (content, stored) = object(&plain);
    place.bench.stor().give(&content.chunks[0].key, &stored);
    place.bench.file(&content).fetch_all().await.expect("fetched");
    let blocks = |path: &Path| fs::metadata(path).expect("there").blocks();
    let published = place.bench.published(&content);
    let before = blocks(&published);
    let lent = place.bench.file(&content).lend(inode(1)).expect("nobody else uses it");
    let given = place.give(&lent, "given").expect("given");
    assert!(before < 100 && blocks(&published) <= before && blocks(&given) == before);
    assert!(fs::read(&published).expect("readable") == plain);
}

#[tokio::test]
async fn what_is_mapped_is_in_use_after_it_was_closed() {
    let place = Place::new().await;
    let lent = place.file().lend(inode(7)).expect("nobody else uses it");
    // What the kernel does for a program: a description of its own.
    let users = File::open(place.bench.published(&place.content)).expect("opened");
    drop(lent);
    assert!(place.file().lend(inode(8)).is_none(), "it would see what is written to another inode");
    let lent = place.file().lent(inode(7)).expect("it is to see what is written to this one");
    drop(lent);
    assert!(place.file().lend(inode(7)).is_some(), "the same inode may have it again");
    drop(users);
    assert!(place.file().lent(inode(7)).is_none());
    assert!(place.file().lend(inode(8)).is_some());
}

#[tokio::test]
async fn two_processes_do_not_lend_the_same_file() {
    let place = Place::new().await;
    let other = place.other_process();
    assert!(other.complete().is_some(), "it has it open now");
    assert!(place.file().lend(inode(7)).is_none(), "the other one reads it");
    drop(other);
    let lent = place.file().lend(inode(7)).expect("nobody else uses it");

    let other = place.other_process();
    assert_eq!(other.read(0, 100).await.expect("readable"), PLAIN);
    assert!(other.lend(inode(7)).is_none(), "it is lent");
    let reader = other.complete().expect("there");
    assert!(reader.is_intact());
    overwrite(&place.give(&lent, "given").expect("given"));
    assert!(!reader.is_intact(), "it looks where the file is now");
    assert_eq!(other.read(0, 100).await.expect("readable"), PLAIN);
    assert_eq!(other.cache.read_open(&place.content.id, place.content.size, 0, 100).as_deref(), Some(PLAIN));
    place.reads_well().await;
    assert_eq!(place.bench.stor().asked(&place.content.chunks[0].key), 1, "nobody had to fetch it again");
}

#[tokio::test]
async fn a_file_that_cannot_be_given_away_stays_what_it_is() {
    let place = Place::new().await;
    let lent = place.file().lend(inode(7)).expect("nobody else uses it");
    fs::write(place.directory.join("taken"), "").expect("a file");
    let error = place.give(&lent, "taken").expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    place.reads_well().await;
    assert!(place.file().complete().is_some_and(|file| Arc::ptr_eq(file.file(), lent.file())));
    place.give(&lent, "free").expect("given");

    let lent = place.file().lend(inode(7)).expect("the copy");
    place.bench.cache.remove(&place.content.id, place.content.size).expect("removable");
    let error = place.give(&lent, "other").expect_err("it has no name any more");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let left: Vec<_> = fs::read_dir(&place.directory).expect("listed").collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!place.bench.published(&place.content).exists());
}

#[tokio::test]
async fn a_file_with_two_names_is_not_lent() {
    let place = Place::new().await;
    drop(place.file().complete().expect("there"));
    fs::hard_link(place.bench.published(&place.content), place.directory.join("second")).expect("linked");
    assert!(place.file().lend(inode(7)).is_none());
}

#[tokio::test]
async fn a_file_that_is_gone_from_the_directory_is_not_lent() {
    let place = Place::new().await;
    drop(place.file().lend(inode(7)).expect("nobody else uses it"));
    fs::remove_file(place.bench.published(&place.content)).expect("removed");
    assert!(place.file().lend(inode(7)).is_none(), "it could not be given away");
    assert!(place.file().lend(inode(8)).is_none());
    place.reads_well().await;
}

#[tokio::test]
async fn files_are_given_within_one_filesystem() {
    let place = Place::new().await;
    assert!(place.bench.cache.can_give_to(&open(&place.directory), b"probe"));
    assert_eq!(fs::read_dir(&place.directory).expect("listed").count(), 0);
    assert!(!place.bench.cache.can_give_to(&open(Path::new("/proc")), b"probe"));
}

#[tokio::test]
async fn a_copy_that_does_not_fit_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path().join("small");
    let Some(_mounted) = super::directory::Mounted::new("tmpfs", at.clone(), Some(c"size=3m")) else {
        return;
    };
    let cache = Cache::open(&at.join("cache"), options()).expect("a cache");
    let bench = Bench::new(1);
    let plain: Vec<u8> =
        (0..2_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0] | 1).collect();
    let (content, stored) = object(&plain);
    bench.stor().give(&content.chunks[0].key, &stored);
    let file = cache.file(&content, &bench.sources);
    file.fetch_all().await.expect("it fits");
    let lent = file.lend(inode(1)).expect("nobody else uses it");
    let error = lent.give_away(&open(&at), b"given").expect_err("two do not fit");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(!at.join("given").exists());
    assert_eq!(file.read(5, 3).await.expect("readable"), &plain[5..8]);
    assert!(file.lent(inode(1)).is_some());
}
