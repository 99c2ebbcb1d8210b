//! The AYDO stor protocol: the client, which is a [`Store`](crate::Store), and the server.
//!
//! Both sides take every path, header and JSON type from [`protocol`]. The protocol is HTTP with raw bodies: a body
//! is never transformed on the way (no `Content-Encoding`), since its digest is its name.

mod client;
mod patience;
pub mod protocol;
pub mod server;
pub(crate) mod transport;

pub use client::AydoStor;
pub(crate) use patience::Patience;
