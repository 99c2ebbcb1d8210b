//! Whether a local file has the content that a flist names, of a file of the same length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aysfs_flist::Content as Listed;
use aysfs_vfs::{ErrorKind, Result};
use md5::Md5;
use sha2::{Digest, Sha256};

/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// A file that is there, whatever happens to its name.
pub(super) struct OnDisk<'a> {
    pub(super) file: &'a File,
    pub(super) abandoned: &'a AtomicBool,
}

impl OnDisk<'_> {
    /// Compares it with what the flist says. An MD5 may be that of the stored form, which tells nothing about plain bytes;
    /// then they are compared with those of the cache, if it has them. In doubt they differ.
    pub(super) fn differs(
        &self,
        listed: &Listed,
        cached: impl FnOnce() -> Option<Arc<File>>,
    ) -> Result<bool> {
        match listed {
            Listed::Object { sha256, .. } | Listed::Pack { sha256, .. } | Listed::Chunks { sha256, .. } => {
                Ok(self.digest::<Sha256>()?[..] != sha256[..])
            }
            Listed::V1(md5) => {
                if self.digest::<Md5>()?[..] == md5[..] {
                    return Ok(false);
                }
                match cached() {
                    Some(cached) => self.differs_from(&cached),
                    None => Ok(true),
                }
            }
        }
    }

    fn digest<D: Digest>(&self) -> Result<Vec<u8>> {
        let mut digest = D::new();
        self.read(|bytes, _| {
            digest.update(bytes);
            Ok(true)
        })?;
        Ok(digest.finalize().to_vec())
    }

    fn differs_from(&self, other: &File) -> Result<bool> {
        let mut same = true;
        let mut expected = vec![0; BUFFER];
        self.read(|bytes, offset| {
            let expected = &mut expected[..bytes.len()];
            same = match other.read_exact_at(expected, offset) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                read => read.map(|()| expected == bytes)?,
            };
            Ok(same)
        })?;
        Ok(!same)
    }

    /// Gives all bytes to `take`, with their offset, until it has enough.
    fn read(&self, mut take: impl FnMut(&[u8], u64) -> io::Result<bool>) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        loop {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            match self.file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    if !take(&buffer[..length], offset)? {
                        return Ok(());
                    }
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use aysfs_flist::ObjectKey;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        file
    }

    fn differs(content: &[u8], listed: &Listed, cached: Option<&[u8]>) -> bool {
        let (file, abandoned) = (file(content), AtomicBool::new(false));
        let cached = cached.map(|bytes| Arc::new(self::file(bytes)));
        OnDisk { file: &file, abandoned: &abandoned }.differs(listed, || cached).expect("read")
    }

    #[test]
    fn content_is_known_by_its_digest() {
        let sha256 = Sha256::digest(b"one").into();
        let listed = Listed::Object { sha256, key: ObjectKey::Sha256([0; 32]) };
        assert!(!differs(b"one", &listed, None));
        assert!(differs(b"two", &listed, None));
        let listed = Listed::V1(Md5::digest(b"one").into());
        assert!(!differs(b"one", &listed, None));
        assert!(differs(b"two", &listed, None));
    }

    #[test]
    fn where_the_digest_is_that_of_the_stored_form_the_cache_tells() {
        let listed = Listed::V1(Md5::digest(b"the stored form").into());
        let large = vec![7; 3 * BUFFER + 1];
        assert!(!differs(&large, &listed, Some(&large)));
        assert!(differs(&large, &listed, Some(&large[1..])));
        assert!(differs(&large, &listed, None), "in doubt");
    }

    #[test]
    fn whoever_does_not_wait_ends_the_reading() {
        let (file, abandoned) = (file(b"one"), AtomicBool::new(true));
        let listed = Listed::V1([0; 16]);
        let ended = OnDisk { file: &file, abandoned: &abandoned }.differs(&listed, || None);
        assert_eq!(ended.expect_err("ended").kind(), ErrorKind::Interrupted);
    }
}
