//! What nobody can do without: the downloads that a figure is compared with.
//!
//! They come from the same stor through the same proxy, in one request of the plainest client.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use aysfs_workload::work::PAGE;
use tokio::task::spawn_blocking;
use zstd::stream::read::Decoder;

use crate::http::Client;
use crate::trees;

/// The level of zstd of the large file: the default.
const LEVEL: i32 = 0;

/// What a row is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yardstick {
    /// A download of what has to be moved.
    Download,
    /// A request of a page on a connection that is open.
    RoundTrip,
    /// A download of the large file, compressed, while it is decompressed.
    Decompressed,
}

/// A stor with files to download.
#[derive(Clone, Debug)]
pub(crate) struct Downloads {
    /// Where it listens, without a proxy.
    pub(crate) stor: SocketAddr,
    /// The directory of its named files.
    pub(crate) named: PathBuf,
}

impl Downloads {
    /// Compresses the large file, for [`Yardstick::Decompressed`].
    pub(crate) async fn add_large(&self, file: &Path) -> anyhow::Result<()> {
        let (from, to) = (file.to_owned(), self.named.join(Yardstick::Decompressed.name()));
        spawn_blocking(move || zstd::stream::copy_encode(File::open(from)?, File::create(to)?, LEVEL))
            .await??;
        Ok(())
    }

    /// Takes a yardstick once, through `proxy`; returns the seconds. What has to be moved is `needed` bytes.
    pub(crate) async fn take(
        &self,
        yardstick: Yardstick,
        needed: u64,
        proxy: SocketAddr,
    ) -> anyhow::Result<f64> {
        let name = yardstick.name();
        let length = match yardstick {
            Yardstick::Download => needed,
            Yardstick::RoundTrip => PAGE as u64,
            Yardstick::Decompressed => trees::LARGE,
        };
        if yardstick != Yardstick::Decompressed {
            let mut file = File::create(self.named.join(name))?;
            io::copy(&mut io::repeat(b'x').take(length), &mut file)?;
        }
        let stor = self.stor;
        let download = move || -> io::Result<f64> {
            // A stor hashes a named file when it is first asked for it.
            read_all(Client::connect(stor)?.get(name)?)?;
            let mut start = Instant::now();
            let mut client = Client::connect(proxy)?;
            if yardstick == Yardstick::RoundTrip {
                read_all(client.get(name)?)?;
                start = Instant::now();
            }
            let body = client.get(name)?;
            let read = match yardstick {
                Yardstick::Decompressed => read_all(Decoder::with_buffer(body)?)?,
                Yardstick::Download | Yardstick::RoundTrip => read_all(body)?,
            };
            let seconds = start.elapsed().as_secs_f64();
            if read == length { Ok(seconds) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        };
        spawn_blocking(download).await?.with_context(|| format!("cannot download {name}"))
    }
}

impl Yardstick {
    /// The file that is downloaded.
    fn name(self) -> &'static str {
        match self {
            Self::Download => "needed",
            Self::RoundTrip => "page",
            Self::Decompressed => "large.zst",
        }
    }
}

/// Reads to the end in pieces as large as those of a program that copies.
fn read_all(mut from: impl Read) -> io::Result<u64> {
    let mut piece = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}
