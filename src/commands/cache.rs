//! `aysfs cache`: what is in a cache, and cleaning it.
//!
//! A mount is asked for over the control socket: its process knows the limits, and what it has open. A directory is looked at
//! here. That is safe beside processes that use it, since they agree through the files themselves: what one of
//! them has open stays. One has open what it has read within the last minute, so such a cleaning spares a little more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use aysfs_config::parse_duration;
use aysfs_store::Cache;
use aysfs_store::cache::{CleanMode, Limits};
use indicatif::{HumanBytes, HumanDuration};

use crate::cleaning::{self, Cleaned, Free, Instead, Stat};
use crate::cli::{CacheCleanArgs, CacheStatArgs};
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::mount_points;
use crate::{Refused, mounts};

/// Where a cache is.
enum Place {
    Mounted(Asked),
    Directory(Arc<Cache>),
}

pub(crate) async fn stat(args: CacheStatArgs) -> anyhow::Result<()> {
    let stat = match find(&args.dir).await? {
        Place::Mounted(asked) => {
            let request = Request::CacheStat { mount: asked.mount().device };
            asked.ask(&request, |()| Ok(()), |_| {}).await?
        }
        Place::Directory(cache) => cleaning::inventory(&cache).await?,
    };
    match args.json {
        true => println!("{}", serde_json::to_string(&stat)?),
        false => print(&stat),
    }
    Ok(())
}

pub(crate) async fn clean(args: CacheCleanArgs) -> anyhow::Result<()> {
    let older_than = args.older_than.as_deref().map(parse_duration).transpose();
    let older_than = older_than.map_err(|error| Refused(format!("--older-than: {error}")))?;
    let instead = Instead {
        older_than: older_than.as_ref().map(Duration::as_secs),
        size: args.size.map(|size| size.0),
        min_free: args.min_free.map(|free| match free {
            aysfs_config::MinFree::Percent(percent) => Free::Percent(percent),
            aysfs_config::MinFree::Bytes(size) => Free::Bytes(size.0),
        }),
    };
    let cleaned: Cleaned = match find(&args.dir).await? {
        Place::Mounted(asked) => {
            let request = Request::CacheClean { mount: asked.mount().device, instead, dry_run: args.dry_run };
            asked.ask(&request, |()| Ok(()), |_| {}).await?
        }
        Place::Directory(_) if instead == Instead::default() => {
            let refused = "a directory has no limits of its own: say what is to go with --older-than, --size or --min-free";
            return Err(Refused(refused.into()).into());
        }
        Place::Directory(cache) => {
            let mode = if args.dry_run { CleanMode::DryRun } else { CleanMode::Remove };
            cleaning::clean(&cache, instead.of(Limits::default()), mode).await?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string(&cleaned)?);
        return Ok(());
    }
    let Cleaned { files, bytes, evicted_files, evicted_bytes, busy_files, busy_bytes } = cleaned;
    let verb = if args.dry_run { "would evict" } else { "evicted" };
    println!(
        "{verb} {evicted_files} of {files} files, {} of {}",
        HumanBytes(evicted_bytes),
        HumanBytes(bytes)
    );
    if busy_files > 0 {
        println!("{busy_files} more ({}) would have gone, but are in use", HumanBytes(busy_bytes));
    }
    Ok(())
}

fn print(stat: &Stat) {
    let Stat { files, bytes, writing, oldest, free, cache_size, min_free, older_than } = *stat;
    let time = |seconds| HumanDuration(Duration::from_secs(seconds)).to_string();
    let ago = |seconds| format!("{} ago", time(seconds));
    let bytes_of = |bytes| HumanBytes(bytes).to_string();
    let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "none".into());
    let lines = [
        ("files", files.to_string()),
        ("size", format!("{} (limit: {})", bytes_of(bytes), or_none(cache_size.map(bytes_of)))),
        ("being written", bytes_of(writing)),
        (
            "oldest read",
            format!("{} (limit: {})", oldest.map_or("never".into(), ago), or_none(older_than.map(time))),
        ),
        ("disk free", format!("{} (limit: {})", bytes_of(free), bytes_of(min_free))),
    ];
    for (what, amount) in lines {
        println!("{what:<14}{amount}");
    }
}

/// The cache of a mount, or of the directory of a backend.
async fn find(dir: &Path) -> anyhow::Result<Place> {
    let not_mounted = match mount_points::ours(dir) {
        Ok(_) => return Ok(Place::Mounted(Asked::find(dir).await?)),
        Err(error) => error,
    };
    let cache: PathBuf = dir.join("cache");
    if !cache.is_dir() {
        bail!("{not_mounted:#}, nor is it the directory of a backend: that has a directory \"cache\"");
    }
    let cache = mounts::open_cache(dir, Duration::from_secs(30), Limits::default());
    Ok(Place::Directory(cache.with_context(|| format!("cannot use {}", dir.display()))?))
}
