//! `--pprof`: what a process that serves mounts is doing, over HTTP.
//!
//! `/debug/pprof/` holds profiles that `go tool pprof` reads ([`cpu`], [`memory`], [`threads`]), `/metrics` numbers for Prometheus
//! ([`mod@metrics`]), and `/` a page for people ([`status`]). All of it is read-only; nothing here changes a mount, that is what the
//! control socket is for.
//!
//! Without the option nothing is counted or listened to. With it, who reaches the address may read everything, so it is one of
//! loopback unless another is given ([`address`]). Whatever a client does, it costs a connection and not a mount.

mod address;
mod cpu;
mod exposition;
mod memory;
mod metrics;
mod profile;
mod status;
mod threads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use aysfs_store::Cache;
use aysfs_vfs::Operations;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub(crate) use self::address::Address;
use crate::about::{About, Shows};

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) since: SystemTime,
    pub(crate) mounts: Vec<WatchedMount>,
    /// The caches by the directory of their backend.
    pub(crate) caches: Vec<(PathBuf, Arc<Cache>)>,
}

impl Watched {
    /// What is still mounted.
    fn mounted(&self) -> Vec<&WatchedMount> {
        self.mounts.iter().filter(|mount| mount.shows.base(|_| ()).is_some()).collect()
    }
}

/// One mount.
pub(crate) struct WatchedMount {
    pub(crate) point: PathBuf,
    pub(crate) backend: PathBuf,
    pub(crate) shows: Shows,
    pub(crate) about: Arc<About>,
    pub(crate) operations: Arc<Operations>,
}

impl WatchedMount {
    /// How many entries its flist has.
    fn entries(&self) -> usize {
        self.shows.base(|base| base.index().len()).unwrap_or_default()
    }
}

/// An address that is ours, and does not answer yet.
pub(crate) struct Reserved {
    listener: TcpListener,
    at: SocketAddr,
}

impl Reserved {
    /// Takes the address.
    ///
    /// # Errors
    /// Another process has it, or it is none of this machine.
    pub(crate) async fn new(address: &Address) -> anyhow::Result<Self> {
        let listener = address.listen().await.with_context(|| {
            format!("cannot listen on {address}: choose another one with --pprof HOST:PORT")
        })?;
        let at = listener.local_addr()?;
        if !at.ip().is_loopback() {
            warn!(
                "--pprof {at}: everyone who reaches this address may read profiles, metrics and the names of mounts"
            );
        }
        Ok(Self { listener, at })
    }

    /// Answers from now on.
    pub(crate) fn serve(self, watched: Watched) -> Monitor {
        info!("profiles, metrics and status are on http://{}/", self.at);
        let router = router(Arc::new(watched));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(self.listener, router).await {
                warn!("profiles and metrics are not served any more: {error}");
            }
        });
        Monitor { task }
    }
}

/// Answers until it is dropped.
pub(crate) struct Monitor {
    task: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(watched: Arc<Watched>) -> Router {
    Router::new()
        .route("/", get(async |State(watched): State<Arc<Watched>>| Html(status::page(&watched).await)))
        .route("/metrics", get(metrics))
        .route("/debug/pprof", get(async || Redirect::permanent("/debug/pprof/")))
        .route("/debug/pprof/", get(async || Html(profile::INDEX)))
        .route("/debug/pprof/profile", get(cpu::profile))
        .route("/debug/pprof/heap", get(memory::profile))
        .route("/debug/pprof/threads", get(threads::profile))
        .fallback(async || (StatusCode::NOT_FOUND, "not found: / lists what there is\n"))
        .with_state(watched)
}

async fn metrics(State(watched): State<Arc<Watched>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::text(&watched).await).into_response()
}
