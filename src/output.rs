//! A file that a command writes: it has its name when it is whole, and not before.
//!
//! Until then it has no name at all: it is not in the tree that is listed if that is where it is to be, and nothing is left of
//! it however the command ends.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD};
use tempfile::{NamedTempFile, TempPath};

use crate::Refused;

/// A nameless file in the directory of the one that it is to replace.
pub(crate) struct Output {
    file: File,
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
        let file = tempfile::tempfile_in(&directory)
            .with_context(|| format!("cannot write the flist into {}", directory.display()))?;
        Ok(Self { file, path: path.to_owned(), directory })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The directory that it is in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives it its name. Anyone may read it, as with any file that a command writes.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        let Self { file, path, directory } = self;
        let write = || -> io::Result<()> {
            file.set_permissions(fs::Permissions::from_mode(mode()))?;
            file.sync_all()?;
            // A link does not replace what is there, so it is made beside it.
            let beside = match link(&file, &directory) {
                Ok(beside) => beside,
                Err(_) => copy(&file, &directory)?,
            };
            beside.persist(&path)?;
            File::open(&directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What the user lets others do with new files.
fn mode() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    0o666 & !umask.bits()
}

/// A first name for a file that was made without one (`O_TMPFILE`).
fn link(file: &File, directory: &Path) -> io::Result<TempPath> {
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = tempfile::Builder::new().make_in(directory, |path| {
        Ok(rustix::fs::linkat(CWD, &nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    })?;
    Ok(linked.into_temp_path())
}

/// A file with the same content, where the filesystem cannot make a file without a name, or not name it later.
fn copy(file: &File, directory: &Path) -> io::Result<TempPath> {
    let mut named = NamedTempFile::new_in(directory)?;
    let mut file = file;
    file.rewind()?;
    io::copy(&mut file, named.as_file_mut())?;
    named.as_file().set_permissions(fs::Permissions::from_mode(mode()))?;
    named.as_file().sync_all()?;
    Ok(named.into_temp_path())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(directory).expect("listed").map(|entry| entry.expect("listed").file_name()).collect()
    }

    #[test]
    fn a_file_has_no_name_until_it_is_whole_and_then_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("list");
        drop(Output::new(&path).expect("begun"));
        for content in ["one", "two"] {
            let before = names(dir.path());
            let output = Output::new(&path).expect("begun");
            output.file().write_all(content.as_bytes()).expect("written");
            assert_eq!(names(dir.path()), before);
            output.publish().expect("published");
            assert_eq!(names(dir.path()), ["list"]);
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode());
        }
    }

    #[test]
    fn what_cannot_be_linked_is_copied() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut file = tempfile::tempfile_in(dir.path()).expect("made");
        file.write_all(b"content").expect("written");
        let copied = copy(&file, dir.path()).expect("copied");
        assert_eq!(fs::read(&copied).expect("read"), b"content");
        drop(copied);
        assert!(names(dir.path()).is_empty());
    }
}
