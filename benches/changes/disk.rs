//! An ext4 in memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// Mounted until it is dropped.
pub(crate) struct Disk {
    point: PathBuf,
    bytes: u64,
    _dir: TempDir,
}

impl Disk {
    /// An empty one.
    pub(crate) fn mount() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a filesystem in memory");
        let image = dir.path().join("image");
        let bytes = 6 * GIB;
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        // Nothing is left to be done later, in the middle of something that is measured.
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", lazy]).arg(&image));
        let point = dir.path().join("mount");
        fs::create_dir(&point).expect("a directory");
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &point]));
        Self { point, bytes, _dir: dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// A new directory.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a new directory");
        path
    }

    pub(crate) fn size(&self) -> String {
        format!("{} GiB", self.bytes / GIB)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.point, UnmountFlags::DETACH).ok();
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The same, in a directory.
pub(crate) fn run_in(dir: &Path, program: &str, arguments: &[&str]) {
    run(Command::new(program).args(arguments).current_dir(dir));
}
