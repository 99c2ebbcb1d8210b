//! Writing lists: the same calls always give the same bytes.
//!
//! v2 keeps everything that an [`Entry`] says. v1 refuses what it has no way to write, and loses quietly what it
//! never had:
//!
//! | | v1 long | v1 short |
//! |---|---|---|
//! | header, extended attributes, holes, nanoseconds | lost | lost |
//! | hard links | become copies | become copies |
//! | numbers of owners that have a name | lost | lost |
//! | wrapped keys of encrypted objects | kept | lost |
//! | modes, owners, times | kept | lost: 0755, root, epoch |
//! | directories | kept | lost if empty |
//! | symlinks, devices, fifos, sockets | kept | refused |
//! | <code>&#124;</code>, CR and LF in names | refused | refused |
//!
//! No line is longer than a reader takes. Of a file with so many holes that its line would be, v2 does not say where they are.

use std::collections::HashMap;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::entry::{
    Ancestor, Content, Dialect, Entry, Header, Kind, ObjectKey, Owner, Place, Table, Timestamp, V1Keys,
};
use crate::error::{Reason, shown};
use crate::escape::{encode, encode_byte};
use crate::header::{FORMAT, SIGNATURE};
use crate::limits::MAX_LINE;
use crate::path;

/// Why an entry or a list cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output failed.
    #[error("cannot write the flist")]
    Io(#[from] io::Error),
    /// The path is none that a list may hold.
    #[error("{path:?}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// The rule it breaks.
        reason: Reason,
    },
    /// The dialect has no way to say it.
    #[error("{path:?}: {what}, which {dialect} cannot hold: write v2")]
    Unfit {
        /// The entry.
        path: String,
        /// What is in the way.
        what: &'static str,
        /// The dialect.
        dialect: Dialect,
    },
    /// A regular file that is not empty, without the kind of content that the dialect lists.
    #[error("{path:?}: the file is not empty, and has no {digest} content to list in {dialect}")]
    Content {
        /// The entry.
        path: String,
        /// The digest that the dialect needs.
        digest: &'static str,
        /// The dialect.
        dialect: Dialect,
    },
    /// Its content is in a pack that the header does not have.
    #[error("{path:?}: its content is in pack {pack}, which is not in the header")]
    UnknownPack {
        /// The entry.
        path: String,
        /// The pack.
        pack: ObjectKey,
    },
    /// Its line would be one that every reader refuses.
    #[error(
        "{path:?}: its line would have {bytes} bytes, and the longest that is read has {MAX_LINE}: it has too many or too long extended attributes, or names"
    )]
    TooLong {
        /// The entry.
        path: String,
        /// The length of the line.
        bytes: usize,
    },
    /// A line of the header would be one that every reader refuses.
    #[error("the header line {line:?} would have {bytes} bytes, and the longest that is read has {MAX_LINE}")]
    HeaderTooLong {
        /// How it begins.
        line: String,
        /// The length of the line.
        bytes: usize,
    },
}

/// Writes a list, entry by entry.
///
/// Whether the entries fit together (nothing twice, links to earlier entries) shows when the list is read.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    dialect: Dialect,
    /// The numbers of the packs of the header.
    packs: Numbers,
    line: Vec<u8>,
}

type Numbers = HashMap<ObjectKey, usize>;

impl<W: Write> Writer<W> {
    /// Begins a list; v2 begins with its header. `out` should be buffered.
    ///
    /// # Errors
    /// Those of `out`, and [`WriteError::HeaderTooLong`]; nothing was written then.
    pub fn new(mut out: W, dialect: Dialect, header: &Header) -> Result<Self, WriteError> {
        let mut line = Vec::new();
        if dialect == Dialect::V2 {
            write_header(&mut line, header)?;
            if let Some(line) = line.split(|byte| *byte == b'\n').find(|line| line.len() > MAX_LINE) {
                return Err(WriteError::HeaderTooLong { line: shown(line), bytes: line.len() });
            }
            out.write_all(&line)?;
        }
        Ok(Self { out, dialect, packs: numbers(header), line })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was written then, unless `out` failed.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), WriteError> {
        self.line.clear();
        match self.dialect {
            Dialect::V1Short => short(&mut self.line, entry)?,
            Dialect::V1Long => long(&mut self.line, entry)?,
            Dialect::V2 => {
                v2(&mut self.line, entry, &self.packs)?;
                if length(&self.line) > MAX_LINE && entry.data.is_some() {
                    self.line.clear();
                    // A file without its holes is the same to whoever reads it.
                    v2(&mut self.line, &Entry { data: None, ..entry.clone() }, &self.packs)?;
                }
            }
        }
        let bytes = length(&self.line);
        if bytes > MAX_LINE {
            return Err(WriteError::TooLong { path: shown(&entry.path), bytes });
        }
        self.out.write_all(&self.line)?;
        Ok(())
    }

    /// Ends the list: flushes, and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Without its end, as readers count.
fn length(line: &[u8]) -> usize {
    line.strip_suffix(b"\n").unwrap_or(line).len()
}

fn write_header(line: &mut Vec<u8>, header: &Header) -> io::Result<()> {
    writeln!(line, "{SIGNATURE}{FORMAT}")?;
    for (key, value) in [("name", &header.name), ("created", &header.created)] {
        if let Some(value) = value {
            write!(line, "# {key}: ")?;
            encode(value.as_bytes(), b"", line);
            line.push(b'\n');
        }
    }
    if let Some(version) = header.version {
        writeln!(line, "# version: {version}")?;
    }
    for (number, pack) in header.packs.iter().enumerate() {
        writeln!(line, "# pack {number} {} {}", pack.key, pack.bytes)?;
    }
    let numbers = numbers(header);
    let start: Vec<_> =
        header.start.iter().filter_map(|key| numbers.get(key).map(usize::to_string)).collect();
    if !start.is_empty() {
        writeln!(line, "# start: {}", start.join(" "))?;
    }
    ancestors(line, &header.ancestors)
}

/// The number that each pack of a header gets.
fn numbers(header: &Header) -> Numbers {
    header.packs.iter().enumerate().map(|(number, pack)| (pack.key, number)).collect()
}

/// The lines about what a list was made from.
pub(crate) fn ancestors(line: &mut Vec<u8>, ancestors: &[Ancestor]) -> io::Result<()> {
    for Ancestor { sha256, moved } in ancestors {
        writeln!(line, "# from {}", hex::encode(sha256))?;
        for (old, new) in moved {
            line.extend(b"# moved ");
            encode(old, b" ", line);
            line.push(b' ');
            encode(new, b" ", line);
            line.push(b'\n');
        }
    }
    Ok(())
}

fn short(line: &mut Vec<u8>, entry: &Entry) -> Result<(), WriteError> {
    match entry.kind {
        Kind::Regular => {}
        Kind::Directory => return Ok(()),
        _ => return Err(unfit(entry, Dialect::V1Short, "it is neither a file nor a directory")),
    }
    v1_path(line, entry, Dialect::V1Short)?;
    writeln!(line, "|{}|{}", v1_hash(entry, Dialect::V1Short)?, entry.size)?;
    Ok(())
}

fn long(line: &mut Vec<u8>, entry: &Entry) -> Result<(), WriteError> {
    let dialect = Dialect::V1Long;
    v1_path(line, entry, dialect)?;
    let (hash, size) = match entry.kind {
        Kind::Regular => (v1_hash(entry, dialect)?, entry.size),
        _ => (String::new(), 0),
    };
    write!(line, "|{hash}|{size}|")?;
    for owner in [&entry.user, &entry.group] {
        match (&owner.name, owner.id) {
            (Some(name), _) => line.extend(v1_text(entry, dialect, name)?),
            (None, Some(id)) => write!(line, "{id}")?,
            (None, None) => {}
        }
        line.push(b'|');
    }
    let (ctime, mtime) = (entry.ctime.secs, entry.mtime.secs);
    write!(line, "{:o}|{}|{ctime}|{mtime}|", entry.perm & 0o7777, entry.kind.code())?;
    match entry.kind {
        Kind::Symlink => line.extend(v1_text(entry, dialect, &entry.target)?),
        kind => device(line, kind)?,
    }
    if entry.kind == Kind::Regular {
        keys(line, &entry.v1_keys)?;
    }
    line.push(b'\n');
    Ok(())
}

fn v2(line: &mut Vec<u8>, entry: &Entry, packs: &Numbers) -> Result<(), WriteError> {
    let path = checked(&entry.path)?;
    if let [b'#', rest @ ..] = path {
        encode_byte(b'#', line);
        encode(rest, b"", line);
    } else {
        encode(path, b"", line);
    }
    line.push(b'|');
    let mut size = 0;
    if entry.kind == Kind::Regular {
        size = entry.size;
        match entry.content {
            Some(
                Content::Object { sha256, .. }
                | Content::Pack { sha256, .. }
                | Content::Chunks { sha256, .. },
            ) => line.extend(hex::encode(sha256).as_bytes()),
            Some(Content::V1(md5)) => line.extend(hex::encode(md5).as_bytes()),
            None if size == 0 || entry.link.is_some() => {}
            None => return Err(no_content(entry, "SHA-256 or MD5", Dialect::V2)),
        }
    }
    write!(line, "|{size}|")?;
    for owner in [&entry.user, &entry.group] {
        owner_field(line, owner)?;
        line.push(b'|');
    }
    write!(line, "{:o}|{}|", entry.perm & 0o7777, entry.kind.code())?;
    for Timestamp { secs, nanos } in [entry.ctime, entry.mtime] {
        write!(line, "{secs}.{nanos:09}|")?;
    }
    match entry.kind {
        Kind::Symlink => encode(&entry.target, b"", line),
        kind => device(line, kind)?,
    }
    columns(line, entry, packs)?;
    line.push(b'\n');
    Ok(())
}

/// The `key=value` columns, each with the `|` before it.
fn columns(line: &mut Vec<u8>, entry: &Entry, packs: &Numbers) -> Result<(), WriteError> {
    for (key, owner) in [("uid", &entry.user), ("gid", &entry.group)] {
        if let Owner { name: Some(_), id: Some(id) } = owner {
            write!(line, "|{key}={id}")?;
        }
    }
    if let Some(link) = &entry.link {
        line.extend(b"|link=");
        encode(checked(link)?, b"", line);
    }
    if entry.kind == Kind::Regular {
        match entry.content {
            Some(Content::Object { key, .. }) => write!(line, "|obj={key}")?,
            Some(Content::Pack { at, .. }) => place(line, entry, "at", at, packs)?,
            Some(Content::Chunks { table: Table { sha256, length, at }, .. }) => {
                place(line, entry, "chunks", at, packs)?;
                write!(line, "|table={length}:{}", hex::encode(sha256))?;
            }
            Some(Content::V1(_)) => keys(line, &entry.v1_keys)?,
            None => {}
        }
        if let Some(data) = &entry.data {
            let segments: Vec<_> = data
                .iter()
                .map(|data| format!("{}+{}", data.start, data.end.saturating_sub(data.start)))
                .collect();
            write!(line, "|data={}", segments.join(","))?;
        }
    }
    for (name, value) in &entry.xattrs {
        line.extend(b"|x.");
        encode(name, b"=", line);
        write!(line, "={}", STANDARD.encode(value))?;
    }
    Ok(())
}

/// A column with a place in a pack.
fn place(line: &mut Vec<u8>, entry: &Entry, key: &str, at: Place, packs: &Numbers) -> Result<(), WriteError> {
    let Place { pack, offset, stored } = at;
    match packs.get(&pack) {
        Some(number) => Ok(write!(line, "|{key}={number}:{offset}:{stored}")?),
        None => Err(WriteError::UnknownPack { path: shown(&entry.path), pack }),
    }
}

/// The columns with the key of an encrypted v1 object.
fn keys(line: &mut Vec<u8>, keys: &V1Keys) -> io::Result<()> {
    for (key, wrapped) in [("ukey", &keys.user), ("skey", &keys.store)] {
        if !wrapped.is_empty() {
            write!(line, "|{key}={}", hex::encode(wrapped))?;
        }
    }
    Ok(())
}

/// A name, or the number of an owner without one. A name of digits would be read as a number.
fn owner_field(line: &mut Vec<u8>, owner: &Owner) -> io::Result<()> {
    match (owner.name.as_deref(), owner.id) {
        (Some([first, rest @ ..]), _) if first.is_ascii_digit() && rest.iter().all(u8::is_ascii_digit) => {
            encode_byte(*first, line);
            line.extend(rest);
        }
        (Some(name), _) => encode(name, b"", line),
        (None, Some(id)) => write!(line, "{id}")?,
        (None, None) => {}
    }
    Ok(())
}

fn device(line: &mut Vec<u8>, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            write!(line, "{major},{minor}")
        }
        Kind::Regular | Kind::Directory | Kind::Symlink | Kind::Fifo | Kind::Socket => Ok(()),
    }
}

/// With a leading `/`, as the old builders wrote it.
fn v1_path(line: &mut Vec<u8>, entry: &Entry, dialect: Dialect) -> Result<(), WriteError> {
    line.push(b'/');
    line.extend(v1_text(entry, dialect, checked(&entry.path)?)?);
    Ok(())
}

fn v1_text<'a>(entry: &Entry, dialect: Dialect, text: &'a [u8]) -> Result<&'a [u8], WriteError> {
    match text.iter().find(|byte| matches!(byte, b'|' | b'\n' | b'\r')) {
        None => Ok(text),
        Some(b'|') => Err(unfit(entry, dialect, "it holds a `|`")),
        Some(_) => Err(unfit(entry, dialect, "it holds a line break")),
    }
}

fn v1_hash(entry: &Entry, dialect: Dialect) -> Result<String, WriteError> {
    /// Of nothing.
    const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e";
    match entry.content {
        Some(Content::V1(md5)) => Ok(hex::encode(md5)),
        _ if entry.size == 0 => Ok(EMPTY.into()),
        _ => Err(no_content(entry, "MD5", dialect)),
    }
}

fn checked(path: &[u8]) -> Result<&[u8], WriteError> {
    path::normalise(path).map_err(|reason| WriteError::Path { path: shown(path), reason })
}

fn unfit(entry: &Entry, dialect: Dialect, what: &'static str) -> WriteError {
    WriteError::Unfit { path: shown(&entry.path), what, dialect }
}

fn no_content(entry: &Entry, digest: &'static str, dialect: Dialect) -> WriteError {
    WriteError::Content { path: shown(&entry.path), digest, dialect }
}
