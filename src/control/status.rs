//! `aysfs status`: what each mount of a process is, and how it is doing.

use aysfs_engine::Base;
use serde::{Deserialize, Serialize};

use super::server::Served;
use crate::backlog::Backlog;
use crate::mount_points::Device;
use crate::names::shown;

/// One item of the answer, as the command prints it too: a mount.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountStatus {
    pub(crate) mount: String,
    pub(crate) device: Device,
    pub(crate) mode: String,
    pub(crate) lib: String,
    pub(crate) flist: FlistStatus,
    pub(crate) backend: String,
    pub(crate) cache: CacheStatus,
    /// In the order in which they are asked.
    pub(crate) stors: Vec<StorStatus>,
    /// What waits to be pushed, of a mount that is pushed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) push: Option<Backlog>,
    pub(crate) process: ProcessStatus,
}

/// The process that serves a mount.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) up_seconds: u64,
}

/// The list that a mount shows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FlistStatus {
    /// Where it came from, as `mount` lists it.
    pub(crate) source: String,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<u64>,
    pub(crate) sha256: String,
    pub(crate) entries: u64,
}

/// What the cache of the backend did since the process began.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CacheStatus {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) fetches: u64,
    pub(crate) fetched_bytes: u64,
    pub(crate) retries: u64,
    pub(crate) verification_failures: u64,
}

/// A stor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StorStatus {
    pub(crate) name: String,
    /// Others are asked first, since it failed not long ago.
    pub(crate) stands_back: bool,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: u64,
    pub(crate) verification_failures: u64,
}

/// The status of a mount; `None` if it is not mounted any more.
pub(super) async fn status(mount: &Served) -> Option<MountStatus> {
    let about = &mount.about;
    let cache = about.cache.stats();
    // As it was given, it may be relative to a directory that the one who asks does not know.
    let backend = std::path::absolute(&mount.backend).unwrap_or_else(|_| mount.backend.clone());
    let mut stors = about.stors.stats();
    // The order of the configuration is kept within both.
    stors.sort_by_key(|stor| stor.stands_back);
    Some(MountStatus {
        mount: shown(mount.point.as_os_str().as_encoded_bytes()),
        device: mount.device,
        mode: about.mode.to_owned(),
        lib: about.lib.to_owned(),
        flist: mount.shows.base(|base| flist(base, &about.source))?,
        backend: shown(backend.as_os_str().as_encoded_bytes()),
        cache: CacheStatus {
            hits: cache.hits,
            misses: cache.misses,
            fetches: cache.fetches,
            fetched_bytes: cache.stored_bytes,
            retries: cache.retries,
            verification_failures: cache.verification_failures,
        },
        stors: stors
            .into_iter()
            .map(|stor| StorStatus {
                name: stor.name,
                stands_back: stor.stands_back,
                requests: stor.requests,
                bytes: stor.bytes,
                failures: stor.failures,
                verification_failures: stor.verification_failures,
            })
            .collect(),
        push: Backlog::now(about).await,
        process: ProcessStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up_seconds: about.since.elapsed().as_secs(),
        },
    })
}

fn flist(base: &Base, source: &str) -> FlistStatus {
    let index = base.index();
    FlistStatus {
        source: source.to_owned(),
        name: index.header().name.clone(),
        version: index.header().version,
        sha256: hex::encode(index.list_digest()),
        entries: index.len() as u64,
    }
}
