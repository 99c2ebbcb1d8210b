//! The plainest client of HTTP: what a download costs that nobody can do without.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(128 << 10, stream)))
    }

    /// The body of a named file, which must be read to its end before the next call.
    pub(crate) fn get(&mut self, name: &str) -> io::Result<impl BufRead> {
        self.0
            .get_mut()
            .write_all(format!("GET /static/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("{name}: {status}")));
        }
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
        let length = length.ok_or_else(|| io::Error::other(format!("{name}: no length")))?;
        Ok((&mut self.0).take(length))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}
