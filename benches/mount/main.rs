//! What a mount costs the programs that use it, against the same tree on the local disk.
//!
//! `cargo bench -p aysfs-benches --bench mount`, as root, takes about two minutes; with `-- --long` behind it, the tree has
//! fifty thousand files and it takes several times as long. Each step is taken on the local disk and on two mounts in turn,
//! several times over, and what is shown is the ratio of neighbouring times: it means something on a busy machine, too.

mod workload;

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aysfs_benches::mounts::{self, Mode, Setup};
use aysfs_benches::packed;
use aysfs_store::aydostor::server::{Limits, Server, ServerConfig};
use aysfs_workload::{Machine, Shape, Stop, Tree, work};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use url::Url;

use self::workload::{Done, Workload};

/// The tree that is measured.
const SHORT: Shape = Shape { files: 20_000, large: 256 << 20 };
/// The tree of `--long`.
const LONG: Shape = Shape { files: 50_000, large: 512 << 20 };

/// How often everything begins with empty caches.
const ROUNDS: usize = 3;

/// What is done in a round, in this order, and how often. The caches of the kernel are empty at first.
const STEPS: &[(&str, Workload, usize)] = &[
    ("first walk: list and stat all", Workload::Walk, 1),
    ("second walk", Workload::Walk, 5),
    ("second walk, list only", Workload::Find, 5),
    ("second walk, stat only", Workload::Stat, 5),
    ("first open, read, close of small files", Workload::ReadSmall, 1),
    ("second open, read, close", Workload::ReadSmall, 3),
    ("first sequential read", Workload::Sequential, 1),
    ("second sequential read", Workload::Sequential, 3),
    ("4 KiB reads at random", Workload::Random(1), 3),
    ("4 KiB reads at random, 4 threads", Workload::Random(4), 3),
    ("memory-mapped read", Workload::Map, 3),
];

/// How many files are fetched over HTTP.
const FETCHED: usize = 10_000;

static STOP: Stop = Stop::new();

fn main() {
    let mut arguments = env::args().skip(1).peekable();
    if arguments.next_if(|first| first == mounts::COMMAND).is_some() {
        return mounts::serve(arguments.collect());
    }
    let shape = if arguments.any(|argument| argument == "--long") { LONG } else { SHORT };
    if !rustix::process::geteuid().is_root() {
        println!("mount: skipped, since only root may empty the caches of the kernel and use passthrough");
        return;
    }
    let runtime = Runtime::new().expect("a runtime");
    runtime.spawn(async {
        tokio::signal::ctrl_c().await.expect("a signal handler");
        STOP.stop();
    });
    let bench = Bench::prepare(shape, &runtime);
    bench.compare();
    bench.fetch(&runtime);
}

/// Unwinds after a Ctrl-C, so that mounts and temporary files are removed.
fn go_on() {
    if STOP.is_stopped() {
        std::panic::resume_unwind(Box::new("interrupted"));
    }
}

/// The tree, packed.
struct Bench {
    shape: Shape,
    /// The local disk.
    dir: TempDir,
    /// In memory where that is possible: packing would wait for the disk with each object.
    stor: TempDir,
}

impl Bench {
    fn prepare(shape: Shape, runtime: &Runtime) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let stor =
            tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let bench = Self { shape, dir, stor };
        let made = bench.tree().make(&STOP);
        go_on();
        let bytes = made.expect("space for the tree");
        let start = Instant::now();
        runtime.block_on(packed::make(&bench.tree().root, bench.stor(), &bench.flist()));
        let disk = kind_of(bench.dir.path());
        println!("{}, local disk: {disk}", Machine::this());
        println!(
            "{} files of {:.1} kB on average and one of {} MiB; packed in {:.1?} into a stor in {}",
            shape.files,
            bytes as f64 / shape.files as f64 / 1000.0,
            shape.large >> 20,
            start.elapsed(),
            kind_of(bench.stor.path()),
        );
        bench
    }

    fn tree(&self) -> Tree {
        self.tree_at(&self.dir.path().join("tree"))
    }

    fn tree_at(&self, root: &Path) -> Tree {
        Tree::at(root, self.shape)
    }

    fn flist(&self) -> PathBuf {
        self.dir.path().join("flist")
    }

    fn stor(&self) -> Url {
        Url::from_directory_path(self.stor.path()).expect("an absolute path")
    }

    /// A mount with a backend and a mount point of its own.
    fn setup(&self, name: &str, mode: Mode, stor: Url) -> Setup {
        let [backend, point] = ["backend", "mount"].map(|kind| {
            let path = self.dir.path().join(format!("{kind}-{name}"));
            fs::create_dir(&path).expect("a new directory");
            path
        });
        Setup { lib: mounts::LIBS[0], mode, flist: self.flist(), stor, backend, point }
    }

    /// Local disk, stateless mount, writable mount with passthrough.
    fn compare(&self) {
        let setups = [
            self.setup("stateless", Mode::ReadOnly, self.stor()),
            self.setup("passthrough", Mode::Overlay, self.stor()),
        ];
        for setup in &setups {
            // What is not cached yet would be fetched, and would not pass through.
            let mounted = setup.mount();
            if setup.mode == Mode::ReadOnly {
                println!("mounted first in {:.0?}", mounted.ready);
            }
            fill(&self.tree_at(&setup.point));
        }
        let trees = [self.tree(), self.tree_at(&setups[0].point), self.tree_at(&setups[1].point)];
        let mut times = vec![[const { Vec::new() }; 3]; STEPS.len()];
        let mut ready = Vec::new();
        let mut memory = Vec::new();
        for round in 0..ROUNDS {
            empty_caches();
            let mounted = setups.each_ref().map(Setup::mount);
            ready.extend(mounted.iter().map(|mounted| mounted.ready));
            // One mount is like the other here.
            let mut note = || memory.push(mounted[0].memory("VmRSS"));
            note();
            for (step, (_, workload, repeats)) in STEPS.iter().enumerate() {
                for turn in 0..*repeats {
                    for side in (0..3).map(|side| (side + turn + round) % 3) {
                        let done = workload.run(&trees[side], &STOP);
                        go_on();
                        times[step][side].extend(done);
                    }
                }
                if step == 0 {
                    note();
                }
            }
            note();
        }
        report(&times);
        println!(
            "mounted again, with caches empty, in {}; times include the start of the process",
            spread(&ready, |time| format!("{time:.0?}"))
        );
        let [mounted, walked, .., end] = memory[..] else { unreachable!("three in each round") };
        println!(
            "memory of the process: {mounted:.0} MB mounted, {walked:.0} MB walked, {end:.0} MB at the end"
        );
    }

    /// Fetches many small files from a stor over HTTP.
    fn fetch(&self, runtime: &Runtime) {
        let config = ServerConfig {
            root: self.stor.path().into(),
            accounts: Vec::new(),
            tls: None,
            limits: Limits::default(),
        };
        let server = Server::new(config).expect("a server");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        runtime.spawn(server.serve(listener, std::future::pending()));
        for readers in [1, 16] {
            go_on();
            let stor = Url::parse(&format!("http://127.0.0.1:{port}/")).expect("a URL");
            let setup = self.setup(&format!("fetch-{readers}"), Mode::ReadOnly, stor);
            let _mounted = setup.mount();
            let time = read_in_parallel(&self.tree_at(&setup.point), FETCHED, readers);
            go_on();
            println!(
                "fetch of {FETCHED} small files over HTTP, {readers} at a time: {:.0} files/s",
                FETCHED as f64 / time.as_secs_f64()
            );
        }
    }
}

fn read_in_parallel(tree: &Tree, files: usize, readers: usize) -> Duration {
    let start = Instant::now();
    let share = files / readers;
    thread::scope(|scope| {
        for reader in 0..readers {
            let numbers = reader * share..(reader + 1) * share;
            scope.spawn(move || {
                let read = work::read_small(tree, numbers, &STOP);
                assert!(STOP.is_stopped() || read.is_ok(), "{read:?}");
            });
        }
    });
    start.elapsed()
}

fn fill(tree: &Tree) {
    read_in_parallel(tree, tree.shape.files, 8);
    Workload::Sequential.run(tree, &STOP);
    go_on();
}

/// A table in Markdown.
fn report(times: &[[Vec<Done>; 3]]) {
    let row = |cells: [&str; 4]| {
        println!("| {:38} | {:10} | {:18} | {:18} |", cells[0], cells[1], cells[2], cells[3])
    };
    println!("\nThroughput, local disk = 1: median (lowest-highest).");
    println!(
        "First: after `echo 3 > /proc/sys/vm/drop_caches`, on mounts that are as new, with all content cached.\n"
    );
    row(["", "local disk", "mount", "with passthrough"]);
    row(["---"; 4]);
    for ((name, workload, _), [native, stateless, passthrough]) in STEPS.iter().zip(times) {
        let ratio = |ours: &[Done]| {
            let ratios = native.iter().zip(ours);
            let ratios = ratios.map(|(native, ours)| native.time.as_secs_f64() / ours.time.as_secs_f64());
            spread(&ratios.collect::<Vec<_>>(), |ratio| format!("{ratio:.2}"))
        };
        let mut native = native.clone();
        native.sort_by_key(|done| done.time);
        let figure = workload.figure(native[native.len() / 2]);
        row([name, &figure, &ratio(stateless), &ratio(passthrough)]);
    }
    println!();
}

fn sorted<T: Copy + PartialOrd>(values: &[T]) -> Vec<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    sorted
}

/// Median, and in parentheses the smallest and the largest.
fn spread<T: Copy + PartialOrd>(values: &[T], show: impl Fn(T) -> String) -> String {
    let sorted = sorted(values);
    format!("{} ({}-{})", show(sorted[sorted.len() / 2]), show(sorted[0]), show(sorted[sorted.len() - 1]))
}

/// Empties the kernel's caches of names, inodes and pages.
fn empty_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}

/// The type of a filesystem.
fn kind_of(path: &Path) -> String {
    let output = Command::new("df").arg("--output=fstype").arg(path).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}
