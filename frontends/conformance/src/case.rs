//! What a case is.

use std::path::Path;

/// One promise of a filesystem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) check: Check,
}

/// The function that panics if the promise is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    /// On an empty, writable filesystem: the directory to work in.
    Write(fn(&Path)),
}

impl Case {
    /// The name that a skip and an argument use.
    pub(crate) fn full_name(&self) -> String {
        format!("{}::{}", self.group, self.name)
    }
}

/// The cases of one group, by the names of their functions.
macro_rules! cases {
    ($check:ident $group:literal: $($case:ident)*) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            group: $group,
            name: stringify!($case),
            check: $crate::case::Check::$check($case),
        }),*];
    };
}

pub(crate) use cases;
