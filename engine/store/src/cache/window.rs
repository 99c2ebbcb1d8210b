//! Fetching parts of packs, and what is in them.
//!
//! A window is fetched by one request of the first healthy stor, for whoever is waiting. It is a shortcut, as a [`Reply`] is.

use std::io;
use std::sync::Arc;

use futures::StreamExt;

use super::Cache;
use super::packs::{Begun, Pack, Whereabouts, Wish};
use super::reply::{Reply, ReplyError, Turn};
use super::room::{Need, is_full};
use crate::codec::{self, DecodeError};
use crate::mirror::Outcome;
use crate::{Check, Chunk, Key, Mirror, Store};

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
    /// What is kept of the pack of a chunk; `None` if it is an object of its own, or the directory does not take it.
    pub(super) fn pack_of(&self, chunk: &Chunk) -> Option<Arc<Pack>> {
        let part = chunk.part.as_ref()?;
        if !self.disk.is_writable() && !self.packs.contains(&chunk.key, part) {
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
        let wish = if self.disk.is_writable() { wish } else { Wish::Look };
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

    async fn fetch(&self, stor: &Arc<dyn Store>) -> Result<(), ReplyError> {
        let Self { cache, pack, sources, begun: Begun { range, progress } } = self;
        let turn = Turn::wait(cache, sources).await?;
        let length = range.end - range.start;
        let _claim = cache.claim(length, Need::IfThereIsRoom).await.ok_or(ReplyError::NoRoom)?;
        let mut reply = Reply::ask(cache, sources, stor, pack.key(), range.clone(), turn).await?;
        let mut at = range.start;
        while at < range.end {
            let bytes = reply.next().await?.concat();
            let end = at + bytes.len() as u64;
            self.write(at, bytes).await.map_err(ReplyError::Local)?;
            at = end;
            progress.send_replace(at);
        }
        Ok(())
    }

    async fn write(&self, at: u64, bytes: Vec<u8>) -> io::Result<()> {
        let (cache, pack) = (self.cache.clone(), self.pack.clone());
        let written = tokio::task::spawn_blocking(move || {
            let length = bytes.len() as u64;
            cache.write_with_room(length, || pack.write(at, &bytes))?;
            cache.usage.add(length);
            Ok(())
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        // Whether a directory without room is left alone is for those to say who need it.
        written.inspect_err(|error| {
            if !is_full(error) {
                self.cache.disk.failed(error);
            }
        })
    }
}
