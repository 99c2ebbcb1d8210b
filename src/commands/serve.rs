//! `aysfs -config FILE`: mounts everything that a config file names.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aysfs_config::{Encryption, Flist, FlistSource, FlistTimes, Mode, Mount, Passthrough, Stor, StorUrl};
use aysfs_engine::load::Request;
use aysfs_flist::{ParseOptions, Times};
use aysfs_store::crypt::{KeyFile, PrivateKey, PublicKey};
use aysfs_store::{RequireTls, StorOptions};
use aysfs_vfs::MountOptions;
use tracing::warn;
use url::Url;

use crate::Refused;
use crate::cleaning::Cleaning;
use crate::commands::config;
use crate::frontends::frontend;
use crate::keys;
use crate::monitor::Address;
use crate::mounts::{self, Plan};
use crate::push::PushPlan;

pub(crate) async fn run(file: &Path, pprof: Option<Address>) -> anyhow::Result<()> {
    let config = config::load(file)?;
    for notice in &config.notices {
        warn!("{notice}");
    }
    let (mut plans, mut problems) = (Vec::new(), Vec::new());
    for mount in &config.mounts {
        match plan(mount) {
            Ok(plan) => plans.push(plan),
            Err(error) => problems.push(format!("{}: {error:#}", mount.path.display())),
        }
    }
    problems.extend(published_twice(&plans));
    if !problems.is_empty() {
        return Err(Refused(problems.join("\n       ")).into());
    }
    mounts::serve(plans, pprof).await
}

/// Mounts that would publish the same list in turn.
fn published_twice(plans: &[Plan]) -> Vec<String> {
    let mut first = BTreeMap::new();
    let publishing = plans.iter().filter(|plan| plan.push.as_ref().is_some_and(|push| push.publish));
    let twice = publishing.filter_map(|plan| {
        let list = (plan.stors.first()?.url.as_str(), plan.namespace.to_string());
        let other = *first.entry(list).or_insert(&plan.point);
        (other != &plan.point).then(|| {
            format!(
                "{}: {} publishes its tree under the same namespace ({}): give one of them a backend with another namespace",
                plan.point.display(),
                other.display(),
                plan.namespace
            )
        })
    });
    twice.collect()
}

/// What has to be done for one mount of a config.
fn plan(mount: &Mount) -> anyhow::Result<Plan> {
    let refresh = mount.mode.flist().and_then(|flist| Some((&flist.source, flist.refresh.as_ref()?)));
    if let Some((FlistSource::File(_), _)) = refresh {
        let point = mount.path.display();
        warn!(
            "{point}: flist_refresh is for a flist behind a URL: aysfs reload or SIGUSR1 reloads one in a file"
        );
    }
    let backend = &mount.backend;
    let is_writable = matches!(mount.mode, Mode::ReadWrite(_));
    if is_writable && backend.publish && !backend.upload {
        warn!("{}: publish has no effect without upload = true", mount.path.display());
    }
    let (private_keys, recipients) = encryption(backend.encryption.as_ref())?;
    let stors =
        mount.stors.iter().map(|stor| stor_options(stor, backend.deadline)).collect::<Result<_, _>>()?;
    Ok(Plan {
        point: mount.path.clone(),
        flist: mount.mode.flist().map(|flist| request(flist, private_keys)),
        recipients,
        refresh: match refresh {
            Some((FlistSource::Url(_), schedule)) => Some(schedule.clone()),
            Some((FlistSource::File(_), _)) | None => None,
        },
        prefetch: mount.prefetch,
        stors,
        namespace: backend.namespace.as_str().parse().expect("the config has checked it"),
        backend: backend.path.clone(),
        cleaning: Cleaning::new(
            backend.cleanup_schedule.clone(),
            backend.cleanup_older_than,
            backend.cache_size,
            backend.cache_min_free,
        ),
        deadline: backend.deadline,
        frontend: frontend(backend.lib),
        mode: match mount.mode {
            Mode::ReadOnly(_) => "RO",
            Mode::Overlay(_) => "OL",
            Mode::ReadWrite(_) => "RW",
        },
        options: MountOptions {
            source: match mount.mode.flist() {
                Some(flist) => mounts::shown(&flist.source),
                None => backend.path.display().to_string(),
            },
            read_only: matches!(mount.mode, Mode::ReadOnly(_)),
            allow_other: mount.allow_other,
            suid: mount.suid,
            dev: mount.dev,
            passthrough: match backend.passthrough {
                Passthrough::Auto => aysfs_vfs::Passthrough::Auto,
                Passthrough::Off => aysfs_vfs::Passthrough::Off,
            },
        },
        push: (backend.upload && is_writable).then(|| PushPlan {
            schedule: backend.push_schedule.clone(),
            publish: backend.publish,
            compression: backend.compression,
            log: backend.log.clone(),
        }),
    })
}

/// What can be opened with the keys of a backend, and whom it encrypts for.
fn encryption(keys: Option<&Encryption>) -> anyhow::Result<(Vec<PrivateKey>, Vec<PublicKey>)> {
    let (mut private, mut public) = (Vec::new(), Vec::new());
    let Some(Encryption { user_key, store_key }) = keys else { return Ok((private, public)) };
    for file in std::iter::once(user_key).chain(store_key) {
        let key = keys::either(file)?;
        public.push(key.public());
        if let KeyFile::Private(key) = key {
            private.push(key);
        }
    }
    Ok((private, public))
}

fn request(flist: &Flist, private_keys: Vec<PrivateKey>) -> Request {
    let times = match flist.times {
        FlistTimes::Auto => Times::Auto,
        FlistTimes::Spec => Times::Spec,
        FlistTimes::Swapped => Times::Swapped,
    };
    Request {
        source: mounts::flist_source(&flist.source),
        parse: ParseOptions { trim: flist.trim.clone(), times, ..ParseOptions::default() },
        trusted_keys: flist.trusted_keys.clone(),
        private_keys,
    }
}

fn stor_options(stor: &Stor, deadline: Duration) -> anyhow::Result<StorOptions> {
    let url = match &stor.url {
        StorUrl::Http(url) | StorUrl::Object(url) => url.clone(),
        StorUrl::Directory(path) => Url::from_directory_path(path)
            .map_err(|()| anyhow::anyhow!("{} is not absolute", path.display()))?,
    };
    let account = stor.account.as_ref();
    Ok(StorOptions {
        url,
        login: account.map(|account| account.login.clone()),
        passwd: account.map(|account| account.password.expose().to_owned()),
        ca: stor.ca.clone(),
        require_tls: if stor.require_tls { RequireTls::Yes } else { RequireTls::No },
        deadline,
    })
}
