//! A faulty server: it passes requests on to a real one, and does to the answers what it is told.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HOST, RANGE, TRANSFER_ENCODING};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use url::Url;

use super::{Gate, cut, flip};
use crate::aydostor::server::{Limits, listen, log::Metrics};
use crate::aydostor::transport::Transport;

/// What a [`FaultServer`] does to every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerTrouble {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens, and connections are cut.
    Stopped,
    /// It is answered with this status, without being passed on.
    Status(u16),
    /// It is answered after this time.
    Slow(Duration),
    /// It waits at a gate, then it is answered.
    Wait(Gate),
    /// It is done, but answered with 502.
    Lost,
    /// It is never answered.
    Silence,
    /// The connection is cut after so many bytes of the body.
    Cut(u64),
    /// The byte at this offset of the body is another.
    Flip(u64),
    /// Every byte of the body is another.
    Garbage,
    /// The length that the answer announces is off by so many bytes.
    WrongLength(i64),
    /// Behind the body so many bytes more follow, which no header announces.
    Flood(u64),
    /// The body stops after so many bytes, and the connection stays.
    Stall(u64),
    /// The answer to a range says that it is another.
    WrongContentRange,
    /// The answer to a range is the whole.
    IgnoredRange,
    /// `PUT` and `exists` are unknown, as to a stor of the old system.
    Old,
    /// The answer is a redirect to this URL, with the path of the request.
    Redirect(Url),
}

impl State {
    /// What happens to the next request.
    fn next(&mut self) -> ServerTrouble {
        if let Some(trouble) = self.script.pop_front() {
            return trouble;
        }
        if let Some((rng, share, troubles)) = &mut self.sometimes
            && rng.f64() < *share
            && let Some(trouble) = rng.choice(&*troubles)
        {
            return trouble.clone();
        }
        self.always.clone()
    }
}

/// A server on loopback that passes requests on to another one.
#[derive(Debug)]
pub struct FaultServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    upstream: Url,
    transport: Transport,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What happens to the next requests, before `always` does.
    script: VecDeque<ServerTrouble>,
    sometimes: Option<(fastrand::Rng, f64, Vec<ServerTrouble>)>,
    always: ServerTrouble,
    /// How many requests came in, by method and path.
    requests: HashMap<(String, String), usize>,
}

impl FaultServer {
    /// Starts a server in front of `upstream`, without trouble yet.
    ///
    /// # Errors
    /// No socket could be had.
    pub async fn start(upstream: Url) -> io::Result<Self> {
        let deadline = Duration::from_secs(60);
        let transport =
            Transport::new(&upstream, &[], None, deadline, |_, _| false).map_err(io::Error::other)?;
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { upstream, transport, state });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let listening = tokio::sync::Mutex::new(Some(listen_on(listener, shared.clone())));
        Ok(Self { shared, address, listening })
    }

    /// Its address.
    pub fn url(&self) -> Url {
        format!("http://{}/", self.address).parse().expect("a socket address makes a URL")
    }

    /// What happens to every request from now on; those under way are cut off if it is
    /// [`ServerTrouble::Stopped`].
    ///
    /// # Errors
    /// The port is taken by someone else meanwhile.
    pub async fn set(&self, trouble: ServerTrouble) -> io::Result<()> {
        let mut listening = self.listening.lock().await;
        let stop = trouble == ServerTrouble::Stopped;
        self.shared.state().always = trouble;
        if stop {
            if let Some(task) = listening.take() {
                task.abort();
                // It ends with a cancellation: that is what was asked for.
                let _ = task.await;
            }
        } else if listening.is_none() {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            *listening = Some(listen_on(socket.listen(128)?, self.shared.clone()));
        }
        Ok(())
    }

    /// What happens to the next requests, one after the other ([`ServerTrouble::Stopped`] is nothing here).
    pub fn script(&self, troubles: impl IntoIterator<Item = ServerTrouble>) {
        self.shared.state().script.extend(troubles);
    }

    /// What happens to this share of the requests from now on: one of these, the same ones for the same seed.
    pub fn sometimes(&self, seed: u64, share: f64, troubles: impl IntoIterator<Item = ServerTrouble>) {
        let troubles = troubles.into_iter().collect();
        self.shared.state().sometimes = Some((fastrand::Rng::with_seed(seed), share, troubles));
    }

    /// How many requests with this method and path have come in.
    pub fn requests(&self, method: &str, path: &str) -> usize {
        let key = (method.to_owned(), path.to_owned());
        self.shared.state().requests.get(&key).copied().unwrap_or_default()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        if let Some(task) = self.listening.get_mut() {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen_on(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    let router = Router::new().fallback(answer).with_state(shared);
    tokio::spawn(async move {
        let (limits, metrics) = (Limits::default(), Metrics::default());
        listen::serve(listener, None, router, &limits, &metrics, std::future::pending()).await;
    })
}

async fn answer(shared: axum::extract::State<Arc<Shared>>, request: Request) -> Response<Body> {
    let trouble = {
        let mut state = shared.state();
        let key = (request.method().to_string(), request.uri().path().to_owned());
        *state.requests.entry(key).or_default() += 1;
        state.next()
    };
    let path = request.uri().path().to_owned();
    match &trouble {
        ServerTrouble::Status(status) => return status_only(*status),
        ServerTrouble::Slow(time) => tokio::time::sleep(*time).await,
        ServerTrouble::Wait(gate) => gate.pass().await,
        ServerTrouble::Silence => std::future::pending().await,
        ServerTrouble::Old if request.method() == Method::PUT || path.ends_with("/exists") => {
            return status_only(405);
        }
        ServerTrouble::Redirect(target) => {
            let mut response = status_only(307);
            if let Ok(location) = target.join(&path).expect("a path").as_str().parse() {
                response.headers_mut().insert("location", location);
            }
            return response;
        }
        _ => {}
    }
    match pass_on(&shared, request, &trouble).await {
        Ok(_) if trouble == ServerTrouble::Lost => status_only(502),
        Ok(response) => damage(response, &trouble),
        Err(error) => {
            tracing::warn!(%error, "the server behind a faulty one failed");
            status_only(502)
        }
    }
}

fn status_only(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::from("trouble was asked for\n"));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

async fn pass_on(
    shared: &Shared,
    request: Request,
    trouble: &ServerTrouble,
) -> Result<Response<Body>, reqwest::Error> {
    let (mut head, body) = request.into_parts();
    let mut url = shared.upstream.clone();
    url.set_path(head.uri.path());
    head.headers.remove(HOST);
    if *trouble == ServerTrouble::IgnoredRange {
        head.headers.remove(RANGE);
    }
    let has_body = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    let mut passed = shared.transport.request(head.method, url).headers(head.headers);
    if has_body {
        passed = passed.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let answer = passed.send().await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove(TRANSFER_ENCODING);
    *response.body_mut() = Body::from_stream(answer.bytes_stream().map_err(io::Error::other));
    Ok(response)
}

fn damage(mut response: Response<Body>, trouble: &ServerTrouble) -> Response<Body> {
    let body = std::mem::take(response.body_mut());
    let pieces: BoxStream<'static, Result<Bytes, io::Error>> =
        body.into_data_stream().map_err(io::Error::other).boxed();
    let pieces = match trouble {
        ServerTrouble::Cut(after) => cut(pieces, *after).chain(stream::once(broken())).boxed(),
        ServerTrouble::Stall(after) => cut(pieces, *after).chain(stream::pending()).boxed(),
        ServerTrouble::Flip(offset) => flip(pieces, *offset),
        ServerTrouble::Garbage => {
            pieces.map_ok(|piece| piece.iter().map(|byte| byte ^ 0x55).collect()).boxed()
        }
        ServerTrouble::WrongLength(off_by) => {
            if let Some(told) = response.headers_mut().get_mut(CONTENT_LENGTH) {
                let length: Option<u64> = told.to_str().ok().and_then(|length| length.parse().ok());
                let wrong = length.and_then(|length| length.checked_add_signed(*off_by));
                *told = wrong.expect("a length that can be off by this").into();
            }
            pieces
        }
        ServerTrouble::Flood(bytes) => {
            response.headers_mut().remove(CONTENT_LENGTH);
            let more = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65536])));
            pieces.chain(cut(more.boxed(), *bytes)).boxed()
        }
        ServerTrouble::WrongContentRange => {
            if let Some(told) = response.headers_mut().get_mut(CONTENT_RANGE) {
                *told = HeaderValue::from_static("bytes 1-2/3");
            }
            pieces
        }
        _ => pieces,
    };
    *response.body_mut() = Body::from_stream(pieces);
    response
}

/// Breaks a body off, after what came before had its chance to leave.
async fn broken() -> io::Result<Bytes> {
    tokio::task::yield_now().await;
    Err(io::Error::other("cut"))
}
