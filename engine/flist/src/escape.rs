//! Percent-encoding of v2: every field survives whatever bytes it holds, and stays readable otherwise.

use std::borrow::Cow;

use crate::error::{Problem, Reason, shown};

/// Whether v2 never writes this byte as it is.
fn is_special(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'%' | b'|')
}

/// A path as v2 writes it, for other lines of text that hold paths.
pub fn escaped(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    encode(path, b"", &mut text);
    text
}

/// The path that such a text stands for.
pub fn unescaped(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    decode(text, 1).ok()
}

/// Appends `text`, with the special bytes and those of `also` encoded.
pub(crate) fn encode(text: &[u8], also: &[u8], line: &mut Vec<u8>) {
    for &byte in text {
        if is_special(byte) || also.contains(&byte) {
            encode_byte(byte, line);
        } else {
            line.push(byte);
        }
    }
}

/// Appends one byte, encoded.
pub(crate) fn encode_byte(byte: u8, line: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    line.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// The bytes that `text` stands for; `column` is where it begins in its line.
pub(crate) fn decode(text: &[u8], column: usize) -> Result<Cow<'_, [u8]>, Problem> {
    let Some(first) = memchr::memchr(b'%', text) else { return Ok(text.into()) };
    let mut decoded = text[..first].to_vec();
    let mut at = first;
    while let Some(&byte) = text.get(at) {
        if byte == b'%' {
            let digits = text.get(at + 1..at + 3).unwrap_or(&text[at + 1..]);
            let mut byte = [0];
            if hex::decode_to_slice(digits, &mut byte).is_err() {
                let reason = Reason::Escape(shown(&[b"%", digits].concat()));
                return Err(Problem { column: column + at, reason });
            }
            decoded.extend(byte);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    Ok(decoded.into())
}

/// Refuses a line with control bytes: in v2 each of them is written as an escape.
pub(crate) fn refuse_controls(line: &[u8]) -> Result<(), Problem> {
    match line.iter().position(u8::is_ascii_control) {
        Some(at) => Err(Problem { column: at + 1, reason: Reason::Control(line[at]) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_special_bytes_are_encoded() {
        let mut line = Vec::new();
        encode("ä b|c%\n\u{7f}=".as_bytes(), b"=", &mut line);
        assert_eq!(line, "ä b%7Cc%25%0A%7F%3D".as_bytes());
    }

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        let mut line = Vec::new();
        encode(&all, b"#", &mut line);
        assert_eq!(decode(&line, 1).expect("valid"), all);
        assert_eq!(refuse_controls(&line), Ok(()));
    }

    #[test]
    fn a_bad_escape_is_named_with_its_column() {
        for (text, column, named) in
            [("ab%zz", 13, "%zz"), ("%4", 11, "%4"), ("a%41%", 15, "%"), ("%+1", 11, "%+1")]
        {
            let problem = decode(text.as_bytes(), 11).expect_err("bad");
            assert_eq!(problem, Problem { column, reason: Reason::Escape(named.into()) });
        }
    }
}
