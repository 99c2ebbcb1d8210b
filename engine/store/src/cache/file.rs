//! Reading one content.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{join_all, ready};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::disk::Found;
use super::error::{FetchError, Reason};
use super::fetch::{Fetch, Way};
use super::packs::{Whereabouts, Wish, small};
use super::partial::{Accept, Arrived, Partial, Want};
use super::room::Need;
use super::run::{self, Run};
use super::verified::VerifiedFile;
use super::window::Waited;
use super::{Cache, Place, lock};
use crate::{Content, Mirror, table};

/// How many chunks of a file are fetched at once when all of it is wanted: some leave room for other readers.
const AHEAD: usize = 24;

/// A content of a [`Cache`], wherever its bytes are now. Cheap to clone; keeps nothing open.
///
/// Its calls are made within a tokio runtime. Dropping one that waits is harmless: the fetch goes on.
#[derive(Clone)]
pub struct CachedFile {
    pub(super) cache: Arc<Cache>,
    pub(super) content: Content,
    pub(super) sources: Arc<Mirror>,
}

impl CachedFile {
    /// Reads up to `length` bytes, fewer only at the end of the file. Waits only for the chunks that it needs, and
    /// is ready at its first poll, without leaving the thread, if they are there.
    ///
    /// # Errors
    /// If no stor gives them.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, FetchError> {
        let part = offset..offset.saturating_add(length as u64).min(self.content.size);
        if part.is_empty() {
            return Ok(Bytes::new());
        }
        let began = Instant::now();
        match self.read_packed(&part).await {
            Some(bytes) => Ok(bytes),
            None if small(&self.content).is_some() => self.read_kept(part, || Way::Alone(began)).await,
            None => self.resolved().await?.read_kept(part, || Way::Pack).await,
        }
    }

    /// A part of a small file, which is read from its pack.
    async fn read_packed(&self, part: &Range<u64>) -> Option<Bytes> {
        let chunk = small(&self.content)?;
        let Self { cache, content, sources } = self;
        let pack = cache.pack_of(chunk)?;
        let is_there = pack.has(&chunk.part.as_ref()?.range);
        // Somebody may have needed it as a file.
        if lock(&cache.files).get(content).is_some()
            || !is_there && !matches!(cache.disk.find(&content.id, content.size), Found::Absent)
        {
            return None;
        }
        let (plain, waited) = cache.packed(&pack, chunk, sources).await?;
        match waited {
            Waited::Yes => cache.counters.misses.add(1),
            Waited::No => cache.counters.hits.add(1),
        }
        cache.counters.read_bytes.add(part.end - part.start);
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        Some(Bytes::from(plain).slice(index(part.start)..index(part.end)))
    }

    /// The same, with its chunks known if it takes that to read it: they may have to be fetched.
    async fn resolved(&self) -> Result<Self, FetchError> {
        let content = &self.content;
        let Some(table) = content.table.as_ref().filter(|_| content.chunks.is_empty()) else {
            return Ok(self.clone());
        };
        let with = |chunks| Self { content: Content { chunks, ..content.clone() }, ..self.clone() };
        let key = (table.id, content.size);
        if let Some(chunks) = lock(&self.cache.tables).get(&key) {
            return Ok(with(chunks.clone()));
        }
        if self.complete().is_some() {
            return Ok(self.clone());
        }
        let length = usize::try_from(table.size).unwrap_or(usize::MAX);
        let bytes = Box::pin(self.cache.file(table, &self.sources).read(0, length)).await?;
        let chunks = table::read(&bytes, content.size)
            .map_err(|error| FetchError::new(content.id, Reason::Table(error)))?;
        lock(&self.cache.tables).put(key, chunks.clone());
        Ok(with(chunks))
    }

    async fn read_kept(&self, part: Range<u64>, way: impl Fn() -> Way) -> Result<Bytes, FetchError> {
        loop {
            match self.cache.locate(&self.content) {
                Place::Open(file) => {
                    let mut bytes = buffer(&part);
                    match file.append(part.clone(), &mut bytes) {
                        // Whatever came of it.
                        _ if !file.is_intact() => self.cache.let_go(&self.content, &file),
                        Ok(()) => {
                            self.cache.counters.hits.add(1);
                            self.cache.counters.read_bytes.add(bytes.len() as u64);
                            return Ok(bytes.into());
                        }
                        Err(error) => self.cache.distrust(&self.content, &error),
                    }
                }
                Place::Partial(partial) => {
                    if let Some(doubt) = partial.doubt() {
                        doubt.await;
                    } else if self.content.chunks.is_empty() {
                        // It was there a moment ago.
                        return Box::pin(self.read(part.start, length(&part))).await;
                    } else if let Some(bytes) = self.read_partial(&partial, &part, &way).await? {
                        return Ok(bytes);
                    }
                }
            }
        }
    }

    /// The verified file, if it is there: for a reader that can do without this cache's help. Never waits for a
    /// fetch or a verification.
    pub fn complete(&self) -> Option<Arc<VerifiedFile>> {
        if self.content.size == 0 {
            return Some(self.cache.empty.clone());
        }
        loop {
            let known = lock(&self.cache.files).get(&self.content);
            match known {
                Some(Place::Open(file)) if file.is_intact() => {
                    file.last_read().touch();
                    return Some(file);
                }
                Some(Place::Open(file)) => self.cache.let_go(&self.content, &file),
                Some(Place::Partial(_)) => return None,
                None => match self.cache.disk.find(&self.content.id, self.content.size) {
                    Found::Verified(file) => self.cache.admit_found(&self.content, file),
                    Found::Doubtful(_) | Found::Absent => return None,
                },
            }
        }
    }

    /// Fetches what is missing, and waits for the verified file.
    ///
    /// # Errors
    /// If no stor gives a chunk, and if the cache directory cannot hold the file: reading it may still work.
    pub async fn fetch_all(&self) -> Result<Arc<VerifiedFile>, FetchError> {
        loop {
            if let Some(file) = self.complete() {
                return Ok(file);
            }
            let this = self.resolved().await?;
            let Place::Partial(partial) = this.cache.locate(&this.content) else {
                continue;
            };
            if let Some(doubt) = partial.doubt() {
                doubt.await;
                continue;
            }
            let chunks = this.content.chunks.len();
            let arrived = stream::iter(0..chunks)
                .map(|index| {
                    this.begin_run(&partial, index..chunks, Need::AtAnyRate);
                    this.arrive_in_file(&partial, index)
                })
                .buffered(AHEAD)
                .try_for_each(|()| ready(Ok(())))
                .await;
            if let Err(error) = arrived {
                if error.is_lack_of_room() {
                    // What has come, or is still coming, takes the room that others need.
                    self.cache.drop_partial(&partial);
                    join_all(partial.under_way()).await;
                }
                return Err(error);
            }
            let publication = self.cache.publication(&partial);
            return publication.ok_or_else(|| FetchError::new(self.content.id, Reason::Gap))?.await;
        }
    }

    /// Waits for a chunk in the file. A fetch for one who can read through may have been under way already: then it takes another.
    async fn arrive_in_file(&self, partial: &Arc<Partial>, index: usize) -> Result<(), FetchError> {
        for _ in 0..2 {
            if let Arrived::InFile = self.want(partial, index, Need::AtAnyRate, Way::Pack).arrived().await? {
                return Ok(());
            }
        }
        Err(FetchError::new(self.content.id, Reason::NoRoom))
    }

    async fn read_partial(
        &self,
        partial: &Arc<Partial>,
        part: &Range<u64>,
        way: impl Fn() -> Way,
    ) -> Result<Option<Bytes>, FetchError> {
        partial.touch(self.cache.options.clock.now());
        // All are asked for before the first is waited for.
        let chunks = partial.chunks(part);
        let wanted: Vec<_> =
            chunks.clone().map(|index| self.want(partial, index, Need::IfThereIsRoom, way())).collect();
        // What may have to be kept in memory is for those who wait.
        if self.cache.disk.is_writable() && !self.cache.is_tight(self.content.size) {
            let ahead = partial.ahead(part);
            for index in ahead.clone() {
                self.begin_run(partial, index..ahead.end, Need::IfThereIsRoom);
            }
        }
        let counters = &self.cache.counters;
        let waits = wanted.iter().any(|want| matches!(want, Want::Pending(_)));
        if waits {
            counters.misses.add(1)
        } else {
            counters.hits.add(1)
        }

        let mut bytes = buffer(part);
        for (index, want) in chunks.zip(wanted) {
            let chunk = &self.content.chunks[index].plain;
            let piece = part.start.max(chunk.start)..part.end.min(chunk.end);
            match want.arrived().await? {
                Arrived::InFile => {
                    if let Err(error) = partial.read(piece, &mut bytes) {
                        self.cache.give_up(partial, &error);
                        return Ok(None);
                    }
                }
                Arrived::InMemory(memory) => {
                    let index = |offset| usize::try_from(offset - chunk.start).unwrap_or(usize::MAX);
                    bytes.extend_from_slice(&memory.bytes()[index(piece.start)..index(piece.end)]);
                }
            }
        }
        if bytes.len() as u64 == part.end - part.start {
            counters.read_bytes.add(bytes.len() as u64);
            Ok(Some(bytes.into()))
        } else {
            Err(FetchError::new(self.content.id, Reason::Gap))
        }
    }

    /// Begins to fetch the first of some chunks, unless somebody has, and with it those that follow where one request brings them.
    pub(super) fn begin_run(&self, partial: &Arc<Partial>, chunks: Range<usize>, need: Need) {
        let first = chunks.start;
        if !partial.lacks(first) {
            return;
        }
        let members = self.adjoining(partial, chunks);
        if members.len() < 2 {
            drop(self.want(partial, first, need, Way::Pack));
            return;
        }
        let mut run = Run::default();
        for (index, part) in (first..).zip(members) {
            let landing = run.add(part);
            drop(self.want(partial, index, need, Way::Run(landing)));
        }
        run.start(&self.cache, &self.sources, self.content.chunks[first].key.clone());
    }

    /// The parts of a pack that are the first of these chunks, for as long as they are missing, and adjoin.
    fn adjoining(&self, partial: &Partial, chunks: Range<usize>) -> Vec<Range<u64>> {
        let first = &self.content.chunks[chunks.start];
        let Some(pack) = self.cache.pack_of(first) else { return Vec::new() };
        let mut parts: Vec<Range<u64>> = Vec::new();
        for index in chunks {
            let chunk = &self.content.chunks[index];
            let Some(part) = chunk.part.as_ref().filter(|_| chunk.key == first.key) else { break };
            let part = &part.range;
            let (start, end) = parts
                .first()
                .zip(parts.last())
                .map_or((part.start, part.start), |(first, last)| (first.start, last.end));
            if part.start != end
                || part.end - start > run::LENGTH
                || !partial.lacks(index)
                || !matches!(pack.find(part, Wish::Look), Whereabouts::Absent)
            {
                break;
            }
            parts.push(part.clone());
        }
        parts
    }

    pub(super) fn want(&self, partial: &Arc<Partial>, index: usize, need: Need, way: Way) -> Want {
        let fetch = || Fetch {
            need,
            way,
            cache: self.cache.clone(),
            partial: partial.clone(),
            index,
            sources: self.sources.clone(),
        };
        let is_tight =
            || need == Need::IfThereIsRoom && self.cache.is_tight(self.content.chunks[index].length());
        let accept = match self.cache.disk.is_writable() && !is_tight() {
            true => Accept::InFile,
            false => Accept::InMemory,
        };
        partial.want(index, accept, || fetch().start())
    }
}

impl fmt::Debug for CachedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFile").field("content", &self.content).finish_non_exhaustive()
    }
}

impl Want {
    pub(super) async fn arrived(self) -> Result<Arrived, FetchError> {
        match self {
            Self::Ready(arrived) => Ok(arrived),
            Self::Pending(task) => task.await,
        }
    }
}

/// How long a part is.
fn length(part: &Range<u64>) -> usize {
    usize::try_from(part.end - part.start).unwrap_or(usize::MAX)
}

/// An empty buffer with room for a part of a file.
fn buffer(part: &Range<u64>) -> Vec<u8> {
    Vec::with_capacity(length(part))
}
