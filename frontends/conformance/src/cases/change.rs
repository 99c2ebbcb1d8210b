//! The behaviour of a local Linux filesystem that holds files already, and can be written.
//!
//! Each case takes the directory to work in, which is the root of a filesystem with the sample tree, and the tree itself.

pub(crate) mod open_files;
