//! The side of the process that serves mounts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::answers;
use super::place::{self, Socket};
use super::protocol::{MAX_REQUEST, PATIENCE, Progress, Reply, Request, read_line, write_line};
use crate::about::{About, Shows};
use crate::jobs::Asking;
use crate::mount_points::Device;
use crate::mounts::Mounted;
use crate::reload::Reloaded;

/// How many clients are answered at the same time; others wait.
const CLIENTS: usize = 16;

/// One mount, as far as it can be asked about.
pub(crate) struct Served {
    pub(crate) point: PathBuf,
    pub(crate) device: Device,
    /// Its number in the mount table.
    pub(crate) id: u64,
    /// Directory of the backend.
    pub(crate) backend: PathBuf,
    pub(crate) shows: Shows,
    /// Of one that has a flist.
    pub(crate) reload: Option<Asking<Reloaded>>,
    pub(crate) about: Arc<About>,
    pub(crate) mounted: Weak<Mounted>,
    /// Set when it is not mounted any more: the kernel gives its device number to somebody else then.
    pub(crate) is_gone: Arc<AtomicBool>,
}

impl Served {
    pub(super) fn is_mounted(&self) -> bool {
        let has_changes = match &self.shows {
            Shows::Base(_) => true,
            Shows::Changes(changes) => changes.strong_count() > 0,
        };
        has_changes && !self.is_gone.load(Ordering::Relaxed)
    }
}

/// A control socket that is answered until it is dropped.
pub(crate) struct Control {
    task: JoinHandle<()>,
    // The process may end before the task has noticed that it is to end.
    _socket: Socket,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Control {
    /// Answers for these mounts. Without a socket they work as well, so that is no more than a warning.
    pub(crate) async fn start(mounts: Vec<Served>) -> Option<Self> {
        match place::listen().await {
            Ok((socket, listener)) => {
                Some(Self { task: tokio::spawn(serve(listener, mounts.into())), _socket: socket })
            }
            Err(error) => {
                warn!("no control socket, so the other commands will not find these mounts: {error}");
                None
            }
        }
    }
}

async fn serve(listener: UnixListener, mounts: Arc<[Served]>) {
    let slots = Arc::new(Semaphore::new(CLIENTS));
    // Dropped with this future, and with it what they do.
    let mut clients = JoinSet::new();
    loop {
        let slot = slots.clone().acquire_owned().await.expect("it is never closed");
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let mounts = mounts.clone();
                clients.spawn(async move {
                    client(stream, &mounts).await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!("the control socket fails: {error}");
                // Out of descriptors, most likely: it passes.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: UnixStream, mounts: &[Served]) {
    let uid = stream.peer_cred().map(|peer| peer.uid());
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut answer = Answer::new(writer);
    let own = rustix::process::geteuid().as_raw();
    let request = match uid {
        Ok(uid) if uid == own || uid == 0 => {
            match timeout(PATIENCE, read_line::<Request>(&mut reader, MAX_REQUEST)).await {
                Ok(Ok(Some(request))) => Ok(request),
                Ok(Ok(None)) => return,
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no request came".to_owned()),
            }
        }
        Ok(_) => Err(format!("only user {own} and root are answered")),
        Err(error) => Err(format!("cannot tell who asks: {error}")),
    };
    let gone = async {
        // Nothing follows a request but the end.
        reader.read_u8().await.ok();
    };
    let work = async {
        let result = match request {
            Ok(request) => answers::answer(request, mounts, &mut answer).await,
            Err(refused) => Err(anyhow::anyhow!(refused)),
        };
        let last = match result {
            Ok(value) => Reply::Done(value),
            Err(error) => Reply::Error(format!("{error:#}")),
        };
        answer.send(&last).await?;
        answer.flush().await
    };
    tokio::select! {
        sent = work => {
            if let Err(error) = sent {
                debug!("a client did not take its answer: {error:#}");
            }
        }
        () = gone => debug!("a client went away before it had its answer"),
    }
}

/// What is said to one client.
pub(super) struct Answer(BufWriter<OwnedWriteHalf>);

impl Answer {
    pub(super) fn new(client: OwnedWriteHalf) -> Self {
        Self(BufWriter::new(client))
    }

    /// Says a part of the result.
    pub(super) async fn item(&mut self, item: &impl Serialize) -> anyhow::Result<()> {
        let item = json!({ "item": item });
        self.write(&item).await
    }

    /// Says how far it is, now.
    pub(super) async fn progress(&mut self, progress: Progress) -> anyhow::Result<()> {
        self.send(&Reply::Progress(progress)).await?;
        self.flush().await
    }

    async fn send(&mut self, reply: &Reply) -> anyhow::Result<()> {
        self.write(&serde_json::to_value(reply)?).await
    }

    async fn write(&mut self, value: &Value) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, write_line(&mut self.0, value)).await??)
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(timeout(PATIENCE, self.0.flush()).await??)
    }
}
