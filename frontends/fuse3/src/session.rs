//! A session of fuse3, from the mount to the last answer.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use aysfs_vfs::Vfs;
use aysfs_vfs::kernel::Mounted;
use fuse3::MountOptions;
use fuse3::raw::MountHandle;
use futures::FutureExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::adapter::Adapter;
use crate::calls::Calls;
use crate::device::{self, Notices};
use crate::pause::{Paused, pause};

/// A session's descriptor can be found only while there is one that was not found yet.
static MOUNTING: Mutex<()> = Mutex::new(());

/// A session that serves.
pub(crate) struct Session {
    pub(crate) mounted: Mounted,
    pub(crate) notices: Notices,
    /// Its sender is dropped with the last answer.
    pub(crate) ended: watch::Receiver<()>,
}

impl Session {
    /// Mounts `vfs` on `path`, by `fusermount3` with `options`, and serves it on threads of its own.
    pub(crate) fn begin(
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        options: String,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let _alone = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let (alive, ended) = watch::channel(());
        let caps = vfs.caps();
        let mut settings = MountOptions::default();
        settings
            .nonempty(true)
            .custom_options(options)
            // The kernel gets this option by `options` in any case; to fuse3 it means ACLs.
            .default_permissions(caps.posix_acl)
            .no_open_support(caps.stateless)
            .no_open_dir_support(caps.stateless);
        let (pause, paused) = pause();
        let adapter = Adapter::new(Calls::new(vfs, runtime.clone()), caps.stateless, pause, alive);
        let session = fuse3::raw::Session::new(settings);
        let workers = workers()?;
        let (tell, told) = mpsc::channel();
        let life = Life { path, stateless: caps.stateless, ended: ended.clone(), tell };
        thread::Builder::new().name("aysfs-fuse3".into()).spawn(move || {
            workers.block_on(async {
                match session.mount_with_unprivileged(adapter, &life.path).await {
                    Ok(handle) => life.live(handle, paused).await,
                    Err(error) => life.tell(Err(not_mounted(error))),
                }
            });
            workers.shutdown_background();
        })?;
        let (mounted, notices) = told.recv().map_err(|_| ended_early())??;
        Ok(Self { mounted, notices, ended })
    }
}

/// The threads that read messages and answer what can be answered at once.
///
/// They are not those of the one who mounts: a mount must be served even while all of them wait for it. There are more than
/// there may be processors, since what is answered at once may still need the disk for a moment, and others go on meanwhile.
fn workers() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(4).thread_name("aysfs-fuse3").enable_all().build()
}

/// What lies ahead of a session that was mounted.
struct Life {
    path: PathBuf,
    stateless: bool,
    ended: watch::Receiver<()>,
    tell: mpsc::Sender<io::Result<(Mounted, Notices)>>,
}

impl Life {
    /// Waits for the end of the session, and for its last answer.
    async fn live(mut self, mut handle: MountHandle, mut paused: Paused) {
        let (mounted, device) = match self.look_around(&mut paused).await {
            Ok(found) => found,
            Err(error) => {
                // Dropped, it would unmount whatever is on the path by then.
                mem::forget(handle);
                return self.tell(Err(error));
            }
        };
        if self.stateless {
            mounted.raise_readahead();
        }
        // Closed when the session ends: a connection lives for as long as someone has a descriptor of it.
        let device = Arc::new(device);
        drop(paused);
        self.tell(Ok((mounted.clone(), Notices::new(Arc::downgrade(&device)))));
        // fuse3 passes on a panic of its own.
        let outcome = AssertUnwindSafe(&mut handle).catch_unwind().await;
        drop((handle, device));
        let failed = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it panicked".to_owned()),
        };
        if let Some(error) = failed {
            tracing::error!(%error, "the session of {} failed; unmounting", mounted.path().display());
            mounted.unmount_lazily();
        }
        while self.ended.changed().await.is_ok() {}
    }

    /// Finds the mount, and a descriptor that serves it.
    async fn look_around(&self, paused: &mut Paused) -> io::Result<(Mounted, OwnedFd)> {
        if !paused.session_is_held().await {
            return Err(ended_early());
        }
        let mounted = Mounted::find(self.path.clone())?;
        match device::duplicate(&mounted) {
            Ok(device) => Ok((mounted, device)),
            Err(error) => {
                mounted.unmount_lazily();
                Err(error)
            }
        }
    }

    fn tell(&self, begun: io::Result<(Mounted, Notices)>) {
        // Nobody listens if this process is going down.
        let _ = self.tell.send(begun);
    }
}

/// fuse3 does not pass on what `fusermount3` says.
fn not_mounted(error: io::Error) -> io::Error {
    let installed = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file()));
    match installed {
        true => io::Error::other(format!("fusermount3 refused, its message is on standard error ({error})")),
        false => io::Error::other("fusermount3 was not found: install the package fuse3"),
    }
}

fn ended_early() -> io::Error {
    io::Error::other("it was unmounted before it was served")
}
