//! Plain to stored.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use brotli::CompressorReader;
use md5::digest::Output;
use md5::{Digest, Md5};
use sha2::Sha256;

use super::{BROTLI, BUFFER, Compression, ENCRYPTED, RAW, ZSTD};
use crate::crypt::{Sealer, Secret};

/// The window of brotli, as a power of two: the default of its command.
pub(super) const BROTLI_WINDOW_LOG: u32 = 22;

/// How often a file that changes is read again to be encrypted: its key is that of its content.
const ATTEMPTS: u32 = 3;

/// The highest level of zstd whose window is not larger than [`super::ZSTD_WINDOW_LOG`].
pub(super) const ZSTD_LEVEL_MAX: i32 = 19;

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

/// Makes a stored chunk of all of `plain`, in bounded memory, encrypted if there is a secret to do it with; `stored` is
/// overwritten from its start.
///
/// If `plain` changes meanwhile, the result tells what was written.
///
/// # Errors
/// Those of the two files; and `plain` changes again and again while it is encrypted.
pub fn encode_file(
    plain: &mut (impl Read + Seek),
    stored: &mut File,
    how: Compression,
    secret: Option<&Secret>,
) -> io::Result<Encoded> {
    let Some(secret) = secret else { return encode_with(plain, stored, how, None) };
    for _ in 0..ATTEMPTS {
        plain.rewind()?;
        let mut hashed = Metered::<_, Sha256>::new(&mut *plain);
        io::copy(&mut hashed, &mut io::sink())?;
        let (_, id) = hashed.finish();
        let encoded = encode_with(plain, stored, how, Some(&secret.of_chunk(&id)))?;
        // What was sealed under the key of another content could never be opened.
        if encoded.id == id {
            return Ok(encoded);
        }
    }
    Err(io::Error::other("it changes while it is encrypted"))
}

fn encode_with(
    plain: &mut (impl Read + Seek),
    stored: &mut File,
    how: Compression,
    key: Option<&[u8; 32]>,
) -> io::Result<Encoded> {
    let mut pass = |how| {
        plain.rewind()?;
        stored.rewind()?;
        stored.set_len(0)?;
        write_chunk(&mut *plain, &mut *stored, how, None, key)
    };
    let encoded = pass(how)?;
    if how == Compression::None || pays(encoded.stored, encoded.size) {
        Ok(encoded)
    } else {
        pass(Compression::None)
    }
}

/// Makes a v1 body of `plain`: brotli, with this quality of 0 to 11.
///
/// # Errors
/// Those of reading and writing.
pub fn encode_v1(plain: impl Read, mut stored: impl Write, quality: u32) -> io::Result<EncodedV1> {
    let mut plain = Metered::<_, Md5>::new(plain);
    let length =
        io::copy(&mut CompressorReader::new(&mut plain, BUFFER, quality, BROTLI_WINDOW_LOG), &mut stored)?;
    let (size, hash) = plain.finish();
    Ok(EncodedV1 { hash, size, stored: length })
}

/// Whether reading less is worth the work of decoding: at least one byte in 32 is saved.
pub(super) fn pays(stored: u64, size: u64) -> bool {
    stored < size - size / 32
}

fn write_chunk(
    plain: impl Read,
    mut stored: impl Write,
    how: Compression,
    length: Option<u64>,
    key: Option<&[u8; 32]>,
) -> io::Result<Encoded> {
    let mut plain = Metered::<_, Sha256>::new(plain);
    let (stored, key) = {
        let (codec, payload): (u8, Box<dyn Read + '_>) = match how {
            Compression::None => (RAW, Box::new(&mut plain)),
            Compression::Zstd(level) => {
                let source = BufReader::with_capacity(BUFFER, &mut plain);
                let mut encoder =
                    zstd::stream::read::Encoder::with_buffer(source, level.min(ZSTD_LEVEL_MAX))?;
                encoder.set_pledged_src_size(length)?;
                (ZSTD, Box::new(encoder))
            }
            Compression::Brotli(quality) => {
                (BROTLI, Box::new(CompressorReader::new(&mut plain, BUFFER, quality, BROTLI_WINDOW_LOG)))
            }
        };
        let (codec, payload): (u8, Box<dyn Read + '_>) = match key {
            None => (codec, payload),
            Some(key) => (codec | ENCRYPTED, Box::new(Sealer::new(payload, key, codec | ENCRYPTED))),
        };
        let codec = [codec];
        let mut whole = Metered::<_, Sha256>::new(codec.chain(payload));
        io::copy(&mut whole, &mut stored)?;
        whole.finish()
    };
    let (size, id) = plain.finish();
    Ok(Encoded { id, size, key, stored })
}

/// A reader that counts and hashes what goes through it.
#[derive(Debug)]
pub struct Metered<R, D> {
    inner: R,
    digest: D,
    length: u64,
}

impl<R, D: Digest> Metered<R, D> {
    /// Of what is read from here on.
    pub fn new(inner: R) -> Self {
        Self { inner, digest: D::new(), length: 0 }
    }

    /// How many bytes went through it, and their digest.
    pub fn finish<I: From<Output<D>>>(self) -> (u64, I) {
        (self.length, self.digest.finalize().into())
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
    use std::io::Cursor;

    use super::super::{DecodeError, decode_chunk, encode};
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
        decode_chunk(id, size as u64, None, stored, &mut plain).expect("our own encoding");
        plain
    }

    #[test]
    fn memory_and_file_come_back() {
        for how in ALL {
            for plain in [vec![], b"x".to_vec(), b"abcdefgh".repeat(100_000), noise(300_000)] {
                let id = Sha256::digest(&plain).into();
                assert_eq!(decoded(id, plain.len(), &encode(&plain, how, None)), plain, "{how:?}");

                let mut file = tempfile::tempfile().expect("a file");
                let encoded = encode_file(&mut Cursor::new(&plain), &mut file, how, None).expect("no error");
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
            let stored = encode(&plain, how, None);
            assert_eq!((stored[0], stored.len()), (RAW, plain.len() + 1));
            let mut file = tempfile::tempfile().expect("a file");
            let encoded = encode_file(&mut Cursor::new(&plain), &mut file, how, None).expect("no error");
            assert_eq!(encoded.stored, plain.len() as u64 + 1);
        }
    }

    #[test]
    fn what_shrinks_is_compressed() {
        let plain = vec![b'a'; 1 << 20];
        assert_eq!(encode(&plain, Compression::Zstd(3), None)[0], ZSTD);
        assert_eq!(encode(&plain, Compression::Brotli(5), None)[0], BROTLI);
        assert!(encode(&plain, Compression::default(), None).len() < 1000);
    }

    #[test]
    fn no_level_needs_a_larger_window_than_is_accepted() {
        let mut plain = noise(1 << 20);
        plain.resize(40 << 20, b'-');
        let id = Sha256::digest(&plain).into();
        let mut file = tempfile::tempfile().expect("a file");
        encode_file(&mut Cursor::new(&plain), &mut file, Compression::Zstd(ZSTD_LEVEL_MAX), None)
            .expect("no error");
        file.rewind().expect("seekable");
        decode_chunk(id, plain.len() as u64, None, &file, &mut io::sink()).expect("within the window");
    }

    #[test]
    fn encrypted_chunks_come_back_and_equal_content_gives_equal_objects() {
        let [secret, other] = [0; 2].map(|_| Secret::generate().expect("random"));
        for how in ALL {
            for plain in [vec![], b"x".to_vec(), b"abcdefgh".repeat(100_000), noise(300_000)] {
                let id = Sha256::digest(&plain).into();
                let stored = encode(&plain, how, Some(&secret));
                assert!(stored[0] >= ENCRYPTED);
                assert_eq!(stored, encode(&plain, how, Some(&secret)));
                assert_ne!(stored, encode(&plain, how, Some(&other)));
                let open = |secret: Option<&Secret>, id, stored: &[u8]| {
                    let mut shown = Vec::new();
                    decode_chunk(id, plain.len() as u64, secret, stored, &mut shown).map(|_| shown)
                };
                assert_eq!(open(Some(&secret), id, &stored).expect("sealed by us"), plain);
                assert!(matches!(open(None, id, &stored), Err(DecodeError::Encrypted)));
                open(Some(&other), id, &stored).expect_err("sealed by somebody else");
                open(Some(&secret), [1; 32], &stored).expect_err("another's object");

                let mut file = tempfile::tempfile().expect("a file");
                let encoded = encode_file(&mut Cursor::new(&plain), &mut file, how, Some(&secret));
                let encoded = encoded.expect("no error");
                let mut written = Vec::new();
                file.rewind().and_then(|()| file.read_to_end(&mut written)).expect("readable");
                assert_eq!((encoded.id, encoded.size), (id, plain.len() as u64));
                assert_eq!(encoded.key, <[u8; 32]>::from(Sha256::digest(&written)));
                assert_eq!(open(Some(&secret), id, &written).expect("sealed by us"), plain);
            }
        }
    }

    #[test]
    fn an_encrypted_chunk_that_was_changed_shows_nothing() {
        let secret = Secret::generate().expect("random");
        let plain = b"what nobody but the recipients may see, ".repeat(10);
        let id = Sha256::digest(&plain).into();
        for how in ALL {
            let stored = encode(&plain, how, Some(&secret));
            let open = |stored: &[u8]| {
                let mut shown = Vec::new();
                let opened = decode_chunk(id, plain.len() as u64, Some(&secret), stored, &mut shown);
                (opened.is_ok(), shown)
            };
            for position in 0..stored.len() {
                let mut changed = stored.clone();
                changed[position] ^= 1;
                assert_eq!(open(&changed), (false, Vec::new()), "{how:?}: byte {position}");
                assert_eq!(open(&stored[..position]), (false, Vec::new()), "{how:?}: cut at {position}");
            }
            assert_eq!(open(&[&stored[..], b"x"].concat()), (false, Vec::new()));
            // Without its mark it is no encrypted chunk, and no other either.
            let mut unmarked = stored.clone();
            unmarked[0] -= ENCRYPTED;
            assert!(!open(&unmarked).0);
        }
    }

    #[test]
    fn a_file_that_changes_while_it_is_encrypted_is_read_again() {
        /// A file that has other content from its second reading on, or at each.
        struct Changing {
            readings: u8,
            still_after: u8,
            at: Cursor<Vec<u8>>,
        }
        impl Read for Changing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.at.read(buffer)
            }
        }
        impl Seek for Changing {
            fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
                self.readings += 1;
                self.at = Cursor::new(vec![self.readings.min(self.still_after); 100]);
                self.at.seek(to)
            }
        }
        let secret = Secret::generate().expect("random");
        let encode = |still_after| {
            let mut plain = Changing { readings: 0, still_after, at: Cursor::default() };
            let mut file = tempfile::tempfile().expect("a file");
            let encoded = encode_file(&mut plain, &mut file, Compression::default(), Some(&secret))?;
            file.rewind()?;
            decode_chunk(encoded.id, encoded.size, Some(&secret), file, &mut io::sink())
                .map_err(io::Error::other)
        };
        encode(2).expect("still the second time");
        encode(200).expect_err("never still");
    }
}
