//! What is in the cache directory.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::ContentId;

/// A file with the name of a content.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: ContentId,
    pub(super) stat: Stat,
}

/// Gives each file that has the name of a content to `file`: a system call for each.
pub(super) fn scan(root: &OwnedFd, mut file: impl FnMut(Listed)) -> Result<(), Errno> {
    for prefix in 0..=u8::MAX {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(root, hex::encode([prefix]), flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().ok().and_then(id) else { continue };
            match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => file(Listed { id, stat }),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
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
