//! Fetching parts of packs, and what is in them.
//!
//! A window is fetched by one request of the first healthy stor, for whoever is waiting. It is a shortcut, and knows no second
//! attempt: if it fails, or if what it brings is not what the flist names, its readers take the way of [`Fetch`](super::fetch::Fetch), chunk by
//! chunk, which asks all stors and tells what went wrong.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use futures::StreamExt;
use tokio::time::timeout;

use super::Cache;
use super::fetch::is_full;
use super::packs::{Begun, Pack, Whereabouts, Wish};
use super::room::Need;
use crate::codec::{self, DecodeError};
use crate::mirror::{Asked, Outcome};
use crate::{Check, Chunk, Fault, Key, Mirror, Store};

/// How many requests fetch a pack at the same time, and how much one of them is for, in bytes.
const REQUESTS: u64 = 4;
const LEAST_REQUEST: u64 = 1 << 20;
const LARGEST_REQUEST: u64 = 4 << 20;

/// Whether a reader waited for a stor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    No,
    Yes,
}

impl Cache {
    /// The pack of a chunk; `None` if it is an object of its own, or the directory does not take it.
    pub(super) fn pack_of(&self, chunk: &Chunk) -> Option<Arc<Pack>> {
        let part = chunk.part.as_ref()?;
        if !self.disk.is_writable() {
            return None;
        }
        match self.packs.open(&chunk.key, part.pack) {
            Ok(pack) => Some(pack),
            Err(error) => {
                self.disk.failed(&error);
                None
            }
        }
    }

    /// The plain bytes of a small chunk of a pack, by way of what is kept of the pack. Decodes on this thread. `None`: it has to be
    /// fetched by itself.
    pub(super) async fn packed(
        self: &Arc<Self>,
        pack: &Arc<Pack>,
        chunk: &Chunk,
        sources: &Arc<Mirror>,
    ) -> Option<(Vec<u8>, Waited)> {
        let Check::Sha256(sha256) = chunk.check else { return None };
        let mut waited = Waited::No;
        // What was in the directory may be wrong; what is fetched then may be, too.
        for _ in 0..2 {
            let (stored, how) = self.stored(pack, chunk, sources, Wish::Fetch).await?;
            if how == Waited::Yes {
                waited = how;
            }
            let mut plain = Vec::new();
            match codec::decode_whole(sha256, chunk.length(), sources.secret(), &stored, &mut plain) {
                Ok(()) => {
                    if waited == Waited::Yes {
                        self.counters.plain_bytes.add(chunk.length());
                    }
                    return Some((plain, waited));
                }
                Err(error) => self.reject(pack, chunk, sources, &error)?,
            }
        }
        None
    }

    /// The stored bytes of a chunk, as far as they can be had like this.
    pub(super) async fn stored(
        self: &Arc<Self>,
        pack: &Arc<Pack>,
        chunk: &Chunk,
        sources: &Arc<Mirror>,
        wish: Wish,
    ) -> Option<(Vec<u8>, Waited)> {
        let range = &chunk.part.as_ref()?.range;
        let mut waited = Waited::No;
        loop {
            match pack.find(range, wish) {
                Whereabouts::Here { ahead } => {
                    if let Some(begun) = ahead {
                        self.fetch_window(pack, begun, sources);
                    }
                    let stored = pack.read(range).inspect_err(|error| self.disk.failed(error)).ok()?;
                    return Some((stored, waited));
                }
                Whereabouts::Coming(mut progress, until) => {
                    waited = Waited::Yes;
                    // If it ends before, this part does not come.
                    progress.wait_for(|arrived| *arrived >= until).await.ok()?;
                }
                Whereabouts::Missing(begun) => self.fetch_window(pack, begun, sources),
                Whereabouts::Absent => return None,
            }
        }
    }

    /// What is kept of a chunk is wrong. `None`: it is not, but nobody here can read it.
    pub(super) fn reject(
        &self,
        pack: &Pack,
        chunk: &Chunk,
        sources: &Mirror,
        error: &DecodeError,
    ) -> Option<()> {
        if matches!(error, DecodeError::Encrypted) {
            return None;
        }
        match pack.reject(&chunk.part.as_ref()?.range) {
            Some(stor) => {
                tracing::debug!("{}: {}: {error}", stor.name(), chunk.key);
                self.counters.verification_failures.add(1);
                sources.report(&stor, Outcome::Corrupt);
            }
            None => {
                tracing::debug!("pack {} was damaged in the cache, fetching it again: {error}", chunk.key);
                self.counters.damaged_files.add(1);
            }
        }
        Some(())
    }

    /// Fetches all of a pack that is not here, in a few large requests; returns whether all of it is here then. Whoever wants something
    /// of it meanwhile waits for these.
    pub async fn fetch_pack(self: &Arc<Self>, key: &Key, length: u64, sources: &Arc<Mirror>) -> bool {
        if !self.disk.is_writable() {
            return false;
        }
        let Ok(pack) = self.packs.open(key, length) else { return false };
        let size = length.div_ceil(REQUESTS).clamp(LEAST_REQUEST, LARGEST_REQUEST);
        let windows = (0..length.div_ceil(size)).map(|n| n * size..((n + 1) * size).min(length));
        let fetched = futures::stream::iter(windows).map(|window| {
            let (cache, pack) = (self.clone(), pack.clone());
            async move {
                while let Some(begun) = pack.begin(window.clone()) {
                    let (end, mut progress) = (begun.range.end, begun.progress.subscribe());
                    cache.fetch_window(&pack, begun, sources);
                    if progress.wait_for(|arrived| *arrived >= end).await.is_err() {
                        break;
                    }
                }
            }
        });
        fetched.buffer_unordered(usize::try_from(REQUESTS).unwrap_or(1)).for_each(|()| async {}).await;
        // Others may still be fetching what they have begun before.
        pack.arrived(&(0..length)).await
    }

    /// Fetches a window.
    pub(super) fn fetch_window(self: &Arc<Self>, pack: &Arc<Pack>, begun: Begun, sources: &Arc<Mirror>) {
        tokio::spawn(
            WindowFetch { cache: self.clone(), pack: pack.clone(), sources: sources.clone(), begun }.run(),
        );
    }
}

struct WindowFetch {
    cache: Arc<Cache>,
    pack: Arc<Pack>,
    sources: Arc<Mirror>,
    begun: Begun,
}

impl WindowFetch {
    async fn run(self) {
        let Self { begun: Begun { range, progress }, .. } = &self;
        let stor = self.sources.in_order().into_iter().next();
        if let Some(stor) = &stor {
            let fetched = self.fetch(stor).await;
            if let Err(error) = &fetched {
                tracing::debug!("{}: pack {}, bytes {range:?}: {error}", stor.name(), self.pack.key());
            }
        }
        // Before anybody is told that there will be no more.
        self.pack.ended(range, *progress.borrow() - range.start, stor.as_ref());
    }

    async fn fetch(&self, stor: &Arc<dyn Store>) -> Result<(), WindowError> {
        let Self { cache, pack, sources, begun: Begun { range, progress } } = self;
        let deadline = cache.options.deadline;
        let lane = cache.lanes.of(sources);
        let _place = lane.enter(deadline).await.ok_or(WindowError::Queue)?;
        let length = range.end - range.start;
        let _claim = cache.claim(length, Need::IfThereIsRoom).await.ok_or(WindowError::NoRoom)?;
        // Its readers have other ways, and only so much time for all of them.
        let patience = deadline / 2;
        cache.counters.fetches.add(1);
        sources.asked(stor, Asked::First);
        let failed = |fault: Fault| {
            sources.report(stor, Outcome::from(&fault));
            WindowError::Stor(fault)
        };
        let answer = timeout(patience, stor.get(pack.key(), Some(range.clone()))).await;
        let body =
            answer.map_err(|_| failed(Fault::Silent(patience)))?.map_err(|error| failed(error.fault))?;
        let mut pieces = body.stream.ready_chunks(16);
        let mut at = range.start;
        while at < range.end {
            let next = timeout(patience, pieces.next()).await.map_err(|_| failed(Fault::Silent(patience)))?;
            let short = Fault::Short { received: at - range.start, expected: length };
            let mut bytes = BytesMut::new();
            let mut fault = None;
            for piece in next.ok_or_else(|| failed(short))? {
                match piece {
                    Ok(piece) => bytes.extend_from_slice(&piece),
                    Err(error) => fault = Some(error.fault),
                }
            }
            lane.moves();
            let received = bytes.len() as u64;
            cache.counters.stored_bytes.add(received);
            sources.received(stor, received);
            if received > range.end - at {
                return Err(failed(Fault::Protocol("more bytes than were asked for".into())));
            }
            if received > 0 {
                self.write(at, bytes).await.map_err(WindowError::Local)?;
                at += received;
                progress.send_replace(at);
            }
            if let Some(fault) = fault {
                return Err(failed(fault));
            }
        }
        sources.report(stor, Outcome::Answered);
        Ok(())
    }

    async fn write(&self, at: u64, bytes: BytesMut) -> io::Result<()> {
        let (cache, pack) = (self.cache.clone(), self.pack.clone());
        let written = tokio::task::spawn_blocking(move || {
            let length = bytes.len() as u64;
            match pack.write(at, &bytes) {
                Err(error) if is_full(&error) && cache.make_space(length) => pack.write(at, &bytes)?,
                written => written?,
            }
            cache.usage.add(length);
            Ok(())
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        written.inspect_err(|error| self.cache.disk.failed(error))
    }
}

/// Why a window did not arrive, or not all of it.
#[derive(Debug, thiserror::Error)]
enum WindowError {
    #[error("no byte arrived for any of the fetches that were to come first")]
    Queue,
    #[error("there is no room for it")]
    NoRoom,
    #[error(transparent)]
    Stor(Fault),
    #[error("the cache directory failed: {0}")]
    Local(io::Error),
}
