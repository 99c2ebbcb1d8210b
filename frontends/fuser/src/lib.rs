//! Adapter from the fuser library to the [`Vfs`](aysfs_vfs::Vfs) contract.
//!
//! [`Fuser`] mounts directly where it may (root), and through `fusermount3` otherwise. fuser reads the kernel's
//! messages on a few threads; each message becomes one future of the contract, which is polled on that thread and
//! moves to the runtime only if it has to wait. It is the one frontend that can do passthrough.
//!
//! Invariants:
//! - every message gets exactly one answer, and [`Mount::unmounted`](aysfs_vfs::Mount::unmounted) returns after
//!   the last one;
//! - unmounting is asked of the kernel first, and the session serves until the kernel says that it is over: no
//!   changed page, release or forget is lost because someone stopped listening;
//! - permissions are the kernel's business (`default_permissions`), locks are local to it.
//!
//! # What fuser does not let through
//!
//! - Interrupts: fuser answers them itself, so a reader that gets a signal waits for its answer all the same.
//! - Two times to live in answers to `create` and `readdirplus`: the shorter one counts there.
//! - A time of exactly `i64::MIN` seconds in `setattr` panics inside fuser, which costs one of its threads.
//!   (Other times before 1970 arrive wrong, but in a way that can be undone.)

mod adapter;
mod convert;
mod listing;
mod mount;
mod passthrough;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use aysfs_vfs::{Frontend, Mount, MountError, MountOptions, Vfs};
use fuser::{Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;

use crate::adapter::Adapter;
use crate::mount::FuserMount;

/// The value of the config key `lib` that selects this frontend.
const NAME: &str = "fuser";

/// The frontend over the fuser library.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fuser;

impl Frontend for Fuser {
    fn name(&self) -> &'static str {
        NAME
    }

    fn mount(
        &self,
        vfs: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError> {
        let refused = |source| MountError::Mount { path: at.to_owned(), source };
        let privileged = rustix::process::geteuid().is_root();
        let config = config(options, privileged)?;
        OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(MountError::NoDevice)?;
        let at = at.canonicalize().map_err(refused)?;
        if !fs::metadata(&at).map_err(refused)?.is_dir() {
            return Err(refused(io::ErrorKind::NotADirectory.into()));
        }

        let stateless = vfs.caps().stateless;
        let (adapter, ended) = Adapter::new(vfs, options, privileged, runtime.clone());
        let session = Session::new(adapter, &at, &config).map_err(|error| refused(explained(error)))?;
        let mounted = mount::Mounted::find(at.clone()).map_err(refused)?;
        if stateless && privileged {
            mounted.raise_readahead();
        }
        let notifier = session.notifier();
        let on_failure = mounted.clone();
        thread::Builder::new()
            .name("aysfs-fuser".into())
            .spawn(move || {
                if let Err(error) = session.run() {
                    tracing::error!(%error, "the session of {} failed; unmounting", on_failure.path().display());
                    on_failure.unmount_lazily();
                }
            })
            .map_err(refused)?;
        Ok(Box::new(FuserMount::new(mounted, notifier, ended, runtime.clone())))
    }
}

/// What the kernel or the mount helper is told.
fn config(options: &MountOptions, privileged: bool) -> Result<Config, MountError> {
    let needs_root = |option| Err(MountError::Unsupported { frontend: NAME, option });
    match (privileged, options.suid, options.dev) {
        (false, true, _) => return needs_root("suid without root privileges"),
        (false, _, true) => return needs_root("dev without root privileges"),
        _ => {}
    }
    let source = if privileged {
        options.source.clone()
    } else {
        options.source.replace('\\', "\\\\").replace(',', "\\,")
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source),
        // Not `Subtype`, which fuser drops when it mounts without a helper.
        MountOption::CUSTOM("subtype=aysfs".into()),
        MountOption::DefaultPermissions,
        if options.suid { MountOption::Suid } else { MountOption::NoSuid },
        if options.dev { MountOption::Dev } else { MountOption::NoDev },
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // One thread to read while another answers; more than four gain nothing, since whatever waits moves away.
    config.n_threads = Some(thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4)));
    config.clone_fd = true;
    Ok(config)
}

/// fuser reports a missing mount helper as a bare "not found".
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("fusermount3 was not found: install the package fuse3, or mount as root")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_of(options: &MountOptions, privileged: bool) -> Vec<MountOption> {
        config(options, privileged).expect("it can honour them").mount_options
    }

    #[test]
    fn devices_and_set_uid_are_off_by_default() {
        let options = options_of(&MountOptions::default(), true);
        assert!(options.contains(&MountOption::NoDev) && options.contains(&MountOption::NoSuid));
        assert!(options.contains(&MountOption::DefaultPermissions));
        let both = MountOptions { suid: true, dev: true, read_only: true, ..MountOptions::default() };
        let options = options_of(&both, true);
        assert!(options.contains(&MountOption::Dev) && options.contains(&MountOption::Suid));
        assert!(options.contains(&MountOption::RO));
    }

    #[test]
    fn only_root_can_honour_suid_and_dev() {
        for options in [
            MountOptions { suid: true, ..MountOptions::default() },
            MountOptions { dev: true, ..MountOptions::default() },
        ] {
            let error = config(&options, false).expect_err("the helper would drop it silently");
            assert!(matches!(error, MountError::Unsupported { frontend: "fuser", .. }), "{error}");
        }
    }

    #[test]
    fn a_source_cannot_smuggle_options_past_the_helper() {
        let options = MountOptions { source: r"a\b,suid".into(), ..MountOptions::default() };
        assert!(options_of(&options, false).contains(&MountOption::FSName(r"a\\b\,suid".into())));
        assert!(options_of(&options, true).contains(&MountOption::FSName(r"a\b,suid".into())));
    }
}
