//! RSA keys in PEM files: PKCS#1 and PKCS#8, private and public.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rsa::Generate;
use rsa::pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The longest key file that is read, in bytes: one of 16384 bits has some 13,000.
const MAX_FILE: u64 = 64 << 10;

/// The shortest modulus that protects anything, in bytes.
const MIN_MODULUS: usize = 2048 / 8;

/// The permission bits that let others read or write.
const OTHERS: u32 = 0o077;

/// Opens what was sealed for it. It is overwritten when its last clone is dropped.
#[derive(Clone)]
pub struct PrivateKey(Arc<rsa::PrivateKey>);

/// Seals for its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(rsa::PublicKey);

/// What a key file holds.
#[derive(Clone, Debug)]
pub enum KeyFile {
    /// A private key, which says what its public key is, too.
    Private(PrivateKey),
    /// A public key: enough to write for its owner.
    Public(PublicKey),
}

/// Why a key file cannot be used, read or written. Nothing of a key is ever in it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeyFileError {
    #[error("cannot read the key file {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a key file: it is no regular file, or longer than {MAX_FILE} bytes", .0.display())]
    NotAFile(PathBuf),
    #[error(
        "the private key {} can be read or written by others (mode {mode:04o}): run `chmod 600` on it, and replace it if \
         somebody may have read it",
        .path.display()
    )]
    Permissions { path: PathBuf, mode: u32 },
    #[error("the private key {} is protected by a password, which aysfs cannot ask for: write a copy without it (`openssl pkey -in ... -out ...`)", .0.display())]
    Password(PathBuf),
    #[error("{} holds no RSA key in PEM form (PKCS#1 or PKCS#8): create one with `aysfs keygen`", .0.display())]
    NotAKey(PathBuf),
    #[error("the RSA key {} has {bits} bits, which is too short: create one with `aysfs keygen`", .path.display())]
    Short { path: PathBuf, bits: usize },
    #[error("{} holds a public key, and reading takes the private one", .0.display())]
    Public(PathBuf),
    #[error("{} exists: name another file, since what it opens would be lost with it", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make an RSA key: the system gives no random bytes")]
    Generate,
}

impl KeyFile {
    /// Reads a key. A private one must belong to its owner alone.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |source| KeyFileError::Read { path: path.to_owned(), source };
        // A fifo would wait for a writer.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let mut options = File::options();
        let file = options.read(true).custom_flags(nonblock).open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() || meta.len() > MAX_FILE {
            return Err(KeyFileError::NotAFile(path.to_owned()));
        }
        // With room for all of it, so that it is never moved and left behind.
        let room = usize::try_from(MAX_FILE).unwrap_or(usize::MAX);
        let mut text = Zeroizing::new(String::with_capacity(room));
        match file.take(MAX_FILE).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(KeyFileError::NotAKey(path.to_owned()));
            }
            Err(error) => return Err(unreadable(error)),
        }
        let key = Self::parse(&text, path)?;
        if let Self::Private(_) = key
            && meta.mode() & OTHERS != 0
        {
            return Err(KeyFileError::Permissions { path: path.to_owned(), mode: meta.mode() & 0o7777 });
        }
        Ok(key)
    }

    /// Reads a private key.
    ///
    /// # Errors
    /// [`KeyFileError`], [`KeyFileError::Public`] among them.
    pub fn read_private(path: &Path) -> Result<PrivateKey, KeyFileError> {
        match Self::read(path)? {
            Self::Private(key) => Ok(key),
            Self::Public(_) => Err(KeyFileError::Public(path.to_owned())),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, KeyFileError> {
        let text = text.trim();
        let (private, public) =
            (|key| Self::Private(PrivateKey(Arc::new(key))), |key| Self::Public(PublicKey(key)));
        let label = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----"));
        let parsed = match label.map(|(label, _)| label) {
            Some("RSA PRIVATE KEY") if text.contains("Proc-Type: 4,ENCRYPTED") => {
                return Err(KeyFileError::Password(path.to_owned()));
            }
            Some("ENCRYPTED PRIVATE KEY") => return Err(KeyFileError::Password(path.to_owned())),
            Some("RSA PRIVATE KEY") => rsa::PrivateKey::from_pkcs1_pem(text).ok().map(private),
            Some("PRIVATE KEY") => rsa::PrivateKey::from_pkcs8_pem(text).ok().map(private),
            Some("RSA PUBLIC KEY") => rsa::PublicKey::from_pkcs1_pem(text).ok().map(public),
            Some("PUBLIC KEY") => rsa::PublicKey::from_public_key_pem(text).ok().map(public),
            _ => None,
        };
        let key = parsed.ok_or_else(|| KeyFileError::NotAKey(path.to_owned()))?;
        let modulus = key.public().0.size();
        if modulus < MIN_MODULUS {
            return Err(KeyFileError::Short { path: path.to_owned(), bits: modulus * 8 });
        }
        Ok(key)
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Private(key) => key.public(),
            Self::Public(key) => key.clone(),
        }
    }
}

impl PrivateKey {
    /// A new one, of 3072 bits.
    ///
    /// # Errors
    /// [`KeyFileError::Generate`].
    pub fn generate() -> Result<Self, KeyFileError> {
        rsa::PrivateKey::try_generate().map(|key| Self(Arc::new(key))).map_err(|_| KeyFileError::Generate)
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.to_public_key())
    }

    /// Writes it to `path` (PKCS#8, for its owner alone), and its public key to `public`. Replaces nothing: what an older
    /// key opens would be lost.
    ///
    /// # Errors
    /// [`KeyFileError`]; neither file is there then.
    pub fn write(&self, path: &Path, public: &Path) -> Result<(), KeyFileError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |()| KeyFileError::Write { path, source: io::Error::other("the key cannot be encoded") }
        };
        let text = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| ()).map_err(failed(path))?;
        let public_text = self.0.as_public_key().to_public_key_pem(LineEnding::LF);
        let public_text = public_text.map_err(|_| ()).map_err(failed(public))?;
        write_new(path, 0o600, text.as_bytes())?;
        write_new(public, 0o644, public_text.as_bytes()).inspect_err(|_| {
            std::fs::remove_file(path).ok();
        })
    }

    /// Opens what [`PublicKey::wrap`] made for it.
    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.0.oaep_decrypt::<Sha256>(wrapped).ok().map(Zeroizing::new)
    }

    /// Opens what the old system wrapped for it. What it returns is to be verified: damage may turn into other bytes.
    pub(super) fn unwrap_v1(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.0.pkcs1v15_decrypt(wrapped).ok().map(Zeroizing::new)
    }
}

impl PublicKey {
    /// SHA-256 of the key (as a SubjectPublicKeyInfo): names a recipient.
    pub fn fingerprint(&self) -> [u8; 32] {
        let encoded = self.0.to_public_key_der().expect("a key that was parsed or made can be encoded");
        Sha256::digest(encoded.as_bytes()).into()
    }

    /// Lets its owner, and nobody else, have `secret`: RSA-OAEP with SHA-256.
    pub(super) fn wrap(&self, secret: &[u8]) -> Result<Vec<u8>, rsa::Error> {
        self.0.oaep_encrypt::<Sha256>(secret)
    }
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Write { path: path.to_owned(), source },
    };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| {
        std::fs::remove_file(path).ok();
        failed(error)
    })
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.fingerprint()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::OnceLock;

    use rsa::pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey};

    use super::*;

    fn key() -> &'static PrivateKey {
        static KEY: OnceLock<PrivateKey> = OnceLock::new();
        KEY.get_or_init(|| PrivateKey::generate().expect("random"))
    }

    fn read(text: &str, mode: u32) -> Result<KeyFile, KeyFileError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key.pem");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        KeyFile::read(&path)
    }

    fn pkcs8() -> Zeroizing<String> {
        key().0.to_pkcs8_pem(LineEnding::LF).expect("encoded")
    }

    #[test]
    fn all_four_forms_are_read() {
        let (private, public) = (&key().0, key().0.as_public_key());
        let forms = [
            private.to_pkcs1_pem(LineEnding::LF).expect("encoded").to_string(),
            pkcs8().to_string(),
            public.to_pkcs1_pem(LineEnding::LF).expect("encoded"),
            public.to_public_key_pem(LineEnding::LF).expect("encoded"),
        ];
        for (n, form) in forms.iter().enumerate() {
            let read = read(form, 0o600).expect("a key");
            assert_eq!(read.public(), key().public());
            assert_eq!(matches!(read, KeyFile::Private(_)), n < 2);
        }
    }

    #[test]
    fn a_private_key_that_others_can_read_is_refused() {
        for mode in [0o400, 0o600, 0o700] {
            read(&pkcs8(), mode).expect("its owner's alone");
        }
        for mode in [0o640, 0o604, 0o644, 0o620, 0o602] {
            let error = read(&pkcs8(), mode).expect_err("others");
            assert!(
                matches!(error, KeyFileError::Permissions { mode: found, .. } if found == mode),
                "{error}"
            );
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        let public = key().0.as_public_key().to_public_key_pem(LineEnding::LF).expect("encoded");
        read(&public, 0o644).expect("a public key is no secret");
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_shown() {
        let text = pkcs8();
        let cut = &text[..text.len() / 2];
        let other = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
        for bad in ["", "hello", cut, other, &text.replace("PRIVATE", "PUBLIC")] {
            let error = read(bad, 0o600).expect_err("no key");
            assert!(matches!(error, KeyFileError::NotAKey(_)), "{error}");
            let (shown, secret) = (format!("{error} {error:?}"), &text[100..120]);
            assert!(!shown.contains(secret), "{shown}");
        }
        let protected = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(matches!(read(protected, 0o600), Err(KeyFileError::Password(_))));
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(KeyFile::read(dir.path()), Err(KeyFileError::NotAFile(_))));
        assert!(matches!(KeyFile::read(&dir.path().join("none")), Err(KeyFileError::Read { .. })));
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("made");
        assert!(matches!(KeyFile::read(&fifo), Err(KeyFileError::NotAFile(_))), "nobody waits for a writer");
    }

    #[test]
    fn a_written_key_is_its_owners_and_replaces_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (private, public) = (dir.path().join("key"), dir.path().join("key.pub"));
        key().write(&private, &public).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&private), 0o600);
        assert_eq!(mode(&public) & 0o111, 0);
        assert_eq!(KeyFile::read_private(&private).expect("a key").public(), key().public());
        assert!(matches!(KeyFile::read_private(&public), Err(KeyFileError::Public(_))));

        let before = fs::read(&private).expect("there");
        assert!(matches!(key().write(&private, &public), Err(KeyFileError::Exists(path)) if path == private));
        assert_eq!(fs::read(&private).expect("there"), before);
        fs::remove_file(&private).expect("removed");
        assert!(matches!(key().write(&private, &public), Err(KeyFileError::Exists(path)) if path == public));
        assert!(!private.exists(), "not half of a pair");
    }

    #[test]
    fn only_the_owner_unwraps() {
        let wrapped = key().public().wrap(b"0123456789").expect("short");
        assert_eq!(key().unwrap(&wrapped).expect("its owner")[..], b"0123456789"[..]);
        let other = PrivateKey::generate().expect("random");
        assert!(other.unwrap(&wrapped).is_none());
        for position in [0, wrapped.len() / 2, wrapped.len() - 1] {
            let mut changed = wrapped.clone();
            changed[position] ^= 1;
            assert!(key().unwrap(&changed).is_none());
        }
        assert!(key().unwrap(&wrapped[1..]).is_none());
    }
}
