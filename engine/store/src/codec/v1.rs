//! v1 objects: a body without a codec byte, brotli of the file or the file itself.
//!
//! The hash of the flist is the MD5 of the plain file or of the body. A body is
//! 1. brotli of the file, if it decodes, completely, to exactly the declared size, and the MD5 of the plain bytes or
//!    that of the body is the hash;
//! 2. otherwise the file itself, if its length is the declared size and its MD5 is the hash.
//!
//! The first rule decides where both hold. Most bodies show early what they are: one whose length is known and not
//! the declared size cannot be the file itself, and a file that is not brotli usually fails to decode within its
//! first bytes. Only as long as both forms are possible is the body kept aside.

use std::io::{self, Read, Seek, Write};

use md5::{Digest, Md5};
use tempfile::SpooledTempFile;

use super::decode::{Flaw, Intake, Tap, pour, unbrotli};
use super::{DecodeError, Decoded, Sink};
use crate::ContentId;

/// Decodes a v1 body into `sink`; `Ok` means that the plain bytes are those of the flist.
///
/// `length` is the length of the body, if it is known. `spool` is where the body is kept aside while it may still
/// turn out to be the file itself.
///
/// # Errors
/// Any flaw of the body; [`DecodeError::Write`] if the sink or the spool fails.
pub fn decode_v1(
    hash: [u8; 16],
    size: u64,
    body: impl Read,
    length: Option<u64>,
    spool: SpooledTempFile,
    sink: &mut impl Sink,
) -> Result<Decoded, DecodeError> {
    let spool = length.is_none_or(|length| length == size).then_some(spool);
    let mut body = Intake::new(body, size, Both { size, hash: Md5::new(), spool });
    let mut plain = Md5::new();
    let brotli = match unbrotli(&mut body, size, sink, |bytes| plain.update(bytes)) {
        Ok(()) => {
            let found = plain.finalize().into();
            if found == hash || body.tap.md5() == hash {
                return Ok(Decoded { stored: body.taken, plain: ContentId::Md5(found) });
            }
            DecodeError::Digest { expected: ContentId::Md5(hash), found: ContentId::Md5(found) }
        }
        Err(flaw) => body.explain(flaw),
    };
    if matches!(brotli, DecodeError::Read(_) | DecodeError::Write(_) | DecodeError::Oversized { .. }) {
        return Err(brotli);
    }
    let neither = |itself| DecodeError::NeitherForm { hash, brotli: Box::new(brotli), itself };

    let Some(mut spool) = body.tap.spool.take() else {
        return Err(neither("length is wrong"));
    };
    sink.restart();
    spool.rewind().and_then(|()| io::copy(&mut spool, sink)).map_err(DecodeError::Write)?;
    let rest = size - body.taken;
    match pour(&mut body, "plain", rest, sink, |_| ()).map_err(|flaw| match flaw {
        Flaw::Fatal(DecodeError::TooLong { .. } | DecodeError::TooShort { .. }) => None,
        flaw => Some(body.explain(flaw)),
    }) {
        Ok(()) if body.tap.md5() == hash => Ok(Decoded { stored: size, plain: ContentId::Md5(hash) }),
        Ok(()) => Err(neither("MD5 is wrong")),
        Err(None) => Err(neither("length is wrong")),
        Err(Some(error)) => Err(error),
    }
}

/// A body that was un-brotlied.
pub(crate) struct Body {
    /// Its length in bytes.
    pub(crate) stored: u64,
    /// MD5 of it.
    pub(crate) md5: [u8; 16],
}

/// Un-brotlies a body of which the digests say nothing yet into `sink`: `size` bytes, or an error.
pub(crate) fn decode_v1_body(size: u64, body: impl Read, sink: &mut impl Write) -> Result<Body, DecodeError> {
    let mut body = Intake::new(body, size, Both { size, hash: Md5::new(), spool: None });
    match unbrotli(&mut body, size, sink, |_| ()) {
        Ok(()) => Ok(Body { stored: body.taken, md5: body.tap.md5() }),
        Err(flaw) => Err(body.explain(flaw)),
    }
}

/// What both forms need of the body: its MD5, and as long as it may be the file itself, its bytes.
struct Both {
    size: u64,
    hash: Md5,
    spool: Option<SpooledTempFile>,
}

impl Both {
    /// Of what was read so far.
    fn md5(&self) -> [u8; 16] {
        self.hash.clone().finalize().into()
    }
}

impl Tap for Both {
    fn see(&mut self, bytes: &[u8], taken: u64) -> io::Result<()> {
        self.hash.update(bytes);
        if taken > self.size {
            self.spool = None;
        }
        self.spool.as_mut().map_or(Ok(()), |spool| spool.write_all(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::encode_v1;
    use super::*;

    fn md5(bytes: &[u8]) -> [u8; 16] {
        Md5::digest(bytes).into()
    }

    fn brotli(plain: &[u8], quality: u32) -> Vec<u8> {
        let mut body = Vec::new();
        let encoded = encode_v1(plain, &mut body, quality).expect("memory");
        assert_eq!((encoded.hash, encoded.size), (md5(plain), plain.len() as u64));
        assert_eq!(encoded.stored, body.len() as u64);
        body
    }

    fn try_decode(hash: [u8; 16], size: usize, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let decode = |length| {
            let mut plain = Vec::new();
            let spool = SpooledTempFile::new(16);
            decode_v1(hash, size as u64, body, length, spool, &mut plain).map(|decoded| {
                assert_eq!(decoded.stored, body.len() as u64);
                assert_eq!(decoded.plain, ContentId::Md5(md5(&plain)));
                plain
            })
        };
        let known = decode(Some(body.len() as u64));
        let unknown = decode(None);
        assert_eq!(known.as_ref().ok(), unknown.as_ref().ok(), "knowing the length must not matter");
        known
    }

    fn files() -> [Vec<u8>; 4] {
        let mixed =
            (0..200_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
        [vec![], b"a".to_vec(), b"text and more text, ".repeat(9_999), mixed]
    }

    #[test]
    fn brotli_and_plain_bodies_under_either_hash() {
        for plain in files() {
            for quality in [0, 1, 5, 9] {
                let body = brotli(&plain, quality);
                assert_eq!(
                    try_decode(md5(&plain), plain.len(), &body).expect("hash of the plain file"),
                    plain
                );
                assert_eq!(try_decode(md5(&body), plain.len(), &body).expect("hash of the body"), plain);
            }
            assert_eq!(try_decode(md5(&plain), plain.len(), &plain).expect("the file itself"), plain);
        }
    }

    #[test]
    fn a_file_that_is_brotli_is_taken_as_what_the_flist_says() {
        let plain = b"compressed twice, ".repeat(100);
        let file = brotli(&plain, 9);
        // The file is the .br itself: its size tells.
        assert_eq!(try_decode(md5(&file), file.len(), &file).expect("the file itself"), file);
        assert_eq!(try_decode(md5(&file), plain.len(), &file).expect("the decoded file"), plain);
        assert_eq!(try_decode(md5(&file), file.len(), &brotli(&file, 9)).expect("the .br in brotli"), file);
    }

    #[test]
    fn the_decoded_form_wins_where_both_fit() {
        // The framing of brotli costs a few bytes, a run saves some: a run of the right length makes it even.
        let (plain, body) = (0..64)
            .map(|run| [&b"q8#Xv0!Kz3$Lw7%Pj"[..], &vec![b'-'; run]].concat())
            .map(|plain| (brotli(&plain, 9), plain))
            .find_map(|(body, plain)| (plain.len() == body.len()).then_some((plain, body)))
            .expect("a run of the right length");
        assert_ne!(plain, body);
        assert_eq!(try_decode(md5(&body), body.len(), &body).expect("both forms fit"), plain);
    }

    #[test]
    fn wrong_bodies_are_refused() {
        let plain = b"what was asked for, ".repeat(100);
        let good = brotli(&plain, 5);
        let flipped = {
            let mut body = plain.clone();
            body[1000] ^= 1;
            body
        };
        for (why, body) in [
            ("other file in brotli", brotli(&flipped, 5)),
            ("other file", flipped),
            ("cut brotli", good[..good.len() - 1].to_vec()),
            ("cut file", plain[..plain.len() - 1].to_vec()),
            ("brotli and more", [&good[..], b"x"].concat()),
            ("file and more", [&plain[..], b"x"].concat()),
            ("nothing", vec![]),
        ] {
            try_decode(md5(&plain), plain.len(), &body).expect_err(why);
        }
        try_decode(md5(&plain), plain.len() - 1, &good).expect_err("wrong size");
        try_decode(md5(&plain), plain.len() + 1, &good).expect_err("wrong size");
    }

    #[test]
    fn the_message_says_what_both_forms_lack() {
        let error = try_decode(md5(b"abc"), 3, b"abd").expect_err("another file");
        let text = error.to_string();
        assert!(
            text.starts_with("not the file with MD5 900150983cd24fb0d6963f7d28e17f72: taken as brotli"),
            "{text}"
        );
        assert!(text.ends_with("taken as the file itself, its MD5 is wrong"), "{text}");
    }

    #[test]
    fn an_endless_body_is_cut() {
        for (start, length) in [(&b"\x0b"[..], None), (b"plain", None), (b"", Some(100))] {
            let body = Cursor::new(start).chain(io::repeat(b' '));
            let mut plain = Vec::new();
            decode_v1([1; 16], 100, body, length, SpooledTempFile::new(16), &mut plain).expect_err("endless");
            assert!(plain.len() <= 100);
        }
    }
}
