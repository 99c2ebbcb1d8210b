//! Content becomes packs in a stor: each chunk once, in the order of the files, and only what is not known to be there.
//!
//! Where the files are is for the caller to say: [`pack`](super::pack) finds them by path, a commit of local changes by inode.
//!
//! Threads read and compress ([`feed`](super::feed)); one task takes what they make in the order of the files, and alone decides what goes
//! where. So packs depend on the files, not on the threads.
//!
//! Files of one chunk are told as soon as it is known where they will be; their packs arrive later. The others have chunk tables, which
//! name packs as the stor calls them: those are made when all other packs are there, and lie together in packs of their own.
//!
//! Until then the chunks of large files are remembered, in some 50 bytes for each MiB. Nothing else here grows with what is packed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aysfs_flist::{Content, ObjectKey, Pack};
use aysfs_store::codec::Compression;
use aysfs_store::crypt::Secret;
use aysfs_store::{Check, Chunk as StoredChunk, Fault, Part, StoreError, table};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::builder::{Builder, Purpose};
use super::error::{UploadError, blocking};
use super::feed::{Chunk, Encoding, Open, Step, Steps, Task, Wanted};
use super::known::{Id, Known, Place, Stock, number};
use super::order::Tasks;
use super::placed::Placed;
use super::read::{FileContent, MappedStores, Version};
use super::send::{Sent, To, send};
use crate::abandoned::SetWhenDropped;
use crate::listed::key;
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

/// What has become known since it was asked last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Files that were read, and where they are. In the order of the tasks, but for those that are large or have grown.
    pub(super) files: Vec<(usize, FileContent<Placed>)>,
    /// What could not be read, or stored.
    pub(super) unread: Vec<(usize, UploadError)>,
    /// The numbers of packs that the stor has, or refuses, by now.
    pub(super) arrived: Vec<u32>,
    pub(super) made: Made,
}

/// What was made, besides places for files.
#[derive(Debug, Default)]
pub(crate) struct Made {
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

impl Made {
    fn is_empty(&self) -> bool {
        let Self { packs, in_tables, start, reused_bytes, .. } = self;
        packs.is_empty() && in_tables.is_empty() && start.is_empty() && *reused_bytes == 0
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.packs.extend(more.packs);
        self.in_tables.extend(more.in_tables);
        self.start.extend(more.start);
        self.new_objects += more.new_objects;
        self.new_bytes += more.new_bytes;
        self.reused_bytes += more.reused_bytes;
    }
}

/// Opens a file, named by the position of its entry and its path; `None`: it is no regular file any more.
pub(crate) trait Opens: Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static {}

impl<F: Fn(usize, &[u8]) -> io::Result<Option<File>> + Send + Sync + 'static> Opens for F {}

impl<'a> Packing<'a> {
    /// Packs what is wanted. Dropping the packer ends the work soon.
    pub(super) fn begin(self, tasks: Tasks, open: impl Opens) -> Packer<'a> {
        Packer::new(self, tasks, Arc::new(open))
    }
}

/// A piece of a file that is being told.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: Id,
    /// No chunk is longer.
    length: u32,
    place: Place,
}

/// A file of several chunks that was read, and waits for its packs.
#[derive(Debug)]
struct Large {
    position: usize,
    version: Version,
    sha256: Id,
    pieces: Box<[Piece]>,
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
    number: u32,
    length: u64,
    /// Plain bytes that are in the stor with it.
    plain: u64,
    sent: Result<Sent, StoreError>,
}

/// Takes steps in order and makes packs of them.
pub(super) struct Packer<'a> {
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
    old_packs: u32,
    /// The packs that chunk tables name which were there before, by the digests of the tables.
    old_in_tables: HashMap<Id, Vec<Pack>>,
    /// Start packs that were not told yet.
    start: Vec<u32>,
    sends: FuturesUnordered<BoxFuture<'a, Result<Answer, UploadError>>>,
    on_their_way: u64,
    /// Plain bytes of what was told since the last pack ended.
    plain: u64,
    /// Plain bytes that were told and are void.
    void: u64,
    /// Of the file that is being told.
    pieces: Vec<Piece>,
    /// Files of several chunks, whose tables are to be made.
    large: VecDeque<Large>,
    /// Packs that the tables name which were made.
    in_tables: BTreeSet<u32>,
    /// Whether all packs were sent that tables may name.
    has_content: bool,
    grown: Vec<Wanted>,
    /// Why it cannot go on.
    lost: Option<UploadError>,
    told: Told,
}

impl<'a> Packer<'a> {
    fn new(packing: Packing<'a>, tasks: Tasks, open: Arc<Open>) -> Self {
        let Packing { compression, secret, mapped_stores, to, journal, known, bytes_done } = packing;
        let abandoned = SetWhenDropped::default();
        let Known { packs, chunks, files, in_tables, .. } = known;
        let stock = Stock::new(files, chunks);
        let how = Encoding { compression, secret, mapped_stores, stock, abandoned: abandoned.0.clone() };
        let how = Arc::new(how);
        // Until somebody says that this is the end of it.
        let purpose = if tasks.start.is_some() { Purpose::Start } else { Purpose::Data };
        let steps = Some(Steps::of(tasks, open.clone(), how.clone()));
        let old_packs = number(packs.len());
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
            large: VecDeque::new(),
            in_tables: BTreeSet::new(),
            has_content: false,
            grown: Vec::new(),
            lost: None,
            told: Told::default(),
        }
    }

    /// What has become known; `None`: that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Told>, UploadError> {
        while let Some(steps) = &mut self.steps {
            let may_take = self.on_their_way <= ON_THEIR_WAY;
            tokio::select! {
                biased;
                Some(answer) = self.sends.next() => self.answered(answer?),
                steps = steps.next(), if may_take => match steps {
                    Some((steps, _memory)) => steps.into_iter().for_each(|step| self.take(step)),
                    None => self.all_read(),
                }
            }
            if let Some(error) = self.lost.take() {
                return Err(error);
            }
            if !self.told.is_empty() {
                return Ok(Some(std::mem::take(&mut self.told)));
            }
        }
        if !self.has_content {
            self.has_content = self.sent().await?;
        } else if !self.large.is_empty() {
            self.tables().await?;
        } else {
            self.end_pack();
            if self.sent().await? {
                self.tell_packs();
                if self.told.is_empty() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(std::mem::take(&mut self.told)))
    }

    /// Waits for the next pack that is on its way; returns whether there was none.
    async fn sent(&mut self) -> Result<bool, UploadError> {
        let Some(answer) = self.sends.next().await else { return Ok(true) };
        self.answered(answer?);
        Ok(false)
    }

    /// When all packs are in the stor.
    fn tell_packs(&mut self) {
        let plain = std::mem::take(&mut self.plain);
        self.count(plain);
        let start = std::mem::take(&mut self.start).into_iter();
        self.told.made.start = start.filter_map(|number| self.there(number)).map(|pack| pack.key).collect();
        let named = std::mem::take(&mut self.in_tables).into_iter();
        self.told.made.in_tables = named.filter_map(|number| self.there(number)).collect();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Again => self.forget_pieces(),
            Step::Chunk(chunk) => {
                let (id, length) = (chunk.id, chunk.length);
                let place = self.place(chunk);
                let length = length.try_into().expect("chunks are cut shorter than 4 GiB");
                self.pieces.push(Piece { id, length, place });
            }
            Step::Read { position, sha256, version } => {
                match self.pieces[..] {
                    [] => self.placed(position, version, None),
                    [Piece { place: at, .. }] => {
                        self.placed(position, version, Some(Placed::Chunk { sha256, at }));
                    }
                    _ => {
                        let pieces = self.pieces[..].into();
                        self.large.push_back(Large { position, version, sha256, pieces });
                    }
                }
                self.pieces.clear();
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
                    self.told
                        .made
                        .in_tables
                        .extend(self.old_in_tables.get(&table.sha256).into_iter().flatten());
                }
                self.plain += version.size;
                self.told.made.reused_bytes += version.size;
                self.placed(position, version, Some(Placed::Listed(content)));
            }
            Step::Grown(file) => self.grown.push(file),
            Step::Unread { position, error } => {
                self.forget_pieces();
                self.told.unread.push((position, error));
            }
            Step::Lost(error) => self.lost = Some(error),
        }
    }

    fn forget_pieces(&mut self) {
        self.void += self.pieces.drain(..).map(|piece| u64::from(piece.length)).sum::<u64>();
    }

    /// Where a chunk is, which is added if it is nowhere yet.
    fn place(&mut self, chunk: Chunk) -> Place {
        self.plain += chunk.length;
        if let Some(place) = self.how.stock.chunk(&chunk.id) {
            if place.pack < self.old_packs {
                self.told.made.reused_bytes += chunk.length;
            }
            return place;
        }
        let bytes = chunk.stored.expect("what was known when it was read is known now");
        let length = bytes.len() as u64;
        if self.builder.is_full(length, self.purpose) {
            self.end_pack();
        }
        if self.builder.length() == 0 {
            self.packs.push(State::Coming);
        }
        let stored = length.try_into().expect("no chunk is longer than 4 GiB");
        let place = Place { pack: self.last_pack(), offset: self.builder.add(&bytes), stored };
        self.how.stock.add_chunk(chunk.id, place);
        if self.purpose == Purpose::Data && self.builder.ends_with(&chunk.id, length) {
            self.end_pack();
        }
        place
    }

    fn end_pack(&mut self) {
        let Some(bytes) = self.builder.end() else { return };
        if self.purpose == Purpose::Start {
            self.start.push(self.last_pack());
        }
        let (number, length, plain) = (self.last_pack(), bytes.len() as u64, std::mem::take(&mut self.plain));
        self.on_their_way += length;
        let sent = send(self.to, self.journal.clone(), bytes);
        self.sends.push(async move { Ok(Answer { number, length, plain, sent: sent.await? }) }.boxed());
    }

    fn answered(&mut self, Answer { number, length, plain, sent }: Answer) {
        self.on_their_way -= length;
        self.count(plain);
        self.packs[number as usize] = match sent {
            Ok(Sent { pack, is_new }) => {
                self.told.made.packs.push(pack);
                if is_new {
                    self.told.made.new_objects += 1;
                    self.told.made.new_bytes += pack.bytes;
                }
                State::There(pack)
            }
            Err(error) => State::Refused(error),
        };
        self.told.arrived.push(number);
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
        let has_grown = !grown.is_empty();
        // Whatever they are now, they are cut.
        grown.iter_mut().for_each(|file| file.size = u64::MAX);
        let tasks = Tasks::new(grown.into_iter().map(Task::Whole));
        self.steps = has_grown.then(|| Steps::of(tasks, self.open.clone(), self.how.clone()));
        if self.steps.is_none() {
            self.end_pack();
        }
    }

    fn placed(&mut self, position: usize, version: Version, content: Option<Placed>) {
        self.told.files.push((position, FileContent { content, version }));
    }

    /// The pack that is being built, or was last.
    fn last_pack(&self) -> u32 {
        number(self.packs.len() - 1)
    }

    /// A pack that the stor has, or why it does not; `None`: it is not there yet.
    pub(super) fn pack(&self, number: u32) -> Option<Result<Pack, StoreError>> {
        match &self.packs[number as usize] {
            State::Coming => None,
            State::There(pack) => Some(Ok(*pack)),
            State::Refused(error) => Some(Err(again(error))),
        }
    }

    fn there(&self, number: u32) -> Option<Pack> {
        self.pack(number)?.ok()
    }

    /// The packs by their numbers, as far as the stor has them.
    pub(super) fn into_packs(self) -> Vec<Option<Pack>> {
        let pack = |state| if let State::There(pack) = state { Some(pack) } else { None };
        self.packs.into_iter().map(pack).collect()
    }

    /// Makes the chunk tables of some large files, whose packs are all in the stor.
    async fn tables(&mut self) -> Result<(), UploadError> {
        let (mut files, mut tables) = (Vec::new(), Vec::new());
        for _ in 0..TABLES {
            let Some(Large { position, version, sha256, pieces }) = self.large.pop_front() else { break };
            match self.table(&pieces) {
                Ok(table) => {
                    self.in_tables.extend(pieces.iter().map(|piece| piece.place.pack));
                    files.push((position, version, sha256));
                    tables.push(table);
                }
                Err(error) => self.told.unread.push((position, error)),
            }
        }
        let how = self.how.clone();
        let encode = move || Ok(tables.iter().map(|table| how.chunk(table)).collect::<Vec<_>>());
        let tables = blocking(encode).await?;
        for ((position, version, sha256), chunk) in files.into_iter().zip(tables) {
            let (table, length) = (chunk.id, chunk.length);
            // Of no file's bytes.
            self.void += length;
            let at = self.place(chunk);
            self.placed(position, version, Some(Placed::Chunks { sha256, table, length, at }));
        }
        while self.on_their_way > ON_THEIR_WAY && !self.sent().await? {}
        Ok(())
    }

    /// The bytes of the chunk table of a file.
    fn table(&self, pieces: &[Piece]) -> Result<Vec<u8>, UploadError> {
        let (mut chunks, mut end) = (Vec::new(), 0);
        for Piece { id, length, place } in pieces {
            let pack = self.pack(place.pack).expect("all packs were sent")?;
            let plain = end..end + u64::from(*length);
            end = plain.end;
            let offset = u64::from(place.offset);
            let range = offset..offset + u64::from(place.stored);
            let part = Some(Part { range, pack: pack.bytes });
            chunks.push(StoredChunk { plain, check: Check::Sha256(*id), key: key(pack.key), part });
        }
        Ok(table::write(&chunks).expect("chunks are parts of packs, and none is too long for a table"))
    }
}

impl Told {
    fn is_empty(&self) -> bool {
        let Self { files, unread, arrived, made } = self;
        files.is_empty() && unread.is_empty() && arrived.is_empty() && made.is_empty()
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
