//! `aysfs unpack`: a flist becomes a directory again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use aysfs_engine::load::Request;
use aysfs_engine::unpack::{self, Progress, Summary};
use aysfs_flist::ParseOptions;
use aysfs_store::Mirror;
use aysfs_store::cache::Limits;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::access::{self, Access};
use crate::cli::UnpackArgs;
use crate::{mounts, progress};

#[derive(Serialize)]
struct Report<'a> {
    dir: &'a Path,
    entries: u64,
    files: u64,
    bytes: u64,
}

pub(crate) async fn run(args: UnpackArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let source = mounts::flist_source(&access::flist(&args.flist)?);
    let target = std::path::absolute(&args.dir)?;
    let beside = target.parent().unwrap_or(&target);
    // On the disk of the target, so that it has the space; it goes away whatever happens.
    let backend = tempfile::Builder::new()
        .prefix(".aysfs-unpack-")
        .tempdir_in(beside)
        .with_context(|| format!("cannot write into {}", beside.display()))?;
    let stors = Arc::new(Mirror::new(access.open()?, []));
    let cache = mounts::open_cache(backend.path(), access.deadline, Limits::default())?;
    let request = Request { source, parse: ParseOptions::default(), trusted_keys: Vec::new() };
    let base = Arc::new(
        mounts::load(&request, std::slice::from_ref(&access.stor), access.deadline, backend.path()).await?,
    );

    let done = Arc::<Progress>::default();
    let (shown, total) = (done.clone(), base.index().total_size());
    let summary = progress::watch(
        progress::bar("unpacking"),
        move |bar| {
            bar.set_length(total);
            bar.set_position(shown.bytes_done.load(Ordering::Relaxed));
        },
        unpack::unpack(&base, &cache, &stors, &target, &done),
    )
    .await?;
    let Summary { entries, files, bytes } = summary;
    if args.json {
        println!("{}", serde_json::to_string(&Report { dir: &args.dir, entries, files, bytes })?);
    } else {
        println!(
            "unpacked {entries} entries ({files} files, {}) into {}",
            HumanBytes(bytes),
            args.dir.display()
        );
    }
    Ok(())
}
