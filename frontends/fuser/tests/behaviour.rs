//! What programs see of a filesystem through this frontend.

#![allow(unreachable_pub)]

mod cases;
#[allow(dead_code)]
mod support;

use std::env;
use std::path::Path;
use std::process::Command;

use aysfs_vfs::MountOptions;
use aysfs_vfs::memfs::MemFsOptions;
use support::Mounted;

/// Tells a process of this program which directory its case works in.
const AT: &str = "AYSFS_CASE_AT";

/// Serves a filesystem, and runs a case on it in another process.
///
/// In the same process a mapping could deadlock: the kernel holds the lock of the address space while changed
/// pages are written, and whoever is to write them may need it for a page fault.
fn run(test: &str, case: fn(&Path)) {
    if let Some(at) = env::var_os(AT) {
        return case(Path::new(&at));
    }
    let options = MountOptions { allow_other: true, suid: true, dev: true, ..MountOptions::default() };
    let mounted = Mounted::new(MemFsOptions::default(), &options);
    let program = env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(AT, mounted.path())
        .output()
        .expect("this program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

macro_rules! tests {
    ($($group:ident: $($case:ident)*;)*) => {
        $(mod $group {
            $(#[test]
            fn $case() {
                let name = concat!(stringify!($group), "::", stringify!($case));
                crate::run(name, crate::cases::$group::$case);
            })*
        })*
    };
}

for_each_case!(tests);
