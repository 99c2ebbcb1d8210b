//! The control socket: how a subcommand asks the process that serves a mount.
//!
//! Each process that mounts listens on one Unix socket, for all its mounts, in a directory that only its user can enter
//! ([`place`]). A client finds it by the mount point ([`client`]), sends one request, and gets a stream of lines that ends with a
//! result or an error ([`protocol`]). Whoever goes away cancels what was asked for.
//!
//! Only the user who mounted and root are answered. What a client sends is bounded, and so is how long it may take to send it or to
//! take its answer: a client can cost the process that serves a mount a connection, not more.
//!
//! One more request is a variant of [`Request`](protocol::Request), a function in [`answers`] (or in a file of its own, with what it
//! answers) and a subcommand.

mod answers;
pub(crate) mod client;
mod place;
pub(crate) mod protocol;
pub(crate) mod record;
mod server;
pub(crate) mod status;
pub(crate) mod unmount;
pub(crate) mod warm;
pub(crate) mod why;

pub(crate) use self::server::{Control, Served};
