//! `aysfs umount`: the process that serves a mount takes it away itself, so that it knows why it ends.

use anyhow::bail;
use aysfs_vfs::MountError;
use serde::{Deserialize, Serialize};

use super::server::Served;
use crate::mount_points::Detach;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unmounted {
    /// It is not mounted any more, and nothing that was under way is lost; of one that is detached lazily: it has no name any more.
    Done,
    /// Somebody uses it, and stays in it.
    Busy,
}

/// Unmounts what has this number in the mount table.
pub(super) async fn unmount(served: &Served, id: u64, detach: Detach) -> anyhow::Result<Unmounted> {
    let point = served.point.display();
    let mount = served.mounted.upgrade().filter(|_| served.id == id);
    // The same filesystem may be bound to other directories, and be seen in other namespaces.
    let Some(mount) = mount else { bail!("that is not the mount on {point} which is served here") };
    tracing::info!("asked to unmount {point}");
    match mount.unmount(detach).await {
        Ok(()) if detach == Detach::Lazily => Ok(Unmounted::Done),
        Ok(()) => {
            mount.unmounted().await;
            Ok(Unmounted::Done)
        }
        Err(MountError::Busy(_)) => Ok(Unmounted::Busy),
        Err(error) => Err(error.into()),
    }
}
