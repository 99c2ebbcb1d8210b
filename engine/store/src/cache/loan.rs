//! Files of the cache that the kernel reads for a mount by itself.
//!
//! A mount that can be written may pass a file of its base through to the kernel: the cached file becomes what all handles of the
//! inode read. When the inode is changed, those handles, and what is mapped of it, have to see that, and the kernel knows of no other file for
//! them. So the file changes sides: the cache makes itself a copy, and the inode keeps the file that everybody has open.
//! Hence the rules:
//!
//! - A file is *lent* to one [`Borrower`] at a time, and only if nobody else in the whole system has it open, mapped files of
//!   programs included. The loan lasts until another borrower wants the file while nobody uses it, or until the cache closes
//!   it: a program that has mapped it and closed it cannot be seen otherwise.
//! - Whoever lends a file holds a lock on it (`flock`), so that another process lends no file that is lent. One
//!   that finds the lock taken still reads the file, but after each read it looks whether the file is still in its place (see
//!   [`VerifiedFile`]).
//! - A file that is given away has been replaced in the cache before its first byte can change. At no time do the cache and
//!   the new owner have a name for the same file but for the moment in which it is moved, and a crash in that moment leaves
//!   it with two names: such a file counts as absent, and is replaced (see [`Cache`]).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::{FlockOperation, flock};

use super::sole::is_sole_user;
use super::verified::VerifiedFile;
use super::{Cache, CachedFile, FileKey, lock};

/// Who may borrow a file: an inode of a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borrower {
    /// Which filesystem, of all that use the cache.
    pub filesystem: u64,
    /// The number of its inode.
    pub inode: u64,
}

/// To whom a file is lent.
#[derive(Debug)]
pub(super) struct Loan {
    to: Borrower,
    /// While it lives, the file is not lent to anybody else, whoever uses it.
    lent: Weak<Lent>,
}

/// A file that is lent. When it is dropped, the borrower says that he has closed it; others may have it mapped.
pub struct Lent {
    cache: Arc<Cache>,
    key: FileKey,
    file: Arc<VerifiedFile>,
}

impl CachedFile {
    /// Lends the verified file, if it is there and nobody else uses it. Never waits for a fetch or a verification.
    pub fn lend(&self, to: Borrower) -> Option<Arc<Lent>> {
        if self.content.size == 0 {
            return None;
        }
        let file = self.complete()?;
        let mut loan = lock(&file.loan);
        match &*loan {
            Some(known) if known.to == to => {
                if let Some(lent) = known.lent.upgrade() {
                    return Some(lent);
                }
                // Who uses it may: it is this borrower's. But it could not be given away without its name.
                if !self.cache.disk.has(&self.content.id, file.file()) {
                    return None;
                }
            }
            Some(known) if known.lent.strong_count() > 0 || !self.is_free(&file) => return None,
            Some(_) => {}
            None => {
                flock(file.file(), FlockOperation::NonBlockingLockExclusive).ok()?;
                // Looked at only now: whoever opens it from here on finds it locked.
                if !self.is_free(&file) {
                    unlock(file.file());
                    return None;
                }
            }
        }
        Some(self.note(&file, &mut loan, to))
    }

    /// The loan to this borrower, if there is one that matters: he has not dropped it, or somebody still uses the file. An idle
    /// one ends.
    pub fn lent(&self, to: Borrower) -> Option<Arc<Lent>> {
        let file = lock(&self.cache.files).open.peek(&FileKey::of(&self.content))?.clone();
        let mut loan = lock(&file.loan);
        let known = loan.as_ref().filter(|loan| loan.to == to)?;
        if let Some(lent) = known.lent.upgrade() {
            return Some(lent);
        }
        if is_sole_user(file.file()) {
            *loan = None;
            unlock(file.file());
            return None;
        }
        Some(self.note(&file, &mut loan, to))
    }

    fn note(&self, file: &Arc<VerifiedFile>, loan: &mut Option<Loan>, to: Borrower) -> Arc<Lent> {
        let (cache, key) = (self.cache.clone(), FileKey::of(&self.content));
        let lent = Arc::new(Lent { cache, key, file: file.clone() });
        *loan = Some(Loan { to, lent: Arc::downgrade(&lent) });
        lent
    }

    /// Whether nobody else uses a file, and it is the one in the directory: another could not be given away.
    fn is_free(&self, file: &VerifiedFile) -> bool {
        is_sole_user(file.file()) && self.cache.disk.has(&self.content.id, file.file())
    }
}

impl Lent {
    /// The file: what the borrower may pass through to the kernel.
    pub fn file(&self) -> &Arc<File> {
        self.file.file()
    }

    /// Gives the file to the borrower, under a new name in a directory, without a seal and with the permissions that a file of
    /// the cache has. The cache keeps a copy of it in its place. Blocks for as long as it takes to copy it.
    ///
    /// # Errors
    /// Those of the cache directory, a lack of room among them, and of the new name. Nothing has happened then.
    pub fn give_away(&self, directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let copy = self.cache.write_with_room(self.key.size, || self.cache.disk.copy(self.file()))?;
        let copy = self.cache.disk.swap(&self.key.id, self.file(), &copy, directory, name)?;
        lock(&self.cache.files).open.put(self.key, Arc::new(self.cache.new_file(copy)));
        // From here on nobody finds it; whoever has found it before learns of it after his read.
        self.file.is_given();
        *lock(&self.file.loan) = None;
        unlock(self.file());
        Ok(())
    }
}

impl Cache {
    /// Whether its files can be given names in a directory; tried with a file that has this one.
    pub fn can_give_to(&self, directory: &OwnedFd, name: &[u8]) -> bool {
        match self.disk.can_give_to(directory, name) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(
                    "cached files cannot be passed through, since they cannot become local changes: {error}"
                );
                false
            }
        }
    }
}

impl Drop for Lent {
    /// Until now the kernel may have read it, without a word to anybody.
    fn drop(&mut self) {
        self.file.last_read().touch();
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("id", &self.key.id).finish_non_exhaustive()
    }
}

/// Takes the lock off; it ends with the file anyway.
fn unlock(file: &File) {
    let _ = flock(file, FlockOperation::Unlock);
}
