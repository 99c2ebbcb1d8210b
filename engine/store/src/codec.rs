//! Plain bytes to stored bytes and back.
//!
//! A stored chunk is one codec byte (0 raw, 1 zstd, 2 brotli; 128 is added when it is encrypted) and a payload.
//! A v1 object has no such byte: it is brotli of a file, or the file itself.
//!
//! The payload of an encrypted chunk is compressed first and sealed then, under a key of its content. The codec byte is
//! authenticated with it.
//!
//! Encoding streams, so that a file of any size can be packed in bounded memory, and stores raw what does not
//! shrink. Decoding trusts nothing:
//! - at most the declared length is ever written, and at most [`stored_limit`] bytes are ever read;
//! - a decoder's window is bounded by what our own encoder uses, so a few bytes cannot claim gigabytes of memory;
//! - a truncated payload, and one byte behind its end, are errors;
//! - the digest is computed on the way, and a decoder returns `Ok` only if it is the right one.
//!
//! What was written to the sink before an error is garbage: nobody may see it.

mod decode;
mod encode;
mod v1;
mod whole;

use std::io;

pub use decode::{DecodeError, Decoded, decode_chunk};
pub use encode::{Encoded, EncodedV1, Metered, encode_file, encode_v1};
pub use v1::decode_v1;
pub(crate) use v1::decode_v1_body;
pub use whole::{decode_whole, encode, encode_named};

/// Codec bytes of a stored chunk.
const RAW: u8 = 0;
const ZSTD: u8 = 1;
const BROTLI: u8 = 2;
/// Added to the codec byte of an encrypted chunk.
const ENCRYPTED: u8 = 128;

/// The largest zstd window (as a power of two) that is written, and that is accepted.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The unit in which bytes are moved.
const BUFFER: usize = 64 << 10;

/// How a chunk is compressed, if that makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By zstd, with this level; 19 is the highest that is used.
    Zstd(i32),
    /// By brotli, with this quality of 0 to 11.
    Brotli(u32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

/// Where decoded bytes go.
pub trait Sink: io::Write {
    /// Forgets everything that was written: what comes next is written from the start again.
    fn restart(&mut self);
}

impl Sink for Vec<u8> {
    fn restart(&mut self) {
        self.clear();
    }
}

/// The longest stored form that is read for `size` plain bytes: no encoder makes more of them.
pub fn stored_limit(size: u64) -> u64 {
    size.saturating_add(size / 8).saturating_add(64 << 10)
}
