//! Key files that were named on the command line or in a config; one that cannot be used is refused.

use std::path::{Path, PathBuf};

use aysfs_store::crypt::{KeyFile, KeyFileError, PrivateKey, PublicKey, Sealing};

use crate::Refused;

/// The keys that may open what is read: one, or none.
pub(crate) fn private(file: Option<&Path>) -> anyhow::Result<Vec<PrivateKey>> {
    file.map(KeyFile::read_private).transpose().map(Vec::from_iter).map_err(refused)
}

/// The keys that something is encrypted for; private ones say what their public ones are.
pub(crate) fn public(files: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    files.iter().map(|file| Ok(KeyFile::read(file).map_err(refused)?.public())).collect()
}

/// A key of either kind.
pub(crate) fn either(file: &Path) -> anyhow::Result<KeyFile> {
    KeyFile::read(file).map_err(refused)
}

/// What a mount encrypts with: as its flist was, and for these as well; a new secret if it was not encrypted. Only flists
/// that are written keep a new secret: whoever remembers objects longer than that has to remember its fingerprint with them.
pub(crate) fn sealing(of: Option<&Sealing>, recipients: &[PublicKey]) -> anyhow::Result<Option<Sealing>> {
    let Some(known) = of else {
        return Ok(if recipients.is_empty() { None } else { Some(Sealing::new(recipients)?) });
    };
    let mut sealing = known.clone();
    for recipient in recipients {
        sealing.add(recipient)?;
    }
    Ok(Some(sealing))
}

fn refused(error: KeyFileError) -> anyhow::Error {
    Refused(error.to_string()).into()
}
