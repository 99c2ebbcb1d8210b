//! From the network, which is async, to a decoder, which blocks.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc::Receiver;

/// A body as a decoder reads it: the pieces that were there when it began, then those that arrive.
///
/// A whole small body needs no channel, and its decoder never waits.
pub(super) struct Input {
    head: std::vec::IntoIter<Bytes>,
    /// Ends with an error if the body does not arrive completely.
    tail: Option<Receiver<io::Result<Bytes>>>,
    piece: Bytes,
}

impl Input {
    pub(super) fn new(head: Vec<Bytes>, tail: Option<Receiver<io::Result<Bytes>>>) -> Self {
        Self { head: head.into_iter(), tail, piece: Bytes::new() }
    }

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.head.next().map(Ok).or_else(|| self.tail.as_mut()?.blocking_recv())
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.next() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let n = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
