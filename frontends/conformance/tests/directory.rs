//! Tests the cases: on the local disk there is nothing of ours that could be wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    aysfs_conformance::run_locally()
}
