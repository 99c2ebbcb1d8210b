//! `aysfs pack`: a directory becomes a flist, and objects in a stor.

use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use aysfs_engine::load;
use aysfs_engine::pack::{self, Options, Progress, Summary};
use aysfs_engine::profile::Profile;
use aysfs_flist::{Dialect, Header, Index, ParseOptions};
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
    reused_bytes: u64,
    left_out: u64,
}

pub(crate) async fn run(args: PackArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let dialect = match args.format {
        Format::V1 => Dialect::V1Short,
        Format::V1Long => Dialect::V1Long,
        Format::V2 => Dialect::V2,
    };
    if dialect != Dialect::V2 && (args.base.is_some() || args.profile.is_some()) {
        let message = "--base and --profile are for v2: a v1 flist has no packs";
        return Err(Refused(message.into()).into());
    }
    if args.key.is_some() && args.secret_of.is_none() && args.base.is_none() {
        return Err(Refused("--key is for --secret-of and --base: name one of them".into()).into());
    }
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
    let base =
        args.base.as_deref().map(|flist| base(flist, args.key.as_deref(), sealing.as_ref())).transpose()?;
    let profile = args.profile.as_deref().map(profile).transpose()?;
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
        base,
        profile,
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

/// The older list, whose content is not stored again; one that cannot help is refused.
fn base(flist: &Path, key: Option<&Path>, sealing: Option<&Sealing>) -> anyhow::Result<Arc<Index>> {
    let refused = |reason: String| Refused(format!("--base: {} {reason}", flist.display()));
    let bytes = fs::read(flist).with_context(|| format!("cannot read {}", flist.display()))?;
    let keys = keys::private(key)?;
    if !is_sealed(&bytes) && sealing.is_some() {
        let reason =
            "is not encrypted, and what is packed is: its content cannot be used; pack without --base";
        return Err(refused(reason.into()).into());
    }
    if is_sealed(&bytes) {
        if keys.is_empty() {
            return Err(refused("is encrypted: name the private key of a recipient with --key".into()).into());
        }
        let (_, of) =
            Sealing::open(&bytes, &keys).map_err(|error| refused(format!("cannot be opened: {error}")))?;
        if sealing.map(Sealing::secret) != Some(of.secret()) {
            let reason =
                "is encrypted with another secret than what is packed: name it with --secret-of, too";
            return Err(refused(reason.into()).into());
        }
    }
    let dir = tempfile::tempdir()?;
    // The mapped index stays valid after its file is gone.
    let index = load::compile(flist, &ParseOptions::default(), &keys, dir.path())
        .map_err(|error| Refused(format!("--base: {error}")))?;
    if index.dialect() != Dialect::V2 {
        let reason = "is of the old system, which has other objects: name a v2 flist";
        return Err(refused(reason.into()).into());
    }
    Ok(Arc::new(index))
}

fn profile(file: &Path) -> anyhow::Result<Profile> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Profile::parse(&text).map_err(|error| Refused(format!("--profile: {}: {error}", file.display())).into())
}

fn report(summary: &Summary, flist: &Path, json: bool) -> anyhow::Result<()> {
    let Summary { entries, files, bytes, new_objects, new_bytes, reused_bytes, unknown_paths, left_out } =
        *summary;
    if unknown_paths > 0 {
        warn!("{unknown_paths} files of the profile are not in the tree");
    }
    if left_out > 0 {
        warn!(
            "left out {left_out} entries that are no regular files: v1 cannot hold them (v1-long and v2 can)"
        );
    }
    if json {
        let report = Report { flist, entries, files, bytes, new_objects, new_bytes, reused_bytes, left_out };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "packed {entries} entries ({files} files, {}) into {}; {new_objects} new objects ({}) in the stor{}",
            HumanBytes(bytes),
            flist.display(),
            HumanBytes(new_bytes),
            match reused_bytes {
                0 => String::new(),
                reused => format!(", {} reused", HumanBytes(reused)),
            }
        );
    }
    Ok(())
}
