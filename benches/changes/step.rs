//! What is measured.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aysfs_workload::{Random, Stop, source_code, work};

use crate::disk::{Disk, run, run_in};

/// How many files are unpacked, and cloned.
const FILES: usize = 5_000;
/// Of the large file.
const LARGE: u64 = 1 << 30;
/// How many pages of it are written at random.
const PAGES: usize = 50_000;
/// How many files are compiled.
const UNITS: usize = 60;

/// One thing that is done; what a step leaves, a later one uses or removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Unpack,
    Remove,
    Create,
    Write,
    Read,
    Rewrite,
    Clone,
    Compile,
}

pub(crate) const STEPS: [Step; 8] = [
    Step::Unpack,
    Step::Remove,
    Step::Create,
    Step::Write,
    Step::Read,
    Step::Rewrite,
    Step::Clone,
    Step::Compile,
];

/// What the work is done with.
pub(crate) struct Sources {
    archive: PathBuf,
    repository: PathBuf,
}

impl Sources {
    /// Makes an archive and a repository beside `base`, and a program that can be compiled in it.
    pub(crate) fn make(disk: &Disk, base: &Path) -> Self {
        let mut random = Random(7);
        let tree = disk.dir("tree");
        for directory in 0..FILES / 100 {
            let path = tree.join(format!("package_{directory}"));
            fs::create_dir(&path).expect("a directory");
            for file in 0..100 {
                let length = 200 + random.pick(4000);
                let path = path.join(format!("module_{file}.py"));
                fs::write(path, source_code(&mut random, length)).expect("a file");
            }
        }
        let archive = disk.path("archive.tar");
        run(Command::new("tar").args(["-cf"]).arg(&archive).arg("-C").arg(&tree).arg("."));
        let git = |arguments: &[&str]| run_in(&tree, "git", arguments);
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&["-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-q", "-m", "all"]);

        let program = base.join("program");
        fs::create_dir(&program).expect("a directory");
        for unit in 0..UNITS {
            let functions = (0..40).map(|number| {
                format!("int f_{unit}_{number}(int x) {{ return x * {number} + {unit} + shared(x); }}\n")
            });
            let text = String::from("#include \"shared.h\"\n") + &functions.collect::<String>();
            fs::write(program.join(format!("unit_{unit}.c")), text).expect("a file");
        }
        let header = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nstatic inline int shared(int x) { return x ^ 42; }\n";
        fs::write(program.join("shared.h"), header).expect("a file");
        let main = "#include \"shared.h\"\nint main(void) { printf(\"%d\\n\", shared(1)); return 0; }\n";
        fs::write(program.join("main.c"), main).expect("a file");
        let rules = "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(OBJECTS)\n\tcc -o $@ $^\nclean:\n\trm -f program *.o\n";
        fs::write(program.join("Makefile"), rules).expect("a file");
        Self { archive, repository: tree }
    }
}

impl Step {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Unpack => format!("tar xf of {FILES} files"),
            Self::Remove => "rm -rf of them".into(),
            Self::Create => format!("create {FILES} empty files"),
            Self::Write => "sequential write of 1 GiB".into(),
            Self::Read => "sequential read of it".into(),
            Self::Rewrite => format!("{PAGES} random writes of 4 KiB"),
            Self::Clone => format!("git clone of {FILES} files"),
            Self::Compile => format!("make -j2: {UNITS} C files of the base"),
        }
    }

    /// Does it once at `place`, and returns how long it took.
    pub(crate) fn take(self, sources: &Sources, place: &Path, stop: &Stop) -> Duration {
        let (unpacked, large) = (place.join("unpacked"), place.join("large"));
        match self {
            Self::Unpack => {
                fs::create_dir(&unpacked).expect("a directory");
                timed(|| run(Command::new("tar").arg("-xf").arg(&sources.archive).arg("-C").arg(&unpacked)))
            }
            Self::Remove => timed(|| run(Command::new("rm").arg("-rf").arg(&unpacked))),
            Self::Create => {
                let directory = place.join("created");
                fs::create_dir(&directory).expect("a directory");
                let time = timed(|| drop(work::create(&directory, FILES, stop)));
                fs::remove_dir_all(directory).expect("removed");
                time
            }
            Self::Write => timed(|| drop(work::write(&large, LARGE, stop))),
            Self::Read => timed(|| run(Command::new("cat").arg(&large).stdout(std::process::Stdio::null()))),
            Self::Rewrite => {
                let time = timed(|| rewrite(&large));
                fs::remove_file(large).expect("removed");
                time
            }
            Self::Clone => {
                let clone = place.join("clone");
                let time = timed(|| {
                    let options = ["clone", "-q", "--no-hardlinks"];
                    run(Command::new("git").args(options).args([&sources.repository, &clone]));
                });
                fs::remove_dir_all(clone).expect("removed");
                time
            }
            Self::Compile => {
                let program = place.join("program");
                let time = timed(|| run_in(&program, "make", &["-s", "-j2"]));
                run_in(&program, "make", &["-s", "clean"]);
                time
            }
        }
    }

    /// A speed in the unit of this step.
    pub(crate) fn figure(self, time: Duration) -> String {
        let per_second = |amount: f64| amount / time.as_secs_f64();
        match self {
            Self::Unpack | Self::Remove | Self::Create | Self::Clone => {
                format!("{:.0} files/s", per_second(FILES as f64))
            }
            Self::Write | Self::Read => format!("{:.0} MB/s", per_second(LARGE as f64 / 1e6)),
            Self::Rewrite => format!("{:.0} op/s", per_second(PAGES as f64)),
            Self::Compile => format!("{:.2} s", time.as_secs_f64()),
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn rewrite(path: &Path) {
    let file = File::options().write(true).open(path).expect("it was written");
    let mut random = Random(11);
    let page = [b'y'; work::PAGE];
    for _ in 0..PAGES {
        let page_number = random.below(LARGE / work::PAGE as u64);
        file.write_all_at(&page, page_number * work::PAGE as u64).expect("written");
    }
}
