//! A part of a pack, asked of one stor, once.
//!
//! Who asks like this knows no second attempt: if it fails, or if what it brings is not what the flist names, the readers take the way of
//! [`Fetch`](super::fetch::Fetch), chunk by chunk, which asks all stors and tells what went wrong.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, ReadyChunks};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Cache;
use super::lane::Lane;
use crate::mirror::{Asked, Outcome};
use crate::{Fault, Key, Mirror, Store, StoreError};

/// How many pieces of it are taken at a time, if they are there.
const PIECES: usize = 16;

/// Leave to ask: one of so many that are asked for at once.
pub(super) struct Turn {
    lane: Arc<Lane>,
    _place: OwnedSemaphorePermit,
}

/// A part of a pack on its way.
pub(super) struct Reply {
    cache: Arc<Cache>,
    sources: Arc<Mirror>,
    stor: Arc<dyn Store>,
    turn: Turn,
    patience: Duration,
    range: Range<u64>,
    /// How far it has arrived.
    at: u64,
    pieces: ReadyChunks<BoxStream<'static, Result<Bytes, StoreError>>>,
    /// What followed on the pieces that were given out.
    fault: Option<Fault>,
}

/// Why a part did not arrive, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("no byte arrived for any of the fetches that were to come first")]
    Queue,
    #[error("there is no room for it")]
    NoRoom,
    #[error(transparent)]
    Stor(Fault),
    #[error("the cache directory failed: {0}")]
    Local(io::Error),
}

impl Turn {
    /// Waits for it, for as long as bytes arrive for others.
    pub(super) async fn wait(cache: &Cache, sources: &Arc<Mirror>) -> Result<Self, ReplyError> {
        let lane = cache.lanes.of(sources);
        let place = lane.enter(cache.options.deadline).await.ok_or(ReplyError::Queue)?;
        Ok(Self { lane, _place: place })
    }
}

impl Reply {
    /// Asks a stor.
    pub(super) async fn ask(
        cache: &Arc<Cache>,
        sources: &Arc<Mirror>,
        stor: &Arc<dyn Store>,
        key: &Key,
        range: Range<u64>,
        turn: Turn,
    ) -> Result<Self, ReplyError> {
        // Its readers have other ways, and only so much time for all of them.
        let patience = cache.options.deadline / 2;
        cache.counters.fetches.add(1);
        sources.asked(stor, Asked::First);
        let answer = timeout(patience, stor.get(key, Some(range.clone()))).await;
        let answer = answer.map_err(|_| Fault::Silent(patience));
        let body = answer.and_then(|answer| answer.map_err(|error| error.fault));
        let body = body.map_err(|fault| failed(sources, stor, fault))?;
        Ok(Self {
            cache: cache.clone(),
            sources: sources.clone(),
            stor: stor.clone(),
            turn,
            patience,
            at: range.start,
            range,
            pieces: body.stream.ready_chunks(PIECES),
            fault: None,
        })
    }

    /// The next bytes of it; none once all has arrived.
    pub(super) async fn next(&mut self) -> Result<Vec<Bytes>, ReplyError> {
        let mut arrived = Vec::new();
        while arrived.is_empty() && self.at < self.range.end {
            if let Some(fault) = self.fault.take() {
                return Err(self.failed(fault));
            }
            let Ok(pieces) = timeout(self.patience, self.pieces.next()).await else {
                return Err(self.failed(Fault::Silent(self.patience)));
            };
            let Some(pieces) = pieces else {
                let Range { start, end } = self.range;
                return Err(self.failed(Fault::Short { received: self.at - start, expected: end - start }));
            };
            for piece in pieces {
                match piece {
                    Ok(piece) => arrived.push(piece),
                    Err(error) => self.fault = Some(error.fault),
                }
            }
            let received = arrived.iter().map(|piece| piece.len() as u64).sum();
            self.cache.counters.stored_bytes.add(received);
            self.sources.received(&self.stor, received);
            if received > self.range.end - self.at {
                return Err(self.failed(Fault::Protocol("more bytes than were asked for".into())));
            }
            self.at += received;
            self.moves();
            if self.at == self.range.end {
                self.sources.report(&self.stor, Outcome::Answered);
            }
        }
        Ok(arrived)
    }

    /// Whoever takes it is at it.
    pub(super) fn moves(&self) {
        self.turn.lane.moves();
    }

    fn failed(&self, fault: Fault) -> ReplyError {
        failed(&self.sources, &self.stor, fault)
    }
}

fn failed(sources: &Mirror, stor: &Arc<dyn Store>, fault: Fault) -> ReplyError {
    sources.report(stor, Outcome::from(&fault));
    ReplyError::Stor(fault)
}
