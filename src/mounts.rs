//! From what was asked for to mounted filesystems, and from a signal to unmounted ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use aysfs_config::{FlistSource, Prefetch, Schedule};
use aysfs_engine::load::{self, Request, Source};
use aysfs_engine::push::Pusher;
use aysfs_engine::{AysFs, Base, Overlay, Upper};
use aysfs_store::cache::Limits;
use aysfs_store::crypt::PublicKey;
use aysfs_store::{Cache, CacheOptions, Mirror, Namespace, StorOptions};
use aysfs_vfs::{Frontend, Ino, Measured, Mount, MountError, MountOptions, Operations, Vfs};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::about::{About, Shows};
use crate::cleaning::{self, Caches, Cleaning};
use crate::control::{Control, Served};
use crate::jobs::Job;
use crate::monitor::{Address, Reserved, Watched, WatchedMount};
use crate::mount_points::{Detach, make_free, mounted_on, real};
use crate::prefetch::Prefetching;
use crate::push::{PushPlan, Pushing};
use crate::reload::{self, AtSignal, Reloaded, Reloading};
use crate::signals::Signals;
use crate::{Refused, access, keys};

/// How long a mount that is busy is given to become free before it is detached.
const GRACE: Duration = Duration::from_secs(2);

/// One filesystem to mount.
pub(crate) struct Plan {
    pub(crate) point: PathBuf,
    /// The base; without one, an empty tree.
    pub(crate) flist: Option<Request>,
    /// Whom new content and new flists are encrypted for, besides those that the flist is encrypted for.
    pub(crate) recipients: Vec<PublicKey>,
    /// When to look for a newer one.
    pub(crate) refresh: Option<Schedule>,
    /// What is fetched before anybody reads it.
    pub(crate) prefetch: Prefetch,
    /// Nearest first.
    pub(crate) stors: Vec<StorOptions>,
    pub(crate) namespace: Namespace,
    /// Directory of the backend.
    pub(crate) backend: PathBuf,
    /// The same for all plans with that directory.
    pub(crate) cleaning: Cleaning,
    /// The longest a reader waits.
    pub(crate) deadline: Duration,
    pub(crate) frontend: &'static dyn Frontend,
    pub(crate) options: MountOptions,
    /// What its config calls the mode: RO, OL or RW.
    pub(crate) mode: &'static str,
    /// Whether and when local changes are pushed.
    pub(crate) push: Option<PushPlan>,
}

/// A plan whose flist is loaded and whose stors are open: mounting it can hardly fail any more.
struct Ready {
    plan: Plan,
    entries: usize,
    fs: Arc<dyn Vfs>,
    shows: Shows,
    pusher: Option<Arc<Pusher>>,
    about: Arc<About>,
}

impl Ready {
    /// Its cache, by the directory of the backend, and when to clean it.
    fn cache(&self) -> (PathBuf, (Arc<Cache>, Schedule)) {
        (self.plan.backend.clone(), (self.about.cache.clone(), self.plan.cleaning.schedule.clone()))
    }
}

/// What is mounted.
pub(crate) struct Mounted {
    /// Of one that has a flist; dropped before what it reloads.
    reload: Option<Job<Reloaded>>,
    /// Of one that fetches what nobody has asked for yet.
    prefetch: Option<Prefetching>,
    /// Of one whose changes are pushed, until it is not mounted any more.
    push: Mutex<Option<Pushing>>,
    point: PathBuf,
    mount: Arc<dyn Mount>,
    /// Set when it is not mounted any more.
    is_gone: Arc<AtomicBool>,
}

impl Mounted {
    /// Returns when it is not mounted any more.
    pub(crate) async fn unmounted(&self) {
        self.mount.unmounted().await;
        self.is_gone.store(true, Ordering::Relaxed);
        self.prefetch.iter().for_each(Prefetching::stop);
        // Held until it is over: whoever waits for that may want to mount the same changes.
        let mut push = self.push.lock().await;
        if let Some(push) = push.take() {
            // What is not pushed yet stays where it is, and is pushed when it is mounted again.
            push.stop().await;
        }
    }

    /// Makes the kernel drop what it has in memory of these files. Blocks.
    pub(crate) fn invalidate(&self, files: &[Ino]) -> io::Result<()> {
        files.iter().try_for_each(|ino| self.mount.invalidate_inode(*ino))
    }

    /// Unmounts it, as [`Mount::unmount`] does.
    pub(crate) async fn unmount(&self, detach: Detach) -> Result<(), MountError> {
        self.mount.unmount(detach == Detach::Lazily).await
    }
}

/// Mounts everything, serves it, and unmounts it at SIGINT or SIGTERM. Returns when nothing is mounted any more.
///
/// Everything that can be wrong is found before the first mount, and all of it is reported. With an address for `pprof`, what is
/// mounted can be looked at there.
pub(crate) async fn serve(plans: Vec<Plan>, pprof: Option<Address>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let reload_signal = Signals::reload()?;
    let reserved = match &pprof {
        Some(address) => Some(Reserved::new(address).await?),
        None => None,
    };
    let mut ready = tokio::select! {
        ready = prepare(plans) => ready?,
        by = signals.next() => bail!("stopped by {by} before anything was mounted"),
    };
    let watched = reserved.is_some().then(|| watch(&mut ready));
    let caches: Caches = ready.iter().map(Ready::cache).collect();
    let (mounted, served) = mount(ready)?;
    // Until all is over, as the next ones.
    let _cleaners = cleaning::start(caches);
    let reloads = mounted.iter().filter_map(|one| Some(one.reload.as_ref()?.asking()));
    let _at_signal = AtSignal::start(reload_signal, reloads.collect());
    let _monitor = reserved.zip(watched).map(|(reserved, watched)| reserved.serve(watched));
    let _control = Control::start(served).await;
    info!("all mounts are up");

    let all_gone = futures::future::join_all(mounted.iter().map(|one| one.unmounted()));
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
    let (mut ready, mut points, mut problems) = (Vec::new(), Vec::<PathBuf>::new(), Vec::new());
    for plan in plans {
        let point = plan.point.clone();
        let mut wrong = |error: anyhow::Error| problems.push(error.context(point.display().to_string()));
        // The directory of an inner mount is there when the outer one is.
        if !points.iter().any(|outer| point.starts_with(outer))
            && let Err(error) = make_free(&point)
        {
            wrong(error);
        }
        match prepare_one(plan, &mut caches).await {
            Ok(one) => ready.push(one),
            Err(errors) => errors.into_iter().for_each(wrong),
        }
        points.push(point);
    }
    if problems.is_empty() { Ok(ready) } else { Err(together(&problems)) }
}

/// One error for several; it is a refusal if one of them is.
fn together(problems: &[anyhow::Error]) -> anyhow::Error {
    let text = problems.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("\n       ");
    let refused = problems.iter().any(|error| error.is::<Refused>());
    if refused { Refused(text).into() } else { anyhow!(text) }
}

async fn prepare_one(
    plan: Plan,
    caches: &mut BTreeMap<PathBuf, Arc<Cache>>,
) -> Result<Ready, Vec<anyhow::Error>> {
    let stors = open_stors(&plan.stors, &plan.namespace);
    let cache = match caches.get(&plan.backend) {
        Some(cache) => Ok(cache.clone()),
        None => open_cache(&plan.backend, plan.deadline, plan.cleaning.limits)
            .inspect(|cache| drop(caches.insert(plan.backend.clone(), cache.clone()))),
    };
    // What is wrong with a stor or with the backend would only be said again.
    let can_load = |source: &Source| cache.is_ok() && (stors.is_ok() || matches!(source, Source::File(_)));
    let base = match &plan.flist {
        Some(flist) if can_load(&flist.source) => {
            load(flist, &plan.stors, plan.deadline, &plan.backend).await.map(Some)
        }
        None if cache.is_ok() => Base::empty(&plan.backend.join("index")).map(Some).map_err(Into::into),
        _ => Ok(None),
    };
    match (stors, cache, base) {
        (Ok(stors), Ok(cache), Ok(Some(base))) => {
            let entries = base.index().len();
            // Who only reads encrypts nothing.
            let recipients = if plan.options.read_only { &[][..] } else { &plan.recipients };
            let sealing = keys::sealing_of_mount(base.sealing(), recipients, &plan.backend)
                .map_err(|error| vec![error])?;
            let stors = base.unlock(stors).map_err(|error| vec![error.into()])?;
            let stors = Arc::new(stors.sealed_with(sealing));
            let shown = show(base, cache.clone(), stors.clone(), &plan).map_err(|error| vec![error])?;
            let Shown { fs, shows, pusher } = shown;
            let about = Arc::new(About {
                since: Instant::now(),
                mode: plan.mode,
                source: plan.options.source.clone(),
                lib: plan.frontend.name(),
                cache,
                stors,
                pusher: pusher.as_ref().map(Arc::downgrade),
            });
            Ok(Ready { fs, shows, pusher, entries, plan, about })
        }
        (stors, cache, base) => Err([stors.err(), cache.err(), base.err()].into_iter().flatten().collect()),
    }
}

/// What is to be mounted, and who else has to do with it.
struct Shown {
    fs: Arc<dyn Vfs>,
    shows: Shows,
    pusher: Option<Arc<Pusher>>,
}

/// What the kernel is to see of a base.
fn show(base: Base, cache: Arc<Cache>, stors: Arc<Mirror>, plan: &Plan) -> anyhow::Result<Shown> {
    let lower = AysFs::new(base, cache, stors.clone());
    if plan.options.read_only {
        let fs = Arc::new(lower);
        let shows = Shows::Base(Arc::downgrade(&fs));
        return Ok(Shown { fs, shows, pusher: None });
    }
    let upper = Upper::open(&plan.backend, &real(&plan.point))?;
    let name = upper.name().to_owned();
    let overlay = Arc::new(Overlay::new(lower, upper)?);
    let pusher = plan.push.as_ref().map(|push| {
        let dir = plan.backend.join("push").join(name);
        push.pusher(&overlay, dir, &plan.namespace, &stors)
    });
    let shows = Shows::Changes(Arc::downgrade(&overlay));
    Ok(Shown { fs: overlay, shows, pusher: pusher.transpose()? })
}

/// Has each call of what is to be mounted counted: only for those who want to look, since it costs a little.
fn watch(ready: &mut [Ready]) -> Watched {
    let mut watched = Watched { since: SystemTime::now(), mounts: Vec::new(), caches: Vec::new() };
    for Ready { plan, fs, shows, about, .. } in ready {
        let operations = Arc::<Operations>::default();
        *fs = Arc::new(Measured::new(fs.clone(), operations.clone()));
        if !watched.caches.iter().any(|(_, known)| Arc::ptr_eq(known, &about.cache)) {
            watched.caches.push((plan.backend.clone(), about.cache.clone()));
        }
        watched.mounts.push(WatchedMount {
            point: plan.point.clone(),
            backend: plan.backend.clone(),
            shows: shows.clone(),
            about: about.clone(),
            operations,
        });
    }
    watched
}

/// Loads a flist; one that is wrong is refused.
pub(crate) async fn load(
    request: &Request,
    stors: &[StorOptions],
    deadline: Duration,
    backend: &Path,
) -> anyhow::Result<Base> {
    load::load(request, stors, deadline, backend).await.map_err(|error| {
        let permanent = error.is_permanent();
        let error = anyhow::Error::from(error);
        if permanent { Refused(format!("{error:#}")).into() } else { error }
    })
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
    let open = |stor| Ok(access::to_write(access::open(stor, namespace)?, namespace));
    let stors: Vec<_> = stors.iter().map(open).collect::<anyhow::Result<_>>()?;
    let mut stors = stors.into_iter();
    let first = stors.next().context("no stor to fetch content from")?;
    Ok(Mirror::new(first, stors))
}

/// The cache of the backend in `dir`.
pub(crate) fn open_cache(dir: &Path, deadline: Duration, limits: Limits) -> anyhow::Result<Arc<Cache>> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot make the backend directory {}", dir.display()))?;
    Ok(Cache::open(&dir.join("cache"), CacheOptions { deadline, limits, ..CacheOptions::default() })?)
}

/// Mounts all, or none.
fn mount(ready: Vec<Ready>) -> anyhow::Result<(Vec<Arc<Mounted>>, Vec<Served>)> {
    let (mut mounted, mut served) = (Vec::<Arc<Mounted>>::new(), Vec::new());
    for Ready { plan, entries, fs, shows, pusher, about } in ready {
        let is_gone = Arc::<AtomicBool>::default();
        // Before there are readers: what is on its way they wait for.
        let prefetch = Prefetching::start(plan.prefetch, &plan.point, &shows);
        let one = make_free(&plan.point)
            .with_context(|| plan.point.display().to_string())
            .and_then(|()| Ok(plan.frontend.mount(fs, &plan.point, &plan.options, &Handle::current())?));
        let mount = match one {
            Ok(mount) => Arc::<dyn Mount>::from(mount),
            Err(error) => {
                // Dropping a mount unmounts it; inner ones first.
                while mounted.pop().is_some() {}
                return Err(error);
            }
        };
        let reload = plan.flist.map(|flist| {
            let reloading = Reloading {
                point: plan.point.clone(),
                flist,
                stors: plan.stors,
                deadline: plan.deadline,
                backend: plan.backend.clone(),
                shows: shows.clone(),
                mount: Arc::downgrade(&mount),
                is_gone: is_gone.clone(),
                prefetch: prefetch.as_ref().map(Prefetching::another),
            };
            reload::start(reloading, plan.refresh)
        });
        let asking = reload.as_ref().map(Job::asking);
        let push = pusher.zip(plan.push.as_ref()).map(|(pusher, push)| push.start(pusher, &plan.point));
        let one = Arc::new(Mounted {
            reload,
            prefetch,
            push: Mutex::new(push),
            point: plan.point.clone(),
            mount,
            is_gone: is_gone.clone(),
        });
        info!(entries, lib = plan.frontend.name(), "mounted {}", plan.point.display());
        // Somebody may have unmounted it already.
        if let Some(listed) = mounted_on(&real(&plan.point))? {
            served.push(Served {
                point: plan.point,
                device: listed.device,
                id: listed.id,
                backend: plan.backend,
                shows,
                reload: asking,
                about,
                mounted: Arc::downgrade(&one),
                is_gone,
            });
        }
        mounted.push(one);
    }
    Ok((mounted, served))
}

async fn unmount_all(mounted: &[Arc<Mounted>]) -> anyhow::Result<()> {
    // Inner mounts first.
    for one in mounted.iter().rev() {
        unmount(&one.point, one.mount.as_ref()).await?;
        // At once, if it is.
        one.unmounted().await;
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
