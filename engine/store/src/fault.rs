//! Stors that fail on demand, for tests: [`FaultStore`] around any [`Store`], [`FaultServer`] between a client and a
//! real server.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::{
    Body, ETag, Fault, Key, Listed, Named, Precondition, StaticName, Store, StoreError, Stored, Upload,
};

mod server;

pub use server::{FaultServer, ServerTrouble};

/// What happens to a call. What is about a body happens to [`Store::get`] only.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It fails.
    Fail(fn() -> Fault),
    /// It waits at a gate, then goes on.
    Wait(Gate),
    /// It is never answered.
    Silence,
    /// The body ends with [`Fault::Short`] after so many bytes.
    Cut(u64),
    /// The byte at this offset of the body is another.
    Flip(u64),
    /// The body never ends, and its length is not announced.
    Endless,
}

/// Where calls wait until a test lets them go on, and a test waits until calls are there.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

/// The same gate, not one in the same position.
impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.open, &other.open)
    }
}

impl Eq for Gate {}

impl Default for Gate {
    fn default() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }
}

impl Gate {
    /// Lets all through, from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns when at least `calls` calls have come to the gate, ever.
    pub async fn reached_by(&self, calls: usize) {
        let reached = self.waiting.subscribe().wait_for(|waiting| *waiting >= calls).await.map(drop);
        reached.expect("the sender lives in self");
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let opened = self.open.subscribe().wait_for(|open| *open).await.map(drop);
        opened.expect("the sender lives in self");
    }
}

/// How often an object was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of [`Store::get`].
    pub get: usize,
    /// Calls of [`Store::put`].
    pub put: usize,
    /// Times that it was among those of a [`Store::has`].
    pub has: usize,
    /// Calls of [`Store::delete`].
    pub delete: usize,
}

/// A stor that fails as it is told, and counts.
///
/// Each call takes its trouble from the first of these that has one: the script, what is set for its key, what
/// happens sometimes, what is set for all calls.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    script: VecDeque<Trouble>,
    keys: HashMap<Key, Trouble>,
    sometimes: Option<(fastrand::Rng, f64, Trouble)>,
    always: Trouble,
    calls: HashMap<Key, Calls>,
}

impl FaultStore {
    /// Wraps a stor; nothing fails yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let plan = Plan {
            script: VecDeque::new(),
            keys: HashMap::new(),
            sometimes: None,
            always: Trouble::None,
            calls: HashMap::new(),
        };
        Self { inner, plan: Mutex::new(plan) }
    }

    /// What happens to all calls from now on.
    pub fn set(&self, trouble: Trouble) {
        self.plan().always = trouble;
    }

    /// What happens to the next calls, one after the other.
    pub fn script(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.plan().script.extend(troubles);
    }

    /// What happens to the calls about one object from now on.
    pub fn set_for(&self, key: &Key, trouble: Trouble) {
        self.plan().keys.insert(key.clone(), trouble);
    }

    /// What happens to this share of the calls from now on, the same ones for the same seed.
    pub fn sometimes(&self, seed: u64, share: f64, trouble: Trouble) {
        self.plan().sometimes = Some((fastrand::Rng::with_seed(seed), share, trouble));
    }

    /// How often an object was asked for.
    pub fn calls(&self, key: &Key) -> Calls {
        self.plan().calls.get(key).copied().unwrap_or_default()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the trouble of a call happen; returns what must happen to its body.
    async fn trouble(
        &self,
        key: Option<&Key>,
        subject: impl ToString,
        count: impl Fn(&mut Calls),
    ) -> Result<Trouble, StoreError> {
        let trouble = {
            let mut plan = self.plan();
            if let Some(key) = key {
                count(plan.calls.entry(key.clone()).or_default());
            }
            plan.next(key)
        };
        match trouble {
            Trouble::Fail(fault) => Err(self.error(subject, fault())),
            Trouble::Wait(gate) => {
                gate.pass().await;
                Ok(Trouble::None)
            }
            Trouble::Silence => std::future::pending().await,
            trouble => Ok(trouble),
        }
    }

    fn error(&self, subject: impl ToString, fault: Fault) -> StoreError {
        StoreError { stor: self.inner.name().to_owned(), subject: subject.to_string(), fault }
    }

    fn damage(&self, key: &Key, body: Body, trouble: Trouble) -> Body {
        match trouble {
            Trouble::Cut(after) => {
                let expected = body.length.unwrap_or(after);
                let short = self.error(key, Fault::Short { received: after, expected });
                let end = stream::iter([Err(short)]);
                Body { length: body.length, stream: cut(body.stream, after).chain(end).boxed() }
            }
            Trouble::Flip(offset) => Body { length: body.length, stream: flip(body.stream, offset) },
            Trouble::Endless => {
                let more = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 65536])));
                Body { length: None, stream: body.stream.chain(more).boxed() }
            }
            Trouble::None | Trouble::Fail(_) | Trouble::Wait(_) | Trouble::Silence => body,
        }
    }
}

impl Plan {
    fn next(&mut self, key: Option<&Key>) -> Trouble {
        if let Some(trouble) = self.script.pop_front() {
            return trouble;
        }
        if let Some(trouble) = key.and_then(|key| self.keys.get(key)) {
            return trouble.clone();
        }
        if let Some((rng, share, trouble)) = &mut self.sometimes
            && rng.f64() < *share
        {
            return trouble.clone();
        }
        self.always.clone()
    }
}

/// The first bytes of a stream.
fn cut<E: Send + 'static>(
    stream: BoxStream<'static, Result<Bytes, E>>,
    after: u64,
) -> BoxStream<'static, Result<Bytes, E>> {
    let pieces = stream.scan(after, |left, piece| {
        let piece = piece.map(|mut piece| {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            piece
        });
        let is_over = piece.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready((!is_over).then_some(piece))
    });
    pieces.boxed()
}

/// A stream with one byte changed.
fn flip<E: Send + 'static>(
    stream: BoxStream<'static, Result<Bytes, E>>,
    offset: u64,
) -> BoxStream<'static, Result<Bytes, E>> {
    let mut before = 0;
    let pieces = stream.map(move |piece| {
        piece.map(|piece| {
            let here = usize::try_from(offset.wrapping_sub(before)).unwrap_or(usize::MAX);
            before += piece.len() as u64;
            let mut bytes = piece.to_vec();
            if let Some(byte) = bytes.get_mut(here) {
                *byte ^= 1;
            }
            bytes.into()
        })
    });
    pieces.boxed()
}

#[async_trait]
impl Store for FaultStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let trouble = self.trouble(Some(key), key, |calls| calls.get += 1).await?;
        let body = self.inner.get(key, range).await?;
        Ok(self.damage(key, body, trouble))
    }

    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        self.trouble(Some(key), key, |calls| calls.put += 1).await?;
        self.inner.put(key, body).await
    }

    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        for key in keys {
            self.plan().calls.entry(key.clone()).or_default().has += 1;
        }
        self.trouble(None, "has", |_| {}).await?;
        self.inner.has(keys).await
    }

    async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        self.trouble(Some(key), key, |calls| calls.delete += 1).await?;
        self.inner.delete(key).await
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        self.trouble(None, "list", |_| {}).await?;
        self.inner.list().await
    }

    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError> {
        self.trouble(None, name, |_| {}).await?;
        self.inner.read_named(name, known).await
    }

    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError> {
        self.trouble(None, name, |_| {}).await?;
        self.inner.write_named(name, body, condition).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemStore;
    use crate::contract::{bytes_of, sha256, upload};

    async fn stor_with(bytes: &[u8]) -> (Arc<FaultStore>, Key) {
        let store = Arc::new(FaultStore::new(Arc::new(MemStore::new())));
        let key = sha256(bytes);
        store.put(&key, &upload(bytes)).await.expect("put");
        (store, key)
    }

    #[tokio::test]
    async fn without_trouble_it_keeps_the_contract() {
        crate::contract::suite(|| async {
            let store: Arc<dyn Store> = Arc::new(FaultStore::new(Arc::new(MemStore::new())));
            (store, ())
        })
        .await;
    }

    #[tokio::test]
    async fn each_trouble_does_what_it_says() {
        let (store, key) = stor_with(b"0123456789").await;
        store.script([Trouble::Fail(|| Fault::Denied), Trouble::Cut(4), Trouble::Flip(3), Trouble::Endless]);
        assert!(matches!(store.get(&key, None).await.expect_err("fails").fault, Fault::Denied));
        let mut body = store.get(&key, None).await.expect("got");
        assert_eq!(body.stream.next().await.expect("a piece").expect("good"), b"0123".as_slice());
        let error = body.stream.next().await.expect("an end").expect_err("a bad one");
        assert!(matches!(error.fault, Fault::Short { received: 4, expected: 10 }));
        let body = store.get(&key, None).await.expect("got");
        assert_eq!(bytes_of(body).await.expect("read"), b"0122456789");
        let body = store.get(&key, None).await.expect("got");
        assert_eq!(body.length, None);
        assert_eq!(body.stream.take(1000).count().await, 1000);
        assert_eq!(bytes_of(store.get(&key, None).await.expect("got")).await.expect("read"), b"0123456789");
        assert_eq!(store.calls(&key), Calls { get: 5, put: 1, ..Calls::default() });
    }

    #[tokio::test]
    async fn a_gate_holds_calls_until_it_is_opened() {
        let (store, key) = stor_with(b"x").await;
        let gate = Gate::default();
        store.set_for(&key, Trouble::Wait(gate.clone()));
        let waiting = tokio::spawn({
            let (store, key) = (store.clone(), key.clone());
            async move { store.get(&key, None).await.map(drop) }
        });
        gate.reached_by(1).await;
        assert!(!waiting.is_finished());
        gate.open();
        waiting.await.expect("joined").expect("got");
    }

    #[tokio::test]
    async fn sometimes_is_the_same_for_the_same_seed() {
        let (store, key) = stor_with(b"x").await;
        let mut runs = Vec::new();
        for _ in 0..2 {
            store.sometimes(7, 0.3, Trouble::Fail(|| Fault::Denied));
            let mut run = Vec::new();
            for _ in 0..100 {
                run.push(store.get(&key, None).await.is_ok());
            }
            runs.push(run);
        }
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }
}
