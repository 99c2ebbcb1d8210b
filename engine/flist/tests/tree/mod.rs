//! Arbitrary trees that a v2 list can hold.

use std::collections::HashSet;
use std::ops::Range;

use aysfs_flist::{
    Ancestor, Content, Entry, Header, Kind, MAX_CHUNK, MAX_TABLE, ObjectKey, Owner, Pack, Place, Table,
    Timestamp, V1Keys,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// A header, and the entries of a tree below it: parents are not always listed, and come before what they hold
/// if they are.
pub(crate) fn list() -> impl Strategy<Value = (Header, Vec<Entry>)> {
    (header(), vec((any::<prop::sample::Index>(), name(), entry()), 0..40)).prop_map(|(header, drafts)| {
        let mut entries: Vec<Entry> = Vec::new();
        let mut paths = HashSet::new();
        for (pick, name, mut entry) in drafts {
            // Below an earlier directory, or (one in as many) below the root.
            let directories: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Directory).collect();
            let at = pick.index(directories.len() + 1);
            entry.path = match directories.get(at) {
                Some(parent) if !parent.path.is_empty() => [&parent.path[..], b"/", &name[..]].concat(),
                _ => name,
            };
            let places = |content| match content {
                Some(Content::Pack { at, .. } | Content::Chunks { table: Table { at, .. }, .. }) => {
                    Some(at.pack)
                }
                _ => None,
            };
            if places(entry.content).is_some_and(|key| !header.packs.iter().any(|pack| pack.key == key)) {
                continue;
            }
            if entry.link.take().is_some() && entry.kind != Kind::Directory {
                let files: Vec<_> = entries.iter().filter(|entry| entry.kind != Kind::Directory).collect();
                entry.link = files.get(pick.index(files.len().max(1))).map(|file| file.path.clone());
            }
            if entry.kind == Kind::Regular
                && entry.size > 0
                && entry.content.is_none()
                && entry.link.is_none()
            {
                continue;
            }
            if paths.insert(entry.path.clone()) {
                entries.push(entry);
            }
        }
        (header, entries)
    })
}

fn header() -> impl Strategy<Value = Header> {
    let packs = prop::sample::subsequence((0..4).map(pack_key).collect::<Vec<_>>(), 0..=4);
    let packs = packs.prop_flat_map(|packs| {
        let start = prop::sample::subsequence(packs.clone(), 0..=packs.len()).prop_shuffle();
        (Just(packs).prop_shuffle(), start)
    });
    let moved = vec((name(), name()), 0..3);
    let ancestors = vec((any::<[u8; 32]>(), moved), 0..3);
    let texts = (option::of(any::<String>()), option::of(any::<String>()));
    (texts, any::<Option<u64>>(), packs, ancestors).prop_map(
        |((name, created), version, (packs, start), ancestors)| Header {
            name,
            version,
            created,
            packs: packs.into_iter().map(|key| Pack { key, bytes: u64::MAX }).collect(),
            start,
            ancestors: ancestors.into_iter().map(|(sha256, moved)| Ancestor { sha256, moved }).collect(),
        },
    )
}

/// Few different packs; one that was named by the stor.
fn pack_key(number: u8) -> ObjectKey {
    if number == 0 { ObjectKey::Md5([0; 16]) } else { ObjectKey::Sha256([number; 32]) }
}

/// Few different names, so that some entries share a parent, and all kinds of bytes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c#|%=~]{1,3}".prop_map(String::into_bytes),
        vec(1..=255_u8, 1..12),
        "\\PC{1,40}".prop_map(String::into_bytes),
    ]
    .prop_filter("a name", |name| {
        !name.contains(&b'/') && !matches!(&name[..], b"." | b"..") && (1..=255).contains(&name.len())
    })
}

fn text(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255_u8, 1..longest)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Regular),
        4 => Just(Kind::Directory),
        1 => Just(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ]
}

fn owner() -> impl Strategy<Value = Owner> {
    let name = prop_oneof![text(10), "[0-9]{1,12}".prop_map(String::into_bytes)];
    (option::of(name), any::<Option<u32>>()).prop_map(|(name, id)| Owner { name, id })
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
}

fn place() -> impl Strategy<Value = Place> {
    (0..4_u8, 0..u64::MAX / 2, 1..u64::MAX / 2).prop_map(|(pack, offset, stored)| Place {
        pack: pack_key(pack),
        offset,
        stored,
    })
}

fn table() -> impl Strategy<Value = Table> {
    (any::<[u8; 32]>(), 0..=MAX_TABLE, place()).prop_map(|(sha256, length, at)| Table { sha256, length, at })
}

fn content() -> impl Strategy<Value = Content> {
    let key = prop_oneof![
        any::<[u8; 16]>().prop_map(ObjectKey::Md5),
        any::<[u8; 32]>().prop_map(ObjectKey::Sha256),
    ];
    prop_oneof![
        (any::<[u8; 32]>(), key).prop_map(|(sha256, key)| Content::Object { sha256, key }),
        any::<[u8; 16]>().prop_map(Content::V1),
        (any::<[u8; 32]>(), place()).prop_map(|(sha256, at)| Content::Pack { sha256, at }),
        (any::<[u8; 32]>(), table()).prop_map(|(sha256, table)| Content::Chunks { sha256, table }),
    ]
}

/// Segments of a file of this size: some of the pieces between some cuts.
fn segments(size: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
    vec((0..=size, any::<bool>()), 0..6).prop_map(|mut cuts| {
        cuts.sort_unstable();
        let pieces = cuts.windows(2).filter(|pair| pair[0].1 && pair[0].0 < pair[1].0);
        pieces.map(|pair| pair[0].0..pair[1].0).collect()
    })
}

/// An entry without a path; a link to something is yet to be found.
fn entry() -> impl Strategy<Value = Entry> {
    let sizes = prop_oneof![Just(0), 0..=9223372036854775807_u64];
    let regular = sizes.prop_flat_map(|size| {
        (Just(size), option::weighted(0.9, content()), option::weighted(0.3, segments(size)))
    });
    let xattrs = prop::collection::btree_map(text(20), vec(any::<u8>(), 0..40), 0..3);
    let link = option::weighted(0.2, Just(Vec::new()));
    let keys = (vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20));
    let keys = keys.prop_map(|(user, store)| V1Keys { user, store });
    let times = (time(), time());
    (kind(), 0..=0o7777_u16, owner(), owner(), times, regular, keys, text(30), xattrs, link).prop_map(
        |(kind, perm, user, group, (mtime, ctime), (size, content, data), keys, target, xattrs, link)| {
            let mut entry = Entry::new("", kind);
            (entry.perm, entry.user, entry.group, entry.mtime, entry.ctime) =
                (perm, user, group, mtime, ctime);
            match kind {
                Kind::Regular => {
                    // What is one chunk of a pack is not large.
                    let is_too_large = size > MAX_CHUNK && matches!(content, Some(Content::Pack { .. }));
                    let (size, data) = if is_too_large { (size % MAX_CHUNK, None) } else { (size, data) };
                    (entry.size, entry.content, entry.data) = (size, content, data);
                    if let Some(Content::V1(_)) = content {
                        entry.v1_keys = keys;
                    }
                }
                Kind::Symlink => entry.target = target,
                _ => {}
            }
            entry.xattrs = xattrs.into_iter().collect();
            entry.link = link;
            entry
        },
    )
}
