use aysfs_flist::Entry;
use aysfs_store::Store;
use aysfs_store::Upload;
use aysfs_store::fault::Trouble;
use md5::Digest as _;

use super::*;
use crate::testing::{Lab, long_ago, noise, small};

const ALL: Depth = Depth::Sample { percent: 100.0, seed: 1 };

/// A list with content in every form, and its first pack.
struct Sound {
    lab: Lab,
    entries: Vec<Entry>,
    pack: Key,
    tables: Key,
}

impl Sound {
    fn new() -> Self {
        let lab = Lab::new();
        let chunks = lab.pack(&[noise(1, 3000), b"text ".repeat(1000), noise(2, 70_000), noise(3, 50)]);
        let more = lab.pack(&[noise(4, 100_000)]);
        let mut entries = vec![
            lab.object("a", b"an object of its own"),
            small("b", &chunks[0]),
            small("c", &chunks[1]),
            small("c2", &chunks[1]),
            small("d", &chunks[3]),
        ];
        entries.extend(lab.large(&[("e", vec![chunks[2].clone(), more[0].clone(), chunks[2].clone()])]));
        let tables = match entries[5].content {
            Some(aysfs_flist::Content::Chunks { table, .. }) => listed::key(table.at.pack),
            _ => panic!("a large file"),
        };
        Self { pack: chunks[0].key.clone(), lab, entries, tables }
    }

    async fn check(&self, depth: Depth) -> (Summary, Vec<String>) {
        let (base, mut problems) = (self.lab.base(&self.entries), Vec::new());
        let report = |problem: Problem| problems.push(problem.to_string());
        let summary =
            fsck(&base, &self.lab.stors(), depth, &Progress::default(), report).await.expect("looked");
        assert_eq!(summary.problems, problems.len() as u64);
        (summary, problems)
    }

    /// The only problem that is found.
    async fn problem(&self, depth: Depth) -> String {
        let (_, mut problems) = self.check(depth).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }
}

#[tokio::test]
async fn what_is_sound_has_no_problems() {
    let sound = Sound::new();
    for (depth, verified) in [(Depth::Presence, 0), (ALL, 6), (Depth::Full, 6)] {
        let (summary, problems) = sound.check(depth).await;
        assert_eq!(problems, [""; 0], "{depth:?}");
        assert_eq!(summary, Summary { files: 6, objects: 4, chunks: 6, verified, problems: 0 });
    }
}

#[tokio::test]
async fn a_missing_pack_is_one_problem_for_all_its_files() {
    let sound = Sound::new();
    sound.lab.objects.delete(&sound.pack).await.expect("deleted");
    for depth in [Depth::Presence, ALL, Depth::Full] {
        let problem = sound.problem(depth).await;
        let expected = format!("/b, /c, /c2 and 2 more: object {}: it is not in the stor", sound.pack);
        assert_eq!(problem, expected);
    }
}

#[tokio::test]
async fn a_missing_object_is_found() {
    let sound = Sound::new();
    let object = crate::listed::key(match sound.entries[0].content {
        Some(aysfs_flist::Content::Object { key, .. }) => key,
        _ => panic!("an object"),
    });
    sound.lab.objects.delete(&object).await.expect("deleted");
    assert!(sound.problem(Depth::Presence).await.starts_with("/a: object "));
}

#[tokio::test]
async fn a_pack_that_was_cut_is_found() {
    let sound = Sound::new();
    sound.lab.change(&sound.pack, |bytes| bytes.truncate(bytes.len() - 1));
    assert!(sound.problem(Depth::Presence).await.contains("it is shorter than the "));
}

#[tokio::test]
async fn wrong_bytes_are_found_where_content_is_read() {
    let sound = Sound::new();
    sound.lab.change(&sound.pack, |bytes| bytes[100] ^= 1);
    assert_eq!(sound.check(Depth::Presence).await.1, [""; 0]);
    let problem = sound.problem(ALL).await;
    assert!(problem.starts_with("/b: ") && problem.contains("the content is wrong"), "{problem}");
    let (_, problems) = sound.check(Depth::Full).await;
    assert!(problems[0].starts_with("/b: ") && problems[0].contains("the content is wrong"), "{problems:?}");
    assert!(problems[1].contains("its bytes are not those that its name says"), "{problems:?}");
}

#[tokio::test]
async fn bytes_behind_a_pack_are_found() {
    let sound = Sound::new();
    sound.lab.change(&sound.pack, |bytes| bytes.push(0));
    for depth in [Depth::Presence, ALL, Depth::Full] {
        assert!(sound.problem(depth).await.contains("it is longer than the "), "{depth:?}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_for_ever() {
    let sound = Sound::new();
    // Its last byte is there, and none behind it.
    sound.lab.stor.script_for(&sound.pack, [Trouble::None, Trouble::None, Trouble::Endless(0)]);
    let (_, problems) = sound.check(Depth::Full).await;
    assert!(problems.last().is_some_and(|last| last.contains("it is longer than the ")), "{problems:?}");
}

#[tokio::test]
async fn what_could_not_be_read_was_not_decoded() {
    let sound = Sound::new();
    for depth in [ALL, Depth::Full] {
        let fail = std::iter::repeat_n(Trouble::Fail(|| Fault::Denied), 10);
        sound.lab.stor.script_for(&sound.pack, [Trouble::None, Trouble::None].into_iter().chain(fail));
        let (summary, problems) = sound.check(depth).await;
        assert!(!problems.is_empty());
        assert_eq!(summary.verified, 2, "{depth:?}: an object, and a chunk of the other pack");
        sound.lab.stor.clear_scripts();
    }
}

#[tokio::test]
async fn chunks_of_zeros_are_not_kept_in_memory() {
    let lab = Lab::new();
    let chunks: Vec<Chunk> = lab.pack(&vec![vec![0; 1 << 20]; 100]);
    let mut fetched = std::pin::pin!(fetch::verified(&lab.stors(), chunks.into()));
    while let Some((at, stored)) = fetched.next().await {
        assert!(stored.expect("sound").len() < 1000, "{at}");
    }
}

#[tokio::test]
async fn a_damaged_table_is_a_problem_of_its_file() {
    let sound = Sound::new();
    sound.lab.change(&sound.tables, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let problem = sound.problem(Depth::Presence).await;
    assert!(problem.starts_with("/e: ") && problem.contains("the chunk table cannot be read"), "{problem}");
}

#[tokio::test]
async fn a_missing_table_is_said_once() {
    let sound = Sound::new();
    sound.lab.objects.delete(&sound.tables).await.expect("deleted");
    assert!(sound.problem(Depth::Presence).await.contains("it is not in the stor"));
}

#[tokio::test(start_paused = true)]
async fn answers_to_other_ranges_are_found() {
    let sound = Sound::new();
    for trouble in [Trouble::Body("x".into()), Trouble::End(1), Trouble::Cut(1), Trouble::Endless(0)] {
        sound.lab.stor.set_for(&sound.pack, trouble.clone());
        let (_, problems) = sound.check(Depth::Full).await;
        assert!(!problems.is_empty(), "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_no_problem() {
    let sound = Sound::new();
    let fail = || Trouble::Fail(|| Fault::Unavailable("for a moment".into()));
    for depth in [ALL, Depth::Full] {
        sound.lab.stor.script_for(&sound.pack, [fail(), fail(), Trouble::None, fail(), Trouble::Cut(10)]);
        assert_eq!(sound.check(depth).await.1, [""; 0], "{depth:?}");
    }
}

#[tokio::test]
async fn a_stor_that_cannot_be_asked_is_no_problem_of_the_list() {
    let sound = Sound::new();
    let base = sound.lab.base(&sound.entries[..1]);
    sound.lab.stor.set(Trouble::Fail(|| Fault::Denied));
    let stors = sound.lab.stors();
    fsck(&base, &stors, Depth::Presence, &Progress::default(), |_| {})
        .await
        .expect_err("nothing was learned");
}

#[tokio::test]
async fn a_sample_is_the_same_for_the_same_seed() {
    let lab = Lab::new();
    let chunks = lab.pack(&(0..200).map(|seed| noise(seed, 50)).collect::<Vec<_>>());
    let entries: Vec<_> =
        chunks.iter().enumerate().map(|(at, chunk)| small(&format!("f{at}"), chunk)).collect();
    let base = lab.base(&entries);
    let mut verified = Vec::new();
    for seed in [1, 1, 2] {
        let depth = Depth::Sample { percent: 20.0, seed };
        let summary = fsck(&base, &lab.stors(), depth, &Progress::default(), |_| {}).await.expect("looked");
        verified.push(summary.verified);
    }
    assert!(verified.iter().all(|verified| (10..90).contains(verified)), "{verified:?}");
    assert_eq!(verified[0], verified[1]);
}

#[tokio::test]
async fn lists_of_v1_are_checked_too() {
    let (lab, plain) = (Lab::new(), b"an old file".to_vec());
    let md5: [u8; 16] = md5::Md5::digest(&plain).into();
    lab.stor.put(&Key::md5(md5), &Upload::Bytes(plain.clone().into())).await.expect("put");
    let list = format!("f|{}|{}\ng|{}|5\n", hex::encode(md5), plain.len(), "0".repeat(32));
    let base = lab.read(list.as_bytes());
    let mut problems = Vec::new();
    let report = |problem: Problem| problems.push(problem.to_string());
    let summary = fsck(&base, &lab.stors(), Depth::Full, &Progress::default(), report).await.expect("looked");
    assert_eq!((summary.files, summary.verified, problems.len()), (2, 1, 1), "{problems:?}");
    assert!(problems[0].starts_with("/g: "), "{problems:?}");
    lab.objects.insert_at(Key::md5(md5), "another file".as_bytes(), long_ago());
    let mut problems = Vec::new();
    let report = |problem: Problem| problems.push(problem.to_string());
    fsck(&base, &lab.stors(), ALL, &Progress::default(), report).await.expect("looked");
    assert_eq!(problems.len(), 2, "{problems:?}");
}
