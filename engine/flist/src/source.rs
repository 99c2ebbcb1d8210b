//! Where a list comes from, read in blocks of whole lines.
//!
//! A list is read, never mapped: a list that someone truncates while it is mapped would kill the process, and one
//! that changes between hashing and parsing would be indexed under the wrong name.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::limits::MAX_LINE;

/// A flist to read: plain or zstd-compressed, whatever its name.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A local file.
    File(&'a Path),
    /// A local copy of a list from elsewhere, under the name that messages use (a URL, for example). The copy may
    /// be another file each time.
    Copy {
        /// The name.
        name: &'a str,
        /// The copy.
        path: &'a Path,
    },
    /// Bytes that are in memory, under the name that messages use.
    Bytes {
        /// The name.
        name: &'a str,
        /// The list.
        bytes: &'a [u8],
    },
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Source<'a> {
    fn from(path: &'a P) -> Self {
        Self::File(path.as_ref())
    }
}

impl<'a> Source<'a> {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Copy { name, .. } | Self::Bytes { name, .. } => (*name).to_owned(),
        }
    }

    pub(crate) fn open(&self) -> io::Result<Raw<'a>> {
        Ok(match self {
            Self::File(path) | Self::Copy { path, .. } => Raw::File(File::open(path)?),
            Self::Bytes { bytes, .. } => Raw::Bytes(Cursor::new(bytes)),
        })
    }
}

/// The bytes of a source as they are stored.
pub(crate) enum Raw<'a> {
    File(File),
    Bytes(Cursor<&'a [u8]>),
}

impl Raw<'_> {
    /// The digest of all bytes; the position is then at the start again.
    pub(crate) fn sha256(&mut self) -> io::Result<[u8; 32]> {
        self.rewind()?;
        let mut digesting = Digesting::new(&mut *self);
        let digest = digesting.finish()?;
        self.rewind()?;
        Ok(digest)
    }

    fn rewind(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.rewind(),
            Self::Bytes(bytes) => bytes.rewind(),
        }
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Bytes(bytes) => bytes.read(buffer),
        }
    }
}

/// Digests what is read through it.
pub(crate) struct Digesting<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Digesting<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// Reads what is left; returns the digest of everything.
    pub(crate) fn finish(&mut self) -> io::Result<[u8; 32]> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(std::mem::take(&mut self.hasher).finalize().into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// The text of a list, decompressed if it begins like a zstd frame.
pub(crate) fn decompressed<'a>(mut raw: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
    let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
    raw.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    let compressed = start == ZSTD_MAGIC;
    let whole = Cursor::new(start).chain(raw);
    Ok(if compressed {
        Box::new(zstd::Decoder::with_buffer(BufReader::new(whole))?)
    } else {
        Box::new(whole)
    })
}

/// The text of a list, in blocks that end where a line ends.
pub(crate) struct Blocks<R> {
    reader: R,
    /// The beginning of a line whose end is in the next block.
    carry: Vec<u8>,
    ended: bool,
}

impl<R: Read> Blocks<R> {
    const SIZE: usize = 2 * MAX_LINE;

    pub(crate) fn new(reader: R) -> Self {
        Self { reader, carry: Vec::new(), ended: false }
    }

    /// The next block, never empty. A line too long for a block comes in pieces that are still too long a line.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = Vec::with_capacity(Self::SIZE);
        block.append(&mut self.carry);
        let wanted = Self::SIZE - block.len();
        let read = self.reader.by_ref().take(wanted as u64).read_to_end(&mut block)?;
        if read < wanted {
            self.ended = true;
        } else if let Some(newline) = memchr::memrchr(b'\n', &block) {
            self.carry = block.split_off(newline + 1);
        }
        Ok((!block.is_empty()).then_some(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_where_lines_end() {
        let line = [b"x".repeat(100), b"\n".to_vec()].concat();
        let mut text = line.repeat(50_000);
        text.extend(b"unfinished");
        let mut blocks = Blocks::new(&text[..]);
        let mut joined = Vec::new();
        let mut count = 0;
        while let Some(block) = blocks.next().expect("memory can be read") {
            if joined.len() + block.len() < text.len() {
                assert_eq!(block.last(), Some(&b'\n'));
            }
            joined.extend(block);
            count += 1;
        }
        assert!(count > 1);
        assert_eq!(joined, text);
    }

    #[test]
    fn a_digest_covers_what_was_not_read() {
        let mut digesting = Digesting::new(&b"some text"[..]);
        let mut start = [0; 4];
        digesting.read_exact(&mut start).expect("memory can be read");
        assert_eq!(digesting.finish().expect("memory can be read")[..], Sha256::digest(b"some text")[..]);
    }

    #[test]
    fn zstd_is_known_by_its_first_bytes() {
        let text = b"a list, compressed".repeat(1000);
        let packed = zstd::encode_all(&text[..], 3).expect("memory can be compressed");
        for stored in [&packed, &text] {
            let mut read = Vec::new();
            decompressed(&stored[..]).expect("opens").read_to_end(&mut read).expect("decompresses");
            assert_eq!(read, text);
        }
        let cut = &packed[..packed.len() - 1];
        let error = decompressed(cut).expect("opens").read_to_end(&mut Vec::new()).expect_err("cut short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
