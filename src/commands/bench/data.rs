//! The data that is measured: one temporary directory with a tree, the same tree packed, and a cache that has all of it.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use aysfs_engine::load::{self, Request, Source};
use aysfs_engine::{AysFs, Base, Overlay, Upper, pack};
use aysfs_flist::{Dialect, Header, Node, ParseOptions};
use aysfs_store::cache::Limits;
use aysfs_store::{Mirror, Namespace, StorOptions};
use aysfs_vfs::{ErrorKind, Fh, Vfs};
use aysfs_workload::{Shape, Stop, Tree, work};
use futures::{TryStreamExt, stream};
use indicatif::HumanBytes;
use rustix::fs::{Advice, fadvise, statvfs, syncfs};
use tempfile::TempDir;
use url::Url;

use crate::{access, mounts};

/// How many contents are fetched into the cache at once.
const FETCHES: usize = 16;

/// What a large file has at least, in bytes.
const LARGE: u64 = 1 << 20;

/// What a small file takes up on a disk, in bytes, with its inode: most are smaller than a block.
const SMALL_FILE: u64 = 5 << 10;

/// Where the parts of the data are, below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// The plain tree.
    pub(crate) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    /// Where new files are made on the disk itself.
    pub(crate) fn new_files(&self) -> PathBuf {
        self.0.join("new")
    }

    /// The mount point.
    pub(crate) fn point(&self) -> PathBuf {
        self.0.join("mnt")
    }

    fn flist(&self) -> PathBuf {
        self.0.join("flist")
    }

    fn stor(&self) -> PathBuf {
        self.0.join("stor")
    }

    fn backend(&self) -> PathBuf {
        self.0.join("backend")
    }

    /// The packed tree with local changes, of which there are none yet.
    pub(crate) async fn changeable(&self) -> anyhow::Result<Overlay> {
        for changes in ["upper", "work"] {
            match fs::remove_dir_all(self.backend().join(changes)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        let upper = Upper::open(&self.backend(), &self.point())?;
        Ok(Overlay::new(self.filesystem().await?, upper)?)
    }

    /// The packed tree as a filesystem.
    pub(crate) async fn filesystem(&self) -> anyhow::Result<AysFs> {
        let (stor, namespace) = self.stor_options()?;
        let request = Request {
            source: Source::File(self.flist()),
            parse: ParseOptions::default(),
            trusted_keys: Vec::new(),
            private_keys: Vec::new(),
        };
        let cache = mounts::open_cache(&self.backend(), stor.deadline, Limits::default())?;
        let deadline = stor.deadline;
        let mirror = Mirror::new(access::open(&stor, &namespace)?, []);
        let base = load::load(&request, &[stor], deadline, &self.backend()).await?;
        Ok(AysFs::new(base, cache, Arc::new(mirror)))
    }

    fn stor_options(&self) -> anyhow::Result<(StorOptions, Namespace)> {
        let dir = self.stor();
        let Ok(url) = Url::from_directory_path(&dir) else {
            bail!("{} is not an absolute path", dir.display());
        };
        Ok((StorOptions::new(url), "bench".parse()?))
    }
}

/// The data, until it is dropped.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) layout: Layout,
    pub(crate) tree: Tree,
    /// Bytes of the small files.
    pub(crate) small: u64,
    _dir: TempDir,
}

impl Data {
    /// Makes it in a new directory below `dir`.
    pub(crate) fn make(
        dir: &Path,
        shape: Shape,
        stop: &Stop,
        say: impl Fn(&'static str),
    ) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
        check_space(&dir, shape)?;
        let temporary =
            tempfile::Builder::new().prefix("aysfs-bench-").tempdir_in(&dir).with_context(|| {
                format!("cannot make a directory in {}: choose another with --dir", dir.display())
            })?;
        let layout = Layout::at(temporary.path().to_owned());
        for dir in [layout.tree(), layout.new_files(), layout.point(), layout.stor()] {
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let tree = Tree::at(layout.tree(), shape);
        say("making files");
        let small =
            tree.make(stop).with_context(|| format!("cannot make files in {}", tree.root.display()))?;
        // Dropping it waits for what it was doing, so that the directory can be removed.
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            tokio::select! {
                done = pack_and_fill(&layout, say) => done,
                () = stopped(stop) => bail!("stopped"),
            }
        })?;
        // What is still to be written must not be written while something is measured.
        syncfs(File::open(layout.dir())?)?;
        for dir in [layout.tree(), layout.backend()] {
            read_anew(&dir, stop)?;
        }
        Ok(Self { layout, tree, small, _dir: temporary })
    }
}

/// Has the kernel read large files from the disk again: it keeps them in pages as large as the pieces in which they came, and
/// otherwise those of the tree, which came as they were written, would not be like those of the cache.
fn read_anew(dir: &Path, stop: &Stop) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        stop.check()?;
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_anew(&entry.path(), stop)?;
        } else if kind.is_file() && entry.metadata()?.len() >= LARGE {
            let file = File::open(entry.path())?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            work::read_all(file, stop)?;
        }
    }
    Ok(())
}

/// Returns when there is a stop.
async fn stopped(stop: &Stop) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
    while !stop.is_stopped() {
        ticks.tick().await;
    }
}

async fn pack_and_fill(layout: &Layout, say: impl Fn(&'static str)) -> anyhow::Result<()> {
    say("packing");
    let options = pack::Options {
        dialect: Dialect::V2,
        header: Header::default(),
        exclude: Vec::new(),
        sealing: None,
        base: None,
        profile: None,
        spool: layout.dir().to_owned(),
    };
    let (stor, namespace) = layout.stor_options()?;
    let stor = access::open(&stor, &namespace)?;
    let flist = BufWriter::new(File::create(layout.flist())?);
    pack::pack(&layout.tree(), &*stor, &options, flist, &Arc::default()).await?;
    say("filling the cache");
    let fs = layout.filesystem().await?;
    let nodes = 0..u32::try_from(fs.base().index().len()).context("too many entries")?;
    stream::iter(nodes.map(Ok))
        .try_for_each_concurrent(FETCHES, |node| {
            let fs = &fs;
            async move {
                // One byte brings all of a file.
                match fs.read(Base::ino(Node(node)), Fh::NONE, 0, 1).await {
                    Err(error) if error.kind() != ErrorKind::IsADirectory => Err(error),
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        })
        .await
        .context("cannot fill the cache")
}

/// The tree, its objects, its cached copy, and what is written anew.
fn check_space(dir: &Path, shape: Shape) -> anyhow::Result<()> {
    let needed = (shape.large + shape.files as u64 * SMALL_FILE).saturating_mul(4);
    let space = statvfs(dir).with_context(|| format!("cannot use {}", dir.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed {
        bail!(
            "{} has {} of free space, and {} may be needed: choose another directory with --dir, or measure less \
             with --size and --files",
            dir.display(),
            HumanBytes(free),
            HumanBytes(needed)
        );
    }
    Ok(())
}
