//! Where trials work.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use tempfile::TempDir;

const PREFIX: &str = "aysfs-conformance-";

/// Filesystems that are no local disk, by their magic numbers: overlay (files change their identity), tmpfs
/// (lacks some of what disks can do), FUSE.
const NO_DISK: [u64; 3] = [0x794c_7630, 0x0102_1994, 0x6573_5546];

/// A directory on a local disk that all users can reach. It is removed when this is dropped; or by the next run, if
/// this one is killed.
pub(crate) struct Place {
    dir: TempDir,
    /// Tells other runs that this one lives.
    _lock: File,
}

impl Place {
    /// Makes one.
    ///
    /// The usual place for temporary files comes first: it is open to all users.
    pub(crate) fn new() -> Self {
        let candidates = [env::temp_dir(), "/var/tmp".into(), beside_this_program()];
        let parent = candidates.iter().find(|place| is_on_disk(place)).unwrap_or_else(|| {
            panic!("none of {candidates:?} is on a local disk: set TMPDIR to a directory that is");
        });
        remove_abandoned(parent);
        loop {
            let mut builder = tempfile::Builder::new();
            let builder = builder.prefix(PREFIX).permissions(Permissions::from_mode(0o755));
            let dir = builder
                .tempdir_in(parent)
                .unwrap_or_else(|error| panic!("cannot work in {}: {error}", parent.display()));
            // Another run may have taken it for abandoned before it was locked.
            if let Some(lock) = lock(dir.path()).filter(|_| dir.path().exists()) {
                return Self { dir, _lock: lock };
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what runs have left that were killed.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    {
        if let Some(_lock) = lock(&entry.path()) {
            // Another run may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Locks a directory, unless someone has.
fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

fn beside_this_program() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.parent().expect("a program is in a directory").to_owned()
}

fn is_on_disk(place: &PathBuf) -> bool {
    statfs(place).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| !NO_DISK.contains(&kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_run_has_left_is_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            fs::create_dir_all(parent.path().join(name).join("sub")).expect("made");
            parent.path().join(name)
        };
        let (abandoned, alive, foreign) =
            (make("aysfs-conformance-1"), make("aysfs-conformance-2"), make("other"));
        let lock = lock(&alive).expect("nobody has it");
        remove_abandoned(parent.path());
        assert!(!abandoned.exists() && alive.exists() && foreign.exists());
        drop(lock);
        remove_abandoned(parent.path());
        assert!(!alive.exists() && foreign.exists());
    }
}
