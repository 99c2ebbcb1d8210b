//! The behaviour of a local Linux filesystem that can be written.
//!
//! Each case takes a directory to work in: the root of a fresh, empty filesystem that is open to all users and
//! honours devices and set-uid bits, seen by root with a umask of 022.

pub(crate) mod access;
pub(crate) mod attributes;
pub(crate) mod content;
pub(crate) mod crowds;
pub(crate) mod data;
pub(crate) mod listing;
pub(crate) mod names;
pub(crate) mod paths;
pub(crate) mod signals;
pub(crate) mod unlinked;
pub(crate) mod xattrs;
