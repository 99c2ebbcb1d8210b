//! A running server for tests: real sockets on loopback, a directory of its own, gone when dropped.

#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aysfs_store::aydostor::server::{Account, Limits, Server, ServerConfig, TlsFiles};
use aysfs_store::{Namespace, StorOptions, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

/// Long enough that it never ends a test that works.
pub const PATIENT: Duration = Duration::from_secs(60);

pub fn ns() -> Namespace {
    "ns".parse().expect("valid")
}

pub fn client(options: &StorOptions) -> Arc<dyn Store> {
    aysfs_store::open(options, &ns()).expect("opened")
}

/// A client that gives up soon.
pub fn hasty(url: Url, deadline: Duration) -> Arc<dyn Store> {
    client(&StorOptions { deadline, ..StorOptions::new(url) })
}

pub struct Running {
    pub root: TempDir,
    pub address: SocketAddr,
    pub url: Url,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(&[], Limits::default(), None).await
    }

    pub async fn with_accounts(accounts: &[&str]) -> Self {
        Self::with(accounts, Limits::default(), None).await
    }

    pub async fn with_limits(limits: Limits) -> Self {
        Self::with(&[], limits, None).await
    }

    pub async fn with(accounts: &[&str], limits: Limits, tls: Option<TlsFiles>) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let accounts = accounts.iter().map(|text| text.parse::<Account>().expect("an account")).collect();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let config = ServerConfig { root: root.path().into(), accounts, tls, limits };
        let server = Server::new(config).expect("a server");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        let url = format!("{scheme}://{address}/").parse().expect("a URL");
        Self { root, address, url, stop: Some(stop), task }
    }

    /// Tells it to stop; [`Running::stopped`] waits until it has.
    pub fn stop(&mut self) {
        let _ = self.stop.take().expect("told once").send(());
    }

    pub async fn stopped(&mut self) {
        let ended = tokio::time::timeout(PATIENT, &mut self.task).await;
        ended.expect("it ends").expect("it does not panic");
    }

    /// Sends `request` on a connection of its own, and reads until the server closes it.
    pub async fn raw(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.expect("sent");
        rest_of(&mut socket).await
    }

    /// One request that closes the connection; returns the status and the whole answer.
    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: stor\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        let answer = self.raw(&request).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status in {answer:?}")), answer)
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads until the other side closes, by a reset or not.
pub async fn rest_of(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENT, socket.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A certificate authority, and a certificate of it for `localhost` and 127.0.0.1, as files.
pub struct Certificates {
    pub ca: PathBuf,
    pub server: TlsFiles,
}

impl Certificates {
    pub fn in_directory(directory: &Path) -> Self {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("signed");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("signed");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        Self {
            ca: write("ca.pem", ca_certificate.pem()),
            server: TlsFiles {
                certificate: write("server.pem", certificate.pem()),
                key: write("server.key", key.serialize_pem()),
            },
        }
    }
}
