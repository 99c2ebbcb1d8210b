//! The entries of a tree as they were found, on disk.

use std::io;
use std::sync::Arc;

use aysfs_flist::{Entry, Kind, Owner, Timestamp, V1Keys};

use super::spool::{Fields, Records, Section, Spool, put_all, put_bytes, put_number, put_option};

/// Takes entries as they are found.
#[derive(Debug)]
pub(super) struct Finding {
    spool: Spool,
    count: usize,
    links: Vec<(usize, usize)>,
}

/// All entries, in the order of the tree. Each is known by its position.
#[derive(Clone, Debug)]
pub(super) struct Found {
    entries: Section,
    pub(super) count: usize,
    /// Further names of files, by the positions of the first name and of this one; sorted.
    pub(super) links: Arc<[(usize, usize)]>,
}

impl Finding {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, count: 0, links: Vec::new() }
    }

    /// Adds an entry, which may be another name of a file that was found before; returns its position.
    pub(super) fn add(&mut self, entry: &Entry, file: Option<usize>) -> io::Result<usize> {
        let position = self.count;
        self.links.extend(file.map(|file| (file, position)));
        self.spool.add(|to| put(to, entry))?;
        self.count += 1;
        Ok(position)
    }

    /// What was found, and the spool for what comes next.
    pub(super) fn finish(mut self) -> io::Result<(Found, Spool)> {
        let entries = self.spool.end_section()?;
        self.links.sort_unstable();
        Ok((Found { entries, count: self.count, links: self.links.into() }, self.spool))
    }
}

impl Found {
    pub(super) fn entries(&self) -> Entries {
        Entries(Some(self.entries.records()))
    }
}

/// Entries that are read. After an error there are no more.
#[derive(Debug)]
pub(super) struct Entries(Option<Records>);

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.0.as_mut()?.next(take).transpose();
        if !matches!(entry, Some(Ok(_))) {
            self.0 = None;
        }
        entry
    }
}

fn put(to: &mut Vec<u8>, entry: &Entry) {
    // What is not told by looking at a directory is not there yet.
    let Entry { path, kind, perm, user, group, size, mtime, ctime, target, link, xattrs, .. } = entry;
    put_bytes(to, path);
    put_kind(to, *kind);
    put_number(to, *perm);
    for Owner { name, id } in [user, group] {
        put_option(to, name.as_deref(), put_bytes);
        put_option(to, *id, put_number);
    }
    put_number(to, *size);
    put_time(to, *mtime);
    put_time(to, *ctime);
    put_bytes(to, target);
    put_option(to, link.as_deref(), put_bytes);
    put_all(to, xattrs, |to, (name, value)| {
        put_bytes(to, name);
        put_bytes(to, value);
    });
}

fn take(fields: &mut Fields<'_>) -> Entry {
    Entry {
        path: fields.bytes().to_vec(),
        kind: take_kind(fields),
        perm: fields.number_as(),
        user: take_owner(fields),
        group: take_owner(fields),
        size: fields.number(),
        mtime: take_time(fields),
        ctime: take_time(fields),
        target: fields.bytes().to_vec(),
        link: fields.option(|fields| fields.bytes().to_vec()),
        xattrs: fields.all(|fields| (fields.bytes().to_vec(), fields.bytes().to_vec())),
        content: None,
        v1_keys: V1Keys::default(),
        data: None,
    }
}

fn put_kind(to: &mut Vec<u8>, kind: Kind) {
    let (code, major, minor) = match kind {
        Kind::Regular => (0, 0, 0),
        Kind::Directory => (1, 0, 0),
        Kind::Symlink => (2, 0, 0),
        Kind::Fifo => (3, 0, 0),
        Kind::Socket => (4, 0, 0),
        Kind::CharDevice { major, minor } => (5, major, minor),
        Kind::BlockDevice { major, minor } => (6, major, minor),
    };
    to.push(code);
    put_number(to, major);
    put_number(to, minor);
}

fn take_kind(fields: &mut Fields<'_>) -> Kind {
    let (code, major, minor) = (fields.byte(), fields.number_as(), fields.number_as());
    match code {
        0 => Kind::Regular,
        1 => Kind::Directory,
        2 => Kind::Symlink,
        3 => Kind::Fifo,
        4 => Kind::Socket,
        5 => Kind::CharDevice { major, minor },
        6 => Kind::BlockDevice { major, minor },
        other => unreachable!("no kind is written as {other}"),
    }
}

fn take_owner(fields: &mut Fields<'_>) -> Owner {
    Owner { name: fields.option(|fields| fields.bytes().to_vec()), id: fields.option(Fields::number_as) }
}

pub(super) fn put_time(to: &mut Vec<u8>, Timestamp { secs, nanos }: Timestamp) {
    to.extend(secs.to_le_bytes());
    put_number(to, nanos);
}

pub(super) fn take_time(fields: &mut Fields<'_>) -> Timestamp {
    Timestamp { secs: i64::from_le_bytes(fields.array()), nanos: fields.number_as() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_found() {
        let time = |secs| Timestamp { secs, nanos: 999_999_999 };
        let kinds = [
            Kind::Regular,
            Kind::Directory,
            Kind::Symlink,
            Kind::Fifo,
            Kind::Socket,
            Kind::CharDevice { major: 1, minor: u32::MAX },
            Kind::BlockDevice { major: u32::MAX, minor: 2 },
        ];
        let entries = kinds.into_iter().enumerate().map(|(number, kind)| Entry {
            path: format!("some/path \u{1}{number}").into(),
            kind,
            perm: 0o7777,
            user: Owner { name: None, id: Some(u32::MAX) },
            group: Owner { name: Some(b"users".into()), id: None },
            size: u64::MAX,
            mtime: time(-1),
            ctime: time(i64::MAX),
            content: None,
            v1_keys: V1Keys::default(),
            target: b"../target".into(),
            link: (number == 3).then(|| b"first".into()),
            xattrs: (0..number).map(|name| (vec![b'n'; name], vec![0; 100_000])).collect(),
            data: None,
        });
        let entries: Vec<_> = std::iter::once(Entry::new("", Kind::Directory)).chain(entries).collect();
        let mut finding = Finding::new(Spool::new(&std::env::temp_dir(), None).expect("a file"));
        for (position, entry) in entries.iter().enumerate() {
            let file = [None, Some(7), Some(2)][position % 3];
            assert_eq!(finding.add(entry, file).expect("written"), position);
        }
        let (found, _) = finding.finish().expect("written");
        assert_eq!(*found.links, [(2, 2), (2, 5), (7, 1), (7, 4), (7, 7)]);
        assert_eq!(found.count, entries.len());
        for _ in 0..2 {
            assert!(found.entries().collect::<io::Result<Vec<_>>>().expect("readable") == entries);
        }
    }
}
