//! What a tenant's content is sealed with.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hkdf::Hkdf;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// 32 random bytes, from which each content and each list has a key of its own. Clones are the same bytes in memory,
/// which are overwritten when the last one is dropped.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<[u8; Self::LENGTH]>>);

/// A key for one thing.
pub(super) type Derived = Zeroizing<[u8; 32]>;

/// The system has no random bytes to give.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoRandomness(#[source] rustix::io::Errno);

/// Why a secret cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SecretFileError {
    #[error("cannot keep a secret in {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is a secret that others can read, or belongs to another user: chown it to the user who runs aysfs, and chmod it to 600", .0.display())]
    Open(PathBuf),
    #[error(
        "{} should hold a secret of {} bytes: bring it back from a copy, or remove it to encrypt with a new one from now on",
        .0.display(),
        Secret::LENGTH
    )]
    Damaged(PathBuf),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Secret {
    /// Its length in bytes.
    pub(super) const LENGTH: usize = 32;

    /// A new one.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self(Arc::new(random()?)))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut secret = Zeroizing::new([0; Self::LENGTH]);
        if bytes.len() != secret.len() {
            return None;
        }
        secret.copy_from_slice(bytes);
        Some(Self(Arc::new(secret)))
    }

    /// The bytes, to be wrapped for a recipient and for nothing else.
    pub(super) fn expose(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Tells one secret from another, and nothing else: it may be written down where the secret may not.
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.derive(b"aysfs fingerprint 1", &[0; 32])
    }

    /// The key of a chunk with this content.
    pub(crate) fn of_chunk(&self, sha256: &[u8; 32]) -> Derived {
        self.derive(b"aysfs chunk 1", sha256)
    }

    /// The key of a list with this header.
    pub(super) fn of_list(&self, header: &[u8; 32]) -> Derived {
        self.derive(b"aysfs flist 1", header)
    }

    /// The one that is kept in a file of this user, for nobody else to read; it is made if there is none.
    ///
    /// # Errors
    /// [`SecretFileError`].
    pub fn kept_in(path: &Path) -> Result<Self, SecretFileError> {
        let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
        loop {
            match Self::read(path) {
                Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
            let new = Self::generate()?;
            let mut part =
                tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
            part.write_all(new.expose()).and_then(|()| part.as_file().sync_all()).map_err(failed)?;
            match part.persist_noclobber(path) {
                Ok(_) => return Ok(new),
                // Another process was faster.
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error.error)),
            }
        }
    }

    fn read(path: &Path) -> Result<Self, SecretFileError> {
        let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(SecretFileError::Open(path.to_owned()));
        }
        let mut bytes = Zeroizing::new([0; Self::LENGTH + 1]);
        let mut filled = 0;
        loop {
            match (&file).read(&mut bytes[filled..]).map_err(failed)? {
                0 => break,
                more => filled += more,
            }
        }
        Self::from_bytes(&bytes[..filled]).ok_or_else(|| SecretFileError::Damaged(path.to_owned()))
    }

    fn derive(&self, purpose: &[u8], of: &[u8; 32]) -> Derived {
        let mut key = Derived::default();
        Hkdf::<Sha256>::new(None, self.expose())
            .expand_multi_info(&[purpose, of], &mut key[..])
            .expect("HKDF gives up to 255 times 32 bytes");
        key
    }
}

/// Random bytes from the system.
pub(super) fn random<const LENGTH: usize>() -> Result<Zeroizing<[u8; LENGTH]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    let mut filled = 0;
    while filled < LENGTH {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(NoRandomness(error)),
        }
    }
    Ok(bytes)
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::from_bytes(&[0x61; 32]).expect("32 bytes");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
    }

    #[test]
    fn every_content_and_every_purpose_has_a_key_of_its_own() {
        let (one, other) = (Secret::generate().expect("random"), Secret::generate().expect("random"));
        assert_ne!(one, other);
        assert_eq!(one.of_chunk(&[1; 32]), one.clone().of_chunk(&[1; 32]));
        assert_ne!(one.of_chunk(&[1; 32]), one.of_chunk(&[2; 32]));
        assert_ne!(one.of_chunk(&[1; 32]), one.of_list(&[1; 32]));
        assert_ne!(one.of_chunk(&[1; 32]), other.of_chunk(&[1; 32]));
    }

    #[test]
    fn a_fingerprint_tells_secrets_apart_and_is_no_key() {
        let (one, other) = (Secret::generate().expect("random"), Secret::generate().expect("random"));
        assert_eq!(one.fingerprint(), one.clone().fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_ne!(one.fingerprint(), *one.expose());
        assert_ne!(one.fingerprint(), *one.of_chunk(&[0; 32]));
        assert_ne!(one.fingerprint(), *one.of_list(&[0; 32]));
    }

    #[test]
    fn a_secret_has_one_length() {
        for length in [0, 31, 33] {
            assert_eq!(Secret::from_bytes(&vec![0; length]), None);
        }
    }

    #[test]
    fn a_secret_is_kept_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        let secret = Secret::kept_in(&path).expect("made");
        assert_eq!(Secret::kept_in(&path).expect("read"), secret);
        assert_ne!(&secret.fingerprint(), secret.expose());
        let mode = |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode));
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        mode(0o640).expect("ours");
        assert!(matches!(Secret::kept_in(&path), Err(SecretFileError::Open(_))));
        mode(0o600).expect("ours");
        std::fs::write(&path, [0; 33]).expect("ours");
        assert!(matches!(Secret::kept_in(&path), Err(SecretFileError::Damaged(_))));
    }
}
