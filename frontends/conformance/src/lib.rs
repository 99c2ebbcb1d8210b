//! One suite of filesystem behaviour, run by every frontend from a test file of a few lines.
//!
//! ```no_run
//! # use std::process::ExitCode;
//! # use aysfs_vfs::Frontend;
//! # fn with(ours: &'static dyn Frontend, other: &'static dyn Frontend) -> ExitCode {
//! use aysfs_conformance::{Skip, Suite};
//!
//! const SKIPS: &[Skip] =
//!     &[Skip::everywhere("content::holes_are_found", "the library does not know lseek")];
//!
//! aysfs_conformance::run(&Suite { frontend: ours, reference: Some(other), skips: SKIPS })
//! # }
//! ```
//!
//! That is the `main` of a test with `harness = false`; the usual arguments of a test program work.
//!
//! # Words
//!
//! A *case* is one promise, written as one function. A *target* is a filesystem to run cases on: a plain
//! directory, memfs or the engine through the frontend. A *trial* is a case on a target, named
//! `<target>::<group>::<case>`; each has a filesystem, a mount namespace and processes of its own, so none can
//! disturb another or leave anything behind.
//!
//! A trial that fails runs again on a plain directory, and through another frontend: that tells whether the case,
//! the filesystem or the frontend is to blame.
//!
//! How to add a frontend, a case or a target is told in `frontends/README.md`.

mod acl;
mod case;
mod cases;
mod memfs;
mod mounted;
mod nobody;
mod place;
mod process;
mod rig;
mod run;
mod sample;
mod serve;
mod target;
mod user;
mod verdict;

use std::process::ExitCode;

use aysfs_vfs::Frontend;
pub use case::Case;
#[doc(hidden)]
pub use memfs::serve_memfs;

/// What a frontend is tested with.
#[derive(Clone, Copy)]
pub struct Suite {
    /// The frontend.
    pub frontend: &'static dyn Frontend,
    /// Another one: a failure that both have is not the frontend's.
    pub reference: Option<&'static dyn Frontend>,
    /// What the frontend cannot do.
    pub skips: &'static [Skip],
}

/// A case that is expected to fail. It runs nevertheless, and must be removed when it passes.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// `<group>::<case>`.
    pub case: &'static str,
    /// Where it fails.
    pub targets: Targets,
    /// What is missing, and why that cannot be helped.
    pub reason: &'static str,
}

impl Skip {
    /// A case that fails wherever it runs.
    pub const fn everywhere(case: &'static str, reason: &'static str) -> Self {
        Self { case, targets: Targets::All, reason }
    }
}

/// Some targets.
#[derive(Clone, Copy, Debug)]
pub enum Targets {
    /// All that the case runs on.
    All,
    /// Those with these names.
    Only(&'static [&'static str]),
}

/// Runs the suite as the arguments of this program say.
///
/// To be called first thing in `main`: the processes of a trial are this program again.
pub fn run(suite: &Suite) -> ExitCode {
    run::run(Some(*suite), cases::ALL)
}

/// Runs all cases that need no frontend on the local disk: this tests the cases.
pub fn run_locally() -> ExitCode {
    run::run(None, cases::ALL)
}

/// Runs other cases, to test the suite itself.
#[doc(hidden)]
pub fn run_cases(suite: &Suite, cases: &'static [Case]) -> ExitCode {
    run::run(Some(*suite), &[cases])
}
