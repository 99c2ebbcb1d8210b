//! From a flist, wherever it is, to a base.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aysfs_flist::{FlistError, Index, ParseOptions, PublicKey, SignatureError, verify};
use aysfs_store::{ETag, Fetched, StorOptions, UrlError, fetch_url};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use url::Url;

use crate::base::{Base, BaseError};

/// The longest flist that is fetched, in bytes: some thirty million entries.
const MAX_FLIST: u64 = 4 << 30;

/// The longest signature that is fetched, in bytes; those of minisign have a few hundred.
const MAX_SIGNATURE: u64 = 64 << 10;

/// Where a flist is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a local file.
    File(PathBuf),
    /// Behind an http(s) URL. The last copy is kept, and serves while the URL cannot be reached.
    Url(Url),
}

/// A flist, and how it is to be read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it is.
    pub source: Source,
    /// What its lines mean.
    pub parse: ParseOptions,
    /// Who may have signed it; if there are none, nobody has to.
    pub trusted_keys: Vec<PublicKey>,
}

/// Why a flist could not be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error(transparent)]
    Flist(#[from] FlistError),
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error("cannot fetch the flist {url}")]
    Fetch { url: Url, source: Box<UrlError> },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the flist {flist} is not to be trusted: it has no signature in {signature}")]
    Unsigned { flist: String, signature: String },
    #[error("the flist {flist} is not to be trusted")]
    Signature { flist: String, source: SignatureError },
    #[error(
        "the flist {flist} has version {found}, but version {accepted} was mounted before: somebody may be \
             replaying an old list"
    )]
    Rollback { flist: String, found: u64, accepted: u64 },
}

impl LoadError {
    /// Whether the flist, or what was said about it, is wrong: another try ends the same way.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Flist(FlistError::Line { .. } | FlistError::Empty { .. } | FlistError::Read { .. })
            | Self::Base(_)
            | Self::Unsigned { .. }
            | Self::Signature { .. }
            | Self::Rollback { .. } => true,
            Self::Fetch { source, .. } => !source.is_transient(),
            Self::Flist(FlistError::Index { .. }) | Self::Read { .. } | Self::Write { .. } => false,
        }
    }
}

/// Loads a flist; `dir` is the directory of the backend, where its index and what else is to be remembered are kept.
///
/// A flist below the address of one of `stors` is fetched with the account of that stor.
///
/// # Errors
/// [`LoadError`]; the copy of an earlier flist is not touched then.
pub async fn load(
    request: &Request,
    stors: &[StorOptions],
    deadline: Duration,
    dir: &Path,
) -> Result<Base, LoadError> {
    let name = match &request.source {
        Source::File(path) => path.display().to_string(),
        Source::Url(url) => url.to_string(),
    };
    let memory = Memory::of(&name, dir);
    let (path, signature) = match &request.source {
        Source::File(path) => (path.clone(), with_suffix(path, ".minisig")),
        Source::Url(url) => {
            let download = Download { stors, deadline };
            let (flist, signature) = (memory.file("flist"), memory.file("flist.minisig"));
            download.refresh(url, &flist, MAX_FLIST).await?;
            if !request.trusted_keys.is_empty() {
                let mut of = url.clone();
                of.set_path(&format!("{}.minisig", url.path()));
                download.refresh(&of, &signature, MAX_SIGNATURE).await?;
            }
            (flist, signature)
        }
    };
    let (request, index_dir) = (request.clone(), dir.join("index"));
    tokio::task::spawn_blocking(move || {
        if request.trusted_keys.is_empty() {
            return open(&name, (&path).into(), &request.parse, &index_dir);
        }
        // In memory, so that what was verified is what is mounted.
        let bytes = fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        check_signature(&name, &bytes, &signature, &request.trusted_keys)?;
        let base = open(
            &name,
            aysfs_flist::Source::Bytes { name: &name, bytes: &bytes },
            &request.parse,
            &index_dir,
        )?;
        memory.accept(&name, base.index().header().version.unwrap_or(0))?;
        Ok(base)
    })
    .await
    .expect("loading does not panic")
}

fn open(
    name: &str,
    flist: aysfs_flist::Source<'_>,
    parse: &ParseOptions,
    dir: &Path,
) -> Result<Base, LoadError> {
    make_dir(dir)?;
    let (index, provenance) = Index::open_or_compile(flist, parse, dir)?;
    tracing::debug!(?provenance, entries = index.len(), dialect = %index.dialect(), times = ?index.times(), "{name}");
    Ok(Base::new(index)?)
}

fn check_signature(
    name: &str,
    bytes: &[u8],
    signature: &Path,
    trusted: &[PublicKey],
) -> Result<(), LoadError> {
    let text = match fs::read_to_string(signature) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LoadError::Unsigned {
                flist: name.into(),
                signature: signature.display().to_string(),
            });
        }
        Err(source) => return Err(LoadError::Read { path: signature.to_owned(), source }),
    };
    verify(bytes, &text, trusted).map_err(|source| LoadError::Signature { flist: name.into(), source })
}

/// What a backend remembers of one flist, in files named by the digest of where the flist is.
struct Memory {
    dir: PathBuf,
    stem: String,
}

impl Memory {
    fn of(name: &str, dir: &Path) -> Self {
        Self { dir: dir.join("flists"), stem: hex::encode(Sha256::digest(name)) }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.stem))
    }

    /// Refuses a version below the highest that was accepted, and remembers a higher one.
    fn accept(&self, name: &str, found: u64) -> Result<(), LoadError> {
        let path = self.file("version");
        let accepted = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let source =
                    io::Error::new(io::ErrorKind::InvalidData, "not a version number: remove the file");
                LoadError::Read { path: path.clone(), source }
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        if found < accepted {
            return Err(LoadError::Rollback { flist: name.into(), found, accepted });
        }
        if found > accepted {
            make_dir(&self.dir)?;
            publish(&path, |part| part.write_all(found.to_string().as_bytes()))?;
        }
        Ok(())
    }
}

/// Brings local copies of URLs up to date.
struct Download<'a> {
    stors: &'a [StorOptions],
    deadline: Duration,
}

impl Download<'_> {
    /// Fetches `url` into `copy` unless it is unchanged. If it cannot be reached, an earlier copy will do.
    async fn refresh(&self, url: &Url, copy: &Path, limit: u64) -> Result<(), LoadError> {
        match self.fetch(url, copy, limit).await {
            Err(LoadError::Fetch { source, .. }) if source.is_transient() && copy.exists() => {
                tracing::warn!(
                    "cannot fetch the flist {url} ({source}): the copy of an earlier mount is used"
                );
                Ok(())
            }
            done => done,
        }
    }

    async fn fetch(&self, url: &Url, copy: &Path, limit: u64) -> Result<(), LoadError> {
        let failed = |error| LoadError::Fetch { url: url.clone(), source: Box::new(error) };
        let unwritable = |source| LoadError::Write { path: copy.to_owned(), source };
        let version = with_suffix(copy, ".etag");
        let known = fs::read_to_string(&version).ok().filter(|_| copy.exists()).map(ETag);
        let fetched =
            fetch_url(url, self.stors, known.as_ref(), limit, self.deadline).await.map_err(failed)?;
        let Fetched::Found { mut body, etag } = fetched else { return Ok(()) };

        let dir = copy.parent().unwrap_or(Path::new("."));
        make_dir(dir)?;
        let mut part = NamedTempFile::new_in(dir).map_err(unwritable)?;
        while let Some(piece) = body.stream.next().await {
            let piece = piece.map_err(|error| failed(error.into()))?;
            part.write_all(&piece).map_err(unwritable)?;
        }
        // A copy without a version beside it is fetched again: never the new list under the old version.
        fs::remove_file(&version).ok();
        finish(part, copy).map_err(unwritable)?;
        match etag {
            Some(ETag(etag)) => publish(&version, |part| part.write_all(etag.as_bytes())),
            None => Ok(()),
        }
    }
}

/// Replaces a file by what `write` writes, or leaves it as it is.
fn publish(path: &Path, write: impl FnOnce(&mut NamedTempFile) -> io::Result<()>) -> Result<(), LoadError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    NamedTempFile::new_in(parent)
        .and_then(|mut part| {
            write(&mut part)?;
            finish(part, path)
        })
        .map_err(|source| LoadError::Write { path: path.to_owned(), source })
}

fn finish(part: NamedTempFile, path: &Path) -> io::Result<()> {
    part.as_file().sync_all()?;
    part.persist(path)?;
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(dir).map_err(|source| LoadError::Write { path: dir.to_owned(), source })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
