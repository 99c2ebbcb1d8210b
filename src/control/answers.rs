//! What each request is answered with.

use std::io::{BufWriter, Seek};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aysfs_engine::{Aspect, Change, Changed, CommitOptions, Overlay, SendProgress};
use aysfs_flist::Header;
use aysfs_store::cache::CleanMode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::protocol::{Committed, Difference, Kind, Mounts, Piece, Progress, Pushed, Request, Waits};
use super::server::{Answer, Served};
use super::{record, status, unmount, warm, why};
use crate::about::Shows;
use crate::cleaning;
use crate::mount_points::Device;
use crate::names::shown;

/// How often a client is told how far a job is.
pub(super) const REFRESH: Duration = Duration::from_millis(200);

/// How much of a flist is sent in one line.
const PIECE: usize = 48 << 10;

/// Answers a request; returns the result.
pub(super) async fn answer(
    request: Request,
    mounts: &[Served],
    answer: &mut Answer,
) -> anyhow::Result<Value> {
    match request {
        Request::Mounts {} => {
            let mounts = mounts.iter().filter(|mount| mount.is_mounted());
            let mounts = mounts.map(|mount| mount.device).collect();
            Ok(serde_json::to_value(Mounts { mounts })?)
        }
        Request::Diff { mount } => diff(find(mounts, mount)?, answer).await,
        Request::Commit { mount, name, version } => commit(find(mounts, mount)?, name, version, answer).await,
        Request::Push { mount } => push(find(mounts, mount)?, answer).await,
        Request::Reload { mount } => {
            let reloaded = match &find(mounts, mount)?.reload {
                Some(reload) => Some(reload.run_now().await?),
                None => None,
            };
            Ok(serde_json::to_value(reloaded)?)
        }
        Request::CacheStat { mount } => {
            Ok(serde_json::to_value(cleaning::inventory(&find(mounts, mount)?.about.cache).await?)?)
        }
        Request::CacheClean { mount, instead, dry_run } => {
            let cache = &find(mounts, mount)?.about.cache;
            let mode = if dry_run { CleanMode::DryRun } else { CleanMode::Remove };
            Ok(serde_json::to_value(cleaning::clean(cache, instead.of(cache.limits()), mode).await?)?)
        }
        Request::Status { mount } => {
            let asked = mounts.iter().filter(|known| mount.is_none_or(|mount| known.device == mount));
            let statuses = asked.filter(|mount| mount.is_mounted()).map(status::status);
            for status in join_all(statuses).await.into_iter().flatten() {
                answer.item(&status).await?;
            }
            Ok(Value::Null)
        }
        Request::Why { mount, path } => {
            let path = STANDARD.decode(path).context("the path is not understood")?;
            Ok(serde_json::to_value(why::why(find(mounts, mount)?, &path).await?)?)
        }
        Request::Warm { mount, paths } => warm::warm(find(mounts, mount)?, &paths, answer).await,
        Request::Record { mount } => record::record(find(mounts, mount)?, answer).await,
        Request::Recorded { mount } => record::recorded(find(mounts, mount)?, answer).await,
        Request::Unmount { mount, id, detach } => {
            Ok(serde_json::to_value(unmount::unmount(find(mounts, mount)?, id, detach).await?)?)
        }
    }
}

fn find(mounts: &[Served], device: Device) -> anyhow::Result<&Served> {
    mounts
        .iter()
        .find(|mount| mount.device == device && mount.is_mounted())
        .with_context(|| format!("mount {device} is not served here"))
}

impl Served {
    /// The local changes, if it can have any.
    fn changes(&self) -> anyhow::Result<Option<Arc<Overlay>>> {
        match &self.shows {
            Shows::Base(_) => Ok(None),
            Shows::Changes(changes) => match changes.upgrade() {
                Some(changes) => Ok(Some(changes)),
                None => bail!("{} is not mounted any more", self.point.display()),
            },
        }
    }
}

async fn diff(mount: &Served, answer: &mut Answer) -> anyhow::Result<Value> {
    if let Some(changes) = mount.changes()? {
        let differences = changes.diff().await.map_err(|error| {
            let cause = error.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
            anyhow!(
                "{}: cannot compare the local changes with the base: {error}{cause}",
                mount.point.display()
            )
        })?;
        for change in differences {
            answer.item(&difference(change)).await?;
        }
    }
    Ok(Value::Null)
}

fn difference(Change { path, what }: Change) -> Difference {
    let text = |path: &[u8]| format!("/{}", shown(path));
    let words = |aspects: Vec<Aspect>| aspects.into_iter().map(|aspect| word(aspect).to_owned()).collect();
    let (change, from, what) = match what {
        Changed::Added => (Kind::Added, None, Vec::new()),
        Changed::Deleted => (Kind::Deleted, None, Vec::new()),
        Changed::Modified(aspects) => (Kind::Modified, None, words(aspects)),
        Changed::Renamed { from, aspects } => (Kind::Renamed, Some(text(&from)), words(aspects)),
    };
    Difference { change, path: text(&path), from, what }
}

fn word(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Type => "type",
        Aspect::Content => "content",
        Aspect::Size => "size",
        Aspect::Target => "target",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Xattrs => "xattrs",
        Aspect::Times => "times",
    }
}

async fn commit(
    mount: &Served,
    name: Option<String>,
    version: Option<u64>,
    answer: &mut Answer,
) -> anyhow::Result<Value> {
    let point = mount.point.display();
    let Some(changes) = mount.changes()? else {
        bail!("{point} is mounted read-only: its flist is what it shows, and there is nothing to commit");
    };
    let base = changes.base();
    let base = base.index().header();
    let header = Header {
        name: name.or_else(|| base.name.clone()),
        version: version.or_else(|| base.version.map(|version| version.saturating_add(1))),
        created: Some(jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string()),
        ..Header::default()
    };
    let options = CommitOptions { header };
    let flist = tempfile::tempfile_in(&mount.backend)
        .with_context(|| format!("cannot write into {}", mount.backend.display()))?;
    let progress = Arc::<SendProgress>::default();
    let job = changes.commit(&options, BufWriter::new(flist.try_clone()?), &progress);
    let committed = watched(mount, job, || sent(&progress), answer)
        .await?
        .with_context(|| format!("cannot commit {point}"))?;
    let flist_bytes = flist.metadata()?.len();
    (&flist).rewind()?;
    let mut flist = tokio::fs::File::from_std(flist).take(flist_bytes);
    let mut piece = Vec::with_capacity(PIECE);
    while (&mut flist).take(PIECE as u64).read_to_end(&mut piece).await? > 0 {
        answer.item(&Piece { flist: STANDARD.encode(&piece) }).await?;
        piece.clear();
    }
    let aysfs_engine::Committed { entries, files, reused, new_objects, new_bytes } = committed;
    Ok(serde_json::to_value(Committed { entries, files, reused, new_objects, new_bytes, flist_bytes })?)
}

async fn push(mount: &Served, answer: &mut Answer) -> anyhow::Result<Value> {
    let point = mount.point.display();
    let Some(pusher) = &mount.about.pusher else {
        bail!("{point} is not pushed: that takes mode = \"RW\" and upload = true in its config");
    };
    let pusher = pusher.upgrade().with_context(|| format!("{point} is not mounted any more"))?;
    let progress = Arc::<SendProgress>::default();
    let job = pusher.round(&progress);
    let pushed = watched(mount, job, || sent(&progress), answer)
        .await?
        .with_context(|| format!("cannot push {point}"))?;
    let aysfs_engine::push::Pushed { files, new_objects, new_bytes, version, published, waiting } = pushed;
    for file in &waiting {
        let path = format!("/{}", shown(&file.path));
        answer.item(&Waits { path, why: file.why.clone().unwrap_or_default() }).await?;
    }
    let waiting = waiting.len() as u64;
    Ok(serde_json::to_value(Pushed { files, new_objects, new_bytes, version, published, waiting })?)
}

fn sent(progress: &SendProgress) -> Progress {
    Progress {
        entries: progress.entries.load(Ordering::Relaxed),
        bytes_found: progress.bytes_found.load(Ordering::Relaxed),
        bytes_done: progress.bytes_done.load(Ordering::Relaxed),
    }
}

/// Tells how far a job is until it is done; it ends with the mount, whose local changes others may have then.
pub(super) async fn watched<T>(
    mount: &Served,
    job: impl Future<Output = T>,
    progress: impl Fn() -> Progress,
    answer: &mut Answer,
) -> anyhow::Result<T> {
    let mut job = std::pin::pin!(job);
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            done = &mut job => return Ok(done),
            _ = ticks.tick() => {}
        }
        if !mount.is_mounted() {
            bail!("{} was unmounted meanwhile", mount.point.display());
        }
        answer.progress(progress()).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use aysfs_store::{Cache, CacheOptions, MemStore, Mirror};

    use tokio::net::UnixStream;

    use super::*;
    use crate::about::About;
    use crate::mount_points::Detach;

    #[tokio::test]
    async fn what_is_not_mounted_any_more_is_not_served() {
        let dir = tempfile::tempdir().expect("a directory");
        let about = Arc::new(About {
            since: Instant::now(),
            mode: "OL",
            source: "/list".to_owned(),
            lib: "none",
            cache: Cache::open(&dir.path().join("cache"), CacheOptions::default()).expect("a cache"),
            stors: Arc::new(Mirror::new(Arc::new(MemStore::new()), [])),
            pusher: None,
        });
        let served = |device: &str, shows, is_gone| Served {
            point: "/mnt".into(),
            device: device.parse().expect("a device"),
            id: 7,
            backend: "/backend".into(),
            shows,
            reload: None,
            about: about.clone(),
            mounted: Weak::new(),
            is_gone: Arc::new(AtomicBool::new(is_gone)),
        };
        let mounts = [
            served("0:1", Shows::Base(Weak::new()), false),
            served("0:2", Shows::Base(Weak::new()), true),
            served("0:3", Shows::Changes(Weak::new()), false),
        ];
        let (_client, stream) = UnixStream::pair().expect("sockets");
        let mut to = Answer::new(stream.into_split().1);
        let told = answer(Request::Mounts {}, &mounts, &mut to).await.expect("told");
        assert_eq!(told, serde_json::json!({ "mounts": ["0:1"] }));
        for (mount, is_served) in [("0:1", true), ("0:2", false), ("0:3", false)] {
            let mount = mount.parse().expect("a device");
            assert_eq!(answer(Request::Diff { mount }, &mounts, &mut to).await.is_ok(), is_served);
            let unmount = Request::Unmount { mount, id: 7, detach: Detach::No };
            answer(unmount, &mounts, &mut to).await.expect_err("nothing is mounted");
        }
    }
}
