//! A stor in memory, for tests: the smallest thing that keeps the contract.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::dir::read_upload;
use crate::fit::{Digesting, fits};
use crate::store::part_of;
use crate::{
    Body, ETag, Fault, Key, Listed, Named, Precondition, StaticName, Store, StoreError, Stored, Upload,
};

/// A stor in memory.
#[derive(Debug)]
pub struct MemStore {
    name: String,
    contents: Mutex<Contents>,
}

impl Default for MemStore {
    fn default() -> Self {
        Self::named("memory")
    }
}

#[derive(Debug, Default)]
struct Contents {
    objects: HashMap<Key, (Bytes, SystemTime)>,
    named: HashMap<StaticName, (Bytes, ETag)>,
}

impl MemStore {
    /// An empty stor.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty stor that messages call `name`.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), contents: Mutex::default() }
    }

    /// Keeps `body` under `key` even if it does not fit: what a stor might do that is broken, or malicious.
    pub fn insert(&self, key: Key, body: impl Into<Bytes>) {
        self.insert_at(key, body, SystemTime::now());
    }

    /// The same, of an object that was put at that time.
    pub fn insert_at(&self, key: Key, body: impl Into<Bytes>, created: SystemTime) {
        self.contents().objects.insert(key, (body.into(), created));
    }

    /// The keys of all objects, sorted.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.contents().objects.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// The bytes of an object.
    pub fn bytes(&self, key: &Key) -> Option<Bytes> {
        self.contents().objects.get(key).map(|(bytes, _)| bytes.clone())
    }

    /// Removes a named file.
    pub fn remove_named(&self, name: &StaticName) {
        self.contents().named.remove(name);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, subject: impl ToString, fault: Fault) -> StoreError {
        StoreError { stor: self.name.clone(), subject: subject.to_string(), fault }
    }
}

fn body_of(bytes: Bytes) -> Body {
    Body { length: Some(bytes.len() as u64), stream: stream::iter([Ok(bytes)]).boxed() }
}

fn bytes_of(upload: &Upload) -> Result<Bytes, Fault> {
    let mut bytes = Vec::new();
    read_upload(upload, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes.into())
}

#[async_trait]
impl Store for MemStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let object = self.contents().objects.get(key).map(|(bytes, _)| bytes.clone());
        let part = || {
            let bytes = object.ok_or(Fault::NotFound)?;
            let range = part_of(range, bytes.len() as u64)?;
            let index = |offset| usize::try_from(offset).expect("within the object");
            Ok(bytes.slice(index(range.start)..index(range.end)))
        };
        part().map(body_of).map_err(|fault| self.error(key, fault))
    }

    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        let bytes = bytes_of(body).map_err(|fault| self.error(key, fault))?;
        if !fits(key, &bytes) {
            return Err(self.error(key, Fault::Refused("the body does not fit the hash".into())));
        }
        let created = self.contents().objects.insert(key.clone(), (bytes, SystemTime::now())).is_none();
        Ok(Stored { key: key.clone(), created })
    }

    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        let contents = self.contents();
        Ok(keys.iter().map(|key| contents.objects.contains_key(key)).collect())
    }

    async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.contents().objects.remove(key).is_some())
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        let listed = |(key, (bytes, created)): (&Key, &(Bytes, SystemTime))| {
            Ok(Listed { key: key.clone(), size: bytes.len() as u64, created: *created })
        };
        let objects: Vec<_> = self.contents().objects.iter().map(listed).collect();
        Ok(stream::iter(objects).boxed())
    }

    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError> {
        match self.contents().named.get(name) {
            None => Err(self.error(name, Fault::NotFound)),
            Some((_, etag)) if known == Some(etag) => Ok(Named::Unchanged),
            Some((bytes, etag)) => Ok(Named::Found { body: body_of(bytes.clone()), etag: etag.clone() }),
        }
    }

    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError> {
        let bytes = bytes_of(body).map_err(|fault| self.error(name, fault))?;
        let mut digest = Digesting::sha256();
        digest.update(&bytes);
        let etag = ETag(digest.key().to_string());
        let mut contents = self.contents();
        let current = contents.named.get(name).map(|(_, etag)| etag);
        let holds = match &condition {
            Precondition::None => true,
            Precondition::Absent => current.is_none(),
            Precondition::Version(known) => current == Some(known),
        };
        if !holds {
            return Err(self.error(name, Fault::Conflict));
        }
        contents.named.insert(name.clone(), (bytes, etag.clone()));
        Ok(etag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        crate::contract::suite(|| async {
            let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(MemStore::new());
            (store, ())
        })
        .await;
    }
}
