//! What is remembered from one push to the next.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PushError;
use crate::durable;
use crate::overlay::Destination;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Where content went.
    pub(super) destination: String,
    /// The version of the last list.
    pub(super) version: u64,
    /// The digest of what it lists.
    pub(super) tree: Option<String>,
    /// The list that the stor has.
    pub(super) published: Option<Published>,
    /// The digests of lists that were sent since, and that the stor may have.
    pub(super) sending: Vec<String>,
}

/// A list that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    pub(super) etag: String,
    /// The digest of what it lists.
    pub(super) tree: String,
}

impl State {
    /// What is remembered. Of pushes to another destination than `destination` that is only what proves that a list is ours, and the
    /// version, since versions go on.
    pub(super) fn read(path: &Path, destination: &Destination) -> Result<Self, PushError> {
        let new = Self { destination: destination.as_str().into(), ..Self::default() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(new),
            Err(source) => return Err(PushError::Keep { path: path.to_owned(), source }),
        };
        let known: Self = serde_json::from_slice(&text)
            .map_err(|error| PushError::State { path: path.to_owned(), reason: error.to_string() })?;
        if known.destination == new.destination {
            return Ok(known);
        }
        let published = known.published.map(|published| Published { tree: String::new(), ..published });
        Ok(Self { version: known.version, published, sending: known.sending, ..new })
    }

    /// The version of the last list, for whoever only looks.
    pub(super) fn version_in(path: &Path) -> Option<u64> {
        let known: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(known.version).filter(|version| *version > 0)
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        durable::replace(path, &serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_stays_ours_and_is_published_again_for_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        let [here, there] = ["here", "there"].map(|stor| Destination::new(stor, b""));
        let new = State::read(&path, &here).expect("none yet");
        assert_eq!((new.version, State::version_in(&path)), (0, None));
        let published = Published { etag: "e".into(), tree: "t".into() };
        let state = State { version: 7, tree: Some("t".into()), published: Some(published), ..new };
        state.write(&path).expect("written");
        assert_eq!(State::read(&path, &here).expect("read"), state);
        assert_eq!(State::version_in(&path), Some(7));
        let other = State::read(&path, &there).expect("read");
        assert_eq!((other.version, other.tree), (7, None));
        assert_eq!(other.published, Some(Published { etag: "e".into(), tree: String::new() }));
    }

    #[test]
    fn one_that_is_damaged_is_one_clear_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        fs::write(&path, "{").expect("written");
        let error = State::read(&path, &Destination::new("s", b"")).expect_err("damaged").to_string();
        assert!(error.contains("state.json cannot be used") && error.contains("remove it"), "{error}");
    }
}
