//! From a flist, wherever it is, to a base.
//!
//! What a backend remembers of a list is in files named by where the list is: the last copy of one behind a URL,
//! with its ETag and its signature, and the highest version of a signed one. A list replaces its last copy only
//! when it was accepted as a whole: signature, version, and every line.
//!
//! An encrypted list is opened in memory, each time; copies of it stay encrypted.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aysfs_flist::{FlistError, Index, ParseOptions, PublicKey, SignatureError, verify};
use aysfs_store::crypt::{PrivateKey, SealedError, Sealing, is_sealed};
use aysfs_store::{ETag, Fault, Fetched, StorOptions, UrlError, fetch_url, without_credentials};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use url::Url;

use crate::base::{Base, BaseError};
use crate::durable;

/// The longest flist that is fetched, in bytes: some thirty million entries.
const MAX_FLIST: u64 = 4 << 30;

/// The longest signature that is fetched, in bytes; those of minisign have a few hundred.
const MAX_SIGNATURE: u64 = 64 << 10;

/// What the signature of a list is called: the list's name with this behind it.
const SIGNATURE: &str = ".minisig";

/// Where a flist is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a local file.
    File(PathBuf),
    /// Behind an http(s) URL. The last copy is kept, and serves while the URL cannot be reached.
    Url(Url),
}

/// The path or the URL, without credentials.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => without_credentials(url).fmt(f),
        }
    }
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
    /// What may open it if it is encrypted, and content that the old system encrypted.
    pub private_keys: Vec<PrivateKey>,
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
    #[error(
        "the flist {0} is encrypted, and takes the private key of one of its recipients: name it with --key, or in a config \
         with encrypted = true and user_rsa"
    )]
    NoKey(String),
    #[error("cannot open the encrypted flist {flist}: {source}")]
    Sealed { flist: String, source: SealedError },
    #[error("the flist {flist} is not to be trusted")]
    Signature { flist: String, source: SignatureError },
    #[error(
        "the flist {flist} has version {found}, but version {accepted} was mounted before: somebody may be \
         replaying an old list"
    )]
    Rollback { flist: String, found: u64, accepted: u64 },
    #[error(
        "{} should hold the version of the flist that was mounted last: remove it to accept any version once",
        .0.display()
    )]
    Version(PathBuf),
}

impl LoadError {
    /// Whether the flist, or what was said about it, is wrong: another try ends the same way.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Flist(
                FlistError::Line { .. }
                | FlistError::Empty { .. }
                | FlistError::Cut { .. }
                | FlistError::Read { .. },
            )
            | Self::Base { .. }
            | Self::NoKey(_)
            | Self::Sealed { .. }
            | Self::Unsigned { .. }
            | Self::Signature { .. }
            | Self::Rollback { .. } => true,
            Self::Fetch { source, .. } => !source.is_transient(),
            Self::Flist(FlistError::Index { .. })
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Version(_) => false,
        }
    }
}

/// Loads a flist; `dir` is the directory of the backend, where its index and what else is to be remembered are kept.
///
/// A flist below the address of one of `stors` is fetched with the account of that stor. Several loads of one list
/// wait for each other.
///
/// # Errors
/// [`LoadError`]; the copy of an earlier flist is not touched then.
pub async fn load(
    request: &Request,
    stors: &[StorOptions],
    deadline: Duration,
    dir: &Path,
) -> Result<Base, LoadError> {
    let Loaded { base, acceptance } = load_or(Unreachable::LastCopy, request, stors, deadline, dir).await?;
    blocking(move || acceptance.keep()).await?;
    Ok(base)
}

/// The same for a flist that is mounted: one behind a URL that cannot be reached is an error. One that is unchanged, and has an
/// ETag, costs one small request. The new list is remembered when the caller has mounted it, and says so.
///
/// # Errors
/// As of [`load`].
pub async fn reload(
    request: &Request,
    stors: &[StorOptions],
    deadline: Duration,
    dir: &Path,
) -> Result<Loaded, LoadError> {
    load_or(Unreachable::Fails, request, stors, deadline, dir).await
}

/// A list that is good.
pub struct Loaded {
    /// What it shows.
    pub base: Base,
    /// That it was mounted.
    pub acceptance: Acceptance,
}

/// What is to be remembered of a list once it is mounted. Others who load the same list wait for this.
pub struct Acceptance {
    memory: Memory,
    /// Of a signed list.
    version: Option<u64>,
    files: Files,
    _alone: Option<File>,
}

impl Acceptance {
    /// It is mounted: its copy replaces the last one, and no lower version is taken any more.
    ///
    /// # Errors
    /// [`LoadError::Write`].
    pub fn keep(self) -> Result<(), LoadError> {
        if let Some(version) = self.version {
            self.memory.accept(version)?;
        }
        self.files.keep()
    }
}

/// What comes of a URL that cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreachable {
    /// What was there when it could be reached last.
    LastCopy,
    Fails,
}

async fn load_or(
    unreachable: Unreachable,
    request: &Request,
    stors: &[StorOptions],
    deadline: Duration,
    dir: &Path,
) -> Result<Loaded, LoadError> {
    let name = request.source.to_string();
    let signed = if request.trusted_keys.is_empty() { Signed::Anyhow } else { Signed::ByTrusted };
    let memory = Memory::of(&request.source, dir);
    let alone = match (&request.source, signed) {
        (Source::File(_), Signed::Anyhow) => None,
        (Source::Url(_), _) | (_, Signed::ByTrusted) => {
            let memory = memory.clone();
            Some(blocking(move || memory.lock()).await?)
        }
    };
    let files = match &request.source {
        Source::File(path) => Files { flist: Held::Here(path.clone()), signature: None },
        Source::Url(url) => Download { stors, deadline, signed, unreachable }.bring(url, &memory).await?,
    };
    let (request, index) = (request.clone(), dir.join("index"));
    blocking(move || {
        // In memory, so that what was verified is what is mounted, and what was encrypted is not written.
        let (bytes, sealing) = match signed {
            Signed::ByTrusted => Some(files.verified(&name, &request.trusted_keys)?),
            Signed::Anyhow => files.sealed()?,
        }
        .map_or(Ok((None, None)), |bytes| unseal(&name, bytes, &request.private_keys))?;
        let source = match &bytes {
            Some(bytes) => aysfs_flist::Source::Bytes { name: &name, bytes },
            None => files.source(&name, &request.source),
        };
        let base = open(&name, source, &request.parse, &index)?;
        let base = base.opened_with(sealing, request.private_keys);
        let version =
            (signed == Signed::ByTrusted).then(|| base.index().header().version.unwrap_or_default());
        if let Some(version) = version {
            memory.check(&name, version)?;
        }
        let acceptance = Acceptance { memory, version, files, _alone: alone };
        Ok(Loaded { base, acceptance })
    })
    .await
}

/// Compiles a local flist into `dir`, for those who want to know what is in it: nobody has to have signed it, and nothing
/// else is remembered of it.
///
/// # Errors
/// [`LoadError`].
pub fn compile(
    path: &Path,
    parse: &ParseOptions,
    private_keys: &[PrivateKey],
    dir: &Path,
) -> Result<Index, LoadError> {
    let name = path.display().to_string();
    let files = Files { flist: Held::Here(path.to_owned()), signature: None };
    let list = match files.sealed()? {
        Some(bytes) => unseal(&name, bytes, private_keys)?.0,
        None => None,
    };
    let source = match &list {
        Some(bytes) => aysfs_flist::Source::Bytes { name: &name, bytes },
        None => path.into(),
    };
    Ok(Index::compile(source, parse, dir)?)
}

fn open(
    name: &str,
    flist: aysfs_flist::Source<'_>,
    parse: &ParseOptions,
    dir: &Path,
) -> Result<Base, LoadError> {
    let (index, provenance) = Index::open_or_compile(flist, parse, dir)?;
    tracing::debug!(?provenance, entries = index.len(), dialect = %index.dialect(), times = ?index.times(), "{name}");
    Ok(Base::new(index)?)
}

/// The list that these bytes are, and what it was encrypted with, if it was.
fn unseal(
    name: &str,
    bytes: Vec<u8>,
    keys: &[PrivateKey],
) -> Result<(Option<Vec<u8>>, Option<Sealing>), LoadError> {
    if !is_sealed(&bytes) {
        return Ok((Some(bytes), None));
    }
    if keys.is_empty() {
        return Err(LoadError::NoKey(name.into()));
    }
    let (list, sealing) =
        Sealing::open(&bytes, keys).map_err(|source| LoadError::Sealed { flist: name.into(), source })?;
    Ok((Some(list), Some(sealing)))
}

/// Who has to have signed a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    /// Nobody has to.
    Anyhow,
    /// One of those who are trusted.
    ByTrusted,
}

/// A list and its signature, as local files.
struct Files {
    flist: Held,
    /// `None`: beside the list.
    signature: Option<Held>,
}

/// A file that is here.
enum Held {
    /// It was here before.
    Here(PathBuf),
    /// It was fetched just now, and replaces `copy` once it is accepted.
    New { part: NamedTempFile, etag: Option<ETag>, copy: PathBuf },
}

impl Held {
    fn path(&self) -> &Path {
        match self {
            Self::Here(path) => path,
            Self::New { part, .. } => part.path(),
        }
    }

    fn keep(self) -> Result<(), LoadError> {
        let Self::New { part, etag, copy } = self else { return Ok(()) };
        let version = with_suffix(&copy, ".etag");
        // A copy without a version beside it is fetched again: never the new list under the old version.
        fs::remove_file(&version).ok();
        durable::finish(part, &copy).map_err(|source| LoadError::Write { path: copy.clone(), source })?;
        match etag {
            Some(ETag(etag)) => publish(&version, etag.as_bytes()),
            None => Ok(()),
        }
    }
}

impl Files {
    fn source<'a>(&'a self, name: &'a str, of: &Source) -> aysfs_flist::Source<'a> {
        let path = self.flist.path();
        match of {
            Source::File(_) => path.into(),
            Source::Url(_) => aysfs_flist::Source::Copy { name, path },
        }
    }

    /// The bytes of the list, if it is encrypted.
    fn sealed(&self) -> Result<Option<Vec<u8>>, LoadError> {
        let path = self.flist.path();
        let mut start = Vec::new();
        // What is wrong with the file is better said by who reads all of it.
        let began =
            File::open(path).and_then(|file| file.take(Sealing::START as u64).read_to_end(&mut start));
        if began.is_err() || !is_sealed(&start) {
            return Ok(None);
        }
        fs::read(path).map(Some).map_err(|source| LoadError::Read { path: path.to_owned(), source })
    }

    /// The bytes of the list, if one of `trusted` has signed them.
    fn verified(&self, name: &str, trusted: &[PublicKey]) -> Result<Vec<u8>, LoadError> {
        let path = self.flist.path();
        let bytes = fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let signature = match &self.signature {
            Some(signature) => signature.path().to_owned(),
            None => with_suffix(path, SIGNATURE),
        };
        let text = match fs::read_to_string(&signature) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let signature = signature.display().to_string();
                return Err(LoadError::Unsigned { flist: name.into(), signature });
            }
            Err(source) => return Err(LoadError::Read { path: signature, source }),
        };
        let checked = verify(&bytes, &text, trusted);
        checked.map_err(|source| LoadError::Signature { flist: name.into(), source })?;
        Ok(bytes)
    }

    fn keep(self) -> Result<(), LoadError> {
        self.flist.keep()?;
        self.signature.map_or(Ok(()), Held::keep)
    }
}

/// What a backend remembers of one flist, in files named by the digest of where the flist is.
#[derive(Clone)]
struct Memory {
    dir: PathBuf,
    stem: String,
}

impl Memory {
    fn of(source: &Source, dir: &Path) -> Self {
        let place = match source {
            Source::File(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                Sha256::digest(absolute.as_os_str().as_bytes())
            }
            Source::Url(_) => Sha256::digest(source.to_string()),
        };
        Self { dir: dir.join("flists"), stem: hex::encode(place) }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.stem))
    }

    /// Waits until nobody else loads this list, then keeps others waiting for as long as the file lives: what is
    /// remembered is in several files, which belong together.
    fn lock(&self) -> Result<File, LoadError> {
        let path = self.file("lock");
        let lock = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|source| LoadError::Write { path: path.clone(), source })
    }

    /// Refuses a version below the highest that was accepted.
    fn check(&self, name: &str, found: u64) -> Result<(), LoadError> {
        let accepted = self.accepted()?;
        if found < accepted {
            return Err(LoadError::Rollback { flist: name.into(), found, accepted });
        }
        Ok(())
    }

    /// Remembers a version, if it is the highest.
    fn accept(&self, version: u64) -> Result<(), LoadError> {
        if version > self.accepted()? {
            publish(&self.file("version"), version.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// The highest version that was accepted.
    fn accepted(&self) -> Result<u64, LoadError> {
        let path = self.file("version");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| LoadError::Version(path.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(LoadError::Read { path, source }),
        }
    }
}

/// Brings copies of what is behind URLs.
struct Download<'a> {
    stors: &'a [StorOptions],
    deadline: Duration,
    signed: Signed,
    unreachable: Unreachable,
}

impl Download<'_> {
    /// The list at `url`, and its signature if it has to have one. If they cannot be reached, earlier copies may do.
    async fn bring(&self, url: &Url, memory: &Memory) -> Result<Files, LoadError> {
        let (flist, signature) = (memory.file("flist"), memory.file(&format!("flist{SIGNATURE}")));
        let may_do = self.unreachable == Unreachable::LastCopy;
        let known = || may_do && flist.exists() && (self.signed == Signed::Anyhow || signature.exists());
        match self.fetch_both(url, &flist, &signature).await {
            Err(LoadError::Fetch { url, source }) if source.is_transient() && known() => {
                tracing::warn!("cannot fetch {url} ({source}): the copy of an earlier mount is used");
                Ok(Files { flist: Held::Here(flist), signature: Some(Held::Here(signature)) })
            }
            fetched => fetched,
        }
    }

    async fn fetch_both(&self, url: &Url, flist: &Path, signature: &Path) -> Result<Files, LoadError> {
        let flist = self.fetch(url, flist, MAX_FLIST).await?;
        let signature = match self.signed {
            Signed::Anyhow => None,
            Signed::ByTrusted => {
                let mut of = url.clone();
                of.set_path(&format!("{}{SIGNATURE}", url.path()));
                match self.fetch(&of, signature, MAX_SIGNATURE).await {
                    Err(LoadError::Fetch { url: signature, source }) if is_missing(&source) => {
                        let flist = without_credentials(url).into();
                        return Err(LoadError::Unsigned { flist, signature: signature.into() });
                    }
                    fetched => Some(fetched?),
                }
            }
        };
        Ok(Files { flist, signature })
    }

    /// What is at `url`, unless `copy` still is.
    async fn fetch(&self, url: &Url, copy: &Path, limit: u64) -> Result<Held, LoadError> {
        let failed = |error| LoadError::Fetch { url: without_credentials(url), source: Box::new(error) };
        let unwritable = |source| LoadError::Write { path: copy.to_owned(), source };
        let known = fs::read_to_string(with_suffix(copy, ".etag")).ok().filter(|_| copy.exists()).map(ETag);
        let fetched =
            fetch_url(url, self.stors, known.as_ref(), limit, self.deadline).await.map_err(failed)?;
        let Fetched::Found { mut body, etag } = fetched else { return Ok(Held::Here(copy.to_owned())) };

        let mut part = durable::begin(copy).map_err(unwritable)?;
        while let Some(piece) = body.stream.next().await {
            let piece = piece.map_err(|error| failed(error.into()))?;
            part.write_all(&piece).map_err(unwritable)?;
        }
        Ok(Held::New { part, etag, copy: copy.to_owned() })
    }
}

fn is_missing(error: &UrlError) -> bool {
    matches!(error, UrlError::Store(error) if matches!(error.fault, Fault::NotFound))
}

/// Replaces a file, or leaves it as it is.
fn publish(path: &Path, content: &[u8]) -> Result<(), LoadError> {
    durable::replace(path, content).map_err(|source| LoadError::Write { path: path.to_owned(), source })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Runs what would hold up others on a thread of its own.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(job).await.expect("loading does not panic")
}
