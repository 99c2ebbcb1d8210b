//! From the address of a stor to a [`Store`].

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::Url;

use crate::aydostor::AydoStor;
use crate::aydostor::transport::{Credentials, TlsError, Transport, is_loopback};
use crate::{DirStore, Namespace, Store};

/// How a stor is reached.
#[derive(Clone)]
pub struct StorOptions {
    /// `http://`, `https://` or `file://`. A name and a password in it are used where `login` is not given.
    pub url: Url,
    /// The account, for HTTP.
    pub login: Option<String>,
    /// Its password.
    pub passwd: Option<String>,
    /// A PEM file with CA certificates to trust beside those of the system.
    pub ca: Option<PathBuf>,
    /// Whether the stor may be reached without TLS.
    pub require_tls: RequireTls,
    /// The longest time without a byte arriving or leaving.
    pub deadline: Duration,
}

/// Whether a stor may be reached without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireTls {
    /// Credentials sent without TLS to another machine cause a warning.
    No,
    /// Plain HTTP is an error.
    Yes,
}

impl StorOptions {
    /// A stor without account, with the defaults of the configuration.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            login: None,
            passwd: None,
            ca: None,
            require_tls: RequireTls::No,
            deadline: Duration::from_secs(30),
        }
    }

    /// The address as it may be shown: without credentials.
    pub(crate) fn address(&self) -> Url {
        without_credentials(&self.url)
    }

    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        match &self.login {
            Some(login) if !login.is_empty() => {
                Some(Credentials { login: login.clone(), passwd: self.passwd.clone() })
            }
            _ if !self.url.username().is_empty() => Some(Credentials {
                login: decoded(self.url.username()),
                passwd: self.url.password().map(decoded).or_else(|| self.passwd.clone()),
            }),
            _ => None,
        }
    }

    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, OpenError> {
        let Some(path) = &self.ca else { return Ok(Vec::new()) };
        let pem = std::fs::read(path).map_err(|error| OpenError::Ca { path: path.clone(), error })?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(OpenError::NoCertificate { path: path.clone() }),
        }
    }

    /// Refuses what would be readable on the way and must not be.
    pub(crate) fn check_privacy(&self) -> Result<(), OpenError> {
        if self.url.scheme() == "http" && self.require_tls == RequireTls::Yes {
            return Err(OpenError::TlsRequired { url: self.address().into() });
        }
        Ok(())
    }

    /// An HTTP client for this stor. It follows redirects to the same origin, for the credentials' sake.
    fn transport(&self) -> Result<Transport, OpenError> {
        self.check_privacy()?;
        let credentials = self.credentials();
        if credentials.is_some() && self.url.scheme() == "http" && !is_loopback(&self.url) {
            tracing::warn!(stor = %self.address(), "login and passwd are sent without encryption: use https");
        }
        let same_origin = |from: &Url, to: &Url| from.origin() == to.origin();
        Transport::new(&self.url, &self.certificates()?, credentials, self.deadline, same_origin)
            .map_err(|error| OpenError::Tls { url: self.address().into(), error })
    }
}

impl fmt::Debug for StorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorOptions")
            .field("url", &self.address().as_str())
            .field("login", &self.login)
            .field("ca", &self.ca)
            .field("require_tls", &self.require_tls)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Opens a namespace of a stor. Nothing is sent yet; a directory is made if need be.
///
/// # Errors
/// What is wrong with the address or with a file it needs. Whether an HTTP stor answers is not asked.
pub fn open(options: &StorOptions, namespace: &Namespace) -> Result<Arc<dyn Store>, OpenError> {
    let url = options.address();
    if url.query().is_some() || url.fragment().is_some() {
        return Err(OpenError::NotAnAddress { url: url.into() });
    }
    match url.scheme() {
        "http" | "https" => {
            let transport = options.transport()?;
            Ok(Arc::new(AydoStor::new(transport, url, namespace.clone(), options.deadline)))
        }
        "file" => {
            let root = url.to_file_path().map_err(|()| OpenError::NotLocal { url: url.into() })?;
            match DirStore::open(&root, namespace) {
                Ok(store) => Ok(Arc::new(store)),
                Err(error) => Err(OpenError::Directory { error }),
            }
        }
        scheme => Err(OpenError::Scheme { scheme: scheme.into(), url: url.into() }),
    }
}

/// A URL as it may be shown: without the name and the password that it may hold.
pub fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // These fail only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// Why a stor cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such kind of stor.
    #[error("{url}: stors of kind {scheme:?} are not supported: use http://, https:// or file://")]
    Scheme {
        /// The kind asked for.
        scheme: String,
        /// The address.
        url: String,
    },
    /// More than an address.
    #[error("{url}: the address of a stor has no '?' and no '#'")]
    NotAnAddress {
        /// The address.
        url: String,
    },
    /// A `file:` URL with a host.
    #[error("{url}: not a directory of this machine: write file:///path")]
    NotLocal {
        /// The address.
        url: String,
    },
    /// Plain HTTP where TLS is required.
    #[error("{url}: require_tls is set, but this address is not https://")]
    TlsRequired {
        /// The address.
        url: String,
    },
    /// The CA file cannot be read.
    #[error("ca {path:?} cannot be read: {error}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not; part of the message, so not its source as well.
        error: io::Error,
    },
    /// The CA file is of no use.
    #[error("ca {path:?} holds no PEM certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("{url}: {error}")]
    Tls {
        /// The address.
        url: String,
        /// Why not.
        error: TlsError,
    },
    /// The directory cannot be used.
    #[error("the stor directory cannot be used: {error}")]
    Directory {
        /// Which, and why not.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> StorOptions {
        StorOptions::new(url.parse().expect("a URL"))
    }

    fn refused(options: &StorOptions) -> String {
        open(options, &"ns".parse().expect("valid")).expect_err("not to be opened").to_string()
    }

    #[test]
    fn an_unusable_address_says_what_to_do() {
        assert_eq!(
            refused(&options("s3://bucket/prefix")),
            "s3://bucket/prefix: stors of kind \"s3\" are not supported: use http://, https:// or file://"
        );
        assert_eq!(
            refused(&options("file://elsewhere/dir")),
            "file://elsewhere/dir: not a directory of this machine: write file:///path"
        );
        assert_eq!(
            refused(&options("http://h/?a=b")),
            "http://h/?a=b: the address of a stor has no '?' and no '#'"
        );
        let mut plain = options("http://h/");
        plain.require_tls = RequireTls::Yes;
        assert_eq!(refused(&plain), "http://h/: require_tls is set, but this address is not https://");
        let mut ca = options("https://h/");
        ca.ca = Some("/nonexistent/ca.pem".into());
        assert_eq!(
            refused(&ca),
            "ca \"/nonexistent/ca.pem\" cannot be read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut options = options("http://user:geheim@h/");
        options.passwd = Some("geheim".into());
        let store = open(&options, &"ns".parse().expect("valid")).expect("opened");
        for shown in [format!("{options:?}"), format!("{store:?}"), store.name().to_owned()] {
            assert!(!shown.contains("geheim"), "{shown}");
        }
        options.url = "s3://user:geheim@bucket/".parse().expect("a URL");
        assert!(!refused(&options).contains("geheim"));
    }

    #[test]
    fn credentials_come_from_the_options_or_else_from_the_url() {
        let from_url = options("http://a%40b:p%3Aq@h/").credentials().expect("some");
        assert_eq!((from_url.login.as_str(), from_url.passwd.as_deref()), ("a@b", Some("p:q")));
        let mut both = options("http://a:b@h/");
        both.login = Some("c".into());
        assert_eq!(both.credentials().expect("some").login, "c");
        assert_eq!(options("http://h/").credentials(), None);
        let mut empty = options("http://h/");
        empty.login = Some(String::new());
        assert_eq!(empty.credentials(), None);
    }
}
