//! A file of any http(s) URL, such as a flist.

use std::time::Duration;

use futures::StreamExt;
use reqwest::header::IF_NONE_MATCH;
use reqwest::{Method, StatusCode};
use url::Url;

use crate::aydostor::Patience;
use crate::aydostor::transport::{Arriving, Credentials, Transport, etag, refusal};
use crate::open::without_credentials;
use crate::{Body, ETag, Fault, OpenError, StorOptions, StoreError};

/// How often a request is repeated within the deadline.
const REPEATS: u32 = 32;

/// What came of a [`fetch_url`].
#[derive(Debug)]
pub enum Fetched {
    /// It still is the version that the caller knows.
    Unchanged,
    /// Its content now.
    Found {
        /// The content; the stream fails at the byte that goes beyond the limit.
        body: Body,
        /// Its version, if the server tells.
        etag: Option<ETag>,
    },
}

impl UrlError {
    /// Whether it may be different a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.fault.is_transient())
    }
}

/// Why a URL could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// Not a URL that can be fetched.
    #[error("{0}: only http:// and https:// URLs can be fetched")]
    Scheme(Url),
    /// The stor whose credentials would be used is badly described.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The server.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches `url` unless it still is the version `known`. More than `limit` bytes are an error.
///
/// The credentials, the CA and `require_tls` of the first of `stors` hold that has `url` under its address: same
/// scheme, host and port, and below its path by whole components. They are never used for any other URL, redirects
/// included.
/// Credentials in the URL itself go to that URL's origin only.
pub async fn fetch_url(
    url: &Url,
    stors: &[StorOptions],
    known: Option<&ETag>,
    limit: u64,
    deadline: Duration,
) -> Result<Fetched, UrlError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme(without_credentials(url)));
    }
    let shown = without_credentials(url).to_string();
    let transport = transport(url, stors, deadline)?;
    let error = move |fault| StoreError { stor: shown.clone(), subject: "GET".into(), fault };
    let open = async {
        let mut patience = Patience::new(deadline, REPEATS);
        let request = || {
            let request = transport.request(Method::GET, without_credentials(url));
            match known {
                Some(known) => request.header(IF_NONE_MATCH, &known.0),
                None => request,
            }
        };
        let response = transport.send(&mut patience, request).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(None),
            StatusCode::OK => Ok(Some((response, patience))),
            _ => Err(refusal(response, &patience).await),
        }
    };
    let Some((response, patience)) = open.await.map_err(&error)? else {
        return Ok(Fetched::Unchanged);
    };
    let length = response.content_length();
    let too_long = move || Fault::Refused(format!("longer than {limit} bytes"));
    if length.is_some_and(|length| length > limit) {
        return Err(error(too_long()).into());
    }
    let etag = etag(&response);
    let mut received = 0;
    let limited = error.clone();
    let stream = Arriving::new(response, length, patience)
        .into_stream(error)
        .map(move |piece| {
            let piece = piece?;
            received += piece.len() as u64;
            if received > limit { Err(limited(too_long())) } else { Ok(piece) }
        })
        .boxed();
    Ok(Fetched::Found { body: Body { length, stream }, etag })
}

/// The client for one URL, with the credentials that may go there.
fn transport(url: &Url, stors: &[StorOptions], deadline: Duration) -> Result<Transport, UrlError> {
    let made = match stors.iter().find(|stor| is_under(url, &stor.url)) {
        Some(stor) => {
            stor.check_privacy()?;
            let address = stor.address();
            let may_redirect = move |_: &Url, to: &Url| is_under(to, &address);
            Transport::new(url, &stor.certificates()?, stor.credentials(), deadline, may_redirect)
        }
        None => match credentials_of(url) {
            Some(own) => {
                let same_origin = |from: &Url, to: &Url| from.origin() == to.origin();
                Transport::new(url, &[], Some(own), deadline, same_origin)
            }
            None => {
                let not_less_private =
                    |from: &Url, to: &Url| from.scheme() == "http" || to.scheme() == "https";
                Transport::new(url, &[], None, deadline, not_less_private)
            }
        },
    };
    Ok(made.map_err(|error| OpenError::Tls { url: without_credentials(url).into(), error })?)
}

fn credentials_of(url: &Url) -> Option<Credentials> {
    StorOptions::new(url.clone()).credentials()
}

/// Whether `url` is `address` or lies below it.
fn is_under(url: &Url, address: &Url) -> bool {
    let components = |url: &Url| -> Vec<String> {
        url.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    url.origin() == address.origin() && components(url).starts_with(&components(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_under_an_address_by_whole_components() {
        let under = |url: &str, address: &str| {
            is_under(&url.parse().expect("a URL"), &address.parse().expect("a URL"))
        };
        assert!(under("http://h/static/a.flist", "http://h/"));
        assert!(under("http://h:80/stor/static/a", "http://h/stor"));
        assert!(under("http://h/stor/static/a", "http://h/stor/"));
        assert!(under("http://h/stor", "http://h/stor/"));
        assert!(!under("http://h/storage/a", "http://h/stor"));
        assert!(!under("http://h/a/../b", "http://h/a"));
        assert!(!under("https://h/a", "http://h/"));
        assert!(!under("http://h:8080/a", "http://h/"));
        assert!(!under("http://h.evil.org/a", "http://h/"));
    }
}
