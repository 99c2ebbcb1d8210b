//! A file that a command writes: it has its name when it is whole, and not before.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

use crate::Refused;

/// A file beside the one it is to replace; gone with the process if it does not come to that.
pub(crate) struct Output {
    part: NamedTempFile,
    path: PathBuf,
    directory: PathBuf,
}

impl Output {
    /// Begins the file `path`.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return Err(Refused(format!("{} is a directory: name a file to write", path.display())).into());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let part = NamedTempFile::new_in(&directory)
            .with_context(|| format!("cannot write the flist into {}", directory.display()))?;
        Ok(Self { part, path: path.to_owned(), directory })
    }

    pub(crate) fn file(&self) -> &File {
        self.part.as_file()
    }

    /// The directory that it is in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives it its name. Anyone may read it, as with any file that a command writes.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        let Self { part, path, directory } = self;
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        let mode = 0o666 & !umask.bits();
        let write = || -> std::io::Result<()> {
            part.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            part.as_file().sync_all()?;
            part.persist(&path)?;
            File::open(directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
