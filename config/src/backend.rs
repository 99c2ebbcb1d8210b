//! `[backend.N]`: a local directory, and how stors are used with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use crate::namespace::Namespace;
use crate::quantity::{ByteSize, MinFree, parse_duration};
use crate::reader::{Table, bare_or_quoted};
use crate::schedule::Schedule;
use crate::stor::Stor;
use crate::word::{UnknownWord, meaning, suggestion};

/// A local directory, and how stors are used with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What the file calls it.
    pub name: String,
    /// The directory that holds the cache, the local changes and the indexes.
    pub path: PathBuf,
    /// The stors of the mounts that name none, nearest first; empty if every mount names its own.
    pub stors: Vec<Arc<Stor>>,
    /// The part of the stors that is used.
    pub namespace: Namespace,
    /// The FUSE library that mounts it.
    pub lib: Lib,
    /// Whether the kernel may read and write local files directly.
    pub passthrough: Passthrough,
    /// Whether changes of RW mounts are pushed.
    pub upload: bool,
    /// Whether the flist of an RW mount is published after a push.
    pub publish: bool,
    /// How pushed content and flists are encrypted; `None`: they aren't.
    pub encryption: Option<Encryption>,
    /// How pushed content is compressed.
    pub compression: Compression,
    /// When changes are pushed.
    pub push_schedule: Schedule,
    /// When the cache is cleaned.
    pub cleanup_schedule: Schedule,
    /// How long content stays cached after it was last read; `None`: age is no reason to evict it.
    pub cleanup_older_than: Option<Duration>,
    /// How large the cache may be; `None`: as large as the disk allows.
    pub cache_size: Option<ByteSize>,
    /// How much of the disk the cache leaves free.
    pub cache_min_free: MinFree,
    /// The longest a reader waits for a stor without a byte arriving.
    pub deadline: Duration,
    /// The transaction log of pushes.
    pub log: PathBuf,
}

/// Who can read what a backend pushes. The files were there and readable when the config was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The user's RSA key (PEM): the private one to read, the public one suffices to write.
    pub user_key: PathBuf,
    /// The RSA key of another recipient, such as the operator of the stor.
    pub store_key: Option<PathBuf>,
}

/// A FUSE library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lib {
    /// <https://docs.rs/fuser>; `hanwen` in old files.
    #[default]
    Fuser,
    /// <https://docs.rs/fuse3>; `bazil` in old files.
    Fuse3,
    /// <https://docs.rs/polyfuse>.
    Polyfuse,
}

impl Lib {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fuser, Self::Fuse3, Self::Polyfuse];

    /// The word for it in a config, which is also the name of its frontend.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fuser => "fuser",
            Self::Fuse3 => "fuse3",
            Self::Polyfuse => "polyfuse",
        }
    }
}

impl FromStr for Lib {
    type Err = UnknownWord;

    /// The names of the libraries, old ones included.
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "hanwen" => Ok(Self::Fuser),
            "bazil" => Ok(Self::Fuse3),
            _ => meaning(text, &Self::ALL.map(|lib| (lib.as_str(), lib))),
        }
    }
}

impl fmt::Display for Lib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Use of FUSE passthrough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// Where library, kernel and privileges allow it.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl FromStr for Passthrough {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        meaning(text, &[("auto", Self::Auto), ("off", Self::Off)])
    }
}

/// How content is compressed before it is stored. Reading knows them all, whatever is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Zstandard.
    #[default]
    Zstd,
    /// Brotli: smaller, and much slower to write.
    Brotli,
    /// Stored as it is.
    None,
}

impl FromStr for Compression {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        meaning(text, &[("zstd", Self::Zstd), ("brotli", Self::Brotli), ("none", Self::None)])
    }
}

/// The stors of a file by name; `None` for one that has problems of its own.
pub(crate) type Stors<'a> = BTreeMap<&'a str, Option<Arc<Stor>>>;

/// Reads one backend.
pub(crate) fn read(name: &str, table: &mut Table<'_>, stors: &Stors<'_>) -> Option<Backend> {
    table.require("path", r#"path = "/var/lib/aysfs/NAME", the directory of the cache and of local changes"#);
    let path = table.path("path");
    let own_stors = named_stors(table, stors);
    let namespace = table.parsed("namespace").unwrap_or_default();
    let lib = lib(table);
    let passthrough = table.parsed("passthrough").unwrap_or_default();
    let upload = table.boolean("upload").unwrap_or(false);
    let publish = table.boolean("publish").unwrap_or(false);
    let encryption = encryption(table);
    let compression = table.parsed("compression").unwrap_or_default();
    let push_schedule = table.parsed("aydostor_push_cron").unwrap_or_else(|| default_schedule("@every 60m"));
    let cleanup_schedule = table.parsed("cleanup_cron").unwrap_or_else(|| default_schedule("@every 24h"));
    let cleanup_older_than = table
        .number("cleanup_older_than")
        .filter(|hours| *hours != 0)
        .map(|hours| Duration::from_secs(u64::from(hours) * 3600));
    let cache_size = table.parsed_unless("cache_size", "none");
    let cache_min_free = table.parsed("cache_min_free").unwrap_or(MinFree::Percent(5));
    let deadline = table.read("deadline", parse_duration);
    let log = table.path("log");
    table.close();

    let path = path?;
    Some(Backend {
        name: name.into(),
        stors: own_stors?,
        namespace,
        lib,
        passthrough,
        upload,
        publish,
        encryption,
        compression,
        push_schedule,
        cleanup_schedule,
        cleanup_older_than,
        cache_size,
        cache_min_free,
        deadline: deadline.unwrap_or(Duration::from_secs(30)),
        log: log.unwrap_or_else(|| path.join("push.log")),
        path,
    })
}

/// Reads the key `stor` of a backend or a mount: empty if it is missing, `None` if what it names is no good.
pub(crate) fn named_stors<'a>(table: &mut Table<'a>, stors: &Stors<'_>) -> Option<Vec<Arc<Stor>>> {
    let Some(names) = table.string_or_strings("stor") else {
        return if table.has("stor") { None } else { Some(Vec::new()) };
    };
    if names.is_empty() {
        table.problem("stor", "the list is empty: name a stor, or remove the key");
        return None;
    }
    let mut seen = BTreeSet::new();
    let find = |name: Option<Spanned<&'a str>>| {
        let name = name?;
        let text = *name.get_ref();
        let stor = match stors.get(text) {
            Some(_) if !seen.insert(text) => Err(format!("{text:?} is in the list already: remove it")),
            Some(stor) => Ok(stor.clone()),
            None if stors.is_empty() => {
                Err(format!("unknown stor {text:?}: add a table [stor.{}]", bare_or_quoted(text)))
            }
            None => Err(format!("unknown stor {text:?}: {}", suggestion(text, stors.keys().copied()))),
        };
        table.checked_item("stor", &name, stor).flatten()
    };
    // Every name is looked at before the first bad one counts.
    let found: Vec<_> = names.into_iter().map(find).collect();
    found.into_iter().collect()
}

fn default_schedule(text: &str) -> Schedule {
    text.parse().expect("the defaults are valid schedules")
}

fn lib(table: &mut Table<'_>) -> Lib {
    let Some(lib) = table.parsed::<Lib>("lib") else { return Lib::default() };
    if let Some(old) = table.string("lib").filter(|written| *written != lib.as_str()) {
        table.notice("lib", format!("{old:?} is an old name: {:?} takes its place", lib.as_str()));
    }
    lib
}

fn encryption(table: &mut Table<'_>) -> Option<Encryption> {
    if !table.boolean("encrypted").unwrap_or(false) {
        // Old files name keys that they don't use and that need not exist.
        table.path("user_rsa");
        table.path("store_rsa");
        return None;
    }
    table.require("user_rsa", r#"user_rsa = "FILE": encrypted = true needs it"#);
    let remedy = "create it with `aysfs keygen`, or correct the path";
    let user_key = table.readable_file("user_rsa", remedy);
    let store_key = table.readable_file("store_rsa", remedy);
    Some(Encryption { user_key: user_key?, store_key })
}
