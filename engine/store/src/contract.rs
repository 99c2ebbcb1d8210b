//! What every [`Store`] must do, as a suite of tests that each of them runs.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::{Body, ETag, Fault, Key, Named, Precondition, StaticName, Store, StoreError, Upload};

/// Runs the whole suite. Each test gets an empty stor from `make`, and keeps what comes with it until it is done.
///
/// # Panics
/// With the first rule that is broken.
pub async fn suite<F, A, G>(make: F)
where
    F: Fn() -> A,
    A: Future<Output = (Arc<dyn Store>, G)>,
{
    macro_rules! run {
        ($($test:ident)*) => {$(
            let (store, _guard) = make().await;
            println!("{}: {}", store.name(), stringify!($test));
            $test(&*store).await;
        )*};
    }
    run! {
        what_is_put_can_be_got
        a_missing_object_is_not_found
        ranges_are_exact
        ranges_outside_are_refused
        a_put_that_does_not_fit_leaves_nothing
        a_brotli_body_fits_the_md5_of_what_it_decodes_to
        putting_again_changes_nothing
        concurrent_puts_of_one_object_all_succeed
        large_bodies_are_streamed
        has_answers_in_order
        deleted_is_gone
        a_listing_has_every_object_once
        a_named_file_has_versions
        a_precondition_that_fails_changes_nothing
        one_of_many_concurrent_writers_wins
        objects_and_named_files_do_not_meet
    }
}

/// All bytes of a body.
///
/// # Errors
/// That of its stream.
pub async fn bytes_of(body: Body) -> Result<Vec<u8>, StoreError> {
    let length = body.length;
    let bytes = body.stream.map_ok(|piece| piece.to_vec()).try_concat().await?;
    assert!(length.is_none_or(|length| length == bytes.len() as u64), "a stream keeps the announced length");
    Ok(bytes)
}

/// The SHA-256 of `bytes` as a key.
pub fn sha256(bytes: &[u8]) -> Key {
    Key::sha256(Sha256::digest(bytes).into())
}

/// The MD5 of `bytes` as a key.
pub fn md5(bytes: &[u8]) -> Key {
    Key::md5(Md5::digest(bytes).into())
}

/// Bytes without a pattern, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A body from memory.
pub fn upload(bytes: &[u8]) -> Upload {
    Upload::Bytes(Bytes::copy_from_slice(bytes))
}

fn upload_file(bytes: &[u8]) -> Upload {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("written");
    Upload::File { file: Arc::new(file), length: bytes.len() as u64 }
}

async fn put(store: &dyn Store, bytes: &[u8]) -> Key {
    let key = sha256(bytes);
    store.put(&key, &upload(bytes)).await.expect("put");
    key
}

async fn get(store: &dyn Store, key: &Key, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
    bytes_of(store.get(key, range).await?).await
}

async fn what_is_put_can_be_got(store: &dyn Store) {
    for bytes in [b"".as_slice(), b"x", &noise(1, 100_000)] {
        for key in [sha256(bytes), md5(bytes)] {
            for body in [upload(bytes), upload_file(bytes)] {
                let stored = store.put(&key, &body).await.expect("put");
                assert_eq!(stored.key, key);
                assert_eq!(get(store, &key, None).await.expect("got"), bytes);
            }
        }
    }
}

async fn a_missing_object_is_not_found(store: &dyn Store) {
    let missing = sha256(b"missing");
    for range in [None, Some(0..1)] {
        let error = get(store, &missing, range).await.expect_err("missing");
        assert!(matches!(error.fault, Fault::NotFound), "{error}");
        assert!(error.to_string().contains(missing.as_str()) && error.to_string().contains(store.name()));
    }
}

async fn ranges_are_exact(store: &dyn Store) {
    let bytes = noise(2, 600_000);
    let key = put(store, &bytes).await;
    for range in [0..1, 0..600_000, 599_999..600_000, 1..2, 262_143..262_145, 100_000..500_000] {
        let body = store.get(&key, Some(range.start as u64..range.end as u64)).await.expect("got");
        assert_eq!(body.length, Some(range.len() as u64));
        assert!(bytes_of(body).await.expect("read") == bytes[range.clone()], "{range:?}");
    }
}

async fn ranges_outside_are_refused(store: &dyn Store) {
    let key = put(store, b"0123456789").await;
    let backwards = Range { start: 5, end: 4 };
    for range in [0..11, 5..15, 10..11, 20..30, 5..5, 10..10, backwards, 0..u64::MAX] {
        let error = get(store, &key, Some(range.clone())).await.expect_err("outside");
        assert!(matches!(error.fault, Fault::Refused(_)), "{range:?}: {error}");
    }
}

async fn a_put_that_does_not_fit_leaves_nothing(store: &dyn Store) {
    for key in [sha256(b"right"), md5(b"right")] {
        let error = store.put(&key, &upload(b"wrong")).await.expect_err("it does not fit");
        assert!(matches!(error.fault, Fault::Refused(_)), "{error}");
        assert_eq!(store.has(std::slice::from_ref(&key)).await.expect("answered"), [false]);
    }
}

async fn a_brotli_body_fits_the_md5_of_what_it_decodes_to(store: &dyn Store) {
    let plain = b"a line of text\n".repeat(10_000);
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 20);
    encoder.write_all(&plain).expect("to memory");
    let stored = encoder.into_inner();
    store.put(&md5(&plain), &upload(&stored)).await.expect("put");
    assert_eq!(get(store, &md5(&plain), None).await.expect("got"), stored, "a body is kept as it is");
    let longer = [stored.as_slice(), b"!"].concat();
    assert!(store.put(&md5(&plain), &upload(&longer)).await.is_err(), "bytes behind the brotli stream");
    assert!(store.put(&sha256(&plain), &upload(&stored)).await.is_err(), "SHA-256 is of the body only");
}

async fn putting_again_changes_nothing(store: &dyn Store) {
    let key = sha256(b"again");
    for created in [true, false, false] {
        assert_eq!(store.put(&key, &upload(b"again")).await.expect("put").created, created);
        assert_eq!(get(store, &key, None).await.expect("got"), b"again");
    }
}

async fn concurrent_puts_of_one_object_all_succeed(store: &dyn Store) {
    let bytes = noise(3, 300_000);
    let key = sha256(&bytes);
    let body = upload(&bytes);
    let puts = (0..16).map(|_| store.put(&key, &body));
    for outcome in futures::future::join_all(puts).await {
        outcome.expect("put");
    }
    assert!(get(store, &key, None).await.expect("got") == bytes);
}

async fn large_bodies_are_streamed(store: &dyn Store) {
    let bytes = noise(4, 9_000_001);
    let key = sha256(&bytes);
    store.put(&key, &upload_file(&bytes)).await.expect("put");
    let body = store.get(&key, None).await.expect("got");
    assert_eq!(body.length, Some(9_000_001));
    assert!(bytes_of(body).await.expect("read") == bytes);
    // A reader that goes away in the middle hurts nobody.
    let mut left = store.get(&key, None).await.expect("got");
    left.stream.try_next().await.expect("a piece").expect("not the end");
    drop(left);
    assert!(get(store, &key, Some(9_000_000..9_000_001)).await.expect("got") == bytes[9_000_000..]);
}

async fn has_answers_in_order(store: &dyn Store) {
    let mut keys = Vec::new();
    let mut expected = Vec::new();
    for n in 0..2500_u32 {
        let bytes = n.to_le_bytes();
        let present = n % 97 == 0;
        if present {
            put(store, &bytes).await;
        }
        keys.push(sha256(&bytes));
        expected.push(present);
    }
    assert_eq!(store.has(&keys).await.expect("answered"), expected);
    assert!(store.has(&[]).await.expect("answered").is_empty());
}

async fn deleted_is_gone(store: &dyn Store) {
    let key = put(store, b"short-lived").await;
    let other = put(store, b"other").await;
    assert!(store.delete(&key).await.expect("deleted"));
    assert!(!store.delete(&key).await.expect("deleted"));
    assert!(matches!(get(store, &key, None).await.expect_err("gone").fault, Fault::NotFound));
    assert_eq!(store.has(&[key.clone(), other]).await.expect("answered"), [false, true]);
    assert!(store.put(&key, &upload(b"short-lived")).await.expect("put").created);
}

async fn a_listing_has_every_object_once(store: &dyn Store) {
    let listed = || async {
        let objects: Vec<_> = store.list().await.expect("listed").try_collect().await.expect("listed");
        let mut objects: Vec<_> = objects.into_iter().map(|o| (o.key, o.size, o.created)).collect();
        objects.sort();
        objects
    };
    assert!(listed().await.is_empty());
    let puts = (0..1500_u16).map(|length| async move {
        let bytes = noise(length.into(), length.into());
        (put(store, &bytes).await, u64::from(length))
    });
    let mut expected: Vec<_> = stream::iter(puts).buffer_unordered(16).collect().await;
    expected.sort();
    let objects = listed().await;
    let now = SystemTime::now();
    for (_, _, created) in &objects {
        let age = now.duration_since(*created).unwrap_or_default();
        assert!(age < Duration::from_secs(600), "an object just put is {age:?} old");
    }
    let objects: Vec<_> = objects.into_iter().map(|(key, size, _)| (key, size)).collect();
    assert_eq!(objects, expected);
}

fn flist() -> StaticName {
    "app.flist".parse().expect("valid")
}

async fn write(store: &dyn Store, text: &str, condition: Precondition) -> Result<ETag, StoreError> {
    store.write_named(&flist(), &upload(text.as_bytes()), condition).await
}

async fn read(store: &dyn Store) -> (String, ETag) {
    match store.read_named(&flist(), None).await.expect("read") {
        Named::Found { body, etag } => {
            (String::from_utf8(bytes_of(body).await.expect("read")).expect("text"), etag)
        }
        Named::Unchanged => panic!("no version was known"),
    }
}

async fn a_named_file_has_versions(store: &dyn Store) {
    let error = store.read_named(&flist(), None).await.expect_err("not there");
    assert!(matches!(error.fault, Fault::NotFound), "{error}");
    let first = write(store, "one", Precondition::None).await.expect("written");
    assert_eq!(read(store).await, ("one".into(), first.clone()));
    assert!(matches!(store.read_named(&flist(), Some(&first)).await.expect("read"), Named::Unchanged));
    let second = write(store, "two", Precondition::None).await.expect("written");
    assert_ne!(first, second);
    let Named::Found { body, etag } = store.read_named(&flist(), Some(&first)).await.expect("read") else {
        panic!("it has changed");
    };
    assert_eq!((bytes_of(body).await.expect("read").as_slice(), etag), (b"two".as_slice(), second.clone()));
    write(store, "", Precondition::Version(second)).await.expect("an empty file is a file");
    assert_eq!(read(store).await.0, "");
}

async fn a_precondition_that_fails_changes_nothing(store: &dyn Store) {
    let conflicts = async |condition| {
        let error = write(store, "theirs", condition).await.expect_err("it does not hold");
        assert!(matches!(error.fault, Fault::Conflict), "{error}");
    };
    let foreign = ETag(format!("\"{}\"", "0".repeat(64)));
    conflicts(Precondition::Version(foreign.clone())).await;
    let first = write(store, "one", Precondition::Absent).await.expect("written");
    conflicts(Precondition::Absent).await;
    conflicts(Precondition::Version(foreign)).await;
    assert_eq!(read(store).await, ("one".into(), first.clone()));
    write(store, "two", Precondition::Version(first.clone())).await.expect("written");
    conflicts(Precondition::Version(first)).await;
    assert_eq!(read(store).await.0, "two");
}

async fn one_of_many_concurrent_writers_wins(store: &dyn Store) {
    let base = write(store, "base", Precondition::None).await.expect("written");
    let texts: Vec<_> = (0..16).map(|n| format!("writer {n}")).collect();
    let writes = texts.iter().map(|text| write(store, text, Precondition::Version(base.clone())));
    let outcomes = futures::future::join_all(writes).await;
    let winners: Vec<_> =
        texts.iter().zip(outcomes).filter_map(|(text, outcome)| Some((text, outcome.ok()?))).collect();
    let [(text, etag)] = &winners[..] else { panic!("one winner, not {winners:?}") };
    assert_eq!(read(store).await, (text.to_string(), etag.clone()));
}

async fn objects_and_named_files_do_not_meet(store: &dyn Store) {
    let key = put(store, b"an object").await;
    let name: StaticName = key.as_str().parse().expect("valid");
    assert!(store.read_named(&name, None).await.is_err());
    store.write_named(&name, &upload(b"a named file"), Precondition::None).await.expect("written");
    assert_eq!(get(store, &key, None).await.expect("got"), b"an object");
    let objects: Vec<_> = store.list().await.expect("listed").try_collect().await.expect("listed");
    assert_eq!(objects.len(), 1);
}
