//! `aysfs gc`: what no flist names is deleted from a stor.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use aysfs_config::parse_duration;
use aysfs_engine::gc::{Amount, Collection, Mode, Summary};
use aysfs_engine::push::static_name;
use aysfs_store::crypt::PrivateKey;
use aysfs_store::{Fault, Named, Store};
use futures::TryStreamExt;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::access::Access;
use crate::cli::GcArgs;
use crate::flists::{self, Opened};
use crate::{Refused, keys, progress};

#[derive(Serialize)]
struct Report {
    flists: usize,
    named: Counted,
    deleted: Counted,
    waiting: Counted,
    young: Counted,
    dry_run: bool,
}

#[derive(Serialize)]
struct Counted {
    objects: u64,
    bytes: u64,
}

impl From<Amount> for Counted {
    fn from(Amount { objects, bytes }: Amount) -> Self {
        Self { objects, bytes }
    }
}

pub(crate) async fn run(args: GcArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let grace = match &*args.grace {
        "0" | "0s" => Duration::ZERO,
        text => parse_duration(text).map_err(|error| Refused(format!("--grace: {error}")))?,
    };
    let keys: Vec<PrivateKey> =
        args.key.iter().map(|key| keys::private(Some(key))).collect::<anyhow::Result<Vec<_>>>()?.concat();
    let stor = access.open()?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Delete };
    let mut collection = Collection::begin(stor.clone(), &access.namespace, mode).await?;
    let collected = collect(&mut collection, &args, &access, &stor, &keys, grace).await;
    collection.end().await;
    let (flists, summary) = collected?;
    report(&args, flists, summary)
}

async fn collect(
    collection: &mut Collection,
    args: &GcArgs,
    access: &Access,
    stor: &Arc<dyn Store>,
    keys: &[PrivateKey],
    grace: Duration,
) -> anyhow::Result<(usize, Summary)> {
    let dir = tempfile::tempdir()?;
    let bar = progress::steps("marking");
    bar.set_length(args.flists.len() as u64 + 1);
    let mut lists = 0;
    let published = dir.path().join(static_name(&access.namespace).as_str());
    if fetch_published(&**stor, access, &published).await? {
        let Opened { base, stors, .. } =
            &flists::open_file(&published, access, stor.clone(), keys.to_vec()).await?;
        collection.mark_published(&format!("static/{}", static_name(&access.namespace)), base, stors).await?;
        lists += 1;
    } else if args.published {
        let name = static_name(&access.namespace);
        let stor = stor.name();
        bail!(
            "{stor} has no static/{name}: no mount publishes in this namespace; name the flists that are in use; nothing was deleted"
        );
    }
    bar.inc(1);
    for flist in &args.flists {
        let Opened { base, stors, .. } = &flists::open(flist, access, stor.clone(), keys.to_vec()).await?;
        collection.mark(&shown(flist), base, stors).await?;
        lists += 1;
        bar.inc(1);
    }
    bar.set_message("sweeping");
    let summary = collection.sweep(grace).await;
    bar.finish_and_clear();
    Ok((lists, summary?))
}

/// A flist in messages: without a password that its URL may have.
fn shown(flist: &str) -> String {
    crate::access::flist(flist).map_or_else(|_| "a flist".into(), |source| crate::mounts::shown(&source))
}

/// Gets the list that a mount has published in this namespace, if one has.
async fn fetch_published(stor: &dyn Store, access: &Access, path: &Path) -> anyhow::Result<bool> {
    let name = static_name(&access.namespace);
    let mut body = match stor.read_named(&name, None).await {
        Ok(Named::Found { body, .. }) => body.stream,
        Ok(Named::Unchanged) => return Ok(false),
        Err(error) if matches!(error.fault, Fault::NotFound) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    while let Some(piece) = body.try_next().await? {
        file.write_all(&piece)?;
    }
    Ok(true)
}

fn report(args: &GcArgs, flists: usize, summary: Summary) -> anyhow::Result<()> {
    let Summary { named, deleted, waiting, young } = summary;
    if args.json {
        let report = Report {
            flists,
            named: named.into(),
            deleted: deleted.into(),
            waiting: waiting.into(),
            young: young.into(),
            dry_run: args.dry_run,
        };
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    let amount = |amount: Amount| format!("{} objects ({})", amount.objects, HumanBytes(amount.bytes));
    let done = if args.dry_run { "would delete" } else { "deleted" };
    println!("{done} {}; {flists} flists name {}", amount(deleted), amount(named));
    if waiting.objects > 0 {
        let wait = &args.grace;
        println!("{} more are named by no flist: a run in {wait} or later deletes them", amount(waiting));
    }
    if young.objects > 0 {
        println!("{} are younger than {}, and named by no flist yet", amount(young), args.grace);
    }
    Ok(())
}
