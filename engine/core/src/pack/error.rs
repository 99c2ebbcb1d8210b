//! Why content could not be stored.

use std::io;
use std::path::{Path, PathBuf};

use aysfs_store::StoreError;

/// Why content could not be stored. Paths are those of the entries.
#[derive(Debug)]
pub(crate) enum UploadError {
    Read {
        path: PathBuf,
        source: io::Error,
    },
    /// It would not fit its size and its times.
    Changing(PathBuf),
    Store(StoreError),
    /// What is kept on disk meanwhile cannot be written, or read again.
    Spool(io::Error),
}

impl UploadError {
    /// The same, with the path of a file below `root`.
    pub(super) fn below(self, root: &Path) -> Self {
        match self {
            Self::Read { path, source } => Self::Read { path: root.join(path), source },
            Self::Changing(path) => Self::Changing(root.join(path)),
            Self::Store(_) | Self::Spool(_) => self,
        }
    }
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Runs what would hold up others on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(job).await.expect("reading does not panic")
}
