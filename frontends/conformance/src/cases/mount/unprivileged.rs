//! Mounting without root privileges, through `fusermount3` (Debian: package fuse3).
//!
//! The user exists for the trial only: in its mount namespace there is another `/etc/passwd`, and a `/dev/fuse` that
//! this user may open, or not.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{MountError, MountOptions};
use rustix::io::Errno;

use crate::case::cases;
use crate::process::this_program;
use crate::rig::{Rig, mount_line};
use crate::user::{Server, User};

cases! { Mount "unprivileged":
    a_user_can_mount(mount_and_unmount)
    what_needs_root_is_refused(ask_for_too_much)
    a_user_without_the_device_is_told_so(mount_in_vain)
}

const USER: u32 = 54_321;

/// Makes the user and its world: arguments are the program, a directory, the user's number and the mode of the device.
const WORLD: &str = r#"
    mount -t tmpfs -o mode=755 tmpfs "$1" && cp -- "$0" "$1/program" &&
    mknod -m "$3" "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse &&
    { cat /etc/passwd && echo "aysfs-conformance:x:$2:$2::/:/bin/sh"; } >"$1/passwd" &&
    mount --bind "$1/passwd" /etc/passwd && mkdir "$1/home" && chown "$2:$2" "$1/home" &&
    exec setpriv --reuid "$2" --regid "$2" --clear-groups "$1/program"
"#;

/// Starts the using process as a user that may open `/dev/fuse` as `mode` says; it is given a directory of its own.
fn user(rig: &Rig<'_>, mode: &str) -> User {
    let world = rig.dir().join("world");
    fs::create_dir(&world).expect("made");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", WORLD]).arg(this_program());
    command.arg(&world).args([&USER.to_string(), mode]);
    rig.give_use(&mut command, &world.join("home"));
    User::start(command)
}

fn a_user_can_mount(rig: &Rig<'_>) {
    user(rig, "666").finish();
}

fn mount_and_unmount(at: &Path, server: &mut Server<'_>) {
    assert_eq!(rustix::process::geteuid().as_raw(), USER);
    let rig = server.rig(at);
    let options = MountOptions { source: "a,b".into(), ..MountOptions::default() };
    let mounted = rig.mount(MemFs::new(MemFsOptions::default()), &options).expect("mounted");
    mounted.fs.add_file("f", b"content");
    let path = mounted.path().join("f");
    assert_eq!(fs::read(&path).expect("read"), b"content");
    let line = mount_line(mounted.path()).expect("mounted");
    let expected = format!("a,b {} fuse.aysfs rw,nosuid,nodev", mounted.path().display());
    assert!(line.starts_with(&expected), "{line}");

    let open = File::open(&path).expect("opened");
    let busy = mounted.unmount().expect_err("a file is open");
    assert!(matches!(busy, MountError::Busy(_)), "{busy}");
    drop(open);
    mounted.unmount_eventually();

    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    let mut mounted = rig.mount(MemFs::default(), &read_only).expect("mounted");
    let refused = File::create(mounted.path().join("f")).expect_err("read-only");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    let _open = File::open(mounted.path()).expect("opened");
    mounted.drop_mount();
    assert!(!mounted.is_mounted(), "dropping unmounts, busy or not");
}

fn what_needs_root_is_refused(rig: &Rig<'_>) {
    user(rig, "666").finish();
}

fn ask_for_too_much(at: &Path, server: &mut Server<'_>) {
    let rig = server.rig(at);
    for options in [
        MountOptions { suid: true, ..MountOptions::default() },
        MountOptions { dev: true, ..MountOptions::default() },
    ] {
        let error = rig.mount(MemFs::default(), &options).err().expect("the helper would drop it silently");
        let name = rig.frontend().name();
        assert!(matches!(error, MountError::Unsupported { frontend, .. } if frontend == name), "{error}");
    }
}

fn a_user_without_the_device_is_told_so(rig: &Rig<'_>) {
    user(rig, "600").finish();
}

fn mount_in_vain(at: &Path, server: &mut Server<'_>) {
    let rig = server.rig(at);
    let error = rig.mount(MemFs::default(), &MountOptions::default()).err().expect("refused");
    assert!(matches!(error, MountError::NoDevice(_)), "{error}");
    assert!(error.to_string().contains("/dev/fuse"), "{error}");
}
