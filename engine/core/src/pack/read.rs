//! Files as they are at one moment: each is read again until it does not change meanwhile.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aysfs_flist::{Content, Entry, Timestamp};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::error::UploadError;
use super::scan;

/// How often a file that changes while it is read is read again.
pub(super) const ATTEMPTS: u32 = 3;

/// What is stored to a file through a mapping while the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MappedStores {
    /// Is noticed: dirty pages are written back first, so that the next store to one moves the time of the file.
    Noticed,
    /// May be missed: a flush of the disk for each file would be too much.
    Missed,
}

/// What a file was like when it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Plain length in bytes.
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// Where it is no hole; `None`: everywhere.
    pub(super) data: Option<Vec<Range<u64>>>,
}

/// What a file holds, as of the moment it was read; `C` says where the content is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileContent<C = Content> {
    /// `None`: it is empty.
    pub(super) content: Option<C>,
    pub(super) version: Version,
}

impl<C> FileContent<C> {
    /// Plain length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.version.size
    }
}

impl FileContent {
    /// Notes in `entry` where the content is. If the file has changed since it was found, the entry follows it.
    pub(crate) fn describe(self, entry: &mut Entry) {
        let Version { size, mtime, ctime, data } = self.version;
        (entry.size, entry.mtime, entry.ctime) = (size, mtime, ctime);
        (entry.data, entry.content) = (data, self.content);
    }
}

/// Reads a file by `read`, which is given the file and its size and tells how much it has read, until the file did not change
/// meanwhile. `path` is what messages call it.
pub(super) fn read_stable<T>(
    path: &Path,
    open: impl Fn() -> io::Result<Option<File>>,
    mut read: impl FnMut(&mut File, u64) -> io::Result<(u64, T)>,
) -> Result<(T, Version), UploadError> {
    for _ in 0..ATTEMPTS {
        let failed = |source| UploadError::Read { path: path.to_owned(), source };
        let Some(mut file) = open().map_err(failed)? else { break };
        let before = file.metadata().map_err(failed)?;
        if !before.is_file() {
            break;
        }
        let (length, result) = read(&mut file, before.size()).map_err(failed)?;
        let data = data_segments(&file, &before).map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        let version = |meta: &Metadata| (meta.size(), scan::times(meta));
        if version(&before) == version(&after) && length == after.size() {
            let (mtime, ctime) = scan::times(&after);
            return Ok((result, Version { size: length, mtime, ctime, data }));
        }
    }
    Err(UploadError::Changing(path.to_owned()))
}

/// Where the data of a sparse file is; `None` if it has no hole.
pub(crate) fn data_segments(file: &File, meta: &Metadata) -> io::Result<Option<Vec<Range<u64>>>> {
    let size = meta.size();
    if meta.blocks() * 512 >= size {
        return Ok(None);
    }
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if start < at {
            segments.push(start..at);
        }
    }
    let whole = matches!(&segments[..], [only] if *only == (0..size));
    Ok((!whole).then_some(segments))
}

/// Opens the regular file at a path, which may lead to something else by now: never follows a link, never waits for a fifo.
pub(super) fn open_path(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, content).expect("written");
        (dir, path)
    }

    fn append(path: &Path) {
        let mut file = OpenOptions::new().append(true).open(path).expect("there");
        file.write_all(b"+").expect("written");
    }

    fn whole(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
        let mut plain = Vec::new();
        file.read_to_end(&mut plain)?;
        Ok((plain.len() as u64, plain))
    }

    #[test]
    fn a_file_that_changes_once_is_read_again() {
        let (_dir, path) = file(b"one");
        let mut reads = 0;
        let read = read_stable(
            &path,
            || open_path(&path),
            |file, _| {
                reads += 1;
                let read = whole(file);
                if reads == 1 {
                    append(&path);
                }
                read
            },
        );
        let (plain, version) = read.expect("stable the second time");
        assert_eq!((plain, version.size, reads), (b"one+".into(), 4, 2));
    }

    #[test]
    fn a_file_that_keeps_changing_is_refused() {
        let (_dir, path) = file(b"one");
        let mut reads = 0;
        let refused = read_stable(
            &path,
            || open_path(&path),
            |file, _| {
                reads += 1;
                append(&path);
                whole(file)
            },
        );
        let error = refused.expect_err("never stable");
        assert_eq!(reads, ATTEMPTS);
        assert!(matches!(&error, UploadError::Changing(of) if *of == path), "{error:?}");
    }

    #[test]
    fn a_file_that_only_seems_unchanged_is_refused() {
        let (_dir, path) = file(b"one");
        let refused = read_stable(&path, || open_path(&path), |_, _| Ok((2, ())));
        assert!(matches!(refused, Err(UploadError::Changing(_))));
    }

    #[test]
    fn what_is_swapped_in_is_neither_followed_nor_waited_for() {
        let (dir, path) = file(b"secret");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("made");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("made");
        for path in [&link, &fifo, &dir.path().to_owned()] {
            let refused = read_stable(path, || open_path(path), |file, _| whole(file));
            let refused = refused.expect_err("no regular file");
            assert!(matches!(&refused, UploadError::Changing(of) if of == path), "{refused:?}");
        }
        let gone = dir.path().join("gone");
        let gone = read_stable(&gone, || open_path(&gone), |file, _| whole(file)).expect_err("not there");
        assert!(matches!(gone, UploadError::Read { .. }), "{gone:?}");
    }

    #[test]
    fn holes_are_noted() {
        let (_dir, path) = file(b"");
        let sparse = OpenOptions::new().write(true).open(&path).expect("there");
        sparse.set_len(8 << 20).expect("resizable");
        sparse.write_all_at(&[1; 4096], 4 << 20).expect("written");
        let data = || {
            let read = read_stable(&path, || open_path(&path), |file, _| whole(file));
            read.expect("read").1.data
        };
        let only = std::iter::once((4 << 20)..(4 << 20) + 4096);
        assert_eq!(data(), Some(only.collect()));
        sparse.set_len(0).and_then(|()| sparse.set_len(1 << 20)).expect("resizable");
        assert_eq!(data(), Some(Vec::new()));
        fs::write(&path, [1; 10_000]).expect("written");
        assert_eq!(data(), None);
    }
}
