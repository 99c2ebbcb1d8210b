//! Flists that a command reads to look after what they name in a stor: nothing is mounted, and nothing is remembered of them.

use std::path::Path;
use std::sync::Arc;

use aysfs_engine::Base;
use aysfs_engine::load::{Request, Source};
use aysfs_flist::ParseOptions;
use aysfs_store::crypt::PrivateKey;
use aysfs_store::{Mirror, Store};
use tempfile::TempDir;

use crate::access::{self, Access};
use crate::mounts;

/// A flist, and the stor with what opens its content.
pub(crate) struct Opened {
    pub(crate) base: Base,
    pub(crate) stors: Arc<Mirror>,
    /// Where its index is.
    _dir: TempDir,
}

/// Opens the flist that was named on the command line.
pub(crate) async fn open(
    flist: &str,
    access: &Access,
    stor: Arc<dyn Store>,
    keys: Vec<PrivateKey>,
) -> anyhow::Result<Opened> {
    from(mounts::flist_source(&access::flist(flist)?), access, stor, keys).await
}

/// Opens a flist that is in a local file.
pub(crate) async fn open_file(
    path: &Path,
    access: &Access,
    stor: Arc<dyn Store>,
    keys: Vec<PrivateKey>,
) -> anyhow::Result<Opened> {
    from(Source::File(path.to_owned()), access, stor, keys).await
}

async fn from(
    source: Source,
    access: &Access,
    stor: Arc<dyn Store>,
    private_keys: Vec<PrivateKey>,
) -> anyhow::Result<Opened> {
    let dir = tempfile::tempdir()?;
    let request = Request { source, parse: ParseOptions::default(), trusted_keys: Vec::new(), private_keys };
    let stors = std::slice::from_ref(&access.stor);
    let base = mounts::load(&request, stors, access.deadline, dir.path()).await?;
    let stors = Arc::new(base.unlock(Mirror::new(stor, []))?);
    Ok(Opened { base, stors, _dir: dir })
}
