//! The adapter side of the contract: mounting a [`Vfs`](crate::Vfs) with one FUSE library.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

use crate::{Ino, Name, Vfs};

/// An adapter from one FUSE library.
pub trait Frontend: Send + Sync {
    /// The value of the config key `lib` that selects it.
    fn name(&self) -> &'static str;

    /// Mounts `vfs` on the directory `at` and serves it in the background until it is unmounted.
    ///
    /// When it returns, the mount answers. Requests that have to wait are moved to `runtime`
    /// (see [`drive`](crate::drive)).
    ///
    /// # Errors
    /// An option that the library cannot honour is [`MountError::Unsupported`], never silence.
    fn mount(
        &self,
        vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError>;
}

/// A filesystem that is mounted. Dropping it unmounts.
#[async_trait]
pub trait Mount: Send + Sync {
    /// Returns when the filesystem is not mounted any more, whoever unmounted it, and every request that was
    /// under way has its answer.
    async fn unmounted(&self);

    /// Unmounts, and waits for the end of requests that are under way.
    ///
    /// # Errors
    /// [`MountError::Busy`] while files are open or a process has its working directory here, unless `detach`:
    /// then the name disappears, this returns at once, and the filesystem is served until its last user is gone
    /// (which [`unmounted`](Self::unmounted) waits for).
    async fn unmount(&self, detach: bool) -> Result<(), MountError>;

    /// Makes the kernel drop the attributes and the content it has cached of `ino`. An inode that the kernel
    /// does not know is no error.
    ///
    /// Must not be called from within a request on the same inode: the kernel may wait for that request.
    fn invalidate_inode(&self, ino: Ino) -> io::Result<()>;

    /// Makes the kernel forget what `name` in `parent` is. A name that the kernel does not know is no error.
    ///
    /// Must not be called from within a request on the same directory: the kernel may wait for that request.
    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()>;
}

/// How to mount. The defaults are the safe choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What `mount` shows as the source.
    pub source: String,
    /// Refuse writes in the kernel already.
    pub read_only: bool,
    /// Let users other than the one who mounts use it (`allow_other`).
    pub allow_other: bool,
    /// Honour set-uid and set-gid bits.
    pub suid: bool,
    /// Honour device nodes.
    pub dev: bool,
    /// Whether the kernel reads and writes local files directly.
    pub passthrough: Passthrough,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "aysfs".into(),
            read_only: false,
            allow_other: false,
            suid: false,
            dev: false,
            passthrough: Passthrough::Auto,
        }
    }
}

/// Use of FUSE passthrough (Documentation/filesystems/fuse/fuse-passthrough.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// Where library, kernel and privileges allow it.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Why something could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The library has no way to do what an option asks for.
    #[error("{frontend} cannot honour {option}: choose another lib= or change the option")]
    Unsupported {
        /// The frontend's name.
        frontend: &'static str,
        /// The option, as the user knows it.
        option: &'static str,
    },
    /// `/dev/fuse` could not be opened.
    #[error(
        "cannot open /dev/fuse: load the kernel module fuse, or give this user (or container) access to the device"
    )]
    NoDevice(#[source] io::Error),
    /// The mount point is missing, not a directory, or may not be mounted on.
    #[error("cannot mount on {}", .path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel or the mount helper said.
        #[source]
        source: io::Error,
    },
    /// Someone uses the filesystem.
    #[error("{} is busy: close the files that are open there, or unmount lazily", .0.display())]
    Busy(PathBuf),
    /// The kernel refused to unmount for another reason.
    #[error("cannot unmount {}", .path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
