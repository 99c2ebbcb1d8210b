//! The session's descriptor of `/dev/fuse`: what fuse3 does not show, and what it does not send.
//!
//! fuse3 0.10 can notify the kernel, but leaves the name out of `FUSE_NOTIFY_INVAL_ENTRY`, takes the kernel's refusal
//! (and its mere "not known") for the end of the session, and keeps the errors to itself. So notifications are written
//! here, to a duplicate of the session's descriptor.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Weak;

use aysfs_vfs::kernel::{Mounted, Notifier};
use aysfs_vfs::{Ino, Name};
use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};

/// `FUSE_NOTIFY_INVAL_INODE`.
const INVALIDATE_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`.
const INVALIDATE_ENTRY: i32 = 3;
/// `struct fuse_out_header`.
const HEADER: usize = 16;

/// The way to the kernel's caches, as long as the session holds the descriptor.
pub(crate) struct Notices(Weak<OwnedFd>);

impl Notices {
    pub(crate) fn new(device: Weak<OwnedFd>) -> Self {
        Self(device)
    }

    fn send(&self, code: i32, body: &[&[u8]]) -> io::Result<()> {
        // Where nothing is mounted, nothing is known.
        let device = self.0.upgrade().ok_or(Errno::NOENT)?;
        rustix::io::write(device, &message(code, body))?;
        Ok(())
    }
}

impl Notifier for Notices {
    fn invalidate_inode(&self, ino: Ino) -> io::Result<()> {
        // `struct fuse_notify_inval_inode_out`: from the start, to the end.
        let (offset, len) = (0_i64, 0_i64);
        self.send(INVALIDATE_INODE, &[&ino.0.to_ne_bytes(), &offset.to_ne_bytes(), &len.to_ne_bytes()])
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()> {
        // `struct fuse_notify_inval_entry_out`, then the name with its end.
        let name = name.as_bytes();
        let length = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let flags = 0_u32;
        self.send(
            INVALIDATE_ENTRY,
            &[&parent.0.to_ne_bytes(), &length.to_ne_bytes(), &flags.to_ne_bytes(), name, &[0]],
        )
    }
}

/// A notification: an answer to nothing, whose error is the code.
fn message(code: i32, body: &[&[u8]]) -> Vec<u8> {
    let length = HEADER + body.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).expect("a few numbers and a name");
    let unique = 0_u64;
    let header = [&length.to_ne_bytes()[..], &code.to_ne_bytes(), &unique.to_ne_bytes()];
    [&header, body].concat().concat()
}

/// Duplicates the descriptor that serves `mounted`, and keeps the original from the programs that this process starts: one
/// that outlives it would keep the mount from ending.
///
/// fuse3 leaves its descriptors open to those programs. So it is the one that was not here before, provided that nobody
/// else uses fuse3 in this process at this moment.
///
/// To be called while the session cannot close it.
pub(crate) fn duplicate(mounted: &Mounted) -> io::Result<OwnedFd> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(number.filter(|number| is_new(*number, mounted)));
    }
    let [number] = found[..] else {
        return Err(io::Error::other(format!(
            "{} descriptors of /dev/fuse in /proc/self/fd could be that of the new mount: mount again",
            found.len()
        )));
    };
    keep_and_clone(number)
}

fn is_new(number: RawFd, mounted: &Mounted) -> bool {
    let is_fuse =
        fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|file| file == Path::new("/dev/fuse"));
    is_fuse
        && fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
            .is_ok_and(|info| describes_new(&info, mounted.connection()))
}

/// Whether it is left open to programs, and is of no other connection; older kernels do not tell the latter.
fn describes_new(info: &str, connection: u32) -> bool {
    let value = |key| info.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()));
    let flags = value("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
    flags.is_some_and(|flags| !OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC))
        && value("fuse_connection:").is_none_or(|number| number.parse() == Ok(connection))
}

#[allow(unsafe_code)]
fn keep_and_clone(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the session holds the descriptor, and cannot let go of it before the caller of `duplicate` returns to it.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(original, FdFlags::CLOEXEC)?;
    original.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_as_long_as_it_says() {
        let parts: &[&[u8]] = &[&1_u64.to_ne_bytes(), b"name", &[0]];
        let message = message(INVALIDATE_ENTRY, parts);
        assert_eq!(message.len(), 16 + 8 + 5);
        assert_eq!(message[..4], 29_u32.to_ne_bytes());
        assert_eq!(message[4..8], 3_i32.to_ne_bytes());
        assert_eq!(message[24..], *b"name\0");
    }

    #[test]
    fn a_new_descriptor_is_told_from_others() {
        let of_an_older_kernel = "pos:\t0\nflags:\t0104002\nmnt_id:\t24\n";
        assert!(describes_new(of_an_older_kernel, 39));
        assert!(describes_new("flags:\t0104002\nfuse_connection:\t39\n", 39));
        assert!(!describes_new("flags:\t0104002\nfuse_connection:\t40\n", 39));
        assert!(!describes_new("flags:\t02104002\nfuse_connection:\t39\n", 39), "it was found before");
    }
}
