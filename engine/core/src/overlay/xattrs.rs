//! Extended attributes, and which of them are known to be missing.
//!
//! The kernel asks for some again and again, and each new file for one of its directory. That there is none is remembered, under the lock
//! of the tree, until somebody sets it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use aysfs_vfs::{Ino, Result};

use super::World;
use super::at::At;
use super::tree::Tree;

pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

impl Tree {
    /// The ACL that what is made in a directory inherits; the local filesystem does it, and ignores the umask then.
    pub(super) fn default_acl(&mut self, ino: Ino, directory: &Arc<OwnedFd>) -> Result<Option<Vec<u8>>> {
        if self.directory_mut(ino)?.has_no_default_acl {
            return Ok(None);
        }
        let acl = At::Named(directory.clone(), b".".into()).xattr(DEFAULT_ACL)?;
        self.directory_mut(ino)?.has_no_default_acl = acl.is_none();
        Ok(acl)
    }

    /// An extended attribute of what is in the upper; `None` if the inode is not there.
    ///
    /// Before a program writes to a file for the first time, and whenever a file gets an owner, the kernel asks for its capabilities:
    /// that there are none is remembered.
    pub(super) fn xattr(&mut self, w: &World, ino: Ino, name: &[u8]) -> Result<Option<Option<Vec<u8>>>> {
        if !self.is_in_upper(ino) {
            return Ok(None);
        }
        if name == CAPABILITY && self.leaf(ino).is_some_and(|leaf| leaf.has_no_capability) {
            return Ok(Some(None));
        }
        let value = self.at(w, ino)?.xattr(&w.upper.form.kept_name(name))?;
        if name == CAPABILITY
            && let Some(leaf) = self.leaf_mut(ino)
        {
            leaf.has_no_capability = value.is_none();
        }
        Ok(Some(value))
    }

    /// An extended attribute of an inode was set.
    pub(super) fn may_have_xattr(&mut self, ino: Ino, name: &[u8]) {
        if name == CAPABILITY
            && let Some(leaf) = self.leaf_mut(ino)
        {
            leaf.has_no_capability = false;
        }
        if name == DEFAULT_ACL
            && let Ok(directory) = self.directory_mut(ino)
        {
            directory.has_no_default_acl = false;
        }
    }
}
