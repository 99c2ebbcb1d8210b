//! A stor in memory that answers as it is told.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;

use super::super::lock;
use crate::{
    Body, ETag, Fault, Key, Listed, Named, Precondition, StaticName, Store, StoreError, Stored, Upload,
};

/// What a stor does when it is asked for an object.
#[derive(Clone)]
pub(super) enum Answer {
    /// Gives it.
    Bytes(Bytes),
    /// Gives it without telling its length, in pieces of this length.
    Pieces(Bytes, usize),
    /// Gives it when the gate is open.
    Gated(Gate, Bytes),
    /// Fails.
    Fails(fn() -> Fault),
    /// Says nothing.
    Silent,
    /// Gives these bytes, then nothing more, although the body is longer.
    Stalls(Bytes),
    /// Gives these bytes of a longer body, and ends.
    Short(Bytes, u64),
    /// Never stops giving.
    Endless(u8),
}

/// Holds up whoever passes until it is opened.
#[derive(Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(super) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(super) fn open(&self) {
        self.0.close();
    }

    async fn pass(&self) {
        // Closing the semaphore is what opens the gate.
        let _ = self.0.acquire().await;
    }
}

pub(super) struct TestStor {
    name: String,
    /// What to answer, in turn; the last one stays.
    answers: Mutex<HashMap<Key, VecDeque<Answer>>>,
    asked: Mutex<HashMap<Key, usize>>,
}

impl std::fmt::Debug for TestStor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl TestStor {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), answers: Mutex::default(), asked: Mutex::default() }
    }

    pub(super) fn answer(&self, key: &Key, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.answers).insert(key.clone(), answers.into_iter().collect());
    }

    pub(super) fn give(&self, key: &Key, body: &[u8]) {
        self.answer(key, [Answer::Bytes(Bytes::copy_from_slice(body))]);
    }

    /// How often an object was asked for.
    pub(super) fn asked(&self, key: &Key) -> usize {
        lock(&self.asked).get(key).copied().unwrap_or(0)
    }
}

#[async_trait]
impl Store for TestStor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        *lock(&self.asked).entry(key.clone()).or_default() += 1;
        let answer = match lock(&self.answers).get_mut(key) {
            Some(answers) if answers.len() > 1 => answers.pop_front(),
            Some(answers) => answers.front().cloned(),
            None => None,
        };
        let error = |fault| StoreError { stor: self.name.clone(), subject: key.to_string(), fault };
        let cut = |body: Bytes| match &range {
            Some(range) => body.slice(
                usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small"),
            ),
            None => body,
        };
        let once = |body: Bytes| -> BoxStream<'static, _> { stream::iter([Ok(body)]).boxed() };
        match answer.ok_or_else(|| error(Fault::NotFound))? {
            Answer::Bytes(body) => {
                let body = cut(body);
                Ok(Body { length: Some(body.len() as u64), stream: once(body) })
            }
            Answer::Pieces(body, length) => {
                let pieces: Vec<_> =
                    body.chunks(length).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                Ok(Body { length: None, stream: stream::iter(pieces).boxed() })
            }
            Answer::Gated(gate, body) => {
                gate.pass().await;
                Ok(Body { length: Some(body.len() as u64), stream: once(body) })
            }
            Answer::Fails(fault) => Err(error(fault())),
            Answer::Silent => futures::future::pending().await,
            Answer::Stalls(head) => {
                let stream = once(head).chain(stream::pending()).boxed();
                Ok(Body { length: None, stream })
            }
            Answer::Short(head, length) => Ok(Body { length: Some(length), stream: once(head) }),
            Answer::Endless(byte) => {
                let piece = Bytes::from(vec![byte; 64 << 10]);
                Ok(Body { length: None, stream: stream::repeat_with(move || Ok(piece.clone())).boxed() })
            }
        }
    }

    async fn put(&self, _: &Key, _: &Upload) -> Result<Stored, StoreError> {
        unreachable!("a cache only gets")
    }

    async fn has(&self, _: &[Key]) -> Result<Vec<bool>, StoreError> {
        unreachable!("a cache only gets")
    }

    async fn delete(&self, _: &Key) -> Result<bool, StoreError> {
        unreachable!("a cache only gets")
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        unreachable!("a cache only gets")
    }

    async fn read_named(&self, _: &StaticName, _: Option<&ETag>) -> Result<Named, StoreError> {
        unreachable!("a cache only gets")
    }

    async fn write_named(&self, _: &StaticName, _: &Upload, _: Precondition) -> Result<ETag, StoreError> {
        unreachable!("a cache only gets")
    }
}
