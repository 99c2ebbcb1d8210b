//! Mounting without root privileges, through `fusermount3` (Debian: package fuse3).

#![allow(unreachable_pub)]

#[allow(dead_code)]
mod support;

use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{MountError, MountOptions};
use support::{Mounted, eventually, mount_table};

const UNPRIVILEGED: &str = "AYSFS_UNPRIVILEGED";

/// Gives a process a `/dev/fuse` that everyone may open, and a user that may nothing else.
const ENVIRONMENT: &str = r#"
    mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && mkdir -m 777 tmp &&
    TMPDIR="$PWD/tmp" exec setpriv --reuid 65534 --regid 65534 --clear-groups \
        ./program --exact users_without_privileges_can_mount --nocapture
"#;

#[test]
fn users_without_privileges_can_mount() {
    if env::var_os(UNPRIVILEGED).is_some() {
        return as_unprivileged_user();
    }
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("open to all");
    fs::copy(env::current_exe().expect("it has a path"), dir.path().join("program")).expect("copied");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", ENVIRONMENT])
        .current_dir(dir.path())
        .env(UNPRIVILEGED, "1")
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn as_unprivileged_user() {
    assert!(!rustix::process::geteuid().is_root());
    let options = MountOptions { source: "a,b".into(), ..MountOptions::default() };
    let mut mounted = Mounted::new(MemFsOptions::default(), &options);
    let path = mounted.path().join("f");
    mounted.fs.add_file("f", b"content");
    assert_eq!(fs::read(&path).expect("read"), b"content");
    let line = format!("a,b {} fuse.aysfs rw,nosuid,nodev", mounted.path().display());
    assert!(mount_table().contains(&line), "{line}");

    let open = File::open(&path).expect("opened");
    let busy = mounted.runtime.block_on(mounted.mount_ref().unmount(false)).expect_err("a file is open");
    assert!(matches!(busy, MountError::Busy(_)), "{busy}");
    drop(open);
    eventually("it is unused", || mounted.runtime.block_on(mounted.mount_ref().unmount(false)).is_ok());
    assert!(!mounted.is_mounted());

    mounted = Mounted::new(MemFsOptions::default(), &MountOptions::default());
    let _open = File::open(mounted.path()).expect("opened");
    mounted.mount.take();
    assert!(!mounted.is_mounted(), "dropping unmounts, busy or not");

    for options in [
        MountOptions { suid: true, ..MountOptions::default() },
        MountOptions { dev: true, ..MountOptions::default() },
    ] {
        let error = Mounted::mount(MemFs::default(), &options).err().expect("the helper would drop it");
        assert!(matches!(error, MountError::Unsupported { .. }), "{error}");
    }
}
