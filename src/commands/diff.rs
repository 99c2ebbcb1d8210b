//! `aysfs diff`: what local changes come to.

use std::fmt;
use std::io::{self, BufWriter, Write, stdout};

use crate::cli::DiffArgs;
use crate::control::client::Asked;
use crate::control::protocol::{Difference, Kind, Request};
use crate::names::harmless;

pub(crate) async fn run(args: DiffArgs) -> anyhow::Result<()> {
    let asked = Asked::find(&args.mountpoint).await?;
    asked.sync().await?;
    // All of it before the first line is written: whoever reads that may take his time.
    let mut differences = Vec::new();
    let request = Request::Diff { mount: asked.mount().device };
    let () = asked
        .ask(
            &request,
            |difference: Difference| {
                differences.push(difference);
                Ok(())
            },
            |_| {},
        )
        .await?;
    match write(&differences, args.json) {
        // As with ls, whoever reads may have seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn write(differences: &[Difference], json: bool) -> io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    for difference in differences {
        if json {
            serde_json::to_writer(&mut out, difference)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{difference}")?;
        }
    }
    out.flush()
}

/// The other side has escaped the names; if it is a program of another user, it may say anything.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.change {
            Kind::Added => 'A',
            Kind::Modified => 'M',
            Kind::Deleted => 'D',
            Kind::Renamed => 'R',
        };
        write!(f, "{letter} ")?;
        if let Some(from) = &self.from {
            write!(f, "{} -> ", harmless(from))?;
        }
        f.write_str(&harmless(&self.path))?;
        if self.what.is_empty() { Ok(()) } else { write!(f, " ({})", harmless(&self.what.join(", "))) }
    }
}
