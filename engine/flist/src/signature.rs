//! Detached minisign signatures of lists.
//!
//! A signature says who vouches for the bytes of a list, not that it is the newest one: comparing versions is up
//! to the caller.

use std::fmt;
use std::str::FromStr;

use minisign_verify::{Error, Signature};

/// A key whose signatures are trusted.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(minisign_verify::PublicKey);

impl FromStr for PublicKey {
    type Err = SignatureError;

    /// Takes the base64 line of a key, or the whole text of a `minisign.pub` file.
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let text = text.trim();
        let key = if text.contains('\n') {
            minisign_verify::PublicKey::decode(text)
        } else {
            minisign_verify::PublicKey::from_base64(text)
        };
        key.map(Self).map_err(|_| SignatureError::BadKey)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

/// Why a list is not vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a public key.
    #[error("not a minisign public key: expected the base64 line of a .pub file")]
    BadKey,
    /// Not a signature.
    #[error("not a minisign signature: expected the content of a .minisig file")]
    BadSignature,
    /// Made with a key that is not trusted.
    #[error("signed with a key that is not among trusted_keys")]
    Untrusted,
    /// Made for other bytes, or damaged.
    #[error("the signature is wrong: the flist or its .minisig was changed")]
    Wrong,
}

/// Checks that `signature`, the text of a `.minisig` file, was made for `bytes` with one of `trusted`.
///
/// # Errors
/// [`SignatureError`] if not.
pub fn verify(bytes: &[u8], signature: &str, trusted: &[PublicKey]) -> Result<(), SignatureError> {
    let signature = Signature::decode(signature).map_err(|_| SignatureError::BadSignature)?;
    let mut failure = SignatureError::Untrusted;
    for PublicKey(key) in trusted {
        // Signatures of the file itself, which old versions of minisign made, prove as much as those of its hash.
        match key.verify(bytes, &signature, true) {
            Ok(()) => return Ok(()),
            Err(Error::UnexpectedKeyId) => {}
            Err(_) => failure = SignatureError::Wrong,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const OTHER_KEY: &str = "RWQAAAAAAAAAAHmlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    fn key(text: &str) -> PublicKey {
        text.parse().expect("a key")
    }

    #[test]
    fn a_signature_of_a_trusted_key_is_accepted() {
        assert_eq!(verify(b"test", SIGNATURE, &[key(KEY)]), Ok(()));
        assert_eq!(verify(b"test", SIGNATURE, &[key(OTHER_KEY), key(KEY)]), Ok(()));
        let file = format!("untrusted comment: minisign public key\n{KEY}\n");
        assert_eq!(verify(b"test", SIGNATURE, &[key(&file)]), Ok(()));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(verify(b"Test", SIGNATURE, &[key(KEY)]), Err(SignatureError::Wrong));
        assert_eq!(verify(b"test", SIGNATURE, &[key(OTHER_KEY)]), Err(SignatureError::Untrusted));
        assert_eq!(verify(b"test", SIGNATURE, &[]), Err(SignatureError::Untrusted));
        assert_eq!(verify(b"test", "", &[key(KEY)]), Err(SignatureError::BadSignature));
        let comment_changed = SIGNATURE.replace("1633700835", "1733700835");
        assert_eq!(verify(b"test", &comment_changed, &[key(KEY)]), Err(SignatureError::Wrong));
        assert_eq!("RWQ".parse::<PublicKey>(), Err(SignatureError::BadKey));
        assert_eq!("".parse::<PublicKey>(), Err(SignatureError::BadKey));
    }
}
