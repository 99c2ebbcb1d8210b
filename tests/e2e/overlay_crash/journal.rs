//! What a process of the load did, written outside of the mount: each operation before it begins, and how it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Nanoseconds of a clock that all processes share.
pub(super) type Moment = i64;

/// A line of the file.
#[derive(Serialize, Deserialize)]
enum Line<Op> {
    Begin(Moment, Op),
    Done(Moment, usize),
    Failed(Moment, i32),
}

/// An operation, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Record<Op> {
    pub(super) op: Op,
    pub(super) begin: Moment,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was acknowledged.
    Done(Moment, usize),
    /// It was refused: nothing has happened.
    Failed(Moment, i32),
    /// Nobody answered: it has happened, or not.
    Unknown,
}

/// The file that is being written.
pub(super) struct Journal(File);

/// Nobody serves the mount any more.
pub(super) struct Dead;

impl Journal {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(File::create(path)?))
    }

    /// Does an operation, and notes it.
    pub(super) fn record<Op: Serialize>(
        &mut self,
        op: &Op,
        run: impl FnOnce() -> io::Result<usize>,
    ) -> Result<io::Result<usize>, Dead> {
        self.line(&Line::Begin(now(), op));
        match run() {
            Ok(moved) => {
                self.line(&Line::<Op>::Done(now(), moved));
                Ok(Ok(moved))
            }
            Err(error) if is_dead(&error) => Err(Dead),
            Err(error) => {
                self.line(&Line::<Op>::Failed(now(), error.raw_os_error().unwrap_or_default()));
                Ok(Err(error))
            }
        }
    }

    fn line<Op: Serialize>(&mut self, line: &Line<Op>) {
        let mut text = serde_json::to_vec(line).expect("plain data");
        text.push(b'\n');
        self.0.write_all(&text).expect("the journal can be written");
    }
}

/// Reads what a process wrote until it ended.
pub(super) fn read<Op: DeserializeOwned>(path: &Path) -> Vec<Record<Op>> {
    let mut records = Vec::<Record<Op>>::new();
    for line in fs::read_to_string(path).expect("a journal").lines() {
        let end = match serde_json::from_str(line).expect("a line of a journal") {
            Line::Begin(begin, op) => {
                records.push(Record { op, begin, end: End::Unknown });
                continue;
            }
            Line::Done(at, moved) => End::Done(at, moved),
            Line::Failed(at, errno) => End::Failed(at, errno),
        };
        records.last_mut().expect("it began before it ended").end = end;
    }
    records
}

pub(super) fn now() -> Moment {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// What the kernel says when the daemon is gone.
pub(super) fn is_dead(error: &io::Error) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED].iter().any(|dead| error.raw_os_error() == Some(dead.raw_os_error()))
}
