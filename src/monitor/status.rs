//! `/`: the page for people.

use std::fmt::Write;
use std::time::Duration;

use aysfs_vfs::Measurement;

use super::{Watched, WatchedMount};
use crate::backlog::Backlog;

const STYLE: &str = "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}\
    td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}td.n{text-align:right}";

/// The whole page.
pub(super) async fn page(watched: &Watched) -> String {
    let mounted = watched.mounted();
    let up = Duration::from_secs(watched.since.elapsed().unwrap_or_default().as_secs());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>aysfs</title><style>{STYLE}</style></head><body>\n\
         <h1>aysfs {}</h1>\n<p>Process {}, up for {up:?}. <a href=\"/metrics\">metrics</a>, <a href=\"/debug/pprof/\">profiles</a></p>\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
    );
    let mounts = mounted.iter().map(|mount| mount_row(mount));
    table(&mut page, "Mounts", &["mount", "flist", "entries", "mode", "lib", "backend"], mounts);
    let operations = mounted.iter().flat_map(|mount| {
        let used = mount.operations.measurements().filter(|one| one.answered + one.running > 0);
        used.map(move |one| operation_row(mount, &one))
    });
    let heads = ["mount", "operation", "answered", "of them errors", "mean", "running"];
    table(&mut page, "What the kernel asked for", &heads, operations);
    let caches = watched.caches.iter().map(|(dir, cache)| {
        let stats = cache.stats();
        let counts = [
            stats.hits,
            stats.misses,
            stats.read_bytes,
            stats.fetches,
            stats.retries,
            stats.verification_failures,
        ];
        [Cell::Text(dir.display().to_string())].into_iter().chain(counts.map(Cell::Number)).collect()
    });
    let heads = ["backend", "hits", "misses", "bytes read", "fetches", "retries", "verification failures"];
    table(&mut page, "Caches", &heads, caches);
    let stors = mounted.iter().flat_map(|mount| {
        mount.about.stors.stats().into_iter().map(move |stor| {
            let counts = [stor.requests, stor.bytes, stor.retries, stor.failures, stor.verification_failures];
            let health = if stor.stands_back { "stands back" } else { "ready" };
            let names = [mount.point.display().to_string(), stor.name, health.to_owned()];
            names.into_iter().map(Cell::Text).chain(counts.map(Cell::Number)).collect()
        })
    });
    let heads =
        ["mount", "stor", "health", "requests", "bytes", "retries", "failures", "verification failures"];
    table(&mut page, "Stors", &heads, stors);
    let mut queues = Vec::new();
    for mount in &mounted {
        queues.extend(Backlog::now(&mount.about).await.map(|backlog| queue_row(mount, backlog)));
    }
    if !queues.is_empty() {
        table(&mut page, "Waiting to be pushed", &["mount", "files", "oldest", "why"], queues.into_iter());
    }
    page.push_str("</body></html>\n");
    page
}

fn mount_row(mount: &WatchedMount) -> Vec<Cell> {
    vec![
        Cell::Text(mount.point.display().to_string()),
        Cell::Text(mount.about.source.clone()),
        Cell::Number(mount.entries() as u64),
        Cell::Text(mount.about.mode.to_owned()),
        Cell::Text(mount.about.lib.to_owned()),
        Cell::Text(mount.backend.display().to_string()),
    ]
}

/// What waits to be pushed.
fn queue_row(mount: &WatchedMount, backlog: Backlog) -> Vec<Cell> {
    let oldest = backlog.oldest_seconds.map(|seconds| format!("{:?}", Duration::from_secs(seconds)));
    vec![
        Cell::Text(mount.point.display().to_string()),
        Cell::Number(backlog.pending),
        Cell::Text(oldest.unwrap_or_default()),
        Cell::Text(backlog.why.unwrap_or_default()),
    ]
}

fn operation_row(mount: &WatchedMount, one: &Measurement) -> Vec<Cell> {
    let mean = u32::try_from(one.answered).ok().and_then(|count| one.total.checked_div(count));
    vec![
        Cell::Text(mount.point.display().to_string()),
        Cell::Text(one.operation.name().to_owned()),
        Cell::Number(one.answered),
        Cell::Number(one.failed.iter().map(|(_, count)| count).sum()),
        Cell::Text(mean.map(|mean| format!("{mean:.1?}")).unwrap_or_default()),
        Cell::Number(one.running),
    ]
}

enum Cell {
    Text(String),
    Number(u64),
}

fn table(page: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<Cell>>) {
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    writeln!(page, "<h2>{title}</h2>\n<table><tr>{heads}</tr>").expect("memory takes everything");
    for row in rows {
        let cells: String = row
            .iter()
            .map(|cell| match cell {
                Cell::Text(text) => format!("<td>{}</td>", escaped(text)),
                Cell::Number(number) => format!("<td class=\"n\">{number}</td>"),
            })
            .collect();
        writeln!(page, "<tr>{cells}</tr>").expect("memory takes everything");
    }
    page.push_str("</table>\n");
}

/// Names are those of files, and may hold anything.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup() {
        let mut page = String::new();
        let row = vec![Cell::Text("<b>&\"".to_owned()), Cell::Number(7)];
        table(&mut page, "T", &["x", "n"], [row].into_iter());
        assert!(page.contains("<td>&lt;b&gt;&amp;&quot;</td><td class=\"n\">7</td>"), "{page}");
    }
}
