//! What cases run on.

use aysfs_vfs::Passthrough;

use crate::case::Check;

/// A filesystem to run cases on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) files: Files,
    pub(crate) changes: Changes,
}

/// Where a target's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// In a directory of the local disk: an empty one, the sample tree, or a copy of it if that may be changed.
    Local(Tree),
    /// In an empty memfs behind the frontend.
    MemFs,
    /// In the engine behind the frontend: the sample tree.
    AysFs,
    /// In the engine behind the frontend, below local changes: nothing, or the sample tree.
    Overlay(Tree, Passthrough),
    /// Where the case mounts them.
    Nowhere,
}

/// What is there when a case begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Nothing,
    Sample,
}

/// Who decides whether something may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Everything may.
    Allowed,
    /// It is mounted read-only.
    RefusedByTheKernel,
}

/// The plain directories that tell a wrong case from a wrong filesystem.
const DIRECTORY: Target =
    Target { name: "directory", files: Files::Local(Tree::Nothing), changes: Changes::Allowed };
const READ_ONLY_DIRECTORY: Target = Target {
    name: "read_only_directory",
    files: Files::Local(Tree::Sample),
    changes: Changes::RefusedByTheKernel,
};
const COPY_OF_SAMPLE: Target =
    Target { name: "copy_of_sample", files: Files::Local(Tree::Sample), changes: Changes::Allowed };

/// All targets. A new filesystem, or a new mode of one, is one more entry.
pub(crate) const ALL: &[Target] = &[
    DIRECTORY,
    READ_ONLY_DIRECTORY,
    COPY_OF_SAMPLE,
    Target { name: "memfs", files: Files::MemFs, changes: Changes::Allowed },
    Target { name: "aysfs_ro", files: Files::AysFs, changes: Changes::RefusedByTheKernel },
    Target {
        name: "overlay",
        files: Files::Overlay(Tree::Nothing, Passthrough::Auto),
        changes: Changes::Allowed,
    },
    Target {
        name: "overlay_no_passthrough",
        files: Files::Overlay(Tree::Nothing, Passthrough::Off),
        changes: Changes::Allowed,
    },
    Target {
        name: "overlay_of_sample",
        files: Files::Overlay(Tree::Sample, Passthrough::Auto),
        changes: Changes::Allowed,
    },
    Target {
        name: "overlay_of_sample_no_passthrough",
        files: Files::Overlay(Tree::Sample, Passthrough::Off),
        changes: Changes::Allowed,
    },
    Target { name: "mounting", files: Files::Nowhere, changes: Changes::Allowed },
];

impl Target {
    /// Whether a frontend is between its files and the kernel.
    pub(crate) fn needs_frontend(&self) -> bool {
        !matches!(self.files, Files::Local(_))
    }

    /// Whether a case with this check can run on it.
    pub(crate) fn takes(&self, check: &Check) -> bool {
        let (nothing, sample) = (Tree::Nothing, Tree::Sample);
        let holds_sample = match self.files {
            Files::Local(tree) | Files::Overlay(tree, _) => tree == sample,
            Files::AysFs => true,
            Files::MemFs | Files::Nowhere => false,
        };
        match check {
            Check::Write(_) => match self.files {
                Files::Local(tree) | Files::Overlay(tree, _) => tree == nothing,
                Files::MemFs => true,
                Files::AysFs | Files::Nowhere => false,
            },
            // A copy is there to test those that change it, and is not mounted as the others are.
            Check::Read(_) => holds_sample && self.name != COPY_OF_SAMPLE.name,
            Check::Change(_) => holds_sample && self.changes == Changes::Allowed,
            Check::Refuse(_) => holds_sample && self.changes != Changes::Allowed,
            Check::Mount { .. } => self.files == Files::Nowhere,
        }
    }

    /// Where a case with this check can run without any code of ours.
    pub(crate) fn local_twin(check: &Check) -> Option<Self> {
        match check {
            Check::Write(_) => Some(DIRECTORY),
            Check::Read(_) | Check::Refuse(_) => Some(READ_ONLY_DIRECTORY),
            Check::Change(_) => Some(COPY_OF_SAMPLE),
            Check::Mount { .. } => None,
        }
    }
}
