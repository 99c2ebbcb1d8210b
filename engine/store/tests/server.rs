//! The server as a stranger on the wire sees it.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aysfs_store::aydostor::server::{Limits, Server, ServerConfig, TlsFiles};
use aysfs_store::contract::{md5, noise, sha256, upload};
use aysfs_store::{StorOptions, Store};
use support::{Certificates, Running, client, ns, rest_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ACCOUNTS: [&str; 3] = ["reader:r1:r", "writer:w1:rw", "admin:a1:rwd"];

fn authorization(login: &str) -> String {
    use base64::Engine;
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(login))
}

fn object(bytes: &[u8]) -> String {
    format!("/store/ns/{}", sha256(bytes))
}

#[tokio::test]
async fn each_account_may_do_what_its_rights_say() {
    let server = Running::with_accounts(&ACCOUNTS).await;
    let (x, missing) = (object(b"x"), object(b"missing"));
    let calls = [
        // method, path, body; and the status for nobody, a wrong password, the reader, the writer, the admin.
        ("GET", "/healthz", "", [200, 200, 200, 200, 200]),
        ("GET", "/metrics", "", [401, 401, 200, 200, 200]),
        ("PUT", &*x, "x", [401, 401, 403, 201, 200]),
        ("GET", &*x, "", [401, 401, 200, 200, 200]),
        ("HEAD", &*x, "", [401, 401, 200, 200, 200]),
        ("GET", "/store/ns", "", [401, 401, 200, 200, 200]),
        ("POST", "/store/ns/exists", "{\"Hashes\":[]}", [401, 401, 200, 200, 200]),
        ("POST", "/store/exists", "x", [401, 401, 403, 201, 201]),
        ("POST", "/store/ns", "x", [401, 401, 403, 201, 201]),
        ("POST", "/static/a.flist", "x", [401, 401, 403, 201, 200]),
        ("GET", "/static/a.flist", "", [401, 401, 200, 200, 200]),
        ("DELETE", &*missing, "", [401, 401, 403, 403, 404]),
        ("DELETE", &*x, "", [401, 401, 403, 403, 204]),
        ("PATCH", &*x, "", [401, 401, 403, 403, 405]),
    ];
    let accounts = ["", "admin:wrong", "reader:r1", "writer:w1", "admin:a1"];
    for (method, path, body, expected) in calls {
        for (account, expected) in accounts.into_iter().zip(expected) {
            let headers = if account.is_empty() { String::new() } else { authorization(account) };
            let (status, answer) = server.ask(method, path, &headers, body).await;
            assert_eq!(status, expected, "{method} {path} as {account:?}");
            assert_eq!(status == 401, answer.to_lowercase().contains("www-authenticate: basic "));
        }
    }
}

#[tokio::test]
async fn credentials_that_are_none_are_refused() {
    let server = Running::with_accounts(&ACCOUNTS).await;
    for header in [
        "Authorization: Bearer r1\r\n",
        "Authorization: Basic\r\n",
        "Authorization: Basic !!!\r\n",
        "Authorization: Basic cmVhZGVy\r\n",
        &authorization("reader:"),
        &authorization(":r1"),
        &authorization("reader:w1"),
    ] {
        assert_eq!(server.ask("GET", "/store/ns", header, "").await.0, 401, "{header}");
    }
}

#[tokio::test]
async fn without_accounts_everyone_may_read_and_write_but_not_delete() {
    let server = Running::start().await;
    assert_eq!(server.ask("PUT", &object(b"x"), "", "x").await.0, 201);
    assert_eq!(server.ask("GET", &object(b"x"), "", "").await.0, 200);
    assert_eq!(server.ask("DELETE", &object(b"x"), "", "").await.0, 403);
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_told_so() {
    let server = Running::start().await;
    let x = object(b"x");
    server.ask("PUT", &x, "", "x").await;
    let upper = object(b"x").to_uppercase().replace("/STORE/NS/", "/store/ns/");
    for (method, path, headers, body, expected) in [
        ("GET", "/store/ns/nohash", "", "", 400),
        ("GET", &*upper, "", "", 400),
        ("GET", "/store/.static/d41d8cd98f00b204e9800998ecf8427e", "", "", 400),
        ("GET", "/store/%2e%2e/d41d8cd98f00b204e9800998ecf8427e", "", "", 400),
        ("GET", "/store/a%2fb/d41d8cd98f00b204e9800998ecf8427e", "", "", 400),
        ("POST", "/store/.incoming", "", "x", 400),
        ("GET", "/static/..%2f..%2fetc%2fpasswd", "", "", 400),
        ("POST", "/static/.lock", "", "x", 400),
        ("POST", "/store/ns/exists", "", "{}", 400),
        ("POST", "/store/ns/exists", "", "{\"Hashes\":[\"../x\"]}", 400),
        ("POST", "/static/a", "If-Match: *\r\n", "x", 400),
        ("POST", "/static/a", "If-Match: W/\"1\"\r\n", "x", 400),
        ("POST", "/static/a", "If-Match: \"0\"\r\n", "x", 412),
        ("GET", &*object(b"y"), "", "", 404),
        ("GET", "/static/missing", "", "", 404),
        ("GET", "/", "", "", 404),
        ("GET", "/store/", "", "", 404),
        ("POST", &*x, "", "x", 405),
        ("PUT", &*x, "", "y", 422),
        ("PUT", &*format!("/store/ns/{}", md5(b"x")), "", "y", 422),
    ] {
        let (status, answer) = server.ask(method, path, headers, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_range_is_answered_as_rfc_9110_says() {
    let server = Running::start().await;
    let path = object(b"0123456789");
    server.ask("PUT", &path, "", "0123456789").await;
    for (range, status, told, body) in [
        ("bytes=2-4", 206, "content-range: bytes 2-4/10", "234"),
        ("bytes=7-", 206, "content-range: bytes 7-9/10", "789"),
        ("bytes=-1", 206, "content-range: bytes 9-9/10", "9"),
        ("bytes=5-99", 206, "content-range: bytes 5-9/10", "56789"),
        ("bytes=10-", 416, "content-range: bytes */10", "no such range\n"),
        ("bytes=0-1,3-4", 200, "accept-ranges: bytes", "0123456789"),
    ] {
        let (told_status, answer) = server.ask("GET", &path, &format!("Range: {range}\r\n"), "").await;
        let (head, told_body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert_eq!((told_status, told_body), (status, body), "{range}");
        assert!(head.contains(told), "{range}: {head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{range}: {head}");
    }
    let (status, answer) = server.ask("HEAD", &path, "Range: bytes=2-4\r\n", "").await;
    assert_eq!(status, 200);
    assert!(answer.contains("content-length: 10") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_named_file_is_sent_once_per_version() {
    let server = Running::start().await;
    let (status, answer) = server.ask("POST", "/static/a.flist", "If-None-Match: *\r\n", "one").await;
    let etag = format!("\"{}\"", sha256(b"one"));
    assert_eq!(status, 201);
    assert!(answer.contains(&format!("etag: {etag}")), "{answer}");
    for (known, expected) in [
        (etag.clone(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"0\", {etag}"), 304),
        ("*".into(), 304),
        ("\"0\"".into(), 200),
    ] {
        let header = format!("If-None-Match: {known}\r\n");
        let (status, answer) = server.ask("GET", "/static/a.flist", &header, "").await;
        assert_eq!(status, expected, "{known}");
        assert!(answer.contains(&format!("etag: {etag}")), "{answer}");
    }
    assert_eq!(server.ask("POST", "/static/a.flist", "If-None-Match: *\r\n", "two").await.0, 412);
    assert_eq!(server.ask("POST", "/static/a.flist", &format!("If-Match: {etag}\r\n"), "two").await.0, 200);
    assert_eq!(server.ask("POST", "/static/a.flist", &format!("If-Match: {etag}\r\n"), "three").await.0, 412);
}

#[tokio::test]
async fn a_posted_body_is_answered_with_its_md5() {
    let server = Running::start().await;
    let (status, answer) = server.ask("POST", "/store/ns", "", "hello").await;
    assert_eq!(status, 201);
    assert!(answer.ends_with("{\"Hash\":\"5d41402abc4b2a76b9719d911017c592\"}"), "{answer}");
    let question = "{\"Hashes\": [\"5d41402abc4b2a76b9719d911017c592\"]}";
    let (_, answer) = server.ask("POST", "/store/ns/exists", "", question).await;
    assert!(answer.ends_with("{\"5d41402abc4b2a76b9719d911017c592\":true}"), "{answer}");
    let (_, answer) = server.ask("GET", "/store/ns", "", "").await;
    assert!(answer.contains("[\"5d41402abc4b2a76b9719d911017c592|5|1"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_leaves_nothing() {
    let server = Running::with_limits(Limits { body: 1000, ..Limits::default() }).await;
    let large = "x".repeat(1001);
    let (status, _) = server.ask("PUT", &object(large.as_bytes()), "", &large).await;
    assert_eq!(status, 413);
    let chunked = format!(
        "PUT {} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{large}\r\n0\r\n\r\n",
        object(large.as_bytes())
    );
    let mut socket = server.connect().await;
    socket.write_all(chunked.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 413");
    let incoming = std::fs::read_dir(server.root.path().join(".incoming")).expect("readable");
    assert_eq!(incoming.count(), 0);
    let exact = "x".repeat(1000);
    assert_eq!(server.ask("PUT", &object(exact.as_bytes()), "", &exact).await.0, 201);
}

#[tokio::test]
async fn an_upload_that_is_refused_in_the_middle_hears_why() {
    let server = Running::with_accounts(&ACCOUNTS).await;
    // Far more than the buffers of the sockets: the answer comes while the client still sends.
    let bytes = noise(1, 32 << 20);
    let store = client(&StorOptions::new(server.url.clone()));
    let error = store.put(&sha256(&bytes), &upload(&bytes)).await.expect_err("no account");
    assert_eq!(error.fault.to_string(), "access denied: check login and passwd of the stor");
}

/// A request with half of its body.
fn half(bytes: &str) -> (String, &str) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let path = object(bytes.as_bytes());
    let length = bytes.len();
    (format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{first}"), second)
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_do_not_hold_up_others() {
    let limits = Limits { head: Duration::from_secs(1), idle: Duration::from_secs(1), ..Limits::default() };
    let server = Running::with_limits(limits).await;
    let (put, _) = half("a body that does not arrive");
    let mut slow = Vec::new();
    for begin in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: h\r\n", &put] {
        let mut socket = server.connect().await;
        socket.write_all(begin.as_bytes()).await.expect("sent");
        slow.push((begin, socket));
    }
    assert_eq!(server.ask("GET", "/healthz", "", "").await.0, 200);
    for (begin, mut socket) in slow {
        let answer = rest_of(&mut socket).await;
        let expected = if begin == put { "HTTP/1.1 408 " } else { "" };
        assert!(answer.starts_with(expected), "{begin:?}: {answer:?}");
        assert_eq!(answer.is_empty(), expected.is_empty(), "{begin:?}: {answer:?}");
    }
    assert_eq!(std::fs::read_dir(server.root.path().join(".incoming")).expect("readable").count(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let limits = Limits { idle: Duration::from_secs(1), connections: 1, ..Limits::default() };
    let server = Running::with_limits(limits).await;
    let bytes = noise(1, 32 << 20);
    client(&StorOptions::new(server.url.clone())).put(&sha256(&bytes), &upload(&bytes)).await.expect("put");
    let mut socket = server.connect().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", object(&bytes));
    socket.write_all(request.as_bytes()).await.expect("sent");
    // The only connection there is becomes free again.
    assert_eq!(server.ask("GET", "/healthz", "", "").await.0, 200);
    let mut received = Vec::new();
    let _ = socket.read_to_end(&mut received).await;
    assert!(received.len() < bytes.len());
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = Running::with_limits(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = server.connect().await;
    let (begin, end) = half("one after the other");
    first.write_all(begin.as_bytes()).await.expect("sent");
    let second = server.ask("GET", "/healthz", "", "");
    let mut second = std::pin::pin!(second);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
    first.write_all(end.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 201");
    drop(first);
    assert_eq!(second.await.0, 200);
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way() {
    let mut server = Running::start().await;
    let idle = server.connect().await;
    let mut uploading = server.connect().await;
    let (begin, end) = half("the body of an upload");
    uploading.write_all(begin.as_bytes()).await.expect("sent");
    // Until it is under way: the temporary file is there.
    let incoming = server.root.path().join(".incoming");
    while std::fs::read_dir(&incoming).expect("readable").next().is_none() {
        tokio::task::yield_now().await;
    }
    server.stop();
    let address = server.address;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    uploading.write_all(end.as_bytes()).await.expect("sent");
    assert!(rest_of(&mut uploading).await.starts_with("HTTP/1.1 201 "));
    drop((idle, uploading));
    server.stopped().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let mut server = Running::with_limits(limits).await;
    let mut stuck = server.connect().await;
    let (begin, _) = half("the body of an upload");
    stuck.write_all(begin.as_bytes()).await.expect("sent");
    server.stop();
    server.stopped().await;
    assert_eq!(rest_of(&mut stuck).await, "");
}

#[tokio::test]
async fn a_server_that_cannot_work_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "not a certificate").expect("written");
    let certificates = Certificates::in_directory(directory.path());
    let config = |root: &std::path::Path, tls| ServerConfig {
        root: root.into(),
        accounts: Vec::new(),
        tls,
        limits: Limits::default(),
    };
    let refused = |config| Server::new(config).expect_err("not to start").to_string();
    assert!(refused(config(&file, None)).contains("file"), "{}", refused(config(&file, None)));
    for (certificate, key, at_fault) in [
        (&file, &certificates.server.key, &file),
        (&certificates.server.certificate, &file, &file),
        (
            &certificates.server.certificate,
            &certificates.server.certificate,
            &certificates.server.certificate,
        ),
    ] {
        let tls = TlsFiles { certificate: certificate.clone(), key: key.clone() };
        let message = refused(config(directory.path(), Some(tls)));
        assert!(message.starts_with(&format!("TLS: {at_fault:?}: ")), "{message}");
    }
}

#[tokio::test]
async fn metrics_count_requests_and_bytes() {
    let server = Running::start().await;
    server.ask("PUT", &object(b"hello"), "", "hello").await;
    server.ask("GET", &object(b"hello"), "", "").await;
    server.ask("GET", &object(b"missing"), "", "").await;
    server.ask("BREW", "/store/ns", "", "").await;
    let (_, answer) = server.ask("GET", "/metrics", "", "").await;
    for line in [
        "aysfs_stor_requests_total{method=\"PUT\",status=\"201\"} 1",
        "aysfs_stor_requests_total{method=\"GET\",status=\"200\"} 1",
        "aysfs_stor_requests_total{method=\"GET\",status=\"404\"} 1",
        "aysfs_stor_requests_total{method=\"other\",status=\"403\"} 1",
        "aysfs_stor_received_bytes_total 5",
        "# TYPE aysfs_stor_connections gauge",
    ] {
        assert!(answer.lines().any(|told| told == line), "{line} is not in\n{answer}");
    }
}

/// A place for log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_access_log_has_a_line_per_request_and_no_secrets() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // For this thread, on which the whole runtime of this test runs.
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = Running::with_accounts(&["zaibon:geheim-1:r"]).await;
    let good = authorization("zaibon:geheim-1");
    server.ask("GET", &format!("{}?token=geheim-2", object(b"x")), &good, "").await;
    server.ask("GET", "/store/ns", &authorization("zaibon:geheim-3"), "").await;
    let options = StorOptions {
        login: Some("zaibon".into()),
        passwd: Some("geheim-1".into()),
        ..StorOptions::new(server.url.clone())
    };
    let store: Arc<dyn Store> = aysfs_store::open(&options, &ns()).expect("opened");
    assert_eq!(store.has(&[sha256(b"x")]).await.expect("answered"), [false]);
    drop(store);
    server.stop();
    server.stopped().await;
    let log = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("text");
    assert!(!log.contains("geheim"), "{log}");
    for secret in [&good, &authorization("zaibon:geheim-3")] {
        assert!(!log.contains(secret.trim_end().rsplit(' ').next().expect("a word")), "{log}");
    }
    let access: Vec<_> = log.lines().filter(|line| line.contains(" access: ")).collect();
    assert_eq!(access.len(), 3, "{log}");
    let path = object(b"x");
    for part in ["method=GET", &path, "status=404", "bytes=10", "remote=127.0.0.1:", "account=\"zaibon\""] {
        assert!(access[0].contains(part), "{part} is not in {}", access[0]);
    }
    assert!(access[1].contains("status=401") && !access[1].contains("account"), "{}", access[1]);
    assert!(access[2].contains("received="), "{}", access[2]);
}
