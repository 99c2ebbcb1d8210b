//! The frontends there are: the value of `lib=`, and the crate behind it.

use aysfs_config::Lib;
use aysfs_vfs::Frontend;

/// The frontend for a library.
pub(crate) fn frontend(lib: Lib) -> &'static dyn Frontend {
    match lib {
        Lib::Fuser => &aysfs_frontend_fuser::Fuser,
        Lib::Fuse3 => &aysfs_frontend_fuse3::Fuse3,
        Lib::Polyfuse => &aysfs_frontend_polyfuse::Polyfuse,
    }
}
