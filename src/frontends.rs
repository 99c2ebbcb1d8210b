//! The frontends there are: the value of `lib=`, and the crate behind it.

use aysfs_config::Lib;
use aysfs_vfs::Frontend;

use crate::Refused;

/// The frontend for a library, if this build has it.
pub(crate) fn frontend(lib: Lib) -> anyhow::Result<&'static dyn Frontend> {
    match lib {
        Lib::Fuser => Ok(&aysfs_frontend_fuser::Fuser),
        Lib::Polyfuse => Ok(&aysfs_frontend_polyfuse::Polyfuse),
        Lib::Fuse3 => {
            Err(Refused(format!("lib = \"{lib}\" is not in this version of aysfs: use \"fuser\"")).into())
        }
    }
}
