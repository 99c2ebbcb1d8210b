//! An index file as such: its checksums, its bounds, and the map of it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::ops::Range;
use std::path::PathBuf;

use memmap2::{Advice, Mmap};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Index;
use super::format::{
    Dentry, FORMAT, FileHeader, MAGIC, Md5Row, ObjectRow, OwnerRow, PackRow, PlaceRow, Record, Run, Section,
    SegmentRow, Slice, TableRow, XattrRow,
};
use super::key::Key;
use crate::entry::{Ancestor, Dialect, Header, Owner, Pack, TimeOrder};
use crate::header::HeaderParser;

/// Compares the whole file with its checksums.
///
/// It is read, not mapped: pages that are looked at through a map count as this process's memory.
pub(super) fn verify(mut file: &File) -> io::Result<()> {
    file.rewind()?;
    let mut start = [0; FileHeader::LENGTH];
    file.read_exact(&mut start)?;
    let header = checked(&start)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if hasher.digest() == header.body_check.get() { Ok(()) } else { Err(damaged("its checksum is wrong")) }
}

impl Index {
    /// Maps a file. Its header and its sections are checked, but not what is in them.
    pub(super) fn map(file: &File, path: PathBuf, key: &Key) -> io::Result<Self> {
        let map = map(file)?;
        let header = *checked(&map)?;
        if header.key != *key.bytes() {
            return Err(damaged("it belongs to another list"));
        }
        if header.length.get() != map.len() as u64 {
            return Err(damaged("its length is wrong"));
        }
        // A hint: where it is not taken, lookups read more than they need.
        map.advise(Advice::Random).ok();
        let mut index = Self {
            path,
            sections: sections(&header, map.len())?,
            map,
            dialect: match header.dialect {
                0 => Dialect::V1Short,
                1 => Dialect::V1Long,
                2 => Dialect::V2,
                _ => return Err(damaged("its dialect is unknown")),
            },
            times: match header.times {
                0 => TimeOrder::Spec,
                1 => TimeOrder::Swapped,
                _ => return Err(damaged("its order of times is unknown")),
            },
            header: Header::default(),
            users: Vec::new(),
            groups: Vec::new(),
            list: *key.list(),
            total_size: header.total_size.get(),
        };
        index.header = index.list_header(&header)?;
        index.users = index.owners(Section::Users)?;
        index.groups = index.owners(Section::Groups)?;
        Ok(index)
    }

    /// The rows of a section.
    pub(super) fn rows<T: FromBytes + KnownLayout + Immutable + Unaligned>(&self, section: Section) -> &[T] {
        let bytes = &self.map[self.sections[section as usize].clone()];
        // Whole rows of this very type, says `sections`.
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// Bytes among the blobs.
    pub(super) fn blob(&self, slice: Slice) -> Option<&[u8]> {
        let start = slice.offset.get() as usize;
        self.rows::<u8>(Section::Blobs).get(start..start.checked_add(slice.length.get() as usize)?)
    }

    fn list_header(&self, header: &FileHeader) -> io::Result<Header> {
        let text = |bit: u8, slice| {
            if header.present & bit == 0 {
                return Ok(None);
            }
            let bytes = self.blob(slice).ok_or_else(|| damaged("its header points nowhere"))?;
            String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| damaged("its header is not text"))
        };
        let mut rows: Vec<_> = self.rows::<PackRow>(Section::Packs).iter().collect();
        rows.sort_by_key(|row| row.number.get());
        let mut start: Vec<_> = rows.iter().filter(|row| row.start.get() > 0).collect();
        start.sort_by_key(|row| row.start.get());
        let pack = |row: &&PackRow| Pack { key: row.key(), bytes: row.bytes.get() };
        Ok(Header {
            name: text(1, header.name)?,
            created: text(2, header.created)?,
            version: (header.present & 4 != 0).then_some(header.version.get()),
            packs: rows.iter().map(pack).collect(),
            start: start.into_iter().map(|row| row.key()).collect(),
            ancestors: self.ancestors(header)?,
        })
    }

    fn ancestors(&self, header: &FileHeader) -> io::Result<Vec<Ancestor>> {
        let lines = self.blob(header.ancestors).ok_or_else(|| damaged("its header points nowhere"))?;
        let mut parser = HeaderParser::default();
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            parser.line(line).map_err(|_| damaged("its header is not what was written"))?;
        }
        Ok(parser.finish().0.ancestors)
    }

    fn owners(&self, section: Section) -> io::Result<Vec<Owner>> {
        let owner = |row: &OwnerRow| {
            let name = self.blob(row.name)?;
            Some(Owner {
                name: (!name.is_empty()).then(|| name.to_vec()),
                id: (row.has_id.get() != 0).then_some(row.id.get()),
            })
        };
        let owners = self.rows(section).iter().map(owner).collect::<Option<_>>();
        owners.ok_or_else(|| damaged("an owner points nowhere"))
    }
}

/// The header at the start of an index.
fn checked(bytes: &[u8]) -> io::Result<&FileHeader> {
    let (header, _) = FileHeader::ref_from_prefix(bytes).map_err(|_| damaged("it is cut short"))?;
    if header.magic != MAGIC || header.format.get() != FORMAT {
        return Err(damaged("it is no index of this version"));
    }
    if header.header_check.get() != header.own_check() {
        return Err(damaged("the checksum of its header is wrong"));
    }
    Ok(header)
}

/// Where the sections are, all of them inside the file and holding whole rows.
fn sections(header: &FileHeader, length: usize) -> io::Result<[Range<usize>; Section::COUNT]> {
    /// In the order of [`Section`].
    const ROWS: [usize; Section::COUNT] = [
        size_of::<Record>(),
        size_of::<Dentry>(),
        1,
        1,
        size_of::<OwnerRow>(),
        size_of::<OwnerRow>(),
        size_of::<Md5Row>(),
        size_of::<ObjectRow>(),
        size_of::<PlaceRow>(),
        size_of::<TableRow>(),
        size_of::<Run>(),
        size_of::<XattrRow>(),
        size_of::<Run>(),
        size_of::<SegmentRow>(),
        size_of::<PackRow>(),
    ];
    let mut sections = [const { 0..0 }; Section::COUNT];
    for ((section, extent), row) in sections.iter_mut().zip(&header.sections).zip(ROWS) {
        let range = || {
            let start = usize::try_from(extent.offset.get()).ok()?;
            let end = usize::try_from(extent.rows.get()).ok()?.checked_mul(row)?.checked_add(start)?;
            (end <= length).then_some(start..end)
        };
        *section = range().ok_or_else(|| damaged("a section is outside of it"))?;
    }
    Ok(sections)
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapped bytes must not change. An index is written under another name and renamed, never written
    // again, and lies in a directory that is private to us; a rebuilt index is another file.
    unsafe { Mmap::map(file) }
}
