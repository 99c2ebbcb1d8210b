//! `aysfs why`: where what a path shows comes from.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aysfs_engine::{FileData, Layer, Trace};
use aysfs_store::{Content, Key, Store};
use aysfs_vfs::FileKind;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::server::Served;
use crate::about::Shows;
use crate::names::shown;

/// How long a stor is given to say whether it has an object.
const ASKED: Duration = Duration::from_secs(5);

/// The answer, as the command prints it too.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Why {
    pub(crate) mount: String,
    pub(crate) path: String,
    pub(crate) layer: Origin,
    /// What it is; nothing is shown where it was removed.
    pub(crate) kind: Option<String>,
    /// Where the flist came from.
    pub(crate) flist: String,
    /// Where the flist has it, if it does.
    pub(crate) flist_path: Option<String>,
    /// The content of a regular file.
    pub(crate) content: Option<Whereabouts>,
}

/// Which layer a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    Base,
    Upper,
    /// Only the attributes were copied up.
    UpperMetadata,
    /// A directory that both have.
    Merged,
    /// Local changes say that it is gone.
    Removed,
}

/// Where the bytes of a file are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "where", rename_all = "kebab-case")]
pub(crate) enum Whereabouts {
    Empty,
    Local,
    Lost,
    Stored(Stored),
}

/// Content that stors have.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) size: u64,
    /// All of it is in the cache, verified since the machine started.
    pub(crate) cached: bool,
    /// In the order in which they would be asked.
    pub(crate) stors: Vec<Holder>,
}

/// A stor that may have the content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) name: String,
    /// Others are asked first, since it failed not long ago.
    pub(crate) stands_back: bool,
    /// Whether it has all objects of the content, if it could be asked.
    pub(crate) has: Option<bool>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) error: Option<String>,
}

impl Stored {
    /// The stor that would give it.
    pub(crate) fn server(&self) -> Option<&Holder> {
        self.stors.iter().find(|stor| stor.has == Some(true))
    }
}

/// Why a path below the root of a mount shows what it shows.
pub(super) async fn why(mount: &Served, path: &[u8]) -> anyhow::Result<Why> {
    let (point, full) = (mount.point.display(), format!("/{}", shown(path)));
    let gone = || anyhow!("{point} is not mounted any more");
    let traced = match &mount.shows {
        Shows::Base(base) => base.upgrade().ok_or_else(gone)?.trace(path),
        Shows::Changes(changes) => changes.upgrade().ok_or_else(gone)?.trace(path).await,
    };
    let traced = traced.with_context(|| format!("{point}: cannot find out where {full} comes from"))?;
    let Some(Trace { layer, kind, base_path, data }) = traced else {
        bail!("{point}: there is no {full}, neither in the flist nor in local changes");
    };
    let content = match data {
        None => None,
        Some(FileData::Empty) => Some(Whereabouts::Empty),
        Some(FileData::Local) => Some(Whereabouts::Local),
        Some(FileData::Lost) => Some(Whereabouts::Lost),
        Some(FileData::Stored(content)) => Some(Whereabouts::Stored(stored(mount, &content).await)),
    };
    Ok(Why {
        mount: shown(mount.point.as_os_str().as_encoded_bytes()),
        path: full,
        layer: match layer {
            Layer::Base => Origin::Base,
            Layer::Upper => Origin::Upper,
            Layer::Metacopy => Origin::UpperMetadata,
            Layer::Merged => Origin::Merged,
            Layer::Whiteout => Origin::Removed,
        },
        kind: kind.map(|kind| word(kind).to_owned()),
        flist: mount.about.source.clone(),
        flist_path: base_path.map(|path| format!("/{}", shown(&path))),
        content,
    })
}

async fn stored(mount: &Served, content: &Content) -> Stored {
    let about = &mount.about;
    // Of a file of several chunks the table: to look at all of them would mean to fetch that.
    let tables = content.table.iter().flat_map(|table| table.chunks.iter());
    let keys: Vec<Key> = content.chunks.iter().chain(tables).map(|chunk| chunk.key.clone()).collect();
    let health = about.stors.stats();
    let stands_back = |name: &str| health.iter().any(|stor| stor.name == name && stor.stands_back);
    let stors = about.stors.in_order();
    let asked = stors.iter().map(|stor| async {
        let (has, error) = match ask(stor.as_ref(), &keys).await {
            Ok(has) => (Some(has), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Holder { name: stor.name().to_owned(), stands_back: stands_back(stor.name()), has, error }
    });
    Stored {
        id: content.id.to_string(),
        size: content.size,
        cached: about.cache.contains(content),
        stors: join_all(asked).await,
    }
}

/// Whether a stor has all of these objects.
async fn ask(stor: &dyn Store, keys: &[Key]) -> anyhow::Result<bool> {
    let answer = timeout(ASKED, stor.has(keys)).await;
    let has = answer.map_err(|_| anyhow!("no answer within {ASKED:?}"))??;
    Ok(has.into_iter().all(|has| has))
}

fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice(_) => "character device",
        FileKind::BlockDevice(_) => "block device",
    }
}
