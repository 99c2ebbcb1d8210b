//! Several chunks of a large file that lie one after another in a pack, fetched by one request: for who reads it in order.
//!
//! They are decoded as they arrive, and each has a [`Fetch`](super::fetch::Fetch) that waits for it here first: a run is a shortcut as a
//! [`Reply`] is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Cache;
use super::reply::{Reply, ReplyError, Turn};
use crate::{Key, Mirror, Store};

/// How many stored bytes one run is for: enough of them to make the latency of a request small beside it, few enough to have several under
/// way.
pub(super) const LENGTH: u64 = 4 << 20;

/// The stored bytes of a chunk.
pub(super) struct Landed {
    pub(super) stored: Vec<u8>,
    /// Who has sent them.
    pub(super) stor: Arc<dyn Store>,
    /// To be dropped with the stored bytes: then the next chunk may land.
    pub(super) _landing: OwnedSemaphorePermit,
}

/// Where a chunk is waited for; closed if it does not come like this.
pub(super) type Landing = oneshot::Receiver<Landed>;

/// Chunks to be fetched.
#[derive(Default)]
pub(super) struct Run(Vec<(Range<u64>, oneshot::Sender<Landed>)>);

impl Run {
    /// Adds the next chunk: the part of the pack that it is.
    pub(super) fn add(&mut self, part: Range<u64>) -> Landing {
        let (sender, landing) = oneshot::channel();
        self.0.push((part, sender));
        landing
    }

    /// Fetches it. It ends whether or not anyone waits.
    pub(super) fn start(self, cache: &Arc<Cache>, sources: &Arc<Mirror>, key: Key) {
        let (cache, sources) = (cache.clone(), sources.clone());
        tokio::spawn(async move {
            let Some(stor) = sources.in_order().into_iter().next() else { return };
            if let Err(error) = self.fetch(&cache, &sources, &stor, &key).await {
                tracing::debug!("{}: pack {key}: {error}", stor.name());
            }
        });
    }

    async fn fetch(
        self,
        cache: &Arc<Cache>,
        sources: &Arc<Mirror>,
        stor: &Arc<dyn Store>,
        key: &Key,
    ) -> Result<(), ReplyError> {
        let (Some((first, _)), Some((last, _))) = (self.0.first(), self.0.last()) else { return Ok(()) };
        let range = first.start..last.end;
        let turn = Turn::wait(cache, sources).await?;
        let mut reply = Reply::ask(cache, sources, stor, key, range, turn).await?;
        // While a chunk is decoded, the next ones stay with the system: other runs have something to decode meanwhile.
        let landings = Arc::new(Semaphore::new(1));
        let mut pieces = VecDeque::new();
        for (part, waiting) in self.0 {
            let Ok(landing) = landings.clone().acquire_owned().await else { break };
            reply.moves();
            let stored = gather(&mut reply, &mut pieces, part.end - part.start).await?;
            // If nobody wants it any more, the next ones may still be wanted.
            let _ = waiting.send(Landed { stored, stor: stor.clone(), _landing: landing });
        }
        Ok(())
    }
}

/// The next bytes.
async fn gather(reply: &mut Reply, pieces: &mut VecDeque<Bytes>, length: u64) -> Result<Vec<u8>, ReplyError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut stored = Vec::with_capacity(length);
    while stored.len() < length {
        match pieces.front_mut() {
            Some(piece) => {
                stored.extend_from_slice(&piece.split_to(piece.len().min(length - stored.len())));
                if piece.is_empty() {
                    pieces.pop_front();
                }
            }
            None => pieces.extend(reply.next().await?),
        }
    }
    Ok(stored)
}
