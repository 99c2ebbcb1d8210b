//! HTTP as the client uses it: one connection pool, the credentials that go with it, and answers turned into
//! [`Fault`]s.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, ETAG, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use super::Patience;
use crate::dir::{PIECE, file_stream};
use crate::{ETag, Fault, StoreError, Upload};

/// How long a connection may take to be made, if the deadline is not shorter.
const CONNECT: Duration = Duration::from_secs(10);
/// When the client closes a connection that it does not use: before any usual server does, since a request that
/// meets a closing connection is lost.
const IDLE: Duration = Duration::from_secs(25);
/// How much of an error's text is kept.
const TEXT_MAX: usize = 200;
const REDIRECTS_MAX: usize = 5;

/// A name and a password, which no message ever shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) login: String,
    pub(crate) passwd: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

/// A connection pool, and who we are for the other side.
#[derive(Clone)]
pub(crate) struct Transport {
    http: reqwest::Client,
    credentials: Option<Credentials>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Transport {
    /// For requests to `url` and below. `may_redirect` decides about each redirect, from one URL to the next.
    pub(crate) fn new(
        url: &Url,
        ca: &[CertificateDer<'static>],
        credentials: Option<Credentials>,
        deadline: Duration,
        may_redirect: impl Fn(&Url, &Url) -> bool + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(url, ca)?)
            .redirect(Policy::custom(move |attempt| {
                let previous = attempt.previous();
                let follow = previous.len() <= REDIRECTS_MAX
                    && previous.last().is_some_and(|from| may_redirect(from, attempt.url()));
                if follow { attempt.follow() } else { attempt.stop() }
            }))
            .referer(false)
            .connect_timeout(CONNECT.min(deadline))
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("aysfs/", env!("CARGO_PKG_VERSION")));
        if is_loopback(url) {
            // A proxy of the environment cannot reach a stor of this machine.
            http = http.no_proxy();
        }
        Ok(Self { http: http.build()?, credentials })
    }

    /// A request with the credentials.
    pub(crate) fn request(&self, method: reqwest::Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.credentials {
            Some(Credentials { login, passwd }) => request.basic_auth(login, passwd.as_deref()),
            None => request,
        }
    }

    /// Sends what `request` builds until there is an answer that will not pass.
    pub(crate) async fn send(
        &self,
        patience: &mut Patience,
        request: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, Fault> {
        loop {
            let outcome = match patience.wait(request().send()).await {
                Ok(Ok(response)) => settled(response, patience).await,
                Ok(Err(error)) => Err(fault(&error)),
                Err(silent) => Err(silent),
            };
            match outcome {
                Ok(response) => return Ok(response),
                Err(fault) => patience.pause(fault).await?,
            }
        }
    }

    /// Sends `body` with what `request` builds until there is an answer that will not pass.
    pub(crate) async fn upload(
        &self,
        patience: &mut Patience,
        body: &Upload,
        request: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, Fault> {
        loop {
            let progress = Progress::default();
            let request = request()
                .header(CONTENT_LENGTH, body.length())
                .body(reqwest::Body::wrap_stream(upload_stream(body, progress.clone())));
            let outcome = match progress.watch(patience.deadline(), request.send()).await {
                Ok(Ok(response)) => settled(response, patience).await,
                Ok(Err(error)) => Err(fault(&error)),
                Err(silent) => Err(silent),
            };
            match outcome {
                Ok(response) => return Ok(response),
                Err(fault) => {
                    patience.waited_since(progress.last());
                    patience.pause(fault).await?;
                }
            }
        }
    }
}

/// Why no HTTP client could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The protocol versions and the cryptography do not go together, or a CA certificate is not one.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The client as a whole.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// TLS with the roots of the system and `ca`. The provider is named here and never made the process's default:
/// that belongs to the program.
fn tls(url: &Url, ca: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    if url.scheme() == "https" {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "a CA certificate of the system could not be read");
        }
        roots.add_parsable_certificates(system.certs);
        for certificate in ca {
            roots.add(certificate.clone())?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Whether a URL names this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An answer, unless its status says that another may come a little later.
async fn settled(response: Response, patience: &Patience) -> Result<Response, Fault> {
    match response.status() {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let status = response.status();
            Err(Fault::Unavailable(with_text(status, response, patience).await))
        }
        _ => Ok(response),
    }
}

/// The fault that an answer without success stands for.
pub(crate) async fn refusal(response: Response, patience: &Patience) -> Fault {
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Denied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Fault::NotFound,
        StatusCode::PRECONDITION_FAILED => Fault::Conflict,
        status if status.is_redirection() => {
            let target = header(&response, LOCATION).unwrap_or("nowhere");
            Fault::Protocol(format!("{status} to {target:?}, which is not followed"))
        }
        status if status.is_client_error() || status.is_server_error() => {
            Fault::Refused(with_text(status, response, patience).await)
        }
        status => Fault::Protocol(format!("{status}")),
    }
}

/// A status, and what the answer says beside it.
async fn with_text(status: StatusCode, response: Response, patience: &Patience) -> String {
    let mut arriving = Arriving::new(response, None, Patience::new(patience.deadline(), 0));
    let mut text = BytesMut::new();
    let read = async {
        while text.len() < TEXT_MAX
            && let Ok(Some(bytes)) = arriving.next().await
        {
            text.extend_from_slice(&bytes);
        }
    };
    // The text is a courtesy: the status is what counts.
    let _ = patience.wait(read).await;
    let text: String = String::from_utf8_lossy(&text)
        .chars()
        .take(TEXT_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match text.trim() {
        "" => status.to_string(),
        text => format!("{status}: {text}"),
    }
}

/// A header that is text.
pub(crate) fn header(response: &Response, name: reqwest::header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// The version of what was answered.
pub(crate) fn etag(response: &Response) -> Option<ETag> {
    header(response, ETAG).map(|etag| ETag(etag.to_owned()))
}

/// A body as it arrives, held to its announced length and to the deadline.
pub(crate) struct Arriving {
    response: Response,
    received: u64,
    expected: Option<u64>,
    pub(crate) patience: Patience,
}

impl Arriving {
    pub(crate) fn new(response: Response, expected: Option<u64>, patience: Patience) -> Self {
        Self { response, received: 0, expected, patience }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn expected(&self) -> Option<u64> {
        self.expected
    }

    /// Goes on with the rest of the body in another answer.
    pub(crate) fn resume(&mut self, rest: Response) {
        self.response = rest;
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        self.patience.begin_wait();
        let complete = self.expected == Some(self.received);
        match self.patience.wait(self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.received += bytes.len() as u64;
                match self.expected {
                    Some(expected) if self.received > expected => {
                        Err(Fault::Protocol(format!("more than the {expected} bytes announced")))
                    }
                    _ => {
                        self.patience.progress();
                        Ok(Some(bytes))
                    }
                }
            }
            // All is there: how the answer ends does not matter any more.
            _ if complete => Ok(None),
            Ok(Ok(None)) => match self.expected {
                None => Ok(None),
                Some(expected) => Err(Fault::Short { received: self.received, expected }),
            },
            Ok(Err(error)) => match self.expected {
                None => Err(fault(&error)),
                Some(expected) => {
                    tracing::debug!(error = chain(&error), "an answer broke off");
                    Err(Fault::Short { received: self.received, expected })
                }
            },
            Err(silent) => Err(silent),
        }
    }

    /// All of it, if it is not longer than `limit`.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > limit {
                return Err(Fault::Protocol(format!("an answer of more than {limit} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// As a stream, with failures in the words of the stor.
    pub(crate) fn into_stream(
        self,
        error: impl Fn(Fault) -> StoreError + Send + 'static,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        stream::try_unfold(self, |mut arriving| async move {
            let bytes = arriving.next().await?;
            Ok(bytes.map(|bytes| (bytes, arriving)))
        })
        .map_err(error)
        .boxed()
    }
}

/// When a byte of an upload last left.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `answer` as long as bytes leave.
    async fn watch<T>(&self, deadline: Duration, answer: impl Future<Output = T>) -> Result<T, Fault> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let until = self.last() + deadline;
            match timeout_at(until, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if self.last() + deadline > until => {}
                Err(_) => return Err(Fault::Silent(deadline)),
            }
        }
    }
}

/// The local file of an upload could not be read: not the stor's fault, although it is the request that fails.
#[derive(Debug, thiserror::Error)]
#[error("the file to send could not be read")]
struct Unreadable(#[source] Arc<io::Error>);

fn upload_stream(body: &Upload, progress: Progress) -> BoxStream<'static, Result<Bytes, Unreadable>> {
    let pieces = match body {
        Upload::Bytes(bytes) => {
            let mut rest = bytes.clone();
            stream::iter(std::iter::from_fn(move || {
                (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(PIECE))))
            }))
            .boxed()
        }
        Upload::File { file, length } => file_stream(file.clone(), 0..*length).boxed(),
    };
    pieces.map_err(|error| Unreadable(Arc::new(error))).inspect(move |_| progress.moved()).boxed()
}

/// The fault that a failed request stands for.
fn fault(error: &reqwest::Error) -> Fault {
    if error.is_builder() {
        return Fault::Refused(format!("not a request: {}", chain(error)));
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Unreadable(error)) = current.downcast_ref() {
            return Fault::Local(io::Error::new(error.kind(), error.clone()));
        }
        if let Some(rustls::Error::InvalidCertificate(reason)) = current.downcast_ref() {
            return Fault::Protocol(format!("the stor's certificate is not trusted: {reason:?}"));
        }
        // An I/O error passes over the error that it was made from when it is asked for its source.
        let wrapped = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    Fault::Unavailable(chain(error))
}

/// An error with all its causes. The URL is left out: the message that this goes into names the stor.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(current) = cause {
        causes.push(current.to_string());
        cause = current.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
