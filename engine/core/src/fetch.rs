//! Stored bytes for those who look after a stor: in large requests, verified, and without a cache.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aysfs_store::codec::Sink;
use aysfs_store::{Chunk, Fault, Key, Mirror, Store, StoreError};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use crate::named::ChunkError;

/// How much is fetched in one request, in bytes, unless one chunk is larger.
const RUN: u64 = 4 << 20;

/// How many bytes that nobody needs are fetched to spare a request.
const GAP: u64 = 64 << 10;

/// How many requests are on their way at the same time.
const AT_ONCE: usize = 4;

/// How often a request is repeated that may succeed a little later, and the pause before the first repetition.
const REPEATS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// How many pieces of a body wait for a decoder.
const PIECES: usize = 16;

/// Parts of one object, which are fetched together: some neighbours of a list of chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    key: Key,
    /// `None`: all of the object.
    range: Option<Range<u64>>,
    /// Their positions in the list.
    chunks: Range<usize>,
}

/// Fetches chunks and decodes them to their digests; returns the stored bytes. Plain ones go nowhere: a chunk of few stored bytes can have many.
/// Neighbours that are close together in a pack come in one request. They are shown in order, by their position.
pub(crate) fn verified(
    stors: &Arc<Mirror>,
    chunks: Arc<[Chunk]>,
) -> impl Stream<Item = (usize, Result<Bytes, ChunkError>)> + use<> {
    each(stors, chunks, |stors, chunk, stored| {
        stors.decode(chunk, &*stored, Some(stored.len() as u64), &mut Discard)?;
        Ok(stored)
    })
}

/// The same, but returns the plain bytes: for chunk tables, which are small enough for memory.
pub(crate) fn plain(
    stors: &Arc<Mirror>,
    chunks: Arc<[Chunk]>,
) -> impl Stream<Item = (usize, Result<Vec<u8>, ChunkError>)> + use<> {
    each(stors, chunks, |stors, chunk, stored| {
        let mut plain = Vec::new();
        stors.decode(chunk, &*stored, Some(stored.len() as u64), &mut plain)?;
        Ok(plain)
    })
}

/// What is made of a chunk, with its stored bytes.
type Decode<T> = fn(&Mirror, &Chunk, Bytes) -> Result<T, ChunkError>;

fn each<T: Send + 'static>(
    stors: &Arc<Mirror>,
    chunks: Arc<[Chunk]>,
    decode: Decode<T>,
) -> impl Stream<Item = (usize, Result<T, ChunkError>)> + use<T> {
    let stors = stors.clone();
    stream::iter(runs(&chunks))
        .map(move |run| fetch_run(stors.clone(), chunks.clone(), run, decode))
        .buffered(AT_ONCE)
        .map(stream::iter)
        .flatten()
}

/// Groups a list of chunks, in its order.
fn runs(chunks: &[Chunk]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (position, chunk) in chunks.iter().enumerate() {
        let range = chunk.part.as_ref().map(|part| part.range.clone());
        if let (Some(range), Some(Run { key, range: Some(run), chunks })) = (&range, runs.last_mut())
            && *key == chunk.key
            && (run.end..=run.end.saturating_add(GAP)).contains(&range.start)
            && range.end - run.start <= RUN
        {
            run.end = range.end;
            chunks.end = position + 1;
        } else {
            runs.push(Run { key: chunk.key.clone(), range, chunks: position..position + 1 });
        }
    }
    runs
}

async fn fetch_run<T: Send + 'static>(
    stors: Arc<Mirror>,
    chunks: Arc<[Chunk]>,
    run: Run,
    decode: Decode<T>,
) -> Vec<(usize, Result<T, ChunkError>)> {
    let positions = run.chunks.clone();
    match part(&**stors.first(), &run.key, run.range.clone()).await {
        Ok(bytes) => {
            let start = run.range.map_or(0, |range| range.start);
            let decoding = tokio::task::spawn_blocking(move || {
                let fetched = positions.map(|at| {
                    let chunk = &chunks[at];
                    (at, decode(&stors, chunk, stored(chunk, &bytes, start)))
                });
                fetched.collect()
            });
            decoding.await.expect("decoding does not panic")
        }
        // Perhaps one of them only.
        Err(_) if positions.len() > 1 => {
            let mut fetched = Vec::new();
            for at in positions {
                let Chunk { key, part, .. } = &chunks[at];
                let range = part.as_ref().map(|part| part.range.clone());
                let alone = Run { key: key.clone(), range, chunks: at..at + 1 };
                fetched.extend(Box::pin(fetch_run(stors.clone(), chunks.clone(), alone, decode)).await);
            }
            fetched
        }
        Err(error) => vec![(positions.start, Err(error.into()))],
    }
}

/// The bytes of a chunk, out of some that begin at `start` in its object.
fn stored(chunk: &Chunk, bytes: &Bytes, start: u64) -> Bytes {
    let Some(part) = &chunk.part else { return bytes.clone() };
    let index = |at| usize::try_from(at - start).expect("it was fetched into memory");
    bytes.slice(index(part.range.start)..index(part.range.end))
}

/// A part of an object, or all of it, in memory; it has the length that was asked for.
///
/// # Errors
/// [`StoreError`], after some tries if it may pass.
pub(crate) async fn part(
    stor: &dyn Store,
    key: &Key,
    range: Option<Range<u64>>,
) -> Result<Bytes, StoreError> {
    repeated(|| async {
        let body = stor.get(key, range.clone()).await?;
        let expected = range.as_ref().map(|range| range.end - range.start).or(body.length);
        let mut bytes = BytesMut::new();
        let mut stream = body.stream;
        while let Some(piece) = stream.try_next().await? {
            bytes.extend_from_slice(&piece);
            if let Some(expected) = expected.filter(|expected| (bytes.len() as u64) > *expected) {
                return Err(error(stor, key, Fault::Protocol(format!("more than {expected} bytes"))));
            }
        }
        match expected.filter(|expected| (bytes.len() as u64) < *expected) {
            Some(expected) => Err(error(stor, key, Fault::Short { received: bytes.len() as u64, expected })),
            None => Ok(bytes.freeze()),
        }
    })
    .await
}

/// Gives a whole object of any length to a `job` on a thread, as it arrives, with its length, if that is known.
///
/// # Errors
/// [`StoreError`], after some tries if it may pass; whatever the job made of what had arrived by then is forgotten.
pub(crate) async fn stream_to<T: Send + 'static>(
    stor: &dyn Store,
    key: &Key,
    job: impl Fn(Arriving, Option<u64>) -> T + Clone + Send + 'static,
) -> Result<T, StoreError> {
    repeated(|| async {
        let body = stor.get(key, None).await?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let (job, length) = (job.clone(), body.length);
        let done = tokio::task::spawn_blocking(move || job(Arriving { receiver, now: Bytes::new() }, length));
        let (mut stream, mut received) = (body.stream, 0);
        let arrived = loop {
            match stream.try_next().await {
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    if sender.send(Ok(piece)).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => match length.filter(|expected| received < *expected) {
                    Some(expected) => break Err(error(stor, key, Fault::Short { received, expected })),
                    None => break Ok(()),
                },
                Err(error) => break Err(error),
            }
        };
        if arrived.is_err() {
            // A closed channel would look like the end of the body.
            let _ = sender.send(Err(io::Error::other("the body ended early"))).await;
        }
        drop(sender);
        let done = done.await.expect("checking does not panic");
        arrived.map(|()| done)
    })
    .await
}

async fn repeated<T, F: Future<Output = Result<T, StoreError>>>(
    call: impl Fn() -> F,
) -> Result<T, StoreError> {
    let mut pause = PAUSE;
    for _ in 0..REPEATS {
        match call().await {
            Err(error) if error.fault.is_transient() => tokio::time::sleep(pause).await,
            ended => return ended,
        }
        pause *= 4;
    }
    call().await
}

fn error(stor: &dyn Store, key: &Key, fault: Fault) -> StoreError {
    StoreError { stor: stor.name().into(), subject: key.to_string(), fault }
}

/// A body as it arrives, for a thread.
pub(crate) struct Arriving {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    now: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.now = piece?,
                None => return Ok(0),
            }
        }
        let n = self.now.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.now.split_to(n));
        Ok(n)
    }
}

/// Where plain bytes go that only had to be verified.
pub(crate) struct Discard;

impl io::Write for Discard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Discard {
    fn restart(&mut self) {}
}

#[cfg(test)]
mod tests {
    use aysfs_store::{Check, Part};

    use super::*;

    fn chunk(pack: u8, range: Range<u64>) -> Chunk {
        let part = Some(Part { range, pack: 100 << 20 });
        Chunk { plain: 0..1, check: Check::Sha256([0; 32]), key: Key::sha256([pack; 32]), part }
    }

    #[test]
    fn neighbours_come_together() {
        let chunks = [
            chunk(1, 0..10),
            chunk(1, 10..20),
            chunk(1, 20 + GAP..30 + GAP),
            chunk(1, 31 + 2 * GAP..40 + 2 * GAP),
            chunk(2, 40 + 2 * GAP..50 + 2 * GAP),
            chunk(2, 0..RUN - 1),
            chunk(2, RUN - 1..RUN),
            chunk(2, RUN..RUN + 1),
            chunk(2, RUN..RUN + 1),
        ];
        let together: Vec<_> = runs(&chunks).into_iter().map(|run| run.chunks).collect();
        assert_eq!(together, [0..3, 3..4, 4..5, 5..7, 7..8, 8..9]);
        assert_eq!(runs(&chunks)[0].range, Some(0..30 + GAP));
    }
}
