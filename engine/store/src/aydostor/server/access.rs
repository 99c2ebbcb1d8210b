//! Who may do what: accounts with rights, over HTTP Basic authentication.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::log::Exchange;
use super::{Refusal, Shared};

/// One thing that an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Get, ask for, list.
    Read,
    /// Put, post.
    Write,
    /// Delete.
    Delete,
}

impl Right {
    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Delete => 4,
        }
    }

    /// What a request needs. A method that is not known needs the most that it could do.
    fn needed(method: &Method, path: &str) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST if is_exists(path) => Self::Read,
            Method::POST | Method::PUT => Self::Write,
            _ => Self::Delete,
        }
    }
}

/// Whether a path is [`protocol::EXISTS`](crate::aydostor::protocol::EXISTS), and not a namespace or a file of
/// that name.
fn is_exists(path: &str) -> bool {
    matches!(path.split('/').collect::<Vec<_>>()[..], ["", "store", _, "exists"])
}

/// What an account may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// What everyone may where there are no accounts.
    const OPEN: Self = Self(Right::Read.bit() | Right::Write.bit());

    /// These rights and one more.
    #[must_use]
    pub fn with(self, right: Right) -> Self {
        Self(self.0 | right.bit())
    }

    /// Whether `right` is among them.
    pub fn allow(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }
}

impl FromStr for Rights {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let add = |rights: Self, letter| match letter {
            'r' => Ok(rights.with(Right::Read)),
            'w' => Ok(rights.with(Right::Write)),
            'd' => Ok(rights.with(Right::Delete)),
            _ => Err(AccountError::Right(letter)),
        };
        if text.is_empty() {
            Err(AccountError::NoRights)
        } else {
            text.chars().try_fold(Self::default(), add)
        }
    }
}

/// A name, a password and rights. Only a digest of the password is kept.
#[derive(Clone)]
pub struct Account {
    name: String,
    password: [u8; 32],
    rights: Rights,
}

impl Account {
    /// An account.
    pub fn new(name: &str, password: &str, rights: Rights) -> Self {
        Self { name: name.into(), password: Sha256::digest(password).into(), rights }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `NAME:PASSWORD:RIGHTS`; the password may hold colons.
impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let (name, rest) = text.split_once(':').ok_or(AccountError::Form)?;
        let (password, rights) = rest.rsplit_once(':').ok_or(AccountError::Form)?;
        if name.is_empty() || password.is_empty() {
            return Err(AccountError::Form);
        }
        Ok(Self::new(name, password, rights.parse()?))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// Why a text is not an account. It does not repeat the text, which holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Not three parts.
    #[error("an account is NAME:PASSWORD:RIGHTS, each not empty")]
    Form,
    /// An account without rights.
    #[error("an account needs rights: any of r (read), w (write), d (delete)")]
    NoRights,
    /// Not a right.
    #[error("{0:?} is not a right: use r (read), w (write), d (delete)")]
    Right(char),
}

/// Lets a request pass if the account it names may make it.
pub(super) async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let needed = Right::needed(request.method(), request.uri().path());
    let rights = if shared.accounts.is_empty() {
        Rights::OPEN
    } else {
        match authenticate(&shared.accounts, request.headers()) {
            Some(account) => {
                if let Some(exchange) = request.extensions().get::<Arc<Exchange>>() {
                    exchange.set_account(&account.name);
                }
                account.rights
            }
            None => {
                let refusal = Refusal::status(StatusCode::UNAUTHORIZED, "an account is needed");
                return ([(WWW_AUTHENTICATE, "Basic realm=\"aysfs stor\", charset=\"UTF-8\"")], refusal)
                    .into_response();
            }
        }
    };
    if rights.allow(needed) {
        next.run(request).await
    } else {
        Refusal::status(StatusCode::FORBIDDEN, format!("no right to {needed:?}").to_lowercase())
            .into_response()
    }
}

/// The account that a request names, if it knows the password. How long this takes tells nothing about either.
fn authenticate<'a>(accounts: &'a [Account], headers: &HeaderMap) -> Option<&'a Account> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    let (name, password): ([u8; 32], [u8; 32]) =
        (Sha256::digest(name).into(), Sha256::digest(password).into());
    let mut found = None;
    for account in accounts {
        let its_name: [u8; 32] = Sha256::digest(&account.name).into();
        if bool::from(its_name.ct_eq(&name) & account.password.ct_eq(&password)) {
            found = Some(account);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_name_password_and_rights() {
        let account: Account = "zaibon:super:secret:rw".parse().expect("valid");
        assert_eq!(account.name, "zaibon");
        assert!(account.rights.allow(Right::Read) && account.rights.allow(Right::Write));
        assert!(!account.rights.allow(Right::Delete));
        assert!(!format!("{account:?}").contains("secret"));
        for (text, error) in [
            ("zaibon", AccountError::Form),
            ("zaibon:secret", AccountError::Form),
            (":secret:r", AccountError::Form),
            ("zaibon::r", AccountError::Form),
            ("zaibon:secret:", AccountError::NoRights),
            ("zaibon:secret:rx", AccountError::Right('x')),
        ] {
            let told = text.parse::<Account>().expect_err(text);
            assert_eq!(told, error);
            assert!(!told.to_string().contains("secret"));
        }
    }

    #[test]
    fn each_request_needs_a_right() {
        for (method, path, right) in [
            (Method::GET, "/store/ns/hash", Right::Read),
            (Method::HEAD, "/static/a", Right::Read),
            (Method::POST, "/store/ns/exists", Right::Read),
            (Method::POST, "/store/exists", Right::Write),
            (Method::POST, "/static/exists", Right::Write),
            (Method::POST, "/store/ns", Right::Write),
            (Method::PUT, "/store/ns/hash", Right::Write),
            (Method::DELETE, "/store/ns/hash", Right::Delete),
            (Method::PATCH, "/store/ns/hash", Right::Delete),
        ] {
            assert_eq!(Right::needed(&method, path), right, "{method} {path}");
        }
    }
}
