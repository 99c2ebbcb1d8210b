//! Content that is fetched before anybody reads it, and what is recorded of those who read.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aysfs_engine::pack::{self, Options, pack};
use aysfs_engine::profile::{FirstRead, Profile};
use aysfs_engine::warm::{Ended, Failed, Pace, Progress, StartError, WarmError, Warmed};
use aysfs_engine::{AysFs, Overlay};
use aysfs_flist::{Dialect, Header};
use aysfs_store::cache::Limits;
use aysfs_store::contract::noise;
use aysfs_store::fault::Trouble;
use aysfs_store::{Cache, CacheOptions, Fault};
use support::mount::{Mount, READ, mount_base};
use support::packed::{parse, store_key};
use support::{Lab, PATIENT, key_of};

const SMALL: usize = 300;
const LARGE: usize = 3 << 20;

/// A directory with many small files, some of a medium size, and a large one.
fn grow(root: &Path) {
    for directory in ["a", "b"] {
        fs::create_dir_all(root.join(directory)).expect("made");
        for number in 0..SMALL {
            let content = noise(number as u64, 2000 + number);
            fs::write(root.join(directory).join(format!("f{number:03}")), content).expect("written");
        }
    }
    fs::write(root.join("a/medium"), noise(1000, 300_000)).expect("written");
    fs::write(root.join("large"), noise(1001, LARGE)).expect("written");
    fs::write(root.join("empty"), "").expect("written");
}

/// The list of such a directory, whose content is in the stor of the lab.
async fn packed(lab: &Lab, profile: Option<Profile>) -> Vec<u8> {
    let root = lab.path("source");
    grow(&root);
    let options = Options {
        dialect: Dialect::V2,
        header: Header::default(),
        exclude: Vec::new(),
        sealing: None,
        base: None,
        profile,
        spool: lab.dir.path().into(),
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let progress = Arc::new(pack::Progress::default());
    let summary = pack(&root, &*lab.objects, &options, file.reopen().expect("there"), &progress).await;
    assert_eq!(summary.expect("packed").unknown_paths, 0);
    fs::read(file).expect("read")
}

fn limited(lab: &Lab, size: u64) -> Arc<Cache> {
    let limits = Limits { size: Some(size), ..Limits::default() };
    let options = CacheOptions { deadline: PATIENT, limits, ..CacheOptions::default() };
    Cache::open(&lab.path("cache"), options).expect("a cache")
}

/// How often packs of a list were asked for.
fn asked(lab: &Lab, list: &[u8]) -> usize {
    let packs = parse(list).header.packs;
    packs.iter().map(|pack| lab.stor.calls(&store_key(pack.key)).get).sum()
}

async fn warm(fs: &AysFs, paths: &[&str]) -> Result<Warmed, WarmError> {
    let progress = Arc::<Progress>::default();
    let paths: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let warmed = fs.warming().warm(&paths, Pace::Asked, &progress).await;
    if let Ok(warmed @ Warmed { ended: Ended::Complete, .. }) = &warmed {
        assert_eq!(progress.files_done.load(Ordering::Relaxed), warmed.files);
        assert_eq!(progress.bytes_done.load(Ordering::Relaxed), warmed.bytes);
    }
    warmed
}

/// Reads all files, and compares them with those of the directory.
async fn assert_readable(lab: &Lab, mount: &Mount) {
    for path in ["a/f000", "a/f299", "b/f123", "a/medium", "large", "empty"] {
        let source = fs::read(lab.path("source").join(path)).expect("there");
        let ino = mount.ino(path).await;
        for (n, piece) in source.chunks(1 << 20).enumerate() {
            let offset = (n << 20) as u64;
            let read = aysfs_vfs::Vfs::read(&*mount.0, ino, aysfs_vfs::Fh::NONE, offset, 1 << 20).await;
            assert!(read.expect("there") == piece, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_warmed_is_read_without_a_stor() {
    let lab = Lab::new();
    let list = packed(&lab, None).await;
    let fs = AysFs::new(lab.base_of(&list), lab.cache(), lab.stors());
    let warmed = warm(&fs, &[""]).await.expect("warmed");
    assert_eq!((warmed.files, warmed.failed_files, warmed.ended), (2 * SMALL as u64 + 2, 0, Ended::Complete));
    assert_eq!((warmed.fetched_files, warmed.fetched_bytes), (warmed.files, warmed.bytes));
    assert!(asked(&lab, &list) < 20, "{} requests", asked(&lab, &list));

    lab.stor.set(Trouble::Fail(|| Fault::NotFound));
    let before = asked(&lab, &list);
    let again = warm(&fs, &["", "a", "a/f000"]).await.expect("nothing to do");
    assert_eq!(again, Warmed { fetched_files: 0, fetched_bytes: 0, ..warmed });
    drop(fs);
    // By another process, too.
    assert_readable(&lab, &mount_base(&lab, lab.base_of(&list))).await;
    assert_eq!(asked(&lab, &list), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_named_is_warmed() {
    let lab = Lab::new();
    let list = packed(&lab, None).await;
    let fs = AysFs::new(lab.base_of(&list), lab.cache(), lab.stors());
    for missing in ["c", "large/x", "a/f000/"] {
        match warm(&fs, &["a", missing]).await {
            Err(WarmError::NotListed(path)) => assert_eq!(path, missing.as_bytes()),
            Ok(_) if missing == "a/f000/" => {}
            other => panic!("{missing}: {other:?}"),
        }
    }
    let warmed = warm(&fs, &["a/f000", "a/f001"]).await.expect("warmed");
    assert_eq!((warmed.files, warmed.bytes), (2, 4001));
    let large = warm(&fs, &["large"]).await.expect("warmed");
    assert_eq!((large.files, large.fetched_files, large.bytes), (1, 1, LARGE as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_that_cannot_be_had_is_told_and_the_others_are_fetched() {
    let lab = Lab::new();
    let entries = ["a", "b", "c"].map(|path| lab.file(path, &noise(path.len() as u64, 5000)));
    let entries = [entries.to_vec(), vec![lab.file("wrong", &noise(9, 5000)), lab.file("z", b"z")]].concat();
    lab.stor.set_for(&key_of(&entries[3]), Trouble::Flip(100));
    lab.stor.set_for(&key_of(&entries[4]), Trouble::Fail(|| Fault::NotFound));
    let fs = AysFs::new(lab.base(&entries), lab.cache(), lab.stors());
    let warmed = warm(&fs, &[""]).await.expect("walked");
    assert_eq!((warmed.files, warmed.fetched_files, warmed.failed_files), (5, 3, 2));
    assert_eq!(warmed.ended, Ended::Complete);
    let mut failed = warmed.failed;
    failed.sort_by(|a, b| a.path.cmp(&b.path));
    let [Failed { path: first, .. }, Failed { path: second, why }] = &failed[..] else {
        panic!("{failed:?}")
    };
    assert_eq!((&first[..], &second[..]), (&b"wrong"[..], &b"z"[..]));
    assert!(why.contains("not found"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_a_pack_are_found_although_all_of_it_has_arrived() {
    let lab = Lab::new();
    let list = packed(&lab, None).await;
    let fs = AysFs::new(lab.base_of(&list), lab.cache(), lab.stors());
    for pack in parse(&list).header.packs {
        lab.stor.set_for(&store_key(pack.key), Trouble::Flip(1000));
    }
    let warmed = warm(&fs, &["a", "b"]).await.expect("walked");
    assert!(warmed.failed_files > 0 && warmed.failed_files < 20, "{warmed:?}");
    assert_eq!(warmed.fetched_files + warmed.failed_files, warmed.files);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_stor_can_be_reached_not_each_file_is_waited_for() {
    let lab = Lab::new();
    let entries: Vec<_> =
        (0..100).map(|n| lab.file(&format!("f{n:02}"), format!("{n}").as_bytes())).collect();
    lab.stor.set(Trouble::Fail(|| Fault::Unavailable("not now".into())));
    let options = CacheOptions { deadline: Duration::from_millis(300), ..CacheOptions::default() };
    let cache = Cache::open(&lab.path("cache"), options).expect("a cache");
    let fs = AysFs::new(lab.base(&entries), cache, lab.stors());
    let warmed = warm(&fs, &[""]).await.expect("walked");
    assert_eq!((warmed.ended, warmed.fetched_files), (Ended::Outage, 0));
    assert!(warmed.failed_files >= 8 && warmed.failed_files < 64, "{}", warmed.failed_files);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_begun_and_in_the_background_nothing_is_evicted() {
    let lab = Lab::new();
    let list = packed(&lab, None).await;
    let fs = AysFs::new(lab.base_of(&list), limited(&lab, 4 << 20), lab.stors());
    match warm(&fs, &[""]).await {
        Err(WarmError::NoRoom { needed, room }) => assert!(needed > 4 << 20 && room < 4 << 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(asked(&lab, &list), 0);
    let warmed = warm(&fs, &["a"]).await.expect("that fits");
    assert_eq!((warmed.failed_files, warmed.ended), (0, Ended::Complete));

    let progress = Arc::<Progress>::default();
    let all = fs.warming().warm(&[Vec::new()], Pace::Background, &progress).await.expect("walked");
    assert_eq!((all.ended, all.failed_files), (Ended::Full, 0));
    let again = warm(&fs, &["a"]).await.expect("nothing to do");
    assert_eq!(again.fetched_files, 0, "it has stayed");
    assert!(fs.warming().start().await.is_ok(), "there is nothing to begin with");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_list_says_is_read_first_is_fetched_in_a_few_requests() {
    let lab = Lab::new();
    let reads = [("b/f200", 0..2200), ("a/f100", 0..2100), ("large", 2 << 20..2_100_000)];
    let first = |(path, range): (&str, _)| FirstRead { path: path.into(), range };
    let list = packed(&lab, Some(Profile { reads: reads.into_iter().map(first).collect() })).await;
    let header = parse(&list).header;
    assert!(!header.start.is_empty());
    let bytes = header.packs.iter().filter(|pack| header.start.contains(&pack.key)).map(|pack| pack.bytes);
    let bytes: u64 = bytes.sum();

    let fs = AysFs::new(lab.base_of(&list), limited(&lab, bytes / 2), lab.stors());
    let error = fs.warming().start().await.expect_err("it is too large");
    assert!(matches!(error, StartError::TooLarge { bytes: all, .. } if all == bytes), "{error}");
    assert_eq!(asked(&lab, &list), 0);

    let fs = AysFs::new(lab.base_of(&list), lab.cache(), lab.stors());
    lab.stor.script([Trouble::Fail(|| Fault::NotFound)]);
    let error = fs.warming().start().await.expect_err("it fails once");
    assert!(matches!(error, StartError::Missing(_)), "{error}");
    assert_eq!(fs.warming().start().await.expect("it does not any more"), bytes);
    let calls = |key| lab.stor.calls(&store_key(key)).get;
    for pack in &header.packs {
        assert_eq!(calls(pack.key) > 0, header.start.contains(&pack.key), "{}", pack.key);
    }
    let before = asked(&lab, &list);
    assert!(before <= 5 * header.start.len());
    drop(fs);
    let mount = mount_base(&lab, lab.base_of(&list));
    assert_eq!(mount.read("b/f200").await.expect("there").len(), 2200);
    assert_eq!(asked(&lab, &list), before);
}

async fn recorded(mount: &Mount, overlay: &Overlay) -> Vec<(String, std::ops::Range<u64>)> {
    let _recording = overlay.recorder().begin().expect("nobody else");
    mount.find("a/f000").await.expect("there");
    mount.read("b/f001").await.expect("there");
    let large = mount.ino("large").await;
    for offset in [1 << 20, (1 << 20) + 65536, 0, 1 << 20] {
        let read = aysfs_vfs::Vfs::read(overlay, large, aysfs_vfs::Fh::NONE, offset, 65536).await;
        assert_eq!(read.expect("there").len(), 65536);
    }
    mount.write("new", aysfs_vfs::OpenFlags::READ_WRITE, 0, b"local").await;
    mount.read("new").await.expect("there");
    mount.read("a/medium").await.expect("there");
    let profile = overlay.recorder().profile().expect("it is on");
    profile.reads.into_iter().map(|read| (String::from_utf8(read.path).expect("ASCII"), read.range)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_recorded_by_their_path_in_the_list_also_of_what_could_pass_through() {
    let lab = Lab::new();
    let list = packed(&lab, None).await;
    let mount = mount_base(&lab, lab.base_of(&list));
    let overlay = mount.0.clone();
    mount.rename("a", "moved").await;
    mount.rename("moved", "a").await;
    let medium = mount.ino("a/medium").await;
    let passing = aysfs_vfs::OpenFlags { passthrough: true, ..READ };
    let vfs: &dyn aysfs_vfs::Vfs = &*overlay;
    mount.read("a/medium").await.expect("there");
    let expected = [
        ("b/f001".to_owned(), 0..2001),
        ("large".to_owned(), 1 << 20..(1 << 20) + 131_072),
        ("large".to_owned(), 0..65536),
        ("a/medium".to_owned(), 0..300_000),
    ];
    assert_eq!(recorded(&mount, &overlay).await, expected);
    assert!(overlay.held_files().contains(&medium));
    assert!(overlay.recorder().profile().is_none(), "nobody records any more");

    // Nothing passes through while somebody records; what does already is told when it is opened again.
    let before = vfs.open(medium, passing).await.expect("opened").backing;
    let recording = overlay.recorder().begin().expect("nobody else");
    let again = vfs.open(medium, passing).await.expect("opened").backing;
    assert_eq!(before.is_some(), again.is_some(), "all handles agree");
    assert_eq!(recording.seen(), if again.is_some() { (1, 300_000) } else { (0, 0) });
    let large = mount.ino("large").await;
    overlay.warming().warm(&[b"large".to_vec()], Pace::Asked, &Arc::default()).await.expect("fetched");
    assert!(vfs.open(large, passing).await.expect("opened").backing.is_none());
    for ino in [medium, medium, large] {
        vfs.release(ino, aysfs_vfs::Fh::NONE).await.expect("released");
    }
}
