//! `aysfs status`: every mount of every process that this user may ask.

use std::fmt;
use std::io::{self, BufWriter, Write, stdout};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::control::client::{self, Asked};
use crate::control::protocol::Request;
use crate::control::status::{MountStatus, StorStatus};
use crate::names::{self, harmless};

/// A mount, as it is printed.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Served(Box<MountStatus>),
    /// Nobody answers for it.
    Silent {
        mount: String,
        problem: String,
    },
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let shown = match &args.mountpoint {
        Some(point) => {
            let asked = Asked::find(point).await?;
            let mut shown = Vec::new();
            let take = |status: MountStatus| {
                shown.push(Shown::Served(Box::new(status)));
                Ok(())
            };
            let request = Request::Status { mount: Some(asked.mount().device) };
            let () = asked.ask(&request, take, |_| {}).await?;
            shown
        }
        None => everything().await?,
    };
    match write(&shown, args.json) {
        // As with ls, whoever reads may have seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

async fn everything() -> anyhow::Result<Vec<Shown>> {
    let client::Everything { mut served, silent } = client::everything().await?;
    served.sort_by(|one, other| one.mount.cmp(&other.mount));
    let served = served.into_iter().map(|status| Shown::Served(Box::new(status)));
    let silent = silent.into_iter().map(|(mount, problem)| Shown::Silent {
        mount: names::shown(mount.point.as_os_str().as_encoded_bytes()),
        problem,
    });
    Ok(served.chain(silent).collect())
}

fn write(shown: &[Shown], json: bool) -> io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    for (position, one) in shown.iter().enumerate() {
        if json {
            serde_json::to_writer(&mut out, one)?;
            writeln!(out)?;
        } else {
            let gap = if position == 0 { "" } else { "\n" };
            write!(out, "{gap}{one}")?;
        }
    }
    if shown.is_empty() && !json {
        writeln!(out, "nothing of aysfs is mounted that you may ask about")?;
    }
    out.flush()
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(status) => status.fmt(f),
            Self::Silent { mount, problem } => writeln!(f, "{mount}\n  problem  {problem}"),
        }
    }
}

/// The other side has escaped the names; if it is a program of another user, it may say anything.
impl fmt::Display for MountStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, lib, flist, cache, process, .. } = self;
        writeln!(f, "{}", harmless(&self.mount))?;
        let up = span(process.up_seconds);
        let (mode, lib, version) = (harmless(mode), harmless(lib), harmless(&process.version));
        writeln!(
            f,
            "  mode     {mode} with {lib}, by process {} (aysfs {version}), up for {up}",
            process.pid
        )?;
        write!(f, "  flist    {}", harmless(&flist.source))?;
        if let Some(name) = &flist.name {
            write!(f, ", {}", harmless(name))?;
        }
        if let Some(version) = flist.version {
            write!(f, ", version {version}")?;
        }
        writeln!(f, ", {} entries, SHA-256 {}", flist.entries, harmless(&flist.sha256))?;
        writeln!(
            f,
            "  cache    {}: {} hits, {} misses, {} fetches of {} bytes, {} retries, {} verification failures",
            harmless(&self.backend),
            cache.hits,
            cache.misses,
            cache.fetches,
            cache.fetched_bytes,
            cache.retries,
            cache.verification_failures,
        )?;
        for StorStatus { name, stands_back, requests, failures, verification_failures, .. } in &self.stors {
            let health = if *stands_back { "stands back" } else { "ready" };
            writeln!(
                f,
                "  stor     {}: {health}, {requests} requests, {failures} failures, {verification_failures} verification failures",
                harmless(name)
            )?;
        }
        let Some(backlog) = &self.push else { return Ok(()) };
        write!(f, "  push     ")?;
        if let Some(version) = backlog.version {
            write!(f, "version {version} of the flist, ")?;
        }
        if let Some(seconds) = backlog.pushed_seconds {
            write!(f, "pushed {} ago, ", span(seconds))?;
        }
        write!(f, "{} files wait", backlog.pending)?;
        if let Some(seconds) = backlog.oldest_seconds {
            write!(f, ", the oldest for {}", span(seconds))?;
        }
        if let Some(why) = &backlog.why {
            write!(f, ": {}", harmless(why))?;
        }
        writeln!(f)
    }
}

/// Such as `1h 2m 3s`.
fn span(seconds: u64) -> String {
    format!("{:#}", SignedDuration::try_from(Duration::from_secs(seconds)).unwrap_or(SignedDuration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Backlog;
    use crate::control::status::{CacheStatus, FlistStatus, ProcessStatus};

    #[test]
    fn what_is_told_fits_a_terminal() {
        let mut status = MountStatus {
            mount: "/opt/a".to_owned(),
            device: "0:57".parse().expect("a device"),
            mode: "RW".to_owned(),
            lib: "fuser".to_owned(),
            flist: FlistStatus {
                source: "/a.flist".to_owned(),
                name: Some("app\x1b[0m".to_owned()),
                version: Some(7),
                sha256: "00ff".to_owned(),
                entries: 3,
            },
            backend: "/var/a".to_owned(),
            cache: CacheStatus {
                hits: 1,
                misses: 2,
                fetches: 3,
                fetched_bytes: 4,
                retries: 5,
                verification_failures: 6,
            },
            stors: vec![StorStatus {
                name: "http://a/".to_owned(),
                stands_back: true,
                requests: 9,
                bytes: 10,
                failures: 8,
                verification_failures: 0,
            }],
            push: Some(Backlog {
                pending: 2,
                oldest_seconds: Some(3723),
                why: Some("a.o: the stor is down".to_owned()),
                pushed_seconds: Some(60),
                version: Some(9),
            }),
            process: ProcessStatus { pid: 42, version: "1.2.3".to_owned(), up_seconds: 61 },
        };
        let expected = "\
/opt/a
  mode     RW with fuser, by process 42 (aysfs 1.2.3), up for 1m 1s
  flist    /a.flist, app\\u{1b}[0m, version 7, 3 entries, SHA-256 00ff
  cache    /var/a: 1 hits, 2 misses, 3 fetches of 4 bytes, 5 retries, 6 verification failures
  stor     http://a/: stands back, 9 requests, 8 failures, 0 verification failures
  push     version 9 of the flist, pushed 1m ago, 2 files wait, the oldest for 1h 2m 3s: a.o: the stor is down
";
        assert_eq!(status.to_string(), expected);
        status.push = Some(Backlog::default());
        assert!(status.to_string().ends_with("  push     0 files wait\n"), "{status}");
    }
}
