//! The suite that every frontend runs.

use std::process::ExitCode;

use aysfs_conformance::Suite;
use aysfs_frontend_fuser::Fuser;

fn main() -> ExitCode {
    aysfs_conformance::run(&Suite { frontend: &Fuser, reference: None, skips: &[] })
}
