//! Which flist a mount shows, and how it is read.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use minisign_verify::PublicKey;
use url::Url;

use crate::reader::{Table, local_path};
use crate::schedule::Schedule;
use crate::word::{UnknownWord, meaning};

/// A flist, and how it becomes a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flist {
    /// Where it is.
    pub source: FlistSource,
    /// What is stripped from its paths, by whole components.
    pub trim: Option<PathBuf>,
    /// How fields 7 and 8 of a v1 list are meant.
    pub times: FlistTimes,
    /// When to look for a newer version; `None`: only when told to.
    pub refresh: Option<Schedule>,
    /// Who may sign it; empty: it need not be signed.
    pub trusted_keys: Vec<PublicKey>,
}

/// Where a flist is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlistSource {
    /// A local file; a relative path starts at the working directory of the process.
    File(PathBuf),
    /// `http` or `https`, without credentials: those of the mount's stor apply below its address.
    Url(Url),
}

impl FromStr for FlistSource {
    type Err = FlistSourceError;

    fn from_str(text: &str) -> Result<Self, FlistSourceError> {
        if !text.contains("://") {
            return local_path(text).map(Self::File).map_err(FlistSourceError::Path);
        }
        let url = Url::parse(text).map_err(FlistSourceError::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            Err(FlistSourceError::Scheme(url.scheme().into()))
        } else if !url.username().is_empty() || url.password().is_some() {
            Err(FlistSourceError::Credentials)
        } else {
            Ok(Self::Url(url))
        }
    }
}

/// Why a text does not say where a flist is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlistSourceError {
    /// Not a path.
    #[error("{0}")]
    Path(&'static str),
    /// `://` in it, but not a URL.
    #[error("not a URL ({0}): write it as https://host/name.flist, or as a path")]
    Syntax(url::ParseError),
    /// A URL of another kind.
    #[error("unknown scheme {0:?}: a flist is a path, or at http:// or https://")]
    Scheme(String),
    /// A password where it would be logged.
    #[error("a flist URL holds no login: put it into login and passwd of the stor that the flist is on")]
    Credentials,
}

/// How the two times of a v1 line are meant: some builders wrote them the wrong way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FlistTimes {
    /// As the lines of the list themselves suggest.
    #[default]
    Auto,
    /// Field 7 is ctime and field 8 is mtime.
    Spec,
    /// Field 7 is mtime and field 8 is ctime.
    Swapped,
}

impl FromStr for FlistTimes {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        meaning(text, &[("auto", Self::Auto), ("spec", Self::Spec), ("swapped", Self::Swapped)])
    }
}

/// Reads the keys of a mount that are about its flist. `mounted_on` is what `trim_base` strips.
pub(crate) fn read(table: &mut Table<'_>, mounted_on: Option<&Path>) -> Option<Flist> {
    let source = table.parsed("flist");
    let trim_base = table.boolean("trim_base").unwrap_or(false);
    let trim = table.absolute_path("trim");
    let times = table.parsed("flist_times").unwrap_or_default();
    let refresh = table.parsed_unless("flist_refresh", "never");
    let keys = table.strings("trusted_keys").unwrap_or_default();

    if trim_base && trim.is_some() {
        table.problem("trim", "trim_base = true strips the mount path already: remove one of them");
    }
    let trusted_keys = keys.iter().flatten().filter_map(|key| {
        let public = PublicKey::from_base64(key.get_ref())
            .map_err(|_| "not a minisign public key: copy the second line of the .pub file");
        table.checked_item("trusted_keys", key, public)
    });
    Some(Flist {
        trusted_keys: trusted_keys.collect(),
        source: source?,
        trim: if trim_base { mounted_on.map(Into::into) } else { trim },
        times,
        refresh,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flist_is_a_path_or_an_http_url() {
        for path in ["/root/jumpscale__base.flist", "base.flist", "http:/odd", "a:b"] {
            assert_eq!(path.parse(), Ok(FlistSource::File(path.into())));
        }
        for url in ["http://host/a.flist", "https://host/a.flist.zst?version=2"] {
            assert_eq!(url.parse(), Ok(FlistSource::Url(url.parse().expect("a URL"))));
        }
    }
}
