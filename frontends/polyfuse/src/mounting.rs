//! Mounting, which polyfuse leaves to a program: `PROGRAM -o OPTIONS -- DIRECTORY`, which is to send it a descriptor of
//! `/dev/fuse` through an inherited socket. With `fusermount3` as that program three things would be lost:
//!
//! - options: polyfuse cuts them at commas, escaped or not, and strips white space;
//! - the reason of a failure: it waits for a descriptor, and tells that none came;
//! - other mounts: when a session ends, polyfuse once more has `DIRECTORY` unmounted by its name, whatever was mounted
//!   there meanwhile.
//!
//! So the program is the shell, and `DIRECTORY` a script without a name, in memory: it becomes `fusermount3` with the true
//! arguments. Nothing is ever mounted on a script.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;

use aysfs_vfs::kernel::Mounted;
use polyfuse::{KernelConfig, Session};
use rustix::fs::{Access, MemfdFlags, access, memfd_create};
use rustix::process::{Pid, WaitOptions, waitpid};

/// The program that polyfuse runs.
const SHELL: &str = "/bin/sh";
/// The program that the script becomes.
const HELPER: &str = "fusermount3";
/// Where programs are if the environment does not say.
const DEFAULT_PATH: &str = "/usr/bin:/bin";

/// Mounts on the directory `at` with the `options` of `fusermount3 -o`.
pub(crate) fn mount(at: &Path, options: &str, mut config: KernelConfig) -> io::Result<(Session, Mounted)> {
    if options.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the source holds a NUL byte"));
    }
    let below = Mounted::find(at.to_owned())?;
    let helper = helper(&env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))?;
    let mut said = Unnamed::new("aysfs-helper-said")?;
    let mut script = Unnamed::new("aysfs-mount")?;
    let text = script_text(helper.as_os_str(), options, at, &said.path());
    script.file.write_all(&text)?;

    config.auto_unmount(false).fusermount_path(SHELL);
    match Session::mount(script.path(), config) {
        Ok(session) => Ok((session, Mounted::find(at.to_owned())?)),
        Err(error) => match Mounted::find(at.to_owned()) {
            // Mounted, but not agreed with the kernel.
            Ok(mounted) if mounted != below => {
                mounted.unmount_lazily();
                Err(error)
            }
            _ => match reason(&mut said.file)? {
                reason if reason.is_empty() => Err(error),
                reason => Err(io::Error::other(reason)),
            },
        },
    }
}

/// The absolute path of the helper.
fn helper(path: &OsStr) -> io::Result<PathBuf> {
    let runs = |program: &PathBuf| program.is_absolute() && access(program, Access::EXEC_OK).is_ok();
    env::split_paths(path).map(|dir| dir.join(HELPER)).find(runs).ok_or_else(|| {
        io::Error::other("fusermount3 was not found: install the package fuse3, or choose another lib=")
    })
}

/// Notes which process it is, for [`reason`], and becomes the helper.
fn script_text(helper: &OsStr, options: &str, at: &Path, said: &Path) -> Vec<u8> {
    let said = quoted(said.as_os_str());
    let arguments = [helper, "-o".as_ref(), options.as_ref(), "--".as_ref(), at.as_os_str()].map(quoted);
    [b"echo $$ >", &*said, b"; exec ", &arguments.join(&b' '), b" 2>>", &said, b"\n"].concat()
}

/// One word of the shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// What the helper said when it failed. polyfuse does not wait for its end then, so that is done here.
fn reason(said: &mut File) -> io::Result<String> {
    let mut words = Vec::new();
    said.read_to_end(&mut words)?;
    let number = words.iter().position(|byte| *byte == b'\n').map(|end| words.drain(..=end).collect());
    let process =
        number.and_then(|line| Pid::from_raw(String::from_utf8(line).ok()?.trim_end().parse().ok()?));
    let Some(process) = process else {
        return Ok(format!("{SHELL} did not run {HELPER}: is it there, and is /proc mounted?"));
    };
    // Fails if it is no child of ours any more, which is what is wanted.
    let _ = waitpid(Some(process), WaitOptions::empty());
    said.read_to_end(&mut words)?;
    Ok(String::from_utf8_lossy(&words).trim().to_owned())
}

/// A file in memory that other processes of this user find while it is open here.
struct Unnamed {
    file: File,
}

impl Unnamed {
    fn new(label: &str) -> io::Result<Self> {
        Ok(Self { file: memfd_create(label, MemfdFlags::CLOEXEC)?.into() })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}
