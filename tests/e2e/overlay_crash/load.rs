//! The processes that change a mount until it dies under them.

use std::env;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fastrand::Rng;
use memmap2::Mmap;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};

use super::contest::{self, Change};
use super::journal::{self, Dead, Journal, Record};
use super::op::{Op, SLOTS, UMASK};
use crate::support::wait_for;

const LOAD: &str = "AYSFS_TEST_LOAD";

/// What one process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) kind: Kind,
    /// The directory that only it changes.
    pub(super) own: PathBuf,
    /// The directory that is changed by all of its kind.
    pub(super) shared: PathBuf,
    pub(super) journal: PathBuf,
    pub(super) owner: (u32, u32),
    pub(super) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Anything, in a directory of its own.
    Worker,
    /// Whole files, under names that others want as well.
    Contender,
    /// Keeps files open for reading, and mapped, wherever they are.
    Reader,
}

/// A process of the load; ended when dropped.
pub(super) struct Running {
    load: Load,
    child: Child,
}

impl Load {
    pub(super) fn start(self) -> Running {
        // What an earlier one wrote must not be taken for its own.
        drop(Journal::create(&self.journal).expect("a journal"));
        let child = Command::new(env::current_exe().expect("this program has a path"))
            .args([
                "--exact",
                "overlay_crash::load::changes_a_mount_until_it_dies",
                "--ignored",
                "--nocapture",
            ])
            .env(LOAD, serde_json::to_string(&self).expect("plain data"))
            .stdout(Stdio::null())
            .spawn()
            .expect("this program runs");
        Running { load: self, child }
    }
}

impl Running {
    /// How many bytes of journal there are.
    pub(super) fn progress(&self) -> u64 {
        self.load.journal.metadata().map_or(0, |meta| meta.len())
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits until it has seen that the mount is dead.
    fn wait(&mut self) {
        let mut status = None;
        wait_for("the load to end", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{:?} failed: {status:?}", self.load);
    }

    pub(super) fn operations(mut self) -> Vec<Record<Op>> {
        self.wait();
        journal::read(&self.load.journal)
    }

    pub(super) fn end(mut self) {
        self.wait();
    }

    pub(super) fn changes(mut self) -> Vec<Record<Change>> {
        self.wait();
        journal::read(&self.load.journal)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
#[ignore = "the other half of the tests of overlay_crash"]
fn changes_a_mount_until_it_dies() {
    let load = env::var(LOAD).expect("run by the other half");
    let load: Load = serde_json::from_str(&load).expect("written by the other half");
    let mut journal = Journal::create(&load.journal).expect("a journal");
    become_owner(load.owner);
    let mut rng = Rng::with_seed(load.seed);
    match load.kind {
        Kind::Contender => contest::fight(&load.own, &load.shared, &mut rng, &mut journal),
        Kind::Worker => work(&load.own, &mut rng, &mut journal, load.owner.0 == 0),
        Kind::Reader => read(&load.own, &mut rng),
    }
}

/// How many files a reader has open at once.
const OPEN: usize = 60;

/// Opens files below a directory and closes them in another order, until the mount is dead. What it reads is nobody's business: it
/// changes all the time.
fn read(own: &Path, rng: &mut Rng) {
    let mut open: Vec<(File, Option<Mmap>)> = Vec::new();
    loop {
        // Some of them are there, most of the time.
        let path = own.join(format!(
            "{}{}",
            ["", "a/", "b/", "a/c/", "b/new/"][rng.usize(..5)],
            ["f0", "f1", "f2", "f3", "hard1"][rng.usize(..5)]
        ));
        if own.symlink_metadata().is_err() {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(rustix::fs::CWD, &path, flags, Mode::empty()) else { continue };
        let file = File::from(file);
        let mut bytes = [0; 5000];
        let _ = file.read_at(&mut bytes, rng.u64(..100_000));
        // SAFETY: it is never looked at.
        #[allow(unsafe_code)]
        let mapping = rng.bool().then(|| unsafe { Mmap::map(&file) }.ok()).flatten();
        if open.len() == OPEN {
            open.swap_remove(rng.usize(..OPEN));
        }
        open.push((file, mapping));
    }
}

fn work(own: &Path, rng: &mut Rng, journal: &mut Journal, privileged: bool) {
    let mut open = [const { None }; SLOTS];
    loop {
        let op = Op::random(rng, [0, 1, 2, 3].map(|slot: usize| open[slot].is_some()), privileged);
        if let Err(Dead) = journal.record(&op, || op.run(own, &mut open)) {
            return;
        }
    }
}

/// Gives this thread the rights of somebody else.
fn become_owner((uid, gid): (u32, u32)) {
    rustix::process::umask(Mode::from_raw_mode(UMASK));
    if uid != rustix::process::geteuid().as_raw() {
        let gid = Gid::from_raw(gid);
        rustix::thread::set_thread_groups(&[gid]).expect("root may");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
        let uid = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
    }
}
