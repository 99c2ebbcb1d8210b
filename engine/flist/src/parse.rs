//! A list from its first byte to its last: lines are parsed on all cores, checked in order, all or nothing.

use std::io::Read;
use std::path::PathBuf;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::entry::{Dialect, Entry, Header, TimeOrder};
use crate::error::{FlistError, Problem, Reason};
use crate::header::{self, HeaderParser, Packs};
use crate::limits::MAX_LINE;
use crate::line::{Line, LineParser};
use crate::path::Trim;
use crate::source::{Blocks, Source, decompressed};
use crate::tree::Tree;

/// How a list is to be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ParseOptions {
    /// Take this prefix from every path, by whole components, after `trim_base`.
    ///
    /// A path outside of it stays as it is. The directory of this name becomes the root; directories that only
    /// lead to it are left out (and made again, 0755 root, where a path outside needs them).
    pub trim: Option<PathBuf>,
    /// The mount path, taken away in the same way.
    pub trim_base: Option<PathBuf>,
    /// Which time field of v1 long is which.
    pub times: Times,
}

/// What to believe about the two time fields of v1 long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Times {
    /// A ctime is hardly ever before its mtime: if the first field is less than the second on most of the lines
    /// where they differ, they are swapped.
    #[default]
    Auto,
    /// As specified: ctime, then mtime.
    Spec,
    /// As known builders wrote it: mtime, then ctime.
    Swapped,
}

impl ParseOptions {
    pub(crate) fn prefixes(&self) -> Trim {
        Trim::new([&self.trim_base, &self.trim].into_iter().flatten().map(PathBuf::as_path))
    }
}

/// A list in memory, in the order of its lines.
///
/// For tools and tests; a mount uses the [`Index`](crate::Index), which takes a fraction of the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flist {
    /// How it is written.
    pub dialect: Dialect,
    /// What it says about itself.
    pub header: Header,
    /// How the times of its lines were read.
    pub times: TimeOrder,
    /// What it lists.
    pub entries: Vec<Entry>,
}

impl Flist {
    /// Parses a list, and checks it as a whole.
    ///
    /// # Errors
    /// The first line that breaks a rule, or why the list cannot be read.
    pub fn parse<'a>(source: impl Into<Source<'a>>, options: &ParseOptions) -> Result<Self, FlistError> {
        let source = source.into();
        let file = source.name();
        let raw = source.open().map_err(|error| FlistError::Read { file: file.clone(), error })?;
        let mut tree = Tree::new();
        let mut entries = Vec::new();
        let scanned = scan(&file, raw, options, |line| {
            tree.add(&line)?;
            entries.push(line.entry);
            Ok(())
        })?;
        if scanned.times == TimeOrder::Swapped {
            for entry in &mut entries {
                std::mem::swap(&mut entry.mtime, &mut entry.ctime);
            }
        }
        Ok(Self { dialect: scanned.dialect, header: scanned.header, times: scanned.times, entries })
    }
}

/// What is known about a list when all its lines have been seen.
pub(crate) struct Scanned {
    pub(crate) dialect: Dialect,
    pub(crate) header: Header,
    /// How the times are to be read: entries carry them as if this were [`TimeOrder::Spec`].
    pub(crate) times: TimeOrder,
}

/// Parses all lines and gives them to `sink`, in order.
pub(crate) fn scan(
    file: &str,
    raw: impl Read + Send,
    options: &ParseOptions,
    mut sink: impl FnMut(Line) -> Result<(), Problem>,
) -> Result<Scanned, FlistError> {
    let unreadable = |error| FlistError::Read { file: file.to_owned(), error };
    let bad =
        |line, Problem { column, reason }| FlistError::Line { file: file.to_owned(), line, column, reason };
    let trim = options.prefixes();
    let mut blocks = Blocks::new(decompressed(raw).map_err(unreadable)?);
    let mut times = TimeVotes::default();
    let mut stage = Stage::Start;
    let mut number = 0;
    let mut is_ended = false;

    let mut next = blocks.next().map_err(unreadable)?;
    while let Some(block) = next {
        let mut lines = Vec::new();
        is_ended = block.ends_with(b"\n");
        // Comes after the problems of the lines before it.
        let mut problem = None;
        for line in block.strip_suffix(b"\n").unwrap_or(&block).split(|byte| *byte == b'\n') {
            number += 1;
            match stage.take(line) {
                Ok(line) => lines.extend(line.map(|line| (number, line))),
                Err(found) => {
                    problem = Some(bad(number, found));
                    break;
                }
            }
        }
        let (parsed, following) = rayon::join(
            || {
                let Stage::Entries { dialect, ref packs, .. } = stage else { return Vec::new() };
                let parser = LineParser { dialect, packs, trim: &trim };
                let parse = |(number, line): &(u64, &[u8])| (*number, parser.parse(*number, line));
                lines.par_iter().map(parse).collect()
            },
            || blocks.next(),
        );
        for (number, line) in parsed {
            let Some(line) = line.map_err(|problem| bad(number, problem))? else { continue };
            times.count(&line.entry);
            sink(line).map_err(|problem| bad(number, problem))?;
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
        next = following.map_err(unreadable)?;
    }

    let (dialect, header) = match stage {
        Stage::Start => return Err(FlistError::Empty { file: file.to_owned() }),
        Stage::Header { header, .. } => (Dialect::V2, header.finish().0),
        Stage::Entries { dialect, header, .. } => (dialect, header),
    };
    if !is_ended {
        if dialect == Dialect::V2 {
            return Err(FlistError::Cut { file: file.to_owned() });
        }
        tracing::warn!(
            "{file}: the last line does not end: if the flist was cut short, part of the tree is missing"
        );
    }
    let times = match options.times {
        _ if dialect != Dialect::V1Long => TimeOrder::Spec,
        Times::Auto => times.decide(),
        Times::Spec => TimeOrder::Spec,
        Times::Swapped => TimeOrder::Swapped,
    };
    Ok(Scanned { dialect, header, times })
}

/// How far into a list a line is.
enum Stage {
    /// Before the first line.
    Start,
    /// In the header of v2.
    Header { header: HeaderParser, ends: LineEnds },
    /// Among the entries.
    Entries { dialect: Dialect, header: Header, packs: Packs, ends: LineEnds },
}

/// How lines end: as the first one does.
#[derive(Clone, Copy)]
enum LineEnds {
    Lf,
    CrLf,
}

impl LineEnds {
    fn strip(self, line: &[u8]) -> &[u8] {
        match self {
            Self::Lf => line,
            Self::CrLf => line.strip_suffix(b"\r").unwrap_or(line),
        }
    }
}

impl Stage {
    /// Takes the next line; returns it if it is an entry. Empty lines are skipped.
    fn take<'a>(&mut self, line: &'a [u8]) -> Result<Option<&'a [u8]>, Problem> {
        if line.len() > MAX_LINE {
            return Err(Problem { column: MAX_LINE + 1, reason: Reason::LineTooLong });
        }
        match self {
            Self::Start => {
                let ends = if line.ends_with(b"\r") { LineEnds::CrLf } else { LineEnds::Lf };
                let line = ends.strip(line);
                if line.is_empty() {
                    return Ok(None);
                }
                let dialect = header::dialect(line)?;
                if dialect == Dialect::V2 {
                    *self = Self::Header { header: HeaderParser::default(), ends };
                    return Ok(None);
                }
                *self = Self::Entries { dialect, header: Header::default(), packs: Packs::new(), ends };
                Ok(Some(line))
            }
            Self::Header { header, ends } => {
                let (line, ends) = (ends.strip(line), *ends);
                if line.is_empty() {
                    return Ok(None);
                }
                if line.starts_with(b"#") {
                    header.line(line)?;
                    return Ok(None);
                }
                let (header, packs) = std::mem::take(header).finish();
                *self = Self::Entries { dialect: Dialect::V2, header, packs, ends };
                Ok(Some(line))
            }
            Self::Entries { dialect, ends, .. } => {
                let line = ends.strip(line);
                if *dialect == Dialect::V2 && line.starts_with(b"#") {
                    return Err(Problem { column: 1, reason: Reason::LateHeader });
                }
                Ok(Some(line).filter(|line| !line.is_empty()))
            }
        }
    }
}

/// How often each of two different times was the earlier one.
#[derive(Default)]
struct TimeVotes {
    first: u64,
    second: u64,
}

impl TimeVotes {
    fn count(&mut self, entry: &Entry) {
        // As parsed, the first field is the ctime.
        match entry.ctime.cmp(&entry.mtime) {
            std::cmp::Ordering::Less => self.first += 1,
            std::cmp::Ordering::Greater => self.second += 1,
            std::cmp::Ordering::Equal => {}
        }
    }

    fn decide(&self) -> TimeOrder {
        if self.first > self.second { TimeOrder::Swapped } else { TimeOrder::Spec }
    }
}
