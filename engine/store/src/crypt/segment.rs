//! Bytes sealed with AES-256-GCM-SIV, in segments, so that a stream of any length takes bounded memory.
//!
//! A segment is up to [`SEGMENT`] bytes of ciphertext and a tag of 16; all but the last are full. The nonce of a segment is
//! its number, so that of the first is zero. Authenticated with it are a byte of the caller's, which says what the stream
//! is, and whether it is the last one. So no segment can be changed, left out, repeated, moved or taken from another
//! stream, and nothing can be cut off or added at the end.
//!
//! A key is derived from what it seals (a content's digest, a list's header), so a nonce is used again only for the same
//! content, compressed in another way at most; that GCM-SIV survives this is why it is used.

use std::io::{self, Read};

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce, Tag};

/// How many bytes are sealed at once.
const SEGMENT: usize = 64 << 10;

const TAG: usize = 16;

/// What both directions need.
struct Cipher {
    aead: Aes256GcmSiv,
    purpose: u8,
    number: u64,
}

impl Cipher {
    fn new(key: &[u8; 32], purpose: u8) -> Self {
        Self { aead: Aes256GcmSiv::new(key.into()), purpose, number: 0 }
    }

    /// Nonce and associated data of the next segment.
    fn next(&mut self, is_last: bool) -> (Nonce, [u8; 2]) {
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        (nonce, [self.purpose, u8::from(is_last)])
    }
}

/// A source in pieces of a known size, of which the last one is known to be that.
struct Pieces<R> {
    inner: R,
    size: usize,
    /// A byte of the next piece: there is one.
    ahead: Option<u8>,
    ended: bool,
}

impl<R: Read> Pieces<R> {
    fn new(inner: R, size: usize) -> Self {
        Self { inner, size, ahead: None, ended: false }
    }

    /// Reads the next piece; returns whether it is the last one. After an error there is no going on.
    fn next(&mut self, piece: &mut Vec<u8>) -> io::Result<bool> {
        piece.clear();
        piece.extend(self.ahead.take());
        let wanted = self.size + 1 - piece.len();
        self.inner.by_ref().take(wanted as u64).read_to_end(piece)?;
        if piece.len() > self.size {
            self.ahead = piece.pop();
        }
        self.ended = self.ahead.is_none();
        Ok(self.ended)
    }
}

/// Segments on their way through a cipher, either way.
struct Segments<R> {
    pieces: Pieces<R>,
    cipher: Cipher,
    /// A segment as it is handed out.
    buffer: Vec<u8>,
    taken: usize,
    broken: bool,
}

impl<R: Read> Segments<R> {
    /// Of a source whose segments have this size.
    fn new(inner: R, size: usize, key: &[u8; 32], purpose: u8) -> Self {
        let (pieces, cipher) = (Pieces::new(inner, size), Cipher::new(key, purpose));
        Self { pieces, cipher, buffer: Vec::new(), taken: 0, broken: false }
    }

    /// Hands out what there is, after `next` has made the next segment of it if there was nothing left.
    fn read(&mut self, to: &mut [u8], next: fn(&mut Self) -> io::Result<()>) -> io::Result<usize> {
        while self.taken == self.buffer.len() && !self.pieces.ended && !self.broken {
            self.taken = 0;
            if let Err(error) = next(self) {
                // Nothing of a segment that failed may be handed out, whatever the reader does next.
                self.buffer.clear();
                self.broken = true;
                return Err(error);
            }
        }
        if self.broken {
            return Err(io::Error::other("it failed before"));
        }
        let left = &self.buffer[self.taken..];
        let n = to.len().min(left.len());
        to[..n].copy_from_slice(&left[..n]);
        self.taken += n;
        Ok(n)
    }

    fn seal_next(&mut self) -> io::Result<()> {
        let is_last = self.pieces.next(&mut self.buffer)?;
        let (nonce, data) = self.cipher.next(is_last);
        let tag = self.cipher.aead.encrypt_inout_detached(&nonce, &data, self.buffer.as_mut_slice().into());
        self.buffer.extend(tag.map_err(|_| io::Error::other("a segment is too long to seal"))?);
        Ok(())
    }

    fn open_next(&mut self) -> io::Result<()> {
        let is_last = self.pieces.next(&mut self.buffer)?;
        let (nonce, data) = self.cipher.next(is_last);
        let forged = || {
            let what = "it was changed or cut after it was encrypted, or encrypted with another key";
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        let plain = self.buffer.len().checked_sub(TAG).ok_or_else(forged)?;
        let (body, tag) = self.buffer.split_at_mut(plain);
        let tag = <&Tag>::try_from(&*tag).map_err(|_| forged())?;
        let opened = self.cipher.aead.decrypt_inout_detached(&nonce, &data, body.into(), tag);
        opened.map_err(|_| forged())?;
        self.buffer.truncate(plain);
        Ok(())
    }
}

/// Seals what is read through it.
pub(crate) struct Sealer<R>(Segments<R>);

impl<R: Read> Sealer<R> {
    pub(crate) fn new(plain: R, key: &[u8; 32], purpose: u8) -> Self {
        Self(Segments::new(plain, SEGMENT, key, purpose))
    }
}

impl<R: Read> Read for Sealer<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to, Segments::seal_next)
    }
}

/// Opens what is read through it: nothing of a segment is handed out before its tag was right.
pub(crate) struct Opener<R>(Segments<R>);

impl<R: Read> Opener<R> {
    pub(crate) fn new(sealed: R, key: &[u8; 32], purpose: u8) -> Self {
        Self(Segments::new(sealed, SEGMENT + TAG, key, purpose))
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to, Segments::open_next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn seal(plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        Sealer::new(plain, &KEY, 129).read_to_end(&mut sealed).expect("memory");
        sealed
    }

    fn open_with(sealed: &[u8], key: &[u8; 32], purpose: u8) -> Result<Vec<u8>, Vec<u8>> {
        let mut plain = Vec::new();
        match Opener::new(sealed, key, purpose).read_to_end(&mut plain) {
            Ok(_) => Ok(plain),
            Err(_) => Err(plain),
        }
    }

    fn open(sealed: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        open_with(sealed, &KEY, 129)
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n % 251).expect("small")).collect()
    }

    #[test]
    fn all_lengths_come_back() {
        for length in [0, 1, 15, 16, 17, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 5] {
            let sealed = seal(&sample(length));
            let segments = length.div_ceil(SEGMENT).max(1);
            assert_eq!(sealed.len(), length + segments * TAG);
            assert_eq!(open(&sealed), Ok(sample(length)));
            assert_eq!(sealed, seal(&sample(length)), "equal content, equal bytes");
        }
    }

    #[test]
    fn the_first_nonce_is_zero() {
        let mut plain = *b"as the design has it";
        let aead = Aes256GcmSiv::new((&KEY).into());
        let tag = aead.encrypt_inout_detached(&Nonce::default(), &[129, 1], plain.as_mut_slice().into());
        let expected = [&plain[..], &tag.expect("short")].concat();
        assert_eq!(seal(b"as the design has it"), expected);
    }

    #[test]
    fn what_was_changed_anywhere_is_refused() {
        let sealed = seal(&sample(100));
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(open(&changed), Err(Vec::new()), "byte {position}");
        }
        assert_eq!(open_with(&sealed, &[8; 32], 129), Err(Vec::new()), "another key");
        assert_eq!(open_with(&sealed, &KEY, 128), Err(Vec::new()), "another purpose");
    }

    #[test]
    fn what_was_cut_or_added_is_refused() {
        let sealed = seal(&sample(2 * SEGMENT));
        let whole = SEGMENT + TAG;
        for length in [0, 1, TAG, whole - 1, whole, whole + 1, whole + TAG, sealed.len() - 1] {
            let shown = open(&sealed[..length]).expect_err("cut");
            assert!(sample(2 * SEGMENT).starts_with(&shown), "only what was authentic is ever shown");
        }
        assert!(open(&[&sealed[..], b"x"].concat()).is_err());
        assert!(open(&[&sealed[..], &sealed[..]].concat()).is_err());
    }

    #[test]
    fn segments_have_their_place() {
        let sealed = seal(&sample(3 * SEGMENT));
        let (first, rest) = sealed.split_at(SEGMENT + TAG);
        let (second, third) = rest.split_at(SEGMENT + TAG);
        for order in [[second, first, third], [first, first, third], [first, third, second], [third; 3]] {
            let shown = open(&order.concat()).expect_err("out of place");
            assert!(sample(3 * SEGMENT).starts_with(&shown));
        }
        assert!(open(&[first, third].concat()).is_err(), "one is missing");
    }

    #[test]
    fn an_error_of_the_source_is_passed_on_and_ends_it() {
        struct Cut;
        impl Read for Cut {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let mut sealer = Sealer::new((&b"plain"[..]).chain(Cut), &KEY, 129);
        sealer.read(&mut [0; 10]).expect_err("cut");
        sealer.read(&mut [0; 10]).expect_err("nothing unsealed is handed out");
        let mut opener = Opener::new(Cut, &KEY, 129);
        let error = opener.read(&mut [0; 10]).expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        opener.read(&mut [0; 10]).expect_err("still");
    }
}
