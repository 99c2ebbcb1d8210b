//! A filesystem that is soon full: ext4 in a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::support::Lab;

/// Mounted in the lab, and unmounted with it.
pub(crate) struct SmallDisk {
    point: PathBuf,
}

impl SmallDisk {
    /// One of so many MiB on `lab/<name>`; `None`, and a word about it, where nobody may mount one.
    pub(crate) fn mount(lab: &Lab, name: &str, mib: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: it takes root and loop devices to mount a small disk");
            return None;
        }
        let image = lab.path(&format!("{name}.img"));
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        // Nothing is kept back for root, who would never see it full.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let point = lab.dir(name);
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &point]));
        Some(Self { point })
    }

    /// Leaves so many bytes, about.
    pub(crate) fn leave(&self, bytes: u64) {
        self.free();
        let ballast = File::create(self.ballast()).expect("a file");
        let mut size = 0;
        loop {
            let more = self.available().saturating_sub(bytes);
            // The list of its pieces takes room as well.
            let more = if more > 1 << 20 { more - (more >> 5) } else { more };
            match more {
                0 => break,
                more => match fallocate(&ballast, FallocateFlags::empty(), size, more) {
                    Ok(()) => size += more,
                    Err(Errno::NOSPC) => break,
                    Err(error) => panic!("{error}"),
                },
            }
        }
    }

    /// Leaves nothing.
    pub(crate) fn fill(&self) {
        self.leave(0);
        let crumbs = File::create(self.point.join("crumbs")).expect("a file");
        let mut size = 0;
        while std::os::unix::fs::FileExt::write_at(&crumbs, &[1; 4096], size).is_ok() {
            size += 4096;
            // What is not allocated yet would fail later.
            if crumbs.sync_all().is_err() {
                break;
            }
        }
    }

    /// Gives it all back.
    pub(crate) fn free(&self) {
        for name in [self.ballast(), self.point.join("crumbs")] {
            match fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
                Ok(()) | Err(_) => {}
            }
        }
        // What is removed is free when that is on the disk.
        rustix::fs::syncfs(File::open(&self.point).expect("a directory")).expect("synced");
    }

    pub(crate) fn available(&self) -> u64 {
        let space = statvfs(&self.point).expect("a filesystem");
        space.f_bavail * space.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.point.join("ballast")
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
