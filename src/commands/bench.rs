//! `aysfs bench`: how fast each FUSE library is on this machine, to choose a `lib=`.

mod advice;
mod data;
mod measure;
mod report;
mod server;
mod table;
mod workload;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use anyhow::bail;
use aysfs_config::{ByteSize, Lib};
use aysfs_workload::{Shape, Stop, work};
use indicatif::{HumanBytes, ProgressBar};
use tracing::info;

use self::data::Data;
use self::measure::{Bench, Column};
use self::report::Report;
pub(crate) use self::server::serve;
use crate::cli::{BenchArgs, Mode};
use crate::signals::Signals;
use crate::{Refused, progress};

/// How wide the output is where there is no terminal.
const WIDTH: usize = 120;

/// What was asked for.
struct Plan {
    dir: PathBuf,
    columns: Vec<Column>,
    shape: Shape,
    runs: u32,
}

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let json = args.json;
    let plan = plan(args)?;
    let mut signals = Signals::listen()?;
    let stop = Arc::new(Stop::new());
    let bar = progress::steps("measuring");
    // It stops by itself: what it has mounted and written is gone when it ends.
    let job = tokio::task::spawn_blocking({
        let (stop, bar) = (stop.clone(), bar.clone());
        move || measure(&plan, &stop, &bar)
    });
    let mut job = pin!(job);
    let report = tokio::select! {
        report = &mut job => report?,
        by = signals.next() => {
            stop.stop();
            info!("{by}: unmounting, and removing the data");
            tokio::select! {
                _ = &mut job => bail!("stopped by {by}"),
                by = signals.next() => bail!("{by} again: stopped while something was still mounted"),
            }
        }
    };
    bar.finish_and_clear();
    show(&report?, json)
}

fn plan(args: BenchArgs) -> anyhow::Result<Plan> {
    let libs: Vec<Lib> =
        Lib::ALL.into_iter().filter(|lib| args.lib.is_empty() || args.lib.contains(lib)).collect();
    let modes: Vec<Mode> =
        Mode::ALL.into_iter().filter(|mode| args.mode.is_empty() || args.mode.contains(mode)).collect();
    let columns = modes.iter().flat_map(|mode| libs.iter().map(|lib| Column { lib: *lib, mode: *mode }));
    let ByteSize(large) = args.size;
    if large < work::PAGE as u64 {
        return Err(Refused(format!("--size: at least {} bytes are needed", work::PAGE)).into());
    }
    Ok(Plan {
        dir: args.dir,
        columns: columns.collect(),
        shape: Shape { files: args.files as usize, large },
        runs: args.runs,
    })
}

fn measure(plan: &Plan, stop: &Stop, bar: &ProgressBar) -> anyhow::Result<Report> {
    let data = Data::make(&plan.dir, plan.shape, stop, |what| bar.set_message(what))?;
    let columns = plan.columns.clone();
    let measured = Bench { data: &data, columns, runs: plan.runs, stop, bar }.run()?;
    let report = Report::new(&data, plan.runs, measured);
    if report.measured().next().is_none() {
        let reasons: Vec<_> = report
            .columns
            .iter()
            .filter_map(|column| Some(format!("{}: {}", column.column.name(), column.failure.as_ref()?)))
            .collect();
        bail!("nothing could be measured:\n       {}", reasons.join("\n       "));
    }
    Ok(report)
}

fn show(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", report.json()?);
        return Ok(());
    }
    let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(WIDTH, |size| size.ws_col.into());
    println!("{}; {} in {}", report.machine, report.filesystem, report.dir);
    println!(
        "{} files of {} on average, one of {}; {}\n",
        report.files,
        HumanBytes(report.small_bytes / report.files as u64),
        HumanBytes(report.large_bytes),
        match report.runs {
            1 => "one round".into(),
            runs => format!("medians of {runs} rounds"),
        }
    );
    println!("{}", table::table(report, width));
    print!("{}", advice::text(report, width.min(WIDTH)));
    Ok(())
}
