//! Where trials work.

use std::env;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::fs::statfs;
use tempfile::TempDir;

/// Filesystems that are no local disk, by their magic numbers: overlay (files change their identity), tmpfs
/// (lacks some of what disks can do), FUSE.
const NO_DISK: [u64; 3] = [0x794c_7630, 0x0102_1994, 0x6573_5546];

/// A directory on a local disk that all users can reach.
///
/// The usual place for temporary files first: paths below it are short, which sockets need.
pub(crate) fn temporary_directory() -> TempDir {
    let candidates = [env::temp_dir(), "/var/tmp".into(), beside_this_program()];
    let place = candidates.iter().find(|place| is_on_disk(place)).unwrap_or_else(|| {
        panic!("none of {candidates:?} is on a local disk: set TMPDIR to a directory that is");
    });
    let mut builder = tempfile::Builder::new();
    builder.prefix("aysfs-conformance-").permissions(Permissions::from_mode(0o755));
    builder.tempdir_in(place).unwrap_or_else(|error| panic!("cannot work in {}: {error}", place.display()))
}

fn beside_this_program() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.parent().expect("a program is in a directory").to_owned()
}

fn is_on_disk(place: &PathBuf) -> bool {
    statfs(place).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| !NO_DISK.contains(&kind)))
}
