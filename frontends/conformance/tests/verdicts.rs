//! Tests the suite: with a wrong case, a wrong filesystem, a wrong frontend, and with skips.
//!
//! Each test runs a small suite in a process of its own, and reads what it prints.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;

use async_trait::async_trait;
use aysfs_conformance::{Case, Skip, Suite, Targets};
use aysfs_frontend_fuser::Fuser;
use aysfs_vfs::memfs::{MemFs, MemFsOptions};
use aysfs_vfs::{Frontend, Ino, Mount, MountError, MountOptions, Name, Vfs};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Handle;

/// Which suite a process of this program runs.
const SUITE: &str = "AYSFS_CONFORMANCE_TEST_SUITE";

/// A file that is never read to its end, where there is one.
const STUCK: &str = "stuck";

const CASES: &[Case] = &[
    Case::writing("test", "passes", |_| {}),
    Case::writing("test", "is_wrong", |_| panic!("that is not so")),
    Case::writing("test", "writes", |at| fs::write(at.join("f"), [7; 10_000]).expect("written")),
    Case::writing("test", "reads_on", |at| {
        if at.join(STUCK).exists() {
            fs::read(at.join(STUCK)).expect("in the end");
        }
    }),
];

/// What is wrong with a frontend.
#[derive(Clone, Copy)]
enum Wrong {
    /// It mounts a filesystem that has no space.
    Full,
    /// It mounts a filesystem with a file that cannot be read.
    Stuck,
    /// It reads such a file when it is to unmount, so that it waits for itself.
    StuckInItself,
    /// It takes its process along.
    Aborts,
}

/// fuser with a fault.
struct Faulty(Wrong);

impl Frontend for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn mount(
        &self,
        _: Arc<dyn Vfs>,
        at: &Path,
        options: &MountOptions,
        runtime: &Handle,
    ) -> Result<Box<dyn Mount>, MountError> {
        let fs = match self.0 {
            Wrong::Full => MemFs::new(MemFsOptions { capacity: 0, ..MemFsOptions::default() }),
            Wrong::Stuck | Wrong::StuckInItself => {
                let fs = MemFs::default();
                // Nobody will ever open this gate.
                std::mem::forget(fs.gate(fs.add_file(STUCK, b"x")));
                fs
            }
            Wrong::Aborts => std::process::abort(),
        };
        let mount = Fuser.mount(Arc::new(fs), at, options, runtime)?;
        Ok(match self.0 {
            Wrong::StuckInItself => Box::new(WaitsForItself { mount, at: at.to_owned() }),
            _ => mount,
        })
    }
}

struct WaitsForItself {
    mount: Box<dyn Mount>,
    at: PathBuf,
}

#[async_trait]
impl Mount for WaitsForItself {
    async fn unmounted(&self) {
        self.mount.unmounted().await;
    }

    async fn unmount(&self, _detach: bool) -> Result<(), MountError> {
        fs::read(self.at.join(STUCK)).expect("never");
        Ok(())
    }

    fn invalidate_inode(&self, ino: Ino) -> io::Result<()> {
        self.mount.invalidate_inode(ino)
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) -> io::Result<()> {
        self.mount.invalidate_entry(parent, name)
    }
}

const NO_SPACE: Skip = Skip { case: "test::writes", targets: Targets::Only(&["memfs"]), reason: "no space" };

fn suite(name: &str) -> Suite {
    let sound = Suite { frontend: &Fuser, reference: Some(&Fuser), skips: &[] };
    match name {
        "sound" => sound,
        "full" => Suite { frontend: &Faulty(Wrong::Full), ..sound },
        "full, no reference" => Suite { frontend: &Faulty(Wrong::Full), reference: None, ..sound },
        "all full" => {
            Suite { frontend: &Faulty(Wrong::Full), reference: Some(&Faulty(Wrong::Full)), ..sound }
        }
        "stuck" => Suite { frontend: &Faulty(Wrong::Stuck), ..sound },
        "stuck in itself" => Suite { frontend: &Faulty(Wrong::StuckInItself), ..sound },
        "aborts" => Suite { frontend: &Faulty(Wrong::Aborts), ..sound },
        "full, skipped" => Suite { frontend: &Faulty(Wrong::Full), skips: &[NO_SPACE], ..sound },
        "sound, skipped" => Suite { skips: &[NO_SPACE], ..sound },
        "unknown case" => Suite { skips: &[Skip { case: "test::unheard_of", ..NO_SPACE }], ..sound },
        "unknown target" => {
            Suite { skips: &[Skip { targets: Targets::Only(&["memfs", "unheard_of"]), ..NO_SPACE }], ..sound }
        }
        other => panic!("no suite {other:?}"),
    }
}

/// Runs one case, or all, of a suite.
fn run(name: &str, case: &str) -> Output {
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.arg(case).env(SUITE, name);
    // Long enough for what does not hang.
    command.env("AYSFS_CONFORMANCE_TIMEOUT", if name.starts_with("stuck") { "10" } else { "60" });
    command.output().expect("this program runs")
}

/// Expects a run to fail, and its output to hold these texts in this order.
fn fails_with(output: &Output, texts: &[&str]) -> Result<(), Failed> {
    if output.status.success() {
        return Err("it should fail".into());
    }
    says(output, texts)
}

fn says(output: &Output, texts: &[&str]) -> Result<(), Failed> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = format!("{err}{out}");
    let mut rest = said.as_str();
    for text in texts {
        match rest.split_once(text) {
            Some((_, behind)) => rest = behind,
            None => return Err(format!("{text:?} is missing (or comes too early) in\n{said}").into()),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    if let Ok(name) = env::var(SUITE) {
        return aysfs_conformance::run_cases(&suite(&name), CASES);
    }
    let test = |name: &str, test: fn() -> Result<(), Failed>| Trial::test(name, test);
    let tests = vec![
        test("a_sound_filesystem_passes", || {
            let output = run("sound", "memfs::test::writes");
            if !output.status.success() {
                return Err("it should pass".into());
            }
            says(&output, &["memfs::test::writes ... ok", "1 passed; 0 failed"])
        }),
        test("a_wrong_case_is_to_blame", || {
            let because = ["the case is to blame", "--- memfs through fuser", "that is not so"];
            let output = run("sound", "memfs::test::is_wrong");
            fails_with(&output, &because)?;
            says(&output, &["--- directory", "that is not so", "0 passed; 1 failed"])
        }),
        test("a_wrong_frontend_is_to_blame", || {
            let output = run("full", "memfs::test::writes");
            let told = ["the frontend is to blame", "--- memfs through faulty", "StorageFull"];
            fails_with(&output, &told)?;
            says(&output, &["--- directory\npassed", "--- memfs through fuser\npassed"])
        }),
        test("a_wrong_filesystem_is_to_blame", || {
            let output = run("all full", "memfs::test::writes");
            fails_with(&output, &["the filesystem is to blame", "--- memfs through faulty", "StorageFull"])?;
            says(&output, &["--- directory\npassed", "--- memfs through faulty", "StorageFull"])
        }),
        test("without_a_reference_two_are_to_blame", || {
            let output = run("full, no reference", "memfs::test::writes");
            fails_with(&output, &["the filesystem or the frontend is to blame", "--- directory\npassed"])
        }),
        test("a_frontend_that_ends_its_process_is_to_blame", || {
            let output = run("aborts", "memfs::test::passes");
            fails_with(&output, &["the frontend is to blame", "--- memfs through faulty\nended by signal 6"])
        }),
        test("what_hangs_is_ended", || {
            let output = run("stuck", "memfs::test::reads_on");
            fails_with(&output, &["the frontend is to blame", "--- memfs through faulty\nhung"])
        }),
        test("what_waits_for_itself_is_ended", || {
            let output = run("stuck in itself", "memfs::test::passes");
            fails_with(&output, &["the frontend is to blame", "--- memfs through faulty", "hung"])?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("cannot") { Err(said.into()) } else { Ok(()) }
        }),
        test("a_skip_is_shown_with_its_reason", || {
            let output = run("full, skipped", "memfs::test::writes");
            if !output.status.success() {
                return Err("it should pass".into());
            }
            says(&output, &["memfs::test::writes ... ignored", "no space", "0 failed; 1 ignored"])
        }),
        test("a_skip_that_passes_fails", || {
            let output = run("sound, skipped", "memfs::test::writes");
            fails_with(&output, &["no space", "it passes now: remove the skip"])
        }),
        test("a_skip_of_nothing_fails_whatever_else_runs", || {
            fails_with(&run("unknown case", "memfs::test::passes"), &["test::unheard_of", "remove it"])?;
            fails_with(&run("unknown target", "memfs::test::passes"), &["unheard_of", "remove it"])
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
