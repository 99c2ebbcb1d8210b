//! What a flist of a million entries costs: parsed and indexed, mounted again, looked things up in.
//!
//! `cargo bench -p aysfs-benches --bench flist`. Each figure of the table comes from a process of its own, so that
//! its memory is what that step needs.

use std::env;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aysfs_benches::memory;
use aysfs_flist::{
    Content, Dialect, Entry, Flist, Header, Index, Kind, Node, ObjectKey, ParseOptions, Provenance, Source,
    Timestamp, Writer,
};
use aysfs_workload::{Machine, Random};
use criterion::{BatchSize, Criterion, Throughput};

const ENTRIES: usize = 1_000_000;
/// Set in the processes that take one step.
const STEP: &str = "AYSFS_BENCH_STEP";
const LOOKUPS: usize = 1_000_000;

fn main() {
    if let Ok(step) = env::var(STEP) {
        return take_step(&step);
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    table(dir.path());
    let mut criterion = Criterion::default().configure_from_args();
    lookup(&mut criterion, dir.path());
    parse(&mut criterion);
    criterion.final_summary();
}

/// The figures of the million.
fn table(dir: &Path) {
    let list = dir.join("list");
    write_tree(BufWriter::new(File::create(&list).expect("the list")), ENTRIES).expect("the list is written");
    println!("{ENTRIES} entries, {} MB of v2; {}", size(&list) / 1_000_000, Machine::this());
    println!("{:44} {:>12} {:>12} {:>12} {:>12}", "", "time", "RSS before", "RSS after", "RSS peak");
    run(dir, "first mount: parse and index");
    let index = files(dir, "index").map(|path| size(&path)).sum::<u64>();
    // A list that has just been written may change without a trace: it is not taken for unchanged before.
    thread::sleep(Duration::from_secs(4));
    run(dir, "second mount: hash list, verify index");
    run(dir, "later mount: nothing has changed");
    files(dir, "list").for_each(|path| fs::remove_file(path).expect("removable"));
    run(dir, "mount of the same list at another place: hash");
    run(dir, "a walk over all entries");
    run(dir, "1,000,000 lookups, each somewhere else");
    println!("index: {} MB, {} bytes per entry", index / 1_000_000, index / ENTRIES as u64);
}

fn run(dir: &Path, step: &str) {
    let this = env::current_exe().expect("the path of this program");
    let status = Command::new(this).env(STEP, step).current_dir(dir).status().expect("started");
    assert!(status.success(), "{step}");
}

/// Runs in the directory of the list.
fn take_step(step: &str) {
    let before = megabytes("VmRSS");
    let start = Instant::now();
    let (index, provenance) = open(Path::new("."));
    let mut elapsed = start.elapsed();
    assert_eq!(provenance == Provenance::Compiled, step.starts_with("first"), "{step}");
    if step.starts_with("a walk") {
        let start = Instant::now();
        let walked = index.entries().try_fold(0, |count, entry| entry.map(|_| count + 1));
        assert_eq!(walked, Ok(ENTRIES + 1));
        elapsed = start.elapsed();
    } else if step.contains("lookups") {
        let names = names(&index);
        let start = Instant::now();
        for (dir, name) in names.iter().cycle().take(LOOKUPS) {
            black_box(index.lookup(*dir, name).expect("a sound index"));
        }
        elapsed = start.elapsed();
    }
    let (after, peak) = (megabytes("VmRSS"), megabytes("VmHWM"));
    println!("{step:44} {:>12} {before:>9} MB {after:>9} MB {peak:>9} MB", format!("{elapsed:.1?}"));
}

fn open(dir: &Path) -> (Index, Provenance) {
    let indexes = dir.join("indexes");
    Index::open_or_compile(&dir.join("list"), &ParseOptions::default(), &indexes).expect("a valid list")
}

fn files(dir: &Path, extension: &'static str) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("indexes")).expect("the directory of indexes");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(move |path| path.extension().is_some_and(|found| found == extension))
}

fn size(path: &Path) -> u64 {
    path.metadata().expect("stat").len()
}

/// A line of `/proc/self/status`, in MB.
fn megabytes(key: &str) -> u64 {
    memory("self", key) / 1_000_000
}

/// 100,000 names from all over the tree, in no order.
fn names(index: &Index) -> Vec<(Node, Vec<u8>)> {
    let mut random = Random(7);
    let mut names = Vec::new();
    while names.len() < 100_000 {
        let node = Node(u32::try_from(random.below(index.len() as u64)).expect("a node number"));
        let count = index.children(node).expect("a sound index").len();
        if count > 0 {
            let k = usize::try_from(random.below(count as u64)).expect("a position");
            let (name, _) = index.child_at(node, k).expect("a sound index").expect("a name");
            names.push((node, name.to_vec()));
        }
    }
    names
}

fn lookup(criterion: &mut Criterion, dir: &Path) {
    let (index, _) = open(dir);
    let names = names(&index);
    let mut names = names.iter().cycle();
    criterion.bench_function("flist/lookup", |bencher| {
        bencher.iter_batched(
            || names.next().expect("a cycle does not end"),
            |(dir, name)| index.lookup(*dir, name),
            BatchSize::SmallInput,
        );
    });
}

fn parse(criterion: &mut Criterion) {
    let mut text = Vec::new();
    write_tree(&mut text, 10_000).expect("memory can be written");
    let mut group = criterion.benchmark_group("flist");
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("parse 10,000 lines", |bencher| {
        let source = Source::Bytes { name: "bench", bytes: &text };
        bencher.iter(|| Flist::parse(source, &ParseOptions::default()).expect("a valid list"));
    });
    group.finish();
}

/// Writes a tree like that of a distribution: packages of nested directories, a dozen names in each, now and then
/// a symlink, sizes from bytes to megabytes with most files small.
fn write_tree(out: impl Write, entries: usize) -> io::Result<()> {
    let header = Header { name: Some("bench".into()), version: Some(1), ..Header::default() };
    let writer = Writer::new(out, Dialect::V2, &header).map_err(io::Error::other)?;
    // One less for `usr`, which no line names.
    let mut tree = TreeWriter { writer, random: Random(42), left: entries - 1 };
    let mut package = 0;
    while tree.left > 0 {
        tree.directory(&format!("usr/package-{package}"), 0)?;
        package += 1;
    }
    tree.writer.finish().map_err(io::Error::other)?;
    Ok(())
}

struct TreeWriter<W> {
    writer: Writer<W>,
    random: Random,
    left: usize,
}

impl<W: Write> TreeWriter<W> {
    const WORDS: [&str; 16] = [
        "core", "util", "test", "index", "data", "config", "main", "parser", "types", "module", "client",
        "server", "common", "handler", "locale", "README",
    ];
    const EXTENSIONS: [&str; 8] = [".py", ".so", ".h", ".js", ".txt", ".json", "", ".pyc"];

    fn directory(&mut self, path: &str, depth: usize) -> io::Result<()> {
        self.put(Entry::new(path, Kind::Directory))?;
        for number in 0..6 + self.random.below(16) {
            let word = Self::WORDS[self.random.pick(16)];
            let child = format!("{path}/{word}_{number}");
            match self.random.below(50) {
                0 => {
                    let mut link = Entry::new(child, Kind::Symlink);
                    link.target = format!("../{word}/{number}.so.1").into_bytes();
                    self.put(link)?;
                }
                1..6 if depth < 6 => self.directory(&child, depth + 1)?,
                _ => {
                    let extension = Self::EXTENSIONS[self.random.pick(8)];
                    let mut file = Entry::new(format!("{child}{extension}"), Kind::Regular);
                    file.perm = 0o644;
                    let bits = 4 + self.random.below(18);
                    file.size = 1 + self.random.below(1 << bits);
                    let key = ObjectKey::Sha256(self.random.digest());
                    file.content = Some(Content::Object { sha256: self.random.digest(), key });
                    self.put(file)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, mut entry: Entry) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let secs = 1_600_000_000 + i64::try_from(self.random.below(100_000_000)).expect("a time");
        let nanos = u32::try_from(self.random.below(1_000_000_000)).expect("a time");
        entry.mtime = Timestamp { secs, nanos };
        entry.ctime = Timestamp { secs: secs + 10, nanos };
        self.writer.entry(&entry).map_err(io::Error::other)
    }
}
