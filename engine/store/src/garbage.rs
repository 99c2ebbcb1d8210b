//! What a collection of garbage has found, and is about to delete: a named file beside the objects of a namespace.
//!
//! Between "nobody names this object" and its deletion somebody may ask the stor whether it has that very object, be told that it does, and
//! not send it. So nothing is deleted that was not a *candidate* in this file for a grace time, and whoever relies on an object that
//! is there strikes it off first ([`Rescuing`]). The file is only replaced as the version that was read, so either the collector
//! sees that an object was struck off, or who wants it sees that it is *doomed*, and waits until it is gone.
//!
//! Why nothing is lost. Let somebody look into the file, and only then ask for an object:
//! - it is not in the file: then it becomes a candidate later at the earliest, and a list that names it has the grace time to become known to the
//!   collector;
//! - it is a candidate: it is struck off, which fails if it was doomed meanwhile, and begins anew; then as before;
//! - it is doomed: it is asked for when the deletion is over.
//!
//! The file is text, `NAMESPACE.gc`:
//!
//! ```text
//! # aysfs-garbage 1
//! # doomed <seconds since 1970>       (while objects are being deleted: since when)
//! - <key>                             (each of these)
//! <key> <seconds since 1970>          (each candidate, and since when it is one)
//! ```
//!
//! All times are those of the stor's clock.

mod rescue;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use bytes::Bytes;
use futures::TryStreamExt;

pub use self::rescue::Rescuing;
use crate::{
    ETag, Fault, Key, KeyError, Named, Namespace, Precondition, StaticName, Store, StoreError, Upload,
};

/// The first line.
const FIRST: &str = "# aysfs-garbage 1";
const DOOMED: &str = "# doomed ";

/// The longest file that is read, in bytes: some ten million objects.
const MAX: usize = 1 << 30;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Objects that no list named, and since when: in seconds since 1970.
    pub candidates: HashMap<Key, u64>,
    /// Objects that are being deleted.
    pub doomed: HashSet<Key>,
    /// Since when.
    pub doomed_since: u64,
}

/// A version of the file; of one that is not there yet, an empty one.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// What it says.
    pub garbage: Garbage,
    /// What replaces it.
    etag: Option<ETag>,
}

/// What the file of a namespace is called.
///
/// # Errors
/// The name would be too long.
pub fn name(namespace: &Namespace) -> Result<StaticName, KeyError> {
    format!("{namespace}.gc").parse()
}

impl Version {
    /// The file as it is now.
    ///
    /// # Errors
    /// [`StoreError`]; a file that cannot be understood is [`Fault::Protocol`].
    pub async fn read(stor: &dyn Store, name: &StaticName) -> Result<Self, StoreError> {
        Self::default().renewed(stor, name).await
    }

    /// The same, which is asked for only if it is another one by now.
    pub(crate) async fn renewed(self, stor: &dyn Store, name: &StaticName) -> Result<Self, StoreError> {
        let error = |fault| StoreError { stor: stor.name().into(), subject: name.to_string(), fault };
        let (mut body, etag) = match stor.read_named(name, self.etag.as_ref()).await {
            Ok(Named::Unchanged) => return Ok(self),
            Ok(Named::Found { body, etag }) => (body, etag),
            // So answers a stor that knows no named files, too. No other answer says that nothing is being deleted.
            Err(StoreError { fault: Fault::NotFound, .. }) => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = body.stream.try_next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX {
                return Err(error(Fault::Protocol(format!("longer than {MAX} bytes"))));
            }
        }
        if let Some(expected) = body.length.filter(|length| *length != bytes.len() as u64) {
            return Err(error(Fault::Short { received: bytes.len() as u64, expected }));
        }
        let garbage = Garbage::parse(&bytes).ok_or_else(|| {
            error(Fault::Protocol(
                "it is not what this version of aysfs writes there: take the newest, or, if nothing writes to this namespace, \
                 remove the file"
                    .into(),
            ))
        })?;
        Ok(Self { garbage, etag: Some(etag) })
    }

    /// Replaces this version.
    ///
    /// # Errors
    /// [`Fault::Conflict`] if it is not the newest any more.
    pub async fn replace(
        &self,
        stor: &dyn Store,
        name: &StaticName,
        garbage: Garbage,
    ) -> Result<Self, StoreError> {
        let condition = self.etag.clone().map_or(Precondition::Absent, Precondition::Version);
        let body = Upload::Bytes(Bytes::from(garbage.to_text()));
        let etag = stor.write_named(name, &body, condition).await?;
        Ok(Self { garbage, etag: Some(etag) })
    }
}

impl Garbage {
    /// Whether it says anything about an object.
    pub fn mentions(&self, key: &Key) -> bool {
        self.candidates.contains_key(key) || self.doomed.contains(key)
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FIRST}\n");
        if !self.doomed.is_empty() {
            let _ = writeln!(text, "{DOOMED}{}", self.doomed_since);
        }
        let mut doomed: Vec<_> = self.doomed.iter().collect();
        doomed.sort_unstable();
        for key in doomed {
            let _ = writeln!(text, "- {key}");
        }
        let mut candidates: Vec<_> = self.candidates.iter().collect();
        candidates.sort_unstable();
        for (key, since) in candidates {
            let _ = writeln!(text, "{key} {since}");
        }
        text
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        // A file that was cut does not end like this.
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split('\n');
        if lines.next() != Some(FIRST) {
            return None;
        }
        let mut garbage = Self::default();
        for line in lines {
            if let Some(since) = line.strip_prefix(DOOMED) {
                garbage.doomed_since = since.parse().ok()?;
            } else if let Some(key) = line.strip_prefix("- ") {
                garbage.doomed.insert(key.parse().ok()?);
            } else {
                let (key, since) = line.split_once(' ')?;
                garbage.candidates.insert(key.parse().ok()?, since.parse().ok()?);
            }
        }
        Some(garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemStore;

    fn garbage() -> Garbage {
        let [a, b, c] = [1, 2, 3].map(|byte| Key::sha256([byte; 32]));
        let candidates = HashMap::from([(a, 17), (Key::md5([9; 16]), 18)]);
        Garbage { candidates, doomed: HashSet::from([b, c]), doomed_since: 19 }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for garbage in [Garbage::default(), garbage()] {
            assert_eq!(Garbage::parse(garbage.to_text().as_bytes()), Some(garbage));
        }
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let text = garbage().to_text();
        for length in 0..text.len() {
            if let Some(part) = Garbage::parse(&text.as_bytes()[..length]) {
                // At the end of a line: that it is all, only the length tells.
                assert!(text.as_bytes()[length - 1] == b'\n' && part != garbage());
            }
        }
        for bad in
            ["", "\n", "# aysfs-garbage 2\n", "# aysfs-garbage 1\nkey 17\n", "# aysfs-garbage 1\n# new\n"]
        {
            assert_eq!(Garbage::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_version_that_was_read_is_replaced() {
        let (stor, name) = (MemStore::new(), name(&"test".parse().expect("a namespace")).expect("short"));
        let absent = Version::read(&stor, &name).await.expect("none yet");
        assert_eq!(absent.garbage, Garbage::default());
        let first = absent.replace(&stor, &name, garbage()).await.expect("replaced");
        let error = absent.replace(&stor, &name, Garbage::default()).await.expect_err("there is one by now");
        assert!(matches!(error.fault, Fault::Conflict), "{error}");
        assert_eq!(Version::read(&stor, &name).await.expect("read").garbage, garbage());
        first.replace(&stor, &name, Garbage::default()).await.expect("replaced");
        first.replace(&stor, &name, garbage()).await.expect_err("another one by now");
    }
}
