//! `aysfs profile`: what an application reads from a mount when it starts.

use std::ffi::OsString;
use std::io::BufWriter;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use aysfs_engine::profile::{FirstRead, Profile};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::HumanBytes;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::CommandFailed;
use crate::cli::ProfileRecordArgs;
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::control::record::Read;
use crate::output::Output;
use crate::signals::Signals;

#[derive(Serialize)]
struct Report<'a> {
    profile: &'a Path,
    files: usize,
    bytes: u64,
}

pub(crate) async fn record(args: ProfileRecordArgs) -> anyhow::Result<()> {
    let asked = Asked::find(&args.mountpoint).await?;
    let output = Output::new(&args.output)?;
    // Before anything begins: from here on, the profile is written whatever ends it.
    let mut signals = Signals::listen()?;

    let device = asked.mount().device;
    let (begun, has_begun) = oneshot::channel();
    let mut begun = Some(begun);
    let request = Request::Record { mount: device };
    let tell_begun = |_| {
        if let Some(begun) = begun.take() {
            begun.send(()).ok();
        }
    };
    let recording = asked.ask(&request, |()| Ok(()), tell_begun);
    let mut recording = std::pin::pin!(recording);
    tokio::select! {
        ended = &mut recording => return ended,
        _ = has_begun => {}
        by = signals.next() => bail!("{by} before the recording had begun: nothing was written"),
    }
    let mut work = std::pin::pin!(work(&args, &mut signals));
    let status = tokio::select! {
        status = &mut work => status?,
        ended = &mut recording => {
            if !args.command.is_empty() {
                // It goes on as it would without us.
                work.await?;
            }
            return ended.context("nothing was written");
        }
    };
    let mut reads = Vec::new();
    let take = |Read { path, offset, length }| {
        let path = STANDARD.decode(path)?;
        reads.push(FirstRead { path, range: offset..offset.saturating_add(length) });
        Ok(())
    };
    let _: Value = asked.ask(&Request::Recorded { mount: device }, take, |_| {}).await?;
    tell(&args, write(output, reads)?)?;
    match status.filter(|status| !status.success()) {
        Some(status) => Err(CommandFailed(exit_code(status)).into()),
        None => Ok(()),
    }
}

/// Waits for what is to be recorded; the end of the command, if there is one.
async fn work(args: &ProfileRecordArgs, signals: &mut Signals) -> anyhow::Result<Option<ExitStatus>> {
    if let [program, arguments @ ..] = &args.command[..] {
        return run(program, arguments, signals).await.map(Some);
    }
    eprintln!("recording what is read from {}, until ctrl-C", args.mountpoint.display());
    match args.seconds {
        Some(seconds) => {
            let _ = tokio::time::timeout(Duration::from_secs(seconds), signals.next()).await;
        }
        None => drop(signals.next().await),
    }
    Ok(None)
}

async fn run(
    program: &OsString,
    arguments: &[OsString],
    signals: &mut Signals,
) -> anyhow::Result<ExitStatus> {
    let shown = || format!("cannot run {}", program.display());
    let mut child = Command::new(program).args(arguments).spawn().with_context(shown)?;
    let pid = Pid::from_child(&child);
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => return Ok(status??),
            by = signals.next() => {
                // A terminal interrupts the command as well; whoever ends this process knows of no other.
                if by == "SIGTERM" {
                    kill_process(pid, Signal::TERM).ok();
                }
            }
        }
    }
}

fn write(output: Output, reads: Vec<FirstRead>) -> anyhow::Result<Profile> {
    let profile = Profile { reads };
    profile.write(BufWriter::new(output.file()))?;
    output.publish()?;
    Ok(profile)
}

fn tell(args: &ProfileRecordArgs, Profile { reads }: Profile) -> anyhow::Result<()> {
    let bytes = reads.iter().map(|read| read.range.end - read.range.start).sum();
    let mut paths: Vec<_> = reads.iter().map(|read| &read.path).collect();
    paths.sort_unstable();
    paths.dedup();
    let (profile, files) = (args.output.as_path(), paths.len());
    if args.json {
        println!("{}", serde_json::to_string(&Report { profile, files, bytes })?);
    } else {
        // Standard output is the command's.
        eprintln!("recorded reads of {files} files ({}) in {}", HumanBytes(bytes), profile.display());
    }
    Ok(())
}

/// As a shell has it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
