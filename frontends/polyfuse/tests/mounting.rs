//! Mounting in the one way that polyfuse knows, by a helper: what reaches it, and what it says.

use std::env;
use std::error::Error;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, id};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aysfs_frontend_polyfuse::Polyfuse;
use aysfs_vfs::memfs::MemFs;
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A directory that is not a mount point any more when it is removed.
struct MountPoint(TempDir);

impl MountPoint {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a mount point"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What is mounted on it, as the mount table calls it.
    fn source(&self) -> Option<String> {
        let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
        let mut lines = table.lines().map(|line| line.split(' '));
        lines.find_map(|mut fields| {
            let source = fields.next()?;
            (fields.next()? == self.path().to_str()?).then(|| unescaped(source))
        })
    }

    fn mount(&self, source: &str, runtime: &Runtime) -> Result<Box<dyn Mount>, MountError> {
        let options = MountOptions { source: source.into(), ..MountOptions::default() };
        Polyfuse.mount(Arc::new(MemFs::default()), self.path(), &options, runtime.handle())
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // Fails where nothing is mounted, which is what is wanted.
        let _ = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Three octal digits stand for a byte that would end a field.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut parts = field.split('\\');
    bytes.extend(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at(3);
        bytes.push(u8::from_str_radix(digits, 8).expect("three octal digits"));
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("what was given to the kernel is text")
}

/// The innermost cause is the one that tells what to do.
fn cause(error: &MountError) -> String {
    error.source().expect("it has a cause").to_string()
}

/// Runs a test of this name in another process, for which programs are found in `path`.
fn with_programs_in(path: &str, test: &str) {
    let program = env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture"]).env("PATH", path).env(THERE, "1");
    let output = command.output().expect("this program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
}

/// Tells a process that it is the other one.
const THERE: &str = "AYSFS_OTHER_PROGRAMS";

#[test]
fn any_source_is_shown_as_it_is() {
    let runtime = Runtime::new().expect("a runtime");
    for source in [
        "plain",
        " , a ,  b , ",
        "ends in white space ",
        "a,auto_unmount,dev",
        r#"\it's "quoted" $HOME `id` \, \"#,
        "two\nlines\tÄ€",
    ] {
        let at = MountPoint::new();
        let _mount = at.mount(source, &runtime).expect("mounted");
        assert_eq!(at.source().as_deref(), Some(source));
    }
}

#[test]
fn what_the_helper_says_is_the_reason() {
    let (at, runtime) = (MountPoint::new(), Runtime::new().expect("a runtime"));
    // The kernel takes a page of it at most.
    let error = at.mount(&"x".repeat(5000), &runtime).err().expect("refused");
    assert!(matches!(&error, MountError::Mount { path, .. } if path == at.path()), "{error}");
    assert!(cause(&error).contains("fusermount3: mount failed: "), "{}", cause(&error));
    assert_eq!(at.source(), None);
    // Other tests here wait for theirs in time.
    let end = Instant::now() + Duration::from_secs(60);
    while has_dead_child() {
        assert!(Instant::now() < end, "nobody waits for the helper's end");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_source_that_no_program_can_be_given_is_refused() {
    let (at, runtime) = (MountPoint::new(), Runtime::new().expect("a runtime"));
    let error = at.mount("a\0b", &runtime).err().expect("refused");
    assert_eq!(cause(&error), "the source holds a NUL byte");
    assert_eq!(at.source(), None);
}

/// Whether a child of this process has ended, and was not waited for.
fn has_dead_child() -> bool {
    let processes = fs::read_dir("/proc").expect("the processes").filter_map(Result::ok);
    let mut stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.any(|stat| {
        // The name is in parentheses, and may hold anything.
        let behind_name = stat.rsplit(") ").next().unwrap_or_default();
        behind_name.starts_with(&format!("Z {} ", id()))
    })
}

#[test]
fn without_a_helper_the_error_says_what_to_install() {
    if env::var_os(THERE).is_none() {
        return with_programs_in("/nonexistent", "without_a_helper_the_error_says_what_to_install");
    }
    let (at, runtime) = (MountPoint::new(), Runtime::new().expect("a runtime"));
    let error = at.mount("none", &runtime).err().expect("refused");
    assert!(cause(&error).contains("install the package fuse3"), "{}", cause(&error));
}

/// Mounts, and breaks the connection before anything was agreed on.
const BREAKING_HELPER: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
fusermount3 "$@" || exit
shift $(($# - 1))
while read -r _ _ device _ at _; do
    [ "$at" = "$1" ] && number=${device#*:}
done </proc/self/mountinfo
export number
exec unshare --mount sh -c '
    mount -t fusectl fusectl /sys/fs/fuse/connections && echo 1 >/sys/fs/fuse/connections/$number/abort
'
"#;

#[test]
fn a_mount_that_fails_half_way_is_taken_away() {
    if env::var_os(THERE).is_none() {
        let programs = tempfile::tempdir().expect("a directory");
        let helper = programs.path().join("fusermount3");
        fs::write(&helper, BREAKING_HELPER).expect("written");
        fs::set_permissions(&helper, Permissions::from_mode(0o755)).expect("a program");
        let path = programs.path().to_str().expect("a plain path");
        return with_programs_in(path, "a_mount_that_fails_half_way_is_taken_away");
    }
    let (at, runtime) = (MountPoint::new(), Runtime::new().expect("a runtime"));
    let error = at.mount("broken", &runtime).err().expect("nobody answers");
    assert_eq!(cause(&error), "No such device (os error 19)");
    assert_eq!(at.source(), None);
}
