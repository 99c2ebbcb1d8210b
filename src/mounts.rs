//! From what was asked for to mounted filesystems, and from a signal to unmounted ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use aysfs_config::FlistSource;
use aysfs_engine::AysFs;
use aysfs_engine::load::{self, Request, Source};
use aysfs_store::{Cache, CacheOptions, Mirror, Namespace, StorOptions};
use aysfs_vfs::{Frontend, Mount, MountError, MountOptions};
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::Refused;
use crate::commands::umount;
use crate::signals::Signals;

/// How long a mount that is busy is given to become free before it is detached.
const GRACE: Duration = Duration::from_secs(2);

/// One filesystem to mount.
pub(crate) struct Plan {
    pub(crate) point: PathBuf,
    pub(crate) flist: Request,
    /// Nearest first.
    pub(crate) stors: Vec<StorOptions>,
    pub(crate) namespace: Namespace,
    /// Directory of the backend.
    pub(crate) backend: PathBuf,
    /// The longest a reader waits.
    pub(crate) deadline: Duration,
    pub(crate) frontend: &'static dyn Frontend,
    pub(crate) options: MountOptions,
}

/// A plan whose flist is loaded and whose stors are open: mounting it can hardly fail any more.
struct Ready {
    plan: Plan,
    fs: AysFs,
}

/// Mounts everything, serves it, and unmounts it at SIGINT or SIGTERM. Returns when nothing is mounted any more.
///
/// Everything that can be wrong is found before the first mount, and all of it is reported.
pub(crate) async fn serve(plans: Vec<Plan>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let ready = tokio::select! {
        ready = prepare(plans) => ready?,
        by = signals.next() => bail!("stopped by {by} before anything was mounted"),
    };
    let mounted = mount(ready)?;
    info!("all mounts are up");

    let all_gone = futures::future::join_all(mounted.iter().map(|(_, mount)| mount.unmounted()));
    tokio::select! {
        _ = all_gone => info!("everything was unmounted"),
        by = signals.next() => {
            info!("{by}: unmounting");
            tokio::select! {
                done = unmount_all(&mounted) => done?,
                by = signals.next() => bail!("{by} again: stopped while mounts were still in use"),
            }
        }
    }
    Ok(())
}

/// Opens and loads what the plans need, and reports everything that is wrong with them.
async fn prepare(mut plans: Vec<Plan>) -> anyhow::Result<Vec<Ready>> {
    // Outer mounts first, whatever the order in the file.
    plans.sort_by_key(|plan| plan.point.components().count());
    let mut caches = BTreeMap::new();
    let mut ready: Vec<Ready> = Vec::new();
    let mut problems = Vec::new();
    for plan in plans {
        let point = plan.point.clone();
        // The directory of an inner mount is there when the outer one is.
        let is_inner = ready.iter().any(|outer| point.starts_with(&outer.plan.point));
        let free = if is_inner { Ok(()) } else { free_mount_point(&point) };
        let prepared = async { free.and(Ok(prepare_one(plan, &mut caches).await?)) };
        match prepared.await {
            Ok(one) => ready.push(one),
            Err(error) => problems.push(format!("{}: {error:#}", point.display())),
        }
    }
    if problems.is_empty() { Ok(ready) } else { Err(Refused(problems.join("\n       ")).into()) }
}

async fn prepare_one(plan: Plan, caches: &mut BTreeMap<PathBuf, Arc<Cache>>) -> anyhow::Result<Ready> {
    let stors = Arc::new(open_stors(&plan.stors, &plan.namespace)?);
    let cache = match caches.get(&plan.backend) {
        Some(cache) => cache.clone(),
        None => {
            let cache = open_cache(&plan.backend, plan.deadline)?;
            caches.insert(plan.backend.clone(), cache.clone());
            cache
        }
    };
    let base = load::load(&plan.flist, &plan.stors, plan.deadline, &plan.backend).await?;
    Ok(Ready { fs: AysFs::new(base, cache, stors), plan })
}

/// Where a flist is, in the words of the engine.
pub(crate) fn flist_source(source: &FlistSource) -> Source {
    match source {
        FlistSource::File(path) => Source::File(path.clone()),
        FlistSource::Url(url) => Source::Url(url.clone()),
    }
}

/// What `mount` lists as the source.
pub(crate) fn shown(source: &FlistSource) -> String {
    match source {
        FlistSource::File(path) => path.display().to_string(),
        FlistSource::Url(url) => aysfs_store::without_credentials(url).to_string(),
    }
}

fn open_stors(stors: &[StorOptions], namespace: &Namespace) -> anyhow::Result<Mirror> {
    let stors: Vec<_> =
        stors.iter().map(|stor| aysfs_store::open(stor, namespace)).collect::<Result<_, _>>()?;
    let mut stors = stors.into_iter();
    let first = stors.next().context("no stor to fetch content from")?;
    Ok(Mirror::new(first, stors))
}

/// The cache of the backend in `dir`.
pub(crate) fn open_cache(dir: &Path, deadline: Duration) -> anyhow::Result<Arc<Cache>> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the backend directory {}", dir.display()))?;
    Ok(Cache::open(&dir.join("cache"), CacheOptions { deadline, ..CacheOptions::default() })?)
}

/// Makes sure that `point` is a directory to mount on; a mount whose daemon died is taken away first.
fn free_mount_point(point: &Path) -> anyhow::Result<()> {
    match fs::metadata(point) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => bail!("the mount point is not a directory"),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            warn!("{}: taking away a mount whose daemon is dead", point.display());
            detach(point).context("cannot take away a mount whose daemon is dead")
        }
        Err(error) => Err(error).context("cannot use the mount point: make the directory first"),
    }
}

fn detach(point: &Path) -> anyhow::Result<()> {
    match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => umount::with_helper(point, true),
        Err(error) => Err(error.into()),
    }
}

/// Mounts all, or none.
fn mount(ready: Vec<Ready>) -> anyhow::Result<Vec<(PathBuf, Box<dyn Mount>)>> {
    let mut mounted: Vec<(PathBuf, Box<dyn Mount>)> = Vec::new();
    for Ready { plan, fs } in ready {
        let entries = fs.base().index().len();
        let one =
            free_mount_point(&plan.point).with_context(|| plan.point.display().to_string()).and_then(|()| {
                Ok(plan.frontend.mount(Arc::new(fs), &plan.point, &plan.options, &Handle::current())?)
            });
        match one {
            Ok(one) => mounted.push((plan.point.clone(), one)),
            Err(error) => {
                // Dropping a mount unmounts it; inner ones first.
                while mounted.pop().is_some() {}
                return Err(error);
            }
        }
        info!(entries, lib = plan.frontend.name(), "mounted {}", plan.point.display());
    }
    Ok(mounted)
}

async fn unmount_all(mounted: &[(PathBuf, Box<dyn Mount>)]) -> anyhow::Result<()> {
    // Inner mounts first.
    for (point, mount) in mounted.iter().rev() {
        unmount(point, mount.as_ref()).await?;
    }
    Ok(())
}

/// Unmounts one; if it stays busy, takes its name away and serves it until its last user is gone.
async fn unmount(point: &Path, mount: &dyn Mount) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + GRACE;
    let mut warned = false;
    loop {
        match mount.unmount(false).await {
            Err(MountError::Busy(_)) if tokio::time::Instant::now() < deadline => {
                if !warned {
                    warn!("{} is busy: waiting {GRACE:?} for its users", point.display());
                    warned = true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(MountError::Busy(_)) => {
                warn!(
                    "{} is still busy: detached; it is served until its last user is gone",
                    point.display()
                );
                mount.unmount(true).await?;
                mount.unmounted().await;
                return Ok(());
            }
            result => return Ok(result?),
        }
    }
}

/// Whether something is mounted on exactly this directory, even if its daemon is dead.
pub(crate) fn is_mount_point(point: &Path) -> anyhow::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|field| unescape(field) == point))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/mnt/a\040b\134c\012d"), Path::new("/mnt/a b\\c\nd"));
        assert_eq!(unescape(r"/mnt/end\04"), Path::new(r"/mnt/end\04"));
    }
}
