//! All the names of a copy, or none of them.
//!
//! A hard-linked file of the base gets its names in the upper one after the other. A crash in between would make two files of
//! one: some names lead to the copy, the others to the base. So the names are written down in the work directory before the
//! first one is made; if that list is still there at the next start, what was made is taken away again. Nothing is lost by it:
//! the change that the copy was for has not happened yet.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aysfs_vfs::{ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat, openat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::World;
use super::at::At;
use super::change::keeping_times;
use super::stage::Staged;
use super::tree::{Place, Tree, open_path};
use super::upper::{Upper, names};

/// What is added to the name of a staged file for the list of its names.
const LIST: &[u8] = b".names";
/// Room for a million names.
const LONGEST_LIST: u64 = 1 << 30;

impl Tree {
    /// Gives a staged file its names, in directories that are open.
    pub(super) fn name_copy(
        &self,
        w: &World,
        staged: &Staged<'_>,
        names: &[(Place, Arc<OwnedFd>)],
    ) -> Result<()> {
        let (work, from) = (&w.upper.work, staged.name());
        if let [(only, directory)] = names {
            return keeping_times(directory, || {
                let to = only.name.as_bytes();
                Ok(renameat_with(work, from, directory, to, RenameFlags::NOREPLACE)?)
            });
        }
        let mut paths = Vec::new();
        for (place, _) in names {
            paths.extend(self.path(w, place)?);
            paths.push(0);
        }
        let list = w.stage_at([from, LIST].concat(), |path| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mut list = File::from(openat(work, path, flags, Mode::RUSR | Mode::WUSR)?);
            list.write_all(&paths)?;
            // Or it could be empty after a power failure that came later than the first name.
            Ok(list.sync_data()?)
        })?;
        for (position, (place, directory)) in names.iter().enumerate() {
            let name = place.name.as_bytes();
            let linked = keeping_times(directory, || staged.at().link(directory, name));
            if let Err(error) = linked {
                for (place, directory) in &names[..position] {
                    let name = place.name.as_bytes();
                    keeping_times(directory, || Ok(unlinkat(directory, name, AtFlags::empty())?))?;
                }
                return Err(error);
            }
        }
        drop(list);
        Ok(())
    }
}

impl Upper {
    /// Takes away the names that a crash kept from being all of them.
    pub(super) fn take_back_names(&self) -> Result<()> {
        for (list, _) in names(&self.work)? {
            let Some(staged) = list.strip_suffix(LIST) else { continue };
            let copy = match At::Named(self.work.clone(), staged.to_vec()).stat() {
                Ok(copy) => copy,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut paths = Vec::new();
            // Whoever wrote it need not have been us: what is a FIFO must not hold this up.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let list = File::from(openat(&self.work, &*list, flags, Mode::empty())?);
            if list.metadata()?.is_file() {
                list.take(LONGEST_LIST).read_to_end(&mut paths)?;
            }
            // What comes behind the last one was not written to the end.
            for path in paths.split_inclusive(|byte| *byte == 0).filter_map(|path| path.strip_suffix(b"\0")) {
                self.take_back(path, &copy)?;
            }
        }
        Ok(())
    }

    /// Removes a name of a copy; what leads elsewhere, or out of the upper, is none.
    fn take_back(&self, path: &[u8], copy: &Stat) -> Result<()> {
        let mut components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if components.iter().any(|component| matches!(*component, b"" | b"." | b"..")) {
            return Ok(());
        }
        let Some(name) = components.pop() else { return Ok(()) };
        let mut directory = self.root.clone();
        for component in components {
            directory = match open_path(&directory, component) {
                Ok(next) => Arc::new(next),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
        }
        match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if (found.st_dev, found.st_ino) == (copy.st_dev, copy.st_ino) => {
                keeping_times(&directory, || Ok(unlinkat(&directory, name, AtFlags::empty())?))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_crash_between_two_names_of_a_copy_leaves_none_of_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut upper = Upper::open(dir.path(), Path::new("/m")).expect("opened");
        upper.finish().expect("named");
        drop(upper);
        let (upper, work) = (dir.path().join("upper/m"), dir.path().join("work/m"));
        fs::create_dir_all(upper.join("a/b")).expect("a directory");
        fs::write(work.join("#3"), "copy").expect("a copy");
        fs::hard_link(work.join("#3"), upper.join("one")).expect("a name");
        fs::hard_link(work.join("#3"), upper.join("a/b/two")).expect("a name");
        fs::write(upper.join("a/other"), "not a copy").expect("a file");
        let before = fs::metadata(upper.join("a/b")).expect("it is there");
        // The last path was cut off; "three" was not made yet; "a/other" is another file by now.
        fs::write(work.join("#3.names"), "one\0a/b/two\0three\0a/other\0gone/x\0on").expect("a list");

        drop(Upper::open(dir.path(), Path::new("/m")).expect("opened"));
        assert_eq!(fs::read_dir(&work).expect("listed").count(), 0);
        assert!(!upper.join("one").exists() && !upper.join("a/b/two").exists());
        assert_eq!(fs::read(upper.join("a/other")).expect("read"), b"not a copy");
        let after = fs::metadata(upper.join("a/b")).expect("it is there");
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    }

    #[test]
    fn a_list_that_is_not_ours_removes_nothing_outside_and_holds_nothing_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut upper = Upper::open(dir.path(), Path::new("/m")).expect("opened");
        upper.finish().expect("named");
        drop(upper);
        let work = dir.path().join("work/m");
        let outside = dir.path().join("outside");
        fs::write(work.join("#3"), "copy").expect("a copy");
        fs::create_dir(&outside).expect("a directory");
        fs::hard_link(work.join("#3"), outside.join("victim")).expect("a name");
        std::os::unix::fs::symlink(&outside, dir.path().join("upper/m/way")).expect("a symlink");
        let absolute = outside.join("victim");
        let list = format!("../../outside/victim\0way/victim\0{}\0", absolute.display());
        fs::write(work.join("#3.names"), list).expect("a list");
        fs::write(work.join("#4"), "copy").expect("a copy");
        let fifo = (work.join("#4.names"), rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, fifo.0, fifo.1, Mode::RUSR, 0).expect("a fifo");

        drop(Upper::open(dir.path(), Path::new("/m")).expect("opened"));
        assert_eq!(fs::read(absolute).expect("it is there"), b"copy");
        assert_eq!(fs::read_dir(&work).expect("listed").count(), 0);
    }

    #[test]
    fn a_copy_that_has_all_its_names_keeps_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut upper = Upper::open(dir.path(), Path::new("/m")).expect("opened");
        upper.finish().expect("named");
        drop(upper);
        let (upper, work) = (dir.path().join("upper/m"), dir.path().join("work/m"));
        // The list is gone: the name in the work directory is one too many.
        fs::write(work.join("#3"), "copy").expect("a copy");
        fs::hard_link(work.join("#3"), upper.join("one")).expect("a name");
        drop(Upper::open(dir.path(), Path::new("/m")).expect("opened"));
        assert_eq!(fs::metadata(upper.join("one")).expect("it is there").nlink(), 1);
        assert_eq!(fs::read_dir(&work).expect("listed").count(), 0);
    }
}
