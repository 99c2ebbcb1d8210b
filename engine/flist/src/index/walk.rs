//! An index as a list of entries again: for tools that show, compare, convert or unpack it.

use std::collections::HashMap;

use super::{Children, Corrupt, Index, Node, NodeRef};
use crate::entry::{Entry, Kind};

/// The entries of an [`Index`]: see [`Index::entries`].
#[derive(Debug)]
pub struct Entries<'a> {
    index: &'a Index,
    /// Directories that are being walked, outermost first: how long their path is, and the names that are left.
    ahead: Vec<(usize, Children<'a>)>,
    /// The path of the directory that was entered last, and maybe more.
    path: Vec<u8>,
    /// The first name of each file that has several.
    linked: HashMap<Node, Vec<u8>>,
    /// How many names can be met before one must have been met twice.
    names_left: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Root,
    Below,
    Ended,
}

impl<'a> Entries<'a> {
    pub(super) fn new(index: &'a Index) -> Self {
        Self {
            index,
            ahead: Vec::new(),
            path: Vec::new(),
            linked: HashMap::new(),
            names_left: index.rows::<super::Dentry>(super::Section::Dentries).len(),
            state: State::Root,
        }
    }

    fn advance(&mut self) -> Result<Option<Entry>, Corrupt> {
        match self.state {
            State::Root => {
                self.state = State::Below;
                self.visit(Node::ROOT).map(Some)
            }
            State::Below => {
                while let Some((length, children)) = self.ahead.last_mut() {
                    self.path.truncate(*length);
                    let Some(child) = children.next() else {
                        self.ahead.pop();
                        continue;
                    };
                    let (name, node) = child?;
                    let left = self.names_left.checked_sub(1);
                    self.names_left = left.ok_or_else(|| self.index.corrupt("a directory inside itself"))?;
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend(name);
                    return self.visit(node).map(Some);
                }
                Ok(None)
            }
            State::Ended => Ok(None),
        }
    }

    /// The entry of the node at the current path; enters it if it is a directory.
    fn visit(&mut self, number: Node) -> Result<Entry, Corrupt> {
        let node = self.index.node(number)?;
        let mut entry = node.entry(self.path.clone())?;
        if node.kind() == Kind::Directory {
            self.ahead.push((self.path.len(), self.index.children(number)?));
        } else if node.nlink() > 1 {
            match self.linked.get(&number) {
                Some(first) => entry.link = Some(first.clone()),
                None => drop(self.linked.insert(number, self.path.clone())),
            }
        }
        Ok(entry)
    }
}

impl NodeRef<'_> {
    /// All that the list says about it, as an entry at `path`, which is no link.
    ///
    /// # Errors
    /// [`Corrupt`].
    pub fn entry(&self, path: Vec<u8>) -> Result<Entry, Corrupt> {
        let mut entry = Entry::new(path, self.kind());
        entry.perm = self.perm();
        entry.user = self.index.users[self.user()].clone();
        entry.group = self.index.groups[self.group()].clone();
        entry.mtime = self.mtime();
        entry.ctime = self.ctime();
        entry.content = self.content()?;
        entry.v1_keys = self.v1_keys()?;
        entry.target = self.target()?.to_vec();
        if entry.target.is_empty() {
            entry.size = self.size();
        }
        entry.data = self.data()?.map(Iterator::collect);
        for xattr in self.xattrs()? {
            let (name, value) = xattr?;
            entry.xattrs.push((name.to_vec(), value.to_vec()));
        }
        Ok(entry)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if !matches!(next, Ok(Some(_))) {
            self.state = State::Ended;
        }
        next.transpose()
    }
}
