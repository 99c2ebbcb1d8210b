//! What a message costs with each frontend, and how much of that is ours.
//!
//! `cargo bench -p aysfs-benches --bench frontends`. Each adapter, with the engine behind it and a cached file, is compared with
//! the least that can be written against the same library: a filesystem that answers from a constant, mounted with the same
//! settings. The kernel is told to cache nothing, so that each read and each stat is a message, and both processes are on one
//! CPU, so that nothing is hidden by working at the same time. The two are measured in turn, and what is shown is the ratio
//! of neighbouring times: it means something on a busy machine, too.

mod each_message;
mod trivial;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aysfs_benches::packed;
use aysfs_benches::server::{self, Server};
use aysfs_vfs::{Frontend, MountOptions, Passthrough};
use aysfs_workload::{Machine, Random, source_code};
use criterion::Criterion;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use url::Url;

use self::each_message::EachMessage;

/// The first argument of the process that serves a mount.
const COMMAND: &str = "serve-a-mount";

/// The one file there is.
const NAME: &str = "file";
const SIZE: usize = 1 << 20;
const PAGE: usize = 4096;

/// How often the two are compared.
const PAIRS: usize = 4000;
/// How many operations are timed together: less than a millisecond, so that most pairs are measured without anything between.
const OPERATIONS: usize = 25;

/// A library: our frontend for it, and the least that can be written against it.
struct Library {
    ours: &'static dyn Frontend,
    trivial: &'static dyn Frontend,
}

const LIBRARIES: &[Library] = &[
    Library { ours: &aysfs_frontend_fuser::Fuser, trivial: &trivial::fuser::Trivial },
    Library { ours: &aysfs_frontend_fuse3::Fuse3, trivial: &trivial::fuse3::Trivial },
    Library { ours: &aysfs_frontend_polyfuse::Polyfuse, trivial: &trivial::polyfuse::Trivial },
];

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Trivial,
    Ours,
}

fn main() {
    let mut arguments = env::args().skip(1).peekable();
    if arguments.next_if(|first| first == COMMAND).is_some() {
        return serve(arguments.collect());
    }
    let machine = Machine::this();
    pin();
    println!("{machine}, all on one CPU; time of ours / time of a trivial filesystem: median (quartiles)\n");
    let dir = Data::make();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for library in LIBRARIES {
        let [trivial, ours] = [Side::Trivial, Side::Ours].map(|side| Mounted::new(library, side, &dir));
        for operation in [Operation::Read, Operation::Stat] {
            compare(library, operation, &trivial, &ours);
            let name = format!("{} {}", library.ours.name(), operation.name());
            criterion.bench_function(&name, |bencher| {
                let mut number = 0;
                bencher.iter(|| {
                    number += 1;
                    operation.run(&ours, number);
                });
            });
        }
    }
    criterion.final_summary();
}

/// Keeps this process, and those that it starts, on one CPU.
fn pin() {
    let allowed = sched_getaffinity(None).expect("it is known where this process may run");
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).expect("it runs somewhere");
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).expect("it may run there");
}

/// The packed file.
struct Data(TempDir);

impl Data {
    fn make() -> Self {
        let data = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory"));
        for dir in ["tree", "stor", "backend"] {
            fs::create_dir(data.path(dir)).expect("a new directory");
        }
        fs::write(data.path("tree").join(NAME), source_code(&mut Random(5), SIZE)).expect("space");
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(packed::make(&data.path("tree"), url(&data.path("stor")), &data.path("flist")));
        data
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn url(dir: &Path) -> Url {
    Url::from_directory_path(dir).expect("an absolute path")
}

/// One of the two, mounted, with its file open.
struct Mounted {
    // Closed before it is unmounted.
    file: File,
    path: PathBuf,
    _server: Server,
}

impl Mounted {
    fn new(library: &Library, side: Side, data: &Data) -> Self {
        let point = data.path(&format!("{}-{side:?}", library.ours.name()));
        fs::create_dir(&point).expect("a new directory");
        let side = format!("{side:?}");
        let words = [COMMAND, library.ours.name(), side.as_str()].map(OsStr::new);
        let server =
            Server::start([&words[..], &[data.0.path().as_os_str(), point.as_os_str()]].concat(), &point);
        let path = point.join(NAME);
        // Brings it into the cache.
        assert_eq!(fs::read(&path).expect("it can be read").len(), SIZE);
        Self { file: File::open(&path).expect("it can be opened"), path, _server: server }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Stat,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "4 KiB read",
            Self::Stat => "stat",
        }
    }

    fn run(self, on: &Mounted, number: usize) {
        match self {
            Self::Read => {
                let mut page = [0; PAGE];
                let offset = number * 7919 % (SIZE / PAGE) * PAGE;
                on.file.read_exact_at(&mut page, offset as u64).expect("it can be read");
                black_box(page);
            }
            Self::Stat => drop(black_box(fs::symlink_metadata(&on.path).expect("it is there"))),
        }
    }

    fn time(self, on: &Mounted) -> f64 {
        let start = Instant::now();
        (0..OPERATIONS).for_each(|number| self.run(on, number));
        start.elapsed().as_secs_f64()
    }
}

fn compare(library: &Library, operation: Operation, trivial: &Mounted, ours: &Mounted) {
    let (mut ratios, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
    for pair in 0..PAIRS {
        // In turn: what comes second may be slower.
        let (one, other) = if pair % 2 == 0 {
            let one = operation.time(trivial);
            (one, operation.time(ours))
        } else {
            let other = operation.time(ours);
            (operation.time(trivial), other)
        };
        ratios.push(other / one);
        times[0].push(one);
        times[1].push(other);
    }
    let [one, other] = times.map(|mut times| quartiles(&mut times)[1] / OPERATIONS as f64 * 1e6);
    let [low, median, high] = quartiles(&mut ratios);
    println!(
        "{:8} {:10}  trivial {one:6.2} µs  ours {other:6.2} µs  {median:.3} ({low:.3}-{high:.3})",
        library.ours.name(),
        operation.name(),
    );
}

fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// Serves a mount: what the process does.
fn serve(arguments: Vec<String>) {
    let [lib, side, data, point] = arguments.try_into().expect("what is given above");
    let library = LIBRARIES.iter().find(|library| library.ours.name() == lib).expect("a library");
    let (data, point) = (Path::new(&data), Path::new(&point));
    Runtime::new().expect("a runtime").block_on(async {
        let (flist, stor, backend) = (data.join("flist"), url(&data.join("stor")), data.join("backend"));
        let fs = packed::filesystem(&flist, stor, &backend).await;
        let fs = Arc::new(EachMessage(fs));
        let frontend = if side == format!("{:?}", Side::Ours) { library.ours } else { library.trivial };
        let options =
            MountOptions { read_only: true, passthrough: Passthrough::Off, ..MountOptions::default() };
        let mount = frontend.mount(fs, point, &options, &Handle::current());
        server::serve(mount.expect("a mount")).await;
    });
}
