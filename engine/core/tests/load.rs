//! From a flist to a tree: files and URLs, signatures, versions, and what is remembered.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aysfs_engine::Base;
use aysfs_engine::load::{LoadError, Request, Source, load};
use aysfs_flist::{Entry, Header, Kind, Node, ParseOptions, PublicKey};
use aysfs_store::contract::upload;
use aysfs_store::fault::ServerTrouble;
use aysfs_store::{Precondition, Store};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use ring::signature::{Ed25519KeyPair, KeyPair};
use support::{PATIENT, Running, list};
use tempfile::TempDir;
use url::Url;

/// A deadline that a test waits for; long enough for a busy machine to do what must happen before.
const SOON: Duration = Duration::from_millis(1500);

/// A directory of a backend.
struct Backend(TempDir);

impl Backend {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn load(&self, request: &Request) -> Result<Base, LoadError> {
        load(request, &[], PATIENT, &self.path("backend")).await
    }

    /// For what cannot be reached.
    async fn load_soon(&self, request: &Request) -> Result<Base, LoadError> {
        load(request, &[], SOON, &self.path("backend")).await
    }

    /// Writes a local list.
    fn file(&self, content: &[u8]) -> Request {
        let path = self.path("list.flist");
        fs::write(&path, content).expect("written");
        unsigned(Source::File(path))
    }

    /// The local copy of the only list that came from a URL.
    fn copy(&self) -> Option<PathBuf> {
        let found = fs::read_dir(self.path("backend/flists")).expect("a memory").flatten();
        found.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "flist"))
    }
}

fn unsigned(source: Source) -> Request {
    Request { source, parse: ParseOptions::default(), trusted_keys: Vec::new(), private_keys: Vec::new() }
}

fn entries_of(base: &Base) -> Vec<String> {
    let entries = base.index().entries().map(|entry| entry.expect("sound").path);
    entries.skip(1).map(|path| String::from_utf8(path).expect("ASCII")).collect()
}

/// A list of one directory.
fn naming(name: &str) -> Vec<u8> {
    list(&Header::default(), &[Entry::new(name, Kind::Directory)])
}

fn chain(error: &LoadError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn publish(stor: &dyn Store, name: &str, content: &[u8]) {
    let name = name.parse().expect("a name");
    stor.write_named(&name, &upload(content), Precondition::None).await.expect("published");
}

#[tokio::test]
async fn a_file_is_loaded_and_loaded_again_when_it_has_changed() {
    let backend = Backend::new();
    for name in ["one", "two"] {
        let request = backend.file(&naming(name));
        for _ in 0..2 {
            assert_eq!(entries_of(&backend.load(&request).await.expect("a good list")), [name]);
        }
    }
    assert!(
        !backend.path("backend/flists").exists(),
        "of a local list without signature nothing is remembered"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let backend = Backend::new();
    let missing = unsigned(Source::File(backend.path("missing")));
    let error = backend.load(&missing).await.expect_err("missing").to_string();
    assert_eq!(
        error,
        format!(
            "cannot read the flist {}: No such file or directory (os error 2)",
            backend.path("missing").display()
        )
    );
    let bad = backend.file(b"# aysfs-flist 2\nnot an entry\n");
    let error = backend.load(&bad).await.expect_err("bad").to_string();
    let expected = format!("{}: line 2, column 1: ", backend.path("list.flist").display());
    assert!(error.starts_with(&expected), "{error}");
}

#[tokio::test]
async fn the_mount_path_is_taken_from_paths_by_whole_components() {
    let backend = Backend::new();
    let names = ["opt/app/bin", "optional", "opt"].map(|name| Entry::new(name, Kind::Directory));
    let mut request = backend.file(&list(&Header::default(), &names));
    request.parse.trim_base = Some("/opt".into());
    let base = backend.load(&request).await.expect("a good list");
    assert_eq!(entries_of(&base), ["app", "app/bin", "optional"]);
    request.parse.trim = Some("/app".into());
    assert_eq!(entries_of(&backend.load(&request).await.expect("a good list")), ["bin", "optional"]);
    request.parse = ParseOptions::default();
    let base = backend.load(&request).await.expect("a good list");
    assert_eq!(entries_of(&base), ["opt", "opt/app", "opt/app/bin", "optional"]);
}

#[tokio::test]
async fn a_damaged_index_is_made_again() {
    let backend = Backend::new();
    let request = backend.file(&naming("one"));
    backend.load(&request).await.expect("a good list");
    for entry in fs::read_dir(backend.path("backend/index")).expect("indexes").flatten() {
        let mut bytes = fs::read(entry.path()).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(entry.path(), bytes).expect("writable");
    }
    assert_eq!(entries_of(&backend.load(&request).await.expect("made again")), ["one"]);

    fs::remove_dir_all(backend.path("backend/index")).expect("removable");
    assert_eq!(entries_of(&backend.load(&request).await.expect("made again")), ["one"]);

    fs::remove_dir_all(backend.path("backend/index")).expect("removable");
    fs::write(backend.path("backend/index"), "in the way").expect("writable");
    let error = backend.load(&request).await.expect_err("no room for an index").to_string();
    let index = backend.path("backend/index").display().to_string();
    assert!(error.starts_with(&format!("cannot keep the index of a flist in {index}")), "{error}");
}

#[tokio::test]
async fn a_url_is_fetched_again_only_when_it_has_changed() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let request = unsigned(Source::Url(server.named("app.flist")));
    publish(&*server.sound(), "app.flist", &naming("one")).await;
    let mut inodes = Vec::new();
    for _ in 0..2 {
        assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["one"]);
        inodes.push(fs::metadata(backend.copy().expect("a copy")).expect("stat").ino());
    }
    assert_eq!(inodes[0], inodes[1], "the copy is as it was");
    publish(&*server.sound(), "app.flist", &naming("two")).await;
    assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["two"]);
    assert_eq!(server.faulty.requests("GET", "/static/app.flist"), 3);

    // Whoever removes the copy gets it again, whatever its version was.
    fs::remove_file(backend.copy().expect("a copy")).expect("removable");
    assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["two"]);
}

#[tokio::test]
async fn a_compressed_list_is_known_by_its_first_bytes() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let compressed = zstd::encode_all(&naming("one")[..], 3).expect("memory");
    publish(&*server.sound(), "app.flist", &compressed).await;
    let request = unsigned(Source::Url(server.named("app.flist")));
    assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["one"]);
}

#[tokio::test]
async fn the_last_copy_serves_while_the_url_cannot_be_reached() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let mut url = server.named("app.flist");
    url.set_username("zaibon").expect("a URL with a host");
    url.set_password(Some("supersecret")).expect("a URL with a host");
    let request = unsigned(Source::Url(url));
    publish(&*server.sound(), "app.flist", &naming("one")).await;
    let troubles =
        [ServerTrouble::Stopped, ServerTrouble::Status(503), ServerTrouble::Silence, ServerTrouble::Cut(7)];
    for trouble in &troubles {
        server.faulty.set(trouble.clone()).await.expect("set");
        let error = backend.load_soon(&request).await.expect_err("there is no copy");
        assert!(matches!(error, LoadError::Fetch { .. }), "{error}");
        let text = chain(&error);
        assert!(
            text.starts_with(&format!("cannot fetch the flist {}: ", server.named("app.flist"))),
            "{text}"
        );
        assert!(!format!("{text}{error:?}").contains("supersecret"), "{text}");
    }
    server.faulty.set(ServerTrouble::None).await.expect("set");
    backend.load(&request).await.expect("fetched");
    publish(&*server.sound(), "app.flist", &naming("two")).await;
    for trouble in troubles {
        server.faulty.set(trouble).await.expect("set");
        assert_eq!(entries_of(&backend.load_soon(&request).await.expect("the copy")), ["one"]);
    }
    // It was reached, and has said no.
    server.faulty.set(ServerTrouble::Status(404)).await.expect("set");
    let error = chain(&backend.load(&request).await.expect_err("not there any more"));
    assert!(error.ends_with("not found"), "{error}");
    server.faulty.set(ServerTrouble::None).await.expect("set");
    assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["two"]);
}

#[tokio::test]
async fn a_bad_list_does_not_replace_the_copy() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let url = server.named("app.flist");
    let request = unsigned(Source::Url(url.clone()));
    publish(&*server.sound(), "app.flist", &naming("one")).await;
    backend.load(&request).await.expect("fetched");
    publish(&*server.sound(), "app.flist", b"# aysfs-flist 2\n../..|\n").await;
    for _ in 0..2 {
        let error = backend.load(&request).await.expect_err("bad").to_string();
        assert!(error.starts_with(&format!("{url}: line 2, column 1: ")), "{error}");
    }
    server.faulty.set(ServerTrouble::Stopped).await.expect("set");
    assert_eq!(entries_of(&backend.load_soon(&request).await.expect("the copy")), ["one"]);
    server.faulty.set(ServerTrouble::None).await.expect("set");
    publish(&*server.sound(), "app.flist", &naming("two")).await;
    assert_eq!(entries_of(&backend.load(&request).await.expect("fetched")), ["two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_load_one_list_at_once() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let names: Vec<_> = (0..500).map(|n| Entry::new(format!("dir{n}"), Kind::Directory)).collect();
    let bytes = list(&Header::default(), &names);
    publish(&*server.sound(), "app.flist", &bytes).await;
    let of_file = backend.file(&bytes);
    let of_url = unsigned(Source::Url(server.named("app.flist")));
    let loads = (0..16).map(|n| {
        let (request, dir) = (if n % 2 == 0 { &of_file } else { &of_url }.clone(), backend.path("backend"));
        tokio::spawn(async move { load(&request, &[], PATIENT, &dir).await })
    });
    for base in join_all(loads).await {
        let base = base.expect("no panic").expect("loaded");
        assert_eq!(base.index().len(), 501);
        assert!(base.index().lookup(Node::ROOT, b"dir499").expect("sound").is_some());
    }
}

/// Someone who signs lists as minisign does.
struct Signer(Ed25519KeyPair);

impl Signer {
    const ID: [u8; 8] = *b"id of it";

    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
    }

    fn key(&self) -> PublicKey {
        let key = [b"Ed", &Self::ID[..], self.0.public_key().as_ref()].concat();
        PublicKey::from_base64(&STANDARD.encode(key)).expect("a key")
    }

    fn sign(&self, bytes: &[u8]) -> String {
        let signature = self.0.sign(bytes);
        let comment = "for a test";
        let global = self.0.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let signature = STANDARD.encode([b"Ed", &Self::ID[..], signature.as_ref()].concat());
        let global = STANDARD.encode(global);
        format!("untrusted comment: x\n{signature}\ntrusted comment: {comment}\n{global}\n")
    }
}

/// A list of one directory, with a version.
fn version(number: u64) -> Vec<u8> {
    let header = Header { version: Some(number), ..Header::default() };
    list(&header, &[Entry::new(format!("v{number}"), Kind::Directory)])
}

fn write_signed(path: &Path, bytes: &[u8], signer: &Signer) {
    fs::write(path, bytes).expect("written");
    fs::write(path.with_extension("flist.minisig"), signer.sign(bytes)).expect("written");
}

#[tokio::test]
async fn a_list_is_mounted_only_if_one_who_is_trusted_has_signed_it() {
    let backend = Backend::new();
    let (ours, theirs) = (Signer::new(1), Signer::new(2));
    let path = backend.path("list.flist");
    let shown = path.display();
    let request =
        Request { trusted_keys: vec![theirs.key(), ours.key()], ..unsigned(Source::File(path.clone())) };
    let only_theirs = Request { trusted_keys: vec![theirs.key()], ..request.clone() };

    fs::write(&path, version(1)).expect("written");
    assert_eq!(
        chain(&backend.load(&request).await.expect_err("unsigned")),
        format!("the flist {shown} is not to be trusted: it has no signature in {shown}.minisig")
    );
    write_signed(&path, &version(1), &ours);
    assert_eq!(entries_of(&backend.load(&request).await.expect("signed")), ["v1"]);
    assert_eq!(
        chain(&backend.load(&only_theirs).await.expect_err("by someone else")),
        format!(
            "the flist {shown} is not to be trusted: the signature is wrong: the flist or its .minisig was changed"
        )
    );
    fs::write(&path, version(2)).expect("written");
    assert_eq!(
        chain(&backend.load(&request).await.expect_err("changed")),
        format!(
            "the flist {shown} is not to be trusted: the signature is wrong: the flist or its .minisig was changed"
        )
    );
    fs::write(path.with_extension("flist.minisig"), "nonsense").expect("written");
    let error = chain(&backend.load(&request).await.expect_err("no signature"));
    assert!(error.ends_with("not a minisign signature: expected the content of a .minisig file"), "{error}");
}

#[tokio::test]
async fn an_older_version_than_the_last_one_is_refused() {
    let backend = Backend::new();
    let signer = Signer::new(1);
    let path = backend.path("list.flist");
    let request = Request { trusted_keys: vec![signer.key()], ..unsigned(Source::File(path.clone())) };
    for number in [3, 3, 5] {
        write_signed(&path, &version(number), &signer);
        backend.load(&request).await.expect("not older");
    }
    write_signed(&path, &version(4), &signer);
    let error = backend.load(&request).await.expect_err("older").to_string();
    assert_eq!(
        error,
        format!(
            "the flist {} has version 4, but version 5 was mounted before: somebody may be replaying an old list",
            path.display()
        )
    );
    write_signed(&path, &naming("without a version"), &signer);
    assert!(matches!(
        backend.load(&request).await.expect_err("of no version"),
        LoadError::Rollback { found: 0, accepted: 5, .. }
    ));
    // The same file by another way of writing its path; and another backend knows nothing of it.
    write_signed(&path, &version(4), &signer);
    let detour = Source::File(backend.path("./list.flist"));
    backend.load(&Request { source: detour, ..request.clone() }).await.expect_err("older");
    load(&request, &[], PATIENT, &backend.path("another")).await.expect("its first");

    let memory = fs::read_dir(backend.path("backend/flists")).expect("a memory").flatten();
    let versions = memory.map(|entry| entry.path()).find(|path| path.extension() == Some("version".as_ref()));
    let versions = versions.expect("a version");
    fs::write(&versions, "five").expect("written");
    assert_eq!(
        backend.load(&request).await.expect_err("no version").to_string(),
        format!(
            "{} should hold the version of the flist that was mounted last: remove it to accept any version once",
            versions.display()
        )
    );
}

#[tokio::test]
async fn a_url_has_its_signature_beside_it() {
    let (backend, server) = (Backend::new(), Running::start().await);
    let signer = Signer::new(1);
    let stor = server.sound();
    let url = server.named("app.flist");
    let request = Request { trusted_keys: vec![signer.key()], ..unsigned(Source::Url(url.clone())) };
    publish(&*stor, "app.flist", &version(1)).await;
    assert_eq!(
        chain(&backend.load(&request).await.expect_err("unsigned")),
        format!("the flist {url} is not to be trusted: it has no signature in {url}.minisig")
    );
    publish(&*stor, "app.flist.minisig", signer.sign(&version(1)).as_bytes()).await;
    for _ in 0..2 {
        assert_eq!(entries_of(&backend.load(&request).await.expect("signed")), ["v1"]);
    }
    // Neither what nobody has signed nor what is older replaces the copy, list and signature.
    publish(&*stor, "app.flist", &version(2)).await;
    assert!(matches!(backend.load(&request).await.expect_err("unsigned"), LoadError::Signature { .. }));
    publish(&*stor, "app.flist", &version(0)).await;
    publish(&*stor, "app.flist.minisig", signer.sign(&version(0)).as_bytes()).await;
    assert!(matches!(backend.load(&request).await.expect_err("older"), LoadError::Rollback { .. }));
    server.faulty.set(ServerTrouble::Stopped).await.expect("set");
    assert_eq!(entries_of(&backend.load_soon(&request).await.expect("the copies")), ["v1"]);
    server.faulty.set(ServerTrouble::None).await.expect("set");

    publish(&*stor, "app.flist.minisig", &[b'x'; (64 << 10) + 1]).await;
    let error = chain(&backend.load(&request).await.expect_err("too long"));
    assert!(error.ends_with("longer than 65536 bytes"), "{error}");
    publish(&*stor, "app.flist", &version(2)).await;
    publish(&*stor, "app.flist.minisig", signer.sign(&version(2)).as_bytes()).await;
    assert_eq!(entries_of(&backend.load(&request).await.expect("signed")), ["v2"]);
}

#[tokio::test]
async fn only_web_servers_can_be_asked() {
    let backend = Backend::new();
    let url: Url = "ftp://zaibon:supersecret@host/app.flist".parse().expect("a URL");
    let error = chain(&backend.load(&unsigned(Source::Url(url))).await.expect_err("not HTTP"));
    assert_eq!(
        error,
        "cannot fetch the flist ftp://host/app.flist: ftp://host/app.flist: only http:// and https:// URLs can be fetched"
    );
}
