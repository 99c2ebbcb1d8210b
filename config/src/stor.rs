//! `[stor.N]`, in old files `[aydostor.N]`: where objects live, and how to get in.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::reader::{Table, local_path};
use crate::secret::Secret;

/// A stor and the account to use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stor {
    /// What the file calls it.
    pub name: String,
    /// Where it is.
    pub url: StorUrl,
    /// Who to be there; `None`: nobody in particular.
    pub account: Option<Account>,
    /// PEM certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Refuse to talk in the clear with other machines.
    pub require_tls: bool,
}

/// A login and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user, or the id of an access key.
    pub login: String,
    /// The password, or the secret of an access key.
    pub password: Secret,
}

/// The address of a stor, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorUrl {
    /// An AYDO stor, `http` or `https`. Its path ends with `/`, so that names can be joined to it.
    Http(Url),
    /// An absolute path of a local directory.
    Directory(PathBuf),
    /// An object store, by its scheme: `s3`, `gs` or `az`. The host is the bucket (the container), the path a
    /// prefix of keys, and the query holds options such as `endpoint` and `region`.
    Object(Url),
}

/// The user part of an address (`http://login:password@host/`), decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInfo {
    /// Before the colon.
    pub login: String,
    /// After the colon; `None`: there is none.
    pub password: Option<Secret>,
}

impl StorUrl {
    /// Reads the address of a stor and splits the user part off.
    ///
    /// # Errors
    /// Those of [`StorUrlError`], none of which repeats the address: it may hold a password.
    pub fn parse(text: &str) -> Result<(Self, Option<UserInfo>), StorUrlError> {
        let mut url = Url::parse(text).map_err(StorUrlError::Syntax)?;
        let user = split_user(&mut url)?;
        let url = match url.scheme() {
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                return Err(StorUrlError::Query);
            }
            "http" | "https" => {
                if !url.path().ends_with('/') {
                    url.set_path(&format!("{}/", url.path()));
                }
                Self::Http(url)
            }
            // The URL parser takes file:x for /x.
            "file" if text.get(5..8) == Some("///") => match url.to_file_path() {
                Ok(path) if url.query().is_none() && url.fragment().is_none() => Self::Directory(path),
                _ => return Err(StorUrlError::File),
            },
            "file" => return Err(StorUrlError::File),
            "s3" | "gs" | "az" if url.host_str().is_none_or(str::is_empty) => {
                return Err(StorUrlError::Bucket(url.scheme().into()));
            }
            "s3" | "gs" | "az" => Self::Object(url),
            scheme => return Err(StorUrlError::Scheme(scheme.into())),
        };
        Ok((url, user))
    }

    /// Whether what is sent there can be read on the way: it is plain http, and to another machine.
    pub fn is_in_the_clear(&self) -> bool {
        match self {
            Self::Http(url) => is_plain_http_to_another_machine(url),
            Self::Object(url) => url.query_pairs().any(|(option, value)| {
                option == "endpoint"
                    && Url::parse(&value).is_ok_and(|url| is_plain_http_to_another_machine(&url))
            }),
            Self::Directory(_) => false,
        }
    }
}

impl fmt::Display for StorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) | Self::Object(url) => url.fmt(f),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

fn split_user(url: &mut Url) -> Result<Option<UserInfo>, StorUrlError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(StorUrlError::User),
    };
    let login = decode(url.username())?;
    let password = url.password().map(decode).transpose()?.map(Secret::new);
    if login.is_empty() {
        return Err(StorUrlError::User);
    }
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| StorUrlError::User)?;
    Ok(Some(UserInfo { login, password }))
}

fn is_plain_http_to_another_machine(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !loopback
}

/// Why a text is not the address of a stor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorUrlError {
    /// Not a URL at all.
    #[error(
        "not a URL ({0}): write it as http://host:port/, https://host/, file:///dir or s3://bucket/prefix"
    )]
    Syntax(url::ParseError),
    /// Of a kind that no stor has.
    #[error("unknown scheme {0:?}: use http, https, file, s3, gs or az, as in http://host:port/")]
    Scheme(String),
    /// `?` or `#` after the address of an AYDO stor.
    #[error("the address of an HTTP stor has no query and no fragment: remove what follows ? or #")]
    Query,
    /// Not an absolute path.
    #[error("a file URL names an absolute path of this machine: write it as file:///dir")]
    File,
    /// An object store without a bucket.
    #[error("the bucket is missing: write it as {0}://bucket/prefix")]
    Bucket(String),
    /// An unusable user part.
    #[error("the user part of the URL is not LOGIN:PASSWORD in percent-encoded UTF-8: use login and passwd")]
    User,
}

/// Reads one stor.
pub(crate) fn read(name: &str, table: &mut Table<'_>) -> Option<Stor> {
    let key = table.either("url", "addr");
    table.require(key, r#"url = "http://host:port/", the address of the stor"#);
    let address = table.read(key, StorUrl::parse);
    let login = table.string("login").filter(|login| !login.is_empty());
    let password = password(table);
    let ca = table.readable_file("ca", "create it, or correct the path");
    let require_tls = table.boolean("require_tls").unwrap_or(false);
    table.close();

    let (url, user) = address?;
    let account = account(table, key, user, login, password);
    match &url {
        StorUrl::Directory(_) if account.is_some() => {
            table.problem(key, "a directory asks for no login: remove login and passwd");
        }
        StorUrl::Directory(_) if ca.is_some() => table.problem(key, "a directory needs no ca: remove it"),
        StorUrl::Http(http) if ca.is_some() && http.scheme() == "http" => {
            table.problem(key, "ca is for https: change the URL, or remove ca");
        }
        _ => {}
    }
    if url.is_in_the_clear() && require_tls {
        table.problem(key, "require_tls refuses plain http to another machine: use https");
    } else if url.is_in_the_clear() && account.is_some() {
        table.notice(
            key,
            "login and password travel unencrypted: use https (and require_tls = true to be sure of it)",
        );
    }
    Some(Stor { name: name.into(), url, account, ca, require_tls })
}

fn password(table: &mut Table<'_>) -> Option<Secret> {
    match table.either("passwd", "passwd_file") {
        "passwd_file" => table.read("passwd_file", |text| {
            let path = local_path(text)?;
            let content = fs::read(&path)
                .map_err(|error| format!("cannot read {path:?} ({error}): create it, or correct the path"))?;
            let content = String::from_utf8(content)
                .map_err(|_| format!("{path:?} is not UTF-8: write the password into it as text"))?;
            let line = content.strip_suffix('\n').unwrap_or(&content);
            match line.strip_suffix('\r').unwrap_or(line) {
                "" => Err(format!("{path:?} is empty: write the password into it")),
                password => Ok(Secret::new(password)),
            }
        }),
        key => table.string(key).map(Secret::new),
    }
}

/// Makes an account of what stands in the URL, which is under `url_key`, and under the other keys.
fn account(
    table: &Table<'_>,
    url_key: &str,
    user: Option<UserInfo>,
    login: Option<&str>,
    password: Option<Secret>,
) -> Option<Account> {
    let password_key = if table.has("passwd") { "passwd" } else { "passwd_file" };
    let (login_key, user, login) = match (user, login) {
        (Some(_), Some(_)) => {
            table.problem("login", "the URL names a user as well: remove one of them");
            return None;
        }
        (Some(UserInfo { password: Some(_), .. }), None) if table.has(password_key) => {
            table.problem(password_key, "the URL holds a password as well: remove one of them");
            return None;
        }
        (Some(user), None) => (url_key, user.password, Some(user.login)),
        (None, login) => ("login", None, login.map(Into::into)),
    };
    match (login, user.or(password)) {
        (Some(login), Some(password)) => Some(Account { login, password }),
        (Some(_), None) if !table.has(password_key) => {
            table.problem(login_key, "the password is missing: add passwd or passwd_file");
            None
        }
        // Old files spell "no account" as two empty strings.
        (None, Some(password)) if !password.expose().is_empty() => {
            table.problem(password_key, "the login is missing: add login");
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, Option<UserInfo>), StorUrlError> {
        StorUrl::parse(text).map(|(url, user)| (url.to_string(), user))
    }

    #[test]
    fn each_kind_of_address_is_understood() {
        for (text, shown) in [
            ("http://192.168.122.1:8080/", "http://192.168.122.1:8080/"),
            ("https://stor.example.com", "https://stor.example.com/"),
            ("HTTPS://stor.example.com/a/b", "https://stor.example.com/a/b/"),
            ("file:///srv/stor", "file:///srv/stor"),
            ("file:///srv/a%20stor", "file:///srv/a stor"),
            ("s3://bucket/prefix?region=eu", "s3://bucket/prefix?region=eu"),
            ("gs://bucket", "gs://bucket"),
            ("az://container/x", "az://container/x"),
        ] {
            assert_eq!(parse(text), Ok((shown.into(), None)), "{text}");
        }
        assert_eq!(StorUrl::parse("file:///srv/stor"), Ok((StorUrl::Directory("/srv/stor".into()), None)));
    }

    #[test]
    fn the_user_part_is_split_off_and_decoded() {
        let (url, user) = parse("http://ann:p%40ss@host:81/x").expect("valid");
        assert_eq!(url, "http://host:81/x/");
        assert_eq!(user, Some(UserInfo { login: "ann".into(), password: Some(Secret::new("p@ss")) }));
        let (_, user) = parse("s3://key@bucket/").expect("valid");
        assert_eq!(user, Some(UserInfo { login: "key".into(), password: None }));
    }

    #[test]
    fn no_address_that_fails_is_repeated_in_the_message() {
        for (text, error) in [
            ("", StorUrlError::Syntax(url::ParseError::RelativeUrlWithoutBase)),
            ("10.0.0.1:8080", StorUrlError::Syntax(url::ParseError::RelativeUrlWithoutBase)),
            ("http://", StorUrlError::Syntax(url::ParseError::EmptyHost)),
            ("http://u:hunter2@h:port/", StorUrlError::Syntax(url::ParseError::InvalidPort)),
            ("ftp://u:hunter2@h/", StorUrlError::Scheme("ftp".into())),
            ("localhost:8080", StorUrlError::Scheme("localhost".into())),
            ("http://u:hunter2@h/?q", StorUrlError::Query),
            ("http://:hunter2@h/", StorUrlError::User),
            ("http://u:hunter2%ff@h/", StorUrlError::User),
            ("file:srv/stor", StorUrlError::File),
            ("file:/srv/stor", StorUrlError::File),
            ("file://srv/stor", StorUrlError::File),
            ("s3:bucket", StorUrlError::Bucket("s3".into())),
            ("s3:///prefix", StorUrlError::Bucket("s3".into())),
        ] {
            let found = parse(text).expect_err(text);
            assert_eq!(found, error, "{text}");
            assert!(!format!("{found} {found:?}").contains("hunter2"));
        }
    }

    #[test]
    fn only_plain_http_to_another_machine_is_in_the_clear() {
        for (text, in_the_clear) in [
            ("http://192.168.122.1:8080/", true),
            ("http://stor.example.com/", true),
            ("http://127.0.0.1/", false),
            ("http://127.8.9.1/", false),
            ("http://[::1]:80/", false),
            ("http://localhost:80/", false),
            ("https://stor.example.com/", false),
            ("file:///srv", false),
            ("s3://bucket?region=eu", false),
            ("s3://bucket?endpoint=http://minio:9000", true),
            ("s3://bucket?endpoint=http%3A%2F%2Flocalhost:9000", false),
            ("s3://bucket?endpoint=https://minio:9000", false),
        ] {
            let (url, _) = StorUrl::parse(text).expect(text);
            assert_eq!(url.is_in_the_clear(), in_the_clear, "{text}");
        }
    }
}
