//! A directory as a flist and objects, and as the filesystem that they make.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use aysfs_engine::AysFs;
use aysfs_engine::load::{self, Request, Source};
use aysfs_engine::pack::{self, pack};
use aysfs_flist::{Dialect, Header, ParseOptions};
use aysfs_store::{Cache, CacheOptions, Mirror, StorOptions, Store};
use url::Url;

/// The namespace of the objects.
pub const NAMESPACE: &str = "bench";

/// Packs `tree` into `stor` and writes the flist.
///
/// # Panics
/// As everything here, if it cannot be done.
pub async fn make(tree: &Path, stor: Url, flist: &Path) {
    let options = pack::Options {
        dialect: Dialect::V2,
        header: Header::default(),
        exclude: Vec::new(),
        sealing: None,
        base: None,
        profile: None,
        spool: flist.parent().expect("a file is in a directory").into(),
    };
    let stor = open(&StorOptions::new(stor));
    let flist = BufWriter::new(File::create(flist).expect("the flist"));
    pack(tree, &*stor, &options, flist, &Arc::default()).await.expect("packed");
}

/// What was packed as a filesystem; `backend` is the directory with its cache.
pub async fn filesystem(flist: &Path, stor: Url, backend: &Path) -> AysFs {
    let source = Source::File(flist.into());
    let request = Request {
        source,
        parse: ParseOptions::default(),
        trusted_keys: Vec::new(),
        private_keys: Vec::new(),
    };
    let options = StorOptions::new(stor);
    let stor = open(&options);
    let deadline = options.deadline;
    let base = load::load(&request, &[options], deadline, backend).await.expect("a flist");
    let cache = Cache::open(&backend.join("cache"), CacheOptions::default()).expect("a cache");
    AysFs::new(base, cache, Arc::new(Mirror::new(stor, [])))
}

fn open(stor: &StorOptions) -> Arc<dyn Store> {
    aysfs_store::open(stor, &NAMESPACE.parse().expect("a name")).expect("a stor")
}
