//! Plain to stored and back, of a chunk that is in memory as a whole: how packs are made and read.

use std::cell::RefCell;
use std::io::{self, Cursor, Read};

use brotli::CompressorReader;
use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

use super::encode::{BROTLI_WINDOW_LOG, ZSTD_LEVEL_MAX, pays};
use super::{BROTLI, BUFFER, Compression, DecodeError, ENCRYPTED, RAW, ZSTD, decode_chunk};
use crate::ContentId;
use crate::crypt::{Sealer, Secret};
use crate::table::CHUNK_MAX;

thread_local! {
    /// What this thread has compressed with last: making one takes longer than compressing a small file.
    static ZSTD_COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static ZSTD_DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Makes a stored chunk of `plain`, encrypted if there is a secret to do it with.
pub fn encode(plain: &[u8], how: Compression, secret: Option<&Secret>) -> Vec<u8> {
    encode_named(plain, &Sha256::digest(plain).into(), how, secret)
}

/// The same, for whoever knows the SHA-256 of `plain`.
pub fn encode_named(plain: &[u8], id: &[u8; 32], how: Compression, secret: Option<&Secret>) -> Vec<u8> {
    let sealed = |codec, stored: Vec<u8>| match secret {
        Some(secret) => seal(codec, &stored[1..], &secret.of_chunk(id)),
        None => stored,
    };
    // A compressor that gives up is no reason to fail.
    if let Ok(Some((codec, stored))) = compress(plain, how) {
        let stored = sealed(codec, stored);
        if pays(stored.len() as u64, plain.len() as u64) {
            return stored;
        }
    }
    sealed(RAW, [&[RAW], plain].concat())
}

/// The codec byte and the payload; the codec, too, for convenience. `None`: not to be compressed.
fn compress(plain: &[u8], how: Compression) -> io::Result<Option<(u8, Vec<u8>)>> {
    Ok(match how {
        Compression::None => None,
        Compression::Zstd(level) => {
            let mut stored = Cursor::new(Vec::with_capacity(1 + compress_bound(plain.len())));
            stored.get_mut().push(ZSTD);
            stored.set_position(1);
            with_zstd(level.min(ZSTD_LEVEL_MAX), |zstd| zstd.compress_to_buffer(plain, &mut stored))?;
            Some((ZSTD, stored.into_inner()))
        }
        Compression::Brotli(quality) => {
            let mut stored = vec![BROTLI];
            CompressorReader::new(plain, BUFFER, quality, BROTLI_WINDOW_LOG).read_to_end(&mut stored)?;
            Some((BROTLI, stored))
        }
    })
}

fn with_zstd<T>(
    level: i32,
    compress: impl FnOnce(&mut Compressor<'static>) -> io::Result<T>,
) -> io::Result<T> {
    ZSTD_COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some((of, compressor)) if *of == level => compressor,
            other => &mut other.insert((level, Compressor::new(level)?)).1,
        };
        compress(compressor)
    })
}

fn seal(codec: u8, payload: &[u8], key: &[u8; 32]) -> Vec<u8> {
    let codec = codec | ENCRYPTED;
    let mut stored = vec![codec];
    Sealer::new(payload, key, codec).read_to_end(&mut stored).expect("memory does not fail");
    stored
}

/// Decodes a stored chunk that is in memory, as [`decode_chunk`] does: what is in `plain` if this succeeds is the declared bytes, and
/// garbage otherwise.
///
/// # Errors
/// Any flaw of the body.
pub fn decode_whole(
    sha256: [u8; 32],
    size: u64,
    secret: Option<&Secret>,
    stored: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    plain.clear();
    let length = match usize::try_from(size) {
        // More than any chunk of a pack has is better not taken into memory at once.
        Ok(length) if length <= CHUNK_MAX as usize => length,
        _ => return decode_chunk(sha256, size, secret, stored, plain).map(drop),
    };
    match stored {
        [RAW, payload @ ..] if payload.len() == length => plain.extend_from_slice(payload),
        [ZSTD, payload @ ..] => {
            plain.reserve(length);
            let damaged = |source| DecodeError::Damaged { codec: "zstd", source };
            ZSTD_DECOMPRESSOR
                .with_borrow_mut(|kept| {
                    let decompressor = match kept {
                        Some(decompressor) => decompressor,
                        None => kept.insert(Decompressor::new()?),
                    };
                    decompressor.decompress_to_buffer(payload, plain)
                })
                .map_err(damaged)?;
            match plain.len() {
                found if found < length => return Err(DecodeError::TooShort { size, found: found as u64 }),
                found if found > length => return Err(DecodeError::TooLong { size }),
                _ => {}
            }
        }
        _ => return decode_chunk(sha256, size, secret, stored, plain).map(drop),
    }
    let found: [u8; 32] = Sha256::digest(&*plain).into();
    if found == sha256 {
        Ok(())
    } else {
        Err(DecodeError::Digest { expected: ContentId::Sha256(sha256), found: ContentId::Sha256(found) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::noise;

    #[test]
    fn chunks_come_back() {
        let secret = Secret::generate().expect("random");
        let levels = [Compression::None, Compression::Zstd(3), Compression::Zstd(22), Compression::Brotli(5)];
        for plain in [vec![], vec![7], b"text ".repeat(100_000), noise(1, 300_000), vec![0; 4 << 20]] {
            let id = Sha256::digest(&plain).into();
            for how in levels {
                for secret in [None, Some(&secret)] {
                    let stored = encode(&plain, how, secret);
                    let mut decoded = Vec::new();
                    decode_chunk(id, plain.len() as u64, secret, &stored[..], &mut decoded).expect("our own");
                    assert!(decoded == plain, "{how:?}");
                    decode_whole(id, plain.len() as u64, secret, &stored, &mut decoded).expect("our own");
                    assert!(decoded == plain, "{how:?}");
                    assert_eq!(stored, encode(&plain, how, secret), "the same each time");
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_raw() {
        let plain = noise(1, 300_000);
        let stored = encode(&plain, Compression::default(), None);
        assert_eq!((stored[0], &stored[1..]), (RAW, &plain[..]));
    }
}
