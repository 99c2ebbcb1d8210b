//! The calls on named files.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::body::receive;
use super::{Refusal, State as SharedState};
use crate::dir::{blocking, file_stream};
use crate::fit::Digesting;
use crate::{ETag, Precondition, StaticName};

/// `GET` and `HEAD` of a named file.
pub(super) async fn get(
    State(shared): SharedState,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let name: StaticName = name.parse()?;
    let disk = shared.disk.clone();
    let found = blocking(move || Ok(disk.read_named(&name)?)).await?;
    let (found, etag) = found.ok_or_else(|| Refusal::status(StatusCode::NOT_FOUND, "not found"))?;
    let version = [(ETAG, quoted(&etag))];
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.flat_map(|list| list.split(',')).any(|known| is(known, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, version).into_response());
    }
    let described =
        [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, found.length.to_string())];
    Ok((version, described, Body::from_stream(file_stream(found.file, 0..found.length))).into_response())
}

/// `POST` of a named file.
pub(super) async fn post(
    State(shared): SharedState,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name: StaticName = name.parse()?;
    let condition = condition(&headers)?;
    let received = receive(&shared, &headers, body, Digesting::sha256()).await?;
    let disk = shared.disk.clone();
    let written = blocking(move || disk.write_named(&name, received.complete()?, &condition));
    let (etag, created) = written.await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(ETAG, quoted(&etag))]).into_response())
}

fn condition(headers: &HeaderMap) -> Result<Precondition, Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text(IF_MATCH), text(IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (None, Some("*")) => Ok(Precondition::Absent),
        (Some(etag), None) if etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"') => {
            Ok(Precondition::Version(ETag(etag[1..etag.len() - 1].to_owned())))
        }
        _ => Err(Refusal::status(
            StatusCode::BAD_REQUEST,
            "a named file is posted with If-Match: \"one ETag\", or If-None-Match: *, or neither",
        )),
    }
}

fn quoted(etag: &ETag) -> String {
    format!("\"{etag}\"")
}

/// Whether one entry of an `If-None-Match` header is this version, by weak comparison.
fn is(known: &str, etag: &ETag) -> bool {
    let known = known.trim();
    known == "*" || known.strip_prefix("W/").unwrap_or(known) == quoted(etag)
}
