//! What many readers share, and what they do not do to each other while a stor is slow.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{Advice, OFlags};

use crate::support::{Faulty, LIBS, Lab, Mounted, PATIENCE, objects, pack, wait_for};
use crate::tree;

/// Longer than a test waits: what ends, ends for another reason.
const NEVER: &str = "1h";

/// Takes the content of a file out of the kernel's cache, so that the next read asks the daemon.
fn forget(path: &Path) {
    let file = File::open(path).expect("it can be opened");
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("a hint");
}

/// Whether a thread of this process waits in the kernel.
fn is_waiting(thread: rustix::thread::Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero()));
    // The state follows the name, which is in parentheses.
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['S', 'D'])))
}

/// More than are fetched at once, and more than the kernel would wait for by default.
const HANGING: usize = 100;
const FETCHED_AT_ONCE: usize = 64;

#[test]
fn five_hundred_readers_of_one_file_cause_one_fetch() {
    const READERS: usize = 500;
    for (format, lib) in [("v1-long", LIBS[0]), ("v2", LIBS[0]), ("v2", LIBS[1]), ("v2", LIBS[2])] {
        let lab = Lab::new();
        let source = lab.dir("source");
        let content = tree::noise(1, 100_000);
        fs::write(source.join("file"), &content).expect("a file");
        let stor = Faulty::start(&lab.dir("stor"));
        let flist = pack(&lab, &source, &stor.direct(), format);
        let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--deadline", NEVER, "--lib", lib]);
        let path = mounted.point.join("file");
        let gate = stor.hold();
        let (ready, started) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            for number in 0..READERS {
                let (path, content, ready) = (&path, &content, ready.clone());
                let reader = move || {
                    // Every other one goes round the kernel's cache, which would make one read of many.
                    let flags = if number % 2 == 0 { OFlags::empty() } else { OFlags::DIRECT };
                    let flags = flags.bits().cast_signed();
                    let mut file = File::options().read(true).custom_flags(flags).open(path).expect("opened");
                    let mut read = Vec::with_capacity(content.len() + 1);
                    ready.send(rustix::thread::gettid()).expect("the test waits");
                    file.read_to_end(&mut read).expect("read");
                    assert!(read == *content, "reader {number} got other bytes");
                };
                thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, reader).expect("a thread");
            }
            let readers: Vec<_> =
                (0..READERS).map(|_| started.recv_timeout(PATIENCE).expect("a reader")).collect();
            wait_for("all readers to wait", || readers.iter().all(|reader| is_waiting(*reader)));
            stor.held(&gate, 1);
            gate.open();
        });
        assert_eq!(stor.gets(&objects(&flist)[Path::new("file")]), 1, "{format}, {lib}");
        mounted.stop();
    }
}

#[test]
fn a_stor_that_does_not_answer_holds_up_only_those_who_need_it() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 300);
    // The kernel reads small files in another way than large ones, of which it asks for all at once.
    for (dir, count, length) in [("uncached", HANGING, 300_000), ("cached", 20, 400_000), ("small", 20, 3000)]
    {
        fs::create_dir(source.join(dir)).expect("a directory");
        for number in 0..count {
            let content = tree::noise((length + number) as u64, length);
            fs::write(source.join(format!("{dir}/file{number}")), content).expect("a file");
        }
    }
    std::os::unix::fs::symlink("cached", source.join("link")).expect("a symlink");
    xattr::set(&source, "user.note", b"seen").expect("an attribute");
    let stor = Faulty::start(&lab.dir("stor"));
    for format in ["v1-long", "v2"] {
        let flist = pack(&lab, &source, &stor.direct(), format);
        for lib in LIBS {
            holds_up_only_those_who_need_it(&lab, lib, &source, &flist, &stor);
            fs::remove_dir_all(lab.path("cache")).expect("the next one begins without it");
        }
    }
}

fn holds_up_only_those_who_need_it(lab: &Lab, lib: &str, source: &Path, flist: &Path, stor: &Faulty) {
    // Of a pack, one request is for many files, and some come with what was read before.
    let is_packed = flist == lab.path("v2.flist");
    let mounted = Mounted::with(lab, flist, &stor.url(), &["--deadline", NEVER, "--lib", lib]);
    let cached: Vec<_> =
        (0..40).map(|number| format!("{}/file{}", ["cached", "small"][number % 2], number / 2)).collect();
    for name in &cached {
        mounted.read(name).expect("no trouble yet");
        forget(&mounted.point.join(name));
    }

    let hanging = objects(flist).into_keys().filter(|path| path.starts_with("uncached")).collect::<Vec<_>>();
    let gate = stor.hold();
    let finished = AtomicUsize::new(0);
    thread::scope(|scope| {
        for path in &hanging {
            let (from, to, finished) = (source.join(path), mounted.point.join(path), &finished);
            scope.spawn(move || {
                let read = fs::read(to).expect("read after all");
                finished.fetch_add(1, Ordering::SeqCst);
                assert!(read == fs::read(from).expect("the source"), "{path:?} is not the same");
            });
        }
        stor.held(&gate, if is_packed { 2 } else { FETCHED_AT_ONCE });

        // Nothing of this can wait for a fetch: none ends before the gate is opened.
        let mut count = 0;
        let mut pending = vec![mounted.point.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).expect("listed") {
                let path = entry.expect("an entry").path();
                let meta = path.symlink_metadata().expect("stat");
                count += 1;
                if meta.is_dir() {
                    pending.push(path);
                }
            }
        }
        assert!(count > 300, "{count}");
        assert_eq!(fs::read_link(mounted.point.join("link")).expect("a link"), Path::new("cached"));
        if is_packed {
            assert_eq!(xattr::get(&mounted.point, "user.note").expect("xattrs").expect("a value"), b"seen");
        }
        for name in &cached {
            let read = mounted.read(name).expect("it is cached");
            assert!(read == fs::read(source.join(name)).expect("the source"), "{name} is not the same");
        }
        assert!(
            finished.load(Ordering::SeqCst) < if is_packed { HANGING } else { 1 },
            "a held fetch has ended"
        );
        gate.open();
    });
    assert_eq!(finished.load(Ordering::SeqCst), HANGING);
    mounted.stop();
}

#[test]
fn different_files_are_fetched_at_the_same_time() {
    const READERS: usize = 32;
    let lab = Lab::new();
    let source = lab.dir("source");
    for number in 0..READERS {
        fs::write(source.join(number.to_string()), tree::noise(number as u64, 5000)).expect("a file");
    }
    let stor = Faulty::start(&lab.dir("stor"));
    let flist = pack(&lab, &source, &stor.direct(), "v1-long");
    let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--deadline", NEVER]);
    let gate = stor.hold();
    thread::scope(|scope| {
        for number in 0..READERS {
            let mounted = &mounted;
            scope.spawn(move || {
                let read = mounted.read(&number.to_string()).expect("read");
                assert!(read == tree::noise(number as u64, 5000));
            });
        }
        // None of them is answered before all have asked.
        stor.held(&gate, READERS);
        gate.open();
    });
    mounted.stop();
}
