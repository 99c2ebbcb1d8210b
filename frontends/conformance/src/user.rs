//! A process that uses a mount while another serves it, and the words between them: one line each.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use aysfs_vfs::Frontend;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::process::{Job, ended};
use crate::rig::Rig;

/// The using process, seen by the serving one. It is killed when dropped.
pub(crate) struct User {
    process: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl User {
    /// Starts `command`, which makes it the using process.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the using process starts");
        let says = BufReader::new(process.stdout.take().expect("piped"));
        let hears = process.stdin.take().expect("piped");
        Self { process, says, hears }
    }

    /// Waits until it says `word`.
    #[track_caller]
    pub(crate) fn hear(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("a pipe");
        assert_eq!(line.trim_end(), word, "(an empty word is the end of the using process)");
    }

    /// Tells it to go on.
    pub(crate) fn go_on(&mut self) {
        self.hears.write_all(b"go on\n").expect("it listens");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it was not waited for yet");
    }

    /// Whether it ends in time.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("it was not waited for yet");
        ended(&process, time).expect("it can be waited for")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait().expect("a child")
    }

    /// Waits for its end, which must be a good one.
    #[track_caller]
    pub(crate) fn finish(self) {
        let status = self.wait();
        assert!(status.success(), "the using process: {status}");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The serving process, seen by the using one.
pub(crate) struct Server<'a> {
    frontend: &'static dyn Frontend,
    job: &'a Job,
}

impl<'a> Server<'a> {
    /// For the process that was started by [`User::start`].
    pub(crate) fn of_this_process(frontend: &'static dyn Frontend, job: &'a Job) -> Self {
        Self { frontend, job }
    }

    /// For a using process that mounts by itself, below `dir`.
    pub(crate) fn rig(&self, dir: &Path) -> Rig<'a> {
        Rig::new(self.frontend, self.job, dir)
    }

    pub(crate) fn say(&mut self, word: &str) {
        let mut out = stdout().lock();
        writeln!(out, "{word}").and_then(|()| out.flush()).expect("the server listens");
    }

    /// Waits until it is told to go on.
    pub(crate) fn wait(&mut self) {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).expect("a pipe");
        assert_eq!(line, "go on\n");
    }
}
