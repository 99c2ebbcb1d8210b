//! `aysfs warm`: content into the cache before anybody reads it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow, bail};
use aysfs_engine::warm::{self, Ended, Pace};
use aysfs_engine::{Layer, Trace};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answers::watched;
use super::protocol::Progress;
use super::server::{Answer, Served};
use crate::about::Shows;
use crate::names::shown;

/// One item of the answer, as the command prints it too: what could not be fetched.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) path: String,
    pub(crate) why: String,
}

/// The result, as the command prints it too. Files are counted once, bytes are plain.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Warmed {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What was not in the cache before.
    pub(crate) fetched_files: u64,
    pub(crate) fetched_bytes: u64,
    pub(crate) failed_files: u64,
    /// The rest was not tried, since no stor could be reached.
    pub(crate) is_outage: bool,
}

pub(super) async fn warm(mount: &Served, paths: &[String], answer: &mut Answer) -> anyhow::Result<Value> {
    let point = mount.point.display();
    let mut below = Vec::new();
    for path in paths {
        let path = STANDARD.decode(path).context("a path is not understood")?;
        below.extend(listed(mount, path).await?);
    }
    let warming = mount.shows.warming().with_context(|| format!("{point} is not mounted any more"))?;
    let progress = Arc::<warm::Progress>::default();
    let job = warming.warm(&below, Pace::Asked, &progress);
    let now = || Progress {
        entries: progress.files_done.load(Ordering::Relaxed),
        bytes_found: progress.bytes_found.load(Ordering::Relaxed),
        bytes_done: progress.bytes_done.load(Ordering::Relaxed),
    };
    let warmed = watched(mount, job, now, answer).await?.with_context(|| format!("cannot warm {point}"))?;
    for warm::Failed { path, why } in &warmed.failed {
        answer.item(&Failed { path: format!("/{}", shown(path)), why: why.clone() }).await?;
    }
    let warm::Warmed { files, bytes, fetched_files, fetched_bytes, failed_files, ended, .. } = warmed;
    let is_outage = match ended {
        Ended::Complete | Ended::Full => false,
        Ended::Outage => true,
    };
    Ok(serde_json::to_value(Warmed { files, bytes, fetched_files, fetched_bytes, failed_files, is_outage })?)
}

/// Where the flist has what a path shows; nothing if it is a local change.
async fn listed(mount: &Served, path: Vec<u8>) -> anyhow::Result<Option<Vec<u8>>> {
    let point = mount.point.display();
    let Shows::Changes(changes) = &mount.shows else { return Ok(Some(path)) };
    let changes = changes.upgrade().with_context(|| format!("{point} is not mounted any more"))?;
    match changes.trace(&path).await.map_err(|error| anyhow!("{point}: {error}"))? {
        None | Some(Trace { layer: Layer::Whiteout, .. }) => bail!("{point}: there is no /{}", shown(&path)),
        Some(Trace { base_path, .. }) => Ok(base_path),
    }
}
