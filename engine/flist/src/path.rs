//! Paths of a flist: checked once, then a plain sequence of components.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Reason;
use crate::limits::{MAX_DEPTH, MAX_NAME};

/// Removes a leading `/` and checks what is left; empty is the root.
pub(crate) fn normalise(path: &[u8]) -> Result<&[u8], Reason> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Ok(path);
    }
    let mut depth = 0;
    for component in path.split(|byte| *byte == b'/') {
        depth += 1;
        match component {
            [] => return Err(Reason::EmptyComponent),
            b"." => return Err(Reason::Dot),
            b".." => return Err(Reason::DotDot),
            _ if component.len() > MAX_NAME => return Err(Reason::NameTooLong),
            _ if memchr::memchr(0, component).is_some() => return Err(Reason::Nul),
            _ if depth > MAX_DEPTH => return Err(Reason::TooDeep),
            _ => {}
        }
    }
    Ok(path)
}

/// The parent and the last component of a path that is not the root.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b'/', path) {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The prefixes that are taken away from every path, whole components at a time, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trim(Vec<Vec<u8>>);

/// What is left of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trimmed<'a> {
    /// The path below the prefix (empty: the prefix itself), or a path that has nothing to do with it.
    Kept(&'a [u8]),
    /// It leads to the prefix: `/`, `/usr` and so on for `/usr/local/app`.
    Above,
}

impl Trim {
    pub(crate) fn new<'a>(prefixes: impl IntoIterator<Item = &'a Path>) -> Self {
        let components = |prefix: &Path| {
            let parts: Vec<_> = prefix
                .as_os_str()
                .as_bytes()
                .split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty())
                .collect();
            parts.join(&b'/')
        };
        Self(prefixes.into_iter().map(components).filter(|prefix| !prefix.is_empty()).collect())
    }

    pub(crate) fn apply<'a>(&self, mut path: &'a [u8]) -> Trimmed<'a> {
        for prefix in &self.0 {
            if let Some(rest) = below(prefix, path) {
                path = rest;
            } else if below(path, prefix).is_some() {
                return Trimmed::Above;
            }
        }
        Trimmed::Kept(path)
    }

    /// What identifies the prefixes, for the key of an index.
    pub(crate) fn prefixes(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// What `path` is, seen from the directory `prefix`: `Some` if it is this directory or below it.
fn below<'a>(prefix: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    if prefix.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(prefix)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_one_leading_slash() {
        assert_eq!(normalise(b"/a/b"), Ok(&b"a/b"[..]));
        assert_eq!(normalise(b"a"), Ok(&b"a"[..]));
        assert_eq!(normalise(b"/"), Ok(&b""[..]));
        assert_eq!(normalise(b""), Ok(&b""[..]));
        assert_eq!(normalise(b"//a"), Err(Reason::EmptyComponent));
    }

    #[test]
    fn the_last_component_is_split_off() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }

    #[test]
    fn trimming_takes_whole_components() {
        let trim = Trim::new([Path::new("/opt/")]);
        assert_eq!(trim.apply(b"opt/app"), Trimmed::Kept(b"app"));
        assert_eq!(trim.apply(b"opt"), Trimmed::Kept(b""));
        assert_eq!(trim.apply(b"optional/app"), Trimmed::Kept(b"optional/app"));
        assert_eq!(trim.apply(b"usr/bin"), Trimmed::Kept(b"usr/bin"));
        assert_eq!(trim.apply(b""), Trimmed::Above);
    }

    #[test]
    fn prefixes_are_taken_one_after_the_other() {
        let trim = Trim::new([Path::new("/mnt/app"), Path::new("/usr")]);
        assert_eq!(trim.apply(b"mnt/app/usr/bin"), Trimmed::Kept(b"bin"));
        assert_eq!(trim.apply(b"usr/bin"), Trimmed::Kept(b"bin"));
        assert_eq!(trim.apply(b"mnt"), Trimmed::Above);
        assert_eq!(Trim::new([Path::new("/")]).apply(b"a"), Trimmed::Kept(b"a"));
    }
}
