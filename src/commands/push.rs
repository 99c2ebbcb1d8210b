//! `aysfs push`: what is new in a mount goes to its stor now.

use indicatif::HumanBytes;

use crate::cli::PushArgs;
use crate::control::client::Asked;
use crate::control::protocol::{Pushed, Request, Waits};
use crate::names::harmless;
use crate::progress;

pub(crate) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let asked = Asked::find(&args.mountpoint).await?;
    asked.sync().await?;
    let bar = progress::bar("pushing");
    let mut waiting = Vec::new();
    let request = Request::Push { mount: asked.mount().device };
    let done: anyhow::Result<Pushed> = asked
        .ask(
            &request,
            |file: Waits| {
                waiting.push(file);
                Ok(())
            },
            |now| {
                bar.set_length(now.bytes_found);
                bar.set_position(now.bytes_done);
                bar.set_message(format!("{} entries", now.entries));
            },
        )
        .await;
    bar.finish_and_clear();
    let pushed = done?;
    if args.json {
        println!("{}", serde_json::to_string(&pushed)?);
        return Ok(());
    }
    let Pushed { files, new_objects, new_bytes, version, published, .. } = pushed;
    println!("pushed {files} files; {new_objects} new objects ({}) in the stor", HumanBytes(new_bytes));
    match (version, published) {
        (Some(version), true) => println!("published version {version} of the flist"),
        (None, true) => println!("published the flist"),
        (Some(version), false) => println!("version {version} of the flist is kept here, and not published"),
        (None, false) => println!("the flist is as it was"),
    }
    for Waits { path, why } in waiting {
        println!("{} waits: {}", harmless(&path), harmless(&why));
    }
    Ok(())
}
