//! `/metrics`: what was asked for, and what came of it, since the start.
//!
//! A number of somebody else's comes here by what [`Watched`] holds of him: a family more in the function for its kind.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use aysfs_store::cache::CacheStats;
use aysfs_vfs::Measurement;

use super::exposition::{Exposition, Family, Kind};
use super::{Watched, WatchedMount};
use crate::backlog::Backlog;

/// What no number of this page can know.
const UNSEEN: &str = "Only what the kernel asks for: what it answers from its own caches, or reads and writes by itself \
    (FUSE passthrough), is not seen here.";

/// The whole page.
pub(super) async fn text(watched: &Watched) -> String {
    let mounted = watched.mounted();
    let mut pushed = Vec::new();
    for mount in &mounted {
        if let Some(backlog) = Backlog::now(&mount.about).await {
            pushed.push((shown(&mount.point), backlog));
        }
    }
    let mut text = Exposition::default();
    process(&mut text, watched);
    mounts(&mut text, &mounted);
    operations(&mut text, &mounted);
    caches(&mut text, watched);
    stors(&mut text, &mounted);
    backlogs(&mut text, &pushed);
    text.text()
}

fn process(text: &mut Exposition, watched: &Watched) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.family("aysfs_build_info", Kind::Gauge, "Always 1; the version is a label.").sample(&version, 1);
    let since = watched.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.family("process_start_time_seconds", Kind::Gauge, "When the process began to serve, in Unix time.")
        .sample(&[], since.as_secs_f64());
    // A field that this kernel does not have is left out.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = field(&status, "VmRSS:") {
        text.family("process_resident_memory_bytes", Kind::Gauge, "Memory in use.").sample(&[], kib << 10);
    }
    if let Some(threads) = field(&status, "Threads:") {
        text.family("process_threads", Kind::Gauge, "Threads.").sample(&[], threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.family("process_open_fds", Kind::Gauge, "Open file descriptors.").sample(&[], open.count());
    }
}

/// A number of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

fn mounts(text: &mut Exposition, mounts: &[&WatchedMount]) {
    let mut info =
        text.family("aysfs_mount_info", Kind::Gauge, "Always 1; what is mounted is in the labels.");
    for mount in mounts {
        let (point, backend) = (shown(&mount.point), shown(&mount.backend));
        let labels = [
            ("mount", point.as_str()),
            ("source", mount.about.source.as_str()),
            ("lib", mount.about.lib),
            ("mode", mount.about.mode),
            ("backend", backend.as_str()),
        ];
        info.sample(&labels, 1);
    }
    let mut entries = text.family("aysfs_flist_entries", Kind::Gauge, "Entries of the flist of a mount.");
    for mount in mounts {
        entries.sample(&[("mount", shown(&mount.point).as_str())], mount.entries());
    }
}

fn operations(text: &mut Exposition, mounts: &[&WatchedMount]) {
    let measured: Vec<(String, Vec<Measurement>)> =
        mounts.iter().map(|mount| (shown(&mount.point), mount.operations.measurements().collect())).collect();
    let all = || measured.iter().flat_map(|(mount, all)| all.iter().map(move |one| (mount.as_str(), one)));

    let help = format!("How long operations took that were answered, errors included. {UNSEEN}");
    let mut durations = text.family("aysfs_operation_duration_seconds", Kind::Histogram, &help);
    for (mount, one) in all() {
        let labels = [("mount", mount), ("operation", one.operation.name())];
        for (bound, count) in &one.within {
            let bound = bound.as_secs_f64().to_string();
            durations.part("_bucket", &[&labels[..], &[("le", bound.as_str())]].concat(), count);
        }
        durations.part("_bucket", &[&labels[..], &[("le", "+Inf")]].concat(), one.answered);
        durations.part("_sum", &labels, one.total.as_secs_f64());
        durations.part("_count", &labels, one.answered);
    }
    let help = "Operations that are under way: those that wait for a fetch, most likely.";
    each(&mut text.family("aysfs_operations_running", Kind::Gauge, help), all(), |one| one.running);
    let help = "Operations whose answer nobody waited for any more: an interrupted reader.";
    each(&mut text.family("aysfs_operations_abandoned_total", Kind::Counter, help), all(), |one| {
        one.abandoned
    });

    let help =
        "Operations that were answered by an error, by its kind. Some are everyday answers, such as NoData.";
    let mut errors = text.family("aysfs_operation_errors_total", Kind::Counter, help);
    for (mount, one) in all() {
        for (kind, count) in &one.failed {
            let kind = format!("{kind:?}");
            errors.sample(
                &[("mount", mount), ("operation", one.operation.name()), ("kind", kind.as_str())],
                count,
            );
        }
    }
}

fn each<'a>(
    family: &mut Family<'_>,
    all: impl Iterator<Item = (&'a str, &'a Measurement)>,
    value: impl Fn(&Measurement) -> u64,
) {
    for (mount, one) in all {
        family.sample(&[("mount", mount), ("operation", one.operation.name())], value(one));
    }
}

fn caches(text: &mut Exposition, watched: &Watched) {
    let caches: Vec<_> = watched.caches.iter().map(|(dir, cache)| (shown(dir), cache.stats())).collect();
    let mut counter = |name, help: &str, value: fn(&CacheStats) -> u64| {
        let mut family = text.family(name, Kind::Counter, help);
        for (backend, stats) in &caches {
            family.sample(&[("backend", backend.as_str())], value(stats));
        }
    };
    counter("aysfs_cache_hits_total", &format!("Reads answered without waiting. {UNSEEN}"), |stats| {
        stats.hits
    });
    counter("aysfs_cache_misses_total", "Reads that waited for a fetch.", |stats| stats.misses);
    counter("aysfs_cache_read_bytes_total", "Bytes that reads were answered with.", |stats| stats.read_bytes);
    counter("aysfs_cache_fetches_total", "Chunks asked of stors, each time one was asked.", |stats| {
        stats.fetches
    });
    counter(
        "aysfs_cache_fetched_stored_bytes_total",
        "Bytes that came from stors, as they are stored.",
        |stats| stats.stored_bytes,
    );
    counter("aysfs_cache_fetched_plain_bytes_total", "Bytes of chunks that were verified.", |stats| {
        stats.plain_bytes
    });
    counter(
        "aysfs_cache_retries_total",
        "Rounds over all stors after a round in which each of them failed.",
        |stats| stats.retries,
    );
    counter("aysfs_cache_verification_failures_total", "Content that was not what it should be.", |stats| {
        stats.verification_failures
    });
    counter("aysfs_cache_reverified_total", "Cached files hashed again before they were trusted.", |stats| {
        stats.reverified
    });
    counter("aysfs_cache_damaged_files_total", "Cached files that were not what they should be.", |stats| {
        stats.damaged_files
    });
    counter(
        "aysfs_cache_read_through_total",
        "Chunks kept in memory because the cache directory could not be written.",
        |stats| stats.read_through,
    );
    counter("aysfs_cache_evicted_partials_total", "Incomplete files given up for others.", |stats| {
        stats.evicted_partials
    });
    counter("aysfs_cache_evicted_files_total", "Files evicted for their age or for room.", |stats| {
        stats.evicted_files
    });
}

fn stors(text: &mut Exposition, mounts: &[&WatchedMount]) {
    let stors: Vec<_> = mounts
        .iter()
        .flat_map(|mount| {
            mount.about.stors.stats().into_iter().map(move |stats| (shown(&mount.point), stats))
        })
        .collect();
    let mut family = |name, kind, help: &str, value: fn(&aysfs_store::StorStats) -> u64| {
        let mut family = text.family(name, kind, help);
        for (mount, stats) in &stors {
            family.sample(&[("mount", mount.as_str()), ("stor", stats.name.as_str())], value(stats));
        }
    };
    family("aysfs_stor_requests_total", Kind::Counter, "Chunks that a stor was asked for.", |stor| {
        stor.requests
    });
    family(
        "aysfs_stor_retries_total",
        Kind::Counter,
        "Chunks that a stor was asked for once more after it had failed to give them.",
        |stor| stor.retries,
    );
    family("aysfs_stor_received_bytes_total", Kind::Counter, "Bytes that came from a stor.", |stor| {
        stor.bytes
    });
    family(
        "aysfs_stor_failures_total",
        Kind::Counter,
        "Requests that a stor did not answer as it should; that it does not have an object is an answer.",
        |stor| stor.failures,
    );
    family(
        "aysfs_stor_verification_failures_total",
        Kind::Counter,
        "Bodies from a stor that were not what they should be.",
        |stor| stor.verification_failures,
    );
    family(
        "aysfs_stor_stands_back",
        Kind::Gauge,
        "Whether other stors are asked first, since this one failed not long ago.",
        |stor| stor.stands_back.into(),
    );
}

/// What waits to be pushed, by the mount points of what is pushed.
fn backlogs(text: &mut Exposition, backlogs: &[(String, Backlog)]) {
    if backlogs.is_empty() {
        return;
    }
    let help = "Files whose last content is not in the stor yet.";
    let mut pending = text.family("aysfs_push_queue_files", Kind::Gauge, help);
    for (mount, backlog) in backlogs {
        pending.sample(&[("mount", mount.as_str())], backlog.pending);
    }
    let help = "For how long the oldest of them has been waiting; 0 if there is none.";
    let mut oldest = text.family("aysfs_push_oldest_dirty_seconds", Kind::Gauge, help);
    for (mount, backlog) in backlogs {
        oldest.sample(&[("mount", mount.as_str())], backlog.oldest_seconds.unwrap_or_default());
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_pushed_is_told_of_mounts_that_push() {
        let mut text = Exposition::default();
        backlogs(&mut text, &[]);
        assert_eq!(text.text(), "");

        let busy = Backlog {
            pending: 3,
            oldest_seconds: Some(61),
            why: Some("the stor is down".to_owned()),
            ..Backlog::default()
        };
        let mut text = Exposition::default();
        backlogs(&mut text, &[("/a".to_owned(), busy), ("/b".to_owned(), Backlog::default())]);
        let text = text.text();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"aysfs_push_queue_files{mount="/a"} 3"#,
            r#"aysfs_push_queue_files{mount="/b"} 0"#,
            r#"aysfs_push_oldest_dirty_seconds{mount="/a"} 61"#,
            r#"aysfs_push_oldest_dirty_seconds{mount="/b"} 0"#,
        ];
        assert_eq!(samples, expected);
    }
}
