//! `aysfs commit`: the tree of a mount becomes a new flist.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::cli::CommitArgs;
use crate::control::client::Asked;
use crate::control::protocol::{Committed, Piece, Request};
use crate::output::Output;
use crate::progress;

#[derive(Serialize)]
struct Report<'a> {
    flist: &'a Path,
    entries: u64,
    files: u64,
    reused: u64,
    new_objects: u64,
    new_bytes: u64,
}

pub(crate) async fn run(args: CommitArgs) -> anyhow::Result<()> {
    let asked = Asked::find(&args.mountpoint).await?;
    // With the rights of who runs this command; what serves the mount may have more.
    let output = Output::new(&args.output)?;
    asked.sync().await?;

    let bar = progress::bar("committing");
    let mut flist = BufWriter::new(output.file());
    let mut received = 0;
    let request = Request::Commit { mount: asked.mount().device, name: args.name, version: args.version };
    let done: anyhow::Result<Committed> = asked
        .ask(
            &request,
            |piece: Piece| {
                let bytes = STANDARD.decode(piece.flist)?;
                received += bytes.len() as u64;
                Ok(flist.write_all(&bytes)?)
            },
            |now| {
                bar.set_length(now.bytes_found);
                bar.set_position(now.bytes_done);
                bar.set_message(format!("{} entries", now.entries));
            },
        )
        .await;
    bar.finish_and_clear();
    let Committed { entries, files, reused, new_objects, new_bytes, flist_bytes } = done?;
    if received != flist_bytes {
        bail!("only {received} of {flist_bytes} bytes of the flist arrived: nothing was written");
    }
    flist.flush()?;
    drop(flist);
    output.publish()?;

    if args.json {
        let report = Report { flist: &args.output, entries, files, reused, new_objects, new_bytes };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "committed {entries} entries ({files} files, {reused} as they were) to {}; {new_objects} new objects ({}) in the stor",
            args.output.display(),
            HumanBytes(new_bytes)
        );
    }
    Ok(())
}
