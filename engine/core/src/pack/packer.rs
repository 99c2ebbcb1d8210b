//! Content becomes packs in a stor: each chunk once, in the order of the files, and only what is not known to be there.
//!
//! Where the files are is for the caller to say: [`pack`](super::pack) finds them by path, a commit of local changes by inode.
//!
//! Threads read and compress ([`feed`](super::feed)); one task takes what they make in the order of the files, and alone decides what goes
//! where. So packs depend on the files, not on the threads.
//!
//! The files of one chunk are told when their pack is in the stor. The others have chunk tables, which name packs as the stor
//! calls them: those are made when all other packs are there, and lie together in packs of their own.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_flist::{Content, Entry, ObjectKey, Pack, Place as Listed, Table};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Secret;
use aysfs_store::{Check, Chunk as StoredChunk, Fault, Part, StoreError, table};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};

use super::builder::{Builder, Purpose};
use super::error::{UploadError, blocking};
use super::feed::{Chunk, Encoding, Open, Step, Steps, Task, Wanted};
use super::known::{Id, Known, Place, Stock};
use super::order;
use super::read::{FileContent, MappedStores, Version};
use super::send::{Sent, To, send};
use crate::abandoned::SetWhenDropped;
use crate::listed::key;
use crate::profile::Profile;
use crate::push::Journal;

/// While more bytes of packs than this are on their way, no other pack is begun.
const ON_THEIR_WAY: u64 = 32 << 20;

/// How many chunk tables are encoded at a time.
const TABLES: usize = 64;

/// How content is packed.
pub(crate) struct Packing<'a> {
    pub(crate) compression: Compression,
    /// What chunks are encrypted with, if they are.
    pub(crate) secret: Option<Secret>,
    pub(crate) mapped_stores: MappedStores,
    pub(crate) to: To<'a>,
    /// Where it is noted what is about to be sent; the stor is asked afterwards whether it has it.
    pub(crate) journal: Option<Arc<Journal>>,
    /// What needs not be stored again.
    pub(crate) known: Known,
    /// Bytes of content that are in the stor.
    pub(crate) bytes_done: &'a AtomicU64,
}

/// What became of one file.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its content is in the stor.
    Stored { position: usize, file: Box<FileContent> },
    /// It could not be read, or the stor does not take it.
    Unread { position: usize, error: UploadError },
}

/// What has become known since the last batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In no order.
    pub(crate) outcomes: Vec<Outcome>,
    /// Packs that are in the stor now.
    pub(crate) packs: Vec<Pack>,
    /// Packs that chunk tables name which were made.
    pub(crate) in_tables: Vec<Pack>,
    /// The start packs, the most urgent first.
    pub(crate) start: Vec<ObjectKey>,
    /// How many of the packs the stor did not have.
    pub(crate) new_objects: u64,
    /// Bytes of those.
    pub(crate) new_bytes: u64,
    /// Plain bytes that were known to be in the stor before all this.
    pub(crate) reused_bytes: u64,
}

/// What was packed.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// Files with content of their own.
    pub(crate) files: u64,
    /// Plain bytes of them.
    pub(crate) bytes: u64,
    /// As in [`Batch`], of all batches.
    pub(crate) packs: Vec<Pack>,
    pub(crate) in_tables: Vec<Pack>,
    pub(crate) start: Vec<ObjectKey>,
    pub(crate) new_objects: u64,
    pub(crate) new_bytes: u64,
    pub(crate) reused_bytes: u64,
    /// How many paths of the profile lead to no file.
    pub(crate) unknown: usize,
}

impl<'a> Packing<'a> {
    /// Packs the content of all regular files that do not say yet where it is, and notes that in their entries; what a profile names
    /// is packed first.
    ///
    /// `open` is given the position of an entry and its path; `None` means that it is no regular file any more. Dropping the
    /// future ends the work soon.
    pub(crate) async fn run(
        self,
        entries: &mut [Entry],
        profile: Option<&Profile>,
        open: impl Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static,
    ) -> Result<Packed, UploadError> {
        let (tasks, unknown) = order::tasks(entries, profile);
        let mut batches = std::pin::pin!(self.outcomes(tasks, open));
        let mut packed = Packed { unknown, ..Packed::default() };
        while let Some(batch) = batches.try_next().await? {
            packed.packs.extend(batch.packs);
            packed.in_tables.extend(batch.in_tables);
            packed.start.extend(batch.start);
            packed.new_objects += batch.new_objects;
            packed.new_bytes += batch.new_bytes;
            packed.reused_bytes += batch.reused_bytes;
            for outcome in batch.outcomes {
                match outcome {
                    Outcome::Stored { position, file } => {
                        packed.files += 1;
                        packed.bytes += file.size();
                        file.describe(&mut entries[position]);
                    }
                    Outcome::Unread { error, .. } => return Err(error),
                }
            }
        }
        Ok(packed)
    }

    /// Packs content, and tells what became of each file.
    pub(crate) fn outcomes(
        self,
        tasks: Vec<Task>,
        open: impl Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static,
    ) -> impl Stream<Item = Result<Batch, UploadError>> {
        let packer = Packer::new(self, tasks, Arc::new(open));
        stream::try_unfold(packer, |mut packer| async move {
            Ok(packer.next().await?.map(|batch| (batch, packer)))
        })
    }
}

/// A piece of a file that is being told.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: Id,
    length: u64,
    place: Place,
}

/// A file that was read, and waits for its packs.
#[derive(Debug)]
struct Waiting<C> {
    position: usize,
    version: Version,
    sha256: Id,
    content: C,
}

/// How a pack stands.
#[derive(Debug)]
enum State {
    /// It is being made, or on its way.
    Coming,
    /// It is in the stor.
    There(Pack),
    /// The stor does not take it.
    Refused(StoreError),
}

/// A pack that was sent.
struct Answer {
    number: usize,
    length: u64,
    /// Plain bytes that are in the stor with it.
    plain: u64,
    sent: Result<Sent, StoreError>,
}

/// Takes steps in order and makes packs of them.
struct Packer<'a> {
    how: Arc<Encoding>,
    open: Arc<Open>,
    to: To<'a>,
    journal: Option<Arc<Journal>>,
    bytes_done: &'a AtomicU64,
    /// Set when this is dropped.
    _abandoned: SetWhenDropped,
    /// Nothing once all files were read.
    steps: Option<Steps>,
    builder: Builder,
    /// Of the pack that is being built.
    purpose: Purpose,
    /// Those that were there before, then those that were begun; the last one is being built, unless the builder is empty.
    packs: Vec<State>,
    old_packs: usize,
    /// The packs that chunk tables name which were there before, by the digests of the tables.
    old_in_tables: HashMap<Id, Vec<Pack>>,
    /// Start packs that were not told yet.
    start: Vec<usize>,
    sends: FuturesUnordered<BoxFuture<'a, Result<Answer, UploadError>>>,
    on_their_way: u64,
    /// Plain bytes of what was told since the last pack ended.
    plain: u64,
    /// Plain bytes that were told and are void.
    void: u64,
    /// Of the file that is being told.
    pieces: Vec<Piece>,
    /// Files of one chunk, by their pack.
    small: HashMap<usize, Vec<Waiting<Place>>>,
    /// Files of several chunks.
    large: Vec<Waiting<Vec<Piece>>>,
    grown: Vec<Wanted>,
    batch: Batch,
}

impl<'a> Packer<'a> {
    fn new(packing: Packing<'a>, tasks: Vec<Task>, open: Arc<Open>) -> Self {
        let Packing { compression, secret, mapped_stores, to, journal, known, bytes_done } = packing;
        let abandoned = SetWhenDropped::default();
        let Known { packs, chunks, files, in_tables, .. } = known;
        let stock = Stock::new(files, chunks);
        let how = Encoding { compression, secret, mapped_stores, stock, abandoned: abandoned.0.clone() };
        let how = Arc::new(how);
        let has_start = tasks.iter().any(|task| matches!(task, Task::EndStart));
        let steps = Some(Steps::of(tasks, open.clone(), how.clone()));
        let old_packs = packs.len();
        // Until somebody says that this is the end of it.
        let purpose = if has_start { Purpose::Start } else { Purpose::Data };
        let packs = packs.into_iter().map(State::There).collect();
        Self {
            how,
            open,
            to,
            journal,
            bytes_done,
            _abandoned: abandoned,
            steps,
            builder: Builder::default(),
            purpose,
            packs,
            old_packs,
            old_in_tables: in_tables,
            start: Vec::new(),
            sends: FuturesUnordered::new(),
            on_their_way: 0,
            plain: 0,
            void: 0,
            pieces: Vec::new(),
            small: HashMap::new(),
            large: Vec::new(),
            grown: Vec::new(),
            batch: Batch::default(),
        }
    }

    /// What has become known; `None`: that was all.
    async fn next(&mut self) -> Result<Option<Batch>, UploadError> {
        while let Some(steps) = &mut self.steps {
            let may_take = self.on_their_way <= ON_THEIR_WAY;
            tokio::select! {
                biased;
                Some(answer) = self.sends.next() => {
                    self.answered(answer?);
                    return Ok(Some(std::mem::take(&mut self.batch)));
                }
                steps = steps.next(), if may_take => match steps {
                    Some((steps, _memory)) => steps.into_iter().for_each(|step| self.take(step)),
                    None => self.all_read(),
                }
            }
        }
        if let Some(answer) = self.sends.next().await {
            self.answered(answer?);
        } else if !self.large.is_empty() {
            self.tables().await?;
        } else if !self.start.is_empty() {
            let start = std::mem::take(&mut self.start).into_iter();
            self.batch.start =
                start.filter_map(|number| self.pack(number)?.ok().map(|pack| pack.key)).collect();
        } else if self.batch.is_empty() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.batch)))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Again => self.forget_pieces(),
            Step::Chunk(chunk) => {
                let (id, length) = (chunk.id, chunk.length);
                let place = self.place(chunk);
                self.pieces.push(Piece { id, length, place });
            }
            Step::Read { position, sha256, version } => {
                let pieces = std::mem::take(&mut self.pieces);
                match pieces[..] {
                    [] => self.stored(position, version, None),
                    [Piece { place, .. }] => {
                        self.small(Waiting { position, version, sha256, content: place })
                    }
                    _ => self.large.push(Waiting { position, version, sha256, content: pieces }),
                }
            }
            Step::Part(chunk) => {
                // It is counted with its file.
                self.void += chunk.length;
                self.place(chunk);
            }
            Step::EndStart => {
                self.end_pack();
                self.purpose = Purpose::Data;
            }
            Step::Known { position, content, version } => {
                if let Content::Chunks { table, .. } = content {
                    self.batch.in_tables.extend(self.old_in_tables.get(&table.sha256).into_iter().flatten());
                }
                self.plain += version.size();
                self.batch.reused_bytes += version.size();
                self.stored(position, version, Some(content));
            }
            Step::Grown(file) => self.grown.push(file),
            Step::Unread { position, error } => {
                self.forget_pieces();
                self.batch.outcomes.push(Outcome::Unread { position, error });
            }
        }
    }

    fn forget_pieces(&mut self) {
        self.void += self.pieces.drain(..).map(|piece| piece.length).sum::<u64>();
    }

    /// Where a chunk is, which is added if it is nowhere yet.
    fn place(&mut self, chunk: Chunk) -> Place {
        self.plain += chunk.length;
        if let Some(place) = self.how.stock.chunk(&chunk.id) {
            if place.pack < self.old_packs {
                self.batch.reused_bytes += chunk.length;
            }
            return place;
        }
        let bytes = chunk.stored.expect("what was known when it was read is known now");
        let stored = bytes.len() as u64;
        if self.builder.is_full(stored, self.purpose) {
            self.end_pack();
        }
        if self.builder.length() == 0 {
            self.packs.push(State::Coming);
        }
        let place = Place { pack: self.packs.len() - 1, offset: self.builder.add(&bytes), stored };
        self.how.stock.add_chunk(chunk.id, place);
        if self.purpose == Purpose::Data && self.builder.ends_with(&chunk.id, stored) {
            self.end_pack();
        }
        place
    }

    fn end_pack(&mut self) {
        let Some(bytes) = self.builder.end() else { return };
        if self.purpose == Purpose::Start {
            self.start.push(self.packs.len() - 1);
        }
        let (number, length, plain) =
            (self.packs.len() - 1, bytes.len() as u64, std::mem::take(&mut self.plain));
        self.on_their_way += length;
        let sent = send(self.to, self.journal.clone(), bytes);
        self.sends.push(async move { Ok(Answer { number, length, plain, sent: sent.await? }) }.boxed());
    }

    fn answered(&mut self, Answer { number, length, plain, sent }: Answer) {
        self.on_their_way -= length;
        self.count(plain);
        self.packs[number] = match sent {
            Ok(Sent { pack, is_new }) => {
                self.batch.packs.push(pack);
                if is_new {
                    self.batch.new_objects += 1;
                    self.batch.new_bytes += pack.bytes;
                }
                State::There(pack)
            }
            Err(error) => State::Refused(error),
        };
        for file in self.small.remove(&number).unwrap_or_default() {
            self.small(file);
        }
    }

    /// Counts plain bytes that are in the stor.
    fn count(&mut self, plain: u64) {
        let void = self.void.min(plain);
        self.void -= void;
        self.bytes_done.fetch_add(plain - void, Ordering::Relaxed);
    }

    /// All files were read that there were, once those are that have grown meanwhile.
    fn all_read(&mut self) {
        let mut grown = std::mem::take(&mut self.grown);
        // Whatever they are now, they are cut.
        grown.iter_mut().for_each(|file| file.size = u64::MAX);
        let tasks: Vec<_> = grown.into_iter().map(Task::Whole).collect();
        self.steps = (!tasks.is_empty()).then(|| Steps::of(tasks, self.open.clone(), self.how.clone()));
        if self.steps.is_none() {
            self.end_pack();
            let plain = std::mem::take(&mut self.plain);
            self.count(plain);
        }
    }

    fn stored(&mut self, position: usize, version: Version, content: Option<Content>) {
        let file = FileContent { content, version }.into();
        self.batch.outcomes.push(Outcome::Stored { position, file });
    }

    fn refused(&mut self, position: usize, error: StoreError) {
        self.batch.outcomes.push(Outcome::Unread { position, error: error.into() });
    }

    /// A file of one chunk: told now, or with its pack.
    fn small(&mut self, file: Waiting<Place>) {
        match self.listed(file.content) {
            None => self.small.entry(file.content.pack).or_default().push(file),
            Some(Ok(at)) => {
                let content = Content::Pack { sha256: file.sha256, at };
                self.stored(file.position, file.version, Some(content));
            }
            Some(Err(error)) => self.refused(file.position, error),
        }
    }

    /// A place in the words of a list; `None`: its pack is not in the stor yet.
    fn listed(&self, place: Place) -> Option<Result<Listed, StoreError>> {
        let pack = self.pack(place.pack)?;
        Some(pack.map(|pack| Listed { pack: pack.key, offset: place.offset, stored: place.stored }))
    }

    fn pack(&self, number: usize) -> Option<Result<Pack, StoreError>> {
        match &self.packs[number] {
            State::Coming => None,
            State::There(pack) => Some(Ok(*pack)),
            State::Refused(error) => Some(Err(again(error))),
        }
    }

    /// Makes the chunk tables of large files, whose packs are all in the stor.
    async fn tables(&mut self) -> Result<(), UploadError> {
        let (mut files, mut named) = (Vec::new(), BTreeSet::new());
        let mut large = std::mem::take(&mut self.large).into_iter().peekable();
        while large.peek().is_some() {
            let (mut some, mut tables) = (Vec::new(), Vec::new());
            for Waiting { position, version, sha256, content: pieces } in large.by_ref().take(TABLES) {
                match self.table(&pieces) {
                    Ok(table) => {
                        named.extend(pieces.iter().map(|piece| piece.place.pack));
                        some.push(Waiting { position, version, sha256, content: () });
                        tables.push(table);
                    }
                    Err(error) => self.batch.outcomes.push(Outcome::Unread { position, error }),
                }
            }
            let how = self.how.clone();
            let encode = move || Ok(tables.iter().map(|table| how.chunk(table)).collect::<Vec<_>>());
            let tables = blocking(encode).await?;
            for (file, chunk) in some.into_iter().zip(tables) {
                let (id, length) = (chunk.id, chunk.length);
                // Of no file's bytes.
                self.void += length;
                let place = self.place(chunk);
                files.push((file, Piece { id, length, place }));
            }
            while self.on_their_way > ON_THEIR_WAY
                && let Some(answer) = self.sends.next().await
            {
                self.answered(answer?);
            }
        }
        self.end_pack();
        while let Some(answer) = self.sends.next().await {
            self.answered(answer?);
        }
        for (Waiting { position, version, sha256, .. }, Piece { id, length, place }) in files {
            match self.listed(place).expect("all packs were sent") {
                Ok(at) => {
                    let table = Table { sha256: id, length, at };
                    self.stored(position, version, Some(Content::Chunks { sha256, table }));
                }
                Err(error) => self.refused(position, error),
            }
        }
        let plain = std::mem::take(&mut self.plain);
        self.count(plain);
        let named = named.into_iter().filter_map(|number| match self.packs[number] {
            State::There(pack) => Some(pack),
            _ => None,
        });
        self.batch.in_tables.extend(named);
        Ok(())
    }

    /// The bytes of the chunk table of a file.
    fn table(&self, pieces: &[Piece]) -> Result<Vec<u8>, UploadError> {
        let (mut chunks, mut end) = (Vec::new(), 0);
        for Piece { id, length, place } in pieces {
            let pack = self.pack(place.pack).expect("all packs were sent")?;
            let plain = end..end + length;
            end = plain.end;
            let range = place.offset..place.offset + place.stored;
            let part = Some(Part { range, pack: pack.bytes });
            chunks.push(StoredChunk { plain, check: Check::Sha256(*id), key: key(pack.key), part });
        }
        Ok(table::write(&chunks).expect("chunks are parts of packs, and none is too long for a table"))
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.packs.is_empty() && self.reused_bytes == 0
    }
}

/// What one refusal means for another file.
fn again(error: &StoreError) -> StoreError {
    let fault = match &error.fault {
        Fault::Protocol(answer) => Fault::Protocol(answer.clone()),
        Fault::Refused(reason) => Fault::Refused(reason.clone()),
        other => Fault::Refused(other.to_string()),
    };
    StoreError { stor: error.stor.clone(), subject: error.subject.clone(), fault }
}
