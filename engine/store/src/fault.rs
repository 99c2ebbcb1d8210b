//! Stors that fail on demand, for tests: [`FaultStore`] around any [`Store`], [`FaultServer`] between a client and a
//! real server.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
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
    /// The body ends after so many bytes as if that were all, whatever was announced.
    End(u64),
    /// The body stops after so many bytes, and does not end.
    Stall(u64),
    /// The byte at this offset of the body is another.
    Flip(u64),
    /// The body arrives in pieces of this length, and its length is not announced.
    Pieces(usize),
    /// The length that is announced is another.
    Announce(u64),
    /// The body is this one, whatever is there and whichever part was asked for.
    Body(Bytes),
    /// The body is this byte without end, whatever is there.
    Endless(u8),
    /// All of these, one after the other.
    All(Vec<Trouble>),
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
/// Each call takes its trouble from the first of these that has one: the script, the script for its key, what is set
/// for its key, what happens sometimes, what is set for all calls.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    script: VecDeque<Trouble>,
    key_scripts: HashMap<Key, VecDeque<Trouble>>,
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
            key_scripts: HashMap::new(),
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

    /// What happens to the next calls about one object, one after the other.
    pub fn script_for(&self, key: &Key, troubles: impl IntoIterator<Item = Trouble>) {
        self.plan().key_scripts.entry(key.clone()).or_default().extend(troubles);
    }

    /// Forgets what was to happen to the next calls.
    pub fn clear_scripts(&self) {
        let mut plan = self.plan();
        plan.script.clear();
        plan.key_scripts.clear();
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

    /// Lets the trouble of a call happen; returns what must happen to its body, in order.
    async fn trouble(
        &self,
        key: Option<&Key>,
        subject: impl ToString,
        count: impl Fn(&mut Calls),
    ) -> Result<Vec<Trouble>, StoreError> {
        let first = {
            let mut plan = self.plan();
            if let Some(key) = key {
                count(plan.calls.entry(key.clone()).or_default());
            }
            plan.next(key)
        };
        let mut ahead = VecDeque::from([first]);
        let mut of_body = Vec::new();
        while let Some(trouble) = ahead.pop_front() {
            match trouble {
                Trouble::Fail(fault) => return Err(self.error(subject, fault())),
                Trouble::Wait(gate) => gate.pass().await,
                Trouble::Silence => std::future::pending().await,
                Trouble::All(troubles) => ahead.extend(troubles),
                trouble => of_body.push(trouble),
            }
        }
        Ok(of_body)
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
                Body { stream: cut(body.stream, after).chain(end).boxed(), ..body }
            }
            Trouble::End(after) => Body { stream: cut(body.stream, after), ..body },
            Trouble::Stall(after) => {
                Body { stream: cut(body.stream, after).chain(stream::pending()).boxed(), ..body }
            }
            Trouble::Flip(offset) => Body { stream: flip(body.stream, offset), ..body },
            Trouble::Pieces(length) => Body { length: None, stream: in_pieces(body.stream, length) },
            Trouble::Announce(length) => Body { length: Some(length), ..body },
            Trouble::Body(bytes) => {
                Body { length: Some(bytes.len() as u64), stream: stream::iter([Ok(bytes)]).boxed() }
            }
            Trouble::Endless(byte) => {
                let piece = Bytes::from(vec![byte; 65536]);
                Body { length: None, stream: stream::repeat_with(move || Ok(piece.clone())).boxed() }
            }
            Trouble::None | Trouble::Fail(_) | Trouble::Wait(_) | Trouble::Silence | Trouble::All(_) => body,
        }
    }
}

impl Plan {
    fn next(&mut self, key: Option<&Key>) -> Trouble {
        if let Some(trouble) = self.script.pop_front() {
            return trouble;
        }
        if let Some(trouble) = key.and_then(|key| self.key_scripts.get_mut(key)?.pop_front()) {
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

/// A stream cut up further.
fn in_pieces<E: Send + 'static>(
    stream: BoxStream<'static, Result<Bytes, E>>,
    length: usize,
) -> BoxStream<'static, Result<Bytes, E>> {
    let cut_up = move |mut bytes: Bytes| {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            pieces.push(Ok(bytes.split_to(length.min(bytes.len()))));
        }
        stream::iter(pieces)
    };
    stream.map_ok(cut_up).try_flatten().boxed()
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
        let troubles = self.trouble(Some(key), key, |calls| calls.get += 1).await?;
        let is_made_up = |trouble: &Trouble| matches!(trouble, Trouble::Body(_) | Trouble::Endless(_));
        let body = if troubles.iter().any(is_made_up) {
            Body { length: None, stream: stream::empty().boxed() }
        } else {
            self.inner.get(key, range).await?
        };
        Ok(troubles.into_iter().fold(body, |body, trouble| self.damage(key, body, trouble)))
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
        store.script([Trouble::Fail(|| Fault::Denied), Trouble::Cut(4), Trouble::Flip(3)]);
        assert!(matches!(store.get(&key, None).await.expect_err("fails").fault, Fault::Denied));
        let mut body = store.get(&key, None).await.expect("got");
        assert_eq!(body.stream.next().await.expect("a piece").expect("good"), b"0123".as_slice());
        let error = body.stream.next().await.expect("an end").expect_err("a bad one");
        assert!(matches!(error.fault, Fault::Short { received: 4, expected: 10 }));
        let body = store.get(&key, None).await.expect("got");
        assert_eq!(bytes_of(body).await.expect("read"), b"0122456789");
        assert_eq!(bytes_of(store.get(&key, None).await.expect("got")).await.expect("read"), b"0123456789");
        assert_eq!(store.calls(&key), Calls { get: 4, put: 1, ..Calls::default() });
    }

    /// The announced length, and the pieces.
    async fn pieces(store: &FaultStore, key: &Key) -> (Option<u64>, Vec<Bytes>) {
        let body = store.get(key, None).await.expect("got");
        (body.length, body.stream.try_collect().await.expect("no error"))
    }

    #[tokio::test]
    async fn bodies_that_are_not_what_is_there() {
        let (store, key) = stor_with(b"0123456789").await;
        let half = Trouble::Body(Bytes::from_static(b"abcde"));
        store.script_for(
            &key,
            [
                Trouble::End(4),
                Trouble::Pieces(4),
                Trouble::Announce(1 << 40),
                half.clone(),
                Trouble::All(vec![half.clone(), Trouble::Pieces(2)]),
            ],
        );
        let text = |pieces: &[&'static str]| {
            pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect::<Vec<_>>()
        };
        assert_eq!(pieces(&store, &key).await, (Some(10), text(&["0123"])));
        assert_eq!(pieces(&store, &key).await, (None, text(&["0123", "4567", "89"])));
        assert_eq!(pieces(&store, &key).await, (Some(1 << 40), text(&["0123456789"])));
        assert_eq!(pieces(&store, &key).await, (Some(5), text(&["abcde"])));
        assert_eq!(pieces(&store, &key).await, (None, text(&["ab", "cd", "e"])));

        let missing = sha256(b"not there");
        store.set_for(&missing, half);
        assert_eq!(pieces(&store, &missing).await.1, text(&["abcde"]));
        store.set_for(&missing, Trouble::Endless(7));
        let body = store.get(&missing, None).await.expect("got");
        assert_eq!(body.length, None);
        assert_eq!(body.stream.take(1000).count().await, 1000);

        store.set_for(&key, Trouble::Stall(3));
        let mut body = store.get(&key, None).await.expect("got");
        assert_eq!(body.stream.next().await.expect("a piece").expect("good"), "012");
        assert!(futures::poll!(body.stream.next()).is_pending());
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
