//! `aysfs fsck`: a flist against a stor.

use std::sync::atomic::Ordering;

use anyhow::bail;
use aysfs_engine::fsck::{self, Depth, Problem, Progress, Summary};
use serde::Serialize;

use crate::access::Access;
use crate::cli::FsckArgs;
use crate::flists::{self, Opened};
use crate::{keys, progress};

#[derive(Serialize)]
struct Row<'a> {
    object: String,
    problem: String,
    files: u64,
    paths: &'a [String],
}

#[derive(Serialize)]
struct Report<'a> {
    flist: &'a str,
    files: u64,
    objects: u64,
    chunks: u64,
    verified: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    problems: u64,
}

pub(crate) async fn run(args: FsckArgs) -> anyhow::Result<()> {
    let access = Access::of(&args.stor)?;
    let private_keys = keys::private(args.reader.key.as_deref())?;
    let Opened { base, stors, .. } =
        &flists::open(&args.flist, &access, access.open()?, private_keys).await?;
    let seed = args.sample.map(|_| args.seed.unwrap_or_else(|| fastrand::u64(..)));
    let depth = match (args.full, args.sample, seed) {
        (true, ..) => Depth::Full,
        (false, Some(percent), Some(seed)) => Depth::Sample { percent, seed },
        _ => Depth::Presence,
    };

    let done = Progress::default();
    let bar = progress::bar("checking");
    let shown = bar.clone();
    let report = |problem: Problem| shown.suspend(|| print(&problem, args.json));
    let summary = progress::watch(
        bar,
        |bar| {
            let now = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            bar.set_length(now(&done.bytes_found));
            bar.set_position(now(&done.bytes_done));
            bar.set_message(format!(
                "{}/{} objects",
                now(&done.objects_done) / 2,
                now(&done.objects_found) / 2
            ));
        },
        fsck::fsck(base, stors, depth, &done, report),
    )
    .await?;

    let Summary { files, objects, chunks, verified, problems } = summary;
    if args.json {
        let report = Report { flist: &args.flist, files, objects, chunks, verified, seed, problems };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        let sample = seed.map(|seed| format!(" (sample with --seed {seed})")).unwrap_or_default();
        println!(
            "{files} files in {objects} objects, {verified} of {chunks} chunks decoded{sample}: {problems} problems"
        );
    }
    if problems > 0 {
        bail!("not all that the flist names is in the stor and right");
    }
    Ok(())
}

fn print(problem: &Problem, json: bool) {
    if !json {
        println!("{problem}");
        return;
    }
    let Problem { object, files, paths, flaw } = problem;
    let row = Row { object: object.to_string(), problem: flaw.to_string(), files: *files, paths };
    println!("{}", serde_json::to_string(&row).expect("text and numbers are JSON"));
}
