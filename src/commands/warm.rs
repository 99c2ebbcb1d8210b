//! `aysfs warm`: content into the cache of a mount before anybody reads it.

use std::path::Path;

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::Refused;
use crate::cli::WarmArgs;
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::control::warm::{Failed, Warmed};
use crate::mount_points::{MountPoint, containing};
use crate::names::harmless;
use crate::progress;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    warmed: &'a Warmed,
    failed: &'a [Failed],
}

pub(crate) async fn run(args: WarmArgs) -> anyhow::Result<()> {
    let asked = Asked::find(&args.mountpoint).await?;
    let mount = asked.mount();
    let mut paths: Vec<_> = args.paths.iter().map(|path| below(mount, path)).collect::<Result<_, _>>()?;
    if paths.is_empty() {
        paths.push(Vec::new());
    }
    let paths = paths.iter().map(|path| STANDARD.encode(path)).collect();
    let bar = progress::bar("warming");
    let mut failed = Vec::new();
    let request = Request::Warm { mount: mount.device, paths };
    let done: anyhow::Result<Warmed> = asked
        .ask(
            &request,
            |file: Failed| {
                failed.push(file);
                Ok(())
            },
            |now| {
                bar.set_length(now.bytes_found);
                bar.set_position(now.bytes_done);
                bar.set_message(format!("{} files", now.entries));
            },
        )
        .await;
    bar.finish_and_clear();
    let warmed = done?;
    let Warmed { files, bytes, fetched_files, fetched_bytes, failed_files, is_outage } = warmed;
    if args.json {
        println!("{}", serde_json::to_string(&Report { warmed: &warmed, failed: &failed })?);
    } else {
        println!(
            "fetched {fetched_files} files ({}) of {files} ({})",
            HumanBytes(fetched_bytes),
            HumanBytes(bytes)
        );
        for Failed { path, why } in &failed {
            println!("{}: {}", harmless(path), harmless(why));
        }
        if failed_files > failed.len() as u64 {
            println!("and {} more", failed_files - failed.len() as u64);
        }
    }
    match (failed_files, is_outage) {
        (0, false) => Ok(()),
        (_, true) => {
            bail!("no stor could be reached: {failed_files} files failed, and the rest was not tried")
        }
        (_, false) => bail!("{failed_files} files could not be fetched"),
    }
}

/// A path below the root of a mount, whether it is absolute or begins there. Where a symlink leads is meant, if it leads anywhere.
fn below(mount: &MountPoint, path: &Path) -> anyhow::Result<Vec<u8>> {
    let path = mount.point.join(path);
    let (found, below) = containing(&path.canonicalize().unwrap_or_else(|_| path.clone()))?;
    if found.device != mount.device {
        let (path, point) = (path.display(), mount.point.display());
        return Err(Refused(format!("{path} is in another mount than {point}: warm that one")).into());
    }
    Ok(below)
}
