//! `aysfs pack`: a directory becomes a flist, and objects in a stor.

use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use aysfs_engine::pack::{self, Options, Progress, Summary};
use aysfs_flist::{Dialect, Header};
use aysfs_store::crypt::{Sealing, is_sealed};
use indicatif::HumanBytes;
use serde::Serialize;
use tracing::warn;

use crate::Refused;
use crate::access::{self, Access};
use crate::cli::{Format, PackArgs};
use crate::output::Output;
use crate::{keys, progress};

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
    let sealing = sealing(&args)?;
    if dialect != Dialect::V2 && sealing.is_some() {
        return Err(Refused(
            "--encrypt-for and --secret-of are for v2: v1 is read by clients of the old system".into(),
        )
        .into());
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
        sealing,
        spool: output.directory().to_owned(),
    };

    let stor = access::to_write(access.open()?, &access.namespace);
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

/// Whom the flist and its content are encrypted for, and with what; `None`: they are not.
fn sealing(args: &PackArgs) -> anyhow::Result<Option<Sealing>> {
    let recipients = keys::public(&args.encrypt_for)?;
    let Some(flist) = &args.secret_of else { return keys::sealing(None, &recipients) };
    let bytes = fs::read(flist).with_context(|| format!("cannot read {}", flist.display()))?;
    if !is_sealed(&bytes) {
        return Err(Refused(format!("--secret-of: {} is not encrypted", flist.display())).into());
    }
    let (_, sealing) = Sealing::open(&bytes, &keys::private(args.key.as_deref())?)
        .map_err(|error| Refused(format!("--secret-of: cannot open {}: {error}", flist.display())))?;
    keys::sealing(Some(&sealing), &recipients)
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
