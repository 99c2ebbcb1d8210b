//! What other users may, and what the kernel does to modes for them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::case::cases;
use crate::nobody::{NOBODY, as_nobody};

cases! { Write "access":
    the_kernel_checks_permissions
    sticky_directories_protect_names
    writing_takes_set_uid_away
    a_new_owner_takes_set_uid_away
    the_umask_applies_once
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
}

/// The mount point itself, and what leads to it, must let others in.
fn open_up(at: &Path) {
    set_mode(at, 0o755);
}

fn the_kernel_checks_permissions(at: &Path) {
    open_up(at);
    fs::write(at.join("secret"), "x").expect("written");
    set_mode(&at.join("secret"), 0o600);
    fs::write(at.join("public"), "x").expect("written");
    set_mode(&at.join("public"), 0o646);
    fs::create_dir(at.join("closed")).expect("made");
    fs::write(at.join("closed/inside"), "x").expect("written");
    set_mode(&at.join("closed"), 0o700);
    assert!(!as_nobody(at, "cat secret"));
    assert!(!as_nobody(at, "echo y > secret"));
    assert!(!as_nobody(at, "ls closed"));
    assert!(!as_nobody(at, "cat closed/inside"));
    assert!(!as_nobody(at, "touch new"));
    assert!(!as_nobody(at, "chmod 777 public"));
    assert!(as_nobody(at, "test ! -r secret && test -w public"));
    assert!(as_nobody(at, "echo y > public && cat public"));
    assert_eq!(fs::read(at.join("public")).expect("read"), b"y\n");
}

fn sticky_directories_protect_names(at: &Path) {
    open_up(at);
    fs::create_dir(at.join("tmp")).expect("made");
    set_mode(&at.join("tmp"), 0o1777);
    File::create(at.join("tmp/roots")).expect("made");
    set_mode(&at.join("tmp/roots"), 0o666);
    assert!(as_nobody(at, "touch tmp/own"));
    assert!(!as_nobody(at, "rm -f tmp/roots"));
    assert!(!as_nobody(at, "mv tmp/roots tmp/stolen"));
    assert!(!as_nobody(at, "mv tmp/own tmp/roots"));
    assert_eq!(fs::metadata(at.join("tmp/own")).expect("made").uid(), NOBODY);
    assert!(as_nobody(at, "mv tmp/own tmp/renamed && rm tmp/renamed"));
}

fn writing_takes_set_uid_away(at: &Path) {
    open_up(at);
    let file = at.join("f");
    fs::write(&file, "x").expect("written");
    set_mode(&file, 0o6777);
    fs::write(&file, "by root").expect("written");
    assert_eq!(mode(&file), 0o6777, "root may keep the bits");
    assert!(as_nobody(at, "echo more >> f"));
    assert_eq!(mode(&file), 0o777);
    for change in ["truncate -s 9 f", "fallocate -l 9 f", "printf %s \"by rootmo\" 1<> f"] {
        set_mode(&file, 0o6777);
        assert!(as_nobody(at, change), "{change}");
        assert_eq!(mode(&file), 0o777, "{change}");
    }
    assert_eq!(fs::read(&file).expect("read"), b"by rootmo");
}

fn a_new_owner_takes_set_uid_away(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    set_mode(&file, 0o6711);
    chown(&file, Some(1), Some(1)).expect("changed");
    assert_eq!(mode(&file), 0o711);
    fs::create_dir(at.join("d")).expect("made");
    set_mode(&at.join("d"), 0o2755);
    chown(at.join("d"), Some(1), Some(1)).expect("changed");
    assert_eq!(mode(&at.join("d")), 0o2755, "of a directory the bit means something else");
}

fn the_umask_applies_once(at: &Path) {
    let shell = |command| {
        let status = Command::new("sh").args(["-c", command]).current_dir(at).status().expect("a shell");
        assert!(status.success(), "{command}");
    };
    shell("umask 027; touch f; mkdir d; mkfifo p");
    assert_eq!(["f", "d", "p"].map(|name| mode(&at.join(name))), [0o640, 0o750, 0o640]);
    shell("umask 0; touch f0; mkdir d0");
    assert_eq!(["f0", "d0"].map(|name| mode(&at.join(name))), [0o666, 0o777]);
}
