//! One file per subcommand.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod commit;
pub(crate) mod config;
pub(crate) mod diff;
pub(crate) mod flist;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod keygen;
pub(crate) mod mount;
pub(crate) mod pack;
pub(crate) mod profile;
pub(crate) mod push;
pub(crate) mod reload;
pub(crate) mod repack;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod stor;
pub(crate) mod umount;
pub(crate) mod unpack;
pub(crate) mod warm;
pub(crate) mod why;
