//! Programs, run to their end or in the background. None of them outlives the benchmark, however that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Only ends a program that hangs: packing a compiler takes minutes on a small machine.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// How long a background process may take to end.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How often the memory of a process is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Runs a program to its end, which must be a good one.
pub(crate) async fn run(command: Command) -> anyhow::Result<Output> {
    Ok(run_watched(command).await?.0)
}

/// The same, and the most memory that it had, in bytes.
pub(crate) async fn run_watched(command: Command) -> anyhow::Result<(Output, u64)> {
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    // A Ctrl-C is for the benchmark, which then ends all others.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let process = command.kill_on_drop(true).spawn().with_context(|| format!("cannot run {shown}"))?;
    let pid = process.id();
    let mut output = pin!(timeout(PATIENCE, process.wait_with_output()));
    let mut most = 0;
    let output = loop {
        tokio::select! {
            output = &mut output => break output.with_context(|| format!("it does not end: {shown}"))??,
            () = sleep(GLANCE) => most = most.max(pid.and_then(peak).unwrap_or_default()),
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}\n{}", output.status, errors.trim_end());
    Ok((output, most))
}

/// The most memory that a process had so far, in bytes; `None` if it has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A process in the background: it ends when this is dropped, and what it has mounted is unmounted.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Child,
    log: mpsc::UnboundedReceiver<String>,
    /// Where it has mounted something.
    point: Option<PathBuf>,
}

impl Daemon {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut process = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let errors = BufReader::new(process.stderr.take().context("it is piped")?);
        let (lines, log) = mpsc::unbounded_channel();
        // The log is read also when nobody wants to know: a full pipe would stop the process.
        thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Ok(Self { process, log, point: None })
    }

    /// The same with one that mounts something on `point`.
    pub(crate) fn mounting(command: Command, point: &Path) -> anyhow::Result<Self> {
        let mut daemon = Self::start(command)?;
        daemon.point = Some(point.to_owned());
        Ok(daemon)
    }

    /// Waits for a line in its log that holds `text`, and returns it.
    pub(crate) async fn until(&mut self, text: &str) -> anyhow::Result<String> {
        let mut said = Vec::new();
        loop {
            match timeout(PATIENCE, self.log.recv()).await {
                Ok(Some(line)) if line.contains(text) => return Ok(line),
                Ok(Some(line)) => said.push(line),
                Ok(None) => bail!("it ended without saying {text:?}:\n{}", said.join("\n")),
                Err(_) => bail!("it does not say {text:?}:\n{}", said.join("\n")),
            }
        }
    }

    /// The most memory that it had so far, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        peak(self.process.id()).unwrap_or_default()
    }

    /// Tells it to end, as a Ctrl-C would, and waits until it has.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.signal(Signal::INT);
        while timeout(PATIENCE, self.log.recv()).await.context("it does not end")?.is_some() {}
        let status = self.process.wait()?;
        ensure!(status.success(), "it failed: {status}");
        Ok(())
    }

    fn signal(&mut self, signal: Signal) {
        // Once it was waited for, its pid may be another's.
        if let Ok(None) = self.process.try_wait() {
            let pid = Pid::from_raw(self.process.id().cast_signed()).expect("a child has a pid");
            kill_process(pid, signal).ok();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.process.try_wait() {
            if start.elapsed() > LAST_WORDS {
                self.process.kill().ok();
            }
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(point) = &self.point {
            // Only a process that was killed, or has crashed, leaves its mount.
            rustix::mount::unmount(point, UnmountFlags::DETACH).ok();
        }
    }
}
