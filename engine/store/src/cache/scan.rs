//! What is in the cache directory.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::packs::DIRECTORY;
use crate::{ContentId, Key};

/// What a file of the directory is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Named {
    /// A content.
    Content(ContentId),
    /// Parts of a pack.
    Pack(Key),
}

/// A file with such a name.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) named: Named,
    pub(super) stat: Stat,
}

/// Gives each file that has the name of a content, or of a pack, to `file`: a system call for each.
pub(super) fn scan(root: &OwnedFd, mut file: impl FnMut(Listed)) -> Result<(), Errno> {
    let pack = |name: &str| name.parse().ok().map(Named::Pack);
    let content = |name: &str| id(name).map(Named::Content);
    scan_directory(root, DIRECTORY, pack, &mut file)?;
    (0..=u8::MAX).try_for_each(|prefix| scan_directory(root, &hex::encode([prefix]), content, &mut file))
}

fn scan_directory(
    root: &OwnedFd,
    name: &str,
    named: impl Fn(&str) -> Option<Named>,
    mut file: impl FnMut(Listed),
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(root, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(named) = entry.file_name().to_str().ok().and_then(&named) else { continue };
        match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => file(Listed { named, stat }),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The content with this name.
fn id(name: &str) -> Option<ContentId> {
    let digest = hex::decode(name).ok()?;
    let id = match digest.len() {
        16 => ContentId::Md5(digest.try_into().ok()?),
        _ => ContentId::Sha256(digest.try_into().ok()?),
    };
    // Names are in lower case.
    (id.to_string() == name).then_some(id)
}
