//! What was asked for, and what the kernel was told.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Caps, MountError, MountOptions};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use rustix::io::Errno;

use crate::acl;
use crate::case::cases;
use crate::nobody::{NOBODY, as_nobody};
use crate::rig::{Rig, eventually, mount_line};
use crate::user::Server;

cases! { Mount "options":
    the_mount_table_shows_source_type_and_options
    a_read_only_mount_refuses_in_the_kernel
    suid_dev_and_all_users_are_not_the_default
    suid_dev_and_all_users_are_honoured_if_asked_for(become_root)
    what_cannot_be_mounted_on_says_why
    the_umask_applies_once_with_acls_too
    acls_decide_where_the_filesystem_wants_it
    any_directory_can_be_mounted_on
}

fn the_mount_table_shows_source_type_and_options(rig: &Rig<'_>) {
    let options = MountOptions {
        source: "a source, with\\all".into(),
        read_only: true,
        allow_other: true,
        ..MountOptions::default()
    };
    let mounted = rig.mount(MemFs::default(), &options).expect("mounted");
    let line = mount_line(mounted.path()).expect("mounted");
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!((fields[0], fields[2]), ("a\\040source,\\040with\\134all", "fuse.aysfs"));
    let shown: Vec<_> = fields[3].split(',').collect();
    for option in ["ro", "nosuid", "nodev", "default_permissions", "allow_other"] {
        assert!(shown.contains(&option), "{option} is missing in {line}");
    }
}

fn a_read_only_mount_refuses_in_the_kernel(rig: &Rig<'_>) {
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let mounted = rig.mount(MemFs::default(), &options).expect("mounted");
    mounted.fs.add_file("f", b"x");
    let refused = File::create(mounted.path().join("new")).expect_err("read-only");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    let refused = fs::remove_file(mounted.path().join("f")).expect_err("read-only");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ROFS));
    assert_eq!(fs::read(mounted.path().join("f")).expect("read"), b"x");
    assert_eq!((mounted.fs.calls("create"), mounted.fs.calls("unlink")), (0, 0));
}

fn suid_dev_and_all_users_are_not_the_default(rig: &Rig<'_>) {
    let mounted = rig.mount(MemFs::default(), &MountOptions::default()).expect("mounted");
    let line = mount_line(mounted.path()).expect("mounted");
    assert!(line.contains("nosuid") && line.contains("nodev") && !line.contains("allow_other"), "{line}");
    make_null(&mounted.path().join("null"));
    let refused = File::open(mounted.path().join("null")).expect_err("it is not on a device");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert!(!as_nobody(mounted.path(), "stat ."), "of another user");
}

fn suid_dev_and_all_users_are_honoured_if_asked_for(rig: &Rig<'_>) {
    let mounted = rig.memfs(MemFsOptions::default());
    make_null(&mounted.path().join("null"));
    OpenOptions::new().write(true).open(mounted.path().join("null")).expect("a device that works");
    fs::set_permissions(mounted.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    rig.user(mounted.path()).finish();
}

fn become_root(at: &Path, _: &mut Server<'_>) {
    fs::copy("/usr/bin/id", at.join("id")).expect("copied");
    fs::set_permissions(at.join("id"), fs::Permissions::from_mode(0o4755)).expect("changed");
    assert!(as_nobody(at, "test $(id -u) = 65534 && test $(./id -u) = 0"));
    assert!(as_nobody(at, "touch own"));
    assert_eq!(fs::metadata(at.join("own")).expect("made").uid(), NOBODY);
}

fn make_null(at: &Path) {
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, at, FileType::CharacterDevice, mode, makedev(1, 3)).expect("a node");
}

fn what_cannot_be_mounted_on_says_why(rig: &Rig<'_>) {
    let file = rig.dir().join("file");
    File::create(&file).expect("made");
    for (at, expected) in [(rig.dir().join("missing"), Errno::NOENT), (file, Errno::NOTDIR)] {
        let fs = Arc::new(MemFs::default());
        let mount = rig.frontend().mount(fs, &at, &MountOptions::default(), rig.runtime.handle());
        let error = mount.err().expect("refused");
        let MountError::Mount { path, source } = error else { panic!("another error: {error}") };
        assert_eq!(path, at);
        // An error of the standard library has no number.
        let told = Errno::from_io_error(&source) == Some(expected);
        assert!(told || source.kind() == ErrorKind::NotADirectory, "{source}");
        assert_eq!(mount_line(&at), None);
    }
}

fn the_umask_applies_once_with_acls_too(rig: &Rig<'_>) {
    let caps = Caps { posix_acl: true, ..Caps::default() };
    let mounted = rig.memfs(MemFsOptions { caps, ..MemFsOptions::default() });
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 027; touch f; mkdir d; mkfifo p; ln -s f l"]).current_dir(mounted.path());
    assert!(shell.stdin(Stdio::null()).status().expect("a shell").success());
    let mode =
        |name| fs::symlink_metadata(mounted.path().join(name)).expect("made").permissions().mode() & 0o7777;
    assert_eq!(["f", "d", "p", "l"].map(mode), [0o640, 0o750, 0o640, 0o777]);
}

fn acls_decide_where_the_filesystem_wants_it(rig: &Rig<'_>) {
    for posix_acl in [true, false] {
        let caps = Caps { posix_acl, ..Caps::default() };
        let mounted = rig.memfs(MemFsOptions { caps, ..MemFsOptions::default() });
        mounted.fs.add_file("f", b"for few");
        let file = mounted.path().join("f");
        // As a filesystem does by itself when it is given an ACL: the group's bits show the mask.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(!as_nobody(mounted.path(), "cat f"));
        if posix_acl {
            let acl = acl::granting(acl::READ, NOBODY);
            setxattr(&file, acl::ACCESS, &acl, XattrFlags::empty()).expect("set");
            assert_eq!(xattr::get(&file, acl::ACCESS).expect("read"), Some(acl));
            assert!(as_nobody(mounted.path(), "cat f"), "the ACL grants it");
            let acl = acl::granting(acl::READ, NOBODY - 1);
            setxattr(&file, acl::ACCESS, &acl, XattrFlags::empty()).expect("set");
            assert!(!as_nobody(mounted.path(), "cat f"), "it grants it to somebody else now");
        }
    }
}

/// Whatever it is called and whatever is in it, by a relative path too.
fn any_directory_can_be_mounted_on(rig: &Rig<'_>) {
    std::env::set_current_dir(rig.dir()).expect("our own");
    fs::create_dir("real").expect("made");
    symlink("real", "link").expect("linked");
    for at in
        ["plain", "with blanks,commas=and\\back\\\\slashes", "-o", "\u{43f} \u{1f980}", "new\nline", "link"]
    {
        let at = Path::new(at);
        if !at.exists() {
            fs::create_dir(at).expect("made");
        }
        fs::write(at.join("below"), "below").expect("written");
        let fs = Arc::new(MemFs::default());
        fs.add_file("above", b"above");
        let mount = rig.frontend().mount(fs, at, &MountOptions::default(), rig.runtime.handle());
        let mount = mount.unwrap_or_else(|error| panic!("{at:?}: {error}"));
        assert_eq!(fs::read(at.join("above")).expect("read"), b"above", "{at:?}");
        assert!(!at.join("below").exists(), "{at:?}");
        eventually("it is unused", || rig.runtime.block_on(mount.unmount(false)).is_ok());
        assert_eq!(fs::read(at.join("below")).expect("read"), b"below", "{at:?}");
    }
}
