//! Encryption: what a stor keeps can be read by recipients only.
//!
//! - A [`Secret`] is what a tenant's chunks are sealed with: 32 random bytes, from which each content has a key of its own.
//! - A [`Sealing`] is a secret and who may know it. It seals flists: their clear header holds the secret, wrapped for the
//!   RSA key of each recipient, and the rest is one encrypted body ([`list`]).
//! - [`PrivateKey`], [`PublicKey`] and [`KeyFile`] are RSA keys in PEM files.
//! - [`V1Key`] opens what the old system wrote; a [`V1Keyring`] has those of a flist.
//!
//! It keeps content and names secret from the stor, and finds what the stor changed. It does not say who wrote a list:
//! whoever has a recipient's public key can write one for it, so where that matters a list is signed as well.
//!
//! Invariants:
//! - sealed bytes that were changed, cut, or put in another's place are an error, and nothing of that segment is shown;
//! - equal content sealed with one secret gives equal bytes, and so one object;
//! - secrets and private keys are overwritten when they are dropped, and no `Debug` shows them.

mod key;
pub mod list;
mod secret;
mod segment;
mod v1;

pub use key::{KeyFile, KeyFileError, PrivateKey, PublicKey};
pub use list::{SealedError, Sealing, is_sealed};
pub use secret::{NoRandomness, Secret, SecretFileError};
pub use v1::{V1Key, V1Keyring, decode_v1_sealed};

pub(crate) use segment::{Opener, Sealer};
