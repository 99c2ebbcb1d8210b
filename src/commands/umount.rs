//! `aysfs umount`: unmounts, whoever mounted.
//!
//! The process that serves the mount is asked to do it. Where that cannot be (it is dead or does not answer, it is in another
//! container, the mount is bound somewhere else as well), the kernel is.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::time::timeout;

use crate::cli::UmountArgs;
use crate::control::client::Asked;
use crate::control::protocol::Request;
use crate::control::unmount::Unmounted;
use crate::mount_points::{Detach, MountPoint, mounted_on, to_unmount, unmount};

/// How long a process may take that is to take away a name only.
const LAZILY: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: UmountArgs) -> anyhow::Result<()> {
    let (point, detach) = (args.mountpoint, if args.lazy { Detach::Lazily } else { Detach::No });
    let mount = to_unmount(&point)?;
    let asked = match detach {
        Detach::No => ask(&mount, &point, detach).await,
        Detach::Lazily => match timeout(LAZILY, ask(&mount, &point, detach)).await {
            Ok(asked) => asked,
            Err(_) => Err(anyhow!("no answer within {LAZILY:?}")),
        },
    };
    match asked {
        Ok(Unmounted::Done) => Ok(()),
        Ok(Unmounted::Busy) => {
            bail!("{} is busy: close the files that are open there, or use --lazy", point.display())
        }
        Err(error) => {
            tracing::debug!("the process that serves {} does not unmount it: {error:#}", point.display());
            // It may have ended with its last mount before its answer was on the way.
            match mounted_on(&mount.point)? {
                Some(still) if still.id == mount.id => unmount(&point, detach),
                _ => Ok(()),
            }
        }
    }
}

async fn ask(mount: &MountPoint, point: &Path, detach: Detach) -> anyhow::Result<Unmounted> {
    let asked = Asked::serving(mount.clone(), point).await?;
    let request = Request::Unmount { mount: mount.device, id: mount.id, detach };
    asked.ask(&request, |()| Ok(()), |_| {}).await
}
