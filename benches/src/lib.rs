//! What the benchmarks share: a packed directory, processes that serve mounts, and a network in between.

pub mod mounts;
pub mod packed;
pub mod proxy;
pub mod server;

use std::fs;

/// A line of `/proc/<pid>/status` such as `VmRSS`, in bytes. `pid` may be `self`.
///
/// # Panics
/// If there is no such process or no such line.
pub fn memory(pid: &str, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("procfs");
    let line = status.lines().find(|line| line.starts_with(key)).expect("a kernel that counts memory");
    let kilobytes = line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number");
    kilobytes * 1024
}
