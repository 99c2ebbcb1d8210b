//! A pack to the stor, if that lacks it.

use std::sync::Arc;

use aysfs_flist::{ObjectKey, Pack};
use aysfs_store::{Fault, Key, Mirror, Presence, Store, StoreError, Stored, Upload};
use sha2::{Digest, Sha256};

use super::error::{UploadError, blocking};
use crate::push::Journal;

/// Where objects go.
#[derive(Clone, Copy)]
pub(crate) enum To<'a> {
    /// A stor.
    One(&'a dyn Store),
    /// All of them; the first one counts.
    All(&'a Mirror),
}

impl To<'_> {
    /// Whether objects are wherever they would be if they were sent.
    async fn has(self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        let presence = self.presence(keys).await?;
        Ok(presence.into_iter().map(|presence| presence == Presence::Everywhere).collect())
    }

    pub(super) async fn presence(self, keys: &[Key]) -> Result<Vec<Presence>, StoreError> {
        match self {
            Self::One(stor) => {
                let presence = |there| if there { Presence::Everywhere } else { Presence::Nowhere };
                Ok(stor.has(keys).await?.into_iter().map(presence).collect())
            }
            Self::All(stors) => stors.presence(keys).await,
        }
    }

    /// Whether the stor that counts has an object.
    async fn has_taken(self, key: &Key) -> Result<bool, StoreError> {
        let keys = std::slice::from_ref(key);
        let there = match self {
            Self::One(stor) => stor.has(keys).await?,
            Self::All(stors) => stors.first().has(keys).await?,
        };
        Ok(there == [true])
    }

    pub(super) async fn put(self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        match self {
            Self::One(stor) => stor.put(key, body).await,
            Self::All(stors) => stors.put(key, body).await,
        }
    }

    /// What is to be said of a stor that took an object and does not have it.
    fn has_lost(self, key: &Key) -> StoreError {
        let stor = match self {
            Self::One(stor) => stor.name(),
            Self::All(stors) => stors.first().name(),
        };
        let fault = Fault::Unavailable("it has taken the object, and does not have it".into());
        StoreError { stor: stor.to_owned(), subject: key.to_string(), fault }
    }
}

/// A pack that is in the stor.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) pack: Pack,
    /// Whether it was not there before.
    pub(super) is_new: bool,
}

/// Sends a pack if it is lacking. With a journal, that notes it before, and the stor is asked afterwards whether it has it. The inner
/// error is one of this pack only: another one may be taken.
pub(super) async fn send(
    to: To<'_>,
    journal: Option<Arc<Journal>>,
    bytes: Vec<u8>,
) -> Result<Result<Sent, StoreError>, UploadError> {
    let (bytes, sha256) = blocking(move || {
        let sha256 = Sha256::digest(&bytes).into();
        Ok((bytes, sha256))
    })
    .await?;
    let (key, length) = (Key::sha256(sha256), bytes.len() as u64);
    let own = Pack { key: ObjectKey::Sha256(sha256), bytes: length };
    if to.has(std::slice::from_ref(&key)).await? == [true] {
        return Ok(Ok(Sent { pack: own, is_new: false }));
    }
    if let Some(journal) = journal.clone() {
        let noted = vec![(key.clone(), b"pack".to_vec())];
        blocking(move || Ok(journal.note(noted)?)).await?;
    }
    let stored = match to.put(&key, &Upload::Bytes(bytes.into())).await {
        Ok(stored) => stored,
        Err(error) if matches!(error.fault, Fault::Refused(_) | Fault::Protocol(_)) => return Ok(Err(error)),
        Err(error) => return Err(error.into()),
    };
    if journal.is_some() && !to.has_taken(&stored.key).await? {
        return Err(to.has_lost(&stored.key).into());
    }
    // A stor that chooses keys itself keeps it under another one.
    let key = stored.key.as_str().parse().unwrap_or(own.key);
    Ok(Ok(Sent { pack: Pack { key, ..own }, is_new: stored.created }))
}
