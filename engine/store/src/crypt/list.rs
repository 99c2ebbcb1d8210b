//! Sealed flists: a clear header with the recipients, and one encrypted body.
//!
//! ```text
//! # aysfs-flist sealed 1
//! # salt: <64 hex digits>
//! # recipient: <fingerprint of an RSA key> <the secret, wrapped with RSA-OAEP-SHA256, in base64>
//!                                                       (one such line for each recipient; then an empty line)
//! <the flist in zstd, sealed>
//! ```
//!
//! The key of the body is derived from the secret and from the SHA-256 of the header, so a header that was changed opens
//! nothing; its salt makes every list differ from every other. What is in the body (names, sizes, owners, digests) is for
//! those who can open it. An older aysfs says of the first line that it needs a newer one.

use std::fmt;
use std::io::{self, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::secret::{self, NoRandomness, Secret};
use super::segment::{Opener, Sealer};
use super::{PrivateKey, PublicKey};

/// The first line.
const FIRST: &str = "# aysfs-flist sealed ";
/// The format that is written and read.
const FORMAT: &str = "1";
const SALT: &str = "# salt: ";
const RECIPIENT: &str = "# recipient: ";

/// The most recipients that a list may have.
const MAX_RECIPIENTS: usize = 256;
/// The longest header that is read, in bytes.
const MAX_HEADER: usize = 1 << 20;
/// The longest list that is opened, in bytes, as it is without a seal.
const MAX_LIST: u64 = 4 << 30;

/// What the seal of a list says that it is; no codec byte of a chunk.
const PURPOSE: u8 = 0;

const ZSTD_LEVEL: i32 = 3;

/// A secret, and who may know it.
#[derive(Clone, Debug)]
pub struct Sealing {
    secret: Secret,
    recipients: Vec<Recipient>,
}

/// One who may know it.
#[derive(Clone)]
struct Recipient {
    fingerprint: [u8; 32],
    /// The secret, wrapped for this one.
    wrapped: Vec<u8>,
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.fingerprint))
    }
}

/// Why a list cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SealedError {
    #[error("this is sealed flist format {0}, and this aysfs knows {FORMAT}: install a newer aysfs")]
    NewerFormat(String),
    #[error("its header is damaged")]
    Header,
    #[error("it was not encrypted for this key: ask who wrote it to add your public key")]
    NotARecipient,
    #[error("the secret in its header was damaged, or wrapped for another key")]
    Wrapped,
    #[error("it was changed or cut after it was encrypted")]
    Damaged,
    #[error("it is longer than {MAX_LIST} bytes")]
    TooLong,
    #[error("it has no recipients: nobody could read it")]
    NoRecipients,
    #[error("it has more than {MAX_RECIPIENTS} recipients")]
    TooManyRecipients,
    #[error("the secret cannot be wrapped: {0}")]
    Wrap(rsa::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("cannot write the encrypted flist: {0}")]
    Write(io::Error),
}

/// Whether these bytes begin a sealed list.
pub fn is_sealed(start: &[u8]) -> bool {
    start.starts_with(FIRST.as_bytes())
}

impl Sealing {
    /// How many bytes [`is_sealed`] looks at.
    pub const START: usize = FIRST.len();

    /// A new secret for these recipients.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn new<'a>(recipients: impl IntoIterator<Item = &'a PublicKey>) -> Result<Self, SealedError> {
        Self::of(Secret::generate()?, recipients)
    }

    /// A secret that there is already, for these recipients.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn of<'a>(
        secret: Secret,
        recipients: impl IntoIterator<Item = &'a PublicKey>,
    ) -> Result<Self, SealedError> {
        let mut new = Self { secret, recipients: Vec::new() };
        for recipient in recipients {
            new.add(recipient)?;
        }
        if new.recipients.is_empty() { Err(SealedError::NoRecipients) } else { Ok(new) }
    }

    /// Lets the owner of a key open what is sealed from now on; objects stay as they are. One who may already is no
    /// error.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn add(&mut self, recipient: &PublicKey) -> Result<(), SealedError> {
        let fingerprint = recipient.fingerprint();
        if self.recipients.iter().any(|known| known.fingerprint == fingerprint) {
            return Ok(());
        }
        if self.recipients.len() == MAX_RECIPIENTS {
            return Err(SealedError::TooManyRecipients);
        }
        let wrapped = recipient.wrap(self.secret.expose()).map_err(SealedError::Wrap)?;
        self.recipients.push(Recipient { fingerprint, wrapped });
        Ok(())
    }

    /// The fingerprints of the keys that open it.
    pub fn recipients(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.recipients.iter().map(|recipient| &recipient.fingerprint)
    }

    /// With the recipients of another sealing as well, if that has the same secret.
    #[must_use]
    pub fn joined(mut self, other: Option<&Self>) -> Self {
        let others = other.filter(|other| other.secret == self.secret).map(|other| &other.recipients);
        for recipient in others.into_iter().flatten() {
            if !self.recipients().any(|known| *known == recipient.fingerprint) {
                self.recipients.push(recipient.clone());
            }
        }
        self
    }

    /// What content is sealed with.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Writes `list` sealed, in bounded memory.
    ///
    /// # Errors
    /// [`SealedError::Write`], also for what cannot be read; [`SealedError::NoRandomness`].
    pub fn seal(&self, list: impl Read, mut out: impl Write) -> Result<(), SealedError> {
        let mut header = format!("{FIRST}{FORMAT}\n{SALT}{}\n", hex::encode(&secret::random::<32>()?[..]));
        for Recipient { fingerprint, wrapped } in &self.recipients {
            header += &format!("{RECIPIENT}{} {}\n", hex::encode(fingerprint), STANDARD.encode(wrapped));
        }
        header.push('\n');
        let key = self.secret.of_list(&Sha256::digest(&header).into());
        let sealed = || {
            out.write_all(header.as_bytes())?;
            let packed = zstd::stream::read::Encoder::new(list, ZSTD_LEVEL)?;
            io::copy(&mut Sealer::new(packed, &key, PURPOSE), &mut out)?;
            out.flush()
        };
        sealed().map_err(SealedError::Write)
    }

    /// Opens a sealed list with the first of `keys` that it was sealed for; returns the list, and what it was sealed with.
    ///
    /// # Errors
    /// [`SealedError`]; nothing of the list is returned then.
    pub fn open(sealed: &[u8], keys: &[PrivateKey]) -> Result<(Vec<u8>, Self), SealedError> {
        let (header, body) = split(sealed)?;
        let recipients = recipients(header)?;
        let mine = keys.iter().find_map(|key| {
            let fingerprint = key.public().fingerprint();
            recipients.iter().find(|recipient| recipient.fingerprint == fingerprint).map(|found| (key, found))
        });
        let (key, recipient) = mine.ok_or(SealedError::NotARecipient)?;
        let secret = key.unwrap(&recipient.wrapped).and_then(|bytes| Secret::from_bytes(&bytes));
        let secret = secret.ok_or(SealedError::Wrapped)?;
        Ok((unseal(&secret, header, body)?, Self { secret, recipients }))
    }

    /// Opens a list that was sealed with this secret, which takes no private key.
    ///
    /// # Errors
    /// [`SealedError`]; nothing of the list is returned then.
    pub fn reopen(&self, sealed: &[u8]) -> Result<Vec<u8>, SealedError> {
        let (header, body) = split(sealed)?;
        unseal(&self.secret, header, body)
    }
}

fn unseal(secret: &Secret, header: &[u8], body: &[u8]) -> Result<Vec<u8>, SealedError> {
    let key = secret.of_list(&Sha256::digest(header).into());
    let mut list = Vec::new();
    let opened = zstd::stream::read::Decoder::new(Opener::new(body, &key, PURPOSE))
        .and_then(|decoder| decoder.take(MAX_LIST + 1).read_to_end(&mut list));
    match opened {
        Err(_) => Err(SealedError::Damaged),
        Ok(_) if list.len() as u64 > MAX_LIST => Err(SealedError::TooLong),
        Ok(_) => Ok(list),
    }
}

/// The header, with the empty line that ends it, and the body.
fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), SealedError> {
    let start = &sealed[..sealed.len().min(MAX_HEADER)];
    let end = start.windows(2).position(|pair| pair == b"\n\n").ok_or(SealedError::Header)?;
    Ok(sealed.split_at(end + 2))
}

fn recipients(header: &[u8]) -> Result<Vec<Recipient>, SealedError> {
    let text = str::from_utf8(header).map_err(|_| SealedError::Header)?;
    let mut lines = text.trim_end_matches('\n').split('\n');
    let format = lines.next().and_then(|line| line.strip_prefix(FIRST)).ok_or(SealedError::Header)?;
    if format != FORMAT {
        return Err(SealedError::NewerFormat(format.chars().take(20).collect()));
    }
    let mut recipients = Vec::new();
    // Other lines are what a newer version may add.
    for line in lines.filter_map(|line| line.strip_prefix(RECIPIENT)) {
        let (name, wrapped) = line.split_once(' ').ok_or(SealedError::Header)?;
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(name, &mut fingerprint).map_err(|_| SealedError::Header)?;
        let wrapped = STANDARD.decode(wrapped).map_err(|_| SealedError::Header)?;
        recipients.push(Recipient { fingerprint, wrapped });
        if recipients.len() > MAX_RECIPIENTS {
            return Err(SealedError::TooManyRecipients);
        }
    }
    Ok(recipients)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    const LIST: &[u8] = b"# aysfs-flist 2\nsecret-name|...|5|root|root|644|2|0|0|\n";

    /// Two key pairs; making them takes a while.
    fn keys() -> &'static [PrivateKey; 2] {
        static KEYS: OnceLock<[PrivateKey; 2]> = OnceLock::new();
        KEYS.get_or_init(|| [0; 2].map(|_| PrivateKey::generate().expect("random")))
    }

    fn sealed(sealing: &Sealing) -> Vec<u8> {
        let mut sealed = Vec::new();
        sealing.seal(LIST, &mut sealed).expect("memory");
        sealed
    }

    fn open(sealed: &[u8], key: &PrivateKey) -> Result<Vec<u8>, SealedError> {
        Sealing::open(sealed, std::slice::from_ref(key)).map(|(list, _)| list)
    }

    #[test]
    fn every_recipient_opens_it_and_nobody_else() {
        let [user, other] = keys();
        let mut sealing = Sealing::new([&user.public()]).expect("sealed");
        let for_one = sealed(&sealing);
        assert!(is_sealed(&for_one) && !is_sealed(LIST));
        assert!(!for_one.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(open(&for_one, user).expect("a recipient"), LIST);
        assert!(matches!(open(&for_one, other), Err(SealedError::NotARecipient)));
        assert!(matches!(Sealing::open(&for_one, &[]), Err(SealedError::NotARecipient)));

        sealing.add(&other.public()).expect("added");
        sealing.add(&other.public()).expect("once");
        assert_eq!(sealing.recipients.len(), 2);
        let for_both = sealed(&sealing);
        assert_eq!(sealing.reopen(&for_both).expect("it has the secret"), LIST);
        let foreign = Sealing::new([&user.public()]).expect("sealed");
        assert!(matches!(foreign.reopen(&for_both), Err(SealedError::Damaged)));
        for key in [user, other] {
            let (list, opened) = Sealing::open(&for_both, std::slice::from_ref(key)).expect("a recipient");
            assert_eq!(list, LIST);
            assert_eq!(opened.secret(), sealing.secret(), "the secret stays");
            assert_eq!(opened.recipients.len(), 2, "so that it can be sealed again for all of them");
        }
        assert_ne!(sealed(&sealing), for_both, "no two lists can be compared");
        assert!(matches!(Sealing::new([]), Err(SealedError::NoRecipients)));

        let of_one =
            |key: &PrivateKey| Sealing::of(sealing.secret().clone(), [&key.public()]).expect("sealed");
        assert_eq!(of_one(user).joined(Some(&of_one(other))).recipients.len(), 2);
        assert_eq!(of_one(user).joined(Some(&of_one(user))).recipients.len(), 1);
        assert_eq!(of_one(user).joined(Some(&foreign)).recipients.len(), 1, "with another secret");
    }

    #[test]
    fn what_was_changed_anywhere_is_refused() {
        let [user, _] = keys();
        let good = sealed(&Sealing::new([&user.public()]).expect("sealed"));
        let body = split(&good).expect("a header").0.len();
        // In the header an RSA operation is needed for many of them, so only some are tried.
        let positions = (0..body).step_by(7).chain(body..good.len());
        for position in positions {
            let mut changed = good.clone();
            changed[position] ^= 1;
            open(&changed, user).expect_err("changed");
        }
        for length in (0..body).step_by(50).chain(body..good.len()) {
            open(&good[..length], user).expect_err("cut");
        }
        open(&[&good[..], b"x"].concat(), user).expect_err("added");
    }

    #[test]
    fn parts_of_two_lists_do_not_fit_together() {
        let [user, other] = keys();
        let mut sealing = Sealing::new([&user.public()]).expect("sealed");
        let one = sealed(&sealing);
        sealing.add(&other.public()).expect("added");
        let two = sealed(&sealing);
        let ((one_header, one_body), (two_header, two_body)) =
            (split(&one).expect("a header"), split(&two).expect("a header"));
        for (header, body) in [(one_header, two_body), (two_header, one_body)] {
            let mixed = open(&[header, body].concat(), user);
            assert!(matches!(mixed, Err(SealedError::Damaged)), "the secret is the same, and yet");
        }
        // Somebody puts a secret of his own in its place: it opens nothing.
        let mine = sealed(&Sealing::new([&user.public()]).expect("sealed"));
        let mine = split(&mine).expect("a header").0;
        assert!(matches!(open(&[mine, one_body].concat(), user), Err(SealedError::Damaged)));
    }

    #[test]
    fn a_newer_format_is_named() {
        let [user, _] = keys();
        let newer = b"# aysfs-flist sealed 2\n# more: to come\n\nbody";
        assert!(matches!(open(newer, user), Err(SealedError::NewerFormat(format)) if format == "2"));
    }

    #[test]
    fn nothing_of_a_secret_is_printed() {
        let [user, _] = keys();
        let sealing = Sealing::new([&user.public()]).expect("sealed");
        let shown = format!("{sealing:?} {user:?}");
        assert!(!shown.contains(&hex::encode(sealing.secret.expose())), "{shown}");
        assert_eq!(shown.matches("***").count(), 2, "{shown}");
    }
}
