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
}

/// The plain directory that tells a wrong case from a wrong filesystem.
const DIRECTORY: Target = Target { name: "directory", files: Files::Directory };

/// All targets. A new filesystem, or a new mode of one, is one more line.
pub(crate) const ALL: &[Target] = &[DIRECTORY, Target { name: "memfs", files: Files::MemFs }];

impl Target {
    /// Whether a frontend is between its files and the kernel.
    pub(crate) fn needs_frontend(&self) -> bool {
        match self.files {
            Files::Directory => false,
            Files::MemFs => true,
        }
    }

    /// Whether a case with this check can run on it.
    pub(crate) fn takes(&self, check: &Check) -> bool {
        match (self.files, check) {
            (Files::Directory | Files::MemFs, Check::Write(_)) => true,
        }
    }

    /// What is like this target, but without any code of ours.
    pub(crate) fn local_twin(check: &Check) -> Self {
        match check {
            Check::Write(_) => DIRECTORY,
        }
    }
}
