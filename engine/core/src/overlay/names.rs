//! All the names of a copy, or none of them.
//!
//! A hard-linked file of the base gets its names in the upper one after the other. A crash in between would make two files of
//! one: some names lead to the copy, the others to the base. So the names are written down in the work directory before the
//! first one is made; if that list is still there at the next start, what was made is taken away again. Nothing is lost by it:
//! the change that the copy was for has not happened yet.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use aysfs_vfs::Result;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::World;
use super::at::At;
use super::change::keeping_times;
use super::stage::Staged;
use super::tree::{Place, Tree};
use super::upper::{Upper, names};

/// What is added to the name of a staged file for the list of its names.
const LIST: &[u8] = b".names";

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
                Err(error) if error.kind() == aysfs_vfs::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut paths = Vec::new();
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            File::from(openat(&self.work, &*list, flags, Mode::empty())?).read_to_end(&mut paths)?;
            // What comes behind the last one was not written to the end.
            for path in paths.split_inclusive(|byte| *byte == 0).filter_map(|path| path.strip_suffix(b"\0")) {
                match statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) if found.st_ino == copy.st_ino => self.take_back(path)?,
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn take_back(&self, path: &[u8]) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(path));
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = Arc::new(openat(&self.root, parent, flags, Mode::empty())?);
        keeping_times(&directory, || Ok(unlinkat(&directory, name, AtFlags::empty())?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

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
