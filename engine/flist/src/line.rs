//! One line of a list to one [`Entry`]: every rule that a line can break on its own.
//!
//! Lines are parsed independently of each other, on several threads; what takes the whole list (duplicates,
//! parents, links) is checked by [`Tree`](crate::tree::Tree).

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::entry::{Content, Dialect, Entry, Kind, Owner, Place, Table, Timestamp, V1Keys};
use crate::error::{Problem, Reason, shown};
use crate::escape;
use crate::header::Packs;
use crate::limits::{MAX_CHUNK, MAX_NAME, MAX_TABLE, MAX_TARGET, MAX_WRAPPED_KEY, MAX_XATTR};
use crate::path::{self, Trim, Trimmed};

/// The digits of a hash that is one of a v1 list.
const V1_DIGITS: usize = 32;

/// An entry, and what is needed to complain about it later.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) entry: Entry,
    /// Where its link= begins; 1 without one.
    pub(crate) link_column: usize,
}

/// What all lines of a list have in common.
#[derive(Clone, Copy)]
pub(crate) struct LineParser<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) packs: &'a Packs,
    pub(crate) trim: &'a Trim,
}

impl LineParser<'_> {
    /// Parses one line, without its end. `None`: the entry only leads to what is left after trimming.
    pub(crate) fn parse(&self, number: u64, line: &[u8]) -> Result<Option<Line>, Problem> {
        let (entry, link_column) = match self.dialect {
            Dialect::V1Short => (short(line)?, 1),
            Dialect::V1Long => {
                let Long { mut entry, fields, .. } = self.long(line)?;
                let keys = v1_keys(fields)?;
                entry.take_keys(keys);
                (entry, 1)
            }
            Dialect::V2 => {
                escape::refuse_controls(line)?;
                let Long { mut entry, hash, fields } = self.long(line)?;
                let columns = self.columns(fields)?;
                let link_column = columns.link_column;
                columns.complete(&mut entry, hash)?;
                (entry, link_column)
            }
        };
        Ok(self.trimmed(entry)?.map(|entry| Line { number, entry, link_column }))
    }

    fn trimmed(&self, mut entry: Entry) -> Result<Option<Entry>, Problem> {
        match self.trim.apply(&entry.path) {
            Trimmed::Above if entry.kind == Kind::Directory => return Ok(None),
            Trimmed::Above => {}
            Trimmed::Kept(rest) => entry.path = rest.to_vec(),
        }
        if let Some(link) = &mut entry.link
            && let Trimmed::Kept(rest) = self.trim.apply(link)
        {
            *link = rest.to_vec();
        }
        if entry.path.is_empty() && (entry.kind != Kind::Directory || entry.link.is_some()) {
            return Err(Problem { column: 1, reason: Reason::RootNotDirectory });
        }
        Ok(Some(entry))
    }

    /// The ten fields that v1 long and v2 share.
    fn long<'a>(&self, line: &'a [u8]) -> Result<Long<'a>, Problem> {
        let mut fields = Fields { line, next: Some(0) };
        let Some([path, hash, size, user, group, mode, kind, ctime, mtime, extended]) = fields.leading()
        else {
            return Err(wrong_count(line, "at least 10"));
        };
        let path = self.text(path)?.path()?;
        let code = match kind.text {
            [digit] => digit.wrapping_sub(b'0'),
            _ => u8::MAX,
        };
        let extended = self.text(extended)?;
        let device = if matches!(code, 3 | 5) { extended.device()? } else { (0, 0) };
        let Some(kind) = Kind::from_code(code, device) else { return Err(kind.bad(Reason::Type)) };
        let mut entry = Entry {
            user: self.owner(user)?,
            group: self.owner(group)?,
            perm: self.perm(&mode)?,
            ctime: ctime.time()?,
            mtime: mtime.time()?,
            ..Entry::new(path, kind)
        };
        match kind {
            Kind::Regular => {
                entry.size = size.size()?;
                if self.dialect == Dialect::V1Long {
                    entry.content = v1_content(&hash, entry.size)?;
                }
            }
            Kind::Symlink => entry.target = extended.target()?,
            _ => {}
        }
        if kind != Kind::Regular && !size.text.is_empty() {
            size.size()?;
        }
        Ok(Long { entry, hash, fields })
    }

    /// The bytes that a field stands for.
    fn text<'a>(&self, field: Field<'a>) -> Result<Text<'a>, Problem> {
        let bytes = match self.dialect {
            Dialect::V2 => escape::decode(field.text, field.column)?,
            Dialect::V1Short | Dialect::V1Long => field.text.into(),
        };
        Ok(Text { field, bytes })
    }

    /// In v1 the type bits of `st_mode` may be there as well: the type field decides.
    fn perm(&self, field: &Field<'_>) -> Result<u16, Problem> {
        let max = if self.dialect == Dialect::V2 { 0o7777 } else { 0o177_777 };
        let octal = !field.text.is_empty() && field.text.iter().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = std::str::from_utf8(field.text).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
        match mode.filter(|mode| octal && *mode <= max).map(|mode| u16::try_from(mode & 0o7777)) {
            Some(Ok(perm)) => Ok(perm),
            _ => Err(field.bad(|text| Reason::Mode { text, max })),
        }
    }

    /// A name, or a number where there was no name. In v2 a name of digits has its first one escaped.
    fn owner(&self, field: Field<'_>) -> Result<Owner, Problem> {
        if field.text.is_empty() {
            Ok(Owner::default())
        } else if field.text.iter().all(u8::is_ascii_digit) {
            Ok(Owner { name: None, id: Some(field.id()?) })
        } else {
            let text = self.text(field)?;
            if text.bytes.contains(&0) {
                return Err(text.field.problem(Reason::OwnerNul));
            }
            Ok(Owner { name: Some(text.bytes.into_owned()), id: None })
        }
    }

    fn columns<'a>(&self, fields: Fields<'a>) -> Result<Columns<'a>, Problem> {
        let mut columns = Columns { link_column: 1, ..Columns::default() };
        for column in fields {
            let Some(equals) = memchr::memchr(b'=', column.text) else {
                return Err(column.bad(Reason::Column));
            };
            let (key, value) = (&column.text[..equals], column.part(equals + 1));
            let twice = match key {
                b"uid" => columns.uid.replace(value.id()?).is_some(),
                b"gid" => columns.gid.replace(value.id()?).is_some(),
                b"ukey" => !std::mem::replace(&mut columns.v1_keys.user, value.wrapped_key()?).is_empty(),
                b"skey" => !std::mem::replace(&mut columns.v1_keys.store, value.wrapped_key()?).is_empty(),
                b"link" => {
                    columns.link_column = value.column;
                    columns.link.replace(self.text(value)?.path()?).is_some()
                }
                b"data" => columns.data.replace((column, value.segments()?)).is_some(),
                b"obj" => columns.place("obj", column, Stored::Object(value.key()?))?,
                b"at" => columns.place("at", column, Stored::Chunk(self.place(value)?))?,
                b"chunks" => columns.place(
                    "chunks",
                    column,
                    Stored::Table(Table { sha256: [0; 32], length: 0, at: self.place(value)? }),
                )?,
                b"table" => columns.table.replace((column, value.table()?)).is_some(),
                [b'x', b'.', name @ ..] => {
                    let name = escape::decode(name, column.column + 2)?;
                    let twice = columns.xattrs.iter().any(|(known, _)| *known == *name);
                    columns.xattrs.push(xattr(&column, name, value)?);
                    twice
                }
                // What a newer aysfs may add.
                _ => false,
            };
            if twice {
                return Err(column.problem(Reason::ColumnTwice(shown(key))));
            }
        }
        Ok(columns)
    }

    fn place(&self, field: Field<'_>) -> Result<Place, Problem> {
        let mut numbers = field.text.split(|byte| *byte == b':').map(decimal);
        let parsed = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(pack)), Some(Some(offset)), Some(Some(stored)), None) => {
                u32::try_from(pack).ok().map(|pack| (pack, offset, stored))
            }
            _ => None,
        };
        let Some((number, offset, stored)) = parsed else { return Err(field.bad(Reason::Place)) };
        let Some(pack) = self.packs.get(&number) else {
            return Err(field.problem(Reason::UnknownPack(number)));
        };
        if stored == 0 || offset.checked_add(stored).is_none_or(|end| end > pack.bytes) {
            return Err(field.problem(Reason::OutsidePack { pack: number, bytes: pack.bytes }));
        }
        Ok(Place { pack: pack.key, offset, stored })
    }
}

/// What the fields of a v1 long or v2 line say, and what is left of it.
struct Long<'a> {
    entry: Entry,
    hash: Field<'a>,
    fields: Fields<'a>,
}

/// Where content is, before the hash is known to belong to it.
enum Stored {
    Object(crate::ObjectKey),
    Chunk(Place),
    /// Of which only the place is known before all columns are.
    Table(Table),
}

/// The `key=value` columns of a v2 line.
#[derive(Default)]
struct Columns<'a> {
    uid: Option<u32>,
    gid: Option<u32>,
    link: Option<Vec<u8>>,
    link_column: usize,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    v1_keys: V1Keys,
    data: Option<(Field<'a>, Vec<Range<u64>>)>,
    place: Option<(&'static str, Field<'a>, Stored)>,
    /// The length and the digest of a chunk table.
    table: Option<(Field<'a>, (u64, [u8; 32]))>,
}

impl<'a> Columns<'a> {
    /// Returns whether the same column was there already.
    fn place(&mut self, key: &'static str, column: Field<'a>, stored: Stored) -> Result<bool, Problem> {
        match self.place.replace((key, column, stored)) {
            Some((other, ..)) if other != key => Err(column.problem(Reason::TwoPlaces)),
            known => Ok(known.is_some()),
        }
    }

    fn complete(self, entry: &mut Entry, hash: Field<'_>) -> Result<(), Problem> {
        entry.user.id = self.uid.or(entry.user.id);
        entry.group.id = self.gid.or(entry.group.id);
        entry.xattrs = self.xattrs;
        entry.link = self.link;
        if entry.kind != Kind::Regular {
            return match (self.place, self.data, self.table) {
                (Some((key, column, _)), ..) => Err(column.problem(Reason::ColumnKind(key))),
                (_, Some((column, _)), _) => Err(column.problem(Reason::ColumnKind("data"))),
                (_, _, Some((column, _))) => Err(column.problem(Reason::ColumnKind("table"))),
                (None, None, None) => Ok(()),
            };
        }
        if let Some((column, segments)) = self.data {
            let mut end = None;
            for segment in &segments {
                if segment.is_empty()
                    || end.is_some_and(|end| segment.start < end)
                    || segment.end > entry.size
                {
                    return Err(column.problem(Reason::SegmentOrder));
                }
                end = Some(segment.end);
            }
            entry.data = Some(segments);
        }
        if self.place.is_none() && hash.text.len() == V1_DIGITS {
            entry.content = v1_content(&hash, entry.size)?;
            entry.take_keys(self.v1_keys);
            return Ok(());
        }
        let sha256 = if hash.text.is_empty() { None } else { Some(hash.digest::<32>()?) };
        let place = match (self.place, self.table) {
            (Some((_, _, Stored::Table(Table { at, .. }))), Some((_, (length, sha256)))) => {
                Some(Stored::Table(Table { sha256, length, at }))
            }
            (Some((_, column, Stored::Table(_))), None) | (_, Some((column, _))) => {
                return Err(column.problem(Reason::TableAlone));
            }
            (Some((_, column, Stored::Chunk(_))), None) if entry.size > MAX_CHUNK => {
                return Err(column.problem(Reason::ChunkTooLong(entry.size)));
            }
            (place, None) => place.map(|(_, _, stored)| stored),
        };
        entry.content = match (place, sha256) {
            (Some(Stored::Object(key)), Some(sha256)) => Some(Content::Object { sha256, key }),
            (Some(Stored::Chunk(at)), Some(sha256)) => Some(Content::Pack { sha256, at }),
            (Some(Stored::Table(table)), Some(sha256)) => Some(Content::Chunks { sha256, table }),
            (None, _) if entry.size == 0 || entry.link.is_some() => None,
            (_, None) => return Err(hash.problem(Reason::NoHash)),
            (None, Some(_)) => return Err(hash.problem(Reason::NoPlace)),
        };
        Ok(())
    }
}

impl Entry {
    /// Keeps the keys of an object, if it has one that they can be of.
    fn take_keys(&mut self, keys: V1Keys) {
        if let Some(Content::V1(_)) = self.content {
            self.v1_keys = keys;
        }
    }
}

/// The keys among the fields that v1 does not know.
fn v1_keys(fields: Fields<'_>) -> Result<V1Keys, Problem> {
    let mut keys = V1Keys::default();
    for field in fields {
        match field.text {
            [b'u', b'k', b'e', b'y', b'=', ..] => keys.user = field.part(5).wrapped_key()?,
            [b's', b'k', b'e', b'y', b'=', ..] => keys.store = field.part(5).wrapped_key()?,
            _ => {}
        }
    }
    Ok(keys)
}

fn short(line: &[u8]) -> Result<Entry, Problem> {
    let mut fields = Fields { line, next: Some(0) };
    let (Some([path, hash, size]), None) = (fields.leading(), fields.next) else {
        return Err(wrong_count(line, "exactly 3"));
    };
    let path = Text { bytes: path.text.into(), field: path }.path()?;
    let mut entry = Entry::new(path, Kind::Regular);
    entry.size = size.size()?;
    entry.content = v1_content(&hash, entry.size)?;
    Ok(entry)
}

fn v1_content(hash: &Field<'_>, size: u64) -> Result<Option<Content>, Problem> {
    match (hash.text, size) {
        ([], 0) => Ok(None),
        ([], _) => Err(hash.problem(Reason::NoHash)),
        _ => Ok(Some(Content::V1(hash.digest()?))),
    }
}

fn xattr(column: &Field<'_>, name: Cow<'_, [u8]>, value: Field<'_>) -> Result<(Vec<u8>, Vec<u8>), Problem> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
        return Err(column.problem(Reason::XattrName));
    }
    let bytes = STANDARD.decode(value.text).map_err(|_| value.problem(Reason::XattrBase64))?;
    if bytes.len() > MAX_XATTR {
        return Err(value.problem(Reason::XattrTooLong));
    }
    Ok((name.into_owned(), bytes))
}

fn wrong_count(line: &[u8], expected: &'static str) -> Problem {
    Problem { column: 1, reason: Reason::Fields { expected, found: count_fields(line) } }
}

/// How many fields a line has.
pub(crate) fn count_fields(line: &[u8]) -> usize {
    memchr::memchr_iter(b'|', line).count() + 1
}

/// The fields of a line, one after the other.
struct Fields<'a> {
    line: &'a [u8],
    /// Where the next one begins.
    next: Option<usize>,
}

impl<'a> Fields<'a> {
    fn leading<const N: usize>(&mut self) -> Option<[Field<'a>; N]> {
        let mut fields = [Field { text: &[], column: 0 }; N];
        for field in &mut fields {
            *field = self.next()?;
        }
        Some(fields)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let start = self.next?;
        let rest = &self.line[start..];
        let text = match memchr::memchr(b'|', rest) {
            Some(end) => {
                self.next = Some(start + end + 1);
                &rest[..end]
            }
            None => {
                self.next = None;
                rest
            }
        };
        Some(Field { text, column: start + 1 })
    }
}

/// A field as it is written, and where.
#[derive(Clone, Copy)]
struct Field<'a> {
    text: &'a [u8],
    column: usize,
}

impl<'a> Field<'a> {
    fn problem(&self, reason: Reason) -> Problem {
        Problem { column: self.column, reason }
    }

    fn bad(&self, reason: impl FnOnce(String) -> Reason) -> Problem {
        self.problem(reason(shown(self.text)))
    }

    /// The field from byte `start` on.
    fn part(&self, start: usize) -> Self {
        Self { text: &self.text[start..], column: self.column + start }
    }

    fn size(&self) -> Result<u64, Problem> {
        // The kernel counts file offsets as i64.
        decimal(self.text).filter(|size| i64::try_from(*size).is_ok()).ok_or_else(|| self.bad(Reason::Size))
    }

    fn id(&self) -> Result<u32, Problem> {
        decimal(self.text).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| self.bad(Reason::Id))
    }

    /// Hex digits of either case: old lists have both.
    fn digest<const N: usize>(&self) -> Result<[u8; N], Problem> {
        let mut digest = [0; N];
        match hex::decode_to_slice(self.text, &mut digest) {
            Ok(()) => Ok(digest),
            Err(_) => Err(self.bad(|text| Reason::Hash { text, digits: 2 * N })),
        }
    }

    fn key(&self) -> Result<crate::ObjectKey, Problem> {
        let key = std::str::from_utf8(self.text).ok().and_then(|text| text.parse().ok());
        key.ok_or_else(|| self.bad(Reason::Key))
    }

    fn table(&self) -> Result<(u64, [u8; 32]), Problem> {
        let table = || {
            let colon = memchr::memchr(b':', self.text)?;
            let mut sha256 = [0; 32];
            hex::decode_to_slice(&self.text[colon + 1..], &mut sha256).ok()?;
            Some((decimal(&self.text[..colon])?, sha256))
        };
        table().filter(|(length, _)| *length <= MAX_TABLE).ok_or_else(|| self.bad(Reason::Table))
    }

    fn wrapped_key(&self) -> Result<Vec<u8>, Problem> {
        let key = hex::decode(self.text).ok().filter(|key| key.len() <= MAX_WRAPPED_KEY);
        key.ok_or_else(|| self.problem(Reason::WrappedKey))
    }

    fn time(&self) -> Result<Timestamp, Problem> {
        parse_time(self.text).ok_or_else(|| self.bad(Reason::Time))
    }

    fn segments(&self) -> Result<Vec<Range<u64>>, Problem> {
        if self.text.is_empty() {
            return Ok(Vec::new());
        }
        let segment = |text: &[u8]| {
            let plus = memchr::memchr(b'+', text)?;
            let (start, length) = (decimal(&text[..plus])?, decimal(&text[plus + 1..])?);
            Some(start..start.checked_add(length)?)
        };
        let segments = self.text.split(|byte| *byte == b',').map(segment).collect::<Option<_>>();
        segments.ok_or_else(|| self.bad(Reason::Segments))
    }
}

/// A field, and the bytes that it stands for.
struct Text<'a> {
    field: Field<'a>,
    bytes: Cow<'a, [u8]>,
}

impl Text<'_> {
    fn path(self) -> Result<Vec<u8>, Problem> {
        match path::normalise(&self.bytes) {
            Ok(path) => Ok(path.to_vec()),
            Err(reason) => Err(self.field.problem(reason)),
        }
    }

    fn target(self) -> Result<Vec<u8>, Problem> {
        if self.bytes.is_empty() || self.bytes.len() > MAX_TARGET || self.bytes.contains(&0) {
            return Err(self.field.problem(Reason::Target));
        }
        Ok(self.bytes.into_owned())
    }

    fn device(&self) -> Result<(u32, u32), Problem> {
        let number = |text| decimal(text).and_then(|number| u32::try_from(number).ok());
        let comma = memchr::memchr(b',', &self.bytes);
        let device =
            comma.and_then(|comma| Some((number(&self.bytes[..comma])?, number(&self.bytes[comma + 1..])?)));
        device.ok_or_else(|| self.field.bad(Reason::Device))
    }
}

/// A number of digits only: no sign, no space.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds, and after a `.` up to nine digits of a second.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (secs, fraction) = match memchr::memchr(b'.', text) {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    };
    if !secs.strip_prefix(b"-").unwrap_or(secs).iter().all(u8::is_ascii_digit) {
        return None;
    }
    let secs = std::str::from_utf8(secs).ok()?.parse().ok()?;
    let nanos = match fraction {
        None => 0,
        Some(digits) if (1..=9).contains(&digits.len()) => {
            let missing = u32::try_from(9 - digits.len()).ok()?;
            u32::try_from(decimal(digits)? * 10_u64.pow(missing)).ok()?
        }
        Some(_) => return None,
    };
    Some(Timestamp { secs, nanos })
}
