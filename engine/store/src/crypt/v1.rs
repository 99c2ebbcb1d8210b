//! What the old system encrypted: read only.
//!
//! A body is brotli of an IV of 16 bytes and the file in AES-256-CFB128. The key is the MD5 of the plain file, as 32
//! lowercase hex digits, and comes wrapped with RSA PKCS#1 v1.5 for each recipient, in hex. None of it is authenticated, so
//! everything that is known is compared: the MD5 of the body with the hash of the flist, the length, and the MD5 of the
//! plain file with the key itself. A key that is not the right one (also what PKCS#1 v1.5 makes of a wrapped key that was
//! changed) fails there.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};

use aes::Aes256;
use aes::cipher::KeyIvInit;
use cfb_mode::BufDecryptor;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::PrivateKey;
use crate::ContentId;
use crate::codec::{DecodeError, Decoded, decode_v1_body};

/// The key of one v1 object.
pub struct V1Key(Zeroizing<[u8; 32]>);

const IV: u64 = 16;

impl V1Key {
    /// Unwraps a key that is in a flist (`ukey=`, `skey=`) or a `.meta` file (`UserKey`, `StoreKey`) in hex digits. `None` if
    /// it was not wrapped for this recipient, or is damaged; a wrong one may also show only when it is used.
    pub fn unwrap(wrapped: &[u8], recipient: &PrivateKey) -> Option<Self> {
        let digits = recipient.unwrap_v1(wrapped)?;
        let mut key = Zeroizing::new([0; 32]);
        if digits.len() != key.len() || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        {
            return None;
        }
        key.copy_from_slice(&digits);
        Some(Self(key))
    }

    /// The MD5 of the plain file.
    fn plain_md5(&self) -> [u8; 16] {
        let mut md5 = [0; 16];
        hex::decode_to_slice(&self.0[..], &mut md5).expect("it consists of 32 hex digits");
        md5
    }
}

impl fmt::Debug for V1Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What opens the encrypted objects of a v1 flist.
#[derive(Default)]
pub struct V1Keyring {
    /// By the hash of the object: its key, wrapped for this one and that.
    wrapped: HashMap<[u8; 16], Vec<Box<[u8]>>>,
    recipients: Vec<PrivateKey>,
}

impl V1Keyring {
    /// For whoever has the private keys of these recipients.
    pub fn new(recipients: Vec<PrivateKey>) -> Self {
        Self { wrapped: HashMap::new(), recipients }
    }

    /// Adds the key of an object, wrapped for some recipient; of an object that has none the ring says that it is not
    /// encrypted.
    pub fn add(&mut self, hash: [u8; 16], wrapped: &[u8]) {
        let known = self.wrapped.entry(hash).or_default();
        // Files with the same content repeat it.
        if !known.iter().any(|known| **known == *wrapped) {
            known.push(wrapped.into());
        }
    }

    /// How many objects are encrypted.
    pub fn objects(&self) -> usize {
        self.wrapped.len()
    }

    /// Whether there is nobody to read them.
    pub fn is_locked(&self) -> bool {
        self.recipients.is_empty()
    }

    /// The key of an object; `None` if that is not encrypted. Takes an RSA operation, or some.
    ///
    /// # Errors
    /// [`DecodeError::Encrypted`]: it was wrapped for others only.
    pub(crate) fn key_of(&self, hash: &[u8; 16]) -> Result<Option<V1Key>, DecodeError> {
        let Some(wrapped) = self.wrapped.get(hash) else { return Ok(None) };
        let tried =
            self.recipients.iter().flat_map(|recipient| wrapped.iter().map(move |key| (key, recipient)));
        match tried.filter_map(|(key, recipient)| V1Key::unwrap(key, recipient)).next() {
            Some(key) => Ok(Some(key)),
            None => Err(DecodeError::Encrypted),
        }
    }
}

impl fmt::Debug for V1Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wrapped, recipients } = self;
        write!(f, "{} objects for {} recipients", wrapped.len(), recipients.len())
    }
}

/// Decodes an encrypted v1 body into `sink`; `Ok` means that the plain bytes are those of the flist. What was written
/// before an error is garbage, and to be forgotten.
///
/// # Errors
/// Any flaw of the body, and a key that is not its own; [`DecodeError::Write`] if the sink fails.
pub fn decode_v1_sealed(
    hash: [u8; 16],
    size: u64,
    key: &V1Key,
    body: impl Read,
    sink: &mut impl Write,
) -> Result<Decoded, DecodeError> {
    let mut plain = Decrypting { key, iv: Vec::new(), cipher: None, digest: Md5::new(), sink };
    let body = decode_v1_body(size.saturating_add(IV), body, &mut plain)?;
    if body.md5 != hash {
        let (expected, found) = (ContentId::Md5(hash), ContentId::Md5(body.md5));
        return Err(DecodeError::Body { expected, found });
    }
    let found: [u8; 16] = plain.digest.finalize().into();
    if found != key.plain_md5() {
        return Err(DecodeError::Key);
    }
    Ok(Decoded { stored: body.stored, plain: ContentId::Md5(found) })
}

/// Decrypts what is written to it.
struct Decrypting<'a, W> {
    key: &'a V1Key,
    iv: Vec<u8>,
    cipher: Option<BufDecryptor<Aes256>>,
    digest: Md5,
    sink: &'a mut W,
}

impl<W: Write> Write for Decrypting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let cipher = match &mut self.cipher {
            Some(cipher) => cipher,
            None => {
                let n = bytes.len().min(16 - self.iv.len());
                self.iv.extend_from_slice(&bytes[..n]);
                if self.iv.len() == 16 {
                    let cipher = BufDecryptor::new_from_slices(&self.key.0[..], &self.iv);
                    self.cipher = Some(cipher.expect("a key of 32 bytes and an IV of 16"));
                }
                return Ok(n);
            }
        };
        let mut plain = bytes.to_vec();
        cipher.decrypt(&mut plain);
        self.digest.update(&plain);
        self.sink.write_all(&plain)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
