//! The suite that every frontend runs.

use std::process::ExitCode;

use aysfs_conformance::{Skip, Suite, Targets};
use aysfs_frontend_fuse3::Fuse3;
use aysfs_frontend_fuser::Fuser;

/// `FUSE_DIRECT_IO_ALLOW_MMAP` is beyond the first 32 flags.
const NO_UNCACHED_MAPPINGS: &str = "fuse3 cannot ask for shared mappings of files that are not cached";

/// The answer to a lookup has one `ttl`, which is the shorter of the two.
const ONE_TIME_TO_LIVE: &str = "fuse3 cannot send two times to live with a name";

/// Of local changes, not of this frontend.
const OWN_CTIME: &str = "the root is a directory of the upper, and nobody can set the ctime of a file";

const SKIPS: &[Skip] = &[
    Skip {
        case: "tree::every_entry_has_its_attributes",
        targets: Targets::Only(&["overlay_of_sample", "overlay_of_sample_no_passthrough"]),
        reason: OWN_CTIME,
    },
    Skip::everywhere("caching::an_uncached_file_can_be_mapped", NO_UNCACHED_MAPPINGS),
    Skip::everywhere("caching::names_are_believed_when_attributes_are_not", ONE_TIME_TO_LIVE),
];

fn main() -> ExitCode {
    aysfs_conformance::run(&Suite { frontend: &Fuse3, reference: Some(&Fuser), skips: SKIPS })
}
