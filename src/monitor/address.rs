//! Where to listen: what may be typed behind `--pprof`.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::{TcpListener, lookup_host};

/// The name that stands for this machine alone.
const LOOPBACK: &str = "localhost";

/// A host, by name or by address, and a port. Without a host it is the loopback interface, never all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

/// What was typed is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected HOST:PORT or PORT; write --pprof=ADDR, or --pprof behind everything else to use localhost:6060"
)]
pub(crate) struct NoAddress;

impl Address {
    /// What is used if none is given; the port is the one of Go's examples, which `go tool pprof` users know.
    pub(crate) const DEFAULT: &str = "localhost:6060";

    /// Listens there.
    pub(super) async fn listen(&self) -> io::Result<TcpListener> {
        // Whatever the resolver makes of this name, it is not to be another interface.
        let mut addresses = match self.host.as_str() {
            LOOPBACK => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))],
            host => lookup_host((host, self.port)).await?.collect(),
        };
        // A name may have both kinds; one is listened to, and clients of names try IPv4 in any case.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        TcpListener::bind(&addresses[..]).await
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        // The digits alone: u16 would take a sign as well.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoAddress);
        }
        let port = port.parse().map_err(|_| NoAddress)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6,
            None if host.contains(':') => return Err(NoAddress),
            None if host.is_empty() => LOOPBACK,
            None => host,
        };
        if host.is_empty() || host.contains(['/', '@', '[', ']']) || host.contains(char::is_whitespace) {
            return Err(NoAddress);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, NoAddress> {
        text.parse().map(|address: Address| address.to_string())
    }

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        for text in ["localhost:7070", ":7070", "7070"] {
            assert_eq!(shown(text).expect("an address"), "localhost:7070", "{text}");
        }
        assert_eq!(shown(Address::DEFAULT).expect("an address"), "localhost:6060");
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for text in ["127.0.0.1:0", "0.0.0.0:6060", "[::1]:6060", "grid-7.example.org:80"] {
            assert_eq!(shown(text).expect("an address"), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let bad = [
            "",
            ":",
            "localhost",
            "localhost:",
            "localhost:http",
            "h:65536",
            "h:-1",
            "h:+1",
            "::1",
            "::1:6060",
            "[]:1",
            "[::1]",
            "app.flist",
            "/opt/app",
            "http://h:80",
            "a/b:80",
            "a b:80",
            "u@h:80",
        ];
        for text in bad {
            assert_eq!(shown(text), Err(NoAddress), "{text:?}");
        }
    }

    #[tokio::test]
    async fn the_name_of_loopback_is_loopback() {
        let address: Address = "localhost:0".parse().expect("an address");
        let listener = address.listen().await.expect("a free port");
        assert!(listener.local_addr().expect("an address").ip().is_loopback());
    }
}
