//! `aysfs repack`: what is needed of packs that are mostly garbage is copied into new ones.

use std::io::BufWriter;
use std::sync::atomic::Ordering;

use aysfs_engine::repack::{Plan, Progress, Summary};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::access::{self, Access};
use crate::cli::RepackArgs;
use crate::flists::{self, Opened};
use crate::output::Output;
use crate::{keys, progress};

#[derive(Serialize)]
struct Report<'a> {
    /// Of what was written.
    flist: Option<&'a std::path::Path>,
    packs: u64,
    left: u64,
    left_bytes: u64,
    needed_bytes: u64,
    new_packs: u64,
    new_bytes: u64,
}

pub(crate) async fn run(args: RepackArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let private_keys = keys::private(args.reader.key.as_deref())?;
    let output = if args.dry_run { None } else { Some(Output::new(&args.output)?) };
    let stor = access::to_write(access.open()?, &access.namespace);
    let Opened { base, stors, .. } = &flists::open(&args.flist, &access, stor, private_keys).await?;
    let plan = Plan::of(base, stors, args.below / 100.0).await?;
    let summary = plan.summary();
    let Some(output) = output.filter(|_| summary.left > 0) else { return report(&args, summary, false) };

    let done = Progress::default();
    let flist = BufWriter::new(output.file().try_clone()?);
    let created = Some(jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string());
    let summary = progress::watch(
        progress::bar("repacking"),
        |bar| {
            bar.set_length(done.bytes_found.load(Ordering::Relaxed));
            bar.set_position(done.bytes_done.load(Ordering::Relaxed));
        },
        plan.carry_out(stors, created, flist, &done),
    )
    .await?;
    output.publish()?;
    report(&args, summary, true)
}

fn report(args: &RepackArgs, summary: Summary, is_written: bool) -> anyhow::Result<()> {
    let Summary { packs, left, left_bytes, needed_bytes, new_packs, new_bytes } = summary;
    if args.json {
        let flist = is_written.then_some(&*args.output);
        let report = Report { flist, packs, left, left_bytes, needed_bytes, new_packs, new_bytes };
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    let needed = format!("{left} of {packs} packs ({})", HumanBytes(left_bytes));
    let of = HumanBytes(needed_bytes);
    if is_written {
        let (flist, bytes) = (args.output.display(), HumanBytes(new_bytes));
        println!(
            "{flist} names {new_packs} new packs ({bytes}) instead of {needed}, of which {of} were needed"
        );
    } else if left == 0 {
        println!("nothing was written: at least {}% of each of {packs} packs is needed", args.below);
    } else {
        println!("would copy {of} out of {needed}");
    }
    Ok(())
}
