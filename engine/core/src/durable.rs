//! Files that are replaced as a whole: after a crash there is the old one or the new one, never a part of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Replaces a file, or leaves it as it is.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut part = begin(path)?;
    part.write_all(content)?;
    finish(part, path)
}

/// A new file that is to have this name once it is written; others cannot read it.
pub(crate) fn begin(path: &Path) -> io::Result<NamedTempFile> {
    NamedTempFile::new_in(parent(path))
}

/// Gives a file that is written its name.
pub(crate) fn finish(part: NamedTempFile, path: &Path) -> io::Result<()> {
    part.as_file().sync_all()?;
    part.persist(path)?;
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}
