//! Measuring: each figure on a new mount with an empty cache, variants in turn.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use aysfs_benches::proxy::{Link, Proxy, Traffic};
use aysfs_workload::Machine;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::options::Options;
use crate::process::Daemon;
use crate::row::Row;
use crate::trees::{self, Kind, Tree};
use crate::variant::{Aysfs, Packed, Variant};
use crate::yardstick::Downloads;
use crate::{goals, report};

/// A mount has nothing more to do when nothing has moved for so long.
const QUIET: Duration = Duration::from_millis(200);

/// What the Rust compiler and its copies take in each of the two directories.
const RUST_TAKES: u64 = 4 << 30;

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Dirs {
    /// Trees, flists, caches: on the local disk.
    work: TempDir,
    /// In memory where that is possible: packing would wait for the disk with each object, reading with each new one.
    stor: TempDir,
}

impl Dirs {
    pub(crate) fn make() -> io::Result<Self> {
        let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let stor = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        Ok(Self { work, stor })
    }

    fn have_space(&self, bytes: u64) -> anyhow::Result<bool> {
        let free = |dir: &TempDir| rustix::fs::statvfs(dir.path()).map(|fs| fs.f_bavail * fs.f_frsize);
        Ok(free(&self.work)? > bytes && free(&self.stor)? > bytes)
    }
}

/// One figure of a variant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Whether it was done to its end. If not, the costs are those of a part.
    pub(crate) whole: bool,
    /// Compared with the yardstick of the same run.
    pub(crate) ratio: Option<f64>,
    /// From the start of the process until the mount was there.
    pub(crate) ready: Duration,
    pub(crate) traffic: Traffic,
    /// The most memory of the process that served the mount, in bytes.
    pub(crate) memory: u64,
}

/// All figures of a variant.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) variant: Variant,
    pub(crate) samples: Vec<Sample>,
    /// Why there are no more.
    pub(crate) failure: Option<String>,
}

/// A row as it came out.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) link: Link,
    pub(crate) row: Row,
    /// Seconds on the local disk.
    pub(crate) native: Vec<f64>,
    /// Seconds of the yardstick.
    pub(crate) yardstick: Vec<f64>,
    pub(crate) columns: Vec<Column>,
}

/// A tree, and what it was packed as.
#[derive(Debug)]
struct Subject {
    tree: Tree,
    packed: Vec<(Variant, Packed)>,
}

struct Bench<'a> {
    aysfs: &'a Aysfs,
    dirs: &'a Dirs,
    downloads: Downloads,
    runs: u32,
}

pub(crate) async fn run(options: &Options, dirs: &Dirs) -> anyhow::Result<()> {
    let aysfs = Aysfs::find(options.aysfs.clone(), options.lib.clone())?;
    println!("{}; {}, medians of {}", Machine::this(), options.lib, options.runs);
    let profiles = aysfs.has_profiles().await;
    if !profiles {
        println!("profiles: not there yet, `{} profile record` is unknown", aysfs.binary().display());
    }
    let (stor, address) = serve(&aysfs, dirs.stor.path()).await?;
    let downloads = Downloads { stor: address, named: dirs.stor.path().join(".static") };
    let bench = Bench { aysfs: &aysfs, dirs, downloads, runs: options.runs };
    let rows = options.rows();
    let mut subjects = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| rows.iter().any(|row| row.tree() == *kind)) {
        if kind == Kind::Rust && !options.rust && !dirs.have_space(RUST_TAKES)? {
            println!(
                "{}: left out, since there is little free space (--rust measures it all the same)",
                kind.name()
            );
            continue;
        }
        match bench.prepare(kind, profiles, &format!("http://{address}/")).await {
            Ok(subject) => subjects.push(subject),
            Err(error) => println!("{}: left out: {error:#}", kind.name()),
        }
    }
    let mut measured = Vec::new();
    for link in options.links() {
        let proxy = Proxy::start(address, link).await?;
        for row in &rows {
            if let Some(subject) = subjects.iter().find(|subject| subject.tree.kind == row.tree()) {
                measured.push(bench.measure(subject, *row, link, &proxy).await?);
            }
        }
    }
    drop(stor);
    report::print(&measured);
    goals::print(&measured);
    Ok(())
}

/// Starts a stor.
async fn serve(aysfs: &Aysfs, root: &Path) -> anyhow::Result<(Daemon, SocketAddr)> {
    let mut command = aysfs.command(["stor", "--listen", "127.0.0.1:0", "--root"]);
    command.arg(root);
    let mut stor = Daemon::start(command)?;
    let line = stor.until("serving ").await?;
    let (_, address) = line.split_once("://").context("the line names the URL")?;
    Ok((stor, address.trim_end_matches('/').parse()?))
}

impl Bench<'_> {
    /// Makes a tree, and packs it in all ways.
    async fn prepare(&self, kind: Kind, profiles: bool, stor: &str) -> anyhow::Result<Subject> {
        let dir = self.dirs.work.path();
        let tree = {
            let dir = dir.to_owned();
            spawn_blocking(move || Tree::make(kind, &dir)).await??
        };
        let mut packed: Vec<(Variant, Packed)> = Vec::new();
        for variant in Variant::ALL.into_iter().filter(|variant| variant.is_for(kind)) {
            let profile = match (variant, packed.last()) {
                (Variant::Profiled, _) if !profiles => continue,
                (Variant::Profiled, Some((_, plain))) => {
                    // The last row reads what the others do, and more.
                    let row = Row::ALL.into_iter().rfind(|row| row.tree() == kind).context("each has one")?;
                    Some(plain.record(self.aysfs, row, &tree, stor, dir).await?)
                }
                _ => None,
            };
            let root = self.dirs.stor.path();
            let (done, cost) =
                Packed::make(self.aysfs, &tree, variant, profile.as_deref(), root, dir).await?;
            println!(
                "{}, {}: packed in {:.1?}, with {:.0} MB of memory",
                kind.name(),
                variant.name(),
                cost.time,
                cost.memory as f64 / 1e6
            );
            packed.push((variant, done));
        }
        if kind == Kind::Large {
            self.downloads.add_large(&tree.root.join(trees::LARGE_NAME)).await?;
        }
        Ok(Subject { tree, packed })
    }

    async fn measure(
        &self,
        subject: &Subject,
        row: Row,
        link: Link,
        proxy: &Proxy,
    ) -> anyhow::Result<Measured> {
        let column = |(variant, _): &(Variant, Packed)| Column {
            variant: *variant,
            samples: Vec::new(),
            failure: None,
        };
        let mut columns: Vec<Column> = subject.packed.iter().map(column).collect();
        let (mut native, mut yardstick) = (Vec::new(), Vec::new());
        for run in 0..self.runs {
            let scratch = tempfile::tempdir_in(self.dirs.work.path())?;
            native.push(row.act(&subject.tree, &subject.tree.root, scratch.path()).await?.seconds);
            let mut done = Vec::new();
            for turn in 0..columns.len() {
                let number = (turn + run as usize) % columns.len();
                if columns[number].failure.is_none() {
                    match self.sample(&subject.packed[number].1, row, &subject.tree, proxy).await {
                        Ok(sample) => {
                            let (name, figure) = (columns[number].variant.name(), row.figure(sample.seconds));
                            eprintln!(
                                "{link}, {} of {}: {}, {name}: {figure}",
                                run + 1,
                                self.runs,
                                row.name()
                            );
                            done.push((number, sample));
                        }
                        Err(error) => columns[number].failure = Some(format!("{error:#}")),
                    }
                }
            }
            let samples = done.iter().map(|(_, sample)| sample);
            let needed = samples.filter(|sample| sample.whole).map(|sample| sample.traffic.down).min();
            let measure = match needed {
                Some(needed) => Some(self.downloads.take(row.yardstick(), needed, proxy.address()).await?),
                None => None,
            };
            yardstick.extend(measure);
            for (number, mut sample) in done {
                sample.ratio = measure.map(|measure| sample.seconds / measure);
                columns[number].samples.push(sample);
            }
        }
        Ok(Measured { link, row, native, yardstick, columns })
    }

    async fn sample(&self, packed: &Packed, row: Row, tree: &Tree, proxy: &Proxy) -> anyhow::Result<Sample> {
        let dir = self.dirs.work.path();
        // What the last one has asked for may still be on its way.
        proxy.idle(QUIET).await;
        let mut before = proxy.traffic();
        let mount = packed.mount(self.aysfs, &format!("http://{}/", proxy.address()), dir).await?;
        if row.waits() {
            proxy.idle(QUIET).await;
            before = proxy.traffic();
        }
        let scratch = tempfile::tempdir_in(dir)?;
        let done = row.act(tree, &mount.point, scratch.path()).await?;
        Ok(Sample {
            seconds: done.seconds,
            whole: done.whole,
            ratio: None,
            ready: mount.ready,
            traffic: proxy.traffic() - before,
            memory: mount.daemon.peak(),
        })
    }
}
