//! The client: against our server, plain and over TLS; against stors of the old system; against stors that fail.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use aysfs_store::contract::{bytes_of, md5, noise, sha256, suite, upload};
use aysfs_store::fault::{FaultServer, ServerTrouble};
use aysfs_store::{Fault, Fetched, Key, Named, Precondition, StorOptions, Store, fetch_url};
use support::{Certificates, PATIENT, Running, client, hasty};
use url::Url;

/// A deadline that a test waits for; long enough for a busy machine to do what must happen before.
const SOON: Duration = Duration::from_millis(1500);

async fn got(store: &dyn Store, key: &Key) -> Result<Vec<u8>, Fault> {
    let body = store.get(key, None).await.map_err(|error| error.fault)?;
    bytes_of(body).await.map_err(|error| error.fault)
}

#[tokio::test]
async fn keeps_the_contract_over_http() {
    suite(|| async {
        let server = Running::with_accounts(&["zaibon:super:secret:rwd"]).await;
        let options = StorOptions {
            login: Some("zaibon".into()),
            passwd: Some("super:secret".into()),
            ..StorOptions::new(server.url.clone())
        };
        (client(&options), server)
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract_over_tls() {
    suite(|| async {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = Certificates::in_directory(directory.path());
        let server = Running::with(&["a:b:rwd"], Default::default(), Some(certificates.server)).await;
        let mut url = server.url.clone();
        url.set_username("a").expect("a name");
        url.set_password(Some("b")).expect("a password");
        let options = StorOptions { ca: Some(certificates.ca), ..StorOptions::new(url) };
        (client(&options), (server, directory))
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let certificates = Certificates::in_directory(directory.path());
    let server = Running::with(&[], Default::default(), Some(certificates.server)).await;
    let store = hasty(server.url.clone(), Duration::from_secs(3600));
    let fault = got(&*store, &sha256(b"x")).await.expect_err("not trusted");
    let Fault::Protocol(reason) = fault else { panic!("{fault:?}") };
    assert_eq!(reason, "the stor's certificate is not trusted: UnknownIssuer");
}

/// A server with one object of 200,000 bytes, behind a faulty one.
async fn faulty() -> (Running, FaultServer, Vec<u8>, Key) {
    let server = Running::start().await;
    let bytes = noise(1, 200_000);
    let key = sha256(&bytes);
    client(&StorOptions::new(server.url.clone())).put(&key, &upload(&bytes)).await.expect("put");
    let faulty = FaultServer::start(server.url.clone()).await.expect("started");
    (server, faulty, bytes, key)
}

#[tokio::test]
async fn a_stor_that_fails_for_a_while_is_asked_again() {
    let (_server, faulty, _, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    faulty.script([ServerTrouble::Status(500), ServerTrouble::Status(502)]);
    assert_eq!(store.has(std::slice::from_ref(&key)).await.expect("answered"), [true]);
    assert_eq!(faulty.requests("POST", "/store/ns/exists"), 3);
    faulty.script([ServerTrouble::Status(503), ServerTrouble::Lost]);
    let other = sha256(b"other");
    let stored = store.put(&other, &upload(b"other")).await.expect("put");
    assert!(!stored.created, "the attempt whose answer was lost had kept it");
    assert_eq!(faulty.requests("PUT", &format!("/store/ns/{other}")), 3);
}

#[tokio::test]
async fn what_will_not_pass_is_asked_once() {
    let (_server, faulty, _, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    for (n, (status, expected)) in [
        (401, "access denied: check login and passwd of the stor"),
        (403, "access denied: check login and passwd of the stor"),
        (404, "not found"),
        (416, "refused: 416 Range Not Satisfiable: trouble was asked for"),
        (418, "refused: 418 I'm a teapot: trouble was asked for"),
        (304, "unexpected answer: 304 Not Modified to \"nowhere\", which is not followed"),
        (204, "unexpected answer: 204 No Content"),
    ]
    .into_iter()
    .enumerate()
    {
        faulty.set(ServerTrouble::Status(status)).await.expect("set");
        assert_eq!(got(&*store, &key).await.expect_err("refused").to_string(), expected);
        assert_eq!(faulty.requests("GET", &format!("/store/ns/{key}")), n + 1);
    }
}

#[tokio::test]
async fn a_stor_that_is_stopped_is_unavailable_and_comes_back() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), SOON);
    faulty.set(ServerTrouble::Stopped).await.expect("set");
    let fault = got(&*store, &key).await.expect_err("stopped");
    assert!(matches!(fault, Fault::Unavailable(_)), "{fault:?}");
    assert!(fault.to_string().contains("refused"), "{fault}");
    faulty.set(ServerTrouble::None).await.expect("set");
    assert!(got(&*store, &key).await.expect("got") == bytes);
}

#[tokio::test]
async fn a_stor_that_keeps_failing_is_given_up_within_the_deadline() {
    let (_server, faulty, _, key) = faulty().await;
    let store = hasty(faulty.url(), SOON);
    faulty.set(ServerTrouble::Status(500)).await.expect("set");
    let error = store.has(std::slice::from_ref(&key)).await.expect_err("500");
    assert_eq!(
        error.fault.to_string(),
        "unavailable: 500 Internal Server Error: trouble was asked for",
        "the last answer is the cause"
    );
    assert!(faulty.requests("POST", "/store/ns/exists") > 1);
}

#[tokio::test]
async fn whether_to_ask_for_an_object_again_is_for_the_reader_to_decide() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    let path = format!("/store/ns/{key}");
    faulty.script([ServerTrouble::Status(500)]);
    got(&*store, &key).await.expect_err("500");
    assert_eq!(faulty.requests("GET", &path), 1);
    faulty.script([ServerTrouble::Cut(0)]);
    let fault = got(&*store, &key).await.expect_err("cut");
    assert!(matches!(fault, Fault::Short { received: 0, expected: 200_000 }), "{fault:?}");
    assert_eq!(faulty.requests("GET", &path), 2);
    assert!(got(&*store, &key).await.expect("got") == bytes);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (_server, faulty, _, key) = faulty().await;
    let store = hasty(faulty.url(), SOON);
    for trouble in [ServerTrouble::Silence, ServerTrouble::Stall(50_000)] {
        faulty.set(trouble).await.expect("set");
        let fault = got(&*store, &key).await.expect_err("silent");
        assert!(matches!(fault, Fault::Silent(SOON)), "{fault:?}");
    }
    faulty.set(ServerTrouble::Silence).await.expect("set");
    let error = store.put(&sha256(b"x"), &upload(b"x")).await.expect_err("silent");
    assert!(matches!(error.fault, Fault::Silent(SOON)), "{error}");
}

#[tokio::test]
async fn a_slow_stor_is_waited_for() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    faulty.set(ServerTrouble::Slow(SOON)).await.expect("set");
    assert!(got(&*store, &key).await.expect("got") == bytes);
    assert_eq!(faulty.requests("GET", &format!("/store/ns/{key}")), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_from_where_it_was() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    let path = format!("/store/ns/{key}");
    faulty.script([ServerTrouble::Cut(70_000), ServerTrouble::Cut(50_000)]);
    assert!(got(&*store, &key).await.expect("got") == bytes);
    assert_eq!(faulty.requests("GET", &path), 3);
    faulty.script([ServerTrouble::Cut(1000)]);
    let body = store.get(&key, Some(500..100_500)).await.expect("got");
    assert!(bytes_of(body).await.expect("read") == bytes[500..100_500]);
    assert_eq!(faulty.requests("GET", &path), 5);
}

#[tokio::test]
async fn a_body_that_cannot_go_on_is_short() {
    let (_server, faulty, _, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    faulty.script([ServerTrouble::Cut(70_000), ServerTrouble::IgnoredRange]);
    let fault = got(&*store, &key).await.expect_err("cut");
    assert!(matches!(fault, Fault::Short { received: 1..=70_000, expected: 200_000 }), "{fault:?}");
    assert!(fault.is_transient(), "the reader may start again");
}

#[tokio::test]
async fn an_answer_to_another_range_is_no_answer() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    for trouble in [ServerTrouble::WrongContentRange, ServerTrouble::IgnoredRange] {
        faulty.set(trouble.clone()).await.expect("set");
        let error = store.get(&key, Some(5..10)).await.expect_err("another range");
        assert!(matches!(error.fault, Fault::Protocol(_)), "{trouble:?}: {error}");
        assert!(got(&*store, &key).await.expect("no range was asked for") == bytes);
    }
}

#[tokio::test]
async fn more_bytes_than_asked_for_never_reach_the_reader() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    faulty.set(ServerTrouble::Flood(8 << 30)).await.expect("set");
    let body = store.get(&key, Some(5..10)).await.expect("got");
    let error = bytes_of(body).await.expect_err("too much");
    assert!(matches!(error.fault, Fault::Protocol(_)), "{error}");
    // Without a range nobody said how much: the reader knows, and goes away.
    let mut body = store.get(&key, None).await.expect("got");
    assert_eq!(body.length, None);
    let mut received = 0;
    while received <= bytes.len() {
        let piece = futures::StreamExt::next(&mut body.stream).await.expect("more").expect("good");
        received += piece.len();
    }
}

#[tokio::test]
async fn a_flipped_byte_is_the_readers_to_find() {
    let (_server, faulty, bytes, key) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    faulty.set(ServerTrouble::Flip(1234)).await.expect("set");
    let flipped = got(&*store, &key).await.expect("got");
    let differ: Vec<_> = (0..bytes.len()).filter(|&n| bytes[n] != flipped[n]).collect();
    assert_eq!(differ, [1234]);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_no_conflict_with_itself() {
    let (_server, faulty, _, _) = faulty().await;
    let store = hasty(faulty.url(), PATIENT);
    let name = "a.flist".parse().expect("valid");
    faulty.script([ServerTrouble::Lost]);
    let etag = store.write_named(&name, &upload(b"one"), Precondition::Absent).await.expect("written");
    assert_eq!(faulty.requests("POST", "/static/a.flist"), 2);
    let unchanged = store.read_named(&name, Some(&etag)).await.expect("read");
    assert!(matches!(unchanged, Named::Unchanged));
    faulty.script([ServerTrouble::Status(503)]);
    let error = store.write_named(&name, &upload(b"two"), Precondition::Absent).await.expect_err("conflict");
    assert!(matches!(error.fault, Fault::Conflict), "{error}");
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let (_server, faulty, _, key) = faulty().await;
    let elsewhere = FaultServer::start(faulty.url()).await.expect("started");
    faulty.set(ServerTrouble::Redirect(elsewhere.url())).await.expect("set");
    let mut options = StorOptions::new(faulty.url());
    options.login = Some("a".into());
    let fault = got(&*client(&options), &key).await.expect_err("a redirect");
    assert!(matches!(fault, Fault::Protocol(_)), "{fault:?}");
    assert_eq!(elsewhere.requests("GET", &format!("/store/ns/{key}")), 0);
}

/// A stor of the old system: no `PUT`, no `exists`; `lies` about the MD5 of what is posted.
async fn foreign(lies: bool) -> (Url, Arc<AtomicUsize>) {
    type Objects = Arc<std::sync::Mutex<std::collections::HashMap<String, Bytes>>>;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let router = Router::new()
        .route(
            "/store/{ns}",
            post(async move |State(objects): State<Objects>, body: Bytes| {
                let hash = if lies { md5(b"a lie") } else { md5(&body) }.to_string();
                objects.lock().expect("whole").insert(hash.clone(), body);
                format!("{{\"Hash\": \"{hash}\"}}")
            }),
        )
        .route(
            "/store/{ns}/{hash}",
            get(async |State(objects): State<Objects>, Path((_, hash)): Path<(String, String)>| {
                let object = objects.lock().expect("whole").get(&hash).cloned();
                object.ok_or(StatusCode::NOT_FOUND)
            })
            .put(async move || {
                count.fetch_add(1, Ordering::Relaxed);
                StatusCode::METHOD_NOT_ALLOWED
            }),
        )
        .with_state(Objects::default());
    (serve(router).await, refused)
}

/// Serves `router` until the test's runtime ends.
async fn serve(router: Router) -> Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/").parse().expect("a URL")
}

#[tokio::test]
async fn a_stor_without_put_and_exists_is_understood() {
    let (url, refused) = foreign(false).await;
    let store = hasty(url, PATIENT);
    let bytes = noise(5, 1_000_000);
    for _ in 0..2 {
        let stored = store.put(&sha256(&bytes), &upload(&bytes)).await.expect("posted");
        assert_eq!(stored.key, md5(&bytes), "found under the key that the stor chose");
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1, "PUT is tried once");
    assert!(got(&*store, &md5(&bytes)).await.expect("got") == bytes);
    let keys: Vec<_> = (0..50_u8).map(|n| md5(&[n])).chain([md5(&bytes)]).collect();
    let present = store.has(&keys).await.expect("answered");
    assert_eq!(present.iter().position(|present| *present), Some(50));
}

#[tokio::test]
async fn a_stor_that_names_another_hash_than_what_was_sent_is_not_believed() {
    let (url, _) = foreign(true).await;
    let error = hasty(url, PATIENT).put(&sha256(b"x"), &upload(b"x")).await.expect_err("a lie");
    assert!(matches!(error.fault, Fault::Protocol(_)), "{error}");
}

async fn fetched(
    url: &Url,
    stor: Option<&StorOptions>,
    limit: u64,
) -> Result<Vec<u8>, aysfs_store::UrlError> {
    match fetch_url(url, stor.map_or(&[], std::slice::from_ref), None, limit, PATIENT).await? {
        Fetched::Found { body, .. } => Ok(bytes_of(body).await?),
        Fetched::Unchanged => panic!("no version was known"),
    }
}

#[tokio::test]
async fn a_flist_under_the_stor_is_fetched_with_its_credentials() {
    let server = Running::with_accounts(&["a:b:rw"]).await;
    let options = StorOptions {
        login: Some("a".into()),
        passwd: Some("b".into()),
        ..StorOptions::new(server.url.clone())
    };
    let name = "app.flist".parse().expect("valid");
    client(&options).write_named(&name, &upload(b"a|b|c"), Precondition::None).await.expect("written");
    let url = server.url.join("static/app.flist").expect("a URL");
    assert_eq!(fetched(&url, Some(&options), 100).await.expect("fetched"), b"a|b|c");
    let error = fetched(&url, None, 100).await.expect_err("without credentials");
    assert_eq!(error.to_string(), format!("{url}: GET: access denied: check login and passwd of the stor"));
    let mut deeper = options.clone();
    deeper.url = server.url.join("stat/").expect("a URL");
    fetched(&url, Some(&deeper), 100).await.expect_err("not under that address");
    let mut own = url.clone();
    own.set_username("a").expect("a name");
    own.set_password(Some("b")).expect("a password");
    assert_eq!(fetched(&own, None, 100).await.expect("fetched"), b"a|b|c");
}

#[tokio::test]
async fn a_fetch_has_a_limit_and_knows_versions() {
    let server = Running::start().await;
    let options = StorOptions::new(server.url.clone());
    let name = "app.flist".parse().expect("valid");
    let store = client(&options);
    store.write_named(&name, &upload(&noise(1, 1000)), Precondition::None).await.expect("written");
    let url = server.url.join("static/app.flist").expect("a URL");
    assert_eq!(fetched(&url, None, 1000).await.expect("fetched").len(), 1000);
    assert!(
        fetched(&url, None, 999).await.expect_err("too long").to_string().contains("longer than 999 bytes")
    );
    let unannounced = FaultServer::start(server.url.clone()).await.expect("started");
    unannounced.set(ServerTrouble::Flood(1 << 30)).await.expect("set");
    let flooded = unannounced.url().join("static/app.flist").expect("a URL");
    assert!(
        fetched(&flooded, None, 5000)
            .await
            .expect_err("too long")
            .to_string()
            .contains("longer than 5000 bytes")
    );
    let Fetched::Found { etag, .. } = fetch_url(&url, &[], None, 1000, PATIENT).await.expect("fetched")
    else {
        panic!("no version was known");
    };
    let again = fetch_url(&url, &[], etag.as_ref(), 1000, PATIENT).await.expect("fetched");
    assert!(matches!(again, Fetched::Unchanged));
    let error = fetched(&"ftp://h/x".parse().expect("a URL"), None, 1).await.expect_err("not HTTP");
    assert_eq!(error.to_string(), "ftp://h/x: only http:// and https:// URLs can be fetched");
}

#[tokio::test]
async fn a_fetch_with_credentials_follows_no_redirect_away_from_the_stor() {
    let secret = Running::with_accounts(&["a:b:rw"]).await;
    let target = secret.url.join("static/app.flist").expect("a URL");
    let to = target.clone();
    let leave = async move || Redirect::temporary(to.as_str()).into_response();
    let url = serve(Router::new().route("/stor/app.flist", get(leave))).await;
    let flist = url.join("stor/app.flist").expect("a URL");
    let mut options = StorOptions::new(url.join("stor").expect("a URL"));
    options.login = Some("a".into());
    options.passwd = Some("b".into());
    let error = fetched(&flist, Some(&options), 10).await.expect_err("a redirect");
    assert!(error.to_string().contains("which is not followed"), "{error}");
    // Without credentials there is nothing to lose; those of a stor are not used for where it leads.
    let options = StorOptions {
        login: Some("a".into()),
        passwd: Some("b".into()),
        ..StorOptions::new(secret.url.clone())
    };
    let error = fetched(&flist, Some(&options), 10).await.expect_err("no credentials");
    assert!(error.to_string().contains("access denied"), "{error}");
}
