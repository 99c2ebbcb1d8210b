//! Files are told of when their packs are in the stor: for whoever notes of each file that it is safe there.
//!
//! Those that wait for their packs are held in memory. `pack` needs not know so early, and holds nothing.

use std::collections::HashMap;

use aysfs_flist::Entry;
use aysfs_store::StoreError;
use futures::{Stream, TryStreamExt, stream};

use super::error::UploadError;
use super::feed::Task;
use super::order::{self, Tasks};
use super::packer::{Made, Opens, Packer, Packing, Told};
use super::placed::Placed;
use super::read::FileContent;

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
    pub(crate) made: Made,
}

/// What was packed.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// Files with content of their own.
    pub(crate) files: u64,
    pub(crate) made: Made,
}

impl<'a> Packing<'a> {
    /// Packs the content of all regular files that do not say yet where it is, and notes that in their entries.
    ///
    /// Dropping the future ends the work soon.
    pub(crate) async fn run(self, entries: &mut [Entry], open: impl Opens) -> Result<Packed, UploadError> {
        let wanted =
            entries.iter().enumerate().filter_map(|(position, entry)| order::wanted(position, entry));
        let tasks: Vec<_> = wanted.map(Task::Whole).collect();
        let mut batches = std::pin::pin!(self.outcomes(Tasks::new(tasks.into_iter()), open));
        let mut packed = Packed::default();
        while let Some(batch) = batches.try_next().await? {
            packed.made.add(batch.made);
            for outcome in batch.outcomes {
                match outcome {
                    Outcome::Stored { position, file } => {
                        packed.files += 1;
                        file.describe(&mut entries[position]);
                    }
                    Outcome::Unread { error, .. } => return Err(error),
                }
            }
        }
        Ok(packed)
    }

    /// Packs content, and tells what became of each file. Dropping the stream ends the work soon.
    pub(crate) fn outcomes(
        self,
        tasks: Tasks,
        open: impl Opens,
    ) -> impl Stream<Item = Result<Batch, UploadError>> {
        let arrivals = Arrivals { packer: self.begin(tasks, open), waiting: HashMap::new() };
        stream::try_unfold(arrivals, |mut arrivals| async move {
            Ok(arrivals.next().await?.map(|batch| (batch, arrivals)))
        })
    }
}

struct Arrivals<'a> {
    packer: Packer<'a>,
    /// Files that were read, by the pack that they wait for.
    waiting: HashMap<u32, Vec<(usize, FileContent<Placed>)>>,
}

impl Arrivals<'_> {
    /// What is known when another pack has arrived, or at the end; `None`: that was all.
    async fn next(&mut self) -> Result<Option<Batch>, UploadError> {
        let (mut batch, mut is_empty) = (Batch::default(), true);
        while let Some(told) = self.packer.next().await? {
            is_empty = false;
            let Told { files, unread, arrived, made } = told;
            batch.made.add(made);
            batch
                .outcomes
                .extend(unread.into_iter().map(|(position, error)| Outcome::Unread { position, error }));
            for (position, file) in files {
                match file.pack().filter(|pack| self.packer.pack(*pack).is_none()) {
                    Some(pack) => self.waiting.entry(pack).or_default().push((position, file)),
                    None => batch.outcomes.push(self.outcome(position, file)),
                }
            }
            for pack in &arrived {
                for (position, file) in self.waiting.remove(pack).unwrap_or_default() {
                    batch.outcomes.push(self.outcome(position, file));
                }
            }
            if !arrived.is_empty() {
                break;
            }
        }
        Ok((!is_empty).then_some(batch))
    }

    /// Of a file whose pack has been sent.
    fn outcome(&self, position: usize, file: FileContent<Placed>) -> Outcome {
        let key = |pack| -> Result<_, StoreError> { Ok(self.packer.pack(pack).expect("it was sent")?.key) };
        match file.listed(key) {
            Ok(file) => Outcome::Stored { position, file: file.into() },
            Err(error) => Outcome::Unread { position, error: error.into() },
        }
    }
}
