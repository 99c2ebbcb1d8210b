//! What client and server of the AYDO stor protocol agree on: paths, headers, JSON types.
//!
//! | call | answer |
//! |---|---|
//! | `GET /store/{ns}/{hash}` (`Range` allowed) | 200, 206 the object; 404; 416 |
//! | `HEAD /store/{ns}/{hash}` | 200; 404 |
//! | `POST /store/{ns}` body | 201 [`Posted`]: the MD5 of the body, which is its key |
//! | `PUT /store/{ns}/{hash}` body | 201 created; 200 already there; 422 the body does not fit the hash |
//! | `DELETE /store/{ns}/{hash}` | 204; 404 |
//! | `POST /store/{ns}/exists` [`Asked`] | 200 [`Presence`] |
//! | `GET /store/{ns}` | 200 JSON list of [`listing_entry`] |
//! | `GET /static/{name}` (`If-None-Match`) | 200 with `ETag`; 304; 404 |
//! | `POST /static/{name}` body (`If-Match`, `If-None-Match: *`) | 201, 200 with `ETag`; 412 |
//!
//! A stor of the old system knows neither `PUT` nor conditions, and may lack `exists`.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Key, Listed, Namespace, StaticName};

/// Route of an object, as the server matches it.
pub const OBJECT: &str = "/store/{namespace}/{hash}";
/// Route of a namespace.
pub const NAMESPACE: &str = "/store/{namespace}";
/// Route of the question which objects are there.
pub const EXISTS: &str = "/store/{namespace}/exists";
/// Route of a named file.
pub const NAMED: &str = "/static/{name}";

/// How many hashes the client asks about in one call of [`EXISTS`].
pub const ASKED_AT_ONCE: usize = 1000;
/// How large a JSON body may be that asks or answers something (listings have no limit).
pub const JSON_MAX: usize = 1 << 20;

/// The answer to a posted body.
#[derive(Debug, Serialize, Deserialize)]
pub struct Posted {
    /// MD5 of the bytes that were posted: the key of the object.
    #[serde(rename = "Hash")]
    pub hash: String,
}

/// The question which objects are there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Keys.
    #[serde(rename = "Hashes")]
    pub hashes: Vec<String>,
}

/// The answer to [`Asked`]: whether each object is there.
pub type Presence = HashMap<String, bool>;

/// The URLs of a stor: each is its base with path components behind it, every one of which is safe.
#[derive(Clone, Debug)]
pub(crate) struct Urls {
    base: Url,
}

impl Urls {
    pub(crate) fn new(base: Url) -> Self {
        Self { base }
    }

    pub(crate) fn object(&self, namespace: &Namespace, key: &Key) -> Url {
        self.join(&["store", namespace.as_str(), key.as_str()])
    }

    pub(crate) fn namespace(&self, namespace: &Namespace) -> Url {
        self.join(&["store", namespace.as_str()])
    }

    pub(crate) fn exists(&self, namespace: &Namespace) -> Url {
        self.join(&["store", namespace.as_str(), "exists"])
    }

    pub(crate) fn named(&self, name: &StaticName) -> Url {
        self.join(&["static", name.as_str()])
    }

    fn join(&self, components: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(components);
        }
        url
    }
}

/// One entry of a listing: `hash|size|created`, `created` in unix seconds.
pub fn listing_entry(object: &Listed) -> String {
    let created = object.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{}|{}|{created}", object.key, object.size)
}

/// The object that an entry of a listing describes.
pub fn parse_listing_entry(entry: &str) -> Option<Listed> {
    let mut fields = entry.split('|');
    let key = fields.next()?.parse().ok()?;
    let size = fields.next()?.parse().ok()?;
    let created = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(fields.next()?.parse().ok()?))?;
    fields.next().is_none().then_some(Listed { key, size, created })
}

/// Reads a JSON list of strings as it arrives, so that a listing of any length needs no memory.
#[derive(Debug, Default)]
pub(crate) struct ListingReader {
    /// The entry that has begun, if one has.
    entry: Option<Vec<u8>>,
    closed: bool,
}

impl ListingReader {
    /// No entry is longer: 64 digits and two numbers.
    const ENTRY_MAX: usize = 128;

    /// Takes the next bytes; returns the objects that they complete.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Listed>, String> {
        let mut objects = Vec::new();
        for &byte in bytes {
            match (&mut self.entry, byte) {
                (Some(entry), b'"') => {
                    let text = String::from_utf8_lossy(entry);
                    let object = parse_listing_entry(&text)
                        .ok_or_else(|| format!("{text:?} in a listing is not hash|size|created"))?;
                    objects.push(object);
                    self.entry = None;
                }
                (Some(entry), _) if entry.len() < Self::ENTRY_MAX => entry.push(byte),
                (Some(_), _) => return Err("an entry of a listing does not end".into()),
                (None, b'"') if !self.closed => self.entry = Some(Vec::new()),
                (None, b']') => self.closed = true,
                (None, b'[' | b',' | b' ' | b'\t' | b'\r' | b'\n') if !self.closed => {}
                (None, byte) if self.closed && byte.is_ascii_whitespace() => {}
                (None, _) => return Err("a listing is not a JSON list of strings".into()),
            }
        }
        Ok(objects)
    }

    /// Whether the list was closed: a listing that is cut off must not pass for a short one.
    pub(crate) fn is_complete(&self) -> bool {
        self.closed
    }
}

/// The value of a `Range` header that asks for `range`, which is not empty.
pub(crate) fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end - 1)
}

/// A `Content-Range` header: the range, and the length of the whole where it is told.
pub(crate) fn parse_content_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (range.start < range.end).then_some((range, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn urls_keep_the_path_of_the_base() {
        let namespace: Namespace = "ns".parse().expect("valid");
        let key: Key = MD5.parse().expect("valid");
        for base in ["http://h:1/a/b", "http://h:1/a/b/"] {
            let urls = Urls::new(base.parse().expect("valid"));
            assert_eq!(urls.object(&namespace, &key).as_str(), format!("http://h:1/a/b/store/ns/{MD5}"));
        }
        let urls = Urls::new("http://h:1".parse().expect("valid"));
        assert_eq!(urls.exists(&namespace).as_str(), "http://h:1/store/ns/exists");
    }

    #[test]
    fn a_listing_may_arrive_byte_by_byte() {
        let text = format!("[\"{MD5}|5|17\",\n \"{}|6|18\"]\n", "a".repeat(64));
        let mut reader = ListingReader::default();
        let mut objects = Vec::new();
        for byte in text.bytes() {
            objects.extend(reader.push(&[byte]).expect("well-formed"));
        }
        assert!(reader.is_complete());
        let entries: Vec<_> = objects.iter().map(listing_entry).collect();
        assert_eq!(entries, [format!("{MD5}|5|17"), format!("{}|6|18", "a".repeat(64))]);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        let entry = format!("\"{MD5}|5|17\"");
        for bad in ["{}", "[1]", "[\"x|1|2\"]", "<html>", &format!("[{entry}]{entry}"), "[\"a|b|c|d\"]"] {
            assert!(ListingReader::default().push(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(ListingReader::default().push(&[b"[\"".as_slice(), &[b'a'; 200]].concat()).is_err());
        let mut cut = ListingReader::default();
        cut.push(format!("[{entry},").as_bytes()).expect("well-formed so far");
        assert!(!cut.is_complete());
    }

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5..10, Some(10))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0..1, None)));
        for bad in ["bytes */10", "5-9/10", "bytes 9-5/10", "bytes a-b/c", "bytes 0-18446744073709551615/5"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
