//! `/debug/pprof/profile`: where CPU time goes.
//!
//! A timer of the process signals whichever thread runs, 99 times per second of CPU time, and the handler notes its stack. So a
//! profile costs next to nothing while nothing runs, and nothing at all while none is taken. Time in the kernel counts for the code
//! that called it; threads that wait do not show, for them there is `threads`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pprof::{Frames, ProfilerGuardBuilder};
use serde::Deserialize;
use tokio::time::sleep;

use super::profile::{encoded, failed};

/// Samples per second of CPU time; no round number, so as not to go in step with what happens a hundred times a second.
const FREQUENCY: i32 = 99;

/// Where a thread must not be when its stack is walked: the unwinder itself, and code of the kernel that describes itself wrongly
/// on some distributions. libc may be: the unwinder takes no lock of it that a thread of ours could hold, since nothing here loads
/// libraries while it runs; and without libc, each read and write of a file or of /dev/fuse would be missing.
const NOT_IN: [&str; 2] = ["libgcc", "vdso"];

/// The longest that a client may ask for.
const LONGEST: u64 = 3600;

/// For how long.
#[derive(Debug, Deserialize)]
pub(super) struct Span {
    /// As Go has it.
    #[serde(default = "half_a_minute")]
    seconds: u64,
}

fn half_a_minute() -> u64 {
    30
}

/// Takes a profile; a client that goes away ends it.
pub(super) async fn profile(Query(Span { seconds }): Query<Span>) -> Response {
    if !(1..=LONGEST).contains(&seconds) {
        return (StatusCode::BAD_REQUEST, format!("seconds={seconds}: from 1 to {LONGEST}\n"))
            .into_response();
    }
    let guard = match ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&NOT_IN).build() {
        Ok(guard) => guard,
        Err(pprof::Error::Running) => {
            let busy = "a profile is being taken already: try again when it is done\n";
            return (StatusCode::CONFLICT, busy).into_response();
        }
        Err(error) => return failed(&anyhow::Error::from(error).context("cannot start a profile")),
    };
    sleep(Duration::from_secs(seconds)).await;
    // To find names for addresses takes a while, the first time.
    let named = tokio::task::spawn_blocking(move || {
        anyhow::Ok(encoded(&guard.report().frames_post_processor(qualify).build()?.pprof()?))
    });
    let done = named.await.context("the profile was lost").flatten();
    done.unwrap_or_else(|error| failed(&error.context("cannot read the profile")))
}

/// Gives functions their full names: the crate takes those of one name for one function, and has little more than `read` or
/// `{closure#0}` for what is in the line tables.
fn qualify(frames: &mut Frames) {
    for symbol in frames.frames.iter_mut().flatten() {
        let qualified = symbol.filename.as_deref().and_then(|file| qualified(&symbol.name(), file));
        if let Some(name) = qualified {
            symbol.name = Some(name.into_bytes());
        }
    }
}

/// The name of a function behind that of its module, which the path of its source file tells; `None` if that is not needed, or not
/// known.
fn qualified(name: &str, file: &Path) -> Option<String> {
    if name.contains("::") {
        return None;
    }
    let ours = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).ok();
    let path = ours.unwrap_or(file).with_extension("");
    let parts: Vec<&str> = path.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    let source = parts.iter().rposition(|part| *part == "src")?;
    let package = match ours {
        Some(_) => [&["aysfs"], &parts[..source]].concat(),
        None => vec![*parts[..source].last()?],
    };
    Some([&package[..], &parts[source + 1..], &[name]].concat().join("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_told_apart_by_its_source_file() {
        let ours = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        for (name, file, expected) in [
            ("read", ours("engine/core/src/fs.rs"), Some("aysfs::engine::core::fs::read")),
            ("run", ours("src/commands/mount.rs"), Some("aysfs::commands::mount::run")),
            ("aysfs_engine::fs::read", ours("engine/core/src/fs.rs"), None),
            (
                "read",
                "/home/x/.cargo/registry/src/y/fuser-1.2.3/src/ll/io.rs".into(),
                Some("fuser-1.2.3::ll::io::read"),
            ),
            (
                "{closure#0}",
                "/rustc/5980/library/core/src/ops/function.rs".into(),
                Some("core::ops::function::{closure#0}"),
            ),
            ("__libc_read", "./io/../sysdeps/unix/sysv/linux/read.c".into(), None),
            ("main", "src/main.rs".into(), None),
        ] {
            assert_eq!(qualified(name, &file).as_deref(), expected, "{name} in {}", file.display());
        }
    }
}
