//! What can go wrong, and the errno that says so to the calling program.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustix::io::Errno;

/// The result of a call of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: what kind of failure, and why, for the log.
///
/// An error without a cause allocates nothing, so that the common answers (no such name, no such attribute)
/// cost nothing; it is not logged either.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure with the story behind it.
    pub fn new(kind: ErrorKind, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, cause: Some(cause.into()) }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The errno that the calling program sees.
    pub fn errno(&self) -> Errno {
        self.kind.errno()
    }

    /// What lies behind it; an error that has a cause deserves a line in the log.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync)> {
        self.cause.as_deref()
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, cause: None }
    }
}

/// An error of the local filesystem keeps its errno where the contract has a word for it, and becomes
/// [`ErrorKind::Io`] with itself as the cause where not.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().and_then(|raw| ErrorKind::from_errno(Errno::from_raw_os_error(raw))) {
            Some(kind) => kind.into(),
            None => Self::new(ErrorKind::Io, error),
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)?;
        // The whole chain: the innermost cause is the one that tells what to do.
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Declares the kinds once: the variant, its message, its errno.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $errno:ident, $message:literal;)*) => {
        /// The kinds of failure that a program can tell apart, each one errno.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The errno of this kind.
            pub fn errno(self) -> Errno {
                match self {
                    $(Self::$kind => Errno::$errno,)*
                }
            }
        }

        impl fmt::Display for ErrorKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$kind => $message,)*
                })
            }
        }
    };
}

kinds! {
    /// No such name, or no such inode.
    NotFound = NOENT, "no such file or directory";
    /// The name is taken.
    Exists = EXIST, "the file exists already";
    /// A directory was needed.
    NotADirectory = NOTDIR, "not a directory";
    /// Anything but a directory was needed.
    IsADirectory = ISDIR, "is a directory";
    /// The directory has entries.
    NotEmpty = NOTEMPTY, "the directory is not empty";
    /// The mount does not accept changes.
    ReadOnly = ROFS, "the filesystem is read-only";
    /// The mode bits or an ACL forbid it.
    AccessDenied = ACCESS, "permission denied";
    /// Only a privileged user or the owner may.
    NotPermitted = PERM, "operation not permitted";
    /// Arguments that no file could satisfy.
    Invalid = INVAL, "invalid argument";
    /// A name of more than 255 bytes.
    NameTooLong = NAMETOOLONG, "the name is too long";
    /// Content could not be had, or the local disk failed.
    Io = IO, "input/output error";
    /// The caller was interrupted by a signal.
    Interrupted = INTR, "interrupted";
    /// Not for this file, this flag or this filesystem.
    NotSupported = OPNOTSUPP, "operation not supported";
    /// Never on this mount: the kernel stops asking for as long as it is mounted.
    Never = NOSYS, "operation not implemented";
    /// The two names cannot be brought together without copying.
    CrossDevice = XDEV, "cross-device link";
    /// The inode has as many names as it can have.
    TooManyLinks = MLINK, "too many links";
    /// The inode or handle is gone.
    Stale = STALE, "stale file handle";
    /// No such extended attribute.
    NoData = NODATA, "no such attribute";
    /// The answer does not fit the caller's buffer.
    BufferTooSmall = RANGE, "the buffer is too small";
    /// The value is larger than the filesystem keeps.
    TooBig = TOOBIG, "the value is too big";
    /// The file would be larger than the filesystem allows.
    FileTooLarge = FBIG, "the file is too large";
    /// No space on the local disk.
    NoSpace = NOSPC, "no space left on device";
    /// The user's quota on the local disk is used up.
    QuotaExceeded = DQUOT, "disk quota exceeded";
    /// Too many symlinks on the way.
    Loop = LOOP, "too many levels of symbolic links";
    /// The handle is not open, or not open for this.
    BadHandle = BADF, "bad file handle";
    /// Nothing at this place: `lseek` behind the last data, a device without a driver.
    NothingThere = NXIO, "no such device or address";
    /// A running program's file cannot be written.
    TextBusy = TXTBSY, "text file busy";
    /// In use.
    Busy = BUSY, "device or resource busy";
    /// Too many files are open in the whole system or in this process.
    TooManyOpenFiles = MFILE, "too many open files";
    /// Memory ran out.
    NoMemory = NOMEM, "out of memory";
    /// The value does not fit its type.
    Overflow = OVERFLOW, "value too large";
}

impl ErrorKind {
    fn from_errno(errno: Errno) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.errno() == errno && *kind != Self::Io && *kind != Self::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_an_errno_of_its_own() {
        let errnos: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.errno()).collect();
        assert_eq!(errnos.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn os_errors_keep_their_errno() {
        for kind in ErrorKind::ALL.iter().copied().filter(|kind| *kind != ErrorKind::Never) {
            assert_eq!(Error::from(kind.errno()).errno(), kind.errno());
        }
    }

    #[test]
    fn a_foreign_enosys_never_reaches_the_kernel() {
        assert_eq!(Error::from(Errno::NOSYS).errno(), Errno::IO);
    }

    #[test]
    fn the_message_holds_the_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("fetch of {0} failed")]
        struct Outer(&'static str, #[source] io::Error);
        let error = Error::new(ErrorKind::Io, Outer("abc", io::Error::other("connection refused")));
        assert_eq!(error.to_string(), "input/output error: fetch of abc failed: connection refused");
    }
}
