//! Local files that the kernel reads and writes itself: only this frontend can do it, so it is no part of the suite
//! that all run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Caps, Frontend, Ino, Mount, MountOptions, Passthrough, TimeToLive};
use memmap2::MmapOptions;
use tempfile::{NamedTempFile, TempDir};
use tokio::runtime::Runtime;

/// A mount with a file whose own content is "asked." and whose local twin holds "passed". The fields end in this
/// order.
struct Mounted {
    _mount: Box<dyn Mount>,
    fs: Arc<MemFs>,
    _runtime: Runtime,
    at: TempDir,
    ino: Ino,
    twin: NamedTempFile,
}

impl Mounted {
    fn new(passthrough: Passthrough) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        let fs = Arc::new(MemFs::new(MemFsOptions {
            caps: Caps { backing_files: true, ..Caps::default() },
            ttl: TimeToLive { entry: DAY, attr: DAY },
            ..MemFsOptions::default()
        }));
        let ino = fs.add_file("f", b"asked.");
        let mut twin = NamedTempFile::new().expect("a local file");
        twin.write_all(b"passed").expect("written");
        let runtime = Runtime::new().expect("a runtime");
        let at = tempfile::tempdir().expect("a mount point");
        let options = MountOptions { passthrough, ..MountOptions::default() };
        let mount = Fuser.mount(Arc::clone(&fs) as _, at.path(), &options, runtime.handle());
        Self { _mount: mount.expect("mounted"), fs, _runtime: runtime, at, ino, twin }
    }

    fn path(&self) -> PathBuf {
        self.at.path().join("f")
    }

    fn pass_through(&self) {
        let twin = OpenOptions::new().read(true).write(true).open(self.twin.path()).expect("opened");
        self.fs.set_backing(self.ino, twin);
    }

    /// Closed files are released a moment later.
    fn wait_until_released(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.fs.open_handles() > 0 {
            assert!(Instant::now() < end, "a handle is never released");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn backing_files_are_read_and_written_without_a_message() {
    let mounted = Mounted::new(Passthrough::Auto);
    let path = mounted.path();
    mounted.pass_through();
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    assert_eq!(fs::read(&path).expect("read"), b"passed");
                }
            });
        }
    });
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    file.write_all_at(b"WRITE", 0).expect("written");
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mapping = unsafe { MmapOptions::new().len(6).map_copy_read_only(&file).expect("mapped") };
    assert_eq!(&mapping[..], b"WRITEd");
    drop((mapping, file));
    assert_eq!(fs::read(mounted.twin.path()).expect("read"), b"WRITEd");
    assert_eq!((mounted.fs.calls("read"), mounted.fs.calls("write")), (0, 0));
    mounted.wait_until_released();
    assert_eq!(fs::read(&path).expect("registered anew"), b"WRITEd");
}

#[test]
fn an_open_that_was_cached_keeps_others_from_passing_through() {
    let mounted = Mounted::new(Passthrough::Auto);
    let cached = File::open(mounted.path()).expect("opened");
    mounted.pass_through();
    assert_eq!(fs::read(mounted.path()).expect("no EIO"), b"asked.");
    drop(cached);
    mounted.wait_until_released();
    assert_eq!(fs::read(mounted.path()).expect("read"), b"passed");
}

#[test]
fn passthrough_can_be_turned_off() {
    let mounted = Mounted::new(Passthrough::Off);
    mounted.pass_through();
    assert_eq!(fs::read(mounted.path()).expect("read"), b"asked.");
}

#[test]
fn a_backing_file_that_the_kernel_refuses_is_read_by_messages() {
    let mounted = Mounted::new(Passthrough::Auto);
    // A pipe is no file that could be read at an offset.
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    mounted.fs.set_backing(mounted.ino, File::from(OwnedFd::from(reader)));
    assert_eq!(fs::read(mounted.path()).expect("read"), b"asked.");
}
