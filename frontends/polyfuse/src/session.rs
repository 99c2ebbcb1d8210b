//! What the requests of a mount share, the threads that read them, and how each gets exactly one answer.

use std::future::Future;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use aysfs_vfs::kernel::{self, Mounted};
use aysfs_vfs::{Ino, Result, Vfs, drive};
use polyfuse::bytes::Bytes;
use polyfuse::{Request, Session};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::requests::{Interrupts, Requests};

/// What every request holds on to; the mount is over when nobody does any more.
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) requests: Requests,
    pub(crate) agreed: Agreed,
    runtime: Handle,
    _alive: mpsc::Sender<()>,
}

/// What the kernel and this adapter agreed on when the mount began.
#[derive(Clone, Copy)]
pub(crate) struct Agreed {
    /// The kernel can do without open.
    pub(crate) no_open: bool,
    /// The kernel can do without opendir.
    pub(crate) no_opendir: bool,
    /// The umask is left to the filesystem.
    pub(crate) umask_is_ours: bool,
}

/// Serves `session` on threads of its own, until the kernel says that it is over; the receiver then sees its sender
/// dropped.
pub(crate) fn serve(
    session: Arc<Session>,
    vfs: Arc<dyn Vfs>,
    agreed: Agreed,
    runtime: Handle,
    mounted: Mounted,
) -> io::Result<watch::Receiver<()>> {
    let (alive, last_request) = mpsc::channel();
    let (over, ended) = watch::channel(());
    let shared = Arc::new(Shared { vfs, requests: Requests::default(), agreed, runtime, _alive: alive });
    thread::Builder::new().name("aysfs-polyfuse".into()).spawn(move || {
        read_on_threads(&session, &shared, &mounted);
        drop(shared);
        // A request under way can be answered only as long as there is a session.
        let _: Result<(), mpsc::RecvError> = last_request.recv();
        drop(session);
        drop(over);
    })?;
    Ok(ended)
}

/// One thread to read while another answers; more than four gain nothing, since whatever waits moves away.
fn read_on_threads(session: &Session, shared: &Arc<Shared>, mounted: &Mounted) {
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
    thread::scope(|scope| {
        for _ in 1..threads {
            let another = thread::Builder::new().name("aysfs-polyfuse".into());
            if let Err(error) = another.spawn_scoped(scope, || read(session, shared, mounted)) {
                tracing::warn!(%error, "{} is served by fewer threads", mounted.path().display());
            }
        }
        read(session, shared, mounted);
    });
}

/// Reads requests and starts them, until there are no more.
fn read(session: &Session, shared: &Arc<Shared>, mounted: &Mounted) {
    loop {
        match session.next_request() {
            Ok(Some(request)) => shared.handle(request),
            Ok(None) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "the session of {} failed; unmounting", mounted.path().display());
                return mounted.unmount_lazily();
            }
        }
    }
}

impl Shared {
    /// Runs a call that changes nothing, and answers with what it returns; an interrupt ends it.
    pub(crate) fn query<T, F>(
        self: &Arc<Self>,
        asked: (Request, &'static str, Ino),
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
    ) where
        T: Bytes,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.run(asked, Interrupts::EndIt, call);
    }

    /// Runs a call that changes something, and answers with what it returns.
    pub(crate) fn change<T, F>(
        self: &Arc<Self>,
        asked: (Request, &'static str, Ino),
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
    ) where
        T: Bytes,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.run(asked, Interrupts::AreIgnored, call);
    }

    pub(crate) fn run<T, F>(
        self: &Arc<Self>,
        asked: (Request, &'static str, Ino),
        interrupts: Interrupts,
        call: impl FnOnce(Arc<dyn Vfs>) -> F,
    ) where
        T: Bytes,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let call = call(Arc::clone(&self.vfs));
        self.drive(asked, interrupts, |asked| async move {
            let outcome = call.await;
            asked.answer(outcome);
        });
    }

    /// Drives a request that answers itself.
    pub(crate) fn drive<F>(
        self: &Arc<Self>,
        (request, operation, ino): (Request, &'static str, Ino),
        interrupts: Interrupts,
        serve: impl FnOnce(Asked) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let number = request.unique();
        self.requests.begin(number, interrupts);
        let asked = Asked { request, operation, ino, answered: false, shared: Arc::clone(self) };
        if let Some(task) = drive(&self.runtime, serve(asked)) {
            self.requests.wait(number, &task);
        }
    }
}

/// A request that wants one answer.
///
/// If it is dropped without, its call was interrupted, or has panicked, or the answer was not one: that is the answer.
pub(crate) struct Asked {
    // Goes before what keeps the session alive.
    request: Request,
    operation: &'static str,
    ino: Ino,
    answered: bool,
    shared: Arc<Shared>,
}

impl Asked {
    /// Answers with the outcome of the call.
    pub(crate) fn answer(self, outcome: Result<impl Bytes>) {
        match outcome {
            Ok(value) => self.send(value),
            Err(error) => {
                let errno = self.errno(&error);
                self.refuse(errno);
            }
        }
    }

    /// The errno of a failed call; logs what has a story.
    pub(crate) fn errno(&self, error: &aysfs_vfs::Error) -> Errno {
        kernel::errno(self.operation, self.ino, error)
    }

    pub(crate) fn send(mut self, value: impl Bytes) {
        self.answered = told(self.request.reply(value));
    }

    pub(crate) fn refuse(mut self, errno: Errno) {
        self.answered = told(self.request.reply_error(errno.raw_os_error()));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let number = self.request.unique();
        if !self.answered {
            let interrupted = self.shared.requests.interrupted(number);
            refuse(&self.request, if interrupted { Errno::INTR } else { Errno::IO });
        }
        self.shared.requests.end(number);
    }
}

/// Answers a request that needs no call.
pub(crate) fn refuse(request: &Request, errno: Errno) {
    told(request.reply_error(errno.raw_os_error()));
}

/// Whether the kernel took an answer: it does not if nobody waits for it any more.
fn told(answer: io::Result<()>) -> bool {
    if let Err(error) = &answer {
        tracing::debug!(%error, "an answer was not taken");
    }
    answer.is_ok()
}
