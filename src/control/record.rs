//! `aysfs profile record`: what is read from a mount, and in which order.
//!
//! Two requests: one that begins it and lasts as long as it, so that nothing is recorded for a client that is gone, and one for what was
//! noted.

use anyhow::{Context, bail};
use aysfs_engine::profile::FirstRead;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answers::REFRESH;
use super::protocol::Progress;
use super::server::{Answer, Served};

/// One item of the second answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Read {
    /// In base64, since it need not be UTF-8.
    pub(crate) path: String,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Notes what is read until the client goes away; with the first word of progress, it has begun.
pub(super) async fn record(mount: &Served, answer: &mut Answer) -> anyhow::Result<Value> {
    let point = mount.point.display();
    let gone = || format!("{point} is not mounted any more");
    let recorder = mount.shows.recorder().with_context(gone)?;
    let Some(recording) = recorder.begin() else {
        bail!("{point}: somebody records what is read from it already: let that end first");
    };
    // Only now: what is read from here on is either noted, or dropped.
    let (files, mounted) = (mount.shows.held_files(), mount.mounted.upgrade().with_context(gone)?);
    let dropped = tokio::task::spawn_blocking(move || mounted.invalidate(&files));
    dropped.await?.with_context(|| format!("{point}: the kernel does not drop what it has in memory"))?;
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        ticks.tick().await;
        if !mount.is_mounted() {
            bail!("{point} was unmounted meanwhile");
        }
        let (files, bytes) = recording.seen();
        answer.progress(Progress { entries: files, bytes_found: bytes, bytes_done: bytes }).await?;
    }
}

/// Tells what was noted so far.
pub(super) async fn recorded(mount: &Served, answer: &mut Answer) -> anyhow::Result<Value> {
    let profile = mount.shows.recorder().and_then(|recorder| recorder.profile());
    let profile = profile.with_context(|| format!("{}: nobody records", mount.point.display()))?;
    for FirstRead { path, range } in profile.reads {
        let (offset, length) = (range.start, range.end - range.start);
        answer.item(&Read { path: STANDARD.encode(path), offset, length }).await?;
    }
    Ok(Value::Null)
}
