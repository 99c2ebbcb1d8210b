//! Layers for the unit tests: a base of a few entries, and an empty upper.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aysfs_flist::{Dialect, Entry, Header, Index, Kind, Node, ParseOptions, Source, Writer};
use aysfs_store::{Cache, CacheOptions, MemStore, Mirror};
use aysfs_vfs::{Caller, Name};
use tempfile::TempDir;

use super::marks::Form;
use super::{Upper, World};
use crate::AysFs;
use crate::base::Base;

/// Layers in a directory of their own.
pub(super) struct Layers {
    dir: TempDir,
    pub(super) w: World,
}

impl Layers {
    pub(super) fn new(entries: &[Entry]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut writer =
            Writer::new(Vec::new(), Dialect::V2, &Header::default()).expect("memory can be written");
        for entry in entries {
            writer.entry(entry).expect("an entry that can be written");
        }
        let list = writer.finish().expect("memory can be written");
        let source = Source::Bytes { name: "test.flist", bytes: &list };
        let index = Index::compile(source, &ParseOptions::default(), &dir.path().join("index"));
        let base = Base::new(index.expect("a good list")).expect("a tree that can be shown");
        let cache = Cache::open(&dir.path().join("cache"), CacheOptions::default()).expect("a cache");
        let stors = Arc::new(Mirror::new(Arc::new(MemStore::new()), []));
        let upper = Upper::open_as(dir.path(), Path::new("/m"), Form::User).expect("local changes");
        let lower = AysFs::new(base, cache, stors);
        Self { dir, w: World { lower, upper } }
    }

    /// A name in the work directory.
    pub(super) fn work(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.dir.path().join("work/m").join(std::ffi::OsStr::from_bytes(name))
    }

    /// A path in the base.
    pub(super) fn node(&self, path: &str) -> Node {
        let base = self.w.base();
        let index = base.index();
        path.split('/').fold(Node::ROOT, |at, name| {
            index.lookup(at, name.as_bytes()).expect("a good index").expect("it is there")
        })
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub(super) fn directory(path: &str) -> Entry {
    Entry::new(path, Kind::Directory)
}

pub(super) fn empty_file(path: &str) -> Entry {
    Entry { perm: 0o644, ..Entry::new(path, Kind::Regular) }
}

/// Who runs the tests.
pub(super) fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, pid: 1, umask: 0 }
}
