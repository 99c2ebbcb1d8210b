//! Bodies between sockets and disk, in pieces.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use super::{Limits, Refusal, Shared};
use crate::Fault;
use crate::dir::{Incoming, PIECE, blocking};
use crate::fit::Digesting;

/// A body that has arrived; its last pieces are not written yet.
pub(super) struct Received {
    incoming: Incoming,
    rest: Vec<Bytes>,
}

impl Received {
    /// The temporary file with all of the body. Blocks.
    pub(super) fn complete(mut self) -> Result<Incoming, Fault> {
        write(&mut self.incoming, &self.rest)?;
        Ok(self.incoming)
    }
}

/// Streams the body of a request into a temporary file. A small body costs no visit to a blocking thread here: it is
/// written where it is published.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: Body,
    digest: Digesting,
) -> Result<Received, Refusal> {
    let limits = &shared.limits;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.body) {
        return Err(too_large(limits));
    }
    let disk = shared.disk.clone();
    let mut incoming = blocking(move || Ok(disk.incoming(digest)?)).await?;
    let mut pieces = body.into_data_stream();
    let (mut rest, mut waiting) = (Vec::new(), 0);
    let mut received = 0;
    while let Some(piece) = next(limits, pieces.next()).await? {
        let piece = piece.map_err(broken_off)?;
        received += piece.len() as u64;
        if received > limits.body {
            return Err(too_large(limits));
        }
        waiting += piece.len();
        rest.push(piece);
        if waiting >= PIECE {
            let full = std::mem::take(&mut rest);
            incoming = blocking(move || {
                write(&mut incoming, &full)?;
                Ok(incoming)
            })
            .await?;
            waiting = 0;
        }
    }
    Ok(Received { incoming, rest })
}

/// The body of a request, in memory, if it is not longer than `most`.
pub(super) async fn receive_small(limits: &Limits, body: Body, most: usize) -> Result<Bytes, Refusal> {
    next(limits, axum::body::to_bytes(body, most)).await?.map_err(broken_off)
}

async fn next<T>(limits: &Limits, arrival: impl Future<Output = T>) -> Result<T, Refusal> {
    let silent = |_| Refusal::status(StatusCode::REQUEST_TIMEOUT, "the body did not arrive");
    timeout(limits.idle, arrival).await.map_err(silent)
}

fn write(incoming: &mut Incoming, pieces: &[Bytes]) -> Result<(), Fault> {
    for piece in pieces {
        incoming.write(piece)?;
    }
    Ok(())
}

fn too_large(limits: &Limits) -> Refusal {
    Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {} bytes", limits.body))
}

fn broken_off(error: axum::Error) -> Refusal {
    Refusal::status(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
}
