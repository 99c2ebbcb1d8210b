//! Whether a body fits the key that it is to be kept under.

use std::io::{self, Read};

use md5::{Digest, Md5};
use sha2::Sha256;

use crate::Key;

/// The most that a brotli body is decoded to in search of its MD5: what takes longer is no file but an attack.
const DECODED_MAX: u64 = 16 << 30;
const BUFFER: usize = 64 << 10;

/// The digest of a body, taken as it passes.
#[derive(Clone)]
pub(crate) enum Digesting {
    Md5(Md5),
    Sha256(Sha256),
}

impl Digesting {
    /// The kind of digest that `key` is.
    pub(crate) fn of(key: &Key) -> Self {
        if key.as_str().len() == 32 { Self::md5() } else { Self::sha256() }
    }

    pub(crate) fn md5() -> Self {
        Self::Md5(Md5::new())
    }

    pub(crate) fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The digest of all that has passed, as a key.
    pub(crate) fn key(&self) -> Key {
        match self.clone() {
            Self::Md5(digest) => Key::md5(digest.finalize().into()),
            Self::Sha256(digest) => Key::sha256(digest.finalize().into()),
        }
    }

    /// Whether a body with this digest fits `key`; `body` is read only if it may be brotli of what `key` names.
    ///
    /// # Errors
    /// `body` could not be read. A body that is not brotli does not fit, which is no error.
    pub(crate) fn fits<R: Read>(&self, key: &Key, body: impl FnOnce() -> io::Result<R>) -> io::Result<bool> {
        if self.key() == *key {
            return Ok(true);
        }
        match self {
            Self::Md5(_) => Ok(md5_of_brotli(body()?, DECODED_MAX)?.is_some_and(|plain| plain == *key)),
            Self::Sha256(_) => Ok(false),
        }
    }
}

/// Whether `body` fits `key`.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn fits(key: &Key, body: &[u8]) -> bool {
    let mut digest = Digesting::of(key);
    digest.update(body);
    digest.fits(key, || Ok(body)).unwrap_or(false)
}

/// The MD5 of what `body` decodes to; `None` if it is not exactly one brotli stream of at most `limit` bytes.
fn md5_of_brotli(body: impl Read, limit: u64) -> io::Result<Option<Key>> {
    let mut body = Watched { inner: body, failure: None };
    let mut digest = Md5::new();
    let mut decoded = 0;
    let mut buffer = vec![0; BUFFER];
    let mut decoder = brotli::Decompressor::new(&mut body, BUFFER);
    let whole = loop {
        match decoder.read(&mut buffer) {
            // The decoder ends at the end of its stream; reading once more tells whether its buffer held more.
            Ok(0) => break matches!(decoder.read(&mut buffer), Ok(0)),
            Ok(n) => {
                digest.update(&buffer[..n]);
                decoded += n as u64;
                if decoded > limit {
                    break false;
                }
            }
            Err(_) => break false,
        }
    };
    drop(decoder);
    let whole = whole && body.read(&mut [0])? == 0;
    match body.failure {
        Some(failure) => Err(failure),
        None => Ok(whole.then(|| Key::md5(digest.finalize().into()))),
    }
}

/// Tells a body that cannot be read from one that cannot be decoded: the decoder reports both alike.
struct Watched<R> {
    inner: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn md5_key(bytes: &[u8]) -> Key {
        Key::md5(Md5::digest(bytes).into())
    }

    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
        encoder.write_all(bytes).expect("to memory");
        encoder.into_inner()
    }

    #[test]
    fn a_body_fits_its_digests_and_no_others() {
        let plain = b"some text, some text, some text".repeat(5000);
        assert!(fits(&md5_key(&plain), &plain));
        assert!(fits(&Key::sha256(Sha256::digest(&plain).into()), &plain));
        assert!(fits(&md5_key(&plain), &brotli(&plain)));
        assert!(!fits(&Key::sha256(Sha256::digest(&plain).into()), &brotli(&plain)));
        assert!(!fits(&md5_key(b"other"), &plain));
        assert!(!fits(&md5_key(b"other"), &brotli(&plain)));
        assert!(fits(&md5_key(b""), b""));
    }

    #[test]
    fn a_brotli_body_is_one_whole_stream() {
        let plain = vec![7; 300_000];
        let body = brotli(&plain);
        for tail in [1, 200_000] {
            let longer = [body.clone(), vec![0; tail]].concat();
            assert!(!fits(&md5_key(&plain), &longer), "{tail} bytes behind the stream");
        }
        assert!(!fits(&md5_key(&plain), &body[..body.len() - 1]));
    }

    #[test]
    fn decoding_is_bounded() {
        let bomb = brotli(&vec![0; 10 << 20]);
        assert!(bomb.len() < 1000);
        assert_eq!(md5_of_brotli(bomb.as_slice(), 1 << 20).expect("readable"), None);
    }

    #[test]
    fn a_failing_disk_is_not_a_wrong_body() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken disk"))
            }
        }
        let error = Digesting::md5().fits(&md5_key(b"x"), || Ok(Broken)).expect_err("unreadable");
        assert_eq!(error.to_string(), "broken disk");
    }
}
