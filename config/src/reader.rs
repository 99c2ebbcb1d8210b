//! Reads tables of a TOML document key by key, and notes everything that is wrong with them.
//!
//! A [`Table`] learns its keys from what is asked of it, so that nothing lists them a second time: whoever reads
//! a table asks for every key there is, whatever the others hold, and then calls [`Table::close`], which reports
//! the rest as unknown. A value that is absent and one that is wrong both come out as `None`; the wrong one has
//! been reported.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::error::Diagnostic;
use crate::word::suggestion;

/// What has been found out about a document so far.
pub(crate) struct Report<'a> {
    path: &'a Path,
    text: &'a str,
    problems: RefCell<Vec<(usize, String)>>,
    notices: RefCell<Vec<(usize, String)>>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, problems: RefCell::default(), notices: RefCell::default() }
    }

    /// Notes what makes the document unusable; `at` is a byte offset.
    pub(crate) fn problem(&self, at: usize, message: impl Into<String>) {
        self.problems.borrow_mut().push((at, message.into()));
    }

    /// The problems, and the notices, each in the order of the document.
    pub(crate) fn finish(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let located = |messages: &RefCell<Vec<(usize, String)>>| {
            let mut messages = messages.take();
            messages.sort_by_key(|(at, _)| *at);
            messages.dedup();
            messages.into_iter().map(|(at, message)| self.locate(at, message)).collect()
        };
        (located(&self.problems), located(&self.notices))
    }

    fn locate(&self, at: usize, message: String) -> Diagnostic {
        let (line, column) = self.line_and_column(at);
        Diagnostic { path: self.path.into(), line, column, message }
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// A table that is being read.
pub(crate) struct Table<'a> {
    title: String,
    at: usize,
    entries: &'a DeTable<'a>,
    asked: Vec<&'static str>,
    report: &'a Report<'a>,
}

impl<'a> Table<'a> {
    /// The document itself.
    pub(crate) fn root(document: &'a Spanned<DeTable<'a>>, report: &'a Report<'a>) -> Self {
        Self { title: "the file".into(), at: 0, entries: document.get_ref(), asked: Vec::new(), report }
    }

    /// Whether the key is there, be its value right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The line of a key's value, counted from 1.
    pub(crate) fn line(&self, key: &str) -> usize {
        self.report.line_and_column(self.at(key)).0
    }

    /// Reports what is wrong with the value of a key.
    pub(crate) fn problem(&self, key: &str, message: impl Display) {
        self.report.problem(self.at(key), format!("{key}: {message}"));
    }

    /// Tells what the user should know about the value of a key, although all is well.
    pub(crate) fn notice(&self, key: &str, message: impl Display) {
        self.report.notices.borrow_mut().push((self.at(key), format!("{key}: {message}")));
    }

    /// Reports what is wrong with the table as such.
    pub(crate) fn problem_here(&self, message: String) {
        self.report.problem(self.at, message);
    }

    /// Reports a key as missing if it is; `example` shows how to write it, and says what for.
    pub(crate) fn require(&self, key: &str, example: &str) {
        if !self.has(key) {
            self.problem_here(format!("{} has no {key:?}: add {example}", self.title));
        }
    }

    /// Which of two names of one key is used here; having both is a problem.
    pub(crate) fn either(&mut self, key: &'static str, other: &'static str) -> &'static str {
        match (self.value(key), self.value(other)) {
            (Some(_), Some(_)) => {
                self.problem(other, format!("{key} is set as well: remove one of them"));
                key
            }
            (None, Some(_)) => other,
            (_, None) => key,
        }
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<&'a str> {
        self.typed(key, "a string", DeValue::as_str)
    }

    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool)
    }

    /// A whole number, 0 or more.
    pub(crate) fn number(&mut self, key: &'static str) -> Option<u32> {
        let integer = self.typed(key, "a whole number", DeValue::as_integer)?;
        u32::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| self.problem(key, format!("{integer} is out of range: use 0 to {}", u32::MAX)))
            .ok()
    }

    /// A list of strings, in which `None` takes the place of what is no string.
    pub(crate) fn strings(&mut self, key: &'static str) -> Option<Vec<Option<Spanned<&'a str>>>> {
        let items = self.typed(key, "a list of strings", DeValue::as_array)?;
        Some(items.iter().map(|item| self.item(key, item)).collect())
    }

    /// [`Table::strings`], or one string in place of a list of one.
    pub(crate) fn string_or_strings(&mut self, key: &'static str) -> Option<Vec<Option<Spanned<&'a str>>>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(_) => Some(vec![self.item(key, value)]),
            DeValue::Array(_) => self.strings(key),
            _ => self.typed(key, "a string or a list of strings", |_| None),
        }
    }

    /// A string that means a `T`, to one who can read it.
    pub(crate) fn read<T, E: Display>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        read(self.string(key)?).map_err(|error| self.problem(key, error)).ok()
    }

    /// A string that means a `T`.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        self.read(key, str::parse)
    }

    /// A string that means a `T`, or the word that says that there is none.
    pub(crate) fn parsed_unless<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        none: &str,
    ) -> Option<T> {
        self.read(key, |text| if text == none { Ok(None) } else { text.parse().map(Some) })?
    }

    /// The result of a check of one item of a list; its error is reported where the item stands.
    pub(crate) fn checked_item<T>(
        &self,
        key: &str,
        item: &Spanned<&str>,
        result: Result<T, impl Display>,
    ) -> Option<T> {
        result.map_err(|error| self.report.problem(item.span().start, format!("{key}: {error}"))).ok()
    }

    /// A path, as it was written: a relative one starts at the working directory of the process.
    pub(crate) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.read(key, local_path)
    }

    /// An absolute path without `..`, in its shortest form.
    pub(crate) fn absolute_path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.read(key, |text| {
            let path = local_path(text)?;
            if path.components().any(|part| part == Component::ParentDir) {
                Err(format!("{path:?} contains \"..\": write the path without"))
            } else if path.is_absolute() {
                Ok(path.components().collect())
            } else {
                Err(format!("{path:?} is not an absolute path: begin it with /"))
            }
        })
    }

    /// The path of a file that can be read; `remedy` says what to do if it can't.
    pub(crate) fn readable_file(&mut self, key: &'static str, remedy: &str) -> Option<PathBuf> {
        self.read(key, |text| {
            let path = local_path(text)?;
            // Looked at before it is opened: opening a fifo would wait for a writer.
            let is_file = fs::metadata(&path).map(|metadata| metadata.is_file());
            match is_file.and_then(|is_file| if is_file { File::open(&path).map(Some) } else { Ok(None) }) {
                Ok(Some(_)) => Ok(path),
                Ok(None) => Err(format!("{path:?} is not a file: {remedy}")),
                Err(error) => Err(format!("cannot read {path:?} ({error}): {remedy}")),
            }
        })
    }

    /// The tables `[key.NAME]`, in the order of their names; `None` for what is no table.
    pub(crate) fn named_tables(&mut self, key: &'static str) -> Vec<(&'a str, Option<Table<'a>>)> {
        let Some(tables) = self.value(key) else { return Vec::new() };
        let Some(entries) = tables.get_ref().as_table() else {
            let found = kind(tables.get_ref());
            self.problem(key, format!("expected tables, found {found}: write [{key}.NAME]"));
            return Vec::new();
        };
        let table = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let text: &'a str = name.get_ref();
            if let DeValue::Table(entries) = value.get_ref() {
                let title = format!("[{key}.{}]", bare_or_quoted(text));
                return (text, Some(self.inner(title, value.span().start, entries)));
            }
            let found = kind(value.get_ref());
            let message =
                format!("{text:?} in [{key}] is {found}: keys belong below a name, as in [{key}.NAME]");
            self.report.problem(name.span().start, message);
            (text, None)
        };
        entries.iter().map(table).collect()
    }

    /// The tables `[[key]]`, in their order.
    pub(crate) fn listed_tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        let Some(list) = self.value(key) else { return Vec::new() };
        let items = match list.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![list],
        };
        let table = |item: &'a Spanned<DeValue<'a>>| match (list.get_ref(), item.get_ref()) {
            (DeValue::Array(_), DeValue::Table(entries)) => {
                Some(self.inner(format!("[[{key}]]"), item.span().start, entries))
            }
            (_, found) => {
                let message = format!(
                    "{key}: expected a list of tables, found {}: write [[{key}]], with two brackets",
                    kind(found)
                );
                self.report.problem(item.span().start, message);
                None
            }
        };
        items.into_iter().filter_map(table).collect()
    }

    /// Reports every key that was not asked for.
    pub(crate) fn close(&self) {
        for (key, value) in self.entries {
            let name: &str = key.get_ref();
            if !self.asked.contains(&name) {
                let kind = if value.get_ref().is_table() { "table" } else { "key" };
                let suggestion = suggestion(name, self.asked.iter().copied());
                let message = format!("unknown {kind} {name:?} in {}: {suggestion}", self.title);
                self.report.problem(key.span().start, message);
            }
        }
    }

    fn inner(&self, title: String, at: usize, entries: &'a DeTable<'a>) -> Self {
        Self { title, at, entries, asked: Vec::new(), report: self.report }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entries.get(key)
    }

    fn at(&self, key: &str) -> usize {
        self.entries.get(key).map_or(self.at, |value| value.span().start)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let converted = convert(value.get_ref());
        if converted.is_none() {
            self.mismatch(key, value, expected);
        }
        converted
    }

    fn item(&self, key: &str, item: &'a Spanned<DeValue<'a>>) -> Option<Spanned<&'a str>> {
        let text = item.get_ref().as_str();
        if text.is_none() {
            self.mismatch(key, item, "only strings in the list");
        }
        Some(Spanned::new(item.span(), text?))
    }

    fn mismatch(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        // Never the value itself: it may be a password without quotes.
        let found = kind(value.get_ref());
        self.report.problem(value.span().start, format!("{key}: expected {expected}, found {found}"));
    }
}

/// A path of this machine.
pub(crate) fn local_path(text: &str) -> Result<PathBuf, &'static str> {
    match text {
        "" => Err("the path is empty: write one, or remove the key"),
        _ if text.contains('\0') => Err("the path contains a NUL character: remove it"),
        _ => Ok(text.into()),
    }
}

/// The name of a table as TOML writes it.
pub(crate) fn bare_or_quoted(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) { name.into() } else { format!("{name:?}") }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
