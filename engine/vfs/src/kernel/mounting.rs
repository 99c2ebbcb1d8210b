//! Mounting: from a directory and options to a descriptor of `/dev/fuse` that serves it.

use std::ffi::CString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{MountError, MountOptions};

/// Options that every mount has; `default_permissions` lets the kernel check permissions.
const ALWAYS: &str = "subtype=aysfs,default_permissions";

/// Mounts on the directory `at`: itself as root, by `fusermount3` otherwise. `frontend` is named in errors.
///
/// # Errors
/// [`MountError::NoDevice`] without access to `/dev/fuse`, [`MountError::Mount`] with what the kernel or the helper said,
/// [`MountError::Unsupported`] for what only root may ask for.
pub fn mount(frontend: &'static str, at: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |source| MountError::Mount { path: at.to_owned(), source };
    let (device, root) = ready(at)?;
    if rustix::process::geteuid().is_root() {
        directly(at, root.mode(), options, device).map_err(refused)
    } else {
        by_helper(at, &helper_options(frontend, options)?).map_err(refused)
    }
}

/// Whether `at` could be mounted on, for a library that mounts by itself and says less when it fails.
///
/// # Errors
/// [`MountError::NoDevice`] without access to `/dev/fuse`, [`MountError::Mount`] for what is not a directory.
pub fn check(at: &Path) -> Result<(), MountError> {
    ready(at).map(drop)
}

fn ready(at: &Path) -> Result<(File, Metadata), MountError> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::NoDevice)?;
    let root = fs::metadata(at).and_then(|root| match root.is_dir() {
        true => Ok(root),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    Ok((device, root.map_err(|source| MountError::Mount { path: at.to_owned(), source })?))
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

/// The options as `fusermount3 -o` takes them, for a library that can mount in no other way. `frontend` is named in errors.
///
/// # Errors
/// [`MountError::Unsupported`] for what the helper would silently drop: it honours `suid` and `dev` only for root.
pub fn helper_options(frontend: &'static str, options: &MountOptions) -> Result<String, MountError> {
    let privileged = rustix::process::geteuid().is_root();
    helper_options_of(frontend, options, privileged)
}

fn helper_options_of(
    frontend: &'static str,
    options: &MountOptions,
    privileged: bool,
) -> Result<String, MountError> {
    let needs_root = |option| Err(MountError::Unsupported { frontend, option });
    if options.suid && !privileged {
        return needs_root("suid without root privileges");
    }
    if options.dev && !privileged {
        return needs_root("dev without root privileges");
    }
    // Options are separated by commas.
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut listed = format!("fsname={source},{ALWAYS}");
    for (option, asked) in [
        ("allow_other", options.allow_other),
        ("ro", options.read_only),
        ("suid", options.suid),
        ("dev", options.dev),
    ] {
        if asked {
            listed.push(',');
            listed.push_str(option);
        }
    }
    Ok(listed)
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
            let error =
                helper_options_of("x", &options, false).expect_err("the helper would drop it silently");
            assert!(matches!(error, MountError::Unsupported { frontend: "x", .. }), "{error}");
            helper_options_of("x", &options, true).expect("the helper honours it");
        }
    }

    #[test]
    fn a_source_cannot_smuggle_options_past_the_helper() {
        let options = MountOptions { source: r"a\b,suid".into(), read_only: true, ..MountOptions::default() };
        let expected = r"fsname=a\\b\,suid,subtype=aysfs,default_permissions,ro";
        assert_eq!(helper_options_of("x", &options, false).expect("nothing needs root"), expected);
    }
}
