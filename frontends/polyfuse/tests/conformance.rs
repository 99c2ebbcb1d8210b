//! The suite that every frontend runs.

use std::process::ExitCode;

use aysfs_conformance::{Skip, Suite, Targets};
use aysfs_frontend_fuser::Fuser;
use aysfs_frontend_polyfuse::Polyfuse;

/// polyfuse does not decode `FUSE_LSEEK`: the kernel then takes every file as one piece of data.
const NO_LSEEK: &str = "polyfuse does not know lseek";
/// polyfuse cannot ask for `FUSE_DIRECT_IO_ALLOW_MMAP`, which is beyond the first 32 flags.
const NO_UNCACHED_MAPPINGS: &str = "polyfuse cannot ask for shared mappings of files that are not cached";

/// Of local changes, not of this frontend.
const OWN_CTIME: &str = "the root is a directory of the upper, and nobody can set the ctime of a file";

const SKIPS: &[Skip] = &[
    Skip {
        case: "tree::every_entry_has_its_attributes",
        targets: Targets::Only(&["overlay_of_sample", "overlay_of_sample_no_passthrough"]),
        reason: OWN_CTIME,
    },
    Skip::everywhere("content::holes_are_found", NO_LSEEK),
    Skip::everywhere("content::punched_holes_are_found", NO_LSEEK),
    Skip::everywhere("reading::data_and_holes_are_found", NO_LSEEK),
    Skip::everywhere("caching::an_uncached_file_can_be_mapped", NO_UNCACHED_MAPPINGS),
];

fn main() -> ExitCode {
    aysfs_conformance::run(&Suite { frontend: &Polyfuse, reference: Some(&Fuser), skips: SKIPS })
}
