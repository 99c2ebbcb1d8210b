//! `aysfs pack`: a directory becomes a flist, and objects in a stor.

use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aysfs_engine::pack::{self, Options, Progress, Summary};
use aysfs_flist::{Dialect, Header};
use indicatif::HumanBytes;
use serde::Serialize;
use tracing::warn;

use crate::Refused;
use crate::access::Access;
use crate::cli::{Format, PackArgs};
use crate::output::Output;
use crate::progress;

#[derive(Serialize)]
struct Report<'a> {
    flist: &'a Path,
    entries: u64,
    files: u64,
    bytes: u64,
    new_objects: u64,
    new_bytes: u64,
    left_out: u64,
}

pub(crate) async fn run(args: PackArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let dialect = match args.format {
        Format::V1 => Dialect::V1Short,
        Format::V1Long => Dialect::V1Long,
        Format::V2 => Dialect::V2,
    };
    if dialect != Dialect::V2 && (args.name.is_some() || args.version.is_some()) {
        let message = "--name and --version are for v2: a v1 flist has no header";
        return Err(Refused(message.into()).into());
    }
    let output = Output::new(&args.output)?;
    let options = Options {
        dialect,
        header: Header {
            name: args.name,
            version: args.version,
            created: Some(jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string()),
            ..Header::default()
        },
        exclude: args.exclude,
        spool: output.directory().to_owned(),
    };

    let stor = access.open()?;
    let progress = Arc::<Progress>::default();
    let shown = progress.clone();
    let job =
        pack::pack(&args.dir, stor.as_ref(), &options, BufWriter::new(output.file().try_clone()?), &progress);
    let summary = progress::watch(
        progress::bar("packing"),
        move |bar| {
            bar.set_length(shown.bytes_found.load(Ordering::Relaxed));
            bar.set_position(shown.bytes_done.load(Ordering::Relaxed));
            bar.set_message(format!("{} entries", shown.entries.load(Ordering::Relaxed)));
        },
        job,
    )
    .await?;
    output.publish()?;
    report(&summary, &args.output, args.json)
}

fn report(summary: &Summary, flist: &Path, json: bool) -> anyhow::Result<()> {
    let Summary { entries, files, bytes, new_objects, new_bytes, left_out } = *summary;
    if left_out > 0 {
        warn!(
            "left out {left_out} entries that are no regular files: v1 cannot hold them (v1-long and v2 can)"
        );
    }
    if json {
        let report = Report { flist, entries, files, bytes, new_objects, new_bytes, left_out };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "packed {entries} entries ({files} files, {}) into {}; {new_objects} new objects ({}) in the stor",
            HumanBytes(bytes),
            flist.display(),
            HumanBytes(new_bytes)
        );
    }
    Ok(())
}
