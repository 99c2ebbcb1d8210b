//! The ways to pack a tree, and mounts of what was packed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use url::Url;

use crate::process::{self, Daemon};
use crate::row::Row;
use crate::trees::{Kind, Tree};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The format of the old system: each file is an object.
    V1,
    /// What `aysfs pack` writes.
    V2,
    /// The same with a profile of what the program reads at its start.
    Profiled,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::V1, Self::V2, Self::Profiled];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Profiled => "v2, profile",
        }
    }

    /// Whether there is something like it of a tree: only programs have a start.
    pub(crate) fn is_for(self, tree: Kind) -> bool {
        self != Self::Profiled || matches!(tree, Kind::Python | Kind::Rust)
    }
}

/// The command that is measured.
#[derive(Clone, Debug)]
pub(crate) struct Aysfs {
    binary: PathBuf,
    lib: String,
}

impl Aysfs {
    /// The one at `binary`, or else the one that cargo has built beside this program.
    pub(crate) fn find(binary: Option<PathBuf>, lib: String) -> anyhow::Result<Self> {
        let binary = match binary {
            Some(binary) => std::path::absolute(binary)?,
            // target/release/deps/cold-0123
            None => std::env::current_exe()?.ancestors().nth(2).context("it is in deps/")?.join("aysfs"),
        };
        let shown = binary.display();
        ensure!(binary.is_file(), "{shown} is missing: build it with cargo build --locked --release");
        Ok(Self { binary, lib })
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        command
    }

    /// Whether it knows profiles.
    pub(crate) async fn has_profiles(&self) -> bool {
        let help = process::run(self.command(["pack", "--help"])).await;
        let packs = help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--profile"));
        packs && process::run(self.command(["profile", "record", "--help"])).await.is_ok()
    }
}

/// A packed tree.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    flist: PathBuf,
    namespace: String,
}

/// What packing cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    /// The most memory that it had, in bytes.
    pub(crate) memory: u64,
}

impl Packed {
    /// Packs a tree into the stor in the directory `stor`, with a `profile` or without; the flist goes to `dir`.
    pub(crate) async fn make(
        aysfs: &Aysfs,
        tree: &Tree,
        variant: Variant,
        profile: Option<&Path>,
        stor: &Path,
        dir: &Path,
    ) -> anyhow::Result<(Self, Cost)> {
        // Each has a namespace, so that none finds there what another has sent.
        let namespace = format!("{}-{}", tree.kind.name(), variant.name().replace(", ", "-"));
        let flist = dir.join(&namespace).with_extension("flist");
        let stor = Url::from_directory_path(stor).ok().context("an absolute path")?;
        let format = if variant == Variant::V1 { "v1-long" } else { "v2" };
        let mut command = aysfs.command(["pack", "--format", format, "--namespace", &namespace]);
        command.arg("--stor").arg(stor.as_str()).arg("-o").arg(&flist).arg(&tree.root);
        for pattern in &tree.left_out {
            command.arg("--exclude").arg(pattern);
        }
        if let Some(profile) = profile {
            command.arg("--profile").arg(profile);
        }
        let start = Instant::now();
        let (_, memory) = process::run_watched(command).await?;
        Ok((Self { flist, namespace }, Cost { time: start.elapsed(), memory }))
    }

    /// Mounts it with an empty cache, in a new directory below `dir`.
    pub(crate) async fn mount(&self, aysfs: &Aysfs, stor: &str, dir: &Path) -> anyhow::Result<Mount> {
        let dir = tempfile::tempdir_in(dir)?;
        let [cache, point] = ["cache", "mount"].map(|name| dir.path().join(name));
        std::fs::create_dir(&point)?;
        let mut command = aysfs.command(["mount", "--lib", &aysfs.lib, "--namespace", &self.namespace]);
        command.args(["--stor", stor, "--cache"]).args([&cache, &self.flist, &point]);
        let start = Instant::now();
        let mut daemon = Daemon::mounting(command, &point)?;
        daemon.until("all mounts are up").await?;
        Ok(Mount { daemon, point, ready: start.elapsed(), _dir: dir })
    }

    /// Records what a program reads at its start; it is what `row` does.
    pub(crate) async fn record(
        &self,
        aysfs: &Aysfs,
        row: Row,
        tree: &Tree,
        stor: &str,
        dir: &Path,
    ) -> anyhow::Result<PathBuf> {
        let mount = self.mount(aysfs, stor, dir).await?;
        let profile = self.flist.with_extension("profile");
        let mut command = aysfs.command(["profile", "record"]);
        command.arg(&mount.point).arg("-o").arg(&profile);
        let mut recorder = Daemon::start(command)?;
        recorder.until("recording").await?;
        let scratch = tempfile::tempdir_in(dir)?;
        row.act(tree, &mount.point, scratch.path()).await?;
        recorder.finish().await?;
        Ok(profile)
    }
}

/// A mount in a process of its own, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    // Ends before its directory goes.
    pub(crate) daemon: Daemon,
    pub(crate) point: PathBuf,
    /// From the start of the process until the mount was there.
    pub(crate) ready: Duration,
    _dir: TempDir,
}
