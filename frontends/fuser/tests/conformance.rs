//! The suite that every frontend runs.

use std::process::ExitCode;

use aysfs_conformance::{Skip, Suite, Targets};
use aysfs_frontend_fuser::Fuser;

/// fuser answers `FUSE_INTERRUPT` itself, with `ENOSYS`; there is no way to hear of it.
const NO_INTERRUPTS: &str = "fuser does not let interrupts through";

fn main() -> ExitCode {
    aysfs_conformance::run(&Suite {
        frontend: &Fuser,
        reference: None,
        skips: &[
            Skip {
                case: "waiting::an_interrupted_reader_returns_at_once",
                targets: Targets::All,
                reason: NO_INTERRUPTS,
            },
            Skip {
                case: "waiting::a_reader_that_is_killed_ends_at_once",
                targets: Targets::All,
                reason: NO_INTERRUPTS,
            },
        ],
    })
}
