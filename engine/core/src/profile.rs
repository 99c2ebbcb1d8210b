//! Start-up profiles: which content is read first from a mount, and in which order.
//!
//! One is recorded from a mount where the application starts, and tells `pack` what to put into the start pack. It names paths, not
//! content, so it serves for the next version too.
//!
//! ```text
//! # aysfs-profile 1
//! 0+1832 usr/lib/python3/os.py
//! 1048576+131072 usr/lib/libpython3.so
//! ```
//!
//! Each line is `offset+length path`: paths without a leading `/`, escaped as in a v2 flist, and in the order of the first read. A whole
//! file is `0+` its size.

use std::io::{self, Write};
use std::ops::Range;

use aysfs_flist::{escaped, unescaped};

/// The first line.
const SIGNATURE: &[u8] = b"# aysfs-profile 1";

/// What is read first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// In the order of the first read.
    pub reads: Vec<FirstRead>,
}

/// A part of a file that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRead {
    /// Where the file is, without a leading `/`.
    pub path: Vec<u8>,
    /// Not empty.
    pub range: Range<u64>,
}

/// Why a profile is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Not the first line of a profile.
    #[error("it is no profile that this version of aysfs can read: record one with aysfs profile record")]
    Format,
    /// Not `offset+length path`.
    #[error("line {0} is not `offset+length path`: record the profile again")]
    Line(usize),
}

impl Profile {
    /// Reads a profile; empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn parse(text: &[u8]) -> Result<Self, ProfileError> {
        let mut lines = text.split(|byte| *byte == b'\n').enumerate();
        if lines.next().is_none_or(|(_, first)| first.trim_ascii_end() != SIGNATURE) {
            return Err(ProfileError::Format);
        }
        let says_something = |line: &[u8]| !line.is_empty() && !line.starts_with(b"#");
        let lines = lines.filter(|(_, line)| says_something(line));
        let reads = lines.map(|(at, line)| FirstRead::parse(line).ok_or(ProfileError::Line(at + 1)));
        Ok(Self { reads: reads.collect::<Result<_, _>>()? })
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(SIGNATURE)?;
        out.write_all(b"\n")?;
        for FirstRead { path, range } in &self.reads {
            write!(out, "{}+{} ", range.start, range.end - range.start)?;
            out.write_all(&escaped(path))?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

impl FirstRead {
    fn parse(line: &[u8]) -> Option<Self> {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let (offset, length) = std::str::from_utf8(&line[..space]).ok()?.split_once('+')?;
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| is_plain)
        };
        let (start, length) = (number(offset)?, number(length).filter(|length| *length > 0)?);
        let path = unescaped(&line[space + 1..])?.into_owned();
        (!path.is_empty()).then_some(())?;
        Some(Self { path, range: start..start.checked_add(length)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(profile: &Profile) -> Vec<u8> {
        let mut text = Vec::new();
        profile.write(&mut text).expect("memory");
        text
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            reads in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..20), any::<u32>(), 1..u32::MAX), 0..20)
        ) {
            let reads = reads.into_iter().map(|(path, start, length)| {
                let start = u64::from(start);
                FirstRead { path, range: start..start + u64::from(length) }
            });
            let profile = Profile { reads: reads.collect() };
            prop_assert_eq!(Profile::parse(&written(&profile)), Ok(profile));
        }
    }

    #[test]
    fn the_text_is_as_documented() {
        let text = b"# aysfs-profile 1\n0+5 a b%0A\n\n# a remark\n7+1 c\n";
        let read = |path: &[u8], range| FirstRead { path: path.into(), range };
        let profile = Profile { reads: vec![read(b"a b\n", 0..5), read(b"c", 7..8)] };
        assert_eq!(Profile::parse(text), Ok(profile.clone()));
        assert_eq!(written(&profile), b"# aysfs-profile 1\n0+5 a b%0A\n7+1 c\n");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Profile::parse(b""), Err(ProfileError::Format));
        assert_eq!(Profile::parse(b"# aysfs-profile 2\n"), Err(ProfileError::Format));
        for line in ["0+0 a", "0+1", "0+1 ", "1 a", "-1+1 a", "0++1 a", "18446744073709551615+1 a", "0+1 %zz"]
        {
            let text = format!("# aysfs-profile 1\n0+1 good\n{line}\n");
            assert_eq!(Profile::parse(text.as_bytes()), Err(ProfileError::Line(3)), "{line}");
        }
    }
}
