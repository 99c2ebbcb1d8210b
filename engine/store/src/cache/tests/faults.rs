//! Stors that fail, and what readers see of it.

use bytes::Bytes;
use futures::future::{join, join_all};
use futures::poll;
use tokio::time::Instant;

use super::*;
use crate::Fault;

fn unavailable() -> Fault {
    Fault::Unavailable("connection refused".into())
}

/// Wrong bytes of every kind that a stor can give for this stored form.
fn wrong_bodies(stored: &[u8]) -> Vec<(&'static str, Trouble)> {
    let mut flipped = stored.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let (_, other) = object(b"something else entirely");
    let half = Trouble::Body(Bytes::copy_from_slice(&stored[..middle]));
    vec![
        ("a flipped bit", Trouble::Body(flipped.into())),
        ("other content", Trouble::Body(other.into())),
        ("nothing", Trouble::Body(Bytes::new())),
        ("half of it", half.clone()),
        ("half of it, length unknown", Trouble::All(vec![half, Trouble::Pieces(7)])),
        ("more than it", Trouble::Body([stored, b"x"].concat().into())),
        ("an endless body", Trouble::Endless(0)),
        ("an endless raw body", Trouble::Endless(b'a')),
    ]
}

#[tokio::test]
async fn a_stor_that_recovers() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"back again");
    let key = &content.chunks[0].key;
    let fails = Trouble::Fail(|| Fault::Denied);
    bench.stor().give(key, &stored);
    bench.stor().faults.script_for(key, [fails.clone(), fails]);
    let file = bench.file(&content);
    for _ in 0..2 {
        let error = file.read(0, 4).await.expect_err("denied").to_string();
        let expected = format!(
            "content {} could not be had: stor0: {key}: access denied: check login and passwd of the stor",
            content.id
        );
        assert_eq!(error, expected);
    }
    assert_eq!(file.read(0, 4).await.expect("it works again"), "back");
    assert_eq!(bench.stor().asked(key), 3);
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_waited_out() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"worth waiting for");
    let key = &content.chunks[0].key;
    let fails = Trouble::Fail(unavailable);
    bench.stor().give(key, &stored);
    bench.stor().faults.script_for(key, [fails.clone(), Trouble::End(3), fails]);
    assert_eq!(bench.file(&content).read(0, 5).await.expect("the fourth try"), "worth");
    let stats = bench.cache.stats();
    assert_eq!((stats.fetches, stats.retries, stats.verification_failures), (4, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stor_that_is_down_fails_reads_at_the_deadline() {
    let bench = Bench::new(1);
    let (content, _) = object(b"unreachable");
    bench.stor().faults.set_for(&content.chunks[0].key, Trouble::Fail(unavailable));
    let began = Instant::now();
    let error = bench.file(&content).read(0, 1).await.expect_err("down").to_string();
    assert!(error.ends_with("unavailable: connection refused"), "{error}");
    let waited = began.elapsed();
    assert!(
        waited >= options().deadline && waited < options().deadline + Duration::from_secs(1),
        "{waited:?}"
    );
    assert!(bench.cache.stats().retries > 5);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stor_fails_reads_at_the_deadline() {
    for trouble in [Trouble::Silence, Trouble::Stall(3)] {
        let bench = Bench::new(1);
        let (content, stored) = object(b"begun, never ended");
        bench.stor().give_with(&content.chunks[0].key, &stored, trouble);
        let began = Instant::now();
        let error = bench.file(&content).read(0, 1).await.expect_err("silent").to_string();
        assert!(error.contains("stor0") && error.contains("no answer within 30s"), "{error}");
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stor_leaves_time_for_the_next() {
    let bench = Bench::new(2);
    let (content, stored) = object(b"on the other one");
    bench.stors[0].faults.set_for(&content.chunks[0].key, Trouble::Silence);
    bench.stors[1].give(&content.chunks[0].key, &stored);
    assert_eq!(bench.file(&content).read(0, 2).await.expect("the second stor"), "on");
}

#[tokio::test]
async fn a_missing_object_is_looked_for_everywhere() {
    let bench = Bench::new(3);
    let (content, stored) = object(b"only on the last one");
    bench.stors[2].give(&content.chunks[0].key, &stored);
    assert_eq!(bench.file(&content).read(0, 4).await.expect("the last stor"), "only");

    let (content, _) = object(b"nowhere");
    let error = bench.file(&content).read(0, 1).await.expect_err("nowhere").to_string();
    let key = &content.chunks[0].key;
    assert!(
        error
            .ends_with(&format!("stor0: {key}: not found; stor1: {key}: not found; stor2: {key}: not found"))
    );
    assert_eq!(bench.cache.stats().retries, 0);
}

#[tokio::test]
async fn wrong_bytes_move_on_to_the_next_stor() {
    let plain = b"the right bytes ".repeat(30);
    let (content, stored) = object(&plain);
    for (why, trouble) in wrong_bodies(&stored) {
        let bench = Bench::new(2);
        bench.stors[0].faults.set_for(&content.chunks[0].key, trouble);
        bench.stors[1].give(&content.chunks[0].key, &stored);
        assert_eq!(bench.file(&content).read(0, 1000).await.expect(why), plain);
        assert_eq!(bench.cache.stats().verification_failures, 1, "{why}");
        assert_eq!(bench.names(), [content.id.to_string()]);
    }
}

#[tokio::test]
async fn wrong_bytes_everywhere_are_an_error_and_leave_nothing() {
    let (content, stored) = object(&b"the right bytes ".repeat(30));
    for (why, trouble) in wrong_bodies(&stored) {
        let bench = Bench::new(2);
        for stor in &bench.stors {
            stor.faults.set_for(&content.chunks[0].key, trouble.clone());
        }
        let error = bench.file(&content).read(0, 1000).await.expect_err(why).to_string();
        assert!(error.contains("stor0") && error.contains("stor1"), "{error}");
        assert_eq!(bench.cache.stats().verification_failures, 2, "{why}");
        assert!(bench.names().is_empty() && !bench.cache.contains(&content), "{why}");

        bench.stors[1].give(&content.chunks[0].key, &stored);
        assert_eq!(bench.file(&content).read(4, 5).await.expect("recovered"), "right", "{why}");
    }
}

#[tokio::test]
async fn an_old_attempt_does_not_show_through() {
    // Without zeros, and right for as long as the first pieces go: it gets into the file before it turns out wrong.
    let wrong: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] | 1).collect();
    let mut plain = vec![0; wrong.len()];
    plain[500_000] = 1;
    for content in [Content::v1(md5(&plain), 1_000_000), object(&plain).0] {
        let bench = Bench::new(2);
        let key = &content.chunks[0].key;
        let raw = |bytes: &[u8]| match content.id {
            ContentId::Md5(_) => bytes.to_vec(),
            ContentId::Sha256(_) => [&[0], bytes].concat(),
        };
        bench.stors[0].give_with(key, &raw(&wrong), Trouble::Pieces(50_000));
        bench.stors[1].give_with(key, &raw(&plain), Trouble::Pieces(50_000));
        assert!(bench.file(&content).read(0, plain.len()).await.expect("the second stor") == plain);
        assert_eq!(bench.cache.stats().verification_failures, 1);
    }
}

#[tokio::test]
async fn endless_bodies_are_cut() {
    let bench = Bench::new(1);
    for content in [object(b"small").0, Content::v1(md5(b"small"), 5)] {
        bench.stor().faults.set_for(&content.chunks[0].key, Trouble::Endless(b'x'));
        bench.file(&content).read(0, 1).await.expect_err("endless");
    }
    assert!(bench.cache.stats().stored_bytes < 8 << 20, "{:?}", bench.cache.stats());
}

#[tokio::test]
async fn an_announced_giant_is_not_even_begun() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"small");
    bench.stor().give_with(&content.chunks[0].key, &stored, Trouble::Announce(5 << 30));
    let error = bench.file(&content).read(0, 1).await.expect_err("too long").to_string();
    assert!(
        error.ends_with("the body is longer than 65541 bytes, the most that 5 plain bytes may take"),
        "{error}"
    );
    assert_eq!(bench.cache.stats().stored_bytes, 0);
}

#[tokio::test]
async fn a_flist_that_contradicts_itself_hurts_its_own_readers_only() {
    let bench = Bench::new(1);
    let (mut bad, bad_stored) = chunked(&[b"one, ", b"two"]);
    let (good, good_stored) = chunked(&[b"this, ", b"it"]);
    let chunks = bad.chunks.iter().chain(good.chunks.iter());
    for (chunk, stored) in chunks.zip(bad_stored.iter().chain(&good_stored)) {
        bench.stor().give(&chunk.key, stored);
    }
    assert_eq!(bad.size, good.size);
    bad.id = good.id;

    let (bad, good) = (bench.file(&bad), bench.file(&good));
    assert_eq!(bad.read(0, 5).await.expect("its first chunk is what its flist says"), "one, ");
    assert_eq!(good.read(0, 5).await.expect("fetched"), "this,");
    let error = bad.fetch_all().await.expect_err("but not the whole").to_string();
    assert!(error.contains("the flist contradicts itself"), "{error}");
    assert!(bench.names().is_empty());
    good.fetch_all().await.expect("fetched");
    assert_eq!(bad.read(0, 100).await.expect("what its id says"), "this, it");
}

#[tokio::test]
async fn equal_contents_share_a_fetch() {
    let bench = Bench::new(1);
    let contents = [(); 3].map(|()| chunked(&[b"one, ", b"two"]));
    for (chunk, stored) in contents[0].0.chunks.iter().zip(&contents[0].1) {
        bench.stor().give(&chunk.key, stored);
    }
    let files = contents.each_ref().map(|(content, _)| bench.file(content));
    for bytes in join_all(files.iter().map(|file| file.read(0, 100))).await {
        assert_eq!(bytes.expect("fetched"), "one, two");
    }
    assert_eq!(bench.cache.stats().fetches, 2);
}

#[tokio::test]
async fn gaps_between_chunks_are_an_error() {
    let bench = Bench::new(1);
    let (content, stored) = chunked(&[b"one, ", b"two, ", b"three"]);
    for (chunk, stored) in content.chunks.iter().zip(&stored) {
        bench.stor().give(&chunk.key, stored);
    }
    let gap = [content.chunks[0].clone(), content.chunks[2].clone()].into();
    let content = Content { chunks: gap, ..content };
    let error = bench.file(&content).read(0, 100).await.expect_err("a gap").to_string();
    assert!(error.ends_with("its chunks do not cover it: the flist is damaged"), "{error}");
    assert!(bench.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_in_the_queue_waits_no_longer_than_the_others() {
    let bench = Bench::with(1, CacheOptions { parallel_fetches: 1, ..options() });
    let files: Vec<_> = (0..5).map(|n| object(format!("silent {n}").as_bytes()).0).collect();
    for content in &files {
        bench.stor().faults.set_for(&content.chunks[0].key, Trouble::Silence);
    }
    let began = Instant::now();
    let files: Vec<_> = files.iter().map(|content| bench.file(content)).collect();
    let ended = join_all(files.iter().map(|file| file.read(0, 1))).await;
    let errors: Vec<_> = ended.into_iter().map(|ended| ended.expect_err("silent").to_string()).collect();
    assert_eq!(began.elapsed().as_secs(), 30);
    let of_the_stor = errors.iter().filter(|error| error.ends_with("no answer within 30s")).count();
    let of_the_queue =
        errors.iter().filter(|error| error.contains("no byte arrived within 30s for any fetch"));
    assert_eq!((of_the_stor, of_the_queue.count()), (1, 4), "{errors:?}");
    assert_eq!(bench.cache.stats().fetches, 1, "who has no time left asks nobody");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_gets_no_turn_does_not_outlast_the_deadline() {
    let bench = Bench::with(1, CacheOptions { parallel_fetches: 1, ..options() });
    let (refused, silent) = (object(b"refused").0, object(b"silent").0);
    bench.stor().faults.set_for(&refused.chunks[0].key, Trouble::Fail(unavailable));
    bench.stor().faults.set_for(&silent.chunks[0].key, Trouble::Silence);
    let (refused, silent) = (bench.file(&refused), bench.file(&silent));
    let began = Instant::now();
    let asked_again_and_again = async {
        let error = refused.read(0, 1).await.expect_err("refused").to_string();
        assert!(error.ends_with("unavailable: connection refused"), "{error}");
        assert_eq!(began.elapsed().as_secs(), 30);
    };
    // Takes the only place between two of its tries, and keeps it beyond its deadline.
    let in_the_way = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        silent.read(0, 1).await.expect_err("silent");
        assert_eq!(began.elapsed().as_secs(), 50);
    };
    join(asked_again_and_again, in_the_way).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_in_any_order_never_see_wrong_bytes() {
    const FILES: usize = 12;
    let options = CacheOptions {
        open_files: std::num::NonZeroUsize::new(4).expect("not zero"),
        parallel_fetches: 4,
        ..options()
    };
    let bench = Arc::new(Bench::with(2, options));
    let mut random = fastrand::Rng::with_seed(1);
    let plains: Vec<Vec<u8>> = (0..FILES)
        .map(|n| (0..20_000 * (n + 1)).map(|at| if at % 9000 < 5000 { 0 } else { random.u8(1..) }).collect())
        .collect();
    let mut contents = Vec::new();
    for plain in &plains {
        let parts: Vec<_> = plain.chunks(30_000).collect();
        let (content, stored) = if parts.len() == 1 {
            let (content, stored) = object(plain);
            (content, vec![stored])
        } else {
            chunked(&parts)
        };
        for (chunk, stored) in content.chunks.iter().zip(stored) {
            let mut bad = wrong_bodies(&stored);
            bad.push(("denied", Trouble::Fail(|| Fault::Denied)));
            for stor in &bench.stors {
                // Now and then wrong, in the end right.
                let troubles: Vec<_> = (0..3).map(|_| random.choice(&bad).expect("some").1.clone()).collect();
                stor.give_with(&chunk.key, &stored, Trouble::Pieces(5000));
                stor.faults.script_for(&chunk.key, troubles);
            }
        }
        contents.push(content);
    }
    let shared = Arc::new((plains, contents));
    let readers = (0..16).map(|seed| {
        let (bench, shared) = (bench.clone(), shared.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let (plains, contents) = &*shared;
            let mut good = 0;
            for _ in 0..300 {
                let n = random.usize(..FILES);
                let file = bench.file(&contents[n]);
                let (offset, length) = (random.usize(..plains[n].len()), random.usize(1..70_000));
                let expected = &plains[n][offset..plains[n].len().min(offset + length)];
                match random.u8(..20) {
                    0 => drop(file.fetch_all().await),
                    1 => bench.cache.remove(&contents[n].id, contents[n].size).expect("removable"),
                    2 => drop(poll!(Box::pin(file.read(0, 1 << 20)))),
                    _ => {
                        if let Ok(bytes) = file.read(offset as u64, length).await {
                            assert!(bytes == expected, "wrong bytes of file {n} at {offset}");
                            good += 1;
                        }
                    }
                }
            }
            good
        })
    });
    let good: usize = join_all(readers).await.into_iter().map(|reader| reader.expect("no wrong bytes")).sum();
    assert!(good > 2000, "{good}");
    assert_eq!(bench.cache.stats().read_through, 0);
    for (plain, content) in shared.0.iter().zip(&shared.1) {
        // Each failure uses up wrong answers.
        while bench.file(content).fetch_all().await.is_err() {}
        assert!(bench.file(content).read(0, 1 << 20).await.expect("cached") == *plain);
    }
}
