//! What a case is.

use std::path::Path;

use crate::rig::Rig;
use crate::user::Server;

/// One promise of a filesystem.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) check: Check,
}

/// The function that panics if the promise is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    /// On an empty, writable filesystem: the directory to work in.
    Write(fn(&Path)),
    /// On the sample tree: where it is to be looked at, and the tree itself to compare with.
    Read(fn(&Path, &Path)),
    /// On the sample tree where it may be changed, with the same arguments.
    Change(fn(&Path, &Path)),
    /// On the sample tree where it may not be changed, with the same arguments.
    Refuse(fn(&Path, &Path)),
    /// What a frontend promises to the one who mounts: the process that mounts, and another one that it may start
    /// to use the mount at a path.
    Mount { serve: fn(&Rig<'_>), using: Option<fn(&Path, &mut Server<'_>)> },
}

impl Case {
    /// A case for a writable filesystem.
    #[doc(hidden)]
    pub const fn writing(group: &'static str, name: &'static str, check: fn(&Path)) -> Self {
        Self { group, name, check: Check::Write(check) }
    }

    /// Whether it takes the sample tree.
    pub(crate) fn needs_sample(&self) -> bool {
        matches!(self.check, Check::Read(_) | Check::Change(_) | Check::Refuse(_))
    }

    /// The name that a skip and an argument use.
    pub(crate) fn full_name(&self) -> String {
        format!("{}::{}", self.group, self.name)
    }
}

/// The cases of one group, by the names of their functions; behind one that mounts, in parentheses, the function
/// of the process that uses the mount.
macro_rules! cases {
    (Mount $group:literal: $($case:ident $(($using:ident))?)*) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            group: $group,
            name: stringify!($case),
            check: $crate::case::Check::Mount {
                serve: $case,
                using: $crate::case::cases!(@using $($using)?),
            },
        }),*];
    };
    (@using) => { None };
    (@using $using:ident) => { Some($using) };
    ($check:ident $group:literal: $($case:ident)*) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            group: $group,
            name: stringify!($case),
            check: $crate::case::Check::$check($case),
        }),*];
    };
}

pub(crate) use cases;
