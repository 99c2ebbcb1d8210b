//! Which content a copy stands for that has only the attributes.
//!
//! To the kernel's overlayfs that is whatever the base has at the path that the copy came from. But a base is replaced by
//! newer ones while the local changes stay: a file that was changed in any way, if only in its name, is to stay what it was,
//! as if all of it had been copied up. So a mark of ours tells the content too, and it is fetched although the base may have
//! forgotten it. It lies where overlayfs keeps its own marks, and shows neither there nor here.

use std::str;

use aysfs_store::{Check, Content, ContentId, Key, Part};

/// What is noted about a content; `None` if it takes more than a few bytes.
pub(super) fn to_mark(content: &Content) -> Option<String> {
    let (id, size) = (content.id, content.size);
    if let Some(table) = &content.table {
        return Some(format!("table {size} {id} {}", to_mark(table)?));
    }
    let [chunk] = &*content.chunks else { return None };
    match (chunk.check, &chunk.part) {
        (Check::V1(_), None) => Some(format!("v1 {size} {id}")),
        (Check::V1(_), Some(_)) => None,
        (Check::Sha256(_), None) => Some(format!("v2 {size} {id} {}", chunk.key)),
        (Check::Sha256(_), Some(Part { range, pack })) => {
            Some(format!("pack {size} {id} {} {pack} {} {}", chunk.key, range.start, range.end))
        }
    }
}

/// The content that a mark tells; `None` if it says nothing that this version understands.
pub(super) fn from_mark(mark: &[u8]) -> Option<Content> {
    let mut words = str::from_utf8(mark).ok()?.split(' ');
    let content = content(&mut words)?;
    words.next().is_none().then_some(content)
}

fn content(words: &mut std::str::Split<'_, char>) -> Option<Content> {
    let (kind, size) = (words.next()?, words.next()?.parse().ok()?);
    Some(match kind {
        "v1" => Content::v1(digest(words.next()?)?, size),
        "v2" => Content::object(digest(words.next()?)?, size, words.next()?.parse::<Key>().ok()?),
        "pack" => {
            let (sha256, key) = (digest(words.next()?)?, words.next()?.parse::<Key>().ok()?);
            let mut number = || words.next()?.parse::<u64>().ok();
            let (pack, range) = (number()?, number()?..number()?);
            (range.start < range.end && range.end <= pack).then_some(())?;
            Content::packed(sha256, size, key, Part { range, pack })
        }
        "table" => {
            let sha256 = digest(words.next()?)?;
            let table = content(words)?;
            (table.table.is_none() && matches!(table.id, ContentId::Sha256(_))).then_some(())?;
            Content::listed(sha256, size, table)
        }
        _ => return None,
    })
}

/// Whether two are the same, wherever they are fetched from.
pub(super) fn is_same(one: &Content, other: &Content) -> bool {
    (one.id, one.size) == (other.id, other.size)
}

fn digest<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut digest = [0; LENGTH];
    hex::decode_to_slice(text, &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Content {
        Content::packed([5; 32], 9, Key::sha256([6; 32]), Part { range: 10..20, pack: 1 << 24 })
    }

    #[test]
    fn a_mark_tells_the_content_again() {
        let contents = [
            Content::v1([1; 16], 5),
            Content::object([2; 32], 1 << 40, Key::sha256([3; 32])),
            Content::object([4; 32], 1, Key::md5([5; 16])),
            packed(),
            Content::listed([7; 32], 1 << 40, packed()),
        ];
        for content in contents {
            let mark = to_mark(&content).expect("one object");
            let read = from_mark(mark.as_bytes()).expect("just written");
            assert!(is_same(&content, &read));
            assert_eq!(content.chunks, read.chunks);
            assert_eq!(
                content.table.map(|table| table.chunks.clone()),
                read.table.map(|table| table.chunks.clone())
            );
        }
    }

    #[test]
    fn a_mark_that_makes_no_sense_tells_nothing() {
        for mark in [
            "",
            "pack 5 00",
            "table 5 00 v1",
            "v1",
            "v1 5",
            "v1 5 zz",
            "v3 5 00",
            "v1 -1 01010101010101010101010101010101",
            "v1 5 0101",
        ] {
            assert!(from_mark(mark.as_bytes()).is_none(), "{mark}");
        }
        assert!(from_mark(b"v1 5 01010101010101010101010101010101 more").is_none());
        assert!(from_mark(b"v1 5 \xff").is_none());
    }
}
