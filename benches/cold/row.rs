//! What is measured: each row is one thing that somebody does with a tree.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aysfs_workload::work::{self, PAGE};
use clap::ValueEnum;
use tokio::task::spawn_blocking;

use crate::STOP;
use crate::process;
use crate::trees::{self, Kind, Tree};
use crate::yardstick::Yardstick;

/// When enough files were read to know how fast it goes: at one file a round trip, all would take minutes.
const ENOUGH: Duration = Duration::from_secs(20);

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Python with a dozen imports.
    Python,
    /// `rustc --version`.
    Rustc,
    /// The Rust compiler with a small program.
    Compile,
    /// The first 4 KiB of a large file.
    First,
    /// 4 KiB in its middle.
    Middle,
    /// All of it, from its start to its end.
    Sequential,
    /// All of many small files, as tar reads them.
    Small,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// How long all of it takes, in seconds.
    pub(crate) seconds: f64,
    /// Whether it was done to its end. Otherwise the time is that of a part, taken for the whole.
    pub(crate) whole: bool,
}

impl Done {
    fn all(time: Duration) -> Self {
        Self { seconds: time.as_secs_f64(), whole: true }
    }
}

impl Row {
    pub(crate) const ALL: [Self; 7] =
        [Self::Python, Self::Rustc, Self::Compile, Self::First, Self::Middle, Self::Sequential, Self::Small];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "Python, a dozen imports",
            Self::Rustc => "rustc --version",
            Self::Compile => "rustc, a small program",
            Self::First => "first 4 KiB of 512 MiB",
            Self::Middle => "4 KiB in its middle",
            Self::Sequential => "sequential read of it",
            Self::Small => "tar of 10,000 files",
        }
    }

    /// The tree that it is done with.
    pub(crate) fn tree(self) -> Kind {
        match self {
            Self::Python => Kind::Python,
            Self::Rustc | Self::Compile => Kind::Rust,
            Self::First | Self::Middle | Self::Sequential => Kind::Large,
            Self::Small => Kind::Small,
        }
    }

    pub(crate) fn yardstick(self) -> Yardstick {
        match self {
            Self::Python | Self::Rustc | Self::Compile | Self::Small => Yardstick::Download,
            Self::First | Self::Middle => Yardstick::RoundTrip,
            Self::Sequential => Yardstick::Decompressed,
        }
    }

    /// Whether it begins when the mount has nothing more to do. An application is started at once.
    pub(crate) fn waits(self) -> bool {
        self.tree() == Kind::Large
    }

    /// How much there is to do, in units: times, bytes, or files.
    pub(crate) fn amount(self) -> f64 {
        match self {
            Self::Python | Self::Rustc | Self::Compile | Self::First | Self::Middle => 1.0,
            Self::Sequential => trees::LARGE as f64,
            Self::Small => trees::FILES as f64,
        }
    }

    /// The time for all of it as people say it.
    pub(crate) fn figure(self, seconds: f64) -> String {
        match self {
            Self::Python | Self::Rustc | Self::Compile => format!("{seconds:.2} s"),
            Self::First | Self::Middle => format!("{:.1} ms", seconds * 1e3),
            Self::Sequential => format!("{:.0} MB/s", self.amount() / seconds / 1e6),
            Self::Small => format!("{:.0} files/s", self.amount() / seconds),
        }
    }

    /// Does it once with the tree as `root` shows it; `scratch` is a directory for what it writes.
    pub(crate) async fn act(self, tree: &Tree, root: &Path, scratch: &Path) -> anyhow::Result<Done> {
        let start = Instant::now();
        match self {
            Self::Python => run(python(root, tree)).await?,
            Self::Rustc => run(rustc(root, ["--version"])).await?,
            Self::Compile => run(compile(root, scratch)?).await?,
            Self::First => return page(tree, root, 0).await,
            Self::Middle => return page(tree, root, trees::LARGE / 2).await,
            Self::Sequential => {
                let file = root.join(trees::LARGE_NAME);
                let read = blocking(move || work::read_all(File::open(file)?, &STOP)).await?;
                ensure!(read == trees::LARGE, "{read} bytes instead of {}", trees::LARGE);
            }
            Self::Small => return read_files(root).await,
        }
        Ok(Done::all(start.elapsed()))
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    process::run(command).await.map(drop)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(spawn_blocking(work).await.context("the reader panicked")??)
}

fn python(root: &Path, tree: &Tree) -> Command {
    let mut command = Command::new(root.join(trees::PYTHON));
    command.args(["-s", "-c", &tree.script]).arg(root);
    command.env_clear().env("PYTHONHOME", root).env("LD_LIBRARY_PATH", root.join("lib"));
    command
}

fn rustc<'a>(root: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(root.join(trees::RUSTC));
    command.args(arguments).env_clear();
    command
}

/// Without a linker, which would be the one of the machine.
fn compile(root: &Path, scratch: &Path) -> io::Result<Command> {
    let source = scratch.join("program.rs");
    fs::write(&source, "pub fn main() { println!(\"{:?}\", std::env::args().collect::<Vec<_>>()); }\n")?;
    let mut command = rustc(root, ["--crate-type", "lib", "--emit", "obj", "-O", "-o"]);
    command.arg(scratch.join("program.o")).arg(source);
    Ok(command)
}

/// Reads one page of the large file, and compares it with the original.
async fn page(tree: &Tree, root: &Path, place: u64) -> anyhow::Result<Done> {
    let read = |root: &Path| {
        let path = root.join(trees::LARGE_NAME);
        move || {
            let mut page = [0; PAGE];
            File::open(path)?.read_exact_at(&mut page, place)?;
            Ok(page)
        }
    };
    let start = Instant::now();
    let page = blocking(read(root)).await?;
    let time = start.elapsed();
    ensure!(page == blocking(read(&tree.root)).await?, "the mount shows other bytes");
    Ok(Done::all(time))
}

async fn read_files(root: &Path) -> anyhow::Result<Done> {
    let root = root.to_owned();
    let start = Instant::now();
    let mut walk = Walk { end: start + ENOUGH, files: 0 };
    let (whole, files) = blocking(move || Ok((walk.read_below(&root)?, walk.files))).await?;
    let time = start.elapsed();
    ensure!(files > 0 && (!whole || files == trees::FILES), "{files} files instead of {}", trees::FILES);
    Ok(Done { seconds: time.as_secs_f64() * trees::FILES as f64 / files as f64, whole })
}

/// A walk that reads all files in the order of the listings, as tar does.
struct Walk {
    end: Instant,
    files: usize,
}

impl Walk {
    /// Whether it was done to its end.
    fn read_below(&mut self, directory: &Path) -> io::Result<bool> {
        let mut content = Vec::new();
        for entry in fs::read_dir(directory)? {
            STOP.check()?;
            let entry = entry?;
            if Instant::now() > self.end {
                return Ok(false);
            }
            if entry.file_type()?.is_dir() {
                if !self.read_below(&entry.path())? {
                    return Ok(false);
                }
            } else {
                content.clear();
                File::open(entry.path())?.read_to_end(&mut content)?;
                self.files += 1;
            }
        }
        Ok(true)
    }
}
