//! The whole config, from the file to what it means.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use crate::backend::{self, Backend, Stors};
use crate::error::{ConfigError, Diagnostic};
use crate::mount::{self, Backends, Mount};
use crate::reader::{Report, Table};
use crate::stor;

/// A checked config: every name in it leads somewhere, and every value has been understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to mount, in the order of the file; at least one.
    pub mounts: Vec<Mount>,
    /// All backends, by name, also those that no mount uses. No two share a directory.
    pub backends: Vec<Arc<Backend>>,
    /// What the user should be told, although all is well, in the order of the file.
    pub notices: Vec<Diagnostic>,
}

impl Config {
    /// Reads a config file, and the password files that it names; makes sure that the key files it needs can be
    /// read.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong: then everything that is wrong with it is told.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let text = String::from_utf8_lossy(&bytes);
                // The text up to there is the same.
                let report = Report::new(path, &text);
                report.problem(error.valid_up_to(), "not UTF-8: save the file as UTF-8");
                Err(ConfigError::Invalid(report.finish().0))
            }
        }
    }

    /// [`Config::load`] for a text that is in memory already; `path` is what messages call it.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let report = Report::new(path, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            // Only the message: the error's own display shows the line, which may hold a password.
            let at = error.span().map_or(0, |span| span.start);
            report.problem(at, format!("not TOML: {}", error.message()));
        }
        // What a damaged document means is a guess.
        let read = if errors.is_empty() { Some(read(&document, &report)) } else { None };
        let (problems, notices) = report.finish();
        match read {
            Some((mounts, backends)) if problems.is_empty() => Ok(Self { mounts, backends, notices }),
            _ => Err(ConfigError::Invalid(problems)),
        }
    }
}

fn read<'a>(document: &'a Spanned<DeTable<'a>>, report: &'a Report<'a>) -> (Vec<Mount>, Vec<Arc<Backend>>) {
    let mut root = Table::root(document, report);
    let mut stors = Stors::new();
    for key in ["stor", "aydostor"] {
        for (name, table) in root.named_tables(key) {
            let stor = table.and_then(|mut table| {
                if stors.contains_key(name) {
                    table.problem_here(format!("stor {name:?} is in [stor] as well: rename one of them"));
                }
                stor::read(name, &mut table)
            });
            stors.insert(name, stor.map(Arc::new));
        }
    }

    let mut backends = Backends::new();
    for (name, table) in root.named_tables("backend") {
        let backend = table.and_then(|mut table| {
            let backend = backend::read(name, &mut table, &stors)?;
            if let Some(other) = backends.values().flatten().find(|other| other.path == backend.path) {
                let message = format!("backend {:?} is there already: give each its own", other.name);
                table.problem("path", message);
            }
            Some(Arc::new(backend))
        });
        backends.insert(name, backend);
    }

    root.require("mount", "a table [[mount]] with path, backend, mode and flist");
    let mounts = mount::read_all(root.listed_tables("mount"), &backends, &stors);
    root.close();
    (mounts, backends.into_values().flatten().collect())
}
