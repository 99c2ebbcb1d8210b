//! Stors that fail, and what readers see of it.

use bytes::Bytes;
use futures::poll;
use tokio::time::Instant;

use super::*;
use crate::Fault;

fn unavailable() -> Fault {
    Fault::Unavailable("connection refused".into())
}

/// Wrong bytes of every kind that a stor can give for this stored form.
fn wrong_bodies(stored: &[u8]) -> Vec<(&'static str, Answer)> {
    let mut flipped = stored.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    let (_, other) = object(b"something else entirely");
    vec![
        ("a flipped bit", Answer::Bytes(flipped.into())),
        ("other content", Answer::Bytes(other.into())),
        ("nothing", Answer::Bytes(Bytes::new())),
        ("half of it", Answer::Bytes(Bytes::copy_from_slice(&stored[..middle]))),
        ("half of it, length unknown", Answer::Pieces(Bytes::copy_from_slice(&stored[..middle]), 7)),
        ("more than it", Answer::Bytes([stored, b"x"].concat().into())),
        ("an endless body", Answer::Endless(0)),
        ("an endless raw body", Answer::Endless(b'a')),
    ]
}

#[tokio::test]
async fn a_stor_that_recovers() {
    let bench = Bench::new(1);
    let (content, stored) = object(b"back again");
    let key = &content.chunks[0].key;
    let fails = Answer::Fails(|| Fault::Denied);
    bench.stor().answer(key, [fails.clone(), fails, Answer::Bytes(stored.into())]);
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
    let fails = Answer::Fails(unavailable);
    let short = Answer::Short(Bytes::copy_from_slice(&stored[..3]), stored.len() as u64);
    bench.stor().answer(key, [fails.clone(), short, fails, Answer::Bytes(stored.into())]);
    assert_eq!(bench.file(&content).read(0, 5).await.expect("the fourth try"), "worth");
    let stats = bench.cache.stats();
    assert_eq!((stats.fetches, stats.retries, stats.verification_failures), (4, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stor_that_is_down_fails_reads_at_the_deadline() {
    let bench = Bench::new(1);
    let (content, _) = object(b"unreachable");
    bench.stor().answer(&content.chunks[0].key, [Answer::Fails(unavailable)]);
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
    for answer in [Answer::Silent, Answer::Stalls(Bytes::from_static(b"\x00be"))] {
        let bench = Bench::new(1);
        let (content, _) = object(b"begun, never ended");
        bench.stor().answer(&content.chunks[0].key, [answer]);
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
    bench.stors[0].answer(&content.chunks[0].key, [Answer::Silent]);
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
    for (why, answer) in wrong_bodies(&stored) {
        let bench = Bench::new(2);
        bench.stors[0].answer(&content.chunks[0].key, [answer]);
        bench.stors[1].give(&content.chunks[0].key, &stored);
        assert_eq!(bench.file(&content).read(0, 1000).await.expect(why), plain);
        assert_eq!(bench.cache.stats().verification_failures, 1, "{why}");
        assert_eq!(bench.names(), [content.id.to_string()]);
    }
}

#[tokio::test]
async fn wrong_bytes_everywhere_are_an_error_and_leave_nothing() {
    let (content, stored) = object(&b"the right bytes ".repeat(30));
    for (why, answer) in wrong_bodies(&stored) {
        let bench = Bench::new(2);
        for stor in &bench.stors {
            stor.answer(&content.chunks[0].key, [answer.clone()]);
        }
        let error = bench.file(&content).read(0, 1000).await.expect_err(why).to_string();
        assert!(error.contains("stor0") && error.contains("stor1"), "{error}");
        assert_eq!(bench.cache.stats().verification_failures, 2, "{why}");
        assert!(bench.names().is_empty() && !bench.cache.contains(&content.id, content.size), "{why}");

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
        bench.stors[0].answer(key, [Answer::Pieces(raw(&wrong).into(), 50_000)]);
        bench.stors[1].answer(key, [Answer::Pieces(raw(&plain).into(), 50_000)]);
        assert!(bench.file(&content).read(0, plain.len()).await.expect("the second stor") == plain);
        assert_eq!(bench.cache.stats().verification_failures, 1);
    }
}

#[tokio::test]
async fn endless_bodies_are_cut() {
    let bench = Bench::new(1);
    for content in [object(b"small").0, Content::v1(md5(b"small"), 5)] {
        bench.stor().answer(&content.chunks[0].key, [Answer::Endless(b'x')]);
        bench.file(&content).read(0, 1).await.expect_err("endless");
    }
    assert!(bench.cache.stats().stored_bytes < 8 << 20, "{:?}", bench.cache.stats());
}

#[tokio::test]
async fn an_announced_giant_is_not_even_begun() {
    let bench = Bench::new(1);
    let (content, _) = object(b"small");
    bench.stor().answer(&content.chunks[0].key, [Answer::Short(Bytes::new(), 5 << 30)]);
    let error = bench.file(&content).read(0, 1).await.expect_err("too long").to_string();
    assert!(
        error.ends_with("the body is longer than 65541 bytes, the most that 5 plain bytes may take"),
        "{error}"
    );
    assert_eq!(bench.cache.stats().stored_bytes, 0);
}

#[tokio::test]
async fn a_flist_that_contradicts_itself_hurts_its_own_readers_only() {
    let mut bench = Bench::new(1);
    let (mut content, stored) = chunked(&[b"one, ", b"two"]);
    for (chunk, stored) in content.chunks.iter().zip(&stored) {
        bench.stor().give(&chunk.key, stored);
    }
    let (good, good_stored) = object(b"a file of another flist");
    bench.stor().give(&good.chunks[0].key, &good_stored);
    content.id = good.id;

    bench.file(&content).read(0, 100).await.expect("the chunks are what the flist says");
    let error = bench.file(&content).fetch_all().await.expect_err("but not the whole").to_string();
    assert!(error.contains("the flist contradicts itself"), "{error}");
    assert!(bench.names().is_empty());
    bench.restart(options());
    assert_eq!(bench.file(&good).read(0, 6).await.expect("fetched"), "a file");
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
async fn a_queue_that_does_not_move_ends_at_the_deadline() {
    let bench = Bench::with(1, CacheOptions { parallel_fetches: 1, ..options() });
    let (first, _) = object(b"first");
    let (second, stored) = object(b"second");
    bench.stor().answer(&first.chunks[0].key, [Answer::Silent]);
    bench.stor().give(&second.chunks[0].key, &stored);
    let (first, second) = (bench.file(&first), bench.file(&second));
    let mut ahead = Box::pin(first.read(0, 1));
    assert!(poll!(&mut ahead).is_pending());
    tokio::task::yield_now().await;
    // The one ahead gives up at its deadline, and leaves its place; or the queue does first.
    match second.read(0, 6).await {
        Ok(bytes) => assert_eq!(bytes, "second"),
        Err(error) => assert!(error.to_string().contains("no byte arrived within 30s"), "{error}"),
    }
    ahead.await.expect_err("silent");
}
