//! What readers see while content arrives.

use std::os::unix::fs::{FileExt, MetadataExt};

use futures::future::join_all;
use futures::poll;

use super::*;
use crate::Part;
use crate::fault::Gate;

#[tokio::test]
async fn five_hundred_readers_cause_one_fetch() {
    let bench = Bench::new(1);
    let plain = b"read by many".repeat(1000);
    let (content, stored) = object(&plain);
    let gate = Gate::default();
    let key = &content.chunks[0].key;
    bench.stor().give_with(key, &stored, Trouble::Wait(gate.clone()));

    let file = bench.file(&content);
    let mut readers = Box::pin(join_all((0..500).map(|n| file.read(n, 5000))));
    assert!(poll!(&mut readers).is_pending());
    gate.open();
    for (n, bytes) in readers.await.into_iter().enumerate() {
        assert_eq!(bytes.expect("it arrived"), plain[n..n + 5000]);
    }
    assert_eq!(bench.stor().asked(key), 1);
    let stats = bench.cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.fetches, stats.plain_bytes), (500, 0, 1, 12_000));
}

#[tokio::test]
async fn a_hit_is_ready_at_the_first_poll() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"hello");
    bench.stor().give(&content.chunks[0].key, &stored);
    let file = bench.file(&content);
    assert!(file.complete().is_none());
    file.read(0, 5).await.expect("fetched");

    let read = std::pin::pin!(file.read(1, 100));
    let std::task::Poll::Ready(bytes) = poll!(read) else { panic!("a hit must not wait") };
    assert_eq!(bytes.expect("cached"), "ello");
    assert_eq!(bench.cache.stats().hits, 1);
}

#[tokio::test]
async fn what_is_open_is_read_without_asking_what_it_is_made_of() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"hello");
    bench.stor().give(&content.chunks[0].key, &stored);
    let read = |offset, length| bench.cache.read_open(&content.id, content.size, offset, length);
    assert!(read(0, 5).is_none());
    bench.file(&content).read(0, 5).await.expect("fetched");
    assert_eq!(read(1, 100).expect("open"), "ello");
    assert_eq!(read(0, 2).expect("open"), "he");
    assert_eq!(read(5, 1).expect("the end"), "");
    assert!(bench.cache.read_open(&content.id, content.size + 1, 0, 5).is_none(), "another content");
    assert_eq!(bench.cache.stats().hits, 2);
}

#[tokio::test]
async fn reads_end_where_the_file_ends() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"hello");
    bench.stor().give(&content.chunks[0].key, &stored);
    let file = bench.file(&content);
    for (offset, length, expected) in [
        (0, 5, "hello"),
        (0, 9, "hello"),
        (4, 1, "o"),
        (4, 9, "o"),
        (5, 1, ""),
        (u64::MAX, 9, ""),
        (2, 0, ""),
    ] {
        assert_eq!(file.read(offset, length).await.expect("fetched"), expected);
    }
}

#[tokio::test]
async fn an_empty_file_asks_no_stor() {
    let bench = Bench::new(1);
    for content in [Content::v1(md5(b""), 0), object(b"").0] {
        let file = bench.file(&content);
        assert_eq!(file.read(0, 100).await.expect("nothing to fetch"), "");
        assert_eq!(file.complete().expect("it is there").file().metadata().expect("stat").len(), 0);
        file.fetch_all().await.expect("nothing to fetch");
    }
    assert_eq!(bench.cache.stats().fetches, 0);
}

#[tokio::test]
async fn chunks_are_served_while_others_arrive() {
    let mut bench = Bench::new(1);
    let parts = [b"first, ".repeat(3000), b"second, ".repeat(3000), b"third".repeat(3000)];
    let (content, stored) = chunked(&parts.each_ref().map(|part| &part[..]));
    let gate = Gate::default();
    bench.stor().give(&content.chunks[0].key, &stored[0]);
    bench.stor().give_with(&content.chunks[1].key, &stored[1], Trouble::Wait(gate.clone()));
    bench.stor().give(&content.chunks[2].key, &stored[2]);
    let plain = parts.concat();
    let (second, third) = (content.chunks[1].plain.start, content.chunks[2].plain.start);

    let file = bench.file(&content);
    let mut all = Box::pin(file.read(0, plain.len()));
    assert!(poll!(&mut all).is_pending());
    let at = |offset: u64| &plain[usize::try_from(offset).expect("small")..][..100];
    assert_eq!(file.read(0, 100).await.expect("there"), at(0));
    assert_eq!(file.read(second - 100, 100).await.expect("there"), at(second - 100));
    assert_eq!(file.read(third, 100).await.expect("there"), at(third));
    let mut border = Box::pin(file.read(second - 50, 100));
    assert!(poll!(&mut border).is_pending());
    assert!(file.complete().is_none());
    assert!(bench.names().is_empty(), "nothing is visible before it is complete");

    gate.open();
    assert_eq!(all.await.expect("it arrived"), plain);
    assert_eq!(border.await.expect("it arrived"), at(second - 50));
    let whole = file.fetch_all().await.expect("all chunks are there");
    let mut bytes = vec![0; plain.len()];
    whole.file().read_exact_at(&mut bytes, 0).expect("readable");
    assert!(bytes == plain);
    assert_eq!(bench.names(), [content.id.to_string()]);
    for chunk in content.chunks.iter() {
        assert_eq!(bench.stor().asked(&chunk.key), 1);
    }

    bench.restart(options());
    assert!(bench.file(&content).complete().is_some());
}

#[tokio::test]
async fn a_chunk_of_a_pack_is_fetched_by_range() {
    let bench = Bench::new(1);
    let (mut content, stored) = object(&b"somewhere in a pack".repeat(10));
    let pack = [&b"before"[..], &stored, b"behind"].concat();
    let key = Key::sha256(sha256(&pack));
    let mut chunk = content.chunks[0].clone();
    chunk.key = key.clone();
    chunk.part = Some(Part { range: 6..6 + stored.len() as u64, pack: pack.len() as u64 });
    content.chunks = [chunk].into();
    bench.stor().give(&key, &pack);
    assert_eq!(bench.file(&content).read(0, 9).await.expect("fetched"), "somewhere");
}

#[tokio::test]
async fn a_reader_that_goes_away_disturbs_nobody() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"wanted by two");
    let gate = Gate::default();
    let key = &content.chunks[0].key;
    bench.stor().give_with(key, &stored, Trouble::Wait(gate.clone()));

    let file = bench.file(&content);
    let mut interrupted = Box::pin(file.read(0, 100));
    let mut patient = Box::pin(file.read(0, 100));
    assert!(poll!(&mut interrupted).is_pending());
    assert!(poll!(&mut patient).is_pending());
    drop(interrupted);
    gate.open();
    assert_eq!(patient.await.expect("it arrived"), "wanted by two");
    assert_eq!(bench.stor().asked(key), 1);
}

#[tokio::test]
async fn a_fetch_goes_on_when_all_its_readers_are_gone() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"wanted by nobody");
    let gate = Gate::default();
    let key = &content.chunks[0].key;
    bench.stor().give_with(key, &stored, Trouble::Wait(gate.clone()));
    let file = bench.file(&content);
    {
        let only = std::pin::pin!(file.read(0, 100));
        assert!(poll!(only).is_pending());
    }
    gate.open();
    file.fetch_all().await.expect("it arrived");
    assert_eq!(bench.stor().asked(key), 1);
}

#[tokio::test]
async fn different_files_arrive_side_by_side() {
    let bench = Bench::new(1);
    let plains: Vec<_> = (0..200).map(|n| format!("file {n} ").repeat(n + 1).into_bytes()).collect();
    let files: Vec<_> = plains.iter().map(|plain| object(plain)).collect();
    for (content, stored) in &files {
        bench.stor().give(&content.chunks[0].key, stored);
    }
    let files: Vec<_> = files.iter().map(|(content, _)| bench.file(content)).collect();
    let reads = join_all(files.iter().map(|file| file.read(0, 1 << 20))).await;
    for (bytes, plain) in reads.into_iter().zip(&plains) {
        assert_eq!(bytes.expect("it arrived"), *plain);
    }
    assert_eq!(bench.names().len(), 200);
}

#[tokio::test]
async fn a_slow_stor_holds_up_its_own_readers_only() {
    let options = CacheOptions { parallel_fetches: 2, ..options() };
    let bench = Bench::with(1, options);
    let other = Stor::new("other");
    let others = Arc::new(Mirror::new(other.faults.clone(), []));
    let slow: Vec<_> = (0..4).map(|n| object(format!("slow {n}").as_bytes()).0).collect();
    for content in &slow {
        bench.stor().faults.set_for(&content.chunks[0].key, Trouble::Silence);
    }
    let slow: Vec<_> = slow.iter().map(|content| bench.file(content)).collect();
    let mut waiting = Box::pin(join_all(slow.iter().map(|file| file.read(0, 1))));
    assert!(poll!(&mut waiting).is_pending());

    let (content, stored) = object(b"fast");
    other.give(&content.chunks[0].key, &stored);
    assert_eq!(bench.cache.file(&content, &others).read(0, 4).await.expect("fetched"), "fast");
    assert!(poll!(&mut waiting).is_pending());
}

#[tokio::test]
async fn more_files_than_may_be_open() {
    let options = CacheOptions { open_files: std::num::NonZeroUsize::new(3).expect("not zero"), ..options() };
    let bench = Bench::with(1, options);
    let files: Vec<_> = (0..20).map(|n| object(format!("file {n}").as_bytes())).collect();
    let mut kept = Vec::new();
    for (content, stored) in &files {
        bench.stor().give(&content.chunks[0].key, stored);
        kept.push(bench.file(content).fetch_all().await.expect("fetched"));
    }
    for (n, (content, _)) in files.iter().enumerate() {
        let expected = format!("file {n}");
        assert_eq!(bench.file(content).read(0, 100).await.expect("cached"), expected);
        let mut bytes = vec![0; expected.len()];
        kept[n].file().read_exact_at(&mut bytes, 0).expect("a handle stays valid");
        assert_eq!(bytes, expected.as_bytes());
        assert_eq!(bench.stor().asked(&content.chunks[0].key), 1);
    }
}

#[tokio::test]
async fn forgotten_partials_are_fetched_again() {
    let options = CacheOptions { open_files: std::num::NonZeroUsize::new(2).expect("not zero"), ..options() };
    let bench = Bench::with(1, options);
    let files: Vec<_> = (0..5).map(|n| chunked(&[format!("head {n}").as_bytes(), b"tail"])).collect();
    for (content, stored) in &files {
        for (chunk, stored) in content.chunks.iter().zip(stored) {
            bench.stor().give(&chunk.key, stored);
        }
        assert_eq!(bench.file(content).read(0, 4).await.expect("fetched"), "head");
    }
    assert!(bench.cache.stats().evicted_partials >= 3);
    for (content, _) in &files {
        assert_eq!(bench.file(content).read(5, 5).await.expect("fetched").len(), 5);
    }
}

#[tokio::test]
async fn zeros_take_no_space() {
    let bench = Bench::new(1);
    let mut plain = vec![0; 8 << 20];
    plain[5_000_000] = 1;
    for (content, stored) in [object(&plain), {
        let mut body = Vec::new();
        codec::encode_v1(&plain[..], &mut body, 5).expect("memory");
        (Content::v1(md5(&plain), plain.len() as u64), body)
    }] {
        bench.stor().give(&content.chunks[0].key, &stored);
        let file = bench.file(&content).fetch_all().await.expect("fetched");
        assert!(file.file().metadata().expect("stat").blocks() * 512 <= 64 << 10, "{content:?}");
        assert_eq!(bench.file(&content).read(4_999_999, 3).await.expect("cached"), &[0, 1, 0][..]);
    }
}

#[tokio::test]
async fn v1_bodies_in_all_forms() {
    let bench = Bench::new(1);
    let plain = b"an old file, ".repeat(50_000);
    let mut brotli = Vec::new();
    codec::encode_v1(&plain[..], &mut brotli, 5).expect("memory");
    for (hash, body) in [(md5(&plain), &brotli), (md5(&brotli), &brotli), (md5(&plain), &plain)] {
        for trouble in [Trouble::None, Trouble::Pieces(1000)] {
            let content = Content::v1(hash, plain.len() as u64);
            bench.stor().give_with(&content.chunks[0].key, body, trouble);
            bench.cache.remove(&content.id, content.size).expect("removable");
            assert!(bench.file(&content).read(0, plain.len()).await.expect("fetched") == plain);
        }
    }
}

#[tokio::test]
async fn dropping_the_cache_while_it_fetches() {
    let mut bench = Bench::new(1);
    let (content, stored) = object(b"late");
    let gate = Gate::default();
    bench.stor().give_with(&content.chunks[0].key, &stored, Trouble::Wait(gate.clone()));
    {
        let file = bench.file(&content);
        let read = std::pin::pin!(file.read(0, 4));
        assert!(poll!(read).is_pending());
    }
    bench.restart(options());
    let reader = bench.file(&content);
    let mut read = Box::pin(reader.read(0, 4));
    assert!(poll!(&mut read).is_pending());
    gate.open();
    // Both the old cache's fetch and the new one's end well, whichever publishes first.
    assert_eq!(read.await.expect("it arrived"), "late");
    assert!(bench.published(&content).is_file());
}

#[tokio::test]
async fn peeking_and_removing() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"here today");
    let key = &content.chunks[0].key;
    bench.stor().give(key, &stored);
    assert!(!bench.cache.contains(&content));
    let held = bench.file(&content).fetch_all().await.expect("fetched");
    assert!(bench.cache.contains(&content));
    assert!(!bench.cache.contains(&Content { size: content.size + 1, ..content.clone() }));

    bench.cache.remove(&content.id, content.size).expect("removable");
    assert!(!bench.cache.contains(&content));
    assert_eq!(held.file().metadata().expect("stat").len(), 10);
    assert_eq!(bench.file(&content).read(0, 4).await.expect("fetched again"), "here");
    assert_eq!(bench.stor().asked(key), 2);
    bench.cache.remove(&ContentId::Md5([0; 16]), 0).expect("nothing to remove");
}

#[tokio::test]
async fn a_large_body_is_decoded_as_it_arrives() {
    let bench = Bench::new(1);
    let plain: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (content, stored) = object(&plain);
    assert!(stored.len() > 10 << 20);
    bench.stor().give_with(&content.chunks[0].key, &stored, Trouble::Pieces(100_000));
    assert!(bench.file(&content).read(0, plain.len()).await.expect("fetched") == plain);
}
