//! The sample tree, seen through a filesystem: in nothing different from the tree itself.
//!
//! Each case takes where to look, and the tree to compare with.

pub(crate) mod directories;
pub(crate) mod readers;
pub(crate) mod reading;
pub(crate) mod refusals;
pub(crate) mod tree;
