//! Several stors that keep the same objects, in order of health.
//!
//! The order is that of the configuration, except that a stor that failed stands back for a while, longer each time.
//! Then normal use tries it again: nothing probes it.
//!
//! A mirror also knows what is encrypted before it goes there, if anything is, and with what: stors never see that.

mod decode;
mod traffic;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::Instant;

use self::traffic::Traffic;
use crate::crypt::{Sealing, Secret, V1Keyring};
use crate::{ETag, Fault, Key, Precondition, StaticName, Store, StoreError, Stored, Upload};

pub(crate) use self::traffic::Asked;
pub use self::traffic::StorStats;

/// How a read from a stor went, as the reader sees it who verified what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as a stor should, be it that it does not have the object.
    Answered,
    /// It failed, or was silent.
    Failed,
    /// It sent bytes that are not the object.
    Corrupt,
}

impl From<&Fault> for Outcome {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::NotFound | Fault::Refused(_) | Fault::Conflict => Self::Answered,
            Fault::Denied
            | Fault::Silent(_)
            | Fault::Unavailable(_)
            | Fault::Short { .. }
            | Fault::Protocol(_)
            | Fault::Local(_) => Self::Failed,
        }
    }
}

/// In which stors of a mirror an object is, of those that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In each that takes what is put.
    Everywhere,
    /// In one at least.
    Somewhere,
    /// In none.
    Nowhere,
}

/// A named file that was replaced in the first stor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its version there.
    pub etag: ETag,
    /// Whether the others have it, too, but for those that take no objects.
    pub everywhere: bool,
}

/// One stor or more; the first is the one that counts when something is put.
#[derive(Debug)]
pub struct Mirror {
    first: Member,
    others: Vec<Member>,
    sealing: Option<Sealing>,
    v1_keys: V1Keyring,
}

#[derive(Debug)]
struct Member {
    store: Arc<dyn Store>,
    health: Mutex<Health>,
    traffic: Traffic,
    /// Whether it did not keep what was put last as the first one does: it denies it, or calls it something else. Then nothing is gained by
    /// putting again what it lacks.
    is_apart: AtomicBool,
}

#[derive(Debug, Default)]
struct Health {
    /// Failures in a row.
    failures: u32,
    back_until: Option<Instant>,
}

impl Health {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
}

impl Member {
    fn stands_back(&self, now: Instant) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.back_until.is_some_and(|until| until > now)
    }

    fn report(&self, outcome: Outcome) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Outcome::Answered => *health = Health::default(),
            Outcome::Failed | Outcome::Corrupt => {
                let now = Instant::now();
                // Reads that were under way together fail together: that is one failure.
                if health.back_until.is_none_or(|until| until <= now) {
                    let back =
                        Health::FIRST.saturating_mul(1 << health.failures.min(16)).min(Health::LONGEST);
                    health.back_until = Some(now + back);
                    health.failures += 1;
                    tracing::warn!(stor = self.store.name(), ?outcome, ?back, "a stor stands back");
                }
            }
        }
    }
}

impl Mirror {
    /// A mirror of `first` and `others`.
    pub fn new(first: Arc<dyn Store>, others: impl IntoIterator<Item = Arc<dyn Store>>) -> Self {
        let member = |store| Member {
            store,
            health: Mutex::default(),
            traffic: Traffic::default(),
            is_apart: AtomicBool::new(false),
        };
        let others = others.into_iter().map(member).collect();
        Self { first: member(first), others, sealing: None, v1_keys: V1Keyring::default() }
    }

    /// The same, for what is encrypted with this, if anything is.
    pub fn sealed_with(self, sealing: Option<Sealing>) -> Self {
        Self { sealing, ..self }
    }

    /// What new flists are encrypted with, and their content.
    pub fn sealing(&self) -> Option<&Sealing> {
        self.sealing.as_ref()
    }

    /// The same, for objects of the old system that these keys open.
    pub fn with_v1_keys(self, v1_keys: V1Keyring) -> Self {
        Self { v1_keys, ..self }
    }

    /// What opens encrypted objects of the old system.
    pub fn v1_keys(&self) -> &V1Keyring {
        &self.v1_keys
    }

    /// What opens encrypted content that is there.
    pub fn secret(&self) -> Option<&Secret> {
        self.sealing().map(Sealing::secret)
    }

    /// The stor that counts when something is put.
    pub fn first(&self) -> &Arc<dyn Store> {
        &self.first.store
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// All stors, in the order in which a reader should try them. The reader verifies what it gets, and reports.
    pub fn in_order(&self) -> Vec<Arc<dyn Store>> {
        let now = Instant::now();
        let (back, ready): (Vec<_>, Vec<_>) = self.members().partition(|member| member.stands_back(now));
        ready.into_iter().chain(back).map(|member| member.store.clone()).collect()
    }

    fn member(&self, store: &Arc<dyn Store>) -> Option<&Member> {
        self.members().find(|member| std::ptr::addr_eq(Arc::as_ptr(&member.store), Arc::as_ptr(store)))
    }

    /// Takes note of how a read from `store`, one of [`Mirror::in_order`], went.
    pub fn report(&self, store: &Arc<dyn Store>, outcome: Outcome) {
        if let Some(member) = self.member(store) {
            member.traffic.ended(outcome);
            member.report(outcome);
        }
    }

    /// Takes note of a read from `store` that begins.
    pub(crate) fn asked(&self, store: &Arc<dyn Store>, asked: Asked) {
        if let Some(member) = self.member(store) {
            member.traffic.asked(asked);
        }
    }

    /// Takes note of stored bytes that arrived from `store`.
    pub(crate) fn received(&self, store: &Arc<dyn Store>, bytes: u64) {
        if let Some(member) = self.member(store) {
            member.traffic.received(bytes);
        }
    }

    /// What each stor did until now, in the order of the configuration.
    pub fn stats(&self) -> Vec<StorStats> {
        let now = Instant::now();
        self.members()
            .map(|member| member.traffic.stats(member.store.name(), member.stands_back(now)))
            .collect()
    }

    /// Puts an object into every stor; what the first says counts, the failures of others are logged.
    ///
    /// # Errors
    /// The first failed, whatever the others did.
    pub async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        let others = self.others.iter().map(|member| member.store.put(key, body));
        let (first, others) = join(self.first.store.put(key, body), join_all(others)).await;
        for (outcome, member) in others.into_iter().zip(&self.others) {
            match (&outcome, &first) {
                (Err(error), _) if !matches!(error.fault, Fault::Denied) => {}
                (Err(_), _) => member.is_apart.store(true, Ordering::Relaxed),
                (Ok(stored), Ok(first)) => member.is_apart.store(stored.key != first.key, Ordering::Relaxed),
                (Ok(_), Err(_)) => {}
            }
            match (&outcome, &first) {
                (Err(error), _) => tracing::warn!(%error, "an object is missing in a mirror"),
                (Ok(stored), Ok(first)) if stored.key != first.key => {
                    let stor = member.store.name();
                    tracing::warn!(stor, here = %stored.key, first = %first.key, "a mirror chose another key");
                }
                (Ok(_), _) => {}
            }
        }
        first
    }

    /// In which stors objects are. All are asked, so that where one keeps a list of [garbage](crate::garbage), what is asked for is struck off.
    /// A stor that does not answer is passed over, with a warning.
    ///
    /// # Errors
    /// Those of the first.
    pub async fn presence(&self, keys: &[Key]) -> Result<Vec<Presence>, StoreError> {
        let others = self.others.iter().map(|member| member.store.has(keys));
        let (first, others) = join(self.first.store.has(keys), join_all(others)).await;
        let mut answers = vec![(first?, true)];
        for (answer, member) in others.into_iter().zip(&self.others) {
            match answer {
                Ok(there) => answers.push((there, !member.is_apart.load(Ordering::Relaxed))),
                Err(error) => tracing::warn!(%error, "a mirror does not say which objects it has"),
            }
        }
        let presence = |at: usize| {
            let mut has = answers.iter().map(|(there, counts)| (there.get(at) == Some(&true), *counts));
            if has.clone().all(|(there, _)| !there) {
                Presence::Nowhere
            } else if has.all(|(there, counts)| there || !counts) {
                Presence::Everywhere
            } else {
                Presence::Somewhere
            }
        };
        Ok((0..keys.len()).map(presence).collect())
    }

    /// Replaces a named file in the first stor, if `condition` holds there, and then in the others, whatever they have.
    ///
    /// # Errors
    /// Those of the first; nothing has changed anywhere then. The failures of others are logged.
    pub async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<Replaced, StoreError> {
        let etag = self.first.store.write_named(name, body, condition).await?;
        let others =
            self.others.iter().map(|member| member.store.write_named(name, body, Precondition::None));
        let mut everywhere = true;
        for (written, member) in join_all(others).await.into_iter().zip(&self.others) {
            if let Err(error) = written {
                tracing::warn!(%error, "a mirror has an old version of a named file");
                everywhere &= member.is_apart.load(Ordering::Relaxed);
            }
        }
        Ok(Replaced { etag, everywhere })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemStore;
    use crate::contract::{sha256, upload};
    use crate::fault::{FaultStore, Trouble};

    fn three() -> (Mirror, Vec<Arc<dyn Store>>) {
        let stores: Vec<Arc<dyn Store>> =
            (0..3).map(|_| Arc::new(MemStore::new()) as Arc<dyn Store>).collect();
        (Mirror::new(stores[0].clone(), stores[1..].to_vec()), stores)
    }

    fn order(mirror: &Mirror, stores: &[Arc<dyn Store>]) -> Vec<usize> {
        let index = |store: &Arc<dyn Store>| stores.iter().position(|other| Arc::ptr_eq(store, other));
        mirror.in_order().iter().map(|store| index(store).expect("one of them")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stor_that_failed_stands_back_longer_each_time() {
        let (mirror, stores) = three();
        assert_eq!(order(&mirror, &stores), [0, 1, 2]);
        for seconds in [1, 2, 4] {
            mirror.report(&stores[0], Outcome::Failed);
            assert_eq!(order(&mirror, &stores), [1, 2, 0]);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(order(&mirror, &stores), [1, 2, 0]);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(order(&mirror, &stores), [0, 1, 2], "it is tried again");
        }
        mirror.report(&stores[0], Outcome::Answered);
        mirror.report(&stores[0], Outcome::Corrupt);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(order(&mirror, &stores), [0, 1, 2], "it is in good standing again after an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_at_one_time_are_one_failure() {
        let (mirror, stores) = three();
        for _ in 0..100 {
            mirror.report(&stores[1], Outcome::Failed);
        }
        assert_eq!(order(&mirror, &stores), [0, 2, 1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(order(&mirror, &stores), [0, 1, 2]);
    }

    #[test]
    fn a_missing_object_says_nothing_about_health() {
        assert_eq!(Outcome::from(&Fault::NotFound), Outcome::Answered);
        assert_eq!(Outcome::from(&Fault::Unavailable("down".into())), Outcome::Failed);
    }

    #[tokio::test]
    async fn what_each_stor_did_is_counted() {
        let (mirror, stores) = three();
        mirror.asked(&stores[1], Asked::First);
        mirror.received(&stores[1], 7);
        mirror.report(&stores[1], Outcome::Corrupt);
        mirror.asked(&stores[1], Asked::Again);
        mirror.received(&stores[1], 5);
        mirror.report(&stores[1], Outcome::Answered);
        mirror.report(&stores[2], Outcome::Failed);
        let stats = mirror.stats();
        let untouched = StorStats { name: stores[0].name().into(), ..StorStats::default() };
        assert_eq!(stats[0], untouched);
        assert_eq!(
            stats[1],
            StorStats { requests: 2, retries: 1, bytes: 12, verification_failures: 1, ..untouched.clone() }
        );
        assert_eq!(stats[2], StorStats { failures: 1, stands_back: true, ..untouched });
    }

    #[tokio::test]
    async fn a_put_goes_to_all_and_the_first_decides() {
        let stores: Vec<_> = (0..2).map(|_| Arc::new(FaultStore::new(Arc::new(MemStore::new())))).collect();
        let mirror = Mirror::new(stores[0].clone(), [stores[1].clone() as Arc<dyn Store>]);
        let (a, b, c) = (sha256(b"a"), sha256(b"b"), sha256(b"c"));
        assert!(mirror.put(&a, &upload(b"a")).await.expect("put").created);
        stores[1].set(Trouble::Fail(|| Fault::Unavailable("down".into())));
        mirror.put(&b, &upload(b"b")).await.expect("the first has it");
        stores[1].set(Trouble::None);
        stores[0].set(Trouble::Fail(|| Fault::Unavailable("down".into())));
        mirror.put(&c, &upload(b"c")).await.expect_err("the first has it not");
        stores[0].set(Trouble::None);
        let keys = [a, b, c];
        assert_eq!(stores[0].has(&keys).await.expect("answered"), [true, true, false]);
        assert_eq!(stores[1].has(&keys).await.expect("answered"), [true, false, true]);
    }

    #[tokio::test]
    async fn an_object_is_there_if_each_stor_has_it_that_takes_it() {
        let stores: Vec<_> = (0..2).map(|_| Arc::new(FaultStore::new(Arc::new(MemStore::new())))).collect();
        let mirror = Mirror::new(stores[0].clone(), [stores[1].clone() as Arc<dyn Store>]);
        let keys = [sha256(b"a"), sha256(b"b"), sha256(b"c"), sha256(b"d")];
        for (stor, content) in [(0, b"a"), (1, b"a"), (0, b"b"), (1, b"c")] {
            stores[stor].put(&sha256(content), &upload(content)).await.expect("put");
        }
        let [all, some, none] = [Presence::Everywhere, Presence::Somewhere, Presence::Nowhere];
        assert_eq!(mirror.presence(&keys).await.expect("answered"), [all, some, some, none]);
        stores[1].set(Trouble::Fail(|| Fault::Unavailable("down".into())));
        assert_eq!(mirror.presence(&keys).await.expect("the first answered"), [all, all, none, none]);
        stores[1].set(Trouble::Fail(|| Fault::Denied));
        mirror.put(&keys[3], &upload(b"d")).await.expect("the first has it");
        stores[1].set(Trouble::None);
        let presence = mirror.presence(&keys).await.expect("answered");
        assert_eq!(presence, [all, all, some, all], "what it denies cannot be put there again");
        mirror.put(&keys[3], &upload(b"d")).await.expect("by both");
        assert_eq!(mirror.presence(&keys).await.expect("answered"), [all, some, some, all]);
        stores[0].set(Trouble::Fail(|| Fault::Unavailable("down".into())));
        mirror.presence(&keys).await.expect_err("the first counts");
    }

    #[tokio::test]
    async fn a_named_file_that_a_mirror_missed_is_not_everywhere() {
        let stores: Vec<_> = (0..2).map(|_| Arc::new(FaultStore::new(Arc::new(MemStore::new())))).collect();
        let mirror = Mirror::new(stores[0].clone(), [stores[1].clone() as Arc<dyn Store>]);
        let name = "app.flist".parse().expect("a name");
        let write = || async {
            let written = mirror.write_named(&name, &upload(b"x"), Precondition::None).await;
            written.expect("the first took it").everywhere
        };
        assert!(write().await);
        stores[1].set(Trouble::Fail(|| Fault::Unavailable("down".into())));
        assert!(!write().await);
        stores[1].set(Trouble::None);
        assert!(write().await);
    }
}
