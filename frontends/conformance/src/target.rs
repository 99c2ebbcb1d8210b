//! What cases run on.

use crate::case::Check;

/// A filesystem to run cases on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) files: Files,
}

/// Where a target's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// In an empty directory of the local disk.
    Directory,
    /// In an empty memfs behind the frontend.
    MemFs,
    /// Where the case mounts them.
    None,
}

/// The plain directory that tells a wrong case from a wrong filesystem.
const DIRECTORY: Target = Target { name: "directory", files: Files::Directory };

/// All targets. A new filesystem, or a new mode of one, is one more line.
pub(crate) const ALL: &[Target] = &[
    DIRECTORY,
    Target { name: "memfs", files: Files::MemFs },
    Target { name: "mounting", files: Files::None },
];

impl Target {
    /// Whether a frontend is between its files and the kernel.
    pub(crate) fn needs_frontend(&self) -> bool {
        match self.files {
            Files::Directory => false,
            Files::MemFs | Files::None => true,
        }
    }

    /// Whether a case with this check can run on it.
    pub(crate) fn takes(&self, check: &Check) -> bool {
        match check {
            Check::Write(_) => matches!(self.files, Files::Directory | Files::MemFs),
            Check::Mount { .. } => self.files == Files::None,
        }
    }

    /// Where a case with this check can run without any code of ours.
    pub(crate) fn local_twin(check: &Check) -> Option<Self> {
        match check {
            Check::Write(_) => Some(DIRECTORY),
            Check::Mount { .. } => None,
        }
    }
}
