//! Collection of garbage: what no flist names is deleted from a stor.
//!
//! A [`Collection`] marks what each of a set of flists names, then sweeps. In this order:
//!
//! 1. [`Collection::begin`] puts a small object, so that the listing tells what time it is for the stor. There is no other clock.
//! 2. [`Collection::mark`] takes in one list after the other, with the packs that only chunk tables name. A list that cannot be read as a
//!    whole ends the collection, and nothing was deleted.
//! 3. [`Collection::sweep`] lists the stor. What no list names, and is older than the grace time, becomes a *candidate*, in a named file of the
//!    stor. What was a candidate for the grace time before this collection began is deleted.
//!
//! So it takes two collections to delete anything, and a grace time between them. Why nothing that is needed gets lost meanwhile, whoever writes to
//! the stor, is told in [`aysfs_store::garbage`]. What it asks of those who use it: all lists that are mounted, or built upon, are among those that are
//! marked, and a new one is, within the grace time from the beginning of what made it.

mod mark;
mod sweep;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aysfs_flist::Corrupt;
use aysfs_store::{BootTime, Key, KeyError, Namespace, StaticName, Store, StoreError, Upload, garbage};
use sha2::{Digest, Sha256};

use self::mark::Marks;
use crate::base::BaseError;

/// How a collection deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Delete,
    /// It says what it would delete, and changes nothing in the stor.
    DryRun,
}

/// Objects, and how much they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        // Sizes are what a stor says.
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a collection found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// What is named by a list.
    pub named: Amount,
    /// What was deleted, or would have been.
    pub deleted: Amount,
    /// Candidates, which a collection later on will delete.
    pub waiting: Amount,
    /// What no list names, and is younger than the grace time.
    pub young: Amount,
}

/// Why a collection ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GcError {
    #[error("the flist {flist} cannot be read as a whole: {source}; nothing was deleted")]
    Base { flist: String, source: BaseError },
    #[error("the flist {flist}: the chunk table of {path} cannot be read: {reason}; nothing was deleted")]
    Table { flist: String, path: String, reason: String },
    #[error(
        "the flist {flist} names nothing that {stor} has: check --stor and --namespace, or leave that flist out; nothing was deleted"
    )]
    Elsewhere { flist: String, stor: String },
    #[error(
        "the flist {0} names no object: by it alone all of the namespace would be garbage; if it was cut short, get it again; if the tree is \
         meant to be empty, leave it out, or publish it in this namespace; nothing was deleted"
    )]
    Empty(String),
    #[error("no flist was named: everything would be garbage; nothing was deleted")]
    NothingNamed,
    #[error("the namespace is too long for a list of garbage: {0}")]
    Namespace(#[from] KeyError),
    #[error(
        "the listing of {0} lacks an object that was put just now, so it may lack others: nothing was deleted"
    )]
    Listing(String),
    #[error(
        "another collection of garbage is deleting, or was interrupted less than an hour ago: run this again later"
    )]
    Busy,
    #[error("the stor is so slow in deleting that another collection might begin: run this again in an hour")]
    TooSlow,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A collection of garbage in one namespace of a stor.
pub struct Collection {
    stor: Arc<dyn Store>,
    /// Of the file with the candidates.
    name: StaticName,
    mode: Mode,
    marker: Option<Key>,
    /// By the local clock.
    begun: SystemTime,
    /// For what passed since.
    watch: BootTime,
    marks: Marks,
}

impl Collection {
    /// Begins a collection; in a [dry run](Mode::DryRun) it goes by the local clock.
    ///
    /// # Errors
    /// [`GcError::Store`], [`GcError::Namespace`].
    pub async fn begin(stor: Arc<dyn Store>, namespace: &Namespace, mode: Mode) -> Result<Self, GcError> {
        let name = garbage::name(namespace)?;
        let (begun, watch) = (SystemTime::now(), BootTime::now());
        let marker = match mode {
            Mode::Delete => Some(put_marker(&*stor).await?),
            Mode::DryRun => None,
        };
        Ok(Self { stor, name, mode, marker, begun, watch, marks: Marks::default() })
    }

    /// Ends it. Nothing is left of it in the stor but the candidates.
    pub async fn end(self) {
        if let Some(marker) = &self.marker
            && let Err(error) = self.stor.delete(marker).await
        {
            tracing::warn!(%error, "a small object of this collection stays, until a later one deletes it");
        }
    }
}

/// Puts an object that nobody else puts.
async fn put_marker(stor: &dyn Store) -> Result<Key, StoreError> {
    let body = format!("A collection of garbage began here ({:032x}).\n", fastrand::u128(..));
    let key = Key::sha256(Sha256::digest(&body).into());
    Ok(stor.put(&key, &Upload::Bytes(body.into())).await?.key)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn damaged(flist: &str, error: Corrupt) -> GcError {
    GcError::Base { flist: flist.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests;
