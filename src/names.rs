//! Names of files as text: readable, on one line, and without loss.

/// A path or a name of any bytes. A backslash begins an escape: of a character that cannot be seen, of a backslash, and
/// (`\xff`) of a byte that is not UTF-8.
pub(crate) fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// What somebody else says is [`shown`]: the same if it is; if it is not, nothing in it changes how a terminal behaves.
pub(crate) fn harmless(said: &str) -> String {
    let mut text = String::with_capacity(said.len());
    for c in said.chars() {
        match c {
            '"' | '\'' | '\\' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_stays_as_it_is_and_what_is_not_does_no_harm() {
        let name = "a b\"c'\u{e4}\u{301}\n\x1b[0m\\".as_bytes();
        assert_eq!(harmless(&shown(name)), shown(name));
        assert_eq!(
            harmless("/a\n\x1b]0;title\x07\u{9b}2J\u{202e}"),
            r"/a\n\u{1b}]0;title\u{7}\u{9b}2J\u{202e}"
        );
    }

    #[test]
    fn names_are_readable_and_lose_nothing() {
        for (name, text) in [
            (&b"a b\"c'"[..], "a b\"c'"),
            ("\u{e4}\u{4e16}".as_bytes(), "\u{e4}\u{4e16}"),
            (b"new\nline\ttab\x1b[0m", "new\\nline\\ttab\\u{1b}[0m"),
            (b"back\\slash", "back\\\\slash"),
            (b"not \xff\xfe utf-8 \xc3", "not \\xff\\xfe utf-8 \\xc3"),
        ] {
            assert_eq!(shown(name), text);
        }
    }
}
