//! `/debug/pprof/profile`: where CPU time goes.
//!
//! A timer of the process signals whichever thread runs, 99 times per second of CPU time, and the handler notes its stack. So a
//! profile costs next to nothing while nothing runs, and nothing at all while none is taken. Time in the kernel counts for the code
//! that called it; threads that wait do not show, for them there is `threads`.

use std::time::Duration;

use anyhow::Context;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pprof::ProfilerGuardBuilder;
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
    let named = tokio::task::spawn_blocking(move || anyhow::Ok(encoded(&guard.report().build()?.pprof()?)));
    let done = named.await.context("the profile was lost").flatten();
    done.unwrap_or_else(|error| failed(&error.context("cannot read the profile")))
}
