//! What the server did: a line in the log per request (target `access`), and counters.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::TryStreamExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{Shared, State as SharedState};

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(super) connections: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    microseconds: AtomicU64,
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Metrics {
    fn count(&self, exchange: &Exchange, status: u16, sent: u64) {
        let microseconds = u64::try_from(exchange.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        self.received.fetch_add(exchange.received.load(Ordering::Relaxed), Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((label(&exchange.method), status)).or_default() += 1;
    }

    /// In the text format of Prometheus.
    fn render(&self) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, values: &[(String, String)]| {
            let _ = writeln!(text, "# TYPE aysfs_stor_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "aysfs_stor_{name}{labels} {value}");
            }
        };
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let one = |value: String| [(String::new(), value)];
        let requests: Vec<_> = self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|((method, status), count)| {
                (format!("{{method=\"{method}\",status=\"{status}\"}}"), count.to_string())
            })
            .collect();
        metric("requests_total", "counter", &requests);
        let (seconds, rest) = (load(&self.microseconds) / 1_000_000, load(&self.microseconds) % 1_000_000);
        metric("request_seconds_total", "counter", &one(format!("{seconds}.{rest:06}")));
        metric("received_bytes_total", "counter", &one(load(&self.received).to_string()));
        metric("sent_bytes_total", "counter", &one(load(&self.sent).to_string()));
        metric("connections", "gauge", &one(load(&self.connections).to_string()));
        text
    }
}

/// Methods that strangers invent must not become labels without end.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(shared): SharedState) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.render())
}

/// Where a request came from.
#[derive(Clone, Copy)]
pub(super) struct Remote(pub(super) SocketAddr);

/// A request under way, as far as the log is concerned.
pub(super) struct Exchange {
    method: Method,
    /// Without the query, in which someone may have put a secret.
    path: String,
    remote: Option<SocketAddr>,
    account: OnceLock<String>,
    began: Instant,
    received: AtomicU64,
}

impl Exchange {
    pub(super) fn set_account(&self, name: &str) {
        self.account.get_or_init(|| name.to_owned());
    }
}

/// Writes the log line, once the answer is sent or given up.
struct Observation {
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
    status: StatusCode,
    sent: u64,
}

impl Observation {
    /// The status of a request whose client went away before there was an answer, as nginx has it.
    const CLIENT_GONE: u16 = 499;
}

impl Drop for Observation {
    fn drop(&mut self) {
        let (exchange, status) = (&*self.exchange, self.status.as_u16());
        self.shared.metrics.count(exchange, status, self.sent);
        tracing::info!(
            target: "access",
            method = %exchange.method,
            path = exchange.path,
            status,
            bytes = self.sent,
            received = exchange.received.load(Ordering::Relaxed),
            ms = exchange.began.elapsed().as_millis(),
            remote = exchange.remote.map(tracing::field::display),
            account = exchange.account.get(),
        );
    }
}

/// Watches a request from its head to the last byte of its answer.
pub(super) async fn observe(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let exchange = Arc::new(Exchange {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        remote: request.extensions().get::<Remote>().map(|remote| remote.0),
        account: OnceLock::new(),
        began: Instant::now(),
        received: AtomicU64::new(0),
    });
    let gone = StatusCode::from_u16(Observation::CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST);
    let mut observation = Observation { shared, exchange: exchange.clone(), status: gone, sent: 0 };
    let mut request = request.map(|body| {
        let exchange = exchange.clone();
        let count = move |piece: &Bytes| {
            exchange.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
        };
        Body::from_stream(body.into_data_stream().inspect_ok(count))
    });
    request.extensions_mut().insert(exchange);
    let response = next.run(request).await;
    observation.status = response.status();
    response.map(|inner| Body::new(Observed { inner, observation }))
}

/// A body of which the bytes are counted.
struct Observed {
    inner: Body,
    observation: Observation,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            self.observation.sent += piece.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
