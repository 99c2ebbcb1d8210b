//! Decoding content to its digest: a sample of it, or all.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aysfs_store::codec::DecodeError;
use aysfs_store::{Chunk, Key, Mirror};
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{Flaw, Object, Problem, Progress};
use crate::base::Base;
use crate::fetch::{self, Arriving, Discard};
use crate::named::{ChunkError, Piece};

/// How many objects are read at the same time.
const AT_ONCE: usize = 4;

/// Reads and decodes some percent of the chunks; returns how many could be read.
pub(super) async fn sample(
    base: &Base,
    stors: &Arc<Mirror>,
    objects: Vec<Object>,
    percent: f64,
    seed: u64,
    progress: &Progress,
    report: &mut impl FnMut(Problem),
) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut parts, mut of_parts, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        for pieces in object.chunks() {
            if random.f64() * 100.0 >= percent {
                continue;
            }
            let chunk = &pieces[0].chunk;
            progress.bytes_found.fetch_add(stored(chunk), Ordering::Relaxed);
            if chunk.part.is_some() {
                parts.push(chunk.clone());
                of_parts.push(pieces.to_vec());
            } else {
                whole.push(pieces.to_vec());
            }
        }
    }
    let mut read = 0;
    {
        let mut fetched = std::pin::pin!(fetch::verified(stors, parts.into()));
        while let Some((at, fetched)) = fetched.next().await {
            let pieces = &of_parts[at];
            progress.bytes_done.fetch_add(stored(&pieces[0].chunk), Ordering::Relaxed);
            read += u64::from(!matches!(fetched, Err(ChunkError::Fetch(_))));
            if let Err(error) = fetched {
                report(problem(base, pieces, error.into()));
            }
        }
    }
    read + verify_whole(base, stors, whole, progress, report).await
}

/// Reads and decodes everything; returns how many chunks could be read.
pub(super) async fn full(
    base: &Base,
    stors: &Arc<Mirror>,
    objects: Vec<Object>,
    progress: &Progress,
    report: &mut impl FnMut(Problem),
) -> u64 {
    let (packs, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object.length.is_some());
    let whole: Vec<Vec<Piece>> =
        others.iter().flat_map(|object| object.chunks().map(<[Piece]>::to_vec)).collect();
    // Lengths are what the list says.
    let lengths = packs.iter().filter_map(|pack| pack.length);
    let found = lengths.chain(whole.iter().map(|pieces| stored(&pieces[0].chunk)));
    let found = found.fold(0, u64::saturating_add);
    progress.bytes_found.fetch_add(found, Ordering::Relaxed);
    let mut verified = verify_whole(base, stors, whole, progress, report).await;

    let mut read = stream::iter(packs)
        .map(|pack| async move {
            let chunks: Arc<[Chunk]> = pack.chunks().map(|pieces| pieces[0].chunk.clone()).collect();
            let (sources, listed) = (stors.clone(), chunks.clone());
            let length = pack.length.unwrap_or_default();
            let job = move |arriving, _| read_pack(arriving, &sources, &listed, length);
            let read = fetch::stream_to(&**stors.first(), &pack.key, job).await;
            progress.bytes_done.fetch_add(pack.length.unwrap_or_default(), Ordering::Relaxed);
            (pack, chunks, read)
        })
        .buffered(AT_ONCE);
    while let Some((pack, chunks, read)) = read.next().await {
        let ReadPack { flaws, skipped, length, sha256 } = match read {
            Ok(read) => read,
            Err(error) => {
                report(Problem::new(base, &pack.key, pack.nodes(), Flaw::Fetch(error)));
                continue;
            }
        };
        verified += (chunks.len() - skipped.len()) as u64;
        let pieces: Vec<&[Piece]> = pack.chunks().collect();
        for (at, flaw) in flaws {
            report(problem(base, pieces[at], Flaw::Content(flaw)));
        }
        let again: Arc<[Chunk]> = skipped.iter().map(|at| chunks[*at].clone()).collect();
        let mut again = std::pin::pin!(fetch::verified(stors, again));
        while let Some((at, fetched)) = again.next().await {
            verified += u64::from(!matches!(fetched, Err(ChunkError::Fetch(_))));
            if let Err(error) = fetched {
                report(problem(base, pieces[skipped[at]], error.into()));
            }
        }
        let expected = pack.length.unwrap_or_default();
        if length != expected {
            let is_long = length > expected;
            let flaw = if is_long { Flaw::Long(expected) } else { Flaw::Length { expected, found: length } };
            report(Problem::new(base, &pack.key, pack.nodes(), flaw));
        } else if names_another(&pack.key, sha256) {
            report(Problem::new(base, &pack.key, pack.nodes(), Flaw::Name));
        }
    }
    verified
}

/// Reads and decodes chunks that are objects of their own, of any length; returns how many could be read.
async fn verify_whole(
    base: &Base,
    stors: &Arc<Mirror>,
    chunks: Vec<Vec<Piece>>,
    progress: &Progress,
    report: &mut impl FnMut(Problem),
) -> u64 {
    let mut count = 0;
    let mut read = stream::iter(chunks)
        .map(|pieces| async move {
            let chunk = pieces[0].chunk.clone();
            let (sources, of) = (stors.clone(), chunk.clone());
            let job = move |arriving, length| sources.decode(&of, arriving, length, &mut Discard).map(drop);
            let decoded = fetch::stream_to(&**stors.first(), &chunk.key, job).await;
            progress.bytes_done.fetch_add(stored(&chunk), Ordering::Relaxed);
            (pieces, decoded)
        })
        .buffered(AT_ONCE);
    while let Some((pieces, decoded)) = read.next().await {
        count += u64::from(decoded.is_ok());
        let flaw = match decoded {
            Ok(Ok(())) => continue,
            Ok(Err(flaw)) => Flaw::Content(flaw),
            Err(error) => Flaw::Fetch(error),
        };
        report(problem(base, &pieces, flaw));
    }
    count
}

/// What is wrong with a chunk, and with all files that have it.
fn problem(base: &Base, pieces: &[Piece], flaw: Flaw) -> Problem {
    Problem::new(base, &pieces[0].chunk.key, pieces.iter().map(|piece| piece.node), flaw)
}

/// How many stored bytes a chunk has, or is likely to have.
fn stored(chunk: &Chunk) -> u64 {
    chunk.part.as_ref().map_or(chunk.length(), |part| part.range.end - part.range.start)
}

/// Whether a key is the digest of other bytes; one that the stor has chosen says nothing about them.
fn names_another(key: &Key, sha256: [u8; 32]) -> bool {
    key.as_str().len() == 64 && *key != Key::sha256(sha256)
}

/// What a pack was found to be.
struct ReadPack {
    /// Chunks that are wrong, by their position.
    flaws: Vec<(usize, DecodeError)>,
    /// Chunks that overlap others, and were not looked at.
    skipped: Vec<usize>,
    length: u64,
    sha256: [u8; 32],
}

/// Reads a pack to its end, or until it is longer than it should be; `chunks` are sorted by where they begin.
fn read_pack(arriving: Arriving, stors: &Mirror, chunks: &[Chunk], length: u64) -> ReadPack {
    let mut pack = Digesting { inner: arriving, hash: Sha256::new(), at: 0 };
    let (mut flaws, mut skipped) = (Vec::new(), Vec::new());
    for (position, chunk) in chunks.iter().enumerate() {
        let Some(part) = &chunk.part else {
            skipped.push(position);
            continue;
        };
        let (start, stored) = (part.range.start, part.range.end - part.range.start);
        let Some(gap) = start.checked_sub(pack.at) else {
            skipped.push(position);
            continue;
        };
        // If it does not arrive, whoever sends it knows that, and why.
        pack.skip(gap);
        let end = pack.at + stored;
        if let Err(flaw) = stors.decode(chunk, (&mut pack).take(stored), Some(stored), &mut Discard) {
            flaws.push((position, flaw));
        }
        pack.skip(end.saturating_sub(pack.at));
    }
    pack.skip(length.saturating_add(1).saturating_sub(pack.at));
    ReadPack { flaws, skipped, length: pack.at, sha256: pack.hash.finalize().into() }
}

/// Digests and counts what is read.
struct Digesting<R> {
    inner: R,
    hash: Sha256,
    at: u64,
}

impl<R: Read> Digesting<R> {
    fn skip(&mut self, bytes: u64) {
        let _ = io::copy(&mut self.take(bytes), &mut io::sink());
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.at += n as u64;
        Ok(n)
    }
}
