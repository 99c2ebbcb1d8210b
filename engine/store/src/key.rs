//! Names that go into URLs and paths: checked once, safe from then on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The key of an object: a digest in lowercase hex, 32 digits (MD5) or 64 (SHA-256). Cheap to clone: all chunks of a pack
/// have the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of an MD5 digest.
    pub fn md5(digest: [u8; 16]) -> Self {
        Self(hex::encode(digest).into())
    }

    /// The key of a SHA-256 digest.
    pub fn sha256(digest: [u8; 32]) -> Self {
        Self(hex::encode(digest).into())
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if matches!(text.len(), 32 | 64) && text.bytes().all(hex) {
            Ok(Self(text.into()))
        } else {
            Err(KeyError::Hash(text.chars().take(KeyError::SHOWN).collect()))
        }
    }
}

/// A namespace of a stor: one path component of ASCII letters, digits, `.`, `_` and `-`, not beginning with a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        component(text).map(Self)
    }
}

/// The name of a named file of a stor (a flist), with the same rules as a [`Namespace`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StaticName(Box<str>);

impl StaticName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StaticName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        component(text).map(Self)
    }
}

/// Checks one component of a URL path or of a local path.
fn component(text: &str) -> Result<Box<str>, KeyError> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=128).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(safe) {
        Ok(text.into())
    } else {
        Err(KeyError::Component(text.chars().take(KeyError::SHOWN).collect()))
    }
}

/// The version of a named file, as its stor tells it; opaque.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ETag(pub String);

/// Why a text is not a key or a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a digest.
    #[error("{0:?} is not a hash: expected 32 or 64 lowercase hex digits")]
    Hash(String),
    /// Not a safe path component.
    #[error(
        "{0:?} is not a valid name: expected 1 to 128 ASCII letters, digits, '.', '_' or '-', not beginning with '.'"
    )]
    Component(String),
}

impl KeyError {
    /// How many characters of a bad text a message repeats.
    const SHOWN: usize = 80;
}

macro_rules! shown_as_its_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

shown_as_its_text!(Key, Namespace, StaticName, ETag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hex_of_a_known_length() {
        assert!("d41d8cd98f00b204e9800998ecf8427e".parse::<Key>().is_ok());
        assert!("a".repeat(64).parse::<Key>().is_ok());
        for bad in ["", "abc", "../../../../../../../etc/passwd0", "D41D8CD98F00B204E9800998ECF8427E"] {
            assert_eq!(bad.parse::<Key>(), Err(KeyError::Hash(bad.into())));
        }
    }

    #[test]
    fn names_are_one_safe_component() {
        for good in ["dedupe", "js8_opt", "app-1.2.flist"] {
            assert_eq!(good.parse::<Namespace>().expect("valid").as_str(), good);
        }
        for bad in ["", ".", "..", ".static", "a/b", "a b", "ä", "a%2f"] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
            assert!(bad.parse::<StaticName>().is_err(), "{bad}");
        }
    }
}
