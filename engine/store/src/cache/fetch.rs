//! The fetch of one chunk: stors in order of health, until one gives the right bytes.
//!
//! A fetch ends with the chunk, or when each stor has said something that waiting does not change, or when no new
//! byte arrived for as long as the deadline. A stor has its share of the time that is left, so that one that keeps
//! silent leaves some for the next.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tempfile::SpooledTempFile;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Cache;
use super::buffers::Buffers;
use super::error::{FetchError, Reason, SourceError};
use super::input::Input;
use super::lane::Lane;
use super::packs::Wish;
use super::partial::{Arrived, ChunkTask, Partial, Progress};
use super::room::{Need, TRIES, is_full};
use super::run::{Landed, Landing};
use super::sparse::SparseWriter;
use super::usage::Claim;
use crate::codec::{self, DecodeError, Decoded, Sink};
use crate::crypt::decode_v1_sealed;
use crate::mirror::{Asked, Outcome};
use crate::{Check, Chunk, ContentId, Fault, Mirror, Store, StoreError};

/// A body up to this length is received before it is decoded; a longer one is decoded as it arrives.
const HEAD: usize = 256 << 10;

/// How many pieces of a longer body may wait for its decoder.
const PIECES: usize = 16;

/// The first pause after all stors failed; each following one is twice as long, up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What it takes to fetch one chunk.
pub(super) struct Fetch {
    pub(super) cache: Arc<Cache>,
    pub(super) partial: Arc<Partial>,
    pub(super) index: usize,
    pub(super) sources: Arc<Mirror>,
    pub(super) need: Need,
    pub(super) way: Way,
}

/// What is tried.
pub(super) enum Way {
    /// What is kept of packs, then the stors.
    Pack,
    /// What was asked for together with others, then the stors.
    Run(Landing),
    /// The stors: what is kept of the pack was of no help, and the reader waits since then.
    Alone(Instant),
}

/// The plain bytes of a chunk, still to be had.
enum Material {
    /// As a stor sends them.
    Body(Input, Option<u64>),
    /// As they are stored in a pack.
    Stored(Vec<u8>),
}

/// Where a chunk goes.
enum Target {
    File(Claim),
    Memory(OwnedSemaphorePermit),
}

/// Why an attempt ended without the chunk.
enum Miss {
    /// The stor's fault.
    Source(SourceError),
    /// The cache directory's fault.
    Local(io::Error),
}

/// How far the attempts at a chunk got.
struct Reach {
    /// The most bytes that an attempt received.
    bytes: u64,
    /// When to give up, unless an attempt receives more before.
    give_up: Instant,
}

impl Fetch {
    /// Starts it. It ends whether or not anyone waits.
    pub(super) fn start(self) -> ChunkTask {
        let id = self.partial.content().id;
        tokio::spawn(self.run())
            .map(move |ended| ended.unwrap_or_else(|_| Err(FetchError::new(id, Reason::Aborted))))
            .boxed()
            .shared()
    }

    async fn run(mut self) -> Result<Arrived, FetchError> {
        let mut began = Instant::now();
        let at_once = match std::mem::replace(&mut self.way, Way::Alone(began)) {
            Way::Pack => self.chunk_from_pack().await,
            Way::Run(landing) => self.chunk_from_run(landing).await,
            Way::Alone(since) => {
                began = since;
                None
            }
        };
        let ended = match at_once {
            Some(arrived) => Ok(arrived),
            None => self.chunk_from_any(began).await.map_err(|reason| self.error(reason)),
        };
        match self.partial.settle(self.index, &ended) {
            Progress::Complete => drop(self.cache.publication(&self.partial)),
            Progress::MostlyThere => self.fetch_rest(),
            Progress::Incomplete => {}
        }
        ended
    }

    fn error(&self, reason: Reason) -> FetchError {
        FetchError::new(self.partial.content().id, reason)
    }

    fn chunk(&self) -> &Chunk {
        &self.partial.content().chunks[self.index]
    }

    /// Fetches, one after another, what is missing in a file of which most is there.
    fn fetch_rest(&self) {
        let Self { cache, partial, sources, .. } = self;
        let (cache, partial, sources) = (cache.clone(), partial.clone(), sources.clone());
        tokio::spawn(async move {
            let file = cache.file(partial.content(), &sources);
            for index in 0..partial.content().chunks.len() {
                let need = Need::IfThereIsRoom;
                if cache.is_tight(partial.content().size) {
                    break;
                }
                file.begin_run(&partial, index..partial.content().chunks.len(), need);
                if file.want(&partial, index, need, Way::Pack).arrived().await.is_err() {
                    break;
                }
            }
        });
    }

    /// The chunk, if what is kept of its pack has it, or will. A file that is one chunk brings its neighbours with it.
    async fn chunk_from_pack(&self) -> Option<Arrived> {
        let chunk = self.chunk();
        let wish = if self.partial.content().chunks.len() == 1 { Wish::Fetch } else { Wish::Look };
        let pack = self.cache.pack_of(chunk)?;
        for _ in 0..2 {
            let (stored, _) = self.cache.stored(&pack, chunk, &self.sources, wish).await?;
            let claim = self.cache.claim(chunk.length(), self.need).await?;
            match self.keep(Material::Stored(stored), Target::File(claim)).await {
                Ok(arrived) => {
                    // There is no use for both.
                    if let (Arrived::InFile, Some(part)) = (&arrived, &chunk.part) {
                        self.cache.usage.subtract(pack.release(&part.range));
                    }
                    return Some(arrived);
                }
                // The other way knows what to do.
                Err(DecodeError::Write(_)) => return None,
                Err(error) => self.cache.reject(&pack, chunk, &self.sources, &error)?,
            }
        }
        None
    }

    /// The chunk, if the request that was made for it and others brings it.
    async fn chunk_from_run(&self, landing: Landing) -> Option<Arrived> {
        let Landed { stored, stor, _landing } = landing.await.ok()?;
        let claim = self.cache.claim(self.chunk().length(), self.need).await?;
        match self.keep(Material::Stored(stored), Target::File(claim)).await {
            Ok(arrived) => Some(arrived),
            // The other way knows what to do.
            Err(DecodeError::Write(_)) => None,
            Err(source) => {
                let error =
                    SourceError::Body { stor: stor.name().into(), key: self.chunk().key.clone(), source };
                tracing::debug!("fetch failed: {error}");
                self.sources.report(&stor, self.outcome(&error));
                None
            }
        }
    }

    async fn keep(&self, material: Material, target: Target) -> Result<Arrived, DecodeError> {
        // What is decoded at once takes several times its memory.
        let _turn = match material {
            Material::Stored(_) => self.cache.decoders.acquire().await.ok(),
            Material::Body(..) => None,
        };
        let (cache, partial, index) = (self.cache.clone(), self.partial.clone(), self.index);
        let sources = self.sources.clone();
        let kept =
            tokio::task::spawn_blocking(move || keep(&cache, &partial, index, &sources, material, target));
        kept.await.unwrap_or_else(|panic| {
            Err(DecodeError::Damaged { codec: "chunk", source: io::Error::other(panic) })
        })
    }

    async fn chunk_from_any(&self, entered: Instant) -> Result<Arrived, Reason> {
        let deadline = self.cache.options.deadline;
        let lane = self.cache.lanes.of(&self.sources);
        let mut reach: Option<Reach> = None;
        let mut failures: Vec<(Arc<dyn Store>, SourceError)> = Vec::new();
        let mut pause = PAUSE_MIN;
        loop {
            let place = match &reach {
                None => lane.enter(deadline).await,
                Some(reach) => timeout_at(reach.give_up, lane.enter(deadline)).await.ok().flatten(),
            };
            let Some(place) = place else { return Err(given_up(failures, deadline)) };
            let reach = reach
                .get_or_insert_with(|| Reach { bytes: 0, give_up: entered.max(lane.last_byte()) + deadline });
            if reach.give_up <= Instant::now() {
                // The queue has taken all the time, or the pause what was left: nobody could answer within none.
                return Err(given_up(failures, deadline));
            }
            let mut stors = self.sources.in_order();
            stors.retain(|stor| {
                let failure = failures.iter().find(|(failed, _)| Arc::ptr_eq(failed, stor));
                failure.is_none_or(|(_, error)| error.is_transient())
            });
            let mut left = u32::try_from(stors.len()).unwrap_or(u32::MAX);
            for stor in stors {
                let patience =
                    in_milliseconds(reach.give_up.saturating_duration_since(Instant::now()) / left);
                left -= 1;
                let failed_before = failures.iter().any(|(failed, _)| Arc::ptr_eq(failed, &stor));
                self.sources.asked(&stor, if failed_before { Asked::Again } else { Asked::First });
                let error = match self.chunk_from(&stor, patience, &lane, reach).await? {
                    Ok(arrived) => {
                        self.sources.report(&stor, Outcome::Answered);
                        return Ok(arrived);
                    }
                    Err(error) => error,
                };
                tracing::debug!("fetch failed: {error}");
                self.sources.report(&stor, self.outcome(&error));
                match failures.iter_mut().find(|(failed, _)| Arc::ptr_eq(failed, &stor)) {
                    // The time that was left for it says less than what the stor said before.
                    Some(_) if error.is_silence() => {}
                    Some((_, failure)) => *failure = error,
                    None => failures.push((stor, error)),
                }
            }
            drop(place);

            let time_left = reach.give_up.saturating_duration_since(Instant::now());
            if time_left.is_zero() || !failures.iter().any(|(_, error)| error.is_transient()) {
                return Err(given_up(failures, deadline));
            }
            // Readers of many files must not come back all at once.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0).min(time_left)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            self.cache.counters.retries.add(1);
        }
    }

    fn outcome(&self, error: &SourceError) -> Outcome {
        match error {
            SourceError::Store(error) => Outcome::from(&error.fault),
            // Nobody but us lacks something.
            SourceError::Body { source: DecodeError::Encrypted, .. } => Outcome::Answered,
            SourceError::Body { .. } => {
                self.cache.counters.verification_failures.add(1);
                Outcome::Corrupt
            }
        }
    }

    /// Fetches from one stor, into the file; if that cannot be written, into memory. The outer error means that
    /// no stor can help.
    async fn chunk_from(
        &self,
        stor: &Arc<dyn Store>,
        patience: Duration,
        lane: &Lane,
        reach: &mut Reach,
    ) -> Result<Result<Arrived, SourceError>, Reason> {
        let length = self.chunk().length();
        // What memory can never hold cannot be read through either.
        let need = if self.cache.memory.could_hold(length) { self.need } else { Need::AtAnyRate };
        let mut evictions = 0..TRIES;
        while self.cache.disk.is_writable()
            && let Some(claim) = self.cache.claim(length, need).await
        {
            match self.attempt(stor, patience, lane, reach, Target::File(claim)).await {
                Ok(arrived) => return Ok(Ok(arrived)),
                Err(Miss::Source(error)) => return Ok(Err(error)),
                Err(Miss::Local(error)) => {
                    let is_room_made =
                        is_full(&error) && evictions.next().is_some() && self.make_space(length).await;
                    if !is_room_made {
                        self.cache.disk.failed(&error);
                    }
                }
            }
        }
        let room = self.cache.memory.reserve(length);
        let room = timeout_at(reach.give_up, room).await.ok().flatten().ok_or(Reason::NoRoom)?;
        match self.attempt(stor, patience, lane, reach, Target::Memory(room)).await {
            Ok(arrived) => {
                self.cache.counters.read_through.add(1);
                Ok(Ok(arrived))
            }
            Err(Miss::Source(error)) => Ok(Err(error)),
            Err(Miss::Local(error)) => Err(Reason::Local(error)),
        }
    }

    /// Evicts other content, since the disk is full; returns whether it helped.
    async fn make_space(&self, bytes: u64) -> bool {
        let cache = self.cache.clone();
        tokio::task::spawn_blocking(move || cache.make_space(bytes)).await.unwrap_or(false)
    }

    async fn attempt(
        &self,
        stor: &Arc<dyn Store>,
        patience: Duration,
        lane: &Lane,
        reach: &mut Reach,
        target: Target,
    ) -> Result<Arrived, Miss> {
        let chunk = self.chunk();
        let flaw = |source| SourceError::Body { stor: stor.name().into(), key: chunk.key.clone(), source };
        self.cache.counters.fetches.add(1);

        let silent = || StoreError {
            stor: stor.name().into(),
            subject: chunk.key.to_string(),
            fault: Fault::Silent(patience),
        };
        let body =
            match timeout(patience, stor.get(&chunk.key, chunk.part.as_ref().map(|part| part.range.clone())))
                .await
            {
                Ok(answer) => answer?,
                Err(_) => return Err(silent().into()),
            };
        let (size, limit) = (chunk.length(), codec::stored_limit(chunk.length()));
        if body.length.is_some_and(|length| length > limit) {
            return Err(flaw(DecodeError::Oversized { size, limit }).into());
        }

        let length = body.length;
        let mut arriving =
            Arriving { fetch: self, stor, patience, lane, reach, stream: body.stream, length, received: 0 };
        let kept = match &chunk.part {
            // Short enough to be decoded at once.
            Some(part) => {
                let stored = arriving.all(part.range.end - part.range.start).await?;
                self.keep(Material::Stored(stored), target).await
            }
            None => {
                let (input, sender) = arriving.head().await?;
                let passing_on = async {
                    match sender {
                        Some(sender) => arriving.pass_on(sender).await,
                        None => Ok(()),
                    }
                };
                let (kept, arrived) =
                    join(self.keep(Material::Body(input, length), target), passing_on).await;
                // If the body did not arrive, what the decoder made of its beginning is not the point.
                arrived?;
                kept
            }
        };
        kept.map_err(|error| match error {
            DecodeError::Write(error) => Miss::Local(error),
            error => flaw(error).into(),
        })
    }
}

/// Why there is no chunk: what the stors said, or that none could be asked within the deadline.
fn given_up(failures: Vec<(Arc<dyn Store>, SourceError)>, deadline: Duration) -> Reason {
    if failures.is_empty() {
        return Reason::Queue(deadline);
    }
    Reason::Stors(failures.into_iter().map(|(_, error)| error).collect())
}

impl<E: Into<SourceError>> From<E> for Miss {
    fn from(error: E) -> Self {
        Self::Source(error.into())
    }
}

/// The nearest time that is worth telling.
fn in_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from((time.as_micros() + 500) / 1000).unwrap_or(u64::MAX))
}

/// A body on its way.
struct Arriving<'a> {
    fetch: &'a Fetch,
    stor: &'a Arc<dyn Store>,
    patience: Duration,
    lane: &'a Lane,
    reach: &'a mut Reach,
    stream: BoxStream<'static, Result<Bytes, StoreError>>,
    length: Option<u64>,
    received: u64,
}

impl Arriving<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let piece = match timeout(self.patience, self.stream.next()).await {
            Ok(piece) => piece.transpose()?,
            Err(_) => return Err(self.error(Fault::Silent(self.patience))),
        };
        if let Some(piece) = &piece {
            self.received += piece.len() as u64;
            self.fetch.cache.counters.stored_bytes.add(piece.len() as u64);
            self.fetch.sources.received(self.stor, piece.len() as u64);
            self.lane.moves();
            if self.received > self.reach.bytes {
                self.reach.bytes = self.received;
                self.reach.give_up = Instant::now() + self.fetch.cache.options.deadline;
            }
        } else if let Some(expected) = self.length.filter(|length| self.received < *length) {
            return Err(self.error(Fault::Short { received: self.received, expected }));
        }
        Ok(piece)
    }

    /// All of a body that is to be so long.
    async fn all(&mut self, expected: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(piece) = self.next().await? {
            if self.received > expected {
                return Err(self.error(Fault::Protocol("more bytes than were asked for".into())));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The beginning of a body, and a way for the rest of it to a decoder that reads this.
    async fn head(&mut self) -> Result<(Input, Option<Sender<io::Result<Bytes>>>), StoreError> {
        let mut head = Vec::new();
        while self.received < HEAD as u64 {
            match self.next().await? {
                Some(piece) => head.push(piece),
                None => return Ok((Input::new(head, None), None)),
            }
        }
        let (sender, tail) = mpsc::channel(PIECES);
        Ok((Input::new(head, Some(tail)), Some(sender)))
    }

    /// Gives what arrives to the decoder, for as long as that wants more.
    async fn pass_on(&mut self, decoder: Sender<io::Result<Bytes>>) -> Result<(), StoreError> {
        loop {
            match self.next().await {
                Ok(Some(piece)) => {
                    if decoder.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    // A closed channel would look like the end of the body.
                    let _ = decoder.send(Err(io::Error::other("the body ended early"))).await;
                    return Err(error);
                }
            }
        }
    }

    fn error(&self, fault: Fault) -> StoreError {
        let key = &self.fetch.chunk().key;
        StoreError { stor: self.stor.name().into(), subject: key.to_string(), fault }
    }
}

/// Decodes a body, verifies it, and keeps the chunk; blocks. A file that is this one chunk is published.
fn keep(
    cache: &Cache,
    partial: &Partial,
    index: usize,
    sources: &Mirror,
    material: Material,
    target: Target,
) -> Result<Arrived, DecodeError> {
    let content = partial.content();
    let chunk = &content.chunks[index];
    let arrived = match target {
        Target::File(claim) => {
            let (file, region) = partial.file(index, &cache.disk).map_err(DecodeError::Write)?;
            let mut writer = SparseWriter::new(file.file(), chunk.plain.start, chunk.length(), region);
            let decoded =
                decode(chunk, sources, material, &cache.buffers, || cache.disk.spool(), &mut writer)?;
            file.take(claim);
            if chunk.plain == (0..content.size) && proves(chunk, &content.id) {
                let published = cache.publish(content, &file, decoded.plain);
                partial.published(published.map_err(|reason| FetchError::new(content.id, reason)));
            }
            Arrived::InFile
        }
        Target::Memory(room) => {
            let mut bytes = Vec::with_capacity(usize::try_from(chunk.length()).unwrap_or(0));
            decode(
                chunk,
                sources,
                material,
                &cache.buffers,
                || SpooledTempFile::new(usize::MAX),
                &mut bytes,
            )?;
            Arrived::InMemory(cache.memory.keep(bytes, room))
        }
    };
    cache.counters.plain_bytes.add(chunk.length());
    Ok(arrived)
}

fn decode(
    chunk: &Chunk,
    sources: &Mirror,
    material: Material,
    buffers: &Buffers,
    spool: impl FnOnce() -> SpooledTempFile,
    sink: &mut impl Sink,
) -> Result<Decoded, DecodeError> {
    let (input, length) = match (material, chunk.check) {
        (Material::Body(input, length), _) => (input, length),
        (Material::Stored(stored), Check::Sha256(digest)) => {
            let mut plain = buffers.take(chunk.length());
            let decoded = codec::decode_whole(digest, chunk.length(), sources.secret(), &stored, &mut plain)
                .and_then(|()| sink.write_all(&plain).map_err(DecodeError::Write));
            buffers.give(plain);
            decoded?;
            return Ok(Decoded { stored: stored.len() as u64, plain: ContentId::Sha256(digest) });
        }
        (Material::Stored(stored), Check::V1(_)) => {
            let length = Some(stored.len() as u64);
            (Input::new(vec![stored.into()], None), length)
        }
    };
    match chunk.check {
        Check::V1(hash) => match sources.v1_keys().key_of(&hash)? {
            Some(key) => decode_v1_sealed(hash, chunk.length(), &key, input, sink),
            None => codec::decode_v1(hash, chunk.length(), input, length, spool(), sink),
        },
        Check::Sha256(digest) => codec::decode_chunk(digest, chunk.length(), sources.secret(), input, sink),
    }
}

/// Whether a chunk that passed its check is what `id` names, if it is all of it.
fn proves(chunk: &Chunk, id: &ContentId) -> bool {
    match (&chunk.check, id) {
        (Check::V1(hash), ContentId::Md5(id)) => hash == id,
        (Check::Sha256(digest), ContentId::Sha256(id)) => digest == id,
        (Check::V1(_), ContentId::Sha256(_)) | (Check::Sha256(_), ContentId::Md5(_)) => false,
    }
}
