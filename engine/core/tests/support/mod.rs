//! What the tests of the engine share: a place of their own, a stor that fails on demand, lists made by hand.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

pub mod mount;
pub mod packed;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aysfs_engine::Base;
use aysfs_flist::{Content, Dialect, Entry, Header, Index, Kind, ObjectKey, ParseOptions, Source, Writer};
use aysfs_store::aydostor::server::{Limits, Server, ServerConfig};
use aysfs_store::codec::{self, Compression};
use aysfs_store::fault::{FaultServer, FaultStore};
use aysfs_store::{Cache, CacheOptions, Key, MemStore, Mirror, StorOptions, Store};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

/// Long enough that it never ends a test that works.
pub const PATIENT: Duration = Duration::from_secs(60);

/// A directory, and a stor in memory.
pub struct Lab {
    pub dir: TempDir,
    pub objects: Arc<MemStore>,
    pub stor: Arc<FaultStore>,
}

impl Lab {
    pub fn new() -> Self {
        let objects = Arc::new(MemStore::new());
        let stor = Arc::new(FaultStore::new(objects.clone()));
        Self { dir: tempfile::tempdir().expect("a directory"), objects, stor }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn stors(&self) -> Arc<Mirror> {
        Arc::new(Mirror::new(self.stor.clone(), []))
    }

    pub fn cache(&self) -> Arc<Cache> {
        cache(&self.path("cache"))
    }

    /// A regular file whose content the stor has.
    pub fn file(&self, path: &str, content: &[u8]) -> Entry {
        let stored = codec::encode(content, Compression::default(), None);
        let key: [u8; 32] = Sha256::digest(&stored).into();
        self.objects.insert(Key::sha256(key), stored);
        let sha256 = Sha256::digest(content).into();
        Entry {
            size: content.len() as u64,
            content: Some(Content::Object { sha256, key: ObjectKey::Sha256(key) }),
            ..Entry::new(path, Kind::Regular)
        }
    }

    /// The tree of a list with these entries.
    pub fn base(&self, entries: &[Entry]) -> Base {
        self.base_of(&list(&Header::default(), entries))
    }

    /// The tree of a list.
    pub fn base_of(&self, list: &[u8]) -> Base {
        let source = Source::Bytes { name: "test.flist", bytes: list };
        let index =
            Index::compile(source, &ParseOptions::default(), &self.path("index")).expect("a good list");
        Base::new(index).expect("a tree that can be shown")
    }
}

pub fn cache(dir: &Path) -> Arc<Cache> {
    Cache::open(dir, CacheOptions { deadline: PATIENT, ..CacheOptions::default() }).expect("a cache")
}

/// The key of the object that an entry's content is in.
pub fn key_of(entry: &Entry) -> Key {
    match entry.content {
        Some(Content::Object { key, .. }) => packed::store_key(key),
        Some(Content::Pack { at, .. }) => packed::store_key(at.pack),
        Some(Content::V1(key)) => Key::md5(key),
        _ => panic!("{entry:?} has no object"),
    }
}

/// A v2 list.
pub fn list(header: &Header, entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), Dialect::V2, header).expect("memory");
    for entry in entries {
        writer.entry(entry).expect("an entry that can be written");
    }
    writer.finish().expect("memory")
}

/// A stor on loopback, behind one that fails on demand.
pub struct Running {
    root: TempDir,
    pub faulty: FaultServer,
    url: Url,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let config = ServerConfig {
            root: root.path().into(),
            accounts: Vec::new(),
            tls: None,
            limits: Limits::default(),
        };
        let server = Server::new(config).expect("a server");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url: Url =
            format!("http://{}/", listener.local_addr().expect("an address")).parse().expect("a URL");
        let task = tokio::spawn(server.serve(listener, std::future::pending()));
        let faulty = FaultServer::start(url.clone()).await.expect("a faulty server");
        Self { root, faulty, url, task }
    }

    /// The stor without faults.
    pub fn sound(&self) -> Arc<dyn Store> {
        open(self.url.clone(), PATIENT)
    }

    /// The stor with faults; whoever uses it gives up after `deadline`.
    pub fn stor(&self, deadline: Duration) -> Arc<dyn Store> {
        open(self.faulty.url(), deadline)
    }

    /// Where a named file is, with faults.
    pub fn named(&self, name: &str) -> Url {
        self.faulty.url().join(&format!("static/{name}")).expect("a URL")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(url: Url, deadline: Duration) -> Arc<dyn Store> {
    let options = StorOptions { deadline, ..StorOptions::new(url) };
    aysfs_store::open(&options, &"test".parse().expect("a namespace")).expect("opened")
}

/// A user that has nothing.
pub const USER: u32 = 65534;
/// Where tests that run as this user find a directory of theirs.
pub const USERS_DIR: &str = "AYSFS_TEST_USERS_DIR";

/// Held while a process starts: until it has become its program, it has a copy of all that is open here. Whoever opens what somebody else in
/// this process has locked, and closed again, waits for it.
pub fn no_start() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs this test binary with other arguments as that user; `None`, and a word, if this process is a user itself.
pub fn as_user(arguments: &[&str]) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: becoming another user needs root; the other tests run as a user already");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    chown(dir.path(), Some(USER), Some(USER)).expect("root");
    // Users may not reach where it was built.
    let copy = dir.path().join("test");
    fs::copy(std::env::current_exe().expect("a test binary"), &copy).expect("copied");
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("ours");
    let mut test = Command::new(&copy);
    test.args(arguments).env(USERS_DIR, dir.path()).env("TMPDIR", dir.path()).current_dir(dir.path());
    test.uid(USER).gid(USER).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let starting = no_start();
    let child = test.spawn().expect("started");
    drop(starting);
    Some(child.wait_with_output().expect("ended"))
}
