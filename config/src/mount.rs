//! `[[mount]]`: what is mounted where.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::{Backend, Stors, named_stors};
use crate::flist::{self, Flist};
use crate::reader::{Table, bare_or_quoted};
use crate::stor::Stor;
use crate::word::{UnknownWord, meaning, suggestion};

/// A mount point and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point: absolute, without `.` and `..`; no other mount has it.
    pub path: PathBuf,
    /// The tree, and what may be done with it.
    pub mode: Mode,
    /// The local directory to use.
    pub backend: Arc<Backend>,
    /// The stors to use, nearest first: its own, or else the backend's. Never empty.
    pub stors: Vec<Arc<Stor>>,
    /// What is fetched before anybody reads it.
    pub prefetch: Prefetch,
    /// Let users other than the one who mounts use it.
    pub allow_other: bool,
    /// Honour set-uid and set-gid bits.
    pub suid: bool,
    /// Honour device nodes.
    pub dev: bool,
}

/// What a mount is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `RO`: the flist, and nothing else.
    ReadOnly(Flist),
    /// `OL`: local changes over the flist.
    Overlay(Flist),
    /// `RW`: local changes over the flist, or over nothing, which can be pushed.
    ReadWrite(Option<Flist>),
}

impl Mode {
    /// The flist, if there is one.
    pub fn flist(&self) -> Option<&Flist> {
        match self {
            Self::ReadOnly(flist) | Self::Overlay(flist) => Some(flist),
            Self::ReadWrite(flist) => flist.as_ref(),
        }
    }
}

/// What a mount fetches before anybody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Nothing.
    None,
    /// What the flist says is read first.
    #[default]
    Start,
    /// That, and then everything else.
    All,
}

impl FromStr for Prefetch {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        meaning(text, &[("none", Self::None), ("start", Self::Start), ("all", Self::All)])
    }
}

/// The backends of a file by name; `None` for one that has problems of its own.
pub(crate) type Backends<'a> = BTreeMap<&'a str, Option<Arc<Backend>>>;

/// Reads the mounts, and checks what must hold between them. A mount that has problems is left out.
pub(crate) fn read_all(tables: Vec<Table<'_>>, backends: &Backends<'_>, stors: &Stors<'_>) -> Vec<Mount> {
    let mut lines: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut mounts = Vec::new();
    for mut table in tables {
        table.require("path", r#"path = "/opt", the directory to mount on"#);
        let path = table.absolute_path("path");
        match path.clone().map(|path| lines.entry(path)) {
            None => {}
            Some(Entry::Vacant(entry)) => {
                entry.insert(table.line("path"));
            }
            Some(Entry::Occupied(first)) => {
                let (path, line) = (first.key(), first.get());
                let remedy = "give each mount a directory of its own";
                table.problem("path", format!("line {line} mounts on {path:?} already: {remedy}"));
            }
        }
        mounts.extend(read(&mut table, path, backends, stors));
    }
    mounts
}

fn read(
    table: &mut Table<'_>,
    path: Option<PathBuf>,
    backends: &Backends<'_>,
    stors: &Stors<'_>,
) -> Option<Mount> {
    table.require("backend", r#"backend = "NAME", one of the tables [backend.NAME]"#);
    let backend = backend(table, path.as_deref(), backends);
    let own_stors = named_stors(table, stors);
    let mode = mode(table, path.as_deref());
    let prefetch = table.parsed("prefetch").unwrap_or_default();
    let allow_other = table.boolean("allow_other");
    let suid = table.boolean("suid").unwrap_or(false);
    let dev = table.boolean("dev").unwrap_or(false);
    table.close();

    let backend = backend?;
    let stors = own_stors.map(|own| if own.is_empty() { backend.stors.clone() } else { own })?;
    if stors.is_empty() {
        let name = bare_or_quoted(&backend.name);
        table.require("stor", &format!(r#"stor = "NAME" here or in [backend.{name}]"#));
    }
    Some(Mount {
        path: path?,
        mode: mode?,
        backend,
        stors,
        prefetch,
        allow_other: allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root()),
        suid,
        dev,
    })
}

fn backend(table: &mut Table<'_>, path: Option<&Path>, backends: &Backends<'_>) -> Option<Arc<Backend>> {
    let backend = table.read("backend", |name| match backends.get(name) {
        Some(backend) => Ok(backend.clone()),
        None if backends.is_empty() => {
            Err(format!("unknown backend {name:?}: add a table [backend.{}]", bare_or_quoted(name)))
        }
        None => Err(format!("unknown backend {name:?}: {}", suggestion(name, backends.keys().copied()))),
    })??;
    if path.is_some_and(|path| lies_within(&backend.path, path)) {
        let directory = &backend.path;
        let message = format!("its directory {directory:?} would be hidden by the mount: move one of them");
        table.problem("backend", message);
    }
    Some(backend)
}

fn lies_within(path: &Path, directory: &Path) -> bool {
    std::path::absolute(path).is_ok_and(|path| path.starts_with(directory))
}

fn mode(table: &mut Table<'_>, path: Option<&Path>) -> Option<Mode> {
    let key = table.either("mode", "acl");
    table.require(key, r#"mode = "RO" (read-only), "OL" (overlay) or "RW" (read-write)"#);
    let letters = table.read(key, letters);
    if key == "acl" {
        table.notice(key, "this is the old name of mode: rename it when you next edit the file");
    }
    let flist = flist::read(table, path);
    match letters? {
        Letters::Rw if !table.has("flist") => Some(Mode::ReadWrite(None)),
        Letters::Rw => Some(Mode::ReadWrite(Some(flist?))),
        letters => {
            table.require("flist", r#"flist = "FILE or http(s) URL", which this mode needs"#);
            Some(if letters == Letters::Ro { Mode::ReadOnly(flist?) } else { Mode::Overlay(flist?) })
        }
    }
}

/// A mode as it is written, in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Letters {
    Ro,
    Rw,
    Ol,
}

fn letters(text: &str) -> Result<Letters, UnknownWord> {
    let words = [("RO", Letters::Ro), ("RW", Letters::Rw), ("OL", Letters::Ol)];
    meaning(&text.to_ascii_uppercase(), &words).map_err(|error| UnknownWord { word: text.into(), ..error })
}
