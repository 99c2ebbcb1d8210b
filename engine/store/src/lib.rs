//! Stors and the cache: where objects live, how they are verified, and where they are kept.
//!
//! - [`Store`] is a place that keeps objects under keys: [`aydostor`] over HTTP, [`DirStore`] in a directory.
//!   [`open`] makes one of an address; [`Mirror`] puts several in order of health.
//! - [`fetch_url`] gets a flist from any web server.
//! - [`codec`] turns plain bytes into stored bytes and back; [`crypt`] has what it takes to encrypt them.
//! - [`garbage`] is what is about to be deleted from a stor, and how that is kept from what somebody needs.
//! - [`Cache`] keeps plain, verified files by content id, and fetches what it lacks.
//!
//! The feature `testing` adds what tests need: the contract that every stor keeps as a suite of tests, a stor in
//! memory, and stors that fail on demand.
//!
//! Nothing that comes out of a stor is trusted: a [`Chunk`] reaches a reader only when its plain bytes have the
//! digest that the flist names. Nothing in the cache directory is trusted either: see [`cache`].

pub mod aydostor;
mod boot_clock;
pub mod cache;
pub mod codec;
mod content;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod crypt;
mod dir;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
mod fetch;
mod fit;
pub mod garbage;
mod key;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod mirror;
mod open;
mod store;
pub mod table;

pub use aydostor::AydoStor;
pub use boot_clock::BootTime;
pub use cache::{Borrower, Cache, CacheOptions, CachedFile, FetchError, Held, Lent, VerifiedFile};
pub use content::{Check, Chunk, Content, ContentId, Part};
pub use dir::DirStore;
pub use fetch::{Fetched, UrlError, fetch_url};
pub use key::{ETag, Key, KeyError, Namespace, StaticName};
#[cfg(any(test, feature = "testing"))]
pub use memory::MemStore;
pub use mirror::{Mirror, Outcome, Presence, Replaced, StorStats};
pub use open::{OpenError, RequireTls, StorOptions, open, without_credentials};
pub use store::{Body, Fault, Listed, Named, Precondition, Store, StoreError, Stored, Upload};
