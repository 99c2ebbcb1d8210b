//! The side of a subcommand: from a mount point to an answer.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::future::join_all;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::place::{self, Found};
use super::protocol::{MAX_REPLY, Mounts, PATIENCE, Progress, Reply, Request, read_line, write_line};
use super::status::MountStatus;
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
        Self::serving(mount_points::ours(point)?, point).await
    }

    /// Finds who serves a mount, which the user calls `shown`.
    pub(crate) async fn serving(mount: MountPoint, shown: &Path) -> anyhow::Result<Self> {
        let (shown, own) = (shown.display(), rustix::process::geteuid().as_raw());
        if own != mount.user && own != 0 {
            bail!("{shown} was mounted by user {}: only that user and root may ask about it", mount.user);
        }
        for socket in sockets(mount.user) {
            match serves(&socket, &mount).await {
                Ok(true) => return Ok(Self { mount, socket }),
                Ok(false) => {}
                Err(error) => tracing::debug!("{}: {error:#}", socket.path().display()),
            }
        }
        bail!("{}", silence(&mount, &shown).await)
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
        item: impl FnMut(I) -> anyhow::Result<()>,
        progress: impl FnMut(Progress),
    ) -> anyhow::Result<R> {
        converse(&self.socket, self.mount.user, request, item, progress).await?.with_context(|| {
            format!("the process that serves {} ended before it had answered", self.mount.point.display())
        })
    }
}

/// Sends a request and takes the answer; `None` if it ends before the result.
async fn converse<I: DeserializeOwned, R: DeserializeOwned>(
    socket: &Found,
    user: u32,
    request: &Request,
    mut item: impl FnMut(I) -> anyhow::Result<()>,
    mut progress: impl FnMut(Progress),
) -> anyhow::Result<Option<R>> {
    let mut stream = BufReader::new(connect(socket, user).await?);
    send(&mut stream, request).await?;
    loop {
        // The work may take any time.
        match read_line::<Reply>(&mut stream, MAX_REPLY).await? {
            Some(Reply::Item(value)) => item(serde_json::from_value(value)?)?,
            Some(Reply::Progress(now)) => progress(now),
            Some(Reply::Done(value)) => return Ok(Some(serde_json::from_value(value)?)),
            Some(Reply::Error(error)) => return Err(said(&error)),
            None => return Ok(None),
        }
    }
}

/// What processes say of their mounts, and the mounts of which none does, with the reason.
pub(crate) struct Everything {
    pub(crate) served: Vec<MountStatus>,
    pub(crate) silent: Vec<(MountPoint, String)>,
}

/// Asks about all mounts that this user may ask about.
pub(crate) async fn everything() -> anyhow::Result<Everything> {
    let own = rustix::process::geteuid().as_raw();
    let mounts: Vec<_> =
        mount_points::all_ours()?.into_iter().filter(|mount| own == 0 || own == mount.user).collect();
    let users: BTreeSet<u32> = mounts.iter().map(|mount| mount.user).collect();
    let processes =
        users.into_iter().flat_map(|user| sockets(user).into_iter().map(move |socket| (user, socket)));
    // At the same time: one that hangs costs the others nothing.
    let answers = join_all(processes.map(|(user, socket)| async move {
        let answered = timeout(DEAD, statuses(&socket, user)).await;
        let answered = answered.map_err(|_| anyhow!("no answer within {DEAD:?}")).flatten();
        answered.unwrap_or_else(|error| {
            tracing::debug!("{}: {error:#}", socket.path().display());
            Vec::new()
        })
    }));
    let served: Vec<MountStatus> = answers.await.into_iter().flatten().collect();
    let mut silent = Vec::new();
    for mount in mounts {
        if !served.iter().any(|status| status.device == mount.device) {
            let reason = silence(&mount, &mount.point.display()).await;
            silent.push((mount, reason));
        }
    }
    Ok(Everything { served, silent })
}

/// What a process says of its mounts.
async fn statuses(socket: &Found, user: u32) -> anyhow::Result<Vec<MountStatus>> {
    let mut statuses = Vec::new();
    let take = |status| {
        statuses.push(status);
        Ok(())
    };
    let () = converse(socket, user, &Request::Status { mount: None }, take, |_| {})
        .await?
        .context("it ended before it had answered")?;
    Ok(statuses)
}

/// The control sockets of processes of a user.
fn sockets(user: u32) -> Vec<Found> {
    let mut found = Vec::new();
    for directory in place::directories(user) {
        match place::sockets(&directory, user) {
            Ok(sockets) => found.extend(sockets),
            Err(error) => tracing::debug!("{}: {error}", directory.display()),
        }
    }
    found
}

/// Why nobody answers for a mount.
async fn silence(mount: &MountPoint, shown: &impl fmt::Display) -> String {
    if is_dead(mount).await {
        return format!(
            "the process that served {shown} is gone: take the mount away with aysfs umount --lazy {shown}, and mount again"
        );
    }
    format!(
        "the process that serves {shown} has no control socket here, or does not answer: its log says why, or it is in another container"
    )
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
