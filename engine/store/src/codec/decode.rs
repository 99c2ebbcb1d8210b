//! Stored to plain: bounded, complete, verified.

use std::io::{self, BufRead, BufReader, Read, Write};

use brotli_decompressor::{BrotliDecoderParameter, Decompressor};
use sha2::{Digest, Sha256};

use super::{BROTLI, BUFFER, ENCRYPTED, RAW, ZSTD, ZSTD_WINDOW_LOG, stored_limit};
use crate::ContentId;
use crate::crypt::{Opener, Secret};

/// A body that was decoded to the right bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Stored length in bytes.
    pub stored: u64,
    /// The digest of the plain bytes. For a v1 object it may differ from its hash, which may be the digest of the
    /// stored bytes.
    pub plain: ContentId,
}

/// Why a body was not decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body could not be read to its end.
    #[error("reading the body failed: {0}")]
    Read(#[source] io::Error),
    /// The plain bytes could not be written: the fault of the local disk, not of the body.
    #[error("writing the decoded bytes failed: {0}")]
    Write(#[source] io::Error),
    /// A codec byte that this version does not know.
    #[error("unknown codec {0}: a newer version of aysfs is needed to read it")]
    Codec(u8),
    /// An encrypted chunk, or v1 object.
    #[error(
        "it is encrypted, and no key here opens it: name the private key of a recipient with --key, or in a config with \
         encrypted = true and user_rsa"
    )]
    Encrypted,
    /// An encrypted v1 body that is not the one that the flist names.
    #[error("wrong body: its digest is {found} instead of {expected}")]
    Body {
        /// The declared digest.
        expected: ContentId,
        /// The digest of the stored bytes.
        found: ContentId,
    },
    /// An encrypted v1 body and a key that do not belong together.
    #[error("the body was encrypted with another key, or changed since")]
    Key,
    /// More stored bytes than an encoder would ever make.
    #[error("the body is longer than {limit} bytes, the most that {size} plain bytes may take")]
    Oversized {
        /// The declared plain length.
        size: u64,
        /// [`stored_limit`] of it.
        limit: u64,
    },
    /// Not what the codec writes, or cut off.
    #[error("damaged or truncated {codec} data: {source}")]
    Damaged {
        /// The codec.
        codec: &'static str,
        /// What the decoder says.
        source: io::Error,
    },
    /// Bytes behind the end of the payload.
    #[error("bytes follow the end of the {codec} data")]
    Trailing {
        /// The codec.
        codec: &'static str,
    },
    /// More plain bytes than declared.
    #[error("decodes to more than the declared {size} bytes")]
    TooLong {
        /// The declared plain length.
        size: u64,
    },
    /// Fewer plain bytes than declared.
    #[error("decodes to {found} bytes instead of {size}")]
    TooShort {
        /// The declared plain length.
        size: u64,
        /// Its length.
        found: u64,
    },
    /// The right number of wrong bytes.
    #[error("wrong content: the digest of the plain bytes is {found} instead of {expected}")]
    Digest {
        /// The declared digest.
        expected: ContentId,
        /// The digest of what was decoded.
        found: ContentId,
    },
    /// A v1 body that fits in neither of its forms.
    #[error("not the file with MD5 {}: taken as brotli, it {brotli}; taken as the file itself, its {itself}", hex::encode(.hash))]
    NeitherForm {
        /// The declared hash.
        hash: [u8; 16],
        /// Why it is not brotli of the file.
        brotli: Box<DecodeError>,
        /// What does not fit otherwise.
        itself: &'static str,
    },
}

/// Decodes a stored chunk into `sink`; `Ok` means that its plain bytes are the declared ones. `secret` is what it was
/// encrypted with, if it is.
///
/// # Errors
/// Any flaw of the body; [`DecodeError::Write`] if the sink fails.
pub fn decode_chunk(
    sha256: [u8; 32],
    size: u64,
    secret: Option<&Secret>,
    stored: impl Read,
    sink: &mut impl Write,
) -> Result<Decoded, DecodeError> {
    let mut intake = Intake::new(stored, size, ());
    let mut hash = Sha256::new();
    let mut codec = [0];
    let outcome =
        intake.read_exact(&mut codec).map_err(|source| Flaw::Body("chunk", source)).and_then(|()| {
            let digest = |plain: &[u8]| hash.update(plain);
            match (codec[0], secret) {
                (..ENCRYPTED, _) => unpack(codec[0], &mut intake, size, sink, digest),
                (ENCRYPTED.., None) => Err(Flaw::Fatal(DecodeError::Encrypted)),
                (ENCRYPTED.., Some(secret)) => {
                    let opener = Opener::new(&mut intake, &secret.of_chunk(&sha256), codec[0]);
                    unpack(codec[0] - ENCRYPTED, opener, size, sink, digest)
                }
            }
        });
    outcome.map_err(|flaw| intake.explain(flaw))?;
    let found: [u8; 32] = hash.finalize().into();
    if found == sha256 {
        Ok(Decoded { stored: intake.taken, plain: ContentId::Sha256(sha256) })
    } else {
        Err(DecodeError::Digest { expected: ContentId::Sha256(sha256), found: ContentId::Sha256(found) })
    }
}

/// Decodes the payload of a chunk.
fn unpack(
    codec: u8,
    mut payload: impl Read,
    size: u64,
    sink: &mut impl Write,
    hash: impl FnMut(&[u8]),
) -> Result<(), Flaw> {
    match codec {
        RAW => pour(&mut payload, "raw", size, sink, hash),
        ZSTD => unzstd(payload, size, sink, hash),
        BROTLI => unbrotli(payload, size, sink, hash),
        codec => Err(Flaw::Fatal(DecodeError::Codec(codec))),
    }
}

fn unzstd(stored: impl Read, size: u64, sink: &mut impl Write, hash: impl FnMut(&[u8])) -> Result<(), Flaw> {
    let body = |source| Flaw::Body("zstd", source);
    let stored = BufReader::with_capacity(buffer(stored_limit(size)), stored);
    let mut plain = zstd::stream::read::Decoder::with_buffer(stored).map_err(body)?.single_frame();
    plain.window_log_max(ZSTD_WINDOW_LOG).map_err(body)?;
    pour(&mut plain, "zstd", size, sink, hash)?;
    match plain.finish().fill_buf().map_err(body)? {
        [] => Ok(()),
        _ => Err(Flaw::Fatal(DecodeError::Trailing { codec: "zstd" })),
    }
}

pub(super) fn unbrotli(
    stored: impl Read,
    size: u64,
    sink: &mut impl Write,
    hash: impl FnMut(&[u8]),
) -> Result<(), Flaw> {
    let mut plain = Decompressor::new(stored, buffer(stored_limit(size)));
    // The extension for windows of up to a gigabyte, which no v1 client could read either.
    plain.set_parameter(BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
    pour(&mut plain, "brotli", size, sink, hash)?;
    // After the end, the decoder fails if it holds more input; what it has not read yet is asked for here.
    let mut more = [0];
    match plain.read(&mut more).and_then(|_| plain.into_inner().read(&mut more)) {
        Ok(0) => Ok(()),
        Ok(_) | Err(_) => Err(Flaw::Fatal(DecodeError::Trailing { codec: "brotli" })),
    }
}

/// Moves all of `plain`, which must be `size` bytes, into `sink`; never writes more than that.
pub(super) fn pour(
    plain: &mut impl Read,
    codec: &'static str,
    size: u64,
    sink: &mut impl Write,
    mut hash: impl FnMut(&[u8]),
) -> Result<(), Flaw> {
    let mut bytes = vec![0; buffer(size.saturating_add(1))];
    let mut found = 0;
    loop {
        let n = match plain.read(&mut bytes) {
            Ok(0) if found == size => return Ok(()),
            Ok(0) => return Err(Flaw::Fatal(DecodeError::TooShort { size, found })),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Flaw::Body(codec, error)),
        };
        found += n as u64;
        if found > size {
            return Err(Flaw::Fatal(DecodeError::TooLong { size }));
        }
        hash(&bytes[..n]);
        sink.write_all(&bytes[..n]).map_err(|error| Flaw::Fatal(DecodeError::Write(error)))?;
    }
}

/// A buffer for up to `most` bytes; no page of it is touched in vain for a small file.
fn buffer(most: u64) -> usize {
    usize::try_from(most).map_or(BUFFER, |most| most.min(BUFFER))
}

/// What ended the decoding.
pub(super) enum Flaw {
    /// A decoder failed: because of what it read, or because it could not read.
    Body(&'static str, io::Error),
    /// This.
    Fatal(DecodeError),
}

/// The stored side of a decoder: bounds what is read, and remembers why it stopped, since a decoder would pass on
/// only an [`io::Error`].
pub(super) struct Intake<R, T> {
    inner: R,
    size: u64,
    /// How many bytes were read.
    pub(super) taken: u64,
    /// Sees everything that is read.
    pub(super) tap: T,
    halt: Option<DecodeError>,
}

/// Sees the stored bytes of an [`Intake`] as they are read.
pub(super) trait Tap {
    /// These came next; `taken` includes them. An error ends the decoding as [`DecodeError::Write`].
    fn see(&mut self, bytes: &[u8], taken: u64) -> io::Result<()>;
}

impl Tap for () {
    fn see(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read, T: Tap> Intake<R, T> {
    pub(super) fn new(inner: R, size: u64, tap: T) -> Self {
        Self { inner, size, taken: 0, tap, halt: None }
    }

    /// The error behind a flaw: if reading stopped, whatever the decoder made of that is not the point.
    pub(super) fn explain(&mut self, flaw: Flaw) -> DecodeError {
        match (self.halt.take(), flaw) {
            (Some(halt), _) => halt,
            (None, Flaw::Fatal(error)) => error,
            (None, Flaw::Body(codec, source)) => DecodeError::Damaged { codec, source },
        }
    }

    fn stop(&mut self, reason: DecodeError) -> io::Error {
        self.halt = Some(reason);
        io::Error::other("reading stopped")
    }
}

impl<R: Read, T: Tap> Read for Intake<R, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.inner.read(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.stop(DecodeError::Read(error))),
        };
        self.taken += n as u64;
        let limit = stored_limit(self.size);
        if self.taken > limit {
            return Err(self.stop(DecodeError::Oversized { size: self.size, limit }));
        }
        match self.tap.see(&buffer[..n], self.taken) {
            Ok(()) => Ok(n),
            Err(error) => Err(self.stop(DecodeError::Write(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, decode_whole, encode};
    use super::*;

    const HELLO: &[u8] = b"hello hello hello hello hello hello hello hello hello hello hello hello";

    fn try_decode(size: usize, stored: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut plain = Vec::new();
        let sha256 = Sha256::digest(HELLO).into();
        let decoded = decode_chunk(sha256, size as u64, None, stored, &mut plain);
        assert!(plain.len() <= size, "more was written than declared");
        let mut whole = Vec::new();
        match decode_whole(sha256, size as u64, None, stored, &mut whole) {
            Ok(()) => assert_eq!(whole, HELLO),
            Err(_) => assert!(decoded.is_err(), "both ways agree"),
        }
        decoded.map(|_| plain)
    }

    fn forms() -> [Vec<u8>; 3] {
        let forms = [Compression::None, Compression::Zstd(3), Compression::Brotli(9)]
            .map(|how| encode(HELLO, how, None));
        assert_eq!(forms.each_ref().map(|form| form[0]), [RAW, ZSTD, BROTLI]);
        forms
    }

    #[test]
    fn a_truncated_payload_is_refused() {
        for form in forms() {
            for length in 0..form.len() {
                try_decode(HELLO.len(), &form[..length]).expect_err("truncated");
            }
        }
    }

    #[test]
    fn a_byte_behind_the_end_is_refused() {
        for mut form in forms() {
            form.push(0);
            try_decode(HELLO.len(), &form).expect_err("trailing byte");
        }
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        for form in forms() {
            for position in 0..form.len() {
                let mut damaged = form.clone();
                damaged[position] ^= 0x10;
                // A bit that no codec looks at (a reserved one) may flip without a change of the content.
                if let Ok(plain) = try_decode(HELLO.len(), &damaged) {
                    assert_eq!(plain, HELLO);
                }
            }
        }
    }

    #[test]
    fn a_wrong_declared_length_is_refused() {
        for form in forms() {
            assert!(matches!(try_decode(HELLO.len() - 1, &form), Err(DecodeError::TooLong { .. })));
            assert!(matches!(try_decode(HELLO.len() + 1, &form), Err(DecodeError::TooShort { .. })));
            assert!(matches!(try_decode(0, &form), Err(DecodeError::TooLong { .. })));
        }
    }

    #[test]
    fn other_content_is_refused() {
        let other = encode(&[b'x'; HELLO.len()], Compression::default(), None);
        assert!(matches!(try_decode(HELLO.len(), &other), Err(DecodeError::Digest { .. })));
    }

    #[test]
    fn a_bomb_is_cut_at_the_declared_length() {
        let bomb = encode(&vec![0; 64 << 20], Compression::Zstd(19), None);
        assert!(bomb.len() < 16 << 10);
        assert!(matches!(try_decode(HELLO.len(), &bomb), Err(DecodeError::TooLong { .. })));
    }

    #[test]
    fn an_endless_body_is_cut() {
        let mut stored = [RAW].chain(io::repeat(0));
        let error = decode_chunk([0; 32], 100, None, &mut stored, &mut Vec::new()).expect_err("endless");
        assert!(matches!(error, DecodeError::TooLong { size: 100 }), "{error}");
        // Empty zstd blocks: input without end, no output.
        let head = [&[ZSTD], &zstd::bulk::compress(b"", 3).expect("memory")[..4], &[0, 0x58]].concat();
        let mut stored = head.chain(io::repeat(0));
        let error = decode_chunk([0; 32], 100, None, &mut stored, &mut Vec::new()).expect_err("endless");
        assert!(matches!(error, DecodeError::Oversized { size: 100, .. }), "{error}");
    }

    #[test]
    fn a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(vec![ZSTD], 3).expect("memory");
        encoder.window_log(27).expect("a valid window");
        encoder.write_all(HELLO).expect("memory");
        let stored = encoder.finish().expect("memory");
        assert!(matches!(try_decode(HELLO.len(), &stored), Err(DecodeError::Damaged { codec: "zstd", .. })));

        // The large-window marker of brotli, then a window of 2^30.
        let stored = [BROTLI, 0x11, 30, 0, 0, 0];
        assert!(matches!(
            try_decode(HELLO.len(), &stored),
            Err(DecodeError::Damaged { codec: "brotli", .. })
        ));
    }

    #[test]
    fn foreign_codecs_are_named() {
        assert!(matches!(try_decode(5, &[7, 1, 2]), Err(DecodeError::Codec(7))));
        assert!(matches!(try_decode(5, &[129, 1, 2]), Err(DecodeError::Encrypted)));
        assert!(matches!(try_decode(5, &[]), Err(DecodeError::Damaged { codec: "chunk", .. })));
    }

    #[test]
    fn a_failing_sink_is_not_the_bodys_fault() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for form in forms() {
            let error =
                decode_chunk(Sha256::digest(HELLO).into(), HELLO.len() as u64, None, &form[..], &mut Full);
            assert!(matches!(error, Err(DecodeError::Write(_))));
        }
    }

    #[test]
    fn a_failing_body_is_not_damage() {
        struct Cut;
        impl Read for Cut {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        for form in forms() {
            let stored = form[..form.len() - 1].chain(Cut);
            let error =
                decode_chunk(Sha256::digest(HELLO).into(), HELLO.len() as u64, None, stored, &mut Vec::new());
            assert!(matches!(error, Err(DecodeError::Read(_))));
        }
    }
}
