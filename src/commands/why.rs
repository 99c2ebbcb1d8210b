//! `aysfs why`: which layer a path comes from, and where its content is.

use std::fmt;
use std::io::{Write, stdout};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::WhyArgs;
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::control::why::{Holder, Origin, Whereabouts, Why};
use crate::mount_points::containing;
use crate::names::harmless;

pub(crate) async fn run(args: WhyArgs) -> anyhow::Result<()> {
    let (mount, path) = containing(&args.path)?;
    let device = mount.device;
    let asked = Asked::serving(mount, &args.path).await?;
    let request = Request::Why { mount: device, path: STANDARD.encode(path) };
    let why: Why = asked.ask(&request, |()| Ok(()), |_| {}).await?;
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string(&why)?)?;
    } else {
        write!(stdout(), "{why}")?;
    }
    Ok(())
}

/// The other side has escaped the names; if it is a program of another user, it may say anything.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_deref().map(|kind| format!(" ({})", harmless(kind))).unwrap_or_default();
        writeln!(f, "{} in {}{kind}", harmless(&self.path), harmless(&self.mount))?;
        let layer = match self.layer {
            Origin::Base => "the flist",
            Origin::Upper => "local changes",
            Origin::UpperMetadata => "local changes of its attributes; the content is not local",
            Origin::Merged => "the flist, with local changes in it",
            Origin::Removed => "removed by local changes",
        };
        writeln!(f, "  layer    {layer}")?;
        write!(f, "  flist    {}", harmless(&self.flist))?;
        match &self.flist_path {
            Some(path) => writeln!(f, ", {}", harmless(path))?,
            None => writeln!(f)?,
        }
        match &self.content {
            None => Ok(()),
            Some(Whereabouts::Empty) => writeln!(f, "  content  empty"),
            Some(Whereabouts::Local) => writeln!(f, "  content  in the directory of local changes"),
            Some(Whereabouts::Lost) => {
                writeln!(
                    f,
                    "  content  lost: the flist that had it was replaced, and nothing tells what it was"
                )
            }
            Some(Whereabouts::Stored(stored)) => {
                let cached = if stored.cached { "in the cache" } else { "not in the cache" };
                writeln!(f, "  content  {}, {} bytes, {cached}", harmless(&stored.id), stored.size)?;
                let server = stored.server();
                for stor in &stored.stors {
                    let serves = server.is_some_and(|server| std::ptr::eq(server, stor));
                    writeln!(f, "  stor     {stor}{}", if serves { ": would serve it" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&harmless(&self.name))?;
        if self.stands_back {
            f.write_str(", stands back")?;
        }
        match (self.has, &self.error) {
            (Some(true), _) => f.write_str(", has it"),
            (Some(false), _) => f.write_str(", does not have it"),
            (None, Some(error)) => write!(f, ", cannot tell: {}", harmless(error)),
            (None, None) => f.write_str(", cannot tell"),
        }
    }
}
