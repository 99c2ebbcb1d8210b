//! Plain to stored.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};

use brotli::CompressorReader;
use md5::{Digest, Md5};
use sha2::Sha256;

use super::{BROTLI, BUFFER, Compression, RAW, ZSTD};

/// The window of brotli, as a power of two: the default of its command.
const BROTLI_WINDOW_LOG: u32 = 22;

/// The highest level of zstd whose window is not larger than [`super::ZSTD_WINDOW_LOG`].
const ZSTD_LEVEL_MAX: i32 = 19;

/// A stored chunk that was written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// SHA-256 of the plain bytes.
    pub id: [u8; 32],
    /// Plain length in bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes: the key of an object that is this chunk alone.
    pub key: [u8; 32],
    /// Stored length in bytes.
    pub stored: u64,
}

/// A v1 body that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedV1 {
    /// MD5 of the plain bytes: its hash in a flist, and its key.
    pub hash: [u8; 16],
    /// Plain length in bytes.
    pub size: u64,
    /// Stored length in bytes.
    pub stored: u64,
}

/// Makes a stored chunk of `plain`.
pub fn encode(plain: &[u8], how: Compression) -> Vec<u8> {
    let mut stored = Vec::new();
    match write_chunk(Cursor::new(plain), &mut stored, how, Some(plain.len() as u64)) {
        Ok(encoded) if pays(&encoded) => stored,
        // Memory neither fails nor is full; a compressor that gives up is no reason to fail either.
        Ok(_) | Err(_) => [&[RAW], plain].concat(),
    }
}

/// Makes a stored chunk of all of `plain`, in bounded memory; `stored` is overwritten from its start.
///
/// If `plain` changes meanwhile, the result tells what was written.
///
/// # Errors
/// Those of the two files.
pub fn encode_file(
    plain: &mut (impl Read + Seek),
    stored: &mut File,
    how: Compression,
) -> io::Result<Encoded> {
    let mut pass = |how| {
        plain.rewind()?;
        stored.rewind()?;
        stored.set_len(0)?;
        write_chunk(&mut *plain, &mut *stored, how, None)
    };
    let encoded = pass(how)?;
    if how == Compression::None || pays(&encoded) { Ok(encoded) } else { pass(Compression::None) }
}

/// Makes a v1 body of `plain`: brotli, with this quality of 0 to 11.
///
/// # Errors
/// Those of reading and writing.
pub fn encode_v1(plain: impl Read, mut stored: impl Write, quality: u32) -> io::Result<EncodedV1> {
    let mut plain = Metered::<_, Md5>::new(plain);
    let length =
        io::copy(&mut CompressorReader::new(&mut plain, BUFFER, quality, BROTLI_WINDOW_LOG), &mut stored)?;
    Ok(EncodedV1 { hash: plain.digest.finalize().into(), size: plain.length, stored: length })
}

/// Whether reading less is worth the work of decoding: at least one byte in 32 is saved.
fn pays(encoded: &Encoded) -> bool {
    encoded.stored < encoded.size - encoded.size / 32
}

fn write_chunk(
    plain: impl Read,
    mut stored: impl Write,
    how: Compression,
    length: Option<u64>,
) -> io::Result<Encoded> {
    let mut plain = Metered::<_, Sha256>::new(plain);
    let (key, stored) = {
        let (codec, payload): (&[u8], Box<dyn Read + '_>) = match how {
            Compression::None => (&[RAW], Box::new(&mut plain)),
            Compression::Zstd(level) => {
                let source = BufReader::with_capacity(BUFFER, &mut plain);
                let mut encoder =
                    zstd::stream::read::Encoder::with_buffer(source, level.min(ZSTD_LEVEL_MAX))?;
                encoder.set_pledged_src_size(length)?;
                (&[ZSTD], Box::new(encoder))
            }
            Compression::Brotli(quality) => {
                (&[BROTLI], Box::new(CompressorReader::new(&mut plain, BUFFER, quality, BROTLI_WINDOW_LOG)))
            }
        };
        let mut whole = Metered::<_, Sha256>::new(codec.chain(payload));
        io::copy(&mut whole, &mut stored)?;
        (whole.digest.finalize().into(), whole.length)
    };
    Ok(Encoded { id: plain.digest.finalize().into(), size: plain.length, key, stored })
}

/// A reader that counts and hashes what goes through it.
struct Metered<R, D> {
    inner: R,
    digest: D,
    length: u64,
}

impl<R, D: Digest> Metered<R, D> {
    fn new(inner: R) -> Self {
        Self { inner, digest: D::new(), length: 0 }
    }
}

impl<R: Read, D: Digest> Read for Metered<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.digest.update(&buffer[..n]);
        self.length += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode_chunk;
    use super::*;

    const ALL: [Compression; 4] =
        [Compression::None, Compression::Zstd(3), Compression::Zstd(22), Compression::Brotli(5)];

    /// Bytes that no codec can shrink.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    fn decoded(id: [u8; 32], size: usize, stored: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        decode_chunk(id, size as u64, stored, &mut plain).expect("our own encoding");
        plain
    }

    #[test]
    fn memory_and_file_come_back() {
        for how in ALL {
            for plain in [vec![], b"x".to_vec(), b"abcdefgh".repeat(100_000), noise(300_000)] {
                let id = Sha256::digest(&plain).into();
                assert_eq!(decoded(id, plain.len(), &encode(&plain, how)), plain, "{how:?}");

                let mut file = tempfile::tempfile().expect("a file");
                let encoded = encode_file(&mut Cursor::new(&plain), &mut file, how).expect("no error");
                let mut stored = Vec::new();
                file.rewind().and_then(|()| file.read_to_end(&mut stored)).expect("readable");
                assert_eq!((encoded.id, encoded.size), (id, plain.len() as u64));
                assert_eq!(encoded.key, <[u8; 32]>::from(Sha256::digest(&stored)));
                assert_eq!(encoded.stored, stored.len() as u64);
                assert_eq!(decoded(id, plain.len(), &stored), plain, "{how:?}");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_raw() {
        let plain = noise(100_000);
        for how in ALL {
            let stored = encode(&plain, how);
            assert_eq!((stored[0], stored.len()), (RAW, plain.len() + 1));
            let mut file = tempfile::tempfile().expect("a file");
            let encoded = encode_file(&mut Cursor::new(&plain), &mut file, how).expect("no error");
            assert_eq!(encoded.stored, plain.len() as u64 + 1);
        }
    }

    #[test]
    fn what_shrinks_is_compressed() {
        let plain = vec![b'a'; 1 << 20];
        assert_eq!(encode(&plain, Compression::Zstd(3))[0], ZSTD);
        assert_eq!(encode(&plain, Compression::Brotli(5))[0], BROTLI);
        assert!(encode(&plain, Compression::default()).len() < 1000);
    }

    #[test]
    fn no_level_needs_a_larger_window_than_is_accepted() {
        let mut plain = noise(1 << 20);
        plain.resize(40 << 20, b'-');
        let id = Sha256::digest(&plain).into();
        let mut file = tempfile::tempfile().expect("a file");
        encode_file(&mut Cursor::new(&plain), &mut file, Compression::Zstd(ZSTD_LEVEL_MAX))
            .expect("no error");
        file.rewind().expect("seekable");
        decode_chunk(id, plain.len() as u64, &file, &mut io::sink()).expect("within the window");
    }
}
