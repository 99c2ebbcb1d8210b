//! Work that nobody waits for any more: how a thread, which cannot be stopped from outside, gets to know.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a thread that nobody waits for it any more.
#[derive(Default)]
pub(crate) struct SetWhenDropped(pub(crate) Arc<AtomicBool>);

impl Drop for SetWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A reader that fails as soon as nobody waits for what is made of it.
pub(crate) struct WhileWanted<'a, R> {
    pub(crate) inner: R,
    pub(crate) abandoned: &'a AtomicBool,
}

impl<R: Read> Read for WhileWanted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.abandoned.load(Ordering::Relaxed) {
            // Not `Interrupted`: that is tried again.
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for WhileWanted<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
