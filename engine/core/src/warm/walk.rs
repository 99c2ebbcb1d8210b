//! What there is to fetch, in the order of the tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aysfs_flist::{Children, Kind, MAX_DEPTH, Node};
use aysfs_store::{Cache, Content, ContentId, Key, Part};

use super::{Progress, WarmError};
use crate::base::Base;

/// How many files of a pack are one batch, and how many that are objects of their own.
const PACKED: usize = 256;
const OBJECTS: usize = 32;

/// A file to fetch.
pub(super) struct File {
    pub(super) node: Node,
    pub(super) content: Content,
}

/// Files that are fetched by one task.
#[derive(Default)]
pub(super) struct Batch {
    /// The pack that they are in, and its length, if it is fetched whole.
    pub(super) whole_pack: Option<(Key, u64)>,
    pub(super) files: Vec<File>,
    /// About what they take in the cache, in bytes.
    pub(super) space: u64,
}

/// What is known of a walk before anything is fetched.
pub(super) struct Walk {
    base: Arc<Base>,
    cache: Arc<Cache>,
    roots: Vec<Node>,
    packs: HashMap<Key, Wanted>,
    /// What files take that are kept as such, in bytes.
    files: u64,
}

/// What is wanted of a pack, in stored bytes of files that are one chunk.
#[derive(Default)]
struct Wanted {
    length: u64,
    all: u64,
    /// Not in the cache.
    missing: u64,
    /// A batch of it was made.
    is_begun: bool,
}

impl Wanted {
    /// Whether it is fetched as a whole: where it has other things, too, these must not be most of it.
    fn is_whole(&self) -> bool {
        self.missing > 0 && self.all >= self.length / 2
    }
}

impl Walk {
    /// Looks at all files below `roots`, unless it is given up meanwhile. Blocks.
    pub(super) fn plan(
        base: Arc<Base>,
        cache: Arc<Cache>,
        roots: Vec<Node>,
        progress: &Progress,
        is_given_up: impl Fn() -> bool,
    ) -> Result<Self, WarmError> {
        let (mut packs, mut files) = (HashMap::<Key, Wanted>::new(), 0_u64);
        let mut counted = HashSet::<ContentId>::new();
        for_each_file(&base, &roots, |_, content| {
            progress.found(content.size);
            if let Some((key, part)) = in_pack(&content) {
                let stored = part.range.end.saturating_sub(part.range.start);
                let wanted = packs.entry(key.clone()).or_default();
                wanted.length = part.pack;
                wanted.all = wanted.all.saturating_add(stored);
                if !cache.contains(&content) {
                    wanted.missing = wanted.missing.saturating_add(stored);
                }
            }
            if !cache.keeps_in_pack(&content) && counted.insert(content.id) {
                files = files.saturating_add(content.size);
            }
            Ok(!is_given_up())
        })?;
        Ok(Self { base, cache, roots, packs, files })
    }

    /// What all of it takes in the cache, in bytes.
    pub(super) fn space(&self) -> u64 {
        let of_pack = |pack: &Wanted| if pack.is_whole() { pack.length } else { pack.all.min(pack.length) };
        self.packs.values().fold(self.files, |sum, pack| sum.saturating_add(of_pack(pack)))
    }

    /// Gives what is not in the cache to `take`, which says whether it takes more. Blocks.
    pub(super) fn batches(
        &mut self,
        progress: &Progress,
        mut take: impl FnMut(Batch) -> bool,
    ) -> Result<(), WarmError> {
        let Self { base, cache, roots, packs, .. } = self;
        let (mut of_pack, mut pack) = (Batch::default(), None);
        let mut objects = Batch::default();
        for_each_file(base, roots, |node, content| {
            let wanted = in_pack(&content).and_then(|(key, part)| {
                let stored = part.range.end.saturating_sub(part.range.start);
                Some((key.clone(), stored, packs.get_mut(key)?))
            });
            let is_here = match &wanted {
                // What comes with its neighbours is to be verified all the same.
                Some((_, _, wanted)) => wanted.missing == 0,
                None => cache.contains(&content),
            };
            if is_here {
                progress.done(content.size);
                return Ok(true);
            }
            let as_file = if cache.keeps_in_pack(&content) { 0 } else { content.size };
            let Some((key, stored, wanted)) = wanted else {
                let is_one_request = content.chunks.len() == 1;
                objects.add(File { node, content }, as_file);
                // A file of several chunks is work enough.
                let is_full = !is_one_request || objects.files.len() >= OBJECTS;
                return Ok(!is_full || take(std::mem::take(&mut objects)));
            };
            if pack.as_ref() != Some(&key) || of_pack.files.len() >= PACKED {
                let full = std::mem::take(&mut of_pack);
                if !full.files.is_empty() && !take(full) {
                    return Ok(false);
                }
                if wanted.is_whole() {
                    of_pack.whole_pack = Some((key.clone(), wanted.length));
                    of_pack.space = if wanted.is_begun { 0 } else { wanted.length };
                    wanted.is_begun = true;
                }
                pack = Some(key);
            }
            let of_pack_itself = if of_pack.whole_pack.is_some() { 0 } else { stored };
            of_pack.add(File { node, content }, as_file.saturating_add(of_pack_itself));
            Ok(true)
        })?;
        for last in [of_pack, objects] {
            if !last.files.is_empty() && !take(last) {
                break;
            }
        }
        Ok(())
    }
}

impl Batch {
    fn add(&mut self, file: File, space: u64) {
        self.files.push(file);
        self.space = self.space.saturating_add(space);
    }
}

/// Where a file is that is one chunk of a pack.
fn in_pack(content: &Content) -> Option<(&Key, &Part)> {
    match &*content.chunks {
        [chunk] => Some((&chunk.key, chunk.part.as_ref()?)),
        _ => None,
    }
}

/// Goes to each file with content once, below each root in the order of the tree, for as long as `visit` wants more.
fn for_each_file(
    base: &Base,
    roots: &[Node],
    mut visit: impl FnMut(Node, Content) -> Result<bool, WarmError>,
) -> Result<(), WarmError> {
    let index = base.index();
    // Of what has several names, or could be below several roots.
    let mut seen = HashSet::new();
    let is_again =
        |seen: &mut HashSet<Node>, node, links| (links > 1 || roots.len() > 1) && !seen.insert(node);
    for root in roots {
        let mut ahead: Vec<Children<'_>> = Vec::new();
        let mut next = Some(*root);
        loop {
            let Some(node) = next.take() else {
                let Some(children) = ahead.last_mut() else { break };
                match children.next() {
                    Some(child) => next = Some(child?.1),
                    None => drop(ahead.pop()),
                }
                continue;
            };
            let of = index.node(node)?;
            match of.kind() {
                Kind::Directory if ahead.len() <= MAX_DEPTH => ahead.push(index.children(node)?),
                Kind::Regular if !is_again(&mut seen, node, of.nlink()) => {
                    if let Some(content) = base.content_of(&of)?
                        && !visit(node, content)?
                    {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}
