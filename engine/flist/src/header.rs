//! The first lines of a list: its dialect, and the header of v2.
//!
//! Header lines that this version does not know are skipped, so that newer writers can add some.

use std::collections::{BTreeMap, HashSet};

use crate::entry::{Ancestor, Dialect, Header, ObjectKey, Pack};
use crate::error::{Problem, Reason, shown};
use crate::escape;
use crate::limits::{MAX_ANCESTORS, MAX_MOVED, MAX_PACKS};
use crate::line::{count_fields, decimal};
use crate::path;

/// How the first line of v2 begins; the number of the format follows.
pub(crate) const SIGNATURE: &str = "# aysfs-flist ";
/// The format that is written and read.
pub(crate) const FORMAT: &str = "2";

/// Tells the dialects apart by the first line of a list.
pub(crate) fn dialect(line: &[u8]) -> Result<Dialect, Problem> {
    let reason = match line.strip_prefix(SIGNATURE.as_bytes()) {
        Some(format) if format == FORMAT.as_bytes() => return Ok(Dialect::V2),
        Some(format) => Reason::NewerFormat(shown(format)),
        None => match count_fields(line) {
            3 => return Ok(Dialect::V1Short),
            10.. => return Ok(Dialect::V1Long),
            found => Reason::UnknownDialect(found),
        },
    };
    Err(Problem { column: 1, reason })
}

/// The packs of a list by the numbers that it gives them.
pub(crate) type Packs = BTreeMap<u32, Pack>;

/// Collects the header lines of v2.
#[derive(Default)]
pub(crate) struct HeaderParser {
    header: Header,
    packs: Packs,
    pack_keys: HashSet<ObjectKey>,
    /// Lines about what the list was made from.
    from_lines: usize,
}

impl HeaderParser {
    /// Takes one line, which begins with `#`.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), Problem> {
        escape::refuse_controls(line)?;
        let text = line.strip_prefix(b"#").unwrap_or(line);
        let text = text.strip_prefix(b" ").unwrap_or(text);
        let text_column = line.len() - text.len() + 1;
        if let Some(pack) = text.strip_prefix(b"pack ") {
            return self.pack(pack).map_err(|reason| Problem { column: text_column, reason });
        }
        if let Some(ancestor) = text.strip_prefix(b"from ") {
            return self.ancestor(ancestor).map_err(|reason| Problem { column: text_column, reason });
        }
        if let Some(paths) = text.strip_prefix(b"moved ") {
            return self.moved(paths).map_err(|reason| Problem { column: text_column, reason });
        }
        let Some(colon) = memchr::memchr(b':', text) else { return Ok(()) };
        let value = &text[colon + 1..];
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let column = line.len() - value.len() + 1;
        let known = match &text[..colon] {
            b"name" => self.header.name.replace(text_value("name", value, column)?).is_some(),
            b"created" => self.header.created.replace(text_value("created", value, column)?).is_some(),
            b"version" => {
                let version = decimal(value).ok_or_else(|| bad_value("version", value, column))?;
                self.header.version.replace(version).is_some()
            }
            b"start" => {
                let known = !self.header.start.is_empty();
                self.header.start = self.start(value).ok_or_else(|| bad_value("start", value, column))?;
                known
            }
            _ => false,
        };
        if known {
            let reason = Reason::HeaderTwice(shown(&text[..colon]));
            return Err(Problem { column: text_column, reason });
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> (Header, Packs) {
        (Header { packs: self.packs.values().copied().collect(), ..self.header }, self.packs)
    }

    /// Packs by their numbers, which the lines before have to have told.
    fn start(&self, value: &[u8]) -> Option<Vec<ObjectKey>> {
        let pack = |number| self.packs.get(&u32::try_from(decimal(number)?).ok()?);
        value.split(|byte| *byte == b' ').map(|number| pack(number).map(|pack| pack.key)).collect()
    }

    fn ancestor(&mut self, text: &[u8]) -> Result<(), Reason> {
        self.count_from_line()?;
        let mut sha256 = [0; 32];
        hex::decode_to_slice(text, &mut sha256).map_err(|_| Reason::FromLine)?;
        if self.header.ancestors.len() == MAX_ANCESTORS {
            return Err(Reason::TooManyAncestors);
        }
        self.header.ancestors.push(Ancestor { sha256, moved: Vec::new() });
        Ok(())
    }

    fn moved(&mut self, text: &[u8]) -> Result<(), Reason> {
        self.count_from_line()?;
        let mut paths = text.split(|byte| *byte == b' ').map(|path| {
            let path = escape::decode(path, 1).map_err(|problem| problem.reason)?;
            Ok(path::normalise(&path)?.to_vec())
        });
        match (
            paths.next().transpose()?,
            paths.next().transpose()?,
            paths.next(),
            self.header.ancestors.last_mut(),
        ) {
            (Some(old), Some(new), None, Some(ancestor)) => {
                ancestor.moved.push((old, new));
                Ok(())
            }
            _ => Err(Reason::MovedLine),
        }
    }

    fn count_from_line(&mut self) -> Result<(), Reason> {
        self.from_lines += 1;
        if self.from_lines > MAX_MOVED { Err(Reason::TooManyMoved) } else { Ok(()) }
    }

    fn pack(&mut self, text: &[u8]) -> Result<(), Reason> {
        let (number, pack) = parse_pack(text).ok_or(Reason::PackLine)?;
        if self.packs.len() == MAX_PACKS {
            return Err(Reason::TooManyPacks);
        }
        if self.packs.insert(number, pack).is_some() || !self.pack_keys.insert(pack.key) {
            return Err(Reason::PackTwice(number));
        }
        Ok(())
    }
}

fn parse_pack(text: &[u8]) -> Option<(u32, Pack)> {
    let mut words = text.split(|byte| *byte == b' ');
    let number = u32::try_from(decimal(words.next()?)?).ok()?;
    let key = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let bytes = decimal(words.next()?)?;
    words.next().is_none().then_some((number, Pack { key, bytes }))
}

fn text_value(key: &str, value: &[u8], column: usize) -> Result<String, Problem> {
    String::from_utf8(escape::decode(value, column)?.into_owned()).map_err(|_| bad_value(key, value, column))
}

fn bad_value(key: &str, value: &[u8], column: usize) -> Problem {
    Problem { column, reason: Reason::HeaderValue { key: key.into(), value: shown(value) } }
}
