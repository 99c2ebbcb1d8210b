//! What is to be said about the machine.

use std::fmt;
use std::fs;
use std::thread;

/// Cores and kernel: no figure means anything without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How many threads can run at once.
    pub cores: usize,
    /// The release of the kernel, as `uname -r` shows it.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, Linux {}", self.cores, self.kernel)
    }
}
