//! The configuration of aysfs: TOML in, a checked [`Config`] out.
//!
//! A config is read once, completely, before anything is mounted. What comes out has no loose ends: names have
//! become what they name, texts have become durations, sizes, schedules and addresses, and files that must be
//! there have been seen. What goes wrong is told all at once, each problem with its line and column and with
//! what to do about it, and nothing is guessed: an unknown key is an error.
//!
//! This crate mounts nothing and opens no connection. It knows none of the other crates: who assembles them
//! translates its types into theirs.
//!
//! ```
//! # use std::path::Path;
//! let text = r#"
//!     [[mount]]
//!     path = "/opt/app"
//!     backend = "main"
//!     mode = "RO"
//!     flist = "app.flist"
//!
//!     [backend.main]
//!     path = "/var/lib/aysfs/main"
//!     stor = "near"
//!
//!     [stor.near]
//!     url = "https://stor.example.com/"
//! "#;
//! let config = aysfs_config::Config::parse(text, Path::new("config.toml"))?;
//! assert_eq!(config.mounts[0].stors[0].name, "near");
//!
//! let error = aysfs_config::Config::parse(&text.replace("flist", "floww"), Path::new("config.toml")).unwrap_err();
//! assert_eq!(
//!     error.to_string().lines().last(),
//!     Some(r#"config.toml:6:5: unknown key "floww" in [[mount]]: did you mean "flist"?"#)
//! );
//! # Ok::<_, aysfs_config::ConfigError>(())
//! ```
//!
//! # The keys
//!
//! `examples/full.toml` shows them all in place. Without a default, a key is required or means nothing when absent.
//!
//! ## `[[mount]]`: one for each mount point
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `path` | required | The mount point, an absolute path. |
//! | `backend` | required | The name of a `[backend.N]`. |
//! | `mode`, `acl` | required | `RO` read-only, `OL` local changes over the flist, `RW` changes are pushed; in any case. `acl` is the old name. |
//! | `flist` | required for `RO` and `OL` | A path or an `http(s)` URL. For `RW`: where to begin. |
//! | `stor` | the backend's | The name of a `[stor.N]`, or a list of names, nearest first. |
//! | `trim_base` | `false` | Strip the mount path from the paths of the flist. |
//! | `trim` | | Strip this absolute path from them. |
//! | `flist_times` | `"auto"` | Which of the times of a v1 flist is which: `auto`, `spec`, `swapped`. |
//! | `flist_refresh` | `"never"` | A schedule on which to look for a newer flist. |
//! | `trusted_keys` | `[]` | minisign public keys, one of which must have signed the flist; none: no signature needed. |
//! | `prefetch` | `"start"` | What is fetched before anybody reads it: `none`, `start` (what the flist says is read first), `all`. |
//! | `allow_other` | `true` for root | Let users other than the one who mounts in. |
//! | `suid` | `false` | Honour set-uid and set-gid bits. |
//! | `dev` | `false` | Honour device nodes. |
//!
//! ## `[backend.N]`: a local directory, and how stors are used with it
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `path` | required | The directory of the cache, of local changes and of indexes; no other backend's. |
//! | `stor` | | For the mounts that name none: the name of a `[stor.N]`, or a list, nearest first. |
//! | `namespace` | `"default"` | The part of the stor that is used. |
//! | `lib` | `"fuser"` | The FUSE library: `fuser`, `fuse3`, `polyfuse`; `hanwen` and `bazil` are old names of the first two. |
//! | `passthrough` | `"auto"` | Whether the kernel may read local files itself: `auto`, `off`. |
//! | `upload` | `false` | Push the changes of RW mounts. |
//! | `publish` | `false` | Publish the flist of an RW mount after a push. |
//! | `encrypted` | `false` | Encrypt what is pushed or committed, and read encrypted flists. |
//! | `user_rsa` | | The RSA key (PEM) of the user. Required, and looked at, only if `encrypted`. |
//! | `store_rsa` | | The RSA key of another recipient. |
//! | `compression` | `"zstd"` | Of what is pushed: `zstd`, `brotli`, `none`. |
//! | `aydostor_push_cron` | `"@every 60m"` | When to push. |
//! | `cleanup_cron` | `"@every 24h"` | When to clean the cache. |
//! | `cleanup_older_than` | `0` | Hours after which unread content is evicted; 0: age is no reason. |
//! | `cache_size` | `"none"` | How large the cache may be. |
//! | `cache_min_free` | `"5%"` | How much of the disk the cache leaves free: a percentage or a size. |
//! | `deadline` | `"30s"` | The longest a reader waits for a stor without a byte arriving. |
//! | `log` | `push.log` in `path` | The transaction log of pushes. |
//!
//! ## `[stor.N]`, in old files `[aydostor.N]`: where objects live
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `url`, `addr` | required | `http(s)://host/`, `file:///dir`, `s3://bucket/prefix`, `gs://`, `az://`; a user part is an account. |
//! | `login` | | The account; empty: none. |
//! | `passwd` | | Its password. |
//! | `passwd_file` | | A file that holds the password, in place of `passwd`; one newline at its end is not part of it. |
//! | `ca` | | Certificates (PEM) to trust beside the system's. |
//! | `require_tls` | `false` | Refuse plain `http` to another machine. |
//!
//! # Values
//!
//! - Durations are written as in Go, and with days: `90s`, `1h30m`, `1.5d` ([`parse_duration`]).
//! - Sizes are a number with a unit: `10GiB`, `10G` (powers of 1024), `500MB` (powers of 1000) ([`ByteSize`]).
//! - Schedules are `@every <duration>`, `@daily` and the like, or cron with 5 fields, or 6 with seconds first
//!   ([`Schedule`]).
//! - Relative paths start at the working directory of the process.
//!
//! # Notices
//!
//! Three things are no mistakes, but worth a line in the log ([`Config::notices`]): credentials that travel over
//! plain http to another machine, `lib = "hanwen"` or `"bazil"`, and `acl` for `mode`.

mod backend;
mod config;
mod error;
mod flist;
mod mount;
mod namespace;
mod quantity;
mod reader;
mod schedule;
mod secret;
mod stor;
mod word;

pub use backend::{Backend, Compression, Encryption, Lib, Passthrough};
pub use config::Config;
pub use error::{ConfigError, Diagnostic};
pub use flist::{Flist, FlistSource, FlistSourceError, FlistTimes};
pub use mount::{Mode, Mount, Prefetch};
pub use namespace::{Namespace, NamespaceError};
pub use quantity::{ByteSize, DurationError, MinFree, MinFreeError, SizeError, parse_duration};
pub use schedule::{Schedule, ScheduleError};
pub use secret::Secret;
pub use stor::{Account, Stor, StorUrl, StorUrlError, UserInfo};
pub use word::UnknownWord;
