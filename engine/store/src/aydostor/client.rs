//! The client of an AYDO stor.
//!
//! - A body is sent and received raw, in pieces, and held to its announced length.
//! - What can be repeated is repeated within the deadline, but for a `get`: that is for the reader to decide. Only
//!   the stream of one that breaks off goes on with a `Range` from where it was, for as long as that brings more;
//!   where the stor does not allow that, it ends with [`Fault::Short`].
//! - A stor of the old system is understood: without `PUT` objects are posted and found under the MD5 of what was
//!   sent; without `exists` each object is asked for by itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_RANGE, IF_MATCH, IF_NONE_MATCH, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::Patience;
use super::protocol::{self, Asked, ListingReader, Posted, Presence, Urls};
use super::transport::{Arriving, Transport, etag, header, refusal};
use crate::dir::{blocking, read_upload};
use crate::fit::Digesting;
use crate::{
    Body, ETag, Fault, Key, Listed, Named, Namespace, Precondition, StaticName, Store, StoreError, Stored,
    Upload,
};

/// How often an upload is repeated.
const UPLOAD_REPEATS: u32 = 6;
/// How often the body of an object is resumed, and a short question repeated.
const REPEATS: u32 = 32;
/// How many objects are asked for at once where a stor has no `exists`.
const PARALLEL: usize = 16;

/// One namespace of an AYDO stor, over HTTP.
#[derive(Clone, Debug)]
pub struct AydoStor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    transport: Transport,
    urls: Urls,
    namespace: Namespace,
    deadline: Duration,
    /// The stor has no `PUT`.
    posts_only: AtomicBool,
    /// The stor has no `exists`.
    asks_singly: AtomicBool,
}

impl AydoStor {
    pub(crate) fn new(
        transport: Transport,
        base: url::Url,
        namespace: Namespace,
        deadline: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            name: format!("{base} ({namespace})"),
            transport,
            urls: Urls::new(base),
            namespace,
            deadline,
            posts_only: AtomicBool::new(false),
            asks_singly: AtomicBool::new(false),
        }))
    }
}

impl Inner {
    fn patience(&self) -> Patience {
        Patience::new(self.deadline, REPEATS)
    }

    /// For a request that is not repeated.
    fn patience_once(&self) -> Patience {
        Patience::new(self.deadline, 0)
    }

    fn error(&self, subject: impl ToString, fault: Fault) -> StoreError {
        StoreError { stor: self.name.clone(), subject: subject.to_string(), fault }
    }

    /// Asks for an object or a part of it; returns the answer and the length of its body.
    async fn open(
        &self,
        key: &Key,
        range: Option<&Range<u64>>,
        patience: &mut Patience,
    ) -> Result<(Response, Option<u64>), Fault> {
        let response = self
            .transport
            .send(patience, || {
                let request = self.transport.request(Method::GET, self.urls.object(&self.namespace, key));
                match range {
                    Some(range) => request.header(RANGE, protocol::range_header(range)),
                    None => request,
                }
            })
            .await?;
        let length = response.content_length();
        match (response.status(), range) {
            (StatusCode::OK, None) => Ok((response, length)),
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                let told = header(&response, CONTENT_RANGE);
                let answered = told.and_then(protocol::parse_content_range);
                let wanted = range.end - range.start;
                match answered {
                    Some((answered, _)) if answered == *range && length.is_none_or(|l| l == wanted) => {
                        Ok((response, Some(wanted)))
                    }
                    // A server may cut off a range that goes beyond the end.
                    Some((answered, Some(total)))
                        if answered.start == range.start && answered.end == total && total < range.end =>
                    {
                        Err(Fault::Refused(format!("no range {range:?} in {total} bytes")))
                    }
                    _ => Err(Fault::Protocol(format!(
                        "asked for {range:?}, answered Content-Range {told:?}, Content-Length {length:?}"
                    ))),
                }
            }
            (StatusCode::OK, Some(range)) => {
                Err(Fault::Protocol(format!("asked for {range:?}, answered the whole object")))
            }
            (StatusCode::PARTIAL_CONTENT, None) => {
                Err(Fault::Protocol("asked for the object, answered a part of it".into()))
            }
            _ => Err(refusal(response, patience).await),
        }
    }

    /// Sends a question that has a JSON answer, until it is answered.
    async fn ask<T: DeserializeOwned>(&self, question: &Asked, url: &url::Url) -> Result<Option<T>, Fault> {
        let mut patience = self.patience();
        loop {
            let request = || self.transport.request(Method::POST, url.clone()).json(question);
            let response = self.transport.send(&mut patience, request).await?;
            if is_unknown_call(response.status()) {
                return Ok(None);
            }
            match self.json(response, &patience).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(fault) => patience.pause(fault).await?,
            }
        }
    }

    async fn json<T: DeserializeOwned>(&self, response: Response, patience: &Patience) -> Result<T, Fault> {
        if !response.status().is_success() {
            return Err(refusal(response, patience).await);
        }
        let length = response.content_length();
        let body = Arriving::new(response, length, self.patience()).collect(protocol::JSON_MAX).await?;
        serde_json::from_slice(&body).map_err(|error| Fault::Protocol(format!("bad JSON: {error}")))
    }

    /// Keeps an object in a stor that has `PUT`; `None` if it has not.
    async fn put(&self, key: &Key, body: &Upload) -> Result<Option<Stored>, Fault> {
        let mut patience = Patience::new(self.deadline, UPLOAD_REPEATS);
        let url = self.urls.object(&self.namespace, key);
        let request = || self.transport.request(Method::PUT, url.clone());
        let response = self.transport.upload(&mut patience, body, request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(Some(Stored { key: key.clone(), created: true })),
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(Some(Stored { key: key.clone(), created: false })),
            status if is_unknown_call(status) => Ok(None),
            _ => Err(refusal(response, &patience).await),
        }
    }

    /// Keeps an object in a stor that chooses its key: the MD5 of the body.
    async fn post(&self, body: &Upload) -> Result<Stored, Fault> {
        let key = digest(body, Digesting::md5()).await?;
        let mut patience = Patience::new(self.deadline, UPLOAD_REPEATS);
        let url = self.urls.namespace(&self.namespace);
        let request = || self.transport.request(Method::POST, url.clone());
        let response = self.transport.upload(&mut patience, body, request).await?;
        let created = response.status() == StatusCode::CREATED;
        let posted: Posted = self.json(response, &patience).await?;
        if posted.hash != key.as_str() {
            let told = posted.hash.chars().take(64).collect::<String>();
            return Err(Fault::Protocol(format!("sent a body of MD5 {key}, the stor calls it {told:?}")));
        }
        Ok(Stored { key, created })
    }

    /// Whether one object is there.
    async fn head(&self, key: &Key) -> Result<bool, Fault> {
        let mut patience = self.patience();
        let url = self.urls.object(&self.namespace, key);
        let request = || self.transport.request(Method::HEAD, url.clone());
        let response = self.transport.send(&mut patience, request).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(response, &patience).await),
        }
    }

    /// Which of a few objects are there. A stor that leaves one out of its answer does not have it.
    async fn exists(&self, keys: &[Key]) -> Result<Vec<bool>, Fault> {
        if !self.asks_singly.load(Ordering::Relaxed) {
            let question = Asked { hashes: keys.iter().map(Key::to_string).collect() };
            let url = self.urls.exists(&self.namespace);
            if let Some(answer) = self.ask::<Presence>(&question, &url).await? {
                return Ok(keys.iter().map(|key| answer.get(key.as_str()) == Some(&true)).collect());
            }
        }
        let present = stream::iter(keys.to_vec())
            .map(|key| async move { self.head(&key).await })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        self.asks_singly.store(true, Ordering::Relaxed);
        Ok(present)
    }

    /// The version of a named file, if it is there and the stor tells.
    async fn version(&self, name: &StaticName) -> Result<Option<ETag>, Fault> {
        let mut patience = self.patience();
        let url = self.urls.named(name);
        let request = || self.transport.request(Method::HEAD, url.clone());
        let response = self.transport.send(&mut patience, request).await?;
        Ok(etag(&response).filter(|_| response.status().is_success()))
    }
}

/// A `get` under way.
struct Getting {
    stor: Arc<Inner>,
    key: Key,
    /// Where in the object the asked part begins.
    start: u64,
    /// How much had been received when the answer last broke off.
    broke_off_at: u64,
    arriving: Arriving,
}

impl Getting {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, Fault> {
        loop {
            match self.arriving.next().await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => self.resume(fault).await?,
            }
        }
    }

    /// Asks for the rest.
    async fn resume(&mut self, fault: Fault) -> Result<(), Fault> {
        let Some(expected) = self.arriving.expected() else { return Err(fault) };
        let received = self.arriving.received();
        if received == self.broke_off_at {
            return Err(fault);
        }
        self.broke_off_at = received;
        self.arriving.patience.pause(fault).await?;
        let rest = self.start + received..self.start + expected;
        match self.stor.open(&self.key, Some(&rest), &mut self.stor.patience_once()).await {
            Ok((response, _)) => {
                self.arriving.resume(response);
                Ok(())
            }
            Err(Fault::Protocol(_) | Fault::Refused(_)) => Err(Fault::Short { received, expected }),
            Err(fault) => Err(fault),
        }
    }
}

#[async_trait]
impl Store for AydoStor {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let stor = self.0.clone();
        if let Some(range) = &range
            && range.is_empty()
        {
            return Err(stor.error(key, Fault::Refused(format!("no bytes in {range:?}"))));
        }
        let opened = stor.open(key, range.as_ref(), &mut stor.patience_once()).await;
        let (response, length) = opened.map_err(|fault| stor.error(key, fault))?;
        let getting = Getting {
            stor: stor.clone(),
            key: key.clone(),
            start: range.map_or(0, |range| range.start),
            broke_off_at: 0,
            arriving: Arriving::new(response, length, stor.patience()),
        };
        let key = key.clone();
        let stream = stream::try_unfold(getting, |mut getting| async move {
            let bytes = getting.next().await?;
            Ok(bytes.map(|bytes| (bytes, getting)))
        });
        Ok(Body { length, stream: stream.map_err(move |fault| stor.error(&key, fault)).boxed() })
    }

    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        let stor = &self.0;
        let put = async {
            if !stor.posts_only.load(Ordering::Relaxed)
                && let Some(stored) = stor.put(key, body).await?
            {
                return Ok(stored);
            }
            let stored = stor.post(body).await?;
            // Only now: a 404 may have meant a namespace that is not there.
            stor.posts_only.store(true, Ordering::Relaxed);
            Ok(stored)
        };
        put.await.map_err(|fault| stor.error(key, fault))
    }

    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        let mut present = Vec::with_capacity(keys.len());
        for some in keys.chunks(protocol::ASKED_AT_ONCE) {
            let answer = self.0.exists(some).await;
            present.extend(answer.map_err(|fault| self.0.error(format!("{} objects", keys.len()), fault))?);
        }
        Ok(present)
    }

    async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let stor = &self.0;
        let delete = async {
            let mut patience = stor.patience();
            let url = stor.urls.object(&stor.namespace, key);
            let request = || stor.transport.request(Method::DELETE, url.clone());
            let response = stor.transport.send(&mut patience, request).await?;
            match response.status() {
                StatusCode::NOT_FOUND => Ok(false),
                status if status.is_success() => Ok(true),
                _ => Err(refusal(response, &patience).await),
            }
        };
        delete.await.map_err(|fault| stor.error(key, fault))
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        let stor = self.0.clone();
        let open = async {
            let mut patience = stor.patience();
            let url = stor.urls.namespace(&stor.namespace);
            let request = || stor.transport.request(Method::GET, url.clone());
            let response = stor.transport.send(&mut patience, request).await?;
            if response.status() != StatusCode::OK {
                return Err(refusal(response, &patience).await);
            }
            let length = response.content_length();
            Ok(Arriving::new(response, length, patience))
        };
        let arriving = open.await.map_err(|fault| stor.error("list", fault))?;
        let objects = stream::try_unfold(
            (arriving, ListingReader::default()),
            |(mut arriving, mut reader)| async move {
                match arriving.next().await? {
                    Some(bytes) => {
                        let objects = reader.push(&bytes).map_err(Fault::Protocol)?;
                        Ok(Some((stream::iter(objects.into_iter().map(Ok)), (arriving, reader))))
                    }
                    None if reader.is_complete() => Ok(None),
                    None => Err(Fault::Protocol("the listing ends before its end".into())),
                }
            },
        )
        .try_flatten();
        Ok(objects.map_err(move |fault| stor.error("list", fault)).boxed())
    }

    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError> {
        let stor = self.0.clone();
        let open = async {
            let mut patience = stor.patience();
            let url = stor.urls.named(name);
            let request = || {
                let request = stor.transport.request(Method::GET, url.clone());
                match known {
                    Some(known) => request.header(IF_NONE_MATCH, &known.0),
                    None => request,
                }
            };
            let response = stor.transport.send(&mut patience, request).await?;
            match response.status() {
                StatusCode::NOT_MODIFIED if known.is_some() => Ok(None),
                StatusCode::OK => match etag(&response) {
                    Some(etag) => Ok(Some((response, etag, patience))),
                    None => Err(Fault::Protocol("a named file without an ETag".into())),
                },
                _ => Err(refusal(response, &patience).await),
            }
        };
        match open.await.map_err(|fault| stor.error(name, fault))? {
            None => Ok(Named::Unchanged),
            Some((response, etag, patience)) => {
                let length = response.content_length();
                let name = name.clone();
                let stream = Arriving::new(response, length, patience)
                    .into_stream(move |fault| stor.error(&name, fault));
                Ok(Named::Found { body: Body { length, stream }, etag })
            }
        }
    }

    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError> {
        let stor = &self.0;
        let write = async {
            let mut patience = Patience::new(stor.deadline, UPLOAD_REPEATS);
            let url = stor.urls.named(name);
            let request = || {
                let request = stor.transport.request(Method::POST, url.clone());
                match &condition {
                    Precondition::None => request,
                    Precondition::Absent => request.header(IF_NONE_MATCH, "*"),
                    Precondition::Version(etag) => request.header(IF_MATCH, &etag.0),
                }
            };
            let response = stor.transport.upload(&mut patience, body, request).await?;
            match response.status() {
                status if status.is_success() => {
                    etag(&response).ok_or_else(|| Fault::Protocol("a named file without an ETag".into()))
                }
                // An attempt whose answer was lost may have been the one that changed it.
                StatusCode::PRECONDITION_FAILED if patience.has_repeated() => {
                    let ours = format!("\"{}\"", digest(body, Digesting::sha256()).await?);
                    stor.version(name).await?.filter(|etag| etag.0 == ours).ok_or(Fault::Conflict)
                }
                _ => Err(refusal(response, &patience).await),
            }
        };
        write.await.map_err(|fault| stor.error(name, fault))
    }
}

/// Whether an answer may mean that the stor does not have such a call.
fn is_unknown_call(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

async fn digest(body: &Upload, mut digest: Digesting) -> Result<Key, Fault> {
    let body = body.clone();
    blocking(move || {
        read_upload(&body, |bytes| {
            digest.update(bytes);
            Ok(())
        })?;
        Ok(digest.key())
    })
    .await
}
