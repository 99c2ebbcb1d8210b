//! `aysfs reload`: the newest flist for what is mounted.

use std::path::Path;

use anyhow::bail;
use serde::Serialize;

use crate::cli::ReloadArgs;
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::mount_points;
use crate::reload::Reloaded;

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    mount: &'a Path,
    #[serde(flatten)]
    reloaded: Reloaded,
}

pub(crate) async fn run(args: ReloadArgs) -> anyhow::Result<()> {
    if let Some(point) = &args.mountpoint {
        let asked = Asked::find(point).await?;
        let Some(reloaded) = reload(&asked).await? else {
            bail!("{} shows no flist: there is nothing to reload", point.display());
        };
        return print(&asked.mount().point, reloaded, args.json);
    }
    let mut failed = 0;
    let user = rustix::process::geteuid().as_raw();
    for mount in mount_points::all_ours()?.into_iter().filter(|mount| mount.user == user) {
        // One after the other: what can be reloaded is, whatever becomes of the rest.
        match reload_at(&mount.point).await {
            Ok(Some(reloaded)) => print(&mount.point, reloaded, args.json)?,
            Ok(None) => {}
            Err(error) => {
                eprintln!("aysfs: {error:#}");
                failed += 1;
            }
        }
    }
    if failed > 0 { bail!("{failed} mounts could not be reloaded") } else { Ok(()) }
}

async fn reload_at(point: &Path) -> anyhow::Result<Option<Reloaded>> {
    reload(&Asked::find(point).await?).await
}

/// Nothing, if it has no flist.
async fn reload(asked: &Asked) -> anyhow::Result<Option<Reloaded>> {
    asked.ask(&Request::Reload { mount: asked.mount().device }, |()| Ok(()), |_| {}).await
}

fn print(mount: &Path, reloaded: Reloaded, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(&Line { mount, reloaded })?),
        false => println!("{}: {reloaded}", mount.display()),
    }
    Ok(())
}
