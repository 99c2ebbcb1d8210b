//! Chunk tables: where the chunks of a large file are.
//!
//! The flist names the digest of a table, so what it says has the weight of the list. A table refers to packs by their keys, not by
//! the numbers of a list: so the same table serves in every list that has the file.
//!
//! The bytes, all numbers little-endian:
//!
//! ```text
//! "aysfstb1"
//! u32 number of packs; each: u8 length of the key (16 or 32), the key, u64 length of the pack
//! rows until the end:  SHA-256 of the plain bytes [32], u32 plain length, u32 pack, u64 offset, u32 stored length
//! ```

use std::sync::Arc;

use crate::codec::stored_limit;
use crate::{Check, Chunk, Key, Part};

/// The first bytes of every table.
const MAGIC: &[u8; 8] = b"aysfstb1";

/// The longest chunk that is written, and the longest that is read, in bytes: each is decoded as a whole before any of it is shown.
pub const CHUNK_MAX: u32 = 16 << 20;

/// Why a table is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not the bytes of a table.
    #[error("the chunk table is not one that this version of aysfs can read")]
    Format,
    /// A row that makes no sense.
    #[error("row {0} of the chunk table makes no sense")]
    Row(usize),
    /// The chunks are not the file.
    #[error("the chunk table lists {found} bytes of a file of {size}")]
    Size {
        /// The size of the file.
        size: u64,
        /// What the rows come to.
        found: u64,
    },
}

/// The bytes of a table of these chunks, each a part of a pack with a SHA-256, in order, without gaps. `None`: they are no such
/// chunks.
pub fn write(chunks: &[Chunk]) -> Option<Vec<u8>> {
    let mut packs: Vec<(&Key, u64)> = Vec::new();
    let mut rows = Vec::new();
    for chunk in chunks {
        let (Check::Sha256(sha256), Some(part)) = (chunk.check, &chunk.part) else { return None };
        // Most chunks are in the pack of the one before.
        let known = packs.iter().rposition(|(key, _)| **key == chunk.key);
        let pack = known.unwrap_or_else(|| {
            packs.push((&chunk.key, part.pack));
            packs.len() - 1
        });
        rows.extend(sha256);
        rows.extend(u32::try_from(chunk.length()).ok()?.to_le_bytes());
        rows.extend(u32::try_from(pack).ok()?.to_le_bytes());
        rows.extend(part.range.start.to_le_bytes());
        rows.extend(u32::try_from(part.range.end - part.range.start).ok()?.to_le_bytes());
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::try_from(packs.len()).ok()?.to_le_bytes());
    for (key, length) in packs {
        let key = hex::decode(key.as_str()).ok()?;
        bytes.push(u8::try_from(key.len()).ok()?);
        bytes.extend(key);
        bytes.extend(length.to_le_bytes());
    }
    bytes.extend(rows);
    Some(bytes)
}

/// The chunks that a table lists, of a file of this size.
///
/// # Errors
/// [`TableError`]: whatever the bytes are, what is returned covers the file.
pub fn read(bytes: &[u8], size: u64) -> Result<Arc<[Chunk]>, TableError> {
    let mut input = Input(bytes);
    if input.take() != Some(*MAGIC) {
        return Err(TableError::Format);
    }
    let packs = packs(&mut input).ok_or(TableError::Format)?;
    let mut chunks = Vec::new();
    let mut at = 0_u64;
    while !input.0.is_empty() {
        let chunk = row(&mut input, &packs, at).ok_or(TableError::Row(chunks.len()))?;
        at = chunk.plain.end;
        chunks.push(chunk);
    }
    if at == size { Ok(chunks.into()) } else { Err(TableError::Size { size, found: at }) }
}

fn packs(input: &mut Input<'_>) -> Option<Vec<(Key, u64)>> {
    let count = u32::from_le_bytes(input.take()?);
    let mut packs = Vec::new();
    for _ in 0..count {
        let key = match input.take()? {
            [16_u8] => Key::md5(input.take()?),
            [32] => Key::sha256(input.take()?),
            _ => return None,
        };
        packs.push((key, u64::from_le_bytes(input.take()?)));
    }
    Some(packs)
}

fn row(input: &mut Input<'_>, packs: &[(Key, u64)], at: u64) -> Option<Chunk> {
    let sha256 = input.take()?;
    let length = u32::from_le_bytes(input.take()?);
    let (key, pack) = packs.get(u32::from_le_bytes(input.take()?) as usize)?;
    let offset = u64::from_le_bytes(input.take()?);
    let stored = u64::from(u32::from_le_bytes(input.take()?));
    let end = offset.checked_add(stored)?;
    let plain = at..at.checked_add(length.into())?;
    let is_sound = (1..=CHUNK_MAX).contains(&length)
        && (1..=stored_limit(length.into())).contains(&stored)
        && end <= *pack;
    let part = Part { range: offset..end, pack: *pack };
    is_sound.then(|| Chunk { plain, check: Check::Sha256(sha256), key: key.clone(), part: Some(part) })
}

/// What is left to be read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Vec<Chunk> {
        let keys = [Key::sha256([1; 32]), Key::md5([2; 16])];
        let places = [(0_u8, 0..10, 100), (1, 50..60, 200), (0, 20..21, 30)];
        let mut at = 0;
        let chunk = |(key, range, length): (u8, std::ops::Range<u64>, u64)| {
            let plain = at..at + length;
            at += length;
            let part = Some(Part { range, pack: 1000 + u64::from(key) });
            Chunk { plain, check: Check::Sha256([key; 32]), key: keys[usize::from(key)].clone(), part }
        };
        places.map(chunk).into()
    }

    #[test]
    fn a_table_tells_the_chunks_again() {
        let bytes = write(&chunks()).expect("parts of packs");
        assert_eq!(read(&bytes, 330).expect("just written").as_ref(), chunks());
        assert_eq!(read(&bytes, 329), Err(TableError::Size { size: 329, found: 330 }));
        assert_eq!(read(&write(&[]).expect("none"), 0).expect("none").len(), 0);
    }

    #[test]
    fn whole_objects_are_in_no_table() {
        let mut chunks = chunks();
        chunks[1].part = None;
        assert_eq!(write(&chunks), None);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let bytes = write(&chunks()).expect("parts of packs");
        for length in 0..bytes.len() {
            read(&bytes[..length], 330).expect_err("cut short");
        }
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x80;
            if let Ok(chunks) = read(&damaged, 330) {
                assert_eq!(chunks.last().expect("some").plain.end, 330);
            }
        }
    }

    #[test]
    fn rows_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut Chunk)| {
            let mut chunks = chunks();
            change(&mut chunks[1]);
            let bytes = write(&chunks).expect("parts of packs");
            assert_eq!(read(&bytes, 330), Err(TableError::Row(1)));
        };
        refused(|chunk| chunk.plain = 0..0);
        refused(|chunk| chunk.plain = 0..u64::from(CHUNK_MAX) + 1);
        refused(|chunk| chunk.part = Some(Part { range: 5..5, pack: 1001 }));
        refused(|chunk| chunk.part = Some(Part { range: 1000..1002, pack: 1001 }));
        refused(|chunk| chunk.part = Some(Part { range: 0..1 << 20, pack: 1 << 30 }));
    }
}
