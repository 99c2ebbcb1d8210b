//! A stor for those who write to it, and rely on what is there: what they ask about or send is no garbage.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep};

use super::Version;
use crate::{
    Body, BootTime, ETag, Fault, Key, Listed, Named, Namespace, Precondition, StaticName, Store, StoreError,
    Stored, Upload,
};

/// How long what the file said is good enough. What becomes a candidate meanwhile is one for the whole grace time, of which this is a small part.
const FRESH: Duration = Duration::from_secs(60);

/// How long to wait for a deletion to end, which takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before another look, or another try where somebody else was faster.
const PAUSE: Duration = Duration::from_millis(500);

/// A stor whose objects are struck off the list of [garbage](super) before anybody relies on them.
///
/// Reads pass through, and cost nothing more. Before the first [`Store::has`] or [`Store::put`], and once a minute from then on, the
/// list is looked at.
#[derive(Debug)]
pub struct Rescuing {
    inner: Arc<dyn Store>,
    name: StaticName,
    seen: Mutex<Option<(Asked, Arc<Version>)>>,
}

/// When the list was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    /// The same, by a clock that goes on while the machine is suspended: the stor goes on, too.
    awake_or_not: BootTime,
}

impl Asked {
    fn now() -> Self {
        Self { at: Instant::now(), awake_or_not: BootTime::now() }
    }

    fn elapsed(self) -> Duration {
        self.at.elapsed().max(self.awake_or_not.elapsed())
    }
}

impl Rescuing {
    /// A stor that is bound to this namespace.
    pub fn around(inner: Arc<dyn Store>, namespace: &Namespace) -> Arc<dyn Store> {
        match super::name(namespace) {
            Ok(name) => Arc::new(Self { inner, name, seen: Mutex::default() }),
            // Where the list can have no name, nobody collects garbage.
            Err(_) => inner,
        }
    }

    /// Strikes objects off the list of garbage.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] if they are being deleted, and that does not end.
    pub async fn rescue(&self, keys: &[Key]) -> Result<(), StoreError> {
        let give_up = Instant::now() + PATIENCE;
        let mut version = self.list(FRESH).await?;
        loop {
            let garbage = &version.garbage;
            if !keys.iter().any(|key| garbage.mentions(key)) {
                return Ok(());
            }
            if !keys.iter().any(|key| garbage.doomed.contains(key)) {
                let mut rest = garbage.clone();
                rest.candidates.retain(|key, _| !keys.contains(key));
                match version.replace(&*self.inner, &self.name, rest).await {
                    Ok(replaced) => {
                        *self.seen() = Some((Asked::now(), Arc::new(replaced)));
                        return Ok(());
                    }
                    Err(error) if matches!(error.fault, Fault::Conflict) => {}
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() >= give_up {
                return Err(StoreError {
                    stor: self.name().into(),
                    subject: self.name.to_string(),
                    fault: Fault::Unavailable(
                        "a collection of garbage is deleting objects that are wanted again, and does not end: if none is running, \
                         run `aysfs gc` again an hour after the one that was interrupted, then repeat this"
                            .into(),
                    ),
                });
            }
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
            version = self.list(Duration::ZERO).await?;
        }
    }

    /// The list, as it was this long ago or later.
    async fn list(&self, fresh: Duration) -> Result<Arc<Version>, StoreError> {
        let seen = self.seen().clone();
        let known = match seen {
            Some((asked, version)) if asked.elapsed() < fresh => return Ok(version),
            Some((_, version)) => Version::clone(&version),
            None => Version::default(),
        };
        let asked = Asked::now();
        let version = Arc::new(known.renewed(&*self.inner, &self.name).await?);
        *self.seen() = Some((asked, version.clone()));
        Ok(version)
    }

    fn seen(&self) -> MutexGuard<'_, Option<(Asked, Arc<Version>)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Rescuing {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        self.inner.get(key, range).await
    }

    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        self.rescue(std::slice::from_ref(key)).await?;
        let stored = self.inner.put(key, body).await?;
        if stored.key != *key {
            self.rescue(std::slice::from_ref(&stored.key)).await?;
        }
        Ok(stored)
    }

    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        self.rescue(keys).await?;
        self.inner.has(keys).await
    }

    async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        self.inner.delete(key).await
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        self.inner.list().await
    }

    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError> {
        self.inner.read_named(name, known).await
    }

    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError> {
        self.inner.write_named(name, body, condition).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{Garbage, name};
    use super::*;
    use crate::MemStore;
    use crate::fault::{FaultStore, Trouble};

    struct Lab {
        stor: Arc<MemStore>,
        namespace: Namespace,
    }

    impl Lab {
        fn new() -> Self {
            Self { stor: Arc::default(), namespace: "test".parse().expect("a namespace") }
        }

        fn careful(&self) -> Arc<dyn Store> {
            Rescuing::around(self.stor.clone(), &self.namespace)
        }

        async fn set(&self, garbage: Garbage) {
            let name = name(&self.namespace).expect("short");
            let version = Version::read(&*self.stor, &name).await.expect("read");
            version.replace(&*self.stor, &name, garbage).await.expect("replaced");
        }

        async fn list(&self) -> Garbage {
            let name = name(&self.namespace).expect("short");
            Version::read(&*self.stor, &name).await.expect("read").garbage
        }
    }

    fn candidates(keys: &[&Key]) -> Garbage {
        Garbage { candidates: keys.iter().map(|key| (Key::clone(key), 5)).collect(), ..Garbage::default() }
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        crate::contract::suite(|| async {
            let lab = Lab::new();
            (lab.careful(), ())
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_asked_for_or_sent_is_struck_off() {
        let (lab, [a, b, c]) = (Lab::new(), [1, 2, 3].map(|byte| Key::sha256([byte; 32])));
        lab.set(candidates(&[&a, &b, &c])).await;
        let careful = lab.careful();
        careful.has(&[Key::sha256([4; 32]), b.clone()]).await.expect("answered");
        assert_eq!(lab.list().await, candidates(&[&a, &c]));
        // Whatever comes of it.
        careful.put(&a, &Upload::Bytes("x".into())).await.expect_err("another digest");
        assert_eq!(lab.list().await, candidates(&[&c]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_stor_that_says_that_there_is_no_list_has_none() {
        let (lab, key) = (Lab::new(), Key::sha256([1; 32]));
        lab.set(candidates(&[&key])).await;
        let faulty = Arc::new(FaultStore::new(lab.stor.clone()));
        let careful = Rescuing::around(faulty.clone(), &lab.namespace);
        let wrong = || [Trouble::Fail(|| Fault::Protocol("a named file without an ETag".into()))];
        // Before and after a version of it was seen.
        for _ in 0..2 {
            faulty.script(wrong());
            careful.has(&[]).await.expect_err("there may be a list");
            careful.has(std::slice::from_ref(&key)).await.expect("answered");
            assert_eq!(lab.list().await, Garbage::default());
            tokio::time::advance(FRESH).await;
        }
        faulty.script([Trouble::Fail(|| Fault::NotFound)]);
        careful.has(&[key]).await.expect("there is none");
    }

    #[tokio::test]
    async fn several_at_once_lose_nothing() {
        let (lab, keys) = (Lab::new(), [1, 2, 3, 4].map(|byte| Key::sha256([byte; 32])));
        lab.set(candidates(&keys.each_ref())).await;
        let writers = keys.each_ref().map(|_| lab.careful());
        for writer in &writers {
            writer.has(&[]).await.expect("answered");
        }
        let asked = writers.iter().zip(&keys).map(|(writer, key)| writer.has(std::slice::from_ref(key)));
        for answer in futures::future::join_all(asked).await {
            answer.expect("answered");
        }
        assert_eq!(lab.list().await, Garbage::default());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_doomed_is_waited_for() {
        let (lab, key) = (Lab::new(), Key::sha256([1; 32]));
        let doomed = Garbage { doomed: HashSet::from([key.clone()]), doomed_since: 5, ..Garbage::default() };
        lab.set(doomed.clone()).await;
        lab.stor.insert(key.clone(), "x");
        let careful = lab.careful();
        let (there, ()) = futures::join!(careful.has(std::slice::from_ref(&key)), async {
            sleep(PAUSE * 10).await;
            lab.stor.delete(&key).await.expect("deleted");
            lab.set(Garbage::default()).await;
        });
        assert_eq!(there.expect("answered"), [false], "it may be sent again");
        lab.set(doomed).await;
        let error = careful.put(&key, &Upload::Bytes("x".into())).await;
        // What was seen a moment ago is believed.
        assert!(matches!(error.expect_err("no such digest").fault, Fault::Refused(_)));
        tokio::time::advance(FRESH).await;
        let error = careful.has(&[key]).await.expect_err("it does not end");
        assert!(matches!(error.fault, Fault::Unavailable(_)), "{error}");
    }
}
