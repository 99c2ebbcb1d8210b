//! The namespace of a stor.

use std::fmt;
use std::str::FromStr;

/// The part of a stor that a backend uses: one path component of ASCII letters, digits, `.`, `_` and `-`, not
/// beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `default`: a stor that serves one purpose needs no namespaces, and whoever writes to it without naming one
/// finds it again without naming one.
impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(text: &str) -> Result<Self, NamespaceError> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=128).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(safe) {
            Ok(Self(text.into()))
        } else {
            Err(NamespaceError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that cannot be a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid name: use 1 to 128 ASCII letters, digits, '.', '_' or '-', not beginning with '.'"
)]
pub struct NamespaceError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_one_safe_component() {
        for good in ["dedupe", "js8_opt", "app-1.2", Namespace::default().as_str()] {
            assert_eq!(good.parse::<Namespace>().map(|name| name.to_string()), Ok(good.into()));
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a%2f", &"x".repeat(129)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
        }
    }
}
