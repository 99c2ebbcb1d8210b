//! What the engine costs without a kernel: each call of the contract, the cache, the codec.
//!
//! `cargo bench -p aysfs-benches --bench engine`. A message from the kernel and back costs some ten microseconds
//! more, so what is well below one microsecond here does not show in a mount.

use std::fs::File;
use std::future::Future;
use std::hint::black_box;
use std::io::{BufWriter, Cursor};
use std::ops::ControlFlow;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aysfs_engine::{AysFs, Base};
use aysfs_flist::{
    Content as Listed, Dialect, Entry as ListEntry, Header, Index, Kind, ObjectKey, ParseOptions, Timestamp,
    Writer,
};
use aysfs_store::codec::{self, Compression, Encoded};
use aysfs_store::{Cache, CacheOptions, Content, DirStore, Key, Mirror, Store, Upload};
use aysfs_vfs::{DirEntry, DirSink, Entry, Fh, Filled, Ino, Lookup, Measured, Name, OpenFlags, Vfs, drive};
use aysfs_workload::{Machine, Random, source_code};
use criterion::{BatchSize, Criterion, Throughput};
use tokio::runtime::Runtime;

/// Together 50,000 entries.
const DIRECTORIES: usize = 500;
const PER_DIRECTORY: usize = 99;
/// Bytes of the file that is read.
const CACHED: usize = 4 << 20;
const XATTR: &[u8] = b"user.origin";

fn main() {
    println!("{}", Machine::this());
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
    let runtime = Runtime::new().expect("a runtime");
    let mount = Mount::new(dir.path(), &runtime);
    metadata(&mut criterion, &mount);
    content(&mut criterion, &mount);
    driven(&mut criterion, &mount, &runtime);
    measured(&mut criterion, &mount);
    coding(&mut criterion);
    criterion.final_summary();
}

/// A filesystem as a frontend has it.
struct Mount {
    vfs: Arc<dyn Vfs>,
    cache: Arc<Cache>,
    sources: Arc<Mirror>,
    /// Files by directory and name, in no order.
    names: Vec<(Ino, Name)>,
    directory: Ino,
    cached: Ino,
    content: Content,
}

impl Mount {
    fn new(dir: &Path, runtime: &Runtime) -> Self {
        let mut object = tempfile::tempfile_in(dir).expect("a temporary file");
        let encoded = codec::encode_file(
            &mut Cursor::new(source_code(&mut Random(5), CACHED)),
            &mut object,
            Compression::default(),
            None,
        )
        .expect("encoded");
        let store = DirStore::open(&dir.join("stor"), &"bench".parse().expect("a name")).expect("a stor");
        let upload = Upload::File { file: Arc::new(object), length: encoded.stored };
        runtime.block_on(store.put(&Key::sha256(encoded.key), &upload)).expect("stored");

        let flist = dir.join("flist");
        write_flist(&flist, &encoded);
        let index = Index::compile(&flist, &ParseOptions::default(), dir).expect("a valid flist");
        let cache = Cache::open(&dir.join("cache"), CacheOptions::default()).expect("a cache");
        let sources = Arc::new(Mirror::new(Arc::new(store), []));
        let base = Base::new(index).expect("no packs");
        let vfs = Arc::new(AysFs::new(base, cache.clone(), sources.clone()));

        let find = |parent, name: &str| match now(vfs.lookup(parent, &name_of(name))) {
            Ok(Lookup::Found(entry)) => entry.attr.ino,
            other => panic!("{name}: {other:?}"),
        };
        let cached = find(Ino::ROOT, "cached");
        runtime.block_on(vfs.read(cached, Fh::NONE, 0, 4096)).expect("fetched");
        let mut random = Random(3);
        let names = (0..4096).map(|_| {
            let directory = find(Ino::ROOT, &directory_name(random.pick(DIRECTORIES)));
            (directory, name_of(&file_name(random.pick(PER_DIRECTORY))))
        });
        Self {
            cache,
            sources,
            names: names.collect(),
            directory: find(Ino::ROOT, &directory_name(7)),
            cached,
            content: Content::object(encoded.id, encoded.size, Key::sha256(encoded.key)),
            vfs,
        }
    }
}

fn metadata(criterion: &mut Criterion, mount: &Mount) {
    let Mount { vfs, names, directory, .. } = mount;
    let mut group = criterion.benchmark_group("engine");
    let mut next = names.iter().cycle();
    group.bench_function("lookup", |bencher| {
        bencher.iter_batched(
            || next.next().expect("endless"),
            |(directory, name)| now(vfs.lookup(*directory, name)),
            BatchSize::SmallInput,
        );
    });
    let missing = name_of("unit_50x");
    group.bench_function("lookup of nothing", |bencher| {
        bencher.iter(|| now(vfs.lookup(*directory, &missing)))
    });
    let mut inos = (2..50_000).map(Ino).cycle().step_by(7919);
    group.bench_function("getattr", |bencher| {
        bencher.iter_batched(
            || inos.next().expect("endless"),
            |ino| now(vfs.getattr(ino, None)),
            BatchSize::SmallInput,
        );
    });
    for (name, attributes) in [("readdir of 100", false), ("readdirplus of 100", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut page = Page { attributes, left: 100 };
                now(vfs.readdir(*directory, Fh::NONE, 0, &mut page)).expect("listed");
            });
        });
    }
    group.bench_function("getxattr", |bencher| bencher.iter(|| now(vfs.getxattr(*directory, XATTR))));
    group.bench_function("getxattr of nothing", |bencher| {
        bencher.iter(|| now(vfs.getxattr(*directory, b"security.capability")));
    });
    group.finish();
}

fn content(criterion: &mut Criterion, mount: &Mount) {
    let Mount { vfs, cached, .. } = mount;
    let mut group = criterion.benchmark_group("engine");
    group.bench_function("open and release", |bencher| {
        let flags = OpenFlags { read: true, ..OpenFlags::default() };
        bencher.iter(|| {
            let opened = now(vfs.open(*cached, flags)).expect("opened");
            now(vfs.release(*cached, opened.fh)).expect("released");
        });
    });
    for (name, size) in [("read of 4 KiB", 4 << 10), ("read of 128 KiB", 128 << 10)] {
        group.throughput(Throughput::Bytes(u64::from(size)));
        let mut offsets = offsets(size).cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| now(vfs.read(*cached, Fh::NONE, offsets.next().expect("endless"), size)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("cache");
    group.throughput(Throughput::Bytes(4 << 10));
    let file = mount.cache.file(&mount.content, &mount.sources);
    let mut places = offsets(4 << 10).cycle();
    group.bench_function("hit of 4 KiB", |bencher| {
        bencher.iter(|| now(file.read(places.next().expect("endless"), 4 << 10)));
    });
    group.finish();
}

/// As a frontend calls it: by way of [`drive`].
fn driven(criterion: &mut Criterion, mount: &Mount, runtime: &Runtime) {
    let Mount { vfs, cached, .. } = mount;
    let mut group = criterion.benchmark_group("driven");
    group.bench_function("getattr", |bencher| {
        bencher.iter(|| {
            let (vfs, ino) = (vfs.clone(), *cached);
            drive(runtime.handle(), async move {
                black_box(vfs.getattr(ino, None).await).ok();
            })
        });
    });
    group.bench_function("read of 4 KiB", |bencher| {
        bencher.iter(|| {
            let (vfs, ino) = (vfs.clone(), *cached);
            drive(runtime.handle(), async move {
                black_box(vfs.read(ino, Fh::NONE, 8192, 4 << 10).await).ok();
            })
        });
    });
    group.finish();
}

/// What `--pprof` adds to each call.
fn measured(criterion: &mut Criterion, mount: &Mount) {
    let Mount { vfs, cached, .. } = mount;
    let measured: Arc<dyn Vfs> = Arc::new(Measured::new(vfs.clone(), Arc::default()));
    let mut group = criterion.benchmark_group("measured");
    for (how, vfs) in [("as it is", vfs), ("measured", &measured)] {
        group.bench_function(format!("getattr, {how}"), |bencher| {
            bencher.iter(|| now(vfs.getattr(*cached, None)));
        });
        group.bench_function(format!("read of 4 KiB, {how}"), |bencher| {
            bencher.iter(|| now(vfs.read(*cached, Fh::NONE, 8192, 4 << 10)));
        });
    }
    group.finish();
}

fn coding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for (length, size) in [(4 << 10, "4 KiB"), (128 << 10, "128 KiB")] {
        group.throughput(Throughput::Bytes(length as u64));
        let plain = source_code(&mut Random(5), length);
        for (codec, how) in [("zstd", Compression::default()), ("brotli", Compression::Brotli(5))] {
            group.bench_function(format!("encode {size}, {codec}"), |bencher| {
                bencher.iter(|| codec::encode(&plain, how, None));
            });
            let mut stored = tempfile::tempfile().expect("a temporary file");
            let id =
                codec::encode_file(&mut Cursor::new(&plain), &mut stored, how, None).expect("encoded").id;
            let stored = codec::encode(&plain, how, None);
            group.bench_function(format!("decode {size}, {codec}"), |bencher| {
                bencher.iter(|| {
                    let mut decoded = Vec::with_capacity(length);
                    codec::decode_chunk(id, length as u64, None, &stored[..], &mut decoded).expect("sound");
                    decoded
                });
            });
        }
    }
    group.finish();
}

/// What is answered without waiting.
fn now<F: Future>(call: F) -> F::Output {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

/// A page of a listing.
struct Page {
    attributes: bool,
    left: usize,
}

impl DirSink for Page {
    fn wants_attributes(&self) -> bool {
        self.attributes
    }

    fn add(&mut self, entry: &DirEntry<'_>, attributes: Option<&Entry>) -> Filled {
        black_box((entry, attributes));
        self.left -= 1;
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Places in the cached file, in no order.
fn offsets(size: u32) -> impl Iterator<Item = u64> + Clone {
    let places = CACHED as u64 / u64::from(size);
    (0..places).map(move |place| place * 7919 % places * u64::from(size))
}

fn write_flist(path: &Path, cached: &Encoded) {
    let out = BufWriter::new(File::create(path).expect("the flist"));
    let mut writer = Writer::new(out, Dialect::V2, &Header::default()).expect("written");
    let mut random = Random(1);
    let mut put = |mut entry: ListEntry| {
        entry.mtime = Timestamp { secs: 1_700_000_000, nanos: 1 };
        writer.entry(&entry).expect("written");
    };
    let file = |path: String, size, sha256, key| {
        let mut entry = ListEntry::new(path, Kind::Regular);
        entry.size = size;
        entry.content = Some(Listed::Object { sha256, key: ObjectKey::Sha256(key) });
        entry
    };
    put(file("cached".into(), cached.size, cached.id, cached.key));
    for directory in 0..DIRECTORIES {
        let path = directory_name(directory);
        let mut entry = ListEntry::new(path.clone(), Kind::Directory);
        entry.xattrs = vec![(XATTR.into(), b"somewhere".into())];
        put(entry);
        for number in 0..PER_DIRECTORY {
            let path = format!("{path}/{}", file_name(number));
            put(file(path, random.below(1 << 16), random.digest(), random.digest()));
        }
    }
    writer.finish().expect("written");
}

fn directory_name(number: usize) -> String {
    format!("module_{number:03}")
}

fn file_name(number: usize) -> String {
    format!("unit_{number:02}.py")
}

fn name_of(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a valid name")
}
