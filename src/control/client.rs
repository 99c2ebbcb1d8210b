//! The side of a subcommand: from a mount point to an answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::place::{self, Found};
use super::protocol::{MAX_REPLY, Mounts, PATIENCE, Progress, Reply, Request, read_line, write_line};
use crate::mount_points::{self, MountPoint};

/// How long a filesystem is given to say that nobody serves it.
const DEAD: Duration = Duration::from_secs(5);

/// A mount, and the socket of the process that serves it.
pub(crate) struct Asked {
    mount: MountPoint,
    socket: Found,
}

impl Asked {
    /// Finds who serves what is mounted on `point`, however it is typed.
    pub(crate) async fn find(point: &Path) -> anyhow::Result<Self> {
        let mount = mount_points::ours(point)?;
        let (shown, own) = (point.display(), rustix::process::geteuid().as_raw());
        if own != mount.user && own != 0 {
            bail!("{shown} was mounted by user {}: only that user and root may ask about it", mount.user);
        }
        for directory in place::directories(mount.user) {
            let sockets = match place::sockets(&directory, mount.user) {
                Ok(sockets) => sockets,
                Err(error) => {
                    tracing::debug!("{}: {error}", directory.display());
                    continue;
                }
            };
            for socket in sockets {
                match serves(&socket, &mount).await {
                    Ok(true) => return Ok(Self { mount, socket }),
                    Ok(false) => {}
                    Err(error) => tracing::debug!("{}: {error:#}", socket.path().display()),
                }
            }
        }
        if is_dead(&mount).await {
            bail!(
                "the process that served {shown} is gone: take the mount away with aysfs umount --lazy {shown}, and mount again"
            );
        }
        bail!(
            "the process that serves {shown} has no control socket here: its log says why, or it is in another container"
        )
    }

    /// Lets the kernel hand over what was written to mapped files; only it knows that. One who may not look into the mount
    /// (root, without allow_other) does without, and is told so.
    pub(crate) async fn sync(&self) -> anyhow::Result<()> {
        let point = self.mount.point.clone();
        let synced = tokio::task::spawn_blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::syncfs(rustix::fs::open(&point, flags, Mode::empty())?)
        });
        if let Err(error) = synced.await? {
            tracing::warn!(
                "{}: what was written to mapped files lately may be missing, since this user cannot look into the mount \
                 ({error}): ask as user {}",
                self.mount.point.display(),
                self.mount.user
            );
        }
        Ok(())
    }

    pub(crate) fn mount(&self) -> &MountPoint {
        &self.mount
    }

    /// Sends a request; gives each item to `item` and each message about the progress to `progress`, and returns the result.
    pub(crate) async fn ask<I: DeserializeOwned, R: DeserializeOwned>(
        &self,
        request: &Request,
        mut item: impl FnMut(I) -> anyhow::Result<()>,
        mut progress: impl FnMut(Progress),
    ) -> anyhow::Result<R> {
        let mut stream = BufReader::new(connect(&self.socket, self.mount.user).await?);
        send(&mut stream, request).await?;
        loop {
            // The work may take any time.
            match read_line::<Reply>(&mut stream, MAX_REPLY).await? {
                Some(Reply::Item(value)) => item(serde_json::from_value(value)?)?,
                Some(Reply::Progress(now)) => progress(now),
                Some(Reply::Done(value)) => return Ok(serde_json::from_value(value)?),
                Some(Reply::Error(error)) => return Err(said(&error)),
                None => bail!(
                    "the process that serves {} ended before it had answered",
                    self.mount.point.display()
                ),
            }
        }
    }
}

/// Whether the process behind a socket serves a mount.
async fn serves(socket: &Found, mount: &MountPoint) -> anyhow::Result<bool> {
    let mut stream = BufReader::new(connect(socket, mount.user).await?);
    send(&mut stream, &Request::Mounts {}).await?;
    match timeout(PATIENCE, read_line::<Reply>(&mut stream, MAX_REPLY)).await?? {
        Some(Reply::Done(value)) => {
            Ok(serde_json::from_value::<Mounts>(value)?.mounts.contains(&mount.device))
        }
        Some(Reply::Error(error)) => Err(said(&error)),
        Some(Reply::Item(_) | Reply::Progress(_)) | None => bail!("no answer"),
    }
}

/// Connects to a process of `user`: root looks into directories that others can write.
async fn connect(socket: &Found, user: u32) -> anyhow::Result<UnixStream> {
    let stream = socket.connect().await?;
    let peer = stream.peer_cred()?.uid();
    if peer != user && peer != 0 {
        bail!("user {peer} listens there");
    }
    Ok(stream)
}

async fn send(stream: &mut BufReader<UnixStream>, request: &Request) -> anyhow::Result<()> {
    let send = async {
        write_line(stream, request).await?;
        stream.flush().await
    };
    timeout(PATIENCE, send)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
        .flatten()
        .context("cannot ask")
}

/// What the other side says: nothing in it may change how a terminal behaves.
fn said(error: &str) -> anyhow::Error {
    let plain: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    anyhow!(plain)
}

/// Whether nobody serves a mount any more.
async fn is_dead(mount: &MountPoint) -> bool {
    let point = mount.point.clone();
    // Asks whoever serves it; a day-long answer about attributes would not do.
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statfs(&point));
    matches!(
        timeout(DEAD, asked).await,
        Ok(Ok(Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)))
    )
}
