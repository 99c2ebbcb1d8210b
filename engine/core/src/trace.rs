//! Where what a path shows comes from: which layer has it, and where its content is.
//!
//! For people who ask why. Nothing is fetched, and nothing is changed.

use aysfs_flist::{Kind, Node};
use aysfs_store::Content;
use aysfs_vfs::{FileKind, Result};

use crate::AysFs;
use crate::base::{damaged, file_kind};
use crate::edition::Item;

/// What is known of a path.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Where it comes from.
    pub layer: Layer,
    /// What it is; nothing is shown where it was removed.
    pub kind: Option<FileKind>,
    /// Where the base has it, if it does: elsewhere, if it was renamed.
    pub base_path: Option<Vec<u8>>,
    /// The content of a regular file.
    pub data: Option<FileData>,
}

/// What a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The flist, and nothing else.
    Base,
    /// Local changes, and nothing else.
    Upper,
    /// A file of which the attributes are local, and the content is not.
    Metacopy,
    /// A directory that local changes and the flist have.
    Merged,
    /// The flist may have it, and local changes say that it is gone.
    Whiteout,
}

/// Where the bytes of a regular file are.
#[derive(Clone, Debug)]
pub enum FileData {
    /// There are none.
    Empty,
    /// In the directory of the local changes.
    Local,
    /// In stors, and perhaps in the cache.
    Stored(Content),
    /// Nowhere: the base that had them was replaced, and nothing tells what they were.
    Lost,
}

/// The names of a path; leading, doubled and trailing slashes are none.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

impl AysFs {
    /// What is known of a path below the root; `None` if there is nothing.
    ///
    /// # Errors
    /// The base is damaged.
    pub fn trace(&self, path: &[u8]) -> Result<Option<Trace>> {
        let edition = self.now();
        let index = edition.base.index();
        let mut of = index.node(Node::ROOT).map_err(damaged)?;
        for name in names(path) {
            if of.kind() != Kind::Directory {
                return Ok(None);
            }
            match index.lookup(of.number(), name).map_err(damaged)? {
                Some(node) => of = index.node(node).map_err(damaged)?,
                None => return Ok(None),
            }
        }
        let node = of.number();
        self.trace_item(&Item { edition: edition.clone(), node }, Layer::Base).map(Some)
    }

    /// What is known of an item of a base that `layer` shows, with its content.
    pub(crate) fn trace_item(&self, item: &Item, layer: Layer) -> Result<Trace> {
        let of = item.of()?;
        let data = match of.kind() {
            Kind::Regular => Some(item.content()?.map_or(FileData::Empty, FileData::Stored)),
            _ => None,
        };
        Ok(Trace { layer, kind: Some(file_kind(of.kind())), base_path: Some(item.path()?), data })
    }
}
