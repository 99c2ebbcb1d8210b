//! Sweeping: what no list names becomes a candidate, and what was one for long enough is deleted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aysfs_store::garbage::{Garbage, Version};
use aysfs_store::{BootTime, Fault, Key, Listed, StoreError};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Collection, GcError, Mode, Summary, seconds};

/// How many objects are doomed at once. Who wants one of them waits until all are deleted.
const BATCH: usize = 500;

/// How many are deleted at the same time.
const AT_ONCE: usize = 8;

/// How long after they were doomed objects may still be in the course of being deleted. Only then another collection goes on with them.
const LEASE: Duration = Duration::from_secs(60 * 60);

/// When to stop deleting what is doomed, so that no deletion is on its way when the lease ends.
const LEASE_USED: Duration = Duration::from_secs(30 * 60);

/// How often the file is written anew when somebody else was faster.
const TRIES: u32 = 32;

/// An object that no list names.
struct Unnamed {
    key: Key,
    size: u64,
    created: u64,
}

impl Collection {
    /// Deletes what has been garbage for at least `grace`, and notes what else is.
    ///
    /// # Errors
    /// [`GcError`]. What was deleted by then was garbage.
    pub async fn sweep(&self, grace: Duration) -> Result<Summary, GcError> {
        if self.marks.lists == 0 {
            return Err(GcError::NothingNamed);
        }
        let (unnamed, begun, mut summary) = self.list().await?;
        let grace = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let now = || begun + self.watch.elapsed().as_secs();

        let mut file = File { collection: self, version: Version::read(&*self.stor, &self.name).await? };
        let known = &file.version.garbage;
        let is_interrupted = !known.doomed.is_empty();
        if is_interrupted && begun.saturating_sub(known.doomed_since) < LEASE.as_secs() {
            return Err(GcError::Busy);
        }
        let (old, young): (Vec<_>, Vec<_>) =
            unnamed.into_iter().partition(|object| begun.saturating_sub(object.created) >= grace);
        young.iter().for_each(|object| summary.young.add(object.size));
        let sizes: HashMap<Key, u64> = old.into_iter().map(|object| (object.key, object.size)).collect();

        let mut candidates = candidates(known, &sizes, now());
        let is_ripe = |since: u64| begun.saturating_sub(since) >= grace;
        if self.mode == Mode::DryRun {
            for (key, since) in candidates {
                let amount = if is_ripe(since) { &mut summary.deleted } else { &mut summary.waiting };
                amount.add(sizes[&key]);
            }
            return Ok(summary);
        }
        // First they are known to all who write, then they are doomed: what is struck off in between stays.
        let mut struck_off = HashSet::new();
        for tried in 0.. {
            let garbage = Garbage { candidates: candidates.clone(), ..Garbage::default() };
            if garbage == file.version.garbage {
                break;
            }
            match file.version.replace(&*self.stor, &self.name, garbage).await {
                Ok(replaced) => {
                    file.version = replaced;
                    break;
                }
                Err(error) if matches!(error.fault, Fault::Conflict) && tried < TRIES => {}
                Err(error) => return Err(error.into()),
            }
            let newest = Version::read(&*self.stor, &self.name).await?;
            if newest.garbage.doomed != file.version.garbage.doomed {
                return Err(GcError::Busy);
            }
            let before = &file.version.garbage.candidates;
            struck_off
                .extend(before.keys().filter(|key| !newest.garbage.candidates.contains_key(*key)).cloned());
            file.version = newest;
            candidates = self::candidates(&file.version.garbage, &sizes, now());
            candidates.retain(|key, _| !struck_off.contains(key));
        }
        let mut ripe: Vec<Key> =
            candidates.iter().filter(|(_, since)| is_ripe(**since)).map(|(key, _)| key.clone()).collect();
        ripe.sort_unstable();
        for batch in ripe.chunks(BATCH) {
            let doomed = file.doom(batch, now()).await?;
            for key in self.delete(doomed, &mut file).await? {
                summary.deleted.add(sizes[&key]);
            }
        }
        file.update(|garbage| garbage.doomed.clear()).await?;
        for key in file.version.garbage.candidates.keys() {
            summary.waiting.add(sizes.get(key).copied().unwrap_or_default());
        }
        Ok(summary)
    }

    /// What no list names, and the time when this collection began, by the stor's clock.
    async fn list(&self) -> Result<(Vec<Unnamed>, u64, Summary), GcError> {
        let (mut unnamed, mut summary) = (Vec::new(), Summary::default());
        let mut begun = self.marker.is_none().then(|| seconds(self.begun));
        let mut objects = self.stor.list().await?;
        while let Some(Listed { key, size, created }) = objects.try_next().await? {
            if self.marker.as_ref() == Some(&key) {
                begun = Some(seconds(created));
            } else if self.marks.keys.contains(&key) {
                summary.named.add(size);
            } else {
                unnamed.push(Unnamed { key, size, created: seconds(created) });
            }
        }
        let begun = begun.ok_or_else(|| GcError::Listing(self.stor.name().to_owned()))?;
        Ok((unnamed, begun, summary))
    }

    /// Deletes objects that are doomed; returns those that are gone.
    async fn delete(&self, doomed: Vec<Key>, file: &mut File<'_>) -> Result<Vec<Key>, GcError> {
        let since = BootTime::now();
        let deletions = stream::iter(doomed).map(|key| async move {
            if since.elapsed() > LEASE_USED {
                return Err(GcError::TooSlow);
            }
            Ok(self.stor.delete(&key).await.map(|_| key)?)
        });
        let ended: Vec<Result<Key, GcError>> = deletions.buffer_unordered(AT_ONCE).collect().await;
        let (mut gone, mut failed) = (Vec::new(), Vec::new());
        for ended in ended {
            match ended {
                Ok(key) => gone.push(key),
                Err(error) => failed.push(error),
            }
        }
        let is_certain = |error: &GcError| {
            matches!(error, GcError::Store(StoreError { fault: Fault::Denied | Fault::Refused(_), .. }))
        };
        // One that got no answer may still be under way, whatever became of the others.
        if let Some(uncertain) = failed.iter().position(|error| !is_certain(error)) {
            return Err(failed.swap_remove(uncertain));
        }
        let Some(error) = failed.pop() else { return Ok(gone) };
        // It is certain that what is left is not being deleted: nobody has to wait for that.
        file.update(|garbage| garbage.doomed.clear()).await?;
        Err(error)
    }
}

/// What is garbage by now, and since when.
fn candidates(known: &Garbage, unnamed: &HashMap<Key, u64>, now: u64) -> HashMap<Key, u64> {
    let since = |key: &Key| match known.candidates.get(key) {
        Some(since) => *since,
        // An interrupted collection has not come to it.
        None if known.doomed.contains(key) => 0,
        None => now,
    };
    unnamed.keys().map(|key| (key.clone(), since(key))).collect()
}

/// The file with the candidates, in the version that is known.
struct File<'a> {
    collection: &'a Collection,
    version: Version,
}

impl File<'_> {
    /// Dooms those candidates of a batch that still are some; returns them. What was doomed before is gone.
    async fn doom(&mut self, batch: &[Key], now: u64) -> Result<Vec<Key>, GcError> {
        self.update(|garbage| {
            garbage.doomed.clear();
            for key in batch {
                if garbage.candidates.remove(key).is_some() {
                    garbage.doomed.insert(key.clone());
                }
            }
            garbage.doomed_since = now;
        })
        .await?;
        Ok(self.version.garbage.doomed.iter().cloned().collect())
    }

    /// Changes what it says, whoever else does; only a collection dooms.
    async fn update(&mut self, change: impl Fn(&mut Garbage)) -> Result<(), GcError> {
        let Collection { stor, name, .. } = self.collection;
        for tried in 0.. {
            let mut garbage = self.version.garbage.clone();
            change(&mut garbage);
            if garbage.doomed.is_empty() {
                garbage.doomed_since = 0;
            }
            if garbage == self.version.garbage {
                break;
            }
            match self.version.replace(&**stor, name, garbage).await {
                Ok(replaced) => {
                    self.version = replaced;
                    break;
                }
                Err(error) if matches!(error.fault, Fault::Conflict) && tried < TRIES => {}
                Err(error) => return Err(error.into()),
            }
            let newest = Version::read(&**stor, name).await?;
            let ours = |garbage: &Garbage| (garbage.doomed.clone(), garbage.doomed_since);
            if ours(&newest.garbage) != ours(&self.version.garbage) {
                return Err(GcError::Busy);
            }
            self.version = newest;
        }
        Ok(())
    }
}
