//! A proxy that makes the loopback interface as slow as a network, and counts what goes through it.
//!
//! Bytes arrive half a round trip after they were sent, and a new connection waits one round trip before its first bytes
//! go on, as a TCP handshake would make it. A bandwidth is shared by all connections, each direction by itself.
//!
//! It is no model of TCP: nothing is lost, and no connection starts slowly. What is measured through it and the yardstick
//! beside it have that in common.
//!
//! Invariants:
//! - bytes of a connection arrive in order, and the end of one direction leaves the other open;
//! - latency does not limit throughput: what was sent is on its way while more is read;
//! - each byte is counted once, when it is sent.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Sub;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{self, Instant};

/// What is read at once.
const PIECE: usize = 128 << 10;
/// How many pieces of one direction of a connection may be on their way: what a round trip of 50 ms takes at 1 GB/s.
const WINDOW: usize = 512;
/// How far ahead of its bandwidth a connection may be. Timers are a millisecond or two late; the link must not idle meanwhile.
const LEAD: Duration = Duration::from_millis(5);

/// What every request begins with, at the end of its first line.
const REQUEST: &[u8] = b"HTTP/1.1\r\n";

/// A network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// How long an answer to a byte takes at least.
    pub round_trip: Duration,
    /// How fast bytes go in each direction; `None`: as fast as they can.
    pub bandwidth: Option<Bandwidth>,
}

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth(u64);

impl Bandwidth {
    fn time_for(self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.0 as f64)
    }
}

/// The units of a bandwidth, the largest first.
const UNITS: [(&str, u64); 4] = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bits = UNITS.iter().find_map(|(unit, bits)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*bits).filter(|bits| *bits > 0)
        });
        bits.map(Self).ok_or_else(|| format!("{text:?} is no bandwidth: write 1Gbit, 100Mbit or 512kbit"))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bits) = UNITS.iter().find(|(_, bits)| self.0.is_multiple_of(*bits)).expect("bits");
        write!(f, "{}{unit}", self.0 / bits)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.round_trip.as_secs_f64() * 1e3)?;
        self.bandwidth.map_or(Ok(()), |bandwidth| write!(f, ", {bandwidth}"))
    }
}

/// What went through a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that clients opened.
    pub connections: u64,
    /// HTTP requests that began.
    pub requests: u64,
    /// Bytes from clients to the server.
    pub up: u64,
    /// Bytes from the server to clients.
    pub down: u64,
}

impl Traffic {
    /// Bytes in both directions.
    pub fn bytes(self) -> u64 {
        self.up + self.down
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            requests: self.requests - earlier.requests,
            up: self.up - earlier.up,
            down: self.down - earlier.down,
        }
    }
}

/// A proxy in front of one server; its connections are cut when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    link: Link,
    connections: AtomicU64,
    requests: AtomicU64,
    up: Direction,
    down: Direction,
}

impl Proxy {
    /// Listens on a free port of the loopback interface.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn start(server: SocketAddr, link: Link) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let [connections, requests] = [const { AtomicU64::new(0) }; 2];
        let [up, down] = [(); 2].map(|()| Direction::default());
        let shared = Arc::new(Shared { server, link, connections, requests, up, down });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went through it so far.
    pub fn traffic(&self) -> Traffic {
        let Shared { connections, requests, up, down, .. } = &*self.shared;
        let [connections, requests, up, down] =
            [connections, requests, &up.bytes, &down.bytes].map(|count| count.load(Ordering::Relaxed));
        Traffic { connections, requests, up, down }
    }

    /// Returns when nothing was sent for that long.
    pub async fn idle(&self, quiet: Duration) {
        loop {
            let before = self.traffic();
            time::sleep(quiet).await;
            if self.traffic() == before {
                return;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Its tasks end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that has gone again is no reason to end.
                let Ok((client, _)) = accepted else { continue };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                // A connection that fails is closed on both sides, which is what both sides have to know.
                connections.spawn(connect(client, shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let open = Instant::now() + shared.link.round_trip;
    let server = TcpStream::connect(shared.server).await?;
    for side in [&client, &server] {
        side.set_nodelay(true)?;
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut requests = Requests::default();
    let count = |bytes: &[u8]| {
        shared.requests.fetch_add(requests.count(bytes), Ordering::Relaxed);
    };
    // What fails ends both directions.
    tokio::try_join!(
        forward(from_client, to_server, &shared.up, shared.link, open, count),
        forward(from_server, to_client, &shared.down, shared.link, open, |_| {}),
    )?;
    Ok(())
}

/// Bytes, or none for the end.
struct Piece {
    bytes: Vec<u8>,
    arrives: Instant,
}

/// Carries bytes in one direction until it ends. None are sent before the connection is `open`.
async fn forward(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    direction: &Direction,
    link: Link,
    open: Instant,
    count: impl FnMut(&[u8]),
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    tokio::try_join!(send(from, sender, direction, link, open, count), deliver(receiver, to))?;
    Ok(())
}

async fn send(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<Piece>,
    direction: &Direction,
    link: Link,
    open: Instant,
    mut count: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        let mut bytes = Vec::with_capacity(PIECE);
        let length = from.read_buf(&mut bytes).await?;
        count(&bytes);
        let sent = Instant::now().max(open);
        let through = direction.pass(length, sent, link.bandwidth);
        let piece = Piece { bytes, arrives: through + link.round_trip / 2 };
        // Who does not take it has failed, and says so himself.
        if to.send(piece).await.is_err() || length == 0 {
            return Ok(());
        }
        wait_until(through - LEAD).await;
    }
}

async fn deliver(mut from: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some(Piece { bytes, arrives }) = from.recv().await {
        wait_until(arrives).await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}

/// A timer would cost a millisecond also where there is nothing to wait for.
async fn wait_until(time: Instant) {
    if time > Instant::now() {
        time::sleep_until(time).await;
    }
}

/// One direction of all connections.
#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    /// When everything is through that has been sent.
    free: Mutex<Option<Instant>>,
}

impl Direction {
    /// Counts bytes, and says when the last of them is through.
    fn pass(&self, bytes: usize, sent: Instant, bandwidth: Option<Bandwidth>) -> Instant {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let Some(bandwidth) = bandwidth else { return sent };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let through = free.map_or(sent, |free| free.max(sent)) + bandwidth.time_for(bytes);
        *free = Some(through);
        through
    }
}

/// Counts requests in what a client sends, however it is cut into pieces.
#[derive(Debug, Default)]
struct Requests {
    /// How much of [`REQUEST`] the last piece ended with.
    matched: usize,
}

impl Requests {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut found = 0;
        for byte in bytes {
            // Its first byte occurs in it once: no other part of it can be a beginning.
            self.matched = match *byte {
                byte if byte == REQUEST[self.matched] => self.matched + 1,
                byte => usize::from(byte == REQUEST[0]),
            };
            if self.matched == REQUEST.len() {
                (found, self.matched) = (found + 1, 0);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, and says goodbye when nothing more comes.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await.expect("echoed");
                    to.write_all(b"goodbye").await.expect("written");
                });
            }
        });
        address
    }

    async fn proxy(link: Link) -> Proxy {
        Proxy::start(echo().await, link).await.expect("a proxy")
    }

    async fn connected(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.expect("a connection")
    }

    #[tokio::test]
    async fn the_first_answer_takes_two_round_trips_and_the_next_one() {
        let round_trip = Duration::from_millis(40);
        let proxy = proxy(Link { round_trip, bandwidth: None }).await;
        let mut stream = connected(&proxy).await;
        for round_trips in [2, 1] {
            let start = Instant::now();
            stream.write_all(b"x").await.expect("sent");
            stream.read_u8().await.expect("an answer");
            assert!(start.elapsed() >= round_trip * round_trips, "{:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn bytes_stay_in_order_and_are_counted() {
        for round_trip in [0, 5] {
            let link = Link { round_trip: Duration::from_millis(round_trip), bandwidth: None };
            let proxy = proxy(link).await;
            let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
            let (mut from, mut to) = connected(&proxy).await.into_split();
            let (mut got, expected) = (Vec::new(), sent.clone());
            let sending = tokio::spawn(async move {
                to.write_all(&sent).await.expect("sent");
                to.shutdown().await.expect("shut down");
                // It is kept: dropping it would close the direction by itself.
                to
            });
            from.read_to_end(&mut got).await.expect("answers");
            sending.await.expect("sent");
            let text = got.split_off(expected.len());
            assert!(got == expected, "other bytes arrived than were sent");
            assert_eq!(text, b"goodbye", "the end of one direction leaves the other open");
            let length = expected.len() as u64;
            let traffic = Traffic { connections: 1, requests: 0, up: length, down: length + 7 };
            assert_eq!(proxy.traffic(), traffic);
            assert_eq!((proxy.traffic() - traffic).bytes(), 0);
        }
    }

    #[tokio::test]
    async fn who_is_cut_off_on_one_side_is_cut_off_on_the_other() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let server = listener.local_addr().expect("bound");
        let proxy = Proxy::start(server, Link::default()).await.expect("a proxy");
        let mut client = connected(&proxy).await;
        let (at_server, _) = listener.accept().await.expect("a connection");
        client.write_all(b"never read").await.expect("sent");
        at_server.readable().await.expect("bytes");
        // Bytes that nobody has read make it a reset.
        drop(at_server);
        let end = client.read(&mut [0; 16]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_link_without_a_server_closes_connections() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let nobody = listener.local_addr().expect("bound");
        drop(listener);
        let proxy = Proxy::start(nobody, Link::default()).await.expect("a proxy");
        let end = connected(&proxy).await.read(&mut [0; 1]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_bandwidth_is_kept() {
        let bandwidth = "8Mbit".parse().expect("a bandwidth");
        let proxy = proxy(Link { round_trip: Duration::ZERO, bandwidth: Some(bandwidth) }).await;
        let start = Instant::now();
        // Two connections share it.
        for mut stream in [connected(&proxy).await, connected(&proxy).await] {
            stream.write_all(&[b'x'; 100_000]).await.expect("sent");
            stream.read_exact(&mut [0; 100_000]).await.expect("answers");
        }
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    }

    #[test]
    fn a_bandwidth_is_shared_and_not_saved_up() {
        let direction = Direction::default();
        let megabyte_a_second = Some("8Mbit".parse().expect("a bandwidth"));
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(direction.pass(10_000, start, megabyte_a_second), after(10));
        assert_eq!(direction.pass(5_000, start, megabyte_a_second), after(15), "it waits for the first");
        assert_eq!(direction.pass(5_000, after(100), megabyte_a_second), after(105), "nothing was saved up");
        assert_eq!(direction.pass(1 << 30, start, None), start);
    }

    #[test]
    fn requests_are_counted_across_pieces() {
        let text =
            b"GET /HTTP/1.1 HTTP/1.1\r\nHost: HHTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n";
        // The second is no request, but looks like one; no header of a client does.
        for size in 1..text.len() {
            let mut requests = Requests::default();
            let found: u64 = text.chunks(size).map(|piece| requests.count(piece)).sum();
            assert_eq!(found, 3, "pieces of {size}");
        }
    }

    #[test]
    fn bandwidths_are_read_as_they_are_written() {
        for text in ["1Gbit", "100Mbit", "512kbit", "7bit", "1500Mbit"] {
            assert_eq!(text.parse::<Bandwidth>().expect("a bandwidth").to_string(), text);
        }
        for text in ["", "1", "Gbit", "0Mbit", "-1bit", "1.5Gbit", "99999999999999Gbit"] {
            text.parse::<Bandwidth>().expect_err(text);
        }
        let link = Link { round_trip: Duration::from_millis(20), bandwidth: "1Gbit".parse().ok() };
        assert_eq!(link.to_string(), "20 ms, 1Gbit");
    }
}
