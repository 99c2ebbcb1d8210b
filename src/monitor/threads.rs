//! `/debug/pprof/threads`: the threads, by name and by what they wait for.

use std::fs;
use std::path::Path;

use anyhow::Context;
use axum::extract::Query;
use axum::response::Response;

use super::profile::{Form, Named, failed};

const KINDS: [(&str, &str); 2] = [("threads", "count"), ("cpu", "nanoseconds")];

const COMMENT: &str =
    "Threads by what they wait for in the kernel, and by name, with the CPU time they have used.";

pub(super) async fn profile(Query(form): Query<Form>) -> Response {
    match threads() {
        Ok(named) => named.answer(&form),
        Err(error) => failed(&error),
    }
}

fn threads() -> anyhow::Result<Named> {
    let mut named = Named::new(&KINDS, COMMENT);
    for thread in fs::read_dir("/proc/self/task").context("cannot list the threads of this process")? {
        let thread = thread?.path();
        // One that has just ended is none.
        let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
        named.add(vec![waits_for(&thread), name.trim_end().to_owned()], &[1, cpu_time(&thread)]);
    }
    Ok(named)
}

/// The function of the kernel that a thread sleeps in, if the kernel tells.
fn waits_for(thread: &Path) -> String {
    match fs::read_to_string(thread.join("wchan")).as_deref() {
        Ok("0" | "") => "running".to_owned(),
        Ok(function) => function.trim_end().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}

/// In nanoseconds: the first number of schedstat (Documentation/scheduler/sched-stats.rst). Kernels built without it tell none.
fn cpu_time(thread: &Path) -> u64 {
    let stat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}
