//! Detached minisign signatures of lists.
//!
//! A signature says who vouches for the bytes of a list, not that it is the newest one: comparing versions is up
//! to the caller.

use minisign_verify::{Error, PublicKey, Signature};

/// Why a list is not vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
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
    for key in trusted {
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
        PublicKey::from_base64(text).expect("a key")
    }

    #[test]
    fn a_signature_of_a_trusted_key_is_accepted() {
        assert_eq!(verify(b"test", SIGNATURE, &[key(KEY)]), Ok(()));
        assert_eq!(verify(b"test", SIGNATURE, &[key(OTHER_KEY), key(KEY)]), Ok(()));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(verify(b"Test", SIGNATURE, &[key(KEY)]), Err(SignatureError::Wrong));
        assert_eq!(verify(b"test", SIGNATURE, &[key(OTHER_KEY)]), Err(SignatureError::Untrusted));
        assert_eq!(verify(b"test", SIGNATURE, &[]), Err(SignatureError::Untrusted));
        assert_eq!(verify(b"test", "", &[key(KEY)]), Err(SignatureError::BadSignature));
        let comment_changed = SIGNATURE.replace("1633700835", "1733700835");
        assert_eq!(verify(b"test", &comment_changed, &[key(KEY)]), Err(SignatureError::Wrong));
    }
}
