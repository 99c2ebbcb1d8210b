//! Whether anybody else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// The signal that tells of a lease that has to be given back; the one of most use is that it is ignored unless someone wants it.
const IGNORED: libc::c_int = libc::SIGURG;

/// `F_SETSIG`, which `libc` lacks.
const F_SETSIG: libc::c_int = 10;

/// Whether this is the only open description of the file in the whole system: no other process has it open, none has it
/// mapped, and the kernel reads it for nobody.
///
/// The kernel grants a lease for writing to none but the only one (fcntl(2), "Leases"). It is given back at once; whoever
/// opens the file in between waits that long, or is told `EAGAIN` if he does not want to wait. Where there are no leases the answer is no.
pub(super) fn is_sole_user(file: &File) -> bool {
    // Who opens it in between has the kernel send a signal, by default one that ends this process.
    if !fcntl(file, F_SETSIG, IGNORED) || !fcntl(file, libc::F_SETLEASE, libc::F_WRLCK) {
        return false;
    }
    fcntl(file, libc::F_SETLEASE, libc::F_UNLCK)
}

/// A `fcntl` whose argument is a number.
#[allow(unsafe_code)]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: the descriptor is open, and with these commands the kernel reads no memory of ours.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_who_has_it_open_is_noticed_however_he_does() {
        let named = tempfile::NamedTempFile::new().expect("a file");
        let open = || File::open(named.path()).expect("opened");
        named.as_file().set_len(4096).expect("resized");
        let file = open();
        assert!(!is_sole_user(&file), "who made it can write to it");
        let path = named.into_temp_path();
        assert!(is_sole_user(&file) && is_sole_user(&file));
        let other = File::open(&path).expect("opened");
        assert!(!is_sole_user(&file));
        drop(other);
        let copy = file.try_clone().expect("another descriptor");
        assert!(is_sole_user(&file), "of the same description");
        drop(copy);
    }
}
