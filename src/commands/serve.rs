//! `aysfs -config FILE`: mounts everything that a config file names.

use std::path::Path;
use std::time::Duration;

use aysfs_config::{Flist, FlistTimes, Mode, Mount, Passthrough, Stor, StorUrl};
use aysfs_engine::load::Request;
use aysfs_flist::{ParseOptions, Times};
use aysfs_store::{RequireTls, StorOptions};
use aysfs_vfs::MountOptions;
use tracing::warn;
use url::Url;

use crate::Refused;
use crate::commands::config;
use crate::frontends::frontend;
use crate::monitor::Address;
use crate::mounts::{self, Plan};

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
    if !problems.is_empty() {
        return Err(Refused(problems.join("\n       ")).into());
    }
    mounts::serve(plans, pprof).await
}

/// What a config asks of this mount that this version does not do.
fn without_effect(mount: &Mount) -> Vec<&'static str> {
    let backend = &mount.backend;
    let asked = [
        ("upload", backend.upload),
        ("publish", backend.publish),
        ("encrypted", backend.encryption.is_some()),
        ("cleanup_older_than", backend.cleanup_older_than.is_some()),
        ("cache_size", backend.cache_size.is_some()),
        ("flist_refresh", mount.mode.flist().is_some_and(|flist| flist.refresh.is_some())),
    ];
    asked.into_iter().filter(|(_, asked)| *asked).map(|(key, _)| key).collect()
}

/// What has to be done for one mount of a config.
fn plan(mount: &Mount) -> anyhow::Result<Plan> {
    let idle = without_effect(mount);
    if !idle.is_empty() {
        let (point, idle) = (mount.path.display(), idle.join(", "));
        warn!("{point}: not in this version of aysfs, and without effect: {idle}");
    }
    let backend = &mount.backend;
    let stors =
        mount.stors.iter().map(|stor| stor_options(stor, backend.deadline)).collect::<Result<_, _>>()?;
    Ok(Plan {
        point: mount.path.clone(),
        flist: mount.mode.flist().map(request),
        stors,
        namespace: backend.namespace.as_str().parse().expect("the config has checked it"),
        backend: backend.path.clone(),
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
    })
}

fn request(flist: &Flist) -> Request {
    let times = match flist.times {
        FlistTimes::Auto => Times::Auto,
        FlistTimes::Spec => Times::Spec,
        FlistTimes::Swapped => Times::Swapped,
    };
    Request {
        source: mounts::flist_source(&flist.source),
        parse: ParseOptions { trim: flist.trim.clone(), times, ..ParseOptions::default() },
        trusted_keys: flist.trusted_keys.clone(),
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
