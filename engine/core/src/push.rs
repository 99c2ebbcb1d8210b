//! Keeping a stor, and a published flist, up with the local changes of a mount: mode RW.
//!
//! A round sends what is new, makes the tree a list, keeps that beside the local changes, and publishes it. What is
//! in the directory of a [`Pusher`]:
//!
//! | file | what |
//! |---|---|
//! | `published.flist` | the last list: all content that it names is in the stor |
//! | `state.json` | its version, and which one the stor has published |
//! | `journal` | what was sent and no list has named yet |
//!
//! List and state are replaced as a whole, in an order in which a crash at any point costs a repetition, no data: content, then the list,
//! then its publication, then what is remembered of that. The queue is the upper itself (see `overlay/pushed.rs`).
//!
//! A list is published only over the one that this mount published before. If another machine has replaced it, the push fails,
//! says so, and changes nothing.

mod journal;
mod log;
mod state;

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aysfs_flist::{Content, Dialect, Entry, Header, ObjectKey, Timestamp};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Sealing;
use aysfs_store::{
    ETag, Fault, Key, Mirror, Named, Namespace, Precondition, Replaced, StaticName, StoreError, Upload,
};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

pub(crate) use self::journal::Journal;
pub(crate) use self::log::TransactionLog;
use self::state::{Published, State};
use crate::overlay::{Destination, Missing, Overlay, PushOptions, SendError, SendProgress, Sent, Waiting};
use crate::pack::{self, ListError};
use crate::{durable, listed};

/// How long a file that is open for writing must have been left alone to be pushed.
const IDLE: Duration = Duration::from_mins(15);

/// The pauses between rounds while the stor cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long what was found to wait is good enough after a round that failed: each look takes as long as the tree is large.
const LOOKED: Duration = Duration::from_secs(30);

/// What a [`Pusher`] is to do.
#[derive(Clone, Debug)]
pub struct PusherOptions {
    /// A directory of its own.
    pub dir: PathBuf,
    /// The part of the stor that content goes to; it names the published list, too.
    pub namespace: Namespace,
    /// Whether the list is published.
    pub publish: bool,
    /// Where content goes.
    pub destination: Destination,
    /// How it is compressed.
    pub compression: Compression,
    /// The transaction log.
    pub log: PathBuf,
}

/// Pushes the changes of one mount.
pub struct Pusher {
    overlay: Overlay,
    options: PusherOptions,
    journal: Arc<Journal>,
    log: TransactionLog,
    /// Held during a round, and by its threads, which may end later: there is one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: tokio::sync::Mutex<State>,
    last: Mutex<Last>,
}

/// Whose turn it is to push.
pub(crate) type Turn = Arc<tokio::sync::OwnedMutexGuard<()>>;

/// What came of the last rounds.
#[derive(Clone, Debug, Default)]
struct Last {
    success: Option<SystemTime>,
    /// What the last one was stopped by, unless it succeeded.
    error: Option<String>,
    /// What had to be sent, when somebody looked last.
    pending: Vec<Waiting>,
    /// When that was.
    looked: Option<Instant>,
}

/// What a round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Files whose content was sent.
    pub files: u64,
    /// Objects that the stor did not have.
    pub new_objects: u64,
    /// Stored bytes of those.
    pub new_bytes: u64,
    /// The version of the list, if it is another one than before.
    pub version: Option<u64>,
    /// Whether it was published.
    pub published: bool,
    /// What waits for the next round.
    pub waiting: Vec<Waiting>,
}

impl Pushed {
    /// What this round did and the one before it.
    fn after(self, before: Self) -> Self {
        Self {
            files: self.files + before.files,
            new_objects: self.new_objects + before.new_objects,
            new_bytes: self.new_bytes + before.new_bytes,
            version: self.version.or(before.version),
            published: self.published || before.published,
            waiting: self.waiting,
        }
    }
}

/// How pushing stands.
#[derive(Clone, Debug)]
pub struct PushStatus {
    /// What has to be sent, the oldest first.
    pub pending: Vec<Waiting>,
    /// When a round succeeded last.
    pub last_success: Option<SystemTime>,
    /// What stopped the last one.
    pub last_error: Option<String>,
    /// The version of the last list, if there is one.
    pub version: Option<u64>,
}

/// Why local changes could not be pushed. Nothing is lost by it: they stay where they are, and are pushed by a later round.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PushError {
    #[error("cannot send new content")]
    Send(#[from] SendError),
    #[error("cannot keep the list of what is pushed in {}", .path.display())]
    Keep { path: PathBuf, source: io::Error },
    #[error(transparent)]
    List(#[from] ListError),
    #[error("cannot publish the flist: {0}")]
    Publish(StoreError),
    #[error(
        "the stor has another {name} than the one that this mount published last: another machine publishes under the same \
         namespace; give this mount a namespace of its own, or, if its tree is the one that counts, remove {name} from the stor"
    )]
    Stale { name: StaticName },
    #[error(
        "{} cannot be used: {reason}; put it right, or remove it to publish from the start",
        .path.display()
    )]
    State { path: PathBuf, reason: String },
}

impl PushError {
    /// Whether another round may succeed a little later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Send(SendError::Store(error)) | Self::Publish(error) => error.fault.is_transient(),
            Self::Send(_) | Self::Keep { .. } | Self::List(_) | Self::Stale { .. } | Self::State { .. } => {
                false
            }
        }
    }
}

impl Pusher {
    /// For the changes of one mount.
    ///
    /// # Errors
    /// If what it keeps cannot be read.
    pub fn open(overlay: Overlay, options: PusherOptions) -> Result<Self, PushError> {
        let kept = |path: &Path| {
            let path = path.to_owned();
            move |source| PushError::Keep { path, source }
        };
        let journal = options.dir.join("journal");
        let journal = Arc::new(Journal::open(journal.clone()).map_err(kept(&journal))?);
        let state = State::read(&state_in(&options.dir), &options.destination)?;
        let log = TransactionLog(options.log.clone());
        let last = Mutex::default();
        let (turn, state) = (Arc::default(), tokio::sync::Mutex::new(state));
        Ok(Self { overlay, options, journal, log, turn, state, last })
    }

    /// Pushes until there is nothing left that could be, however long the stor cannot be reached.
    ///
    /// # Errors
    /// What does not pass by waiting.
    pub async fn run(&self) -> Result<Pushed, PushError> {
        let (mut pause, mut done) = (FIRST_PAUSE, None);
        loop {
            match self.round(&Arc::default()).await {
                // Most wait for a moment only: a file that was closed just now, or replaced.
                Ok(pushed) if !pushed.waiting.is_empty() && done.is_none() => {
                    done = Some(pushed);
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!("cannot push, trying again in {pause:?}: {}", with_causes(&error));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                ended => return Ok(ended?.after(done.unwrap_or_default())),
            }
        }
    }

    /// Pushes once what there is to push. Dropping the future ends the work soon.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn round(&self, progress: &Arc<SendProgress>) -> Result<Pushed, PushError> {
        let turn = Arc::new(self.turn.clone().lock_owned().await);
        let mut state = self.state.lock().await;
        let pushed = self.push(&mut state, &turn, progress).await;
        match &pushed {
            Ok(pushed) => {
                let (success, error, looked) = (Some(SystemTime::now()), None, None);
                *self.last() = Last { success, error, pending: oldest_first(pushed.waiting.clone()), looked };
            }
            Err(error) => {
                self.last().error = Some(with_causes(error));
                // For whoever asks how it stands; the error that counts is the other one.
                self.status(LOOKED).await.ok();
            }
        }
        pushed
    }

    /// How pushing stands now. Local changes are looked at, unless somebody has done so within `fresh`.
    ///
    /// # Errors
    /// If they cannot be looked at.
    pub async fn status(&self, fresh: Duration) -> Result<PushStatus, PushError> {
        if self.last().looked.is_some_and(|looked| looked.elapsed() < fresh) {
            return Ok(self.known());
        }
        let mut pending = self.overlay.unsent(&self.options.destination).await?;
        {
            let mut last = self.last();
            let mut known: HashMap<_, _> = last.pending.drain(..).map(|file| (file.path, file.why)).collect();
            for file in &mut pending {
                file.why = known.remove(&file.path).flatten();
            }
            last.pending = oldest_first(pending);
            last.looked = Some(Instant::now());
        }
        Ok(self.known())
    }

    /// How pushing stood when somebody looked last.
    pub fn known(&self) -> PushStatus {
        let Last { success, error, pending, .. } = self.last().clone();
        let version = State::version_in(&self.state_path());
        PushStatus { pending, last_success: success, last_error: error, version }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nothing of a round is at work any more, also of one that was given up.
    pub async fn rest(&self) {
        drop(self.turn.lock().await);
    }

    async fn push(
        &self,
        state: &mut State,
        turn: &Turn,
        progress: &Arc<SendProgress>,
    ) -> Result<Pushed, PushError> {
        // Not before: on a full disk it can be mounted, too.
        let dir = self.options.dir.clone();
        let made = at_work(turn, move || {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| PushError::Keep { path: dir, source })
        });
        made.await?;
        let mut how = PushOptions {
            destination: self.options.destination.clone(),
            compression: self.options.compression,
            idle: IDLE,
            last_list: state.tree.is_some().then(|| self.list()),
            missing: Arc::new(Missing::default()),
        };
        let (mut pushed, mut is_again) = (Pushed::default(), false);
        let (sent, tree) = loop {
            let sent = self.overlay.send(&how, &self.journal, &self.log, turn, progress).await?;
            pushed.files += sent.files;
            pushed.new_objects += sent.new_objects;
            pushed.new_bytes += sent.new_bytes;
            pushed.waiting.clone_from(&sent.waiting);
            let (mut sent, tree) = self.digest(turn, sent).await?;
            if self.is_done(state, &tree) {
                break (sent, tree);
            }
            // What was sent a while ago may be gone: nothing is certain to be kept that no list has named which a collection of garbage knows.
            let missing = self.overlay.missing_of(&sent).await?;
            if !is_again && sent.can_mend(&missing) {
                tracing::warn!("content that was pushed is not in the stor any more: it is sent again");
                (how.missing, is_again) = (Arc::new(missing), true);
                continue;
            }
            sent.without(&missing)?;
            break if missing.has_gone() { self.digest(turn, sent).await? } else { (sent, tree) };
        };
        let (version, named) = self.keep(state, turn, sent, tree).await?;
        pushed.version = version;
        if self.options.publish {
            pushed.published = self.publish(state, turn).await?;
        }
        let journal = self.journal.clone();
        at_work(turn, move || journal.settle(&named)).await?;
        Ok(pushed)
    }

    fn list(&self) -> PathBuf {
        self.options.dir.join("published.flist")
    }

    /// Whether a tree with this digest is what was kept and published last. Of one that is not to be published nobody knows but this mount.
    fn is_done(&self, state: &State, tree: &str) -> bool {
        let is_published = state.published.as_ref().is_some_and(|published| published.tree == tree);
        state.tree.as_deref() == Some(tree) && is_published && self.options.publish
    }

    /// What tells a tree from another one, with the tree.
    async fn digest(&self, turn: &Turn, sent: Sent) -> Result<(Sent, String), PushError> {
        let header = self.named(&sent);
        at_work(turn, move || {
            let tree = digest(sent.entries.clone(), &header, sent.sealing.as_ref())?;
            Ok((sent, tree))
        })
        .await
    }

    fn named(&self, sent: &Sent) -> Header {
        Header { name: Some(self.options.namespace.to_string()), ..sent.header.clone() }
    }

    /// Keeps the tree as a list, if it is another one than before; returns its version then, and the objects that it names.
    async fn keep(
        &self,
        state: &mut State,
        turn: &Turn,
        sent: Sent,
        tree: String,
    ) -> Result<(Option<u64>, HashSet<Key>), PushError> {
        let (list, state_path, known) = (self.list(), self.state_path(), state.clone());
        let header = self.named(&sent);
        let kept = at_work(turn, move || {
            let Sent { entries, sealing, .. } = sent;
            let objects = entries.iter().filter_map(|entry| match entry.content {
                Some(Content::Object { key, .. }) => Some(key),
                Some(Content::V1(md5)) => Some(ObjectKey::Md5(md5)),
                _ => None,
            });
            let packs = header.packs.iter().map(|pack| pack.key);
            let named: HashSet<_> = objects.chain(packs).map(listed::key).collect();
            let unkept = |source| PushError::Keep { path: list.clone(), source };
            if known.tree.as_ref() == Some(&tree) && list.exists() {
                return Ok((None, named));
            }
            // Until it is written, nobody knows what the list says.
            remember(&State { tree: None, ..known.clone() }, &state_path)?;
            let version = known.version + 1;
            let created = jiff::Timestamp::now().round(jiff::Unit::Second).ok();
            let created = created.map(|created| created.to_string());
            let header = Header { version: Some(version), created, ..header };
            let part = durable::begin(&list).map_err(unkept)?;
            let out = BufWriter::new(part.as_file());
            pack::write(entries, out, Dialect::V2, &header, sealing.as_ref())?;
            durable::finish(part, &list).map_err(unkept)?;
            let state = State { version, tree: Some(tree), ..known };
            remember(&state, &state_path)?;
            Ok((Some(state), named))
        });
        let (new, named) = kept.await?;
        let version = new.as_ref().map(|new| new.version);
        if let Some(new) = new {
            *state = new;
        }
        Ok((version, named))
    }

    /// Publishes the list, unless the stor has it; returns whether it did.
    async fn publish(&self, state: &mut State, turn: &Turn) -> Result<bool, PushError> {
        if state.published.as_ref().is_some_and(|published| Some(&published.tree) == state.tree.as_ref()) {
            return Ok(false);
        }
        let path = self.list();
        let opened = at_work(turn, move || {
            let open = || {
                let file = File::open(&path)?;
                let mut digest = Digesting(Sha256::new());
                let length = io::copy(&mut &file, &mut digest)?;
                Ok((file, length, hex::encode(digest.0.finalize())))
            };
            open().map_err(|source| PushError::Keep { path: path.clone(), source })
        });
        let (file, length, sha256) = opened.await?;
        // Before it is sent, so that it is known as ours whatever happens meanwhile.
        if !state.sending.contains(&sha256) {
            state.sending.push(sha256.clone());
            self.remember(state, turn).await?;
        }
        let name = static_name(&self.options.namespace);
        let body = Upload::File { file: Arc::new(file), length };
        let condition = match &state.published {
            Some(published) => Precondition::Version(ETag(published.etag.clone())),
            None => Precondition::Absent,
        };
        let write = |condition| self.stors().write_named(&name, &body, condition);
        let written = match write(condition).await {
            Err(error) if matches!(error.fault, Fault::Conflict) => match self.list_in_stor(&name).await? {
                // It arrived, perhaps this very one, and a crash or the network kept that from us.
                Some((etag, there)) if state.sending.contains(&there) => {
                    write(Precondition::Version(etag)).await
                }
                Some(_) => return Err(PushError::Stale { name }),
                None => write(Precondition::Absent).await,
            },
            written => written,
        };
        let Replaced { etag, everywhere } = written.map_err(PushError::Publish)?;
        // A mirror that missed it has an old list, by which newer content would be garbage there: the next round publishes again.
        let tree = state.tree.clone().filter(|_| everywhere).unwrap_or_default();
        state.published = Some(Published { etag: etag.0, tree });
        state.sending.clear();
        self.remember(state, turn).await?;
        Ok(true)
    }

    /// The list that the stor has: its version, and its digest.
    async fn list_in_stor(&self, name: &StaticName) -> Result<Option<(ETag, String)>, PushError> {
        let (mut body, etag) = match self.stors().first().read_named(name, None).await {
            Ok(Named::Found { body, etag }) => (body, etag),
            Ok(Named::Unchanged) => return Ok(None),
            Err(error) if matches!(error.fault, Fault::NotFound) => return Ok(None),
            Err(error) => return Err(PushError::Publish(error)),
        };
        let mut digest = Sha256::new();
        while let Some(piece) = body.stream.try_next().await.map_err(PushError::Publish)? {
            digest.update(&piece);
        }
        Ok(Some((etag, hex::encode(digest.finalize()))))
    }

    fn stors(&self) -> &Arc<Mirror> {
        self.overlay.stors()
    }

    async fn remember(&self, state: &State, turn: &Turn) -> Result<(), PushError> {
        let (path, state) = (self.state_path(), state.clone());
        at_work(turn, move || remember(&state, &path)).await
    }

    fn state_path(&self) -> PathBuf {
        state_in(&self.options.dir)
    }
}

fn state_in(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

fn remember(state: &State, path: &Path) -> Result<(), PushError> {
    state.write(path).map_err(|source| PushError::Keep { path: path.to_owned(), source })
}

/// The digest of a tree, and of who can read it. Marks on files move the time of the last change of their inodes, which tells nobody anything here.
fn digest(mut entries: Vec<Entry>, header: &Header, sealing: Option<&Sealing>) -> Result<String, ListError> {
    for entry in &mut entries {
        entry.ctime = Timestamp::default();
    }
    let mut digest = Digesting(Sha256::new());
    pack::write(entries, &mut digest, Dialect::V2, header, None)?;
    sealing.into_iter().flat_map(Sealing::recipients).for_each(|recipient| digest.0.update(recipient));
    Ok(hex::encode(digest.0.finalize()))
}

fn oldest_first(mut files: Vec<Waiting>) -> Vec<Waiting> {
    files.sort_by(|one, other| (one.since, &one.path).cmp(&(other.since, &other.path)));
    files
}

/// What the published list of a namespace is called.
pub fn static_name(namespace: &Namespace) -> StaticName {
    format!("{namespace}.flist").parse().expect("a namespace is one safe component")
}

/// An error with what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Digests what is written to it.
struct Digesting(Sha256);

impl io::Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs what would hold up others on a thread of its own, which holds the turn also when nobody waits for it any more.
async fn at_work<T: Send + 'static>(
    turn: &Turn,
    job: impl FnOnce() -> Result<T, PushError> + Send + 'static,
) -> Result<T, PushError> {
    let turn = turn.clone();
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        job()
    });
    work.await.expect("listing does not panic")
}
