//! `--pprof`: profiles, metrics and the status page of a process that serves mounts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aysfs_store::fault::ServerTrouble;
use flate2::read::GzDecoder;
use pprof::protos::{Message, Profile};

use crate::support::{
    Daemon, Faulty, LIBS, Lab, Mounted, PATIENCE, SECRET, Stor, is_mounted, mounts_below, pack, run, wait_for,
};
use crate::tree;

/// A free port of loopback.
const ANY: [&str; 2] = ["--pprof", "127.0.0.1:0"];

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("text")
    }
}

fn get(at: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: answer.split_off(end + 4) }
}

/// Gets what is there.
#[track_caller]
fn found(at: SocketAddr, path: &str) -> Answer {
    let answer = get(at, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.head);
    answer
}

/// Where a process says that it can be looked at.
fn address(daemon: &mut Daemon) -> SocketAddr {
    let line = daemon.wait_for_log("profiles, metrics and status are on http://");
    let (_, address) = line.split_once("http://").expect("the line names the URL");
    address.trim_end_matches('/').parse().expect("an address and a port")
}

/// The samples of `/metrics`, by name and labels.
fn metrics(at: SocketAddr) -> BTreeMap<String, f64> {
    let answer = found(at, "/metrics");
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

/// The one sample whose name begins so and whose labels hold this.
#[track_caller]
fn one(metrics: &BTreeMap<String, f64>, name: &str, labels: &str) -> f64 {
    let mut fit = metrics.iter().filter(|(full, _)| {
        full.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.is_empty())
            && full.contains(labels)
    });
    let (_, value) = fit.next().unwrap_or_else(|| panic!("no {name} {labels} in {metrics:#?}"));
    assert_eq!(fit.next(), None, "{name} {labels}");
    *value
}

/// A profile as the protocol has it.
fn profile(at: SocketAddr, path: &str) -> Profile {
    let answer = found(at, path);
    let mut message = Vec::new();
    GzDecoder::new(&answer.body[..]).read_to_end(&mut message).expect("gzip");
    Profile::decode(&message[..]).expect("a profile")
}

fn text(profile: &Profile, index: i64) -> &str {
    &profile.string_table[usize::try_from(index).expect("an index")]
}

/// The names of the functions on all stacks.
fn functions(profile: &Profile) -> Vec<&str> {
    profile.function.iter().map(|function| text(profile, function.name)).collect()
}

/// What each sample has, as `go tool pprof -sample_index` takes it.
fn kinds(profile: &Profile) -> Vec<(&str, &str)> {
    profile.sample_type.iter().map(|kind| (text(profile, kind.ty), text(profile, kind.unit))).collect()
}

/// A packed tree, and its stor.
fn packed() -> (Lab, Stor, std::path::PathBuf) {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 40);
    let stor = Stor::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.url(), "v2");
    (lab, stor, flist)
}

/// Reads a whole tree until it is told to stop; whatever fails is an error.
fn read_all(root: &std::path::Path, stop: &AtomicBool) -> io::Result<u64> {
    let mut bytes = 0;
    while !stop.load(Ordering::Relaxed) {
        for entry in walkdir::WalkDir::new(root) {
            let entry = entry.map_err(io::Error::other)?;
            if entry.file_type().is_file() {
                // Not from the page cache the next time.
                let file = fs::File::open(entry.path())?;
                bytes += io::copy(&mut &file, &mut io::sink())?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
    }
    Ok(bytes)
}

#[test]
fn profiles_can_be_read_while_the_mount_is_used() {
    let (lab, stor, flist) = packed();
    for lib in LIBS {
        let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &[&["--lib", lib][..], &ANY].concat());
        let at = address(&mut mounted.daemon);

        let (stop, point) = (AtomicBool::new(false), mounted.point.clone());
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&point, &stop));
            // The signals of the profiler interrupt no request: the reader would see it.
            let cpu = profile(at, "/debug/pprof/profile?seconds=2");
            stop.store(true, Ordering::Relaxed);
            let bytes = reader.join().expect("no panic").unwrap_or_else(|error| panic!("{lib}: {error}"));
            assert!(bytes > 0);
            assert!(kinds(&cpu).contains(&("cpu", "nanoseconds")), "{:?}", kinds(&cpu));
            assert!(!cpu.sample.is_empty(), "{lib}: something ran in that time");
            assert!(
                functions(&cpu).iter().any(|name| name.contains("aysfs")),
                "{lib}: names are those of the program: {:?}",
                functions(&cpu)
            );
        });

        let heap = profile(at, "/debug/pprof/heap");
        assert_eq!(text(&heap, heap.default_sample_type), "inuse_space");
        assert!(functions(&heap).contains(&"heap of the main thread"), "{:?}", functions(&heap));
        assert!(heap.sample.iter().all(|sample| sample.value.len() == kinds(&heap).len()));
        assert!(heap.sample.iter().map(|sample| sample.value[0]).sum::<i64>() > 1 << 20);

        let threads = profile(at, "/debug/pprof/threads");
        assert_eq!(kinds(&threads), [("threads", "count"), ("cpu", "nanoseconds")]);
        let count =
            fs::read_dir(format!("/proc/{}/task", mounted.daemon.pid())).expect("its threads").count();
        assert!(count > 1 && threads.sample.iter().map(|sample| sample.value[0]).sum::<i64>() > 1);
        assert!(
            functions(&threads).iter().any(|name| name.starts_with("tokio")),
            "{:?}",
            functions(&threads)
        );

        mounted.stop();
        TcpStream::connect(at).expect_err("nobody listens any more");
    }
}

#[test]
fn go_reads_the_profiles() {
    if Command::new("go").arg("version").output().is_err() {
        println!("skipped: go is not installed (Debian: golang-go)");
        return;
    }
    let (lab, stor, flist) = packed();
    let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &ANY);
    let at = address(&mut mounted.daemon);
    let kept = lab.dir("kept");
    let top = |what: &str| {
        let url = format!("http://{at}/debug/pprof/{what}");
        let output =
            Command::new("go").args(["tool", "pprof", "-top", &url]).env("PPROF_TMPDIR", &kept).output();
        let output = output.expect("go runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        String::from_utf8(output.stdout).expect("text")
    };
    let heap = top("heap");
    assert!(heap.contains("Type: inuse_space") && heap.contains("heap of the main thread"), "{heap}");
    let threads = top("threads");
    assert!(threads.contains("Type: threads") && threads.contains("tokio"), "{threads}");

    let (stop, point) = (AtomicBool::new(false), mounted.point.clone());
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&point, &stop));
        let cpu = top("profile?seconds=2");
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("no panic").expect("read");
        assert!(cpu.contains("Type: cpu") && cpu.contains("aysfs::frontends::"), "{cpu}");
    });
    mounted.stop();
}

#[test]
fn metrics_move_when_files_are_read() {
    let (lab, stor, flist) = packed();
    let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &ANY);
    let at = address(&mut mounted.daemon);
    let before = metrics(at);
    assert_eq!(one(&before, "aysfs_cache_misses_total", ""), 0.0);
    assert_eq!(one(&before, "aysfs_stor_requests_total", ""), 0.0);

    let file = mounted.point.join("d000/e00/file7.dat");
    let content = fs::read(&file).expect("fetched");
    assert!(!content.is_empty());
    let after = metrics(at);
    let length = content.len() as f64;
    let point = format!("mount=\"{}\"", mounted.point.display());
    let operation = |name: &str| format!("{point},operation=\"{name}\"");
    assert!(one(&after, "aysfs_operation_duration_seconds_count", &operation("lookup")) > 0.0);
    let reads = one(&after, "aysfs_operation_duration_seconds_count", &operation("read"));
    assert!(reads > 0.0);
    assert_eq!(
        one(&after, "aysfs_operation_duration_seconds_bucket", &(operation("read") + ",le=\"+Inf\"")),
        reads
    );
    assert!(one(&after, "aysfs_operation_duration_seconds_sum", &operation("read")) > 0.0);
    assert_eq!(one(&after, "aysfs_operations_running", &operation("read")), 0.0);
    assert!(one(&after, "aysfs_cache_misses_total", "") > 0.0);
    assert_eq!(one(&after, "aysfs_cache_fetches_total", ""), 1.0);
    assert_eq!(one(&after, "aysfs_cache_fetched_plain_bytes_total", ""), length);
    assert!(one(&after, "aysfs_cache_read_bytes_total", "") >= length);
    let stored = one(&after, "aysfs_cache_fetched_stored_bytes_total", "");
    assert!(stored > 0.0);
    assert_eq!(
        one(&after, "aysfs_stor_received_bytes_total", &format!("{point},stor=\"{}", stor.url())),
        stored
    );

    let page = found(at, "/");
    assert!(page.text().contains(&mounted.point.display().to_string()), "{}", page.text());
    assert!(page.text().contains("<td>RO</td>"), "{}", page.text());
    mounted.stop();
}

#[test]
fn trouble_with_a_stor_shows() {
    let lab = Lab::new();
    let source = lab.dir("source");
    for (seed, name) in [(1, "slow"), (2, "wrong"), (3, "missing")] {
        fs::write(source.join(name), tree::noise(seed, 50_000)).expect("a file");
    }
    let stor = Faulty::start(&lab.dir("stor"));
    // Each by itself: of a pack, neighbours would come with the first.
    let flist = pack(&lab, &source, &stor.direct(), "v1-long");
    let more = [&["--deadline", "5s"][..], &ANY].concat();
    let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &more);
    let at = address(&mut mounted.daemon);

    let gate = stor.hold();
    let waiting = thread::scope(|scope| {
        let reader = scope.spawn(|| mounted.read("slow"));
        stor.held(&gate, 1);
        let waiting = metrics(at);
        gate.open();
        reader.join().expect("no panic").expect("read");
        waiting
    });
    assert!(one(&waiting, "aysfs_operations_running", "operation=\"read\"") > 0.0);

    stor.set(ServerTrouble::Garbage);
    mounted.read("wrong").expect_err("nothing wrong is shown");
    let after = metrics(at);
    assert!(one(&after, "aysfs_cache_verification_failures_total", "") > 0.0);
    assert!(one(&after, "aysfs_stor_verification_failures_total", "") > 0.0);
    assert!(one(&after, "aysfs_operation_errors_total", "operation=\"read\",kind=\"Io\"") > 0.0);

    stor.set(ServerTrouble::Status(503));
    mounted.read("missing").expect_err("no stor");
    let after = metrics(at);
    assert!(one(&after, "aysfs_stor_failures_total", "") > 0.0);
    assert!(one(&after, "aysfs_stor_retries_total", "") > 0.0);
    assert!(one(&after, "aysfs_cache_retries_total", "") > 0.0);
    // Nothing that is shown holds the password of the URL.
    for path in ["/", "/metrics"] {
        assert!(!found(at, path).text().contains(SECRET), "{path}");
    }
    stor.set(ServerTrouble::None);
    mounted.stop();
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (lab, stor, flist) = packed();
    let mut mounted = Mounted::with(&lab, &flist, &stor.url(), &ANY);
    let at = address(&mut mounted.daemon);
    for path in ["/debug", "/debug/pprof/cmdline", "/metrics/", "/../etc/passwd"] {
        assert_eq!(get(at, path).status, 404, "{path}");
    }
    for query in ["seconds=0", "seconds=3601", "seconds=-1", "seconds=x", "seconds="] {
        assert_eq!(get(at, &format!("/debug/pprof/profile?{query}")).status, 400, "{query}");
    }
    assert_eq!(get(at, "/debug/pprof").status, 308);
    assert!(found(at, "/debug/pprof/").text().contains("profile?seconds="));
    assert!(found(at, "/debug/pprof/threads?debug=1").text().contains("threads/count"));

    // One profile at a time; one that nobody waits for any more has ended.
    let begin = || {
        let mut client = TcpStream::connect(at).expect("it listens");
        write!(client, "GET /debug/pprof/profile?seconds=3600 HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
        client
    };
    let mut first = begin();
    wait_for("the profile to begin", || {
        let is_busy = get(at, "/debug/pprof/profile?seconds=1").status == 409;
        if !is_busy {
            // The one that looked came first, and this one was refused.
            first = begin();
        }
        is_busy
    });
    drop(first);
    wait_for("it to end", || get(at, "/debug/pprof/profile?seconds=1").status == 200);
    // Nor does one hold up the end of the process.
    let _last = begin();
    mounted.stop();
}

/// A config with one mount.
fn config(lab: &Lab, flist: &std::path::Path, stor: &Stor) -> std::path::PathBuf {
    lab.file(
        "config.toml",
        format!(
            "[[mount]]\npath = {:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n\
             [backend.main]\npath = {:?}\nstor = \"one\"\nnamespace = \"test\"\n[stor.one]\nurl = {:?}\n",
            lab.dir("mnt"),
            lab.path("backend"),
            stor.url()
        ),
    )
}

#[test]
fn the_spelling_of_the_old_command_works_and_only_this_machine_is_answered() {
    let (lab, stor, flist) = packed();
    let config = config(&lab, &flist, &stor);
    let config = config.to_str().expect("text");
    for args in [
        ["-config", config, "-pprof", "localhost:0"].to_vec(),
        ["-pprof=:0", "-config", config].to_vec(),
        ["--config", config, "--pprof", "0"].to_vec(),
    ] {
        let mut daemon = Daemon::start(&args);
        let at = address(&mut daemon);
        daemon.wait_for_log("all mounts are up");
        assert_eq!(at.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST), "{args:?}");
        found(at, "/");
        // Bound to this one address, whatever else is one of this machine.
        let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), at.port()));
        TcpStream::connect(elsewhere).expect_err("not asked for");
        assert!(!daemon.log().contains("everyone who reaches"), "{}", daemon.log());
        daemon.stop();
    }
    let mut daemon = Daemon::start(["-config", config, "-pprof", "0.0.0.0:0"]);
    let at = address(&mut daemon);
    daemon.wait_for_log("everyone who reaches this address");
    found(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), at.port())), "/metrics");
    daemon.stop();
}

#[test]
fn an_address_that_cannot_be_had_is_one_error_before_anything_is_mounted() {
    let (lab, stor, flist) = packed();
    let config = config(&lab, &flist, &stor);
    let config = config.to_str().expect("text");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("an address").to_string();
    let output = run(["-config", config, "-pprof", &at]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = format!(
        "aysfs: cannot listen on {at}: choose another one with --pprof HOST:PORT: Address already in use (os error 98)\n"
    );
    assert_eq!(said, expected);
    assert!(!is_mounted(&lab.path("mnt")));
    assert!(!lab.path("backend").exists(), "nothing was prepared");

    // No address of this machine (RFC 5737).
    let output = run(["-config", config, "-pprof", "192.0.2.1:6060"]);
    assert_eq!(output.status.code(), Some(1));

    for bad in ["nonsense", "localhost:", "localhost:99999", "http://localhost:6060"] {
        let output = run(["-config", config, "-pprof", bad]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("expected HOST:PORT or PORT"), "{bad}: {said}");
    }
    // Without anything to mount there is nothing to look at.
    assert_eq!(run(["-pprof"]).status.code(), Some(2));
    assert!(mounts_below(&lab.path("")).is_empty());
}
