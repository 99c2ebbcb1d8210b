//! Which content a copy stands for that has only the attributes.
//!
//! To the kernel's overlayfs that is whatever the base has at the path that the copy came from. But a base is replaced by
//! newer ones while the local changes stay: a file that was changed in any way, if only in its name, is to stay what it was,
//! as if all of it had been copied up. So a mark of ours tells the content too, and it is fetched although the base may have
//! forgotten it. It lies where overlayfs keeps its own marks, and shows neither there nor here.

use std::str;

use aysfs_store::{Check, Content, Key};

/// What is noted about a content; `None` if it takes more than a few bytes.
pub(super) fn to_mark(content: &Content) -> Option<String> {
    let [chunk] = &*content.chunks else { return None };
    let (id, size) = (content.id, content.size);
    match chunk.check {
        _ if chunk.range.is_some() => None,
        Check::V1(_) => Some(format!("v1 {size} {id}")),
        Check::Sha256(_) => Some(format!("v2 {size} {id} {}", chunk.key)),
    }
}

/// The content that a mark tells; `None` if it says nothing that this version understands.
pub(super) fn from_mark(mark: &[u8]) -> Option<Content> {
    let mut words = str::from_utf8(mark).ok()?.split(' ');
    let (version, size) = (words.next()?, words.next()?.parse().ok()?);
    let content = match version {
        "v1" => Content::v1(digest(words.next()?)?, size),
        "v2" => Content::object(digest(words.next()?)?, size, words.next()?.parse::<Key>().ok()?),
        _ => return None,
    };
    words.next().is_none().then_some(content)
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

    #[test]
    fn a_mark_tells_the_content_again() {
        let contents = [
            Content::v1([1; 16], 5),
            Content::object([2; 32], 1 << 40, Key::sha256([3; 32])),
            Content::object([4; 32], 1, Key::md5([5; 16])),
        ];
        for content in contents {
            let mark = to_mark(&content).expect("one object");
            let read = from_mark(mark.as_bytes()).expect("just written");
            assert!(is_same(&content, &read));
            assert_eq!(content.chunks, read.chunks);
        }
    }

    #[test]
    fn a_mark_that_makes_no_sense_tells_nothing() {
        for mark in
            ["", "v1", "v1 5", "v1 5 zz", "v3 5 00", "v1 -1 01010101010101010101010101010101", "v1 5 0101"]
        {
            assert!(from_mark(mark.as_bytes()).is_none(), "{mark}");
        }
        assert!(from_mark(b"v1 5 01010101010101010101010101010101 more").is_none());
        assert!(from_mark(b"v1 5 \xff").is_none());
    }
}
