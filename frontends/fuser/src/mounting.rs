//! Mounting: from a directory and options to a descriptor of `/dev/fuse` that serves it.
//!
//! fuser could do this too, but its session then unmounts *the path* once more when it ends, and hits whatever
//! was mounted there meanwhile.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use aysfs_vfs::{MountError, MountOptions};
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::NAME;

/// Options that every mount has; `default_permissions` lets the kernel check permissions.
const ALWAYS: &str = "subtype=aysfs,default_permissions";

/// Mounts on the directory `at`: itself as root, by `fusermount3` otherwise.
pub(crate) fn mount(at: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |source| MountError::Mount { path: at.to_owned(), source };
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::NoDevice)?;
    let root = fs::metadata(at).map_err(refused)?;
    if !root.is_dir() {
        return Err(refused(io::ErrorKind::NotADirectory.into()));
    }
    if rustix::process::geteuid().is_root() {
        directly(at, root.mode(), options, device).map_err(refused)
    } else {
        by_helper(at, &helper_options(options)?).map_err(refused)
    }
}

fn directly(at: &Path, mode: u32, options: &MountOptions, device: File) -> io::Result<OwnedFd> {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},{ALWAYS}{}",
        device.as_raw_fd(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let data = CString::new(data)?;
    rustix::mount::mount(options.source.as_str(), at, "fuse", flags, &*data)?;
    Ok(device.into())
}

/// The options as the helper takes them.
fn helper_options(options: &MountOptions) -> Result<String, MountError> {
    let needs_root = |option| Err(MountError::Unsupported { frontend: NAME, option });
    if options.suid {
        return needs_root("suid without root privileges");
    }
    if options.dev {
        return needs_root("dev without root privileges");
    }
    // Options are separated by commas.
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    Ok(format!(
        "fsname={source},{ALWAYS}{}{}",
        if options.allow_other { ",allow_other" } else { "" },
        if options.read_only { ",ro" } else { "" },
    ))
}

/// Has `fusermount3` mount, and takes the descriptor that it sends through its standard input.
fn by_helper(at: &Path, options: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut helper = Command::new("fusermount3");
    helper.args(["-o", options, "--"]).arg(at).env("_FUSE_COMMFD", "0");
    helper.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = match helper.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "fusermount3 was not found: install the package fuse3, or mount as root";
            return Err(io::Error::other(advice));
        }
        output => output?,
    };
    // Our copy of the other end goes with it, so that there is an end if nothing was sent.
    drop(helper);
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&ours, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let sent = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    sent.ok_or_else(|| io::Error::other("fusermount3 sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_can_honour_suid_and_dev() {
        for options in [
            MountOptions { suid: true, ..MountOptions::default() },
            MountOptions { dev: true, ..MountOptions::default() },
        ] {
            let error = helper_options(&options).expect_err("the helper would drop it silently");
            assert!(matches!(error, MountError::Unsupported { frontend: "fuser", .. }), "{error}");
        }
    }

    #[test]
    fn a_source_cannot_smuggle_options_past_the_helper() {
        let options = MountOptions { source: r"a\b,suid".into(), read_only: true, ..MountOptions::default() };
        let expected = r"fsname=a\\b\,suid,subtype=aysfs,default_permissions,ro";
        assert_eq!(helper_options(&options).expect("nothing needs root"), expected);
    }
}
