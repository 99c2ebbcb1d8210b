//! The calls on objects.

use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::body::{receive, receive_small};
use super::{Refusal, State as SharedState};
use crate::aydostor::protocol::{self, Asked, Posted, Presence};
use crate::dir::{Found, blocking, file_stream, list_stream};
use crate::fit::Digesting;
use crate::{Key, Namespace};

/// How many entries of a listing go into one piece of its body.
const LISTED_TOGETHER: usize = 512;

/// `GET` and `HEAD` of an object.
pub(super) async fn get(
    State(shared): SharedState,
    Path((namespace, hash)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (namespace, key) = parse(&namespace, &hash)?;
    let disk = shared.disk.clone();
    let found = blocking(move || Ok(disk.object(&namespace, &key)?)).await?;
    let Found { file, length } = found.ok_or_else(|| Refusal::status(StatusCode::NOT_FOUND, "not found"))?;
    let asked = headers.get(RANGE).filter(|_| method == Method::GET).and_then(|range| range.to_str().ok());
    let range = match asked.and_then(parse_range) {
        None => {
            let headers = [(ACCEPT_RANGES, "bytes".to_owned()), (CONTENT_LENGTH, length.to_string())];
            return Ok((headers, OCTETS, Body::from_stream(file_stream(file, 0..length))).into_response());
        }
        Some(range) => range.within(length),
    };
    Ok(match range {
        Some(range) => {
            let told = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let headers = [(CONTENT_RANGE, told), (CONTENT_LENGTH, (range.end - range.start).to_string())];
            let body = Body::from_stream(file_stream(file, range));
            (StatusCode::PARTIAL_CONTENT, headers, OCTETS, body).into_response()
        }
        None => {
            let headers = [(CONTENT_RANGE, format!("bytes */{length}"))];
            let refusal = Refusal::status(StatusCode::RANGE_NOT_SATISFIABLE, "no such range");
            (headers, refusal).into_response()
        }
    })
}

/// `PUT` of an object.
pub(super) async fn put(
    State(shared): SharedState,
    Path((namespace, hash)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let (namespace, key) = parse(&namespace, &hash)?;
    let received = receive(&shared, &headers, body, Digesting::of(&key)).await?;
    let disk = shared.disk.clone();
    let created = blocking(move || disk.publish(&namespace, &key, received.complete()?)).await?;
    Ok(if created { StatusCode::CREATED } else { StatusCode::OK })
}

/// `POST` of an object, which is kept under its MD5.
pub(super) async fn post(
    State(shared): SharedState,
    Path(namespace): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Posted>), Refusal> {
    let namespace: Namespace = namespace.parse()?;
    let received = receive(&shared, &headers, body, Digesting::md5()).await?;
    let disk = shared.disk.clone();
    let key = blocking(move || {
        let incoming = received.complete()?;
        let key = incoming.key();
        disk.publish(&namespace, &key, incoming)?;
        Ok(key)
    });
    Ok((StatusCode::CREATED, Json(Posted { hash: key.await?.to_string() })))
}

/// `DELETE` of an object.
pub(super) async fn delete(
    State(shared): SharedState,
    Path((namespace, hash)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let (namespace, key) = parse(&namespace, &hash)?;
    let disk = shared.disk.clone();
    let was_there = blocking(move || Ok(disk.remove(&namespace, &key)?)).await?;
    Ok(if was_there { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND })
}

/// Which of many objects are there.
pub(super) async fn exists(
    State(shared): SharedState,
    Path(namespace): Path<String>,
    body: Body,
) -> Result<Json<Presence>, Refusal> {
    let namespace: Namespace = namespace.parse()?;
    let body = receive_small(&shared.limits, body, protocol::JSON_MAX).await?;
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|error| Refusal::status(StatusCode::BAD_REQUEST, format!("bad JSON: {error}")))?;
    let keys = asked.hashes.iter().map(|hash| hash.parse()).collect::<Result<Vec<Key>, _>>()?;
    let disk = shared.disk.clone();
    let present = blocking(move || {
        let present = |key: &Key| Ok((key.to_string(), disk.object(&namespace, key)?.is_some()));
        keys.iter().map(present).collect()
    });
    Ok(Json(present.await?))
}

/// The listing of a namespace.
pub(super) async fn list(
    State(shared): SharedState,
    Path(namespace): Path<String>,
) -> Result<Response, Refusal> {
    let namespace: Namespace = namespace.parse()?;
    let objects = list_stream(shared.disk.clone(), namespace).ready_chunks(LISTED_TOGETHER).map(Some);
    let mut separator = "[";
    // The list is closed behind its last entry only: one that failed breaks off, and does not pass for a short one.
    let pieces = objects.chain(stream::iter([None])).map(move |objects| {
        let Some(objects) = objects else {
            return Ok(Bytes::from_static(if separator == "[" { b"[]\n" } else { b"]\n" }));
        };
        let mut piece = String::new();
        for object in objects {
            let object = object.inspect_err(|error| tracing::error!(%error, "a listing failed"))?;
            piece += std::mem::replace(&mut separator, ",\n");
            piece += &format!("\"{}\"", protocol::listing_entry(&object));
        }
        std::io::Result::Ok(Bytes::from(piece))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response())
}

const OCTETS: [(axum::http::HeaderName, &str); 1] = [(CONTENT_TYPE, "application/octet-stream")];

fn parse(namespace: &str, hash: &str) -> Result<(Namespace, Key), Refusal> {
    Ok((namespace.parse()?, hash.parse()?))
}

/// A single range, as a `Range` header asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// From a byte to another, both included.
    Bytes { first: u64, last: u64 },
    /// The last bytes.
    Suffix(u64),
}

impl Asking {
    /// The bytes of an object of `length` bytes that are asked for, if there are any.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Bytes { first, last } => first..last.saturating_add(1).min(length),
            Self::Suffix(bytes) => length.saturating_sub(bytes)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Reads a `Range` header. One that is malformed, or asks for several ranges, is to be ignored.
/// See <https://www.rfc-editor.org/rfc/rfc9110#section-14.2>.
fn parse_range(header: &str) -> Option<Asking> {
    let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (first, last) {
        ("", bytes) => Some(Asking::Suffix(bytes.parse().ok()?)),
        (first, "") => Some(Asking::Bytes { first: first.parse().ok()?, last: u64::MAX }),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Asking::Bytes { first, last })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_rfc_9110_has_them() {
        let of_ten = |header| parse_range(header).map(|asking| asking.within(10));
        assert_eq!(of_ten("bytes=0-0"), Some(Some(0..1)));
        assert_eq!(of_ten("bytes=5-"), Some(Some(5..10)));
        assert_eq!(of_ten("bytes=5-100"), Some(Some(5..10)));
        assert_eq!(of_ten("bytes=-3"), Some(Some(7..10)));
        assert_eq!(of_ten("bytes=-30"), Some(Some(0..10)));
        assert_eq!(of_ten("bytes=0-18446744073709551615"), Some(Some(0..10)));
        assert_eq!(of_ten("bytes=10-"), Some(None));
        assert_eq!(of_ten("bytes=-0"), Some(None));
        for ignored in ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=x-y", "bytes", "bytes=-"] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
