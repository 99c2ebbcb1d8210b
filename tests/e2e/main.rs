//! End to end: the real command, real mounts, real servers.
//!
//! Each test works in a directory of its own, and ends what it started when it is dropped, also when it fails.

mod access;
mod bad_input;
mod bench;
mod clean;
mod commit;
mod compare;
mod crash;
mod diff;
mod encryption;
mod fast_start;
mod faults;
mod garbage;
mod legacy;
mod lifecycle;
mod overlay_crash;
mod overlay_full;
mod overlay_judge;
mod overlay_passthrough;
mod overlay_state;
mod pprof;
mod push;
mod push_crash;
mod reload;
mod roundtrip;
mod sharing;
mod small_disk;
mod status;
mod support;
mod tree;
mod user_mount;
mod v1_encrypted;
