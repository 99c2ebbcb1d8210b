//! Content of packs: what is fetched together, what is read again, and what happens to what is wrong.

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};

use super::*;
use crate::contract::noise;
use crate::fault::Gate;
use crate::{Fault, Part, table};

/// A pack under construction.
#[derive(Default)]
struct Packing {
    bytes: Vec<u8>,
    places: Vec<([u8; 32], u64, std::ops::Range<u64>)>,
}

impl Packing {
    fn add(&mut self, plain: &[u8]) {
        let stored = codec::encode(plain, Compression::default(), None);
        let start = self.bytes.len() as u64;
        self.bytes.extend(&stored);
        self.places.push((sha256(plain), plain.len() as u64, start..self.bytes.len() as u64));
    }

    /// Its key, its bytes, and the files that are one chunk of it each.
    fn finish(self) -> (Key, Vec<u8>, Vec<Content>) {
        let key = Key::sha256(sha256(&self.bytes));
        let pack = self.bytes.len() as u64;
        let content =
            |(digest, size, range)| Content::packed(digest, size, key.clone(), Part { range, pack });
        let contents = self.places.into_iter().map(content).collect();
        (key, self.bytes, contents)
    }
}

fn small(n: u64) -> Vec<u8> {
    noise(n + 1, usize::try_from(500 + n * 7919 % 3000).expect("small"))
}

/// So many small files in one pack.
fn small_files(count: u64) -> (Key, Vec<u8>, Vec<Content>) {
    let mut packing = Packing::default();
    (0..count).for_each(|n| packing.add(&small(n)));
    packing.finish()
}

/// A file in several chunks of one pack, with its table in another: both packs, and the file.
fn large_file(plain: &[u8], chunk: usize) -> ([(Key, Vec<u8>); 2], Content) {
    let mut packing = Packing::default();
    plain.chunks(chunk).for_each(|piece| packing.add(piece));
    let (data, bytes, pieces) = packing.finish();
    let mut at = 0;
    let chunks: Vec<_> = pieces
        .iter()
        .map(|piece| {
            let plain = at..at + piece.size;
            at = plain.end;
            Chunk { plain, ..piece.chunks[0].clone() }
        })
        .collect();
    let mut packing = Packing::default();
    packing.add(&table::write(&chunks).expect("parts of packs"));
    let (table_pack, table_bytes, tables) = packing.finish();
    let content = Content::listed(sha256(plain), plain.len() as u64, tables[0].clone());
    ([(data, bytes), (table_pack, table_bytes)], content)
}

/// The same, in all stors: the key of the pack with its chunks, and the file.
fn stored_large_file(bench: &Bench, plain: &[u8], chunk: usize) -> (Key, Content) {
    let (packs, content) = large_file(plain, chunk);
    packs.iter().for_each(|(key, pack)| bench.stors.iter().for_each(|stor| stor.give(key, pack)));
    let [(data, _), _] = packs;
    (data, content)
}

#[tokio::test]
async fn small_files_that_are_neighbours_arrive_together() {
    let bench = Bench::new(1);
    let (key, pack, contents) = small_files(200);
    bench.stor().give(&key, &pack);
    for (n, content) in (0..).zip(&contents) {
        assert!(bench.file(content).read(0, 100_000).await.expect("fetched") == small(n));
    }
    assert_eq!(bench.stor().asked(&key), 1);
    assert_eq!(bench.names(), [key.as_str()], "no file for each");
    assert_eq!(bench.file(&contents[7]).read(10, 20).await.expect("there"), small(7)[10..30]);
}

#[tokio::test]
async fn a_walk_in_order_asks_seldom_and_many_readers_once() {
    let bench = Bench::new(1);
    let (key, pack, contents) = small_files(3000);
    bench.stor().give(&key, &pack);
    for (n, content) in (0..).zip(&contents) {
        assert!(bench.file(content).read(0, 100_000).await.expect("fetched") == small(n));
    }
    assert!(bench.stor().asked(&key) <= 6, "{}", bench.stor().asked(&key));

    let bench = Bench::new(1);
    bench.stor().give(&key, &pack);
    let gate = Gate::default();
    bench.stor().faults.set_for(&key, Trouble::Wait(gate.clone()));
    let files: Vec<_> = contents[..100].iter().map(|content| bench.file(content)).collect();
    let mut reads: FuturesUnordered<_> = files.iter().map(|file| file.read(0, 100_000)).collect();
    assert!(futures::poll!(reads.next()).is_pending());
    gate.reached_by(1).await;
    gate.open();
    while let Some(read) = reads.next().await {
        read.expect("fetched");
    }
    assert_eq!(bench.stor().asked(&key), 1);
}

#[tokio::test]
async fn what_is_kept_of_a_pack_is_read_after_a_restart_and_a_reboot() {
    let mut bench = Bench::new(1);
    let (key, pack, contents) = small_files(100);
    bench.stor().give(&key, &pack);
    bench.file(&contents[0]).read(0, 10).await.expect("fetched");
    assert!(bench.cache.fetch_pack(&key, pack.len() as u64, &bench.sources).await);
    let asked = bench.stor().asked(&key);
    for options in [options(), after_reboot()] {
        bench.restart(options);
        for (n, content) in (0..).zip(&contents) {
            assert!(bench.file(content).read(0, 100_000).await.expect("there") == small(n));
        }
    }
    assert_eq!(bench.stor().asked(&key), asked);
}

#[tokio::test]
async fn damage_in_the_directory_is_found_and_fetched_again() {
    let mut bench = Bench::new(1);
    let (key, pack, contents) = small_files(100);
    bench.stor().give(&key, &pack);
    assert!(bench.cache.fetch_pack(&key, pack.len() as u64, &bench.sources).await);
    bench.restart(options());
    let path = bench.path().join("cache/packs").join(key.as_str());
    std::fs::write(&path, vec![7; pack.len()]).expect("damaged");
    for (n, content) in (0..).zip(&contents) {
        assert!(bench.file(content).read(0, 100_000).await.expect("right") == small(n));
    }
    assert_eq!(bench.cache.stats().damaged_files, 1, "nothing of it is believed any more");
    assert!(bench.stor().asked(&key) <= 3);
}

#[tokio::test]
async fn a_stor_that_sends_wrong_bytes_is_left_for_another() {
    let bench = Bench::new(2);
    let (key, pack, contents) = small_files(50);
    let mut wrong = pack.clone();
    for place in (100..wrong.len()).step_by(1000) {
        wrong[place] ^= 1;
    }
    bench.stors[0].give(&key, &wrong);
    bench.stors[1].give(&key, &pack);
    for (n, content) in (0..).zip(&contents) {
        assert!(bench.file(content).read(0, 100_000).await.expect("right") == small(n), "file {n}");
    }
    assert!(bench.cache.stats().verification_failures > 0);
    assert!(bench.sources.stats()[0].stands_back);
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_to_ranges_are_never_shown() {
    let (key, pack, contents) = small_files(20);
    let half = pack.len() / 2;
    let troubles: Vec<(&str, Trouble)> = vec![
        ("all of it", Trouble::Body(pack.clone().into())),
        ("too little", Trouble::Body(pack[..half].to_vec().into())),
        ("another part", Trouble::Body(pack[half..].to_vec().into())),
        ("nothing", Trouble::Body(bytes::Bytes::new())),
        ("416", Trouble::Fail(|| Fault::Refused("no such range".into()))),
        ("not there", Trouble::Fail(|| Fault::NotFound)),
        ("an endless body", Trouble::Endless(0)),
        ("silence", Trouble::Silence),
    ];
    for (what, trouble) in troubles {
        let bench = Bench::new(2);
        bench.stors[0].give_with(&key, &pack, trouble.clone());
        bench.stors[1].give(&key, &pack);
        let file = |n: usize| bench.file(&contents[n]);
        for n in [10, 11, 3] {
            let read = file(n).read(0, 100_000).await;
            assert!(read.expect("the other stor is right") == small(n as u64), "{what}");
        }
        // With no other, it is an error.
        bench.stors[1].faults.set_for(&key, trouble);
        let bench = Bench::new(1);
        bench.stor().give_with(&key, &pack, Trouble::Body(pack[half..].to_vec().into()));
        bench.file(&contents[1]).read(0, 100_000).await.expect_err(what);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stor_is_waited_for_as_long_as_the_deadline_says() {
    let bench = Bench::new(1);
    let (key, pack, contents) = small_files(3);
    bench.stor().give_with(&key, &pack, Trouble::Silence);
    let began = tokio::time::Instant::now();
    bench.file(&contents[0]).read(0, 10).await.expect_err("silent");
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_file_that_cannot_be_kept_is_read_through() {
    let bench = Bench::new(1);
    let (key, pack, contents) = small_files(5);
    bench.stor().give(&key, &pack);
    bench.cache.disk.failed(&std::io::ErrorKind::StorageFull.into());
    assert!(bench.file(&contents[2]).read(0, 100_000).await.expect("read") == small(2));
    assert!(bench.names().is_empty());
}

#[tokio::test]
async fn what_is_there_is_read_while_the_directory_is_left_alone() {
    let bench = Bench::new(1);
    let (key, pack, contents) = small_files(2000);
    bench.stor().give(&key, &pack);
    bench.file(&contents[0]).read(0, 10).await.expect("fetched");
    bench.file(&contents[1]).read(0, 10).await.expect("fetched");
    assert!(bench.cache.packs.contains(&key, contents[9].chunks[0].part.as_ref().expect("packed")));
    bench.cache.disk.failed(&std::io::ErrorKind::StorageFull.into());
    bench.stor().give_with(&key, &pack, Trouble::Fail(|| Fault::Unavailable("gone".into())));
    let asked = bench.stor().asked(&key);
    for (n, content) in (0..10).zip(&contents) {
        let read = bench.file(content).read(0, 100_000).await;
        assert!(read.expect("there") == small(n), "file {n}");
    }
    assert_eq!(bench.stor().asked(&key), asked, "nothing is fetched ahead");
}

#[tokio::test]
async fn one_of_medium_size_becomes_a_file_and_brings_its_neighbours() {
    let bench = Bench::new(1);
    let mut packing = Packing::default();
    let plain: Vec<_> = (0..4).map(|n| noise(n, 100_000)).collect();
    plain.iter().for_each(|plain| packing.add(plain));
    let (key, pack, contents) = packing.finish();
    bench.stor().give(&key, &pack);
    for (plain, content) in plain.iter().zip(&contents) {
        assert!(bench.file(content).read(500, 1000).await.expect("fetched") == plain[500..1500]);
        assert!(bench.published(content).exists());
    }
    assert_eq!(bench.stor().asked(&key), 1);
}

#[tokio::test]
async fn a_large_file_fetches_the_chunks_that_are_read() {
    let bench = Bench::new(1);
    let plain = noise(3, 1_000_000);
    let (data, content) = stored_large_file(&bench, &plain, 50_000);
    let file = bench.file(&content);
    let table = content.table.clone().expect("a table");
    let table_key = &table.chunks[0].key;
    assert!(file.read(500_000, 4096).await.expect("fetched") == plain[500_000..504_096]);
    assert_eq!((bench.stor().asked(table_key), bench.stor().asked(&data)), (1, 1));
    assert_eq!(bench.cache.stats().plain_bytes, 50_000 + table.size);
    // In order, by many at the same time: each chunk once.
    let pieces: Vec<_> = (0..plain.len()).step_by(30_000).collect();
    join_all(pieces.iter().map(|at| async {
        let read = file.read(*at as u64, 30_000).await.expect("fetched");
        assert!(read == plain[*at..(*at + 30_000).min(plain.len())]);
    }))
    .await;
    assert_eq!(bench.cache.stats().plain_bytes, 1_000_000 + table.size);
    assert_eq!(bench.stor().asked(table_key), 1);
    file.fetch_all().await.expect("complete");
    assert!(bench.published(&content).exists());
    assert!(file.read(7, 10).await.expect("there") == plain[7..17]);
}

#[tokio::test]
async fn who_reads_a_large_file_in_order_finds_what_was_fetched_ahead() {
    let bench = Bench::new(1);
    let plain = noise(3, 16_000_000);
    let (data, content) = stored_large_file(&bench, &plain, 200_000);
    let file = bench.file(&content);
    file.read(15_900_000, 100).await.expect("fetched");
    assert_eq!(bench.stor().asked(&data), 1, "a read somewhere fetches nothing else");
    for at in (0..4_000_000).step_by(10_000) {
        assert!(file.read(at as u64, 10_000).await.expect("fetched") == plain[at..at + 10_000]);
    }
    while bench.cache.stats().plain_bytes < 8_000_000 {
        tokio::task::yield_now().await;
    }
    let asked = bench.stor().asked(&data);
    assert!(asked < 15, "asked {asked} times for 80 chunks");
}

#[tokio::test]
async fn what_a_request_for_several_chunks_does_not_bring_is_fetched_by_itself() {
    let plain = noise(3, 8_000_000);
    let (packs, _) = large_file(&plain, 200_000);
    let pack = &packs[0].1;
    let mut wrong = pack.clone();
    (0..wrong.len()).step_by(1_700_000).for_each(|place| wrong[place] ^= 1);
    let troubles = [
        ("wrong bytes", Trouble::Body(wrong.into())),
        ("flipped", Trouble::Flip(2_500_000)),
        ("cut", Trouble::Cut(1_500_000)),
        ("ends", Trouble::End(1_500_000)),
        ("refused", Trouble::Fail(|| Fault::Refused("no such range".into()))),
        ("endless", Trouble::Endless(0)),
    ];
    for (what, trouble) in troubles {
        let bench = Bench::new(2);
        let (data, content) = stored_large_file(&bench, &plain, 200_000);
        bench.stors[0].faults.set_for(&data, trouble);
        let file = bench.file(&content);
        for at in (0..plain.len()).step_by(100_000) {
            let read = file.read(at as u64, 100_000).await.expect("the other stor is right");
            assert!(read == plain[at..at + 100_000], "{what}");
        }
        file.fetch_all().await.expect("complete");
    }
}

#[tokio::test]
async fn a_large_file_that_is_mostly_there_is_completed() {
    let bench = Bench::new(1);
    let plain = noise(9, 400_000);
    let (data, content) = stored_large_file(&bench, &plain, 50_000);
    let file = bench.file(&content);
    for at in [350_000, 200_000, 300_000, 100_000, 150_000, 0] {
        file.read(at, 10).await.expect("fetched");
    }
    while file.complete().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(bench.stor().asked(&data) <= 8);
}

#[tokio::test]
async fn a_table_that_is_wrong_is_an_error() {
    let bench = Bench::new(1);
    let plain = noise(9, 400_000);
    let (_, content) = large_file(&plain, 50_000);
    let nonsense = b"not a table at all";
    let mut packing = Packing::default();
    packing.add(nonsense);
    let (key, pack, contents) = packing.finish();
    bench.stor().give(&key, &pack);
    let wrong = Content { table: Some(contents[0].clone().into()), ..content };
    let error = bench.file(&wrong).read(0, 10).await.expect_err("no table").to_string();
    assert!(error.contains("the chunk table is not one that this version of aysfs can read"), "{error}");
}

#[tokio::test]
async fn a_start_pack_serves_chunks_of_large_files_too() {
    let bench = Bench::new(1);
    let plain = noise(3, 300_000);
    let ([(data, pack), table], content) = large_file(&plain, 50_000);
    bench.stor().give(&data, &pack);
    bench.stor().give(&table.0, &table.1);
    assert!(bench.cache.fetch_pack(&data, pack.len() as u64, &bench.sources).await);
    let asked = bench.stor().asked(&data);
    assert!(bench.file(&content).read(120_000, 100).await.expect("there") == plain[120_000..120_100]);
    assert_eq!(bench.stor().asked(&data), asked);
}
