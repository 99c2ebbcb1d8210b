//! The server: `aysfs stor`.
//!
//! It keeps objects and named files in a directory with the layout of [`DirStore`](crate::DirStore). Bodies are
//! streamed both ways and never held in memory; what is acknowledged is verified and durable.
//!
//! What an outsider may cost is limited: connections, the time for a request's head, the time without a byte in a
//! body, the size of a body. `/healthz` needs no account; `/metrics` needs the right to read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use super::protocol;
use crate::dir::Disk;
use crate::{Fault, KeyError};

mod access;
mod body;
pub(crate) mod listen;
pub(crate) mod log;
mod named;
mod objects;

pub use access::{Account, AccountError, Right, Rights};
use log::Metrics;

/// What a server serves, and to whom.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The directory of the objects; it is made if need be.
    pub root: PathBuf,
    /// Who may use it. Without accounts everyone may read and write, but not delete.
    pub accounts: Vec<Account>,
    /// The certificate, for HTTPS.
    pub tls: Option<TlsFiles>,
    /// What an outsider may cost.
    pub limits: Limits,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to its root.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// What an outsider may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body: u64,
    /// How long a TLS handshake, and then the head of each request, may take. Connections without a request are
    /// closed after this, too.
    pub head: Duration,
    /// The longest time without a byte in a body, in either direction.
    pub idle: Duration,
    /// How many connections are served at once; others wait.
    pub connections: usize,
    /// How long a stop waits for the requests under way.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 << 30,
            head: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            connections: 4096,
            grace: Duration::from_secs(30),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The root directory cannot be used.
    #[error("the stor directory cannot be used: {0}")]
    Root(std::io::Error),
    /// A certificate or key file cannot be used.
    #[error("TLS: {path:?}: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// A server that is ready to serve.
pub struct Server {
    router: Router,
    shared: Arc<Shared>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("disk", &self.shared.disk).finish_non_exhaustive()
    }
}

/// What every request sees.
#[derive(Debug)]
struct Shared {
    disk: Arc<Disk>,
    accounts: Vec<Account>,
    limits: Limits,
    metrics: Metrics,
}

type State = axum::extract::State<Arc<Shared>>;

impl Server {
    /// Opens the directory and reads the certificate.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn new(config: ServerConfig) -> Result<Self, ServerError> {
        let disk = Arc::new(Disk::open(&config.root).map_err(ServerError::Root)?);
        let tls = config.tls.as_ref().map(listen::acceptor).transpose()?;
        let metrics = Metrics::default();
        let shared = Arc::new(Shared { disk, accounts: config.accounts, limits: config.limits, metrics });
        Ok(Self { router: router(shared.clone()), shared, tls })
    }

    /// Serves until `shutdown` is ready, then finishes what is under way. Dropped, it ends at once.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let Self { router, shared, tls } = self;
        listen::serve(listener, tls, router, &shared.limits, &shared.metrics, shutdown).await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(protocol::OBJECT, get(objects::get).put(objects::put).delete(objects::delete))
        .route(protocol::NAMESPACE, get(objects::list).post(objects::post))
        .route(protocol::EXISTS, post(objects::exists))
        .route(protocol::NAMED, get(named::get).post(named::post))
        .route("/metrics", get(log::metrics))
        .layer(from_fn_with_state(shared.clone(), access::authorize))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Refusal::status(StatusCode::NOT_FOUND, "no such path"))
        .layer(from_fn_with_state(shared.clone(), log::observe))
        .with_state(shared)
}

/// An answer that is not what was asked for: a status, and a line of text that says why.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn status(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.text + "\n").into_response()
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::status(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Fault::from(error).into()
    }
}

/// What went wrong on our disk.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotFound => Self::status(StatusCode::NOT_FOUND, "not found"),
            Fault::Refused(reason) => Self::status(StatusCode::UNPROCESSABLE_ENTITY, reason),
            Fault::Conflict => {
                Self::status(StatusCode::PRECONDITION_FAILED, "the precondition does not hold")
            }
            Fault::Local(error) => {
                // The client learns that we failed, not where our files are.
                tracing::error!(%error, "the stor directory failed");
                match error.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                        Self::status(StatusCode::INSUFFICIENT_STORAGE, "the stor is full")
                    }
                    _ => Self::status(StatusCode::INTERNAL_SERVER_ERROR, "the stor failed"),
                }
            }
            Fault::Denied
            | Fault::Silent(_)
            | Fault::Unavailable(_)
            | Fault::Short { .. }
            | Fault::Protocol(_) => Self::status(StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()),
        }
    }
}
