//! What a flist says of content, as the cache has to know it, and back.

use std::collections::{HashMap, HashSet};

use aysfs_flist::{Content as Listed, Entry, Header, ObjectKey, Pack, Place, Table};
use aysfs_store::{Check, Chunk, Content, ContentId, Key, Part};

/// The packs that content is in, and how long they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packs(HashMap<ObjectKey, (Key, u64)>);

impl Packs {
    /// Those of a flist.
    pub(crate) fn of(header: &Header) -> Self {
        header.packs.iter().map(|pack| (pack.key, (key(pack.key), pack.bytes))).collect()
    }

    /// Adds those that a content is in, as far as it tells.
    pub(crate) fn note(&mut self, content: &Content) {
        let table = content.table.iter().flat_map(|table| table.chunks.iter());
        for Chunk { key, part, .. } in content.chunks.iter().chain(table) {
            if let (Some(part), Ok(known)) = (part, key.as_str().parse()) {
                self.0.entry(known).or_insert_with(|| (key.clone(), part.pack));
            }
        }
    }

    /// Adds those of others.
    pub(crate) fn extend(&mut self, others: impl IntoIterator<Item = Pack>) {
        self.0.extend(others.into_iter().map(|pack| (pack.key, (key(pack.key), pack.bytes))));
    }

    /// The key of a pack, and its length; `None` if it is not one of them.
    pub(crate) fn get(&self, pack: &ObjectKey) -> Option<&(Key, u64)> {
        self.0.get(pack)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Pack> {
        self.0.iter().map(|(key, (_, bytes))| Pack { key: *key, bytes: *bytes })
    }

    /// Those of them that a list has to name, in the order in which it uses them. Which packs a chunk table names is not known here:
    /// `in_tables` are those that one may.
    pub(crate) fn of_uses(&self, uses: &Uses, in_tables: impl IntoIterator<Item = Pack>) -> Vec<Pack> {
        let mut named = uses.named.clone();
        let bytes = |at: &Place| self.0.get(&at.pack).map_or(at.offset + at.stored, |(_, bytes)| *bytes);
        let mut packs: Vec<_> = uses.first.iter().map(|at| Pack { key: at.pack, bytes: bytes(at) }).collect();
        if !uses.tables.is_empty() {
            packs.extend(in_tables.into_iter().filter(|pack| named.insert(pack.key)));
        }
        packs
    }

    /// The content of a regular file; `None` if it is empty.
    pub(crate) fn content(&self, listed: Option<Listed>, size: u64) -> Option<Content> {
        let listed = listed.filter(|_| size > 0)?;
        Some(match listed {
            Listed::V1(hash) => Content::v1(hash, size),
            Listed::Object { sha256, key: object } => Content::object(sha256, size, key(object)),
            Listed::Pack { sha256, at } => self.packed(sha256, size, at),
            Listed::Chunks { sha256, table: Table { sha256: table, length, at } } => {
                Content::listed(sha256, size, self.packed(table, length, at))
            }
        })
    }

    fn packed(&self, sha256: [u8; 32], size: u64, at: Place) -> Content {
        let range = at.offset..at.offset.saturating_add(at.stored);
        let known = self.0.get(&at.pack).cloned();
        let (key, pack) = known.unwrap_or_else(|| (key(at.pack), range.end));
        Content::packed(sha256, size, key, Part { range, pack })
    }
}

impl FromIterator<(ObjectKey, (Key, u64))> for Packs {
    fn from_iter<I: IntoIterator<Item = (ObjectKey, (Key, u64))>>(packs: I) -> Self {
        Self(packs.into_iter().collect())
    }
}

/// Which packs the contents of a list are in, in the order of the list.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    named: HashSet<ObjectKey>,
    /// The first place in each of them.
    first: Vec<Place>,
    /// Those that chunk tables are in.
    pub(crate) tables: Vec<ObjectKey>,
}

impl Uses {
    /// Those of these entries.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        entries.iter().filter_map(|entry| entry.content).collect()
    }
}

impl FromIterator<Listed> for Uses {
    fn from_iter<I: IntoIterator<Item = Listed>>(contents: I) -> Self {
        let mut uses = Self::default();
        let mut of_tables = HashSet::new();
        for content in contents {
            let at = match content {
                Listed::Pack { at, .. } => at,
                Listed::Chunks { table: Table { at, .. }, .. } => {
                    if of_tables.insert(at.pack) {
                        uses.tables.push(at.pack);
                    }
                    at
                }
                Listed::V1(_) | Listed::Object { .. } => continue,
            };
            if uses.named.insert(at.pack) {
                uses.first.push(at);
            }
        }
        uses
    }
}

/// A key in the words of the stor.
pub(crate) fn key(key: ObjectKey) -> Key {
    match key {
        ObjectKey::Md5(digest) => Key::md5(digest),
        ObjectKey::Sha256(digest) => Key::sha256(digest),
    }
}

/// The name of a content in the cache.
pub(crate) fn content_id(listed: &Listed) -> ContentId {
    match listed {
        Listed::V1(hash) => ContentId::Md5(*hash),
        Listed::Object { sha256, .. } | Listed::Pack { sha256, .. } | Listed::Chunks { sha256, .. } => {
            ContentId::Sha256(*sha256)
        }
    }
}

/// What a flist says of a content; `None` if it has no words for it: several chunks without a table.
pub(crate) fn listed(content: &Content) -> Option<Listed> {
    if let Some(table) = &content.table {
        let Listed::Pack { sha256: digest, at } = listed(table)? else { return None };
        let ContentId::Sha256(sha256) = content.id else { return None };
        return Some(Listed::Chunks { sha256, table: Table { sha256: digest, length: table.size, at } });
    }
    let [chunk] = &*content.chunks else { return None };
    let key = chunk.key.as_str().parse::<ObjectKey>().ok()?;
    Some(match (chunk.check, &chunk.part) {
        (Check::V1(md5), None) => Listed::V1(md5),
        (Check::V1(_), Some(_)) => return None,
        (Check::Sha256(sha256), None) => Listed::Object { sha256, key },
        (Check::Sha256(sha256), Some(Part { range, .. })) => {
            let at = Place { pack: key, offset: range.start, stored: range.end - range.start };
            Listed::Pack { sha256, at }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_comes_back() {
        let pack = ObjectKey::Sha256([9; 32]);
        let at = Place { pack, offset: 10, stored: 5 };
        let header = Header { packs: vec![Pack { key: pack, bytes: 100 }], ..Header::default() };
        let packs = Packs::of(&header);
        let all = [
            Listed::V1([1; 16]),
            Listed::Object { sha256: [2; 32], key: ObjectKey::Md5([3; 16]) },
            Listed::Pack { sha256: [4; 32], at },
            Listed::Chunks { sha256: [5; 32], table: Table { sha256: [6; 32], length: 60, at } },
        ];
        for known in all {
            let content = packs.content(Some(known), 7).expect("not empty");
            assert_eq!((content.id, content.size), (content_id(&known), 7));
            assert_eq!(listed(&content), Some(known));
            assert!(packs.content(Some(known), 0).is_none());
            let mut noted = Packs::default();
            noted.note(&content);
            let entry = Entry { content: Some(known), ..Entry::new("f", aysfs_flist::Kind::Regular) };
            let named = noted.of_uses(&Uses::of(&[entry]), []);
            let is_packed = matches!(known, Listed::Pack { .. } | Listed::Chunks { .. });
            assert_eq!(named, if is_packed { header.packs.clone() } else { vec![] });
        }
    }
}
