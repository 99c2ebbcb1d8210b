//! The transaction log of pushes: `path|hash|unix seconds` for each file that reached the stor, as the old system wrote it.
//!
//! It is for people and their scripts; nothing reads it here. At 5 MB it is put aside, and the last three are kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aysfs_store::ContentId;

/// How long a log becomes, in bytes.
const LONGEST: u64 = 5_000_000;

/// How many old ones are kept: `.1` is the newest.
const KEPT: u32 = 3;

/// A log that is rotated.
#[derive(Clone, Debug)]
pub(crate) struct TransactionLog(pub(super) PathBuf);

impl TransactionLog {
    /// Adds a line for each file. Without its log a push is as good; it is only said.
    pub(crate) fn add(&self, files: &[(Vec<u8>, ContentId)], at: SystemTime) {
        if let Err(error) = self.append(files, at) {
            tracing::warn!("cannot write the log of pushes {}: {error}", self.0.display());
        }
    }

    fn append(&self, files: &[(Vec<u8>, ContentId)], at: SystemTime) -> io::Result<()> {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut open = None;
        for (path, id) in files {
            let file = match &mut open {
                Some(file) => file,
                none => none.insert(self.open()?),
            };
            let line = format!("/{}|{id}|{seconds}\n", escaped(path));
            if file.metadata()?.len() + line.len() as u64 > LONGEST {
                self.rotate()?;
                *file = self.open()?;
            }
            file.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    /// Opens it for as long as nobody else does: several mounts may have one log.
    fn open(&self) -> io::Result<File> {
        if let Some(directory) = self.0.parent() {
            fs::create_dir_all(directory)?;
        }
        loop {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.0)?;
            file.lock()?;
            // Another one may have put it aside before.
            let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
            if fs::metadata(&self.0)
                .is_ok_and(|named| file.metadata().is_ok_and(|meta| inode(meta) == inode(named)))
            {
                return Ok(file);
            }
        }
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            let older = suffixed(&self.0, number);
            if older.exists() {
                fs::rename(older, suffixed(&self.0, number + 1))?;
            }
        }
        fs::rename(&self.0, suffixed(&self.0, 1))
    }
}

fn suffixed(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// A path on one line, in which `|` separates nothing.
fn escaped(path: &[u8]) -> String {
    path.escape_ascii().to_string().replace('|', "\\x7c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_old_logs_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/push.log");
        let log = TransactionLog(path.clone());
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        let id = ContentId::Md5([0xab; 16]);
        log.append(&[(b"a|b\n".to_vec(), id)], at).expect("added");
        let line = format!("/a\\x7cb\\n|{id}|1700000000\n");
        assert_eq!(fs::read_to_string(&path).expect("there"), line);

        let many = vec![(vec![b'x'; 4000], id); 6000];
        log.append(&many, at).expect("added");
        let length = |path: &Path| fs::metadata(path).map(|meta| meta.len()).ok();
        for number in 1..=3 {
            let length = length(&suffixed(&path, number)).expect("kept");
            assert!((LONGEST - 5000..=LONGEST).contains(&length), "{number}: {length}");
        }
        assert_eq!(length(&suffixed(&path, 4)), None);
        assert!(length(&path).is_some_and(|length| length < LONGEST));
    }
}
