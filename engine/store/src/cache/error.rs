//! Why content could not be had.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::room::is_full;
use crate::codec::DecodeError;
use crate::table::TableError;
use crate::{ContentId, Fault, Key, StoreError};

/// A failed fetch: every reader that waited for it gets this one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FetchError(Arc<Failure>);

#[derive(Debug)]
struct Failure {
    id: ContentId,
    reason: Reason,
}

/// What went wrong.
#[derive(Debug)]
pub(super) enum Reason {
    /// Each stor failed; the last failure of each.
    Stors(Vec<SourceError>),
    /// No byte arrived for any of the fetches that were to come first.
    Queue(Duration),
    /// The whole is not what its id says, although each chunk is what the flist says.
    Flist(ContentId),
    /// The chunks leave gaps, or overlap.
    Gap,
    /// Its chunk table is not one.
    Table(TableError),
    /// Neither the cache directory nor memory can hold it.
    NoRoom,
    /// The local disk failed.
    Local(io::Error),
    /// The fetch was given up half-way: the program is about to end.
    Aborted,
}

/// Why one stor did not give a chunk.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// It gave nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It gave something else.
    #[error("{stor}: {key}: {source}")]
    Body {
        /// The stor.
        stor: String,
        /// The object.
        key: Key,
        /// The flaw.
        source: DecodeError,
    },
}

impl SourceError {
    /// Whether it said nothing.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Store(error) if matches!(error.fault, Fault::Silent(_)))
    }

    /// Whether asking the same stor again a little later may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.fault.is_transient(),
            Self::Body { .. } => false,
        }
    }
}

impl FetchError {
    pub(super) fn new(id: ContentId, reason: Reason) -> Self {
        Self(Arc::new(Failure { id, reason }))
    }

    /// Whether no stor could be reached, or none had time: others will fare alike.
    pub fn is_outage(&self) -> bool {
        match &self.0.reason {
            Reason::Stors(failures) => !failures.is_empty() && failures.iter().all(SourceError::is_transient),
            Reason::Queue(_) => true,
            Reason::Flist(_)
            | Reason::Gap
            | Reason::Table(_)
            | Reason::NoRoom
            | Reason::Local(_)
            | Reason::Aborted => false,
        }
    }

    /// Whether there was no room for it: reading it piece by piece may still work.
    pub fn is_lack_of_room(&self) -> bool {
        match &self.0.reason {
            Reason::NoRoom => true,
            Reason::Local(error) => is_full(error),
            Reason::Stors(_)
            | Reason::Queue(_)
            | Reason::Flist(_)
            | Reason::Gap
            | Reason::Table(_)
            | Reason::Aborted => false,
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { id, reason } = &*self.0;
        write!(f, "content {id} could not be had: ")?;
        match reason {
            Reason::Stors(failures) => failures.iter().enumerate().try_for_each(|(n, failure)| {
                f.write_str(if n == 0 { "" } else { "; " })?;
                failure.fmt(f)
            }),
            Reason::Queue(waited) => {
                write!(f, "no byte arrived within {waited:?} for any fetch that was to come before it")
            }
            Reason::Flist(found) => write!(f, "its chunks make up {found}: the flist contradicts itself"),
            Reason::Gap => f.write_str("its chunks do not cover it: the flist is damaged"),
            Reason::Table(error) => write!(f, "{error}: the flist is damaged, or of a newer version"),
            Reason::NoRoom => f.write_str(
                "the cache directory cannot be written (see the warning before) or may not grow, and it does not fit in the memory set aside for that",
            ),
            Reason::Local(error) => write!(f, "the cache directory failed: {error}"),
            Reason::Aborted => f.write_str("the fetch was given up"),
        }
    }
}

impl std::error::Error for FetchError {}
