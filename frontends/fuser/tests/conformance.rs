//! The suite that every frontend runs.

use std::process::ExitCode;

use aysfs_conformance::{Skip, Suite, Targets};
use aysfs_frontend_fuse3::Fuse3;
use aysfs_frontend_fuser::Fuser;

/// fuser answers `FUSE_INTERRUPT` itself, with `ENOSYS`; there is no way to hear of it.
const NO_INTERRUPTS: &str = "fuser does not let interrupts through";

/// Of local changes, not of this frontend.
const OWN_CTIME: &str = "the root is a directory of the upper, and nobody can set the ctime of a file";

const SKIPS: &[Skip] = &[
    Skip {
        case: "tree::every_entry_has_its_attributes",
        targets: Targets::Only(&["overlay_of_sample", "overlay_of_sample_no_passthrough"]),
        reason: OWN_CTIME,
    },
    Skip::everywhere("waiting::an_interrupted_reader_returns_at_once", NO_INTERRUPTS),
    Skip::everywhere("waiting::a_reader_that_is_killed_ends_at_once", NO_INTERRUPTS),
];

fn main() -> ExitCode {
    aysfs_conformance::run(&Suite { frontend: &Fuser, reference: Some(&Fuse3), skips: SKIPS })
}
