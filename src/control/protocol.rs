//! What goes over the control socket: JSON, one value a line. A request, then replies, of which the last is a result or an error.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cleaning::Instead;
use crate::mount_points::{Detach, Device};

/// The longest request, in bytes.
pub(super) const MAX_REQUEST: u64 = 64 << 10;

/// The longest reply, in bytes: a path of the greatest depth, each byte of it escaped twice, has room.
pub(super) const MAX_REPLY: u64 = 8 << 20;

/// How long either side waits for the other to send or to take a line that costs no work.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Which mounts the process serves.
    Mounts {},
    /// What is different from the base.
    Diff { mount: Device },
    /// The tree as a new flist. The caller writes it: with his rights, not with those of the one who mounted.
    Commit { mount: Device, name: Option<String>, version: Option<u64> },
    /// Sends what is new to the stor now.
    Push { mount: Device },
    /// The newest flist.
    Reload { mount: Device },
    /// What is in the cache.
    CacheStat { mount: Device },
    /// Less in the cache: within its limits, or other ones.
    CacheClean { mount: Device, instead: Instead, dry_run: bool },
    /// What one mount is, or each, and how it is doing.
    Status { mount: Option<Device> },
    /// Where what a path below the root shows comes from; in base64, since it need not be UTF-8.
    Why { mount: Device, path: String },
    /// Brings the content of these paths below the root, and of what is below them, into the cache; in base64.
    Warm { mount: Device, paths: Vec<String> },
    /// Notes what is read, for as long as the client listens.
    Record { mount: Device },
    /// What was noted so far.
    Recorded { mount: Device },
    /// Take a mount away, the one that has this number in the mount table.
    Unmount { mount: Device, id: u64, detach: Detach },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    /// One of many parts of the result.
    Item(Value),
    /// How far it is.
    Progress(Progress),
    /// The result: nothing follows.
    Done(Value),
    /// Why there is no result: nothing follows.
    Error(String),
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Entries found so far; of a job that fetches, the files that are dealt with.
    pub(crate) entries: u64,
    /// Bytes found so far.
    pub(crate) bytes_found: u64,
    /// Bytes that are dealt with.
    pub(crate) bytes_done: u64,
}

/// The result of [`Request::Mounts`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Device>,
}

/// One item of [`Request::Diff`], as the command prints it too.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) change: Kind,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) from: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) what: Vec<String>,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
    Renamed,
}

/// One item of [`Request::Commit`]: a piece of the flist, in base64, since it need not be UTF-8.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) flist: String,
}

/// The result of [`Request::Commit`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) entries: u64,
    pub(crate) files: u64,
    pub(crate) reused: u64,
    pub(crate) new_objects: u64,
    pub(crate) new_bytes: u64,
    /// The length of the flist.
    pub(crate) flist_bytes: u64,
}

/// One item of [`Request::Push`]: a file that has to wait.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Waits {
    pub(crate) path: String,
    pub(crate) why: String,
}

/// The result of [`Request::Push`], as the command prints it too.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pushed {
    pub(crate) files: u64,
    pub(crate) new_objects: u64,
    pub(crate) new_bytes: u64,
    /// Of the flist, if it is another one than before.
    pub(crate) version: Option<u64>,
    pub(crate) published: bool,
    /// How many files have to wait.
    pub(crate) waiting: u64,
}

/// A line that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended in the middle of a line")]
    Cut,
    #[error("a line is longer than {0} bytes")]
    TooLong(u64),
    #[error("a line is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads a line of at most `limit` bytes; `None` at the end.
pub(super) async fn read_line<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: u64,
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    let read = (&mut *reader).take(limit + 1).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if read as u64 > limit => Err(LineError::TooLong(limit)),
        Some(_) => Err(LineError::Cut),
    }
}

/// Writes a line; it may stay in a buffer.
pub(super) async fn write_line<T: Serialize>(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], limit: u64) -> Result<Option<Request>, LineError> {
        read_line(&mut &*bytes, limit).await
    }

    #[tokio::test]
    async fn a_line_that_cannot_be_used_is_one_clear_error() {
        let request = read(b"{\"request\":\"diff\",\"mount\":\"0:57\"}\nmore", MAX_REQUEST).await;
        let mount = "0:57".parse().expect("a device");
        assert_eq!(request.expect("fine"), Some(Request::Diff { mount }));
        assert!(read(b"", MAX_REQUEST).await.expect("the end").is_none());
        for (bytes, limit, message) in [
            (&b"{\"request\":\"mounts\"}"[..], MAX_REQUEST, "the connection ended in the middle of a line"),
            (b"{\"request\":\"mounts\"}\n", 5, "a line is longer than 5 bytes"),
            (b"12345", 5, "the connection ended in the middle of a line"),
            (b"\xff\n", MAX_REQUEST, "a line is not understood: expected value at line 1 column 1"),
            (
                b"{\"request\":\"format\"}\n",
                MAX_REQUEST,
                "a line is not understood: unknown variant `format`, expected one of `mounts`, `diff`, `commit`, `push`, \
                 `reload`, `cache-stat`, `cache-clean`, `status`, `why`, `warm`, `record`, `recorded`, `unmount` at line 1 column 19",
            ),
        ] {
            let error = read(bytes, limit).await.expect_err("of no use").to_string();
            assert_eq!(error, message);
        }
    }
}
