//! The frontends there are: the value of `lib=`, and the crate behind it.

use aysfs_config::Lib;
use aysfs_vfs::Frontend;

use crate::Refused;

/// The libraries that this build has a frontend for.
pub(crate) fn all() -> impl Iterator<Item = Lib> {
    Lib::ALL.into_iter().filter(|lib| frontend(*lib).is_ok())
}

/// The frontend for a library, if this build has it.
pub(crate) fn frontend(lib: Lib) -> anyhow::Result<&'static dyn Frontend> {
    match lib {
        Lib::Fuser => Ok(&aysfs_frontend_fuser::Fuser),
        Lib::Fuse3 | Lib::Polyfuse => {
            Err(Refused(format!("lib = \"{lib}\" is not in this version of aysfs: use \"fuser\"")).into())
        }
    }
}
