//! The processes of a trial: this program again, told by its environment what to do.
//!
//! ```text
//!   runner ── serving process: mounts ── using process: works on the mount
//! ```
//!
//! The one who uses a mount is not the one who serves it: the kernel holds locks of a process while it waits for
//! changed pages to be written, and whoever is to write them may need them. Both are in a process group, and in
//! a mount namespace, of their own; when they are gone, so is everything that they mounted.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::mounted::abort_connections;

/// How long a trial may take, in seconds; more than any of them needs on a slow machine.
const TIMEOUT: &str = "AYSFS_CONFORMANCE_TIMEOUT";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a process that was killed may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What a process is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) role: Role,
    /// `<group>::<case>`.
    pub(crate) case: String,
    pub(crate) target: String,
    pub(crate) through: Through,
    /// The directory of the sample tree, if the case needs it.
    pub(crate) sample: PathBuf,
    /// The directory of the trial.
    pub(crate) dir: PathBuf,
    /// What is used: usually [`AT`] in it.
    pub(crate) at: PathBuf,
}

/// What a process is in its trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Mounts the target, and starts the one who uses it.
    Serve,
    /// Runs the case.
    Use,
}

/// Which frontend of a suite a trial goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Frontend,
    Reference,
}

const ROLE: &str = "AYSFS_CONFORMANCE_ROLE";
const CASE: &str = "AYSFS_CONFORMANCE_CASE";
const TARGET: &str = "AYSFS_CONFORMANCE_TARGET";
const THROUGH: &str = "AYSFS_CONFORMANCE_THROUGH";
const SAMPLE: &str = "AYSFS_CONFORMANCE_SAMPLE";
const DIR: &str = "AYSFS_CONFORMANCE_DIR";
const PLACE: &str = "AYSFS_CONFORMANCE_AT";

/// The name of the target's directory below the trial's.
pub(crate) const AT: &str = "at";

impl Job {
    /// The job of this process; the first one has none.
    pub(crate) fn of_this_process() -> Option<Self> {
        let value = |name: &str| env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let role = match env::var_os(ROLE)?.to_str() {
            Some("serve") => Role::Serve,
            Some("use") => Role::Use,
            other => panic!("{ROLE} is {other:?}"),
        };
        let through = match value(THROUGH).as_str() {
            "frontend" => Through::Frontend,
            "reference" => Through::Reference,
            other => panic!("{THROUGH} is {other}"),
        };
        Some(Self {
            role,
            case: value(CASE),
            target: value(TARGET),
            through,
            sample: value(SAMPLE).into(),
            dir: value(DIR).into(),
            at: value(PLACE).into(),
        })
    }

    /// Tells the program that `command` starts to do this.
    pub(crate) fn give_to(&self, command: &mut Command) {
        let role = match self.role {
            Role::Serve => "serve",
            Role::Use => "use",
        };
        let through = match self.through {
            Through::Frontend => "frontend",
            Through::Reference => "reference",
        };
        command.env(ROLE, role).env(CASE, &self.case).env(TARGET, &self.target).env(THROUGH, through);
        command.env(SAMPLE, &self.sample);
        // A panic tells enough; what is below it is always the same.
        command.env(DIR, &self.dir).env(PLACE, &self.at).env("RUST_BACKTRACE", "0");
    }

    /// Runs the whole trial in a serving process.
    pub(crate) fn run(&self) -> Outcome {
        let log = self.dir.join("log");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(this_program());
        self.give_to(&mut command);
        // The serving process ends when it sees the end of its input: when this process is gone.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
        let end = run_to_end(command, &self.dir).expect("unshare (of util-linux) runs");
        let said = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        match end {
            End::Success => Outcome::Passed,
            End::Failure(how) => Outcome::Failed(readable(&said(), &how)),
            End::TimedOut => Outcome::Failed(readable(&said(), "hung")),
        }
    }
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// What its processes said.
    Failed(String),
}

/// The path of this program.
pub(crate) fn this_program() -> OsString {
    env::current_exe().expect("this program has a path").into()
}

enum End {
    Success,
    Failure(String),
    TimedOut,
}

/// Runs a command and everything it starts, in `dir`; nothing of that is left when this returns.
fn run_to_end(mut command: Command, dir: &Path) -> io::Result<End> {
    let mut child = command.process_group(0).current_dir(dir).spawn()?;
    let group = Pid::from_child(&child);
    let process = pidfd_open(group, PidfdFlags::empty())?;
    let in_time = ended(&process, timeout())?;
    // The first process is not reaped yet, so its number still means this group.
    kill(group)?;
    if !ended(&process, GRACE)? {
        // It waits for an answer that it would have to give itself.
        abort_connections(dir);
        if !ended(&process, GRACE)? {
            eprintln!("process {group:?} cannot be ended: it is left in {}", dir.display());
            return Ok(End::TimedOut);
        }
    }
    let status = child.wait()?;
    Ok(match status.code() {
        _ if !in_time => End::TimedOut,
        Some(0) => End::Success,
        Some(code) => End::Failure(format!("ended with code {code}")),
        None => End::Failure(format!("ended by signal {}", status.signal().unwrap_or_default())),
    })
}

fn kill(group: Pid) -> io::Result<()> {
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a process has ended, if that happens in time.
pub(crate) fn ended(process: &OwnedFd, within: Duration) -> io::Result<bool> {
    let within = Timespec::try_from(within).expect("a few minutes");
    loop {
        match poll(&mut [PollFd::new(&process.as_fd(), PollFlags::IN)], Some(&within)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn timeout() -> Duration {
    let seconds = env::var(TIMEOUT).ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs)
}

/// What went wrong, without the noise around it.
fn readable(said: &str, end: &str) -> String {
    const MOST: usize = 40;
    let lines: Vec<_> = said.lines().filter(|line| !line.is_empty() && !line.starts_with("note: ")).collect();
    let omitted = lines.len().saturating_sub(MOST);
    let mut text = match omitted {
        0 => String::new(),
        _ => format!("({omitted} lines before)\n"),
    };
    for line in &lines[omitted..] {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_cut_from_the_front() {
        let said: String = (0..50).map(|line| format!("line {line}\n\nnote: noise\n")).collect();
        let text = readable(&said, "hung");
        assert!(text.starts_with("(10 lines before)\nline 10\nline 11\n"), "{text}");
        assert!(text.ends_with("line 49\nhung"), "{text}");
        assert_eq!(readable("", "ended with code 1"), "ended with code 1");
    }
}
