//! Another base below the local changes, while they are mounted.
//!
//! Afterwards the view is what a new mount of the upper on the new base would show; what the upper says is asked again where it
//! depends on the base. Only numbers differ from a new mount: an inode that is shown before and after keeps its own. Therefore a
//! directory that is merged with one of the new base gives that its number, and a file of the upper gives its own to what the base
//! has at the same place, so that it is the same inode if the base shows through one day. (A push makes it so: its base is the view.)
//!
//! The trees are compared before the lock of the tree is taken; then all that is in memory of the upper is looked at.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use aysfs_flist::Node;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Ino, Name, Result};
use rustix::fs::FileType;

use super::adopt::{What, below, depth};
use super::at::At;
use super::tree::{Child, Data, Found, Object, Origin, Place, Tree, Where};
use super::{Overlay, World, origin};
use crate::base::{Base, damaged};
use crate::compare::compare;
use crate::edition::Edition;
use crate::rebase::{Changes, RebaseError};

impl Overlay {
    /// Shows another base below the local changes from now on.
    ///
    /// The upper is not touched. What is open stays what it is, and what is shown before and after keeps its inode number: with a base
    /// that describes exactly what is shown, nothing changes, and [`Changes::names`] and [`Changes::inodes`] are empty. The counts are of the
    /// bases, whether or not local changes hide them.
    ///
    /// # Errors
    /// [`RebaseError`]; nothing has changed then.
    pub fn rebase(&self, base: Base) -> Result<Changes, RebaseError> {
        let w = &self.0.w;
        let _alone = w.lower.rebasing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = w.lower.now();
        if base.is_same(&old.base) {
            return Ok(Changes::default());
        }
        w.lower.check_keys(&base)?;
        // What was changed there keeps its content, and would lose the key of it.
        w.lower.check_keys(&old.base)?;
        let mut found = compare(&old, &base)?;
        let provisional = old.followed_by(base, &found.kept);

        let mut tree = self.0.tree();
        let plan = tree.plan(w, &provisional)?;
        let before = tree.listings(w, &plan)?;
        plan.give_numbers(&provisional, &mut found.kept);
        let next = old.renumbered(&provisional, &found.kept);
        let is_known = |ino| tree.lookups.contains_key(&ino) && next.numbers.node(ino).is_none();
        let below = found.names_below(&old, is_known)?;
        found.changes.names.splice(..0, below);
        let mut told = tree.visible(found.changes);
        let origins = tree.origins(w, &plan, &provisional, &next)?;
        // From here on nothing fails.
        let lookups = &tree.lookups;
        w.lower.show(next, |ino| lookups.contains_key(&ino) && !tree.is_in_upper(ino));
        tree.take_over(w, plan, origins);
        for (ino, names) in before {
            // What cannot be listed is told as a whole.
            let after = tree.list(w, ino).map(numbers).unwrap_or_default();
            let is_same = |name: &&Name| names.get(*name) == after.get(*name);
            let mut differ: Vec<_> = names.keys().chain(after.keys()).filter(|name| !is_same(name)).collect();
            differ.sort_unstable();
            differ.dedup();
            if !differ.is_empty() {
                told.inodes.push(ino);
                told.names.extend(differ.into_iter().map(|name| (ino, name.clone())));
            }
        }
        Ok(told)
    }
}

/// The names in a directory, and where they lead.
fn numbers(list: Vec<(Name, Found)>) -> BTreeMap<Name, Ino> {
    list.into_iter().map(|(name, found)| (name, found.ino())).collect()
}

/// What the upper means on another base.
#[derive(Default)]
struct Plan {
    /// The directories of the upper that are in memory: what each is merged with.
    lowers: HashMap<Ino, Option<Node>>,
    /// Those of the base that are merged with one.
    merged: HashMap<Node, Ino>,
    /// How many subdirectories more they have.
    more_subdirectories: HashMap<Ino, i64>,
    /// Files of the upper, by what the base has at the same place.
    files: HashMap<Node, Ino>,
    /// Directories that are merged with another one than before, or were not, or are not any more.
    differently_merged: Vec<Ino>,
}

/// A directory of the upper that says it was moved.
struct Claim {
    ino: Ino,
    of: Node,
    depth: usize,
}

impl Tree {
    /// Asks all of the upper that is in memory what it means on another base; changes nothing.
    fn plan(&mut self, w: &World, next: &Edition) -> Result<Plan> {
        if !self.claims.is_empty() {
            self.survey(w)?;
        }
        let mut plan = Plan::default();
        let mut claims: Vec<Claim> = Vec::new();
        plan.merge(Ino::ROOT, Some(Node::ROOT));
        let mut ahead = VecDeque::from([Ino::ROOT]);
        loop {
            while let Some(ino) = ahead.pop_front() {
                let lower = plan.lowers[&ino];
                for (name, child) in self.subdirectories(ino) {
                    let at = At::Named(self.descriptor(w, ino)?, name.as_bytes().to_vec());
                    match w.seen_directory(next, lower, &name, &at)? {
                        What::Moved(of) => claims.push(Claim { ino: child, of, depth: depth(next, of)? }),
                        What::Directory(lower) => {
                            plan.merge(child, lower);
                            ahead.push_back(child);
                        }
                        What::Whiteout | What::Leaf { .. } => {}
                    }
                }
            }
            // As when it is mounted: those of short paths first.
            let first = claims.iter().enumerate().min_by_key(|(_, claim)| claim.depth);
            let Some((position, _)) = first else { break };
            let Claim { ino, of, .. } = claims.remove(position);
            let is_free = !self.is_in_place_on(next, &plan, of)?;
            plan.merge(ino, is_free.then_some(of));
            ahead.push_back(ino);
        }
        self.look_into(next, &mut plan)?;
        Ok(plan)
    }

    /// What the names in the directories of the upper hide.
    fn look_into(&self, next: &Edition, plan: &mut Plan) -> Result<()> {
        let mut given = HashSet::new();
        for (ino, lower) in &plan.lowers {
            let Some(Object::Directory(directory)) = self.objects.get(ino) else { continue };
            let mut more = 0;
            for (name, child) in directory.children.iter().flatten() {
                let hidden = below(next, *lower, name)?;
                more -= i64::from(hidden.is_some_and(|(_, kind)| kind == FileType::Directory));
                let Child::There(child, kind) = *child else { continue };
                more += i64::from(kind == FileType::Directory);
                if let Some((node, of_base)) = hidden
                    && (of_base, matches!(self.data(child), Some(Data::Here))) == (kind, true)
                    && given.insert(child)
                {
                    plan.files.entry(node).or_insert(child);
                }
            }
            plan.more_subdirectories.insert(*ino, more);
            let was_merged_with = directory.lower;
            if was_merged_with != lower.map(|node| next.ino(node)) {
                plan.differently_merged.push(*ino);
            }
        }
        Ok(())
    }

    fn data(&self, ino: Ino) -> Option<&Data> {
        self.leaf(ino).map(|leaf| &leaf.data)
    }

    /// Whether a directory of another base is shown under its own name there. All of the upper is in memory.
    fn is_in_place_on(&self, next: &Edition, plan: &Plan, mut node: Node) -> Result<bool> {
        loop {
            let of = next.base.index().node(node).map_err(damaged)?;
            let (directory, name) = next.base.place(&of).map_err(damaged)?;
            if let Some(ino) = plan.merged.get(&directory) {
                return Ok(!self.says(*ino, &raw::name(&name)?));
            }
            if directory == node {
                return Ok(true);
            }
            node = directory;
        }
    }

    /// Whether the upper says something about a name, as far as is in memory: of what is not, the kernel has not asked.
    fn says(&self, ino: Ino, name: &Name) -> bool {
        match self.objects.get(&ino) {
            Some(Object::Directory(directory)) => {
                directory.children.as_ref().is_none_or(|children| children.contains_key(name))
            }
            Some(Object::Leaf(_)) => true,
            None => false,
        }
    }

    /// Of what another base changes, that which local changes do not hide.
    fn visible(&self, mut changes: Changes) -> Changes {
        changes.names.retain(|(parent, name)| !self.says(*parent, name));
        changes.inodes.retain(|ino| !self.is_in_upper(*ino));
        changes
    }

    /// What is in the directories that are going to be merged with something else.
    fn listings(&mut self, w: &World, plan: &Plan) -> Result<Vec<(Ino, BTreeMap<Name, Ino>)>> {
        let mut all = Vec::new();
        for ino in &plan.differently_merged {
            // What nobody has looked into is not known to the kernel.
            if matches!(self.objects.get(ino), Some(Object::Directory(directory)) if directory.children.is_some())
            {
                all.push((*ino, numbers(self.list(w, *ino)?)));
            }
        }
        Ok(all)
    }

    /// Where the content of those is from then on of which only the attributes are in the upper.
    fn origins(
        &mut self,
        w: &World,
        plan: &Plan,
        provisional: &Edition,
        next: &Edition,
    ) -> Result<Vec<(Ino, Origin)>> {
        let mut origins = Vec::new();
        let mut lost = Vec::new();
        for (ino, object) in &self.objects {
            let Object::Leaf(leaf) = object else { continue };
            match &leaf.data {
                Data::Below(Origin::Base(of)) => {
                    let origin = match provisional.numbers.node(*of) {
                        Some(node) => Origin::Base(next.ino(node)),
                        None => replaced(w, plan, next, *of, &leaf.places)?,
                    };
                    origins.push((*ino, origin));
                }
                Data::Below(Origin::Lost) => {
                    lost.extend(leaf.places.first().map(|place| (*ino, place.clone())))
                }
                Data::Here | Data::Below(Origin::Replaced(_)) => {}
            }
        }
        for (ino, place) in lost {
            let lower = plan.lowers.get(&place.parent).copied().flatten();
            let at = self.at(w, ino)?;
            if let Data::Below(origin) = w.seen_data(next, lower, &place.name, FileType::RegularFile, &at)? {
                origins.push((ino, origin));
            }
        }
        Ok(origins)
    }

    /// The base is another one by now.
    fn take_over(&mut self, w: &World, mut plan: Plan, origins: Vec<(Ino, Origin)>) {
        for (ino, lower) in &plan.lowers {
            if let Some(Object::Directory(directory)) = self.objects.get_mut(ino) {
                directory.lower = lower.map(|_| *ino);
                directory.more_subdirectories = plan.more_subdirectories.remove(ino).unwrap_or_default();
            }
        }
        for (ino, origin) in origins {
            if let Some(leaf) = self.leaf_mut(ino) {
                leaf.data = Data::Below(origin);
            }
        }
        // What was removed is remembered as long as its number could be shown, or somebody holds it.
        let lookups = &self.lookups;
        self.objects.retain(|ino, object| {
            let is_removed =
                matches!(object, Object::Directory(directory) if matches!(directory.place, Where::Removed(_)));
            !is_removed || lookups.contains_key(ino) || w.lower.is_shown(*ino)
        });
        // Names of files that have several are counted again when somebody asks.
        self.gone_before = None;
        self.lost.retain(|ino, _| w.lower.base_entry(*ino).is_ok_and(|entry| entry.attr.nlink == 1));
        self.name_changes += 1;
    }
}

/// What a copy that has only the attributes stands for, when the base has something else where that was: the same content where the copy is,
/// or none that this base has.
fn replaced(w: &World, plan: &Plan, next: &Edition, of: Ino, places: &[Place]) -> Result<Origin> {
    let Some(content) = w.lower.find(of)?.content()? else { return Ok(Origin::Lost) };
    for place in places {
        let lower = plan.lowers.get(&place.parent).copied().flatten();
        if let Some((node, FileType::RegularFile)) = below(next, lower, &place.name)? {
            let there =
                next.base.content_of(&next.base.index().node(node).map_err(damaged)?).map_err(damaged)?;
            if there.is_some_and(|there| origin::is_same(&there, &content)) {
                return Ok(Origin::Base(next.ino(node)));
            }
        }
    }
    Ok(Origin::Replaced(Arc::new(content)))
}

impl Plan {
    /// A directory is merged with one of the base, unless another one is.
    fn merge(&mut self, ino: Ino, lower: Option<Node>) {
        let free = lower.filter(|lower| match self.merged.entry(*lower) {
            Slot::Occupied(_) => false,
            Slot::Vacant(slot) => {
                slot.insert(ino);
                true
            }
        });
        self.lowers.insert(ino, free);
    }

    /// Gives nodes of the base the numbers of what is merged with them, or hides them.
    fn give_numbers(&self, provisional: &Edition, kept: &mut [Option<Ino>]) {
        let given = || {
            let files = self.files.iter().filter(|(node, _)| !self.merged.contains_key(node));
            self.merged.iter().chain(files)
        };
        for (node, ino) in given() {
            if let Some(owner) = provisional.numbers.node(*ino)
                && owner != *node
            {
                kept[owner.0 as usize] = None;
            }
        }
        for (node, ino) in given() {
            kept[node.0 as usize] = Some(*ino);
        }
    }
}
