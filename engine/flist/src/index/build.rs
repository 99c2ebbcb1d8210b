//! From the tree of a list to the bytes of its index.
//!
//! The names of each directory are sorted, directories are visited depth first, and nodes are numbered as they are
//! met: what a walk reads next lies next in the file. The same list always gives the same bytes.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::format::{Dentry, Extent, FORMAT, FileHeader, MAGIC, OwnerRow, PackRow, Record, Section};
use super::key::Key;
use crate::entry::{Dialect, Header, Kind, ObjectKey, Owner, TimeOrder};
use crate::error::Reason;
use crate::parse::Scanned;
use crate::tree::Tree;

/// Writes the index of `tree` into the empty file `out`.
pub(super) fn write(mut tree: Tree, scanned: &Scanned, key: &Key, out: &File) -> io::Result<()> {
    let order = Order::of(&tree);
    let users = owner_rows(&mut tree, |tree| std::mem::take(&mut tree.users.all))?;
    let groups = owner_rows(&mut tree, |tree| std::mem::take(&mut tree.groups.all))?;
    let header = &scanned.header;
    let name = tree.blob(header.name.as_deref().unwrap_or_default().as_bytes()).map_err(too_large)?;
    let created = tree.blob(header.created.as_deref().unwrap_or_default().as_bytes()).map_err(too_large)?;
    let mut lines = Vec::new();
    crate::write::ancestors(&mut lines, &header.ancestors)?;
    let ancestors = tree.blob(&lines).map_err(too_large)?;
    let packs = pack_rows(&tree, header)?;

    let mut body = Body::after_header(out)?;
    body.nodes(&tree, &order, scanned.times)?;
    body.dentries(&tree, &order)?;
    body.names(&tree, &order)?;
    body.section(Section::Blobs, &tree.blobs)?;
    body.section(Section::Users, &users)?;
    body.section(Section::Groups, &groups)?;
    body.section(Section::Md5, &tree.md5)?;
    body.section(Section::Objects, &tree.objects)?;
    body.section(Section::Places, &tree.places)?;
    body.section(Section::Tables, &tree.tables)?;
    body.section(Section::XattrRuns, &tree.xattr_runs)?;
    body.section(Section::Xattrs, &tree.xattrs)?;
    body.section(Section::SegmentRuns, &tree.segment_runs)?;
    body.section(Section::Segments, &tree.segments)?;
    body.section(Section::Packs, &packs)?;
    let (length, sections, body_check) = body.finish()?;

    let mut header = FileHeader {
        magic: MAGIC,
        format: FORMAT.into(),
        dialect: match scanned.dialect {
            Dialect::V1Short => 0,
            Dialect::V1Long => 1,
            Dialect::V2 => 2,
        },
        times: match scanned.times {
            TimeOrder::Spec => 0,
            TimeOrder::Swapped => 1,
        },
        present: u8::from(header.name.is_some())
            | u8::from(header.created.is_some()) << 1
            | u8::from(header.version.is_some()) << 2,
        zero: 0,
        key: *key.bytes(),
        length: length.into(),
        total_size: tree.total_size.into(),
        version: header.version.unwrap_or_default().into(),
        name,
        created,
        ancestors,
        sections,
        body_check: body_check.into(),
        header_check: U64::ZERO,
    };
    header.header_check = header.own_check().into();
    let mut out = out;
    out.rewind()?;
    out.write_all(header.as_bytes())
}

/// The packs of a header, those that the tree refers to at the rows that it has given them.
fn pack_rows(tree: &Tree, header: &Header) -> io::Result<Vec<PackRow>> {
    let mut rows = Vec::new();
    for (number, pack) in header.packs.iter().enumerate() {
        let number = u32::try_from(number).map_err(io::Error::other)?;
        let start = header.start.iter().position(|key| *key == pack.key).map_or(0, |position| position + 1);
        let (mut key, mut is_md5) = ([0; 32], 0);
        match pack.key {
            ObjectKey::Sha256(sha256) => key = sha256,
            ObjectKey::Md5(md5) => {
                key[..md5.len()].copy_from_slice(&md5);
                is_md5 = 1;
            }
        }
        let row = PackRow {
            key,
            bytes: pack.bytes.into(),
            number: number.into(),
            start: u32::try_from(start).map_err(io::Error::other)?.into(),
            is_md5: is_md5.into(),
            zero: U32::ZERO,
        };
        rows.push((tree.packs.get(&pack.key).copied().unwrap_or(u32::MAX), row));
    }
    // The same pack may have two numbers: the places are in the first then.
    rows.sort_by_key(|(row, _)| *row);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn too_large(reason: Reason) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, reason)
}

fn owner_rows(tree: &mut Tree, take: impl Fn(&mut Tree) -> Vec<Owner>) -> io::Result<Vec<OwnerRow>> {
    take(tree)
        .into_iter()
        .map(|owner| {
            Ok(OwnerRow {
                name: tree.blob(owner.name.as_deref().unwrap_or_default()).map_err(too_large)?,
                id: owner.id.unwrap_or_default().into(),
                has_id: u32::from(owner.id.is_some()).into(),
            })
        })
        .collect()
}

/// In which order nodes and names go into the file. All numbers are rows of the tree unless stated otherwise.
struct Order {
    /// Names, by directory, then by their bytes.
    names: Vec<u32>,
    /// Nodes, by their number in the file.
    nodes: Vec<u32>,
    /// The number in the file of each node.
    numbers: Vec<u32>,
    /// Of each node that is a directory: where its names begin in the file, and how many there are.
    children: Vec<(u32, u32)>,
}

impl Order {
    fn of(tree: &Tree) -> Self {
        let (grouped, groups) = grouped_by_parent(tree);
        let group = |directory: u32| {
            let (start, count) = groups[directory as usize];
            &grouped[start as usize..][..count as usize]
        };
        const UNSEEN: u32 = u32::MAX;
        let mut order = Self {
            names: Vec::with_capacity(grouped.len()),
            nodes: Vec::with_capacity(tree.nodes.len()),
            numbers: vec![UNSEEN; tree.nodes.len()],
            children: vec![(0, 0); tree.nodes.len()],
        };
        const ROOT: u32 = 0;
        order.numbers[0] = 0;
        order.nodes.push(ROOT);
        let (mut next_number, mut next_dentry) = (1, 0);
        let mut ahead = vec![ROOT];
        while let Some(directory) = ahead.pop() {
            let names = group(directory);
            let count = groups[directory as usize].1;
            order.children[directory as usize] = (next_dentry, count);
            next_dentry += count;
            order.names.extend(names);
            for name in names {
                let node = tree.names[*name as usize].node;
                if order.numbers[node as usize] == UNSEEN {
                    order.numbers[node as usize] = next_number;
                    order.nodes.push(node);
                    next_number += 1;
                }
            }
            let is_directory = |node: &u32| tree.nodes[*node as usize].kind == Kind::Directory.code();
            ahead.extend(names.iter().rev().map(|name| tree.names[*name as usize].node).filter(is_directory));
        }
        order
    }
}

/// The names of each directory together and sorted, and for each node where its names begin and how many they
/// are. The root has no name.
fn grouped_by_parent(tree: &Tree) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut groups = vec![(0, 0); tree.nodes.len()];
    let names = &tree.names[1..];
    for name in names {
        groups[name.parent as usize].1 += 1;
    }
    let mut start = 0;
    for group in &mut groups {
        group.0 = start;
        start += std::mem::take(&mut group.1);
    }
    let mut grouped = vec![0; names.len()];
    for (row, name) in (1..).zip(names) {
        let (start, count) = &mut groups[name.parent as usize];
        grouped[(*start + *count) as usize] = row;
        *count += 1;
    }
    for (start, count) in &groups {
        grouped[*start as usize..][..*count as usize]
            .sort_unstable_by_key(|row| tree.name(&tree.names[*row as usize]));
    }
    (grouped, groups)
}

/// Everything behind the header, as it is written.
struct Body<'a> {
    out: BufWriter<&'a File>,
    hasher: Xxh3,
    at: u64,
    sections: [Extent; Section::COUNT],
}

impl<'a> Body<'a> {
    fn after_header(mut file: &'a File) -> io::Result<Self> {
        file.write_all(&[0; FileHeader::LENGTH])?;
        Ok(Self {
            out: BufWriter::with_capacity(256 << 10, file),
            hasher: Xxh3::new(),
            at: FileHeader::LENGTH as u64,
            sections: [Extent { offset: U64::ZERO, rows: U64::ZERO }; Section::COUNT],
        })
    }

    fn begin(&mut self, section: Section, rows: usize) -> io::Result<()> {
        let padding = self.at.next_multiple_of(8) - self.at;
        for _ in 0..padding {
            self.write(&[0])?;
        }
        self.sections[section as usize] = Extent { offset: self.at.into(), rows: (rows as u64).into() };
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn section<T: IntoBytes + Immutable>(&mut self, section: Section, rows: &[T]) -> io::Result<()> {
        self.begin(section, rows.len())?;
        self.write(rows.as_bytes())
    }

    fn nodes(&mut self, tree: &Tree, order: &Order, times: TimeOrder) -> io::Result<()> {
        self.begin(Section::Nodes, order.nodes.len())?;
        for node in &order.nodes {
            let mut record = tree.nodes[*node as usize];
            record.c = order.numbers[record.c.get() as usize].into();
            if record.kind == Kind::Directory.code() {
                let (first, count) = order.children[*node as usize];
                record.a = first.into();
                record.b = count.into();
            }
            if times == TimeOrder::Swapped {
                let Record { mtime, mtime_nanos, ctime, ctime_nanos, .. } = record;
                record = Record {
                    mtime: ctime,
                    mtime_nanos: ctime_nanos,
                    ctime: mtime,
                    ctime_nanos: mtime_nanos,
                    ..record
                };
            }
            self.write(record.as_bytes())?;
        }
        Ok(())
    }

    fn dentries(&mut self, tree: &Tree, order: &Order) -> io::Result<()> {
        self.begin(Section::Dentries, order.names.len())?;
        let mut at = 0;
        for row in &order.names {
            let name = &tree.names[*row as usize];
            let node = order.numbers[name.node as usize];
            self.write(Dentry { name: U32::new(at), node: node.into() }.as_bytes())?;
            at += 1 + u32::from(tree.text[name.text as usize]);
        }
        Ok(())
    }

    fn names(&mut self, tree: &Tree, order: &Order) -> io::Result<()> {
        // All but the empty name of the root.
        self.begin(Section::Names, tree.text.len() - 1)?;
        for row in &order.names {
            let name = &tree.names[*row as usize];
            self.write(&[tree.text[name.text as usize]])?;
            self.write(tree.name(name))?;
        }
        Ok(())
    }

    /// Returns the length of the file, the sections, and the checksum of what was written.
    fn finish(mut self) -> io::Result<(u64, [Extent; Section::COUNT], u64)> {
        self.out.flush()?;
        Ok((self.at, self.sections, self.hasher.digest()))
    }
}
