//! `aysfs umount`: unmounts, whoever mounted.

use crate::cli::UmountArgs;
use crate::mount_points::{Detach, unmount};

pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<()> {
    unmount(&args.mountpoint, if args.lazy { Detach::Lazily } else { Detach::No })
}
