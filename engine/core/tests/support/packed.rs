//! What packed lists say, followed by hand: places in packs, and chunk tables, without a cache in between.

use std::ops::Range;

use aysfs_flist::{Content, Dialect, Entry, Flist, Kind, ObjectKey, ParseOptions, Place, Source};
use aysfs_store::codec::decode_chunk;
use aysfs_store::crypt::Secret;
use aysfs_store::{Check, Chunk, Key, Part, Store, table};
use futures::TryStreamExt;

pub fn parse(list: &[u8]) -> Flist {
    Flist::parse(Source::Bytes { name: "packed", bytes: list }, &ParseOptions::default())
        .expect("a good list")
}

pub fn entry<'a>(flist: &'a Flist, path: &str) -> &'a Entry {
    let found = flist.entries.iter().find(|entry| entry.path == path.as_bytes());
    found.unwrap_or_else(|| panic!("{path} is not listed"))
}

pub fn store_key(key: ObjectKey) -> Key {
    key.to_string().parse().expect("a key")
}

async fn bytes(stor: &dyn Store, key: &Key, range: Range<u64>) -> Vec<u8> {
    let body = stor.get(key, Some(range)).await.expect("it is there");
    body.stream.try_collect::<Vec<_>>().await.expect("it arrives").concat()
}

async fn chunk(stor: &dyn Store, chunk: &Chunk, secret: Option<&Secret>) -> Vec<u8> {
    let (Check::Sha256(id), Some(Part { range, .. })) = (chunk.check, &chunk.part) else {
        panic!("{chunk:?} is not part of a pack")
    };
    let (stored, mut plain) = (bytes(stor, &chunk.key, range.clone()).await, Vec::new());
    decode_chunk(id, chunk.length(), secret, &stored[..], &mut plain).expect("the right bytes");
    plain
}

fn at(flist: &Flist, sha256: [u8; 32], length: u64, at: Place) -> Chunk {
    let pack = flist.header.packs.iter().find(|pack| pack.key == at.pack).expect("the header names it");
    let part = Some(Part { range: at.offset..at.offset + at.stored, pack: pack.bytes });
    Chunk { plain: 0..length, check: Check::Sha256(sha256), key: store_key(at.pack), part }
}

/// The chunks of a file, all of them in packs that the header names.
pub async fn chunks_of(
    stor: &dyn Store,
    flist: &Flist,
    entry: &Entry,
    secret: Option<&Secret>,
) -> Vec<Chunk> {
    match entry.content {
        None => Vec::new(),
        Some(Content::Pack { sha256, at: place }) => vec![at(flist, sha256, entry.size, place)],
        Some(Content::Chunks { table, .. }) => {
            let found = at(flist, table.sha256, table.length, table.at);
            let chunks = table::read(&chunk(stor, &found, secret).await, entry.size).expect("a good table");
            for chunk in &*chunks {
                let is_named = flist.header.packs.iter().any(|pack| store_key(pack.key) == chunk.key);
                assert!(is_named, "the header does not name {}", chunk.key);
            }
            chunks.to_vec()
        }
        ref other => panic!("{other:?} is not in packs"),
    }
}

/// The plain bytes of a file.
pub async fn content_of(stor: &dyn Store, flist: &Flist, entry: &Entry, secret: Option<&Secret>) -> Vec<u8> {
    let mut plain = Vec::new();
    for found in chunks_of(stor, flist, entry, secret).await {
        assert_eq!(found.plain.start, plain.len() as u64, "no gaps");
        plain.extend(chunk(stor, &found, secret).await);
    }
    assert_eq!(plain.len() as u64, entry.size);
    plain
}

/// Compares all regular files of a list with a directory.
pub async fn assert_holds(stor: &dyn Store, list: &[u8], root: &std::path::Path, secret: Option<&Secret>) {
    let flist = parse(list);
    assert_eq!(flist.dialect, Dialect::V2);
    for entry in flist.entries.iter().filter(|entry| entry.kind == Kind::Regular) {
        let path = root.join(std::str::from_utf8(&entry.path).expect("a name of ours"));
        let expected = std::fs::read(&path).expect("readable");
        assert!(content_of(stor, &flist, entry, secret).await == expected, "{}", path.display());
    }
}
