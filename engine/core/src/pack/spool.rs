//! Records that are kept on disk until they are needed again, in an unnamed file, so that memory does not grow with their number.
//!
//! They lie in chunks as a stor keeps them: compressed, and encrypted with the secret of what is packed, if that has one, so that no disk
//! sees names in clear. Of each chunk the digest stays in memory: what comes back is what was written, or an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use aysfs_store::codec::{self, Compression};
use aysfs_store::crypt::Secret;
use sha2::{Digest, Sha256};

use super::known::Id;

/// A chunk ends with the record that makes it longer than this.
const CHUNK: usize = 64 << 10;

/// Names shrink well even so, and it is hardly noticed.
const COMPRESSION: Compression = Compression::Zstd(1);

/// Where records are written.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    secret: Option<Secret>,
    plain: Vec<u8>,
    /// Of the section that is being written.
    chunks: Vec<Chunk>,
    begun: u64,
    end: u64,
}

/// A chunk of the file; one follows the other.
#[derive(Debug)]
struct Chunk {
    id: Id,
    length: usize,
    stored: usize,
}

impl Spool {
    /// In this directory.
    pub(super) fn new(dir: &Path, secret: Option<Secret>) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile_in(dir)?);
        Ok(Self { file, secret, plain: Vec::new(), chunks: Vec::new(), begun: 0, end: 0 })
    }

    /// Adds the record that `put` appends to what it is given.
    pub(super) fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        put(&mut self.plain);
        if self.plain.len() < CHUNK { Ok(()) } else { self.end_chunk() }
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let id = Sha256::digest(&self.plain).into();
        let stored = codec::encode_named(&self.plain, &id, COMPRESSION, self.secret.as_ref());
        self.file.write_all_at(&stored, self.end)?;
        self.chunks.push(Chunk { id, length: self.plain.len(), stored: stored.len() });
        self.end += stored.len() as u64;
        self.plain.clear();
        Ok(())
    }

    /// Ends a section, which can be read from now on: the records since the last one ended.
    pub(super) fn end_section(&mut self) -> io::Result<Section> {
        self.end_chunk()?;
        let start = std::mem::replace(&mut self.begun, self.end);
        let chunks = std::mem::take(&mut self.chunks).into();
        Ok(Section { file: self.file.clone(), secret: self.secret.clone(), chunks, start })
    }
}

/// Records that were written one after the other.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    secret: Option<Secret>,
    chunks: Arc<[Chunk]>,
    start: u64,
}

impl Section {
    /// All of them, from the first one.
    pub(super) fn records(&self) -> Records {
        Records { offset: self.start, section: self.clone(), next: 0, plain: Vec::new(), taken: 0 }
    }
}

/// A section that is being read.
#[derive(Debug)]
pub(super) struct Records {
    section: Section,
    /// The chunk that is read next, and where it is.
    next: usize,
    offset: u64,
    /// The chunk that was read last, and how much of it was taken.
    plain: Vec<u8>,
    taken: usize,
}

impl Records {
    /// What `take` makes of the next record: it takes exactly what was put there. `None`: there are no more.
    pub(super) fn next<T>(&mut self, take: impl FnOnce(&mut Fields<'_>) -> T) -> io::Result<Option<T>> {
        if self.taken == self.plain.len() && !self.read_chunk()? {
            return Ok(None);
        }
        let mut fields = Fields(&self.plain[self.taken..]);
        let record = take(&mut fields);
        self.taken = self.plain.len() - fields.0.len();
        Ok(Some(record))
    }

    fn read_chunk(&mut self) -> io::Result<bool> {
        let Section { file, secret, chunks, .. } = &self.section;
        let Some(Chunk { id, length, stored }) = chunks.get(self.next) else { return Ok(false) };
        let mut bytes = vec![0; *stored];
        file.read_exact_at(&mut bytes, self.offset)?;
        codec::decode_whole(*id, *length as u64, secret.as_ref(), &bytes, &mut self.plain)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.taken = 0;
        self.offset += *stored as u64;
        self.next += 1;
        Ok(true)
    }
}

/// The fields of a record, one after the other as they were put there.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// So many bytes, put as they are.
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (array, rest) = self.0.split_first_chunk().expect("a record is read as it was written");
        self.0 = rest;
        *array
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// What [`put_number`] has put.
    pub(super) fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return number;
            }
            shift += 7;
        }
    }

    /// The same, of a type that it was before.
    pub(super) fn number_as<T: TryFrom<u64>>(&mut self) -> T {
        self.number().try_into().ok().expect("it fitted before")
    }

    /// Bytes that [`put_bytes`] has put.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = self.number_as();
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// What [`put_option`] has put.
    pub(super) fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() == 1).then(|| take(self))
    }

    /// What [`put_all`] has put.
    pub(super) fn all<T>(&mut self, mut take: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.number()).map(|_| take(self)).collect()
    }
}

/// In seven bits of each byte, the lowest first; most numbers are small.
pub(super) fn put_number(to: &mut Vec<u8>, number: impl Into<u64>) {
    let mut number = number.into();
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return to.push(low & 0x7F);
        }
        to.push(low | 0x80);
    }
}

pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_number(to, bytes.len() as u64);
    to.extend(bytes);
}

pub(super) fn put_option<T>(to: &mut Vec<u8>, field: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    to.push(field.is_some().into());
    if let Some(field) = field {
        put(to, field);
    }
}

pub(super) fn put_all<'t, T>(to: &mut Vec<u8>, fields: &'t [T], mut put: impl FnMut(&mut Vec<u8>, &'t T)) {
    put_number(to, fields.len() as u64);
    fields.iter().for_each(|field| put(to, field));
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn spool(secret: Option<Secret>) -> Spool {
        Spool::new(&std::env::temp_dir(), secret).expect("a file")
    }

    fn name(number: u64) -> Vec<u8> {
        format!("a name that tells something, {number}").into()
    }

    fn read(section: &Section) -> Vec<(u64, Vec<u8>)> {
        let mut records = section.records();
        let next = || records.next(|fields| (fields.number(), fields.bytes().to_vec())).expect("readable");
        std::iter::from_fn(next).collect()
    }

    fn write(spool: &mut Spool, numbers: std::ops::Range<u64>) -> Section {
        for number in numbers {
            let put = |to: &mut Vec<u8>| {
                put_number(to, number);
                put_bytes(to, &name(number));
            };
            spool.add(put).expect("written");
        }
        spool.end_section().expect("written")
    }

    #[test]
    fn sections_are_read_as_often_as_needed_and_no_disk_sees_names() {
        for secret in [None, Some(Secret::generate().expect("random"))] {
            let mut spool = spool(secret);
            let ranges = [0..10_000, 0..0, 10_000..10_001];
            let sections = ranges.clone().map(|range| write(&mut spool, range));
            for _ in 0..2 {
                for (section, range) in sections.iter().zip(ranges.clone()) {
                    assert!(read(section) == range.map(|number| (number, name(number))).collect::<Vec<_>>());
                }
            }
            let (mut file, mut bytes) = (&*spool.file, Vec::new());
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("readable");
            assert!(bytes.len() < 200_000, "{}", bytes.len());
            let shows_names = bytes.windows(9).any(|window| window == b"something");
            assert_eq!(shows_names, spool.secret.is_none());
        }
    }

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let mut bytes = Vec::new();
        numbers.iter().for_each(|number| put_number(&mut bytes, *number));
        let mut fields = Fields(&bytes);
        assert_eq!(numbers.map(|_| fields.number()), numbers);
        assert!(fields.0.is_empty());
    }

    #[test]
    fn what_was_changed_on_disk_is_refused() {
        let mut spool = spool(None);
        let section = write(&mut spool, 0..100);
        spool.file.write_all_at(b"other", 50).expect("written");
        let refused = section.records().next(|fields| fields.number()).expect_err("changed");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
