//! A stor that was named on the command line.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aysfs_config::{FlistSource, StorUrl, parse_duration};
use aysfs_store::garbage::Rescuing;
use aysfs_store::{Namespace, OpenError, StorOptions, Store};
use url::Url;

use crate::Refused;
use crate::cli::StorAccess;

/// What the options of a subcommand say about its stor.
pub(crate) struct Access {
    pub(crate) stor: StorOptions,
    pub(crate) namespace: Namespace,
    pub(crate) deadline: Duration,
}

impl Access {
    /// Checks what was typed, and reads the password.
    pub(crate) fn of(args: &StorAccess) -> anyhow::Result<Self> {
        Self::read(args).map_err(|error| Refused(format!("{error:#}")).into())
    }

    fn read(args: &StorAccess) -> anyhow::Result<Self> {
        let deadline = parse_duration(&args.deadline).context("--deadline")?;
        // Its errors do not repeat the URL, which may hold a password.
        StorUrl::parse(&args.stor).context("--stor")?;
        let mut stor = StorOptions::new(Url::parse(&args.stor).context("--stor")?);
        stor.deadline = deadline;
        stor.login = args.login.clone();
        stor.ca = args.ca.clone();
        if let Some(file) = &args.passwd_file {
            let passwd = fs::read_to_string(file)
                .with_context(|| format!("cannot read the password file {}", file.display()))?;
            stor.passwd = Some(passwd.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(Self { stor, namespace: args.namespace.parse().context("--namespace")?, deadline })
    }

    pub(crate) fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        open(&self.stor, &self.namespace)
    }
}

/// Opens a stor; an address that cannot be used is refused.
pub(crate) fn open(stor: &StorOptions, namespace: &Namespace) -> anyhow::Result<Arc<dyn Store>> {
    aysfs_store::open(stor, namespace).map_err(|error| match error {
        OpenError::Directory { .. } => error.into(),
        _ => Refused(error.to_string()).into(),
    })
}

/// The same stor, for whoever writes to it: what he relies on is not deleted as garbage meanwhile.
pub(crate) fn to_write(stor: Arc<dyn Store>, namespace: &Namespace) -> Arc<dyn Store> {
    Rescuing::around(stor, namespace)
}

/// Where the flist is that was named on the command line.
pub(crate) fn flist(text: &str) -> anyhow::Result<FlistSource> {
    text.parse().map_err(|error| Refused(format!("the flist: {error}")).into())
}
