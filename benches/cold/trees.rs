//! The trees that are packed: two real programs of this machine, a large file, and many small ones.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use aysfs_workload::{Random, Shape, source_code};

use crate::STOP;

/// Where Python is in its tree.
pub(crate) const PYTHON: &str = "bin/python3";
/// Where the Rust compiler is in its tree.
pub(crate) const RUSTC: &str = "bin/rustc";

/// The name of the large file.
pub(crate) const LARGE_NAME: &str = "large.bin";
/// Its bytes.
pub(crate) const LARGE: u64 = 512 << 20;
/// Half of the large file is text, half of it is random, in turns of so many bytes: it compresses as data does.
const TURN: usize = 32 << 10;

/// How many small files there are, in the tree of [`aysfs_workload`] (with a large file that is empty).
pub(crate) const FILES: usize = SMALL.files + 1;
const SMALL: Shape = Shape { files: 10_000, large: 0 };

/// What Python imports; the last two are not in every Python.
const MODULES: [&str; 15] = [
    "json",
    "re",
    "asyncio",
    "http.client",
    "decimal",
    "email.message",
    "xml.etree.ElementTree",
    "urllib.request",
    "logging",
    "argparse",
    "subprocess",
    "unittest",
    "tempfile",
    "ssl",
    "sqlite3",
];

/// One of the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Python,
    Rust,
    Large,
    Small,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Python, Self::Rust, Self::Large, Self::Small];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Rust => "rust",
            Self::Large => "large",
            Self::Small => "small",
        }
    }
}

/// A tree on the local disk.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) kind: Kind,
    pub(crate) root: PathBuf,
    /// What of it is not packed.
    pub(crate) left_out: Vec<String>,
    /// What Python runs, if this is its tree.
    pub(crate) script: String,
}

impl Tree {
    /// Makes it below `dir`, if this machine has what it is made of.
    pub(crate) fn make(kind: Kind, dir: &Path) -> anyhow::Result<Self> {
        let root = dir.join(kind.name());
        let mut tree = Self { kind, root, left_out: Vec::new(), script: String::new() };
        match kind {
            Kind::Python => tree.script = copy_python(&tree.root)?,
            Kind::Rust => tree.root = sysroot()?,
            Kind::Large => {
                fs::create_dir(&tree.root)?;
                write_large(&tree.root.join(LARGE_NAME))?;
            }
            Kind::Small => {
                aysfs_workload::Tree::at(&tree.root, SMALL).make(&STOP)?;
            }
        }
        if kind == Kind::Rust {
            tree.left_out = all_but(&tree.root, "", &["bin", "lib"])?;
            tree.left_out.extend(all_but(&tree.root, "bin", &["rustc"])?);
        }
        Ok(tree)
    }
}

/// The standard output of a program.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies the program and its library as they are installed, without its tests and what was installed later; returns what it
/// is to run.
fn copy_python(root: &Path) -> anyhow::Result<String> {
    let [lib, bin] = ["lib", "bin"].map(|name| root.join(name));
    let question = "import os, sys, sysconfig\n\
        print(os.path.realpath(sys.executable), sys.base_prefix, sysconfig.get_path('stdlib'), sep='\\n')";
    let answer = said(Command::new("python3").args(["-c", question]))?;
    let [program, prefix, library] =
        answer.lines().map(Path::new).collect::<Vec<_>>().try_into().ok().context("three lines")?;
    let target = root.join(library.strip_prefix(prefix)?);
    for dir in [&bin, &lib, &target] {
        fs::create_dir_all(dir)?;
    }
    let left_out = ["test", "site-packages", "dist-packages"];
    let parts = fs::read_dir(library)?.collect::<io::Result<Vec<_>>>()?;
    let parts = parts.iter().filter(|part| !left_out.iter().any(|name| part.file_name() == *name));
    copy(parts.map(|part| part.path()), &target)?;
    copy([program.to_owned()], &root.join(PYTHON))?;
    let shared = fs::read_dir(prefix.join("lib"))?.collect::<io::Result<Vec<_>>>()?;
    let shared = shared.iter().filter(|file| file.file_name().to_string_lossy().starts_with("libpython"));
    copy(shared.map(|file| file.path()), &lib)?;
    let modules = MODULES.iter().filter(|module| {
        let import = format!("import {module}");
        Command::new("python3").args(["-c", &import]).output().is_ok_and(|output| output.status.success())
    });
    let modules: Vec<&str> = modules.copied().collect();
    // What is measured must not come from the machine's own.
    Ok(format!(
        "import sys, {}\nassert json.__file__.startswith(sys.argv[1]), json.__file__",
        modules.join(", ")
    ))
}

/// Copies with times, by which Python knows whether what it has compiled is still right.
fn copy(from: impl IntoIterator<Item = PathBuf>, to: &Path) -> anyhow::Result<()> {
    let from: Vec<_> = from.into_iter().collect();
    if !from.is_empty() {
        said(Command::new("cp").arg("-a").args(from).arg(to))?;
    }
    Ok(())
}

/// Where the Rust compiler of this machine is: it is packed from there.
fn sysroot() -> anyhow::Result<PathBuf> {
    Ok(said(Command::new("rustc").args(["--print", "sysroot"]))?.trim_end().into())
}

/// Patterns for what is in a directory but for some names.
fn all_but(root: &Path, directory: &str, kept: &[&str]) -> io::Result<Vec<String>> {
    let mut patterns = Vec::new();
    for entry in fs::read_dir(root.join(directory))? {
        let name = entry?.file_name();
        if !kept.iter().any(|kept| name == *kept) {
            patterns.push(Path::new("/").join(directory).join(name).display().to_string());
        }
    }
    Ok(patterns)
}

fn write_large(path: &Path) -> io::Result<()> {
    let mut random = Random(23);
    let mut file = File::create(path)?;
    for _ in 0..LARGE / (2 * TURN as u64) {
        STOP.check()?;
        let mut turn = source_code(&mut random, TURN);
        while turn.len() < 2 * TURN {
            turn.extend(random.next().to_le_bytes());
        }
        file.write_all(&turn)?;
    }
    Ok(())
}
