//! `aysfs flist`: examines flists.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufWriter, Write, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::bail;
use aysfs_engine::load;
use aysfs_flist::{Content, Entry, Index, Kind, Owner, ParseOptions, Timestamp};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::Refused;
use crate::cli::{CheckArgs, ReaderKey, ShowArgs};
use crate::keys;
use crate::names::shown;

#[derive(Serialize)]
struct Checked<'a> {
    flist: &'a Path,
    dialect: String,
    name: Option<&'a str>,
    version: Option<u64>,
    inodes: usize,
    bytes: u64,
}

pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let index = read(&args.flist, &args.reader)?;
    let checked = Checked {
        flist: &args.flist,
        dialect: index.dialect().to_string(),
        name: index.header().name.as_deref(),
        version: index.header().version,
        inodes: index.len(),
        bytes: index.total_size(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&checked)?);
    } else {
        let Checked { dialect, inodes, bytes, .. } = &checked;
        println!("{}: fine ({dialect}, {inodes} inodes, {})", args.flist.display(), HumanBytes(*bytes));
    }
    Ok(())
}

/// Compiles a flist, as a mount would, and throws the result away at the end.
fn read(flist: &Path, reader: &ReaderKey) -> anyhow::Result<Index> {
    let dir = tempfile::tempdir()?;
    let private_keys = keys::private(reader.key.as_deref())?;
    // The mapped index stays valid after its file is gone.
    load::compile(flist, &ParseOptions::default(), &private_keys, dir.path())
        .map_err(|error| Refused(error.to_string()).into())
}

pub(crate) fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let index = read(&args.flist, &args.reader)?;
    let wanted = args.path.as_deref().map(|path| path.strip_prefix("/").unwrap_or(path));
    let mut out = BufWriter::new(stdout().lock());
    let mut shown = false;
    for entry in index.entries() {
        let entry = entry?;
        let path = Path::new(OsStr::from_bytes(&entry.path));
        if wanted.is_some_and(|wanted| !path.starts_with(wanted)) {
            continue;
        }
        shown = true;
        let row = Row::of(&entry);
        let written = if args.json {
            serde_json::to_writer(&mut out, &row).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            writeln!(out, "{row}")
        };
        match written {
            // As with ls, whoever reads may have seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    match (out.flush(), wanted) {
        (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        (Err(error), _) => Err(error.into()),
        (Ok(()), Some(wanted)) if !shown => {
            bail!("{}: no entry {} in this flist", args.flist.display(), wanted.display())
        }
        (Ok(()), _) => Ok(()),
    }
}

/// One entry, as it is shown.
#[derive(Serialize)]
struct Row {
    path: String,
    mode: String,
    user: String,
    group: String,
    size: u64,
    /// RFC 3339.
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<String>,
}

impl Row {
    fn of(entry: &Entry) -> Self {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        Self {
            path: format!("/{}", shown(&entry.path)),
            mode: mode(entry),
            user: owner(&entry.user),
            group: owner(&entry.group),
            size: entry.size,
            mtime: time(entry.mtime),
            hash: entry.content.map(hash),
            target: (entry.kind == Kind::Symlink).then(|| text(&entry.target)),
            link: entry.link.as_deref().map(|link| format!("/{}", text(link))),
            xattrs: entry.xattrs.iter().map(|(name, _)| text(name)).collect(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode, user, group, size, mtime, .. } = self;
        write!(f, "{mode} {user:<8} {group:<8} {size:>12} {mtime} {path}")?;
        match (&self.target, &self.link) {
            (Some(target), _) => write!(f, " -> {target}"),
            (None, Some(link)) => write!(f, " link to {link}"),
            (None, None) => Ok(()),
        }
    }
}

/// Type and permissions, as `ls -l` writes them.
fn mode(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Regular => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
    };
    let mut mode = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.perm >> shift;
        mode.push(if bits & 4 != 0 { 'r' } else { '-' });
        mode.push(if bits & 2 != 0 { 'w' } else { '-' });
        mode.push(match (bits & 1 != 0, entry.perm & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    mode
}

fn owner(owner: &Owner) -> String {
    match (&owner.name, owner.id) {
        (Some(name), _) => String::from_utf8_lossy(name).into_owned(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "nobody".into(),
    }
}

fn time(time: Timestamp) -> String {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    match jiff::Timestamp::new(time.secs, 0) {
        Ok(shown) => (shown + jiff::SignedDuration::new(0, nanos)).to_string(),
        Err(_) => format!("@{}", time.secs),
    }
}

fn hash(content: Content) -> String {
    match content {
        Content::V1(md5) => hex::encode(md5),
        Content::Object { sha256, .. } | Content::Pack { sha256, .. } | Content::Chunks { sha256, .. } => {
            hex::encode(sha256)
        }
    }
}
