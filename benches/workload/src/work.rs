//! Kinds of work. Each is what a known program does, and returns how much was done: bytes, or operations.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use rustix::fs::{Advice, fadvise};

use crate::tree::is_small_file;
use crate::{Random, Stop, Tree};

/// What is read at once at random.
pub const PAGE: usize = 4096;
/// What is read or written at once in sequence: what `cat` and `cp` ask for.
const PIECE: usize = 128 << 10;

/// What the kernel is told about how a file will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing: it guesses, and may read more than is asked for.
    Nothing,
    /// `POSIX_FADV_RANDOM`: it reads what is asked for.
    Random,
}

/// Lists all directories, as `find` does; returns the number of entries.
///
/// # Errors
/// Those of the filesystem, of [`Stop::check`], and one if there are more or fewer entries than should be.
pub fn list(tree: &Tree, stop: &Stop) -> io::Result<u64> {
    walk(tree, stop, &|_| Ok(()))
}

/// Lists all directories, and stats each entry, as `ls -lR` does; returns the number of entries.
///
/// # Errors
/// As of [`list`].
pub fn list_and_stat(tree: &Tree, stop: &Stop) -> io::Result<u64> {
    walk(tree, stop, &|entry| entry.metadata().map(drop))
}

fn walk(tree: &Tree, stop: &Stop, visit: &impl Fn(&DirEntry) -> io::Result<()>) -> io::Result<u64> {
    let seen = walk_directory(&tree.root, stop, visit)?;
    expect(seen, tree.shape.names() as u64)
}

fn walk_directory(
    directory: &Path,
    stop: &Stop,
    visit: &impl Fn(&DirEntry) -> io::Result<()>,
) -> io::Result<u64> {
    let mut seen = 0;
    for entry in fs::read_dir(directory)? {
        stop.check()?;
        let entry = entry?;
        seen += 1;
        visit(&entry)?;
        if entry.file_type()?.is_dir() {
            seen += walk_directory(&entry.path(), stop, visit)?;
        }
    }
    Ok(seen)
}

/// Stats all small files by their paths; returns how many.
///
/// # Errors
/// Those of the filesystem, and of [`Stop::check`].
pub fn stat(tree: &Tree, stop: &Stop) -> io::Result<u64> {
    for number in 0..tree.shape.files {
        stop.check()?;
        black_box(fs::symlink_metadata(tree.file(number))?);
    }
    Ok(tree.shape.files as u64)
}

/// Opens, reads and closes small files; returns how many.
///
/// # Errors
/// Those of the filesystem, of [`Stop::check`], and one if it is not what [`Tree::make`] wrote.
pub fn read_small(tree: &Tree, numbers: Range<usize>, stop: &Stop) -> io::Result<u64> {
    let mut content = Vec::with_capacity(256 << 10);
    let count = numbers.len() as u64;
    for number in numbers {
        stop.check()?;
        content.clear();
        let path = tree.file(number);
        File::open(&path)?.read_to_end(&mut content)?;
        if !is_small_file(&content) {
            return Err(io::Error::other(format!("{} has another content than it should", path.display())));
        }
    }
    Ok(count)
}

/// Reads the large file from its start to its end; returns its bytes.
///
/// # Errors
/// Those of the filesystem, of [`Stop::check`], and one if it has another size than it should.
pub fn sequential(tree: &Tree, stop: &Stop) -> io::Result<u64> {
    expect(read_all(File::open(tree.large())?, stop)?, tree.shape.large)
}

/// Reads a file to its end; returns how many bytes there were.
///
/// # Errors
/// Those of the filesystem, and of [`Stop::check`].
pub fn read_all(mut file: File, stop: &Stop) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        stop.check()?;
        match file.read(&mut piece)? {
            0 => return Ok(total),
            n => total += n as u64,
        }
    }
}

/// Up to `count` pages of the large file in no order, as offsets; none of them twice.
pub fn places(tree: &Tree, count: usize) -> Vec<u64> {
    let mut places: Vec<u64> = (0..tree.shape.large / PAGE as u64).map(|page| page * PAGE as u64).collect();
    Random(7).shuffle(&mut places);
    places.truncate(count);
    places
}

/// Reads a page at each of `places` of the large file, on `threads` threads that share one open file; returns how many.
///
/// # Errors
/// Those of the filesystem, and of [`Stop::check`].
pub fn random(tree: &Tree, threads: usize, places: &[u64], hint: Hint, stop: &Stop) -> io::Result<u64> {
    let file = File::open(tree.large())?;
    if hint == Hint::Random {
        fadvise(&file, 0, None, Advice::Random)?;
    }
    let read = |places: &[u64]| {
        let mut page = [0; PAGE];
        places.iter().try_for_each(|place| {
            stop.check()?;
            file.read_exact_at(&mut page, *place)
        })
    };
    match threads {
        1 => read(places)?,
        _ => thread::scope(|scope| {
            let share = places.len().div_ceil(threads).max(1);
            let readers: Vec<_> = places.chunks(share).map(|part| scope.spawn(|| read(part))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().expect("it does not panic"))
        })?,
    }
    Ok(places.len() as u64)
}

/// Makes and closes empty files in an empty directory; returns how many.
///
/// # Errors
/// Those of the filesystem, and of [`Stop::check`].
pub fn create(directory: &Path, files: usize, stop: &Stop) -> io::Result<u64> {
    for number in 0..files {
        stop.check()?;
        let path = directory.join(format!("unit_{number:05}.pyc"));
        OpenOptions::new().write(true).create_new(true).open(path)?;
    }
    Ok(files as u64)
}

/// Writes a new file from its start to its end, and closes it; returns its bytes.
///
/// # Errors
/// Those of the filesystem, and of [`Stop::check`].
pub fn write(path: &Path, bytes: u64, stop: &Stop) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let piece = vec![b'x'; PIECE];
    let mut left = bytes;
    while left > 0 {
        stop.check()?;
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(bytes)
}

fn expect(found: u64, expected: u64) -> io::Result<u64> {
    match found == expected {
        true => Ok(found),
        false => Err(io::Error::other(format!("{found} instead of {expected}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn all_work_can_be_done_in_a_plain_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree::at(dir.path().join("tree"), Shape { files: 120, large: (1 << 20) + 5 });
        let stop = Stop::new();
        let bytes = tree.make(&stop).expect("made");
        assert!(bytes > 120 * 16);
        let places = places(&tree, 1000);
        assert_eq!(places.len(), 256, "each page once");
        for (done, expected) in [
            (list(&tree, &stop), 120 + 3 + 1 + 1),
            (list_and_stat(&tree, &stop), 125),
            (stat(&tree, &stop), 120),
            (read_small(&tree, 0..120, &stop), 120),
            (sequential(&tree, &stop), (1 << 20) + 5),
            (random(&tree, 1, &places, Hint::Random, &stop), 256),
            (random(&tree, 4, &places[..7], Hint::Nothing, &stop), 7),
            (create(dir.path(), 10, &stop), 10),
            (write(&dir.path().join("new"), 300_000, &stop), 300_000),
        ] {
            assert_eq!(done.expect("done"), expected);
        }
        assert_eq!(fs::metadata(dir.path().join("new")).expect("written").len(), 300_000);
    }

    #[test]
    fn work_is_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree::at(dir.path(), Shape { files: 10, large: 1 << 20 });
        tree.make(&Stop::new()).expect("made");
        let stop = Stop::new();
        stop.stop();
        for stopped in [
            tree.make(&stop).map(drop),
            list(&tree, &stop).map(drop),
            stat(&tree, &stop).map(drop),
            read_small(&tree, 0..10, &stop).map(drop),
            sequential(&tree, &stop).map(drop),
            random(&tree, 2, &[0, 4096], Hint::Nothing, &stop).map(drop),
            create(dir.path(), 1, &stop).map(drop),
            write(&dir.path().join("new"), 1, &stop).map(drop),
        ] {
            assert_eq!(stopped.expect_err("stopped").kind(), io::ErrorKind::Interrupted);
        }
    }
}
