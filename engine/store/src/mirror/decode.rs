//! Stored bytes of a chunk, checked without a cache: for tools that look after a stor.

use std::io::Read;

use tempfile::SpooledTempFile;

use super::Mirror;
use crate::codec::{DecodeError, Decoded, Sink, decode_chunk, decode_v1};
use crate::crypt::decode_v1_sealed;
use crate::{Check, Chunk};

/// How much of an object that may be a plain file of v1 is kept in memory, in bytes; the rest is on disk.
const SPOOLED: usize = 1 << 20;

impl Mirror {
    /// Decodes the stored bytes of a chunk into `sink`, with what opens the content of this mirror; `Ok` means that the plain bytes
    /// are those that the chunk names. `length` is that of the stored bytes, if it is known. Blocks.
    ///
    /// # Errors
    /// As of [`decode_chunk`] and [`decode_v1`].
    pub fn decode(
        &self,
        chunk: &Chunk,
        stored: impl Read,
        length: Option<u64>,
        sink: &mut impl Sink,
    ) -> Result<Decoded, DecodeError> {
        match chunk.check {
            Check::Sha256(digest) => decode_chunk(digest, chunk.length(), self.secret(), stored, sink),
            Check::V1(hash) => match self.v1_keys().key_of(&hash)? {
                Some(key) => decode_v1_sealed(hash, chunk.length(), &key, stored, sink),
                None => {
                    let spool = SpooledTempFile::new(SPOOLED);
                    decode_v1(hash, chunk.length(), stored, length, spool, sink)
                }
            },
        }
    }
}
