//! What is in packs, and why there.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use aysfs_engine::pack::{self, Options, PackError, Summary, pack};
use aysfs_engine::profile::Profile;
use aysfs_flist::{Content, Dialect, Flist, Header, Index, ObjectKey, ParseOptions, Source};
use aysfs_store::contract::noise;
use aysfs_store::crypt::{PrivateKey, Sealing};
use aysfs_store::fault::{ServerTrouble, Trouble};
use aysfs_store::{Fault, Key, Store};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::packed::{assert_holds, chunks_of, entry, parse, store_key};
use support::{Lab, PATIENT, Running};

fn options(lab: &Lab) -> Options {
    Options {
        dialect: Dialect::V2,
        header: Header::default(),
        exclude: Vec::new(),
        sealing: None,
        base: None,
        profile: None,
        spool: lab.dir.path().into(),
    }
}

async fn packed_with(
    root: &Path,
    stor: &dyn Store,
    options: &Options,
) -> Result<(Summary, Vec<u8>), PackError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let progress = Arc::new(pack::Progress::default());
    let summary = pack(root, stor, options, file.reopen().expect("there"), &progress).await?;
    Ok((summary, fs::read(file).expect("read")))
}

async fn packed(lab: &Lab, root: &Path) -> (Summary, Vec<u8>) {
    packed_with(root, &*lab.objects, &options(lab)).await.expect("packed")
}

fn index(lab: &Lab, list: &[u8]) -> Arc<Index> {
    let source = Source::Bytes { name: "older", bytes: list };
    Arc::new(Index::compile(source, &ParseOptions::default(), &lab.path("index")).expect("a good list"))
}

/// A directory with many small files and two large ones.
fn grow(lab: &Lab, name: &str) -> std::path::PathBuf {
    let root = lab.path(name);
    for directory in 0..4 {
        let path = root.join(format!("d{directory}"));
        fs::create_dir_all(&path).expect("made");
        for number in 0..60 {
            let seed = directory * 1000 + number;
            fs::write(path.join(format!("f{number:02}")), noise(seed, 250_000)).expect("written");
        }
    }
    fs::write(root.join("d1/large"), noise(7, 9 << 20)).expect("written");
    fs::write(root.join("large"), noise(8, 5 << 20)).expect("written");
    root
}

fn packs(flist: &Flist) -> BTreeSet<String> {
    flist.header.packs.iter().map(|pack| pack.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_trees_give_equal_packs() {
    let lab = Lab::new();
    let root = grow(&lab, "source");
    let (first, list) = packed(&lab, &root).await;
    assert!(first.new_objects > 3);
    assert_holds(&*lab.objects, &list, &root, None).await;
    for _ in 0..3 {
        let other = Lab::new();
        let (again, same) = packed(&other, &root).await;
        assert!(list == same, "whatever the threads did");
        assert_eq!((again.new_objects, again.new_bytes), (first.new_objects, first.new_bytes));
    }
    let (again, _) = packed(&lab, &root).await;
    assert_eq!((again.new_objects, again.bytes), (0, first.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_early_in_a_tree_leaves_most_packs_the_same() {
    let lab = Lab::new();
    let root = grow(&lab, "source");
    let before = packs(&parse(&packed(&lab, &root).await.1));
    fs::write(root.join("d0/a"), noise(99, 100_000)).expect("written");
    fs::remove_file(root.join("d0/f07")).expect("removed");
    let (_, list) = packed(&lab, &root).await;
    let after = packs(&parse(&list));
    assert!(before.intersection(&after).count() * 2 >= before.len(), "{before:?}\n{after:?}");
    assert_holds(&*lab.objects, &list, &root, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_list_has_is_not_stored_again() {
    let lab = Lab::new();
    let root = grow(&lab, "source");
    let (first, old) = packed(&lab, &root).await;
    fs::write(root.join("new"), noise(50, 70_000)).expect("written");
    let large = fs::OpenOptions::new().write(true).open(root.join("large")).expect("there");
    large.write_all_at(b"changed", 3 << 20).expect("written");
    let with_base = Options { base: Some(index(&lab, &old)), ..options(&lab) };
    let (second, list) = packed_with(&root, &*lab.objects, &with_base).await.expect("packed");
    assert_holds(&*lab.objects, &list, &root, None).await;
    assert!(second.reused_bytes > first.bytes - (9 << 20), "{second:?}");
    assert!(second.new_bytes < 10 << 20, "{second:?}");
    assert_eq!(second.new_objects, 2, "what is new, and a table");
    let (old, new) = (parse(&old), parse(&list));
    assert_eq!(entry(&old, "d1/large").content, entry(&new, "d1/large").content, "with its table");
    assert_ne!(entry(&old, "large").content, entry(&new, "large").content);

    // A list of another stor is of no use, and does no harm.
    let other = Lab::new();
    let (elsewhere, list) = packed_with(&root, &*other.objects, &with_base).await.expect("packed");
    assert_eq!(elsewhere.reused_bytes, 0);
    assert_holds(&*other.objects, &list, &root, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_profile_names_is_in_the_start_pack_in_its_order() {
    let lab = Lab::new();
    let root = grow(&lab, "source");
    let text = "# aysfs-profile 1\n0+250000 d3/f01\n8388608+4096 d1/large\n0+1 gone\n0+250000 d0/f59\n";
    let profile = Some(Profile::parse(text.as_bytes()).expect("a profile"));
    let with_profile = Options { profile, ..options(&lab) };
    let (summary, list) = packed_with(&root, &*lab.objects, &with_profile).await.expect("packed");
    assert_eq!(summary.unknown_paths, 1);
    assert_holds(&*lab.objects, &list, &root, None).await;
    let flist = parse(&list);
    let start = flist.header.start[0];
    let mut at_start = Vec::new();
    for entry in &flist.entries {
        for chunk in chunks_of(&*lab.objects, &flist, entry, None).await {
            if chunk.key == store_key(start) {
                let part = chunk.part.expect("part of it");
                at_start.push((
                    part.range.start,
                    String::from_utf8_lossy(&entry.path).into_owned(),
                    chunk.plain,
                ));
            }
        }
    }
    at_start.sort_by_key(|(offset, ..)| *offset);
    let names: Vec<_> = at_start.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["d3/f01", "d1/large", "d0/f59"]);
    assert!(at_start[1].2.contains(&(8 << 20)), "the chunk that is read");
    let tables: BTreeSet<_> = ["large", "d1/large"]
        .map(|path| match entry(&flist, path).content {
            Some(Content::Chunks { table, .. }) => table.at.pack.to_string(),
            ref other => panic!("{other:?}"),
        })
        .into();
    let others = flist.header.start[1..].iter().map(ObjectKey::to_string);
    assert_eq!(tables, others.collect(), "then the tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_name_packs_as_the_stor_calls_them() {
    let lab = Lab::new();
    let root = grow(&lab, "source");
    let server = Running::start().await;
    server.faulty.set(ServerTrouble::Old).await.expect("set");
    let stor = server.stor(PATIENT);
    let (_, list) = packed_with(&root, &*stor, &options(&lab)).await.expect("packed");
    let flist = parse(&list);
    assert!(flist.header.packs.iter().all(|pack| matches!(pack.key, ObjectKey::Md5(_))));
    assert_holds(&*stor, &list, &root, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_packs_are_as_deterministic_and_show_nothing() {
    let lab = Lab::new();
    let root = lab.path("source");
    fs::create_dir(&root).expect("made");
    fs::write(root.join("small"), "nobody is to see this").expect("written");
    fs::write(root.join("large"), b"nobody is to see this ".repeat(200_000)).expect("written");
    let key = PrivateKey::generate().expect("a key");
    let sealing = Sealing::new([&key.public()]).expect("a secret");
    let with_secret = Options { sealing: Some(sealing.clone()), ..options(&lab) };
    let (first, sealed) = packed_with(&root, &*lab.objects, &with_secret).await.expect("packed");
    let (list, _) = Sealing::open(&sealed, &[key]).expect("ours");
    assert_holds(&*lab.objects, &list, &root, Some(sealing.secret())).await;
    let (second, _) = packed_with(&root, &*lab.objects, &with_secret).await.expect("packed");
    assert_eq!((first.new_objects > 0, second.new_objects), (true, 0));
    for pack in parse(&list).header.packs {
        let body = lab.objects.get(&store_key(pack.key), None).await.expect("there");
        let bytes = futures::TryStreamExt::try_collect::<Vec<_>>(body.stream).await.expect("memory").concat();
        assert!(!bytes.windows(9).any(|window| window == b"to see th"));
    }
}

#[tokio::test]
async fn a_pack_that_the_stor_refuses_ends_the_work_and_leaves_no_list() {
    let lab = Lab::new();
    let root = lab.path("source");
    fs::create_dir(&root).expect("made");
    fs::write(root.join("file"), "content").expect("written");
    let refused = support::key_of(&lab.file("x", b"content"));
    lab.objects.delete(&refused).await.expect("it was only made to know its key");
    lab.stor.set_for(&refused, Trouble::Fail(|| Fault::Refused("too large".into())));
    let error = packed_with(&root, &*lab.stor, &options(&lab)).await.expect_err("refused");
    assert!(matches!(&error, PackError::Store(error) if error.subject == refused.to_string()), "{error:?}");
}

/// Runs an ignored test in a process of its own, since others take memory too.
fn run_alone(test: &str) {
    let mut alone = Command::new(std::env::current_exe().expect("a test binary"));
    let output = alone.args(["--exact", test, "--ignored", "--nocapture"]).output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_long_stream_takes_little_memory() {
    run_alone("a_long_stream");
}

#[test]
fn many_files_take_no_more_memory_than_few() {
    run_alone("few_files_and_many");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn few_files_and_many() {
    let lab = Lab::new();
    let root = lab.path("source");
    for directory in 0..3 {
        let path = root.join(directory.to_string());
        fs::create_dir_all(&path).expect("made");
        for number in 0..10_000 {
            fs::write(path.join(number.to_string()), format!("{directory} {number}")).expect("written");
        }
    }
    let progress = Arc::new(pack::Progress::default());
    let packed = async |root: &Path| {
        pack(root, &*lab.objects, &options(&lab), std::io::sink(), &progress).await.expect("packed")
    };
    assert_eq!(packed(&root.join("0")).await.files, 10_000);
    let few = peak();
    assert_eq!(packed(&root).await.files, 30_000);
    // Some of it is for chunks that are known. Entries alone, held in memory, would take more than 20 MB.
    assert!(peak() - few < 14 << 20, "{few} bytes, and then {}", peak());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn a_long_stream() {
    let lab = Lab::new();
    let root = lab.path("source");
    fs::create_dir(&root).expect("made");
    // Nearly all of it is one chunk again and again, so that the stor holds little.
    let sparse = fs::File::create(root.join("sparse")).expect("made");
    sparse.set_len(1 << 30).expect("resizable");
    sparse.write_all_at(&noise(1, 3 << 20), 500 << 20).expect("written");
    let (summary, list) = packed(&lab, &root).await;
    assert_eq!(summary.bytes, 1 << 30);
    assert!(summary.new_bytes < 20 << 20, "{summary:?}");
    let flist = parse(&list);
    let chunks = chunks_of(&*lab.objects, &flist, entry(&flist, "sparse"), None).await;
    assert_eq!(chunks.last().expect("some").plain.end, 1 << 30);
    assert!(peak() < 200 << 20, "{} bytes", peak());
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is there");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_files_there_are_the_list_covers_each_exactly(
        sizes in prop::collection::vec(prop_oneof![0..2000_usize, 0..3_000_000_usize, Just(1 << 20), Just((1 << 20) + 1)], 0..12),
        alike in any::<bool>(),
    ) {
        let lab = Lab::new();
        let root = lab.path("source");
        fs::create_dir(&root).expect("made");
        for (number, size) in sizes.iter().enumerate() {
            let seed = if alike { 1 } else { number as u64 };
            fs::write(root.join(format!("f{number}")), noise(seed, *size)).expect("written");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (summary, list) = packed(&lab, &root).await;
            assert_eq!(summary.bytes, sizes.iter().sum::<usize>() as u64);
            assert_holds(&*lab.objects, &list, &root, None).await;
            let flist = parse(&list);
            for pack in &flist.header.packs {
                let body = lab.objects.get(&store_key(pack.key), None).await.expect("there");
                let pieces = futures::TryStreamExt::try_collect::<Vec<_>>(body.stream).await.expect("memory");
                let bytes = pieces.concat();
                assert_eq!(bytes.len() as u64, pack.bytes);
                assert_eq!(Key::sha256(Sha256::digest(&bytes).into()), store_key(pack.key));
            }
        });
    }
}
