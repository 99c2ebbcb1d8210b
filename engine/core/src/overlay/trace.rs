//! Which layer a path comes from; see [`crate::trace`].

use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Ino, Result};
use rustix::fs::FileType;

use super::tree::{Data, Directory, Found, Leaf, Object, Origin, Tree, listed_kind};
use super::{Overlay, World, blocking};
use crate::trace::{FileData, Layer, Trace, names};

impl Overlay {
    /// What is known of a path below the root; `None` if there is nothing, and never was.
    ///
    /// # Errors
    /// Those of the local filesystem, and a base that is damaged.
    pub async fn trace(&self, path: &[u8]) -> Result<Option<Trace>> {
        let (inner, path) = (self.0.clone(), path.to_vec());
        blocking(move || inner.tree().trace(&inner.w, &path)).await
    }
}

impl Tree {
    fn trace(&mut self, w: &World, path: &[u8]) -> Result<Option<Trace>> {
        let mut found = Found::Upper(Ino::ROOT, FileType::Directory);
        for name in names(path) {
            if !found.is_directory() {
                return Ok(None);
            }
            let (parent, name) = (found.ino(), raw::name(name)?);
            match self.find(w, parent, &name)? {
                Some(child) => found = child,
                None if self.has_whiteout(parent, &name) => {
                    return Ok(Some(Trace {
                        layer: Layer::Whiteout,
                        kind: None,
                        base_path: None,
                        data: None,
                    }));
                }
                None => return Ok(None),
            }
        }
        match found {
            Found::Base(ino, _) => trace_base(w, ino, Layer::Base).map(Some),
            Found::Upper(ino, kind) => self.trace_upper(w, ino, kind).map(Some),
        }
    }

    /// What is known of an inode of the upper.
    fn trace_upper(&self, w: &World, ino: Ino, kind: FileType) -> Result<Trace> {
        let local = |layer, data| Ok(Trace { layer, kind: Some(listed_kind(kind)), base_path: None, data });
        match self.objects.get(&ino) {
            Some(Object::Directory(Directory { lower: Some(lower), .. })) => {
                trace_base(w, *lower, Layer::Merged)
            }
            Some(Object::Leaf(Leaf { data: Data::Below(origin), .. })) => match origin {
                Origin::Base(below) => trace_base(w, *below, Layer::Metacopy),
                Origin::Replaced(content) => {
                    local(Layer::Metacopy, Some(FileData::Stored(content.as_ref().clone())))
                }
                Origin::Lost => local(Layer::Metacopy, Some(FileData::Lost)),
            },
            _ => local(Layer::Upper, (kind == FileType::RegularFile).then_some(FileData::Local)),
        }
    }
}

fn trace_base(w: &World, ino: Ino, layer: Layer) -> Result<Trace> {
    w.lower.trace_item(&w.lower.find(ino)?, layer)
}
