//! `aysfs mount`: one mount, from the command line.

use std::path::PathBuf;

use anyhow::Context;
use aysfs_engine::load::Request;
use aysfs_flist::ParseOptions;
use aysfs_vfs::{MountOptions, Passthrough};

use crate::access::{self, Access};
use crate::cleaning::Cleaning;
use crate::cli::{Mode, MountArgs};
use crate::frontends::frontend;
use crate::keys;
use crate::mounts::{self, Plan};

pub(crate) async fn run(args: MountArgs) -> anyhow::Result<()> {
    let pprof = args.pprof.clone();
    mounts::serve(vec![plan(args)?], pprof).await
}

fn plan(args: MountArgs) -> anyhow::Result<Plan> {
    let access = Access::of(&args.stor)?;
    let flist = access::flist(&args.flist)?;
    let point = std::path::absolute(&args.mountpoint)?;
    let trim = if args.trim_base { Some(point.clone()) } else { args.trim };
    let root = rustix::process::geteuid().is_root();
    Ok(Plan {
        options: MountOptions {
            source: mounts::shown(&flist),
            read_only: args.mode == Mode::ReadOnly,
            allow_other: args.allow_other || root,
            suid: false,
            dev: false,
            passthrough: Passthrough::Auto,
        },
        point,
        flist: Some(Request {
            source: mounts::flist_source(&flist),
            parse: ParseOptions { trim, ..ParseOptions::default() },
            trusted_keys: Vec::new(),
            private_keys: keys::private(args.reader.key.as_deref())?,
        }),
        recipients: Vec::new(),
        refresh: None,
        prefetch: args.prefetch,
        stors: vec![access.stor],
        namespace: access.namespace,
        backend: match args.cache {
            Some(dir) => dir,
            None => default_backend(root)?,
        },
        cleaning: Cleaning::new(
            // Of use for those who give an age; there is none here, and the size is kept all the time.
            "@every 24h".parse().expect("a schedule"),
            None,
            args.cache_size,
            args.cache_min_free,
        ),
        deadline: access.deadline,
        frontend: frontend(args.lib),
        mode: args.mode.name(),
        push: None,
    })
}

/// Where caches belong (file-hierarchy(7)): shared by all mounts of a user.
fn default_backend(root: bool) -> anyhow::Result<PathBuf> {
    if root {
        return Ok("/var/cache/aysfs".into());
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let cache = cache
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set: name a directory with --cache")?;
    Ok(cache.join("aysfs"))
}
