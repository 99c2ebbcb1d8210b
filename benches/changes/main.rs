//! What programs pay that change files on a mount, against the same work on ext4 and on the kernel's overlayfs.
//!
//! `cargo bench -p aysfs-benches --bench changes`, as root, takes some minutes; names of libraries behind `--` leave the others
//! out. Everything is on an ext4 in memory, so that no disk is measured. Each step is taken on all sides in turn, several times
//! over, and what is shown is the ratio of neighbouring times: it means something on a busy machine, too.

mod disk;
mod step;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aysfs_benches::mounts::{self, LIBS, Mode, Setup};
use aysfs_benches::packed;
use aysfs_benches::server::Server;
use aysfs_workload::{Machine, Stop};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Runtime;
use url::Url;

use self::disk::Disk;
use self::step::{STEPS, Sources};

/// How often each step is taken.
const ROUNDS: usize = 3;

static STOP: Stop = Stop::new();

fn main() {
    let mut arguments = env::args().skip(1).peekable();
    if arguments.next_if(|first| first == mounts::COMMAND).is_some() {
        return mounts::serve(arguments.collect());
    }
    let libs: Vec<_> = arguments.filter(|argument| !argument.starts_with('-')).collect();
    if !rustix::process::geteuid().is_root() {
        println!("changes: skipped, since only root may mount the kernel's overlay and a disk in memory");
        return;
    }
    if let Some(wrong) = libs.iter().find(|lib| !LIBS.contains(&lib.as_str())) {
        println!("changes: no library {wrong:?}: the libraries are {}", LIBS.join(", "));
        return;
    }
    let runtime = Runtime::new().expect("a runtime");
    runtime.spawn(async {
        tokio::signal::ctrl_c().await.expect("a signal handler");
        STOP.stop();
    });
    let libs = LIBS.into_iter().filter(|lib| libs.is_empty() || libs.iter().any(|named| named == lib));
    let bench = Bench::prepare(libs.collect(), &runtime);
    bench.compare();
}

/// Where the work is done: all sides show the same tree at first.
struct Side {
    name: &'static str,
    place: PathBuf,
}

struct Bench {
    // Unmounted in this order.
    _servers: Vec<Server>,
    _overlay: KernelOverlay,
    sources: Sources,
    sides: Vec<Side>,
    disk: Disk,
}

impl Bench {
    fn prepare(libs: Vec<&'static str>, runtime: &Runtime) -> Self {
        let disk = Disk::mount();
        let base = disk.dir("base");
        let sources = Sources::make(&disk, &base);
        let (flist, stor) = (disk.path("flist"), disk.dir("stor"));
        let stor = Url::from_directory_path(stor).expect("an absolute path");
        runtime.block_on(packed::make(&base, stor.clone(), &flist));

        let ext4 = disk.dir("ext4");
        copy_tree(&base, &ext4);
        let overlay = KernelOverlay::mount(&disk, &base);
        let mut sides = vec![
            Side { name: "ext4", place: ext4 },
            Side { name: "kernel overlay", place: overlay.point.clone() },
        ];
        let mut servers = Vec::new();
        for lib in libs {
            let [backend, point] = ["backend", "mount"].map(|kind| disk.dir(&format!("{kind}-{lib}")));
            sides.push(Side { name: lib, place: point.clone() });
            let (flist, stor) = (flist.clone(), stor.clone());
            servers.push(Setup { lib, mode: Mode::Overlay, flist, stor, backend, point }.mount());
        }
        Self { _servers: servers, _overlay: overlay, sources, sides, disk }
    }

    fn compare(&self) {
        let mut times = vec![vec![Vec::new(); self.sides.len()]; STEPS.len()];
        for round in 0..ROUNDS {
            for (step, of_step) in STEPS.iter().zip(&mut times) {
                for turn in 0..self.sides.len() {
                    let side = (turn + round) % self.sides.len();
                    let time = step.take(&self.sources, &self.sides[side].place, &STOP);
                    if STOP.is_stopped() {
                        // Unwinds, so that mounts and temporary files are removed.
                        std::panic::resume_unwind(Box::new("interrupted"));
                    }
                    of_step[side].push(time);
                }
            }
        }
        self.report(&times);
    }

    /// A table in Markdown.
    fn report(&self, times: &[Vec<Vec<Duration>>]) {
        println!("{}; everything on ext4 in memory ({})", Machine::this(), self.disk.size());
        println!("\nSpeed, ext4 = 1: median (lowest-highest) of {ROUNDS}.\n");
        let row = |cells: Vec<String>| {
            let mut cells = cells.into_iter();
            print!("| {:34} | {:14} |", cells.next().expect("a name"), cells.next().expect("ext4"));
            cells.for_each(|cell| print!(" {cell:18} |"));
            println!();
        };
        let names = self.sides.iter().map(|side| side.name.to_owned());
        row([String::new()].into_iter().chain(names).collect());
        row(vec!["---".into(); self.sides.len() + 1]);
        for (step, of_step) in STEPS.iter().zip(times) {
            let native = &of_step[0];
            let ratios = of_step[1..].iter().map(|ours| {
                let mut ratios: Vec<f64> =
                    native.iter().zip(ours).map(|(native, ours)| native.div_duration_f64(*ours)).collect();
                ratios.sort_by(f64::total_cmp);
                let [lowest, median, highest] =
                    [0, ratios.len() / 2, ratios.len() - 1].map(|index| ratios[index]);
                format!("{median:.2} ({lowest:.2}-{highest:.2})")
            });
            let mut native = native.clone();
            native.sort();
            let figure = step.figure(native[native.len() / 2]);
            row([step.name(), figure].into_iter().chain(ratios).collect());
        }
        println!();
    }
}

/// A mount of the kernel's overlayfs.
struct KernelOverlay {
    point: PathBuf,
}

impl KernelOverlay {
    fn mount(disk: &Disk, base: &Path) -> Self {
        let [upper, work, point] = ["overlay-upper", "overlay-work", "overlay"].map(|name| disk.dir(name));
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=on,index=off",
            base.display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).expect("no NUL");
        rustix::mount::mount("overlay", &point, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .expect("the kernel's overlay");
        Self { point }
    }
}

impl Drop for KernelOverlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).ok();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("a directory");
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
