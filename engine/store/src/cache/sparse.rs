//! Writing a chunk into its file without writing zeros.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::codec::Sink;

/// What is left out where the file has it, aligned: the block of nearly every filesystem.
const BLOCK: [u8; 4096] = [0; 4096];

/// What the region holds before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    /// A hole.
    Fresh,
    /// What a failed fetch left there.
    Soiled,
}

/// Writes from `start` on, leaving whole blocks of zeros as holes.
pub(super) struct SparseWriter<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    position: u64,
    zeros: Zeros,
}

/// What to do with a block of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeros {
    /// The file reads as zeros there already.
    Skip,
    /// It may not.
    Write,
}

impl<'a> SparseWriter<'a> {
    /// For `length` bytes of `file`, which reaches that far already.
    pub(super) fn new(file: &'a File, start: u64, length: u64, region: Region) -> Self {
        let mut writer = Self { file, start, length, position: start, zeros: Zeros::Skip };
        if region == Region::Soiled {
            writer.restart();
        }
        writer
    }

    /// Writes a part of the bytes that begin at the current position.
    fn put(&self, bytes: &[u8], part: Range<usize>) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&bytes[part.clone()], self.position + part.start as u64)
    }
}

impl Write for SparseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let past_border = usize::try_from(self.position % BLOCK.len() as u64).unwrap_or(0);
        let mut block_end = BLOCK.len() - past_border;
        // Neighbouring blocks are written together.
        let mut run = 0..0;
        while run.end < bytes.len() {
            let next = run.end..block_end.min(bytes.len());
            block_end += BLOCK.len();
            if self.zeros == Zeros::Skip && bytes[next.clone()] == BLOCK {
                self.put(bytes, run)?;
                run = next.end..next.end;
            } else {
                run.end = next.end;
            }
        }
        self.put(bytes, run)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for SparseWriter<'_> {
    fn restart(&mut self) {
        self.position = self.start;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = self.length == 0 || fallocate(self.file, punch, self.start, self.length).is_ok();
        self.zeros = if punched { Zeros::Skip } else { Zeros::Write };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0xff; usize::try_from(file.metadata().expect("stat").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        bytes
    }

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let plain: Vec<u8> = (0..40_000_u32)
            .map(|n| if (n / 5000).is_multiple_of(2) { 0 } else { n.to_le_bytes()[0] | 1 })
            .collect();
        for start in [0, 1, 4095, 4096, 10_000] {
            for piece in [1000, 4096, 4097, 9000, 40_000] {
                let file = tempfile::tempfile().expect("a file");
                file.set_len(start + 40_000).expect("resizable");
                let mut writer = SparseWriter::new(&file, start, 40_000, Region::Fresh);
                plain.chunks(piece).for_each(|bytes| writer.write_all(bytes).expect("written"));
                assert!(contents(&file)[usize::try_from(start).expect("small")..] == plain);
            }
        }
    }

    #[test]
    fn zeros_are_not_stored() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4 << 20).expect("resizable");
        let mut writer = SparseWriter::new(&file, 0, 4 << 20, Region::Fresh);
        (0..64).for_each(|_| writer.write_all(&[0; 64 << 10]).expect("written"));
        assert_eq!(file.metadata().expect("stat").blocks(), 0);
    }

    #[test]
    fn what_was_there_before_does_not_show_through() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[7; 20_000], 0).expect("written");
        let mut writer = SparseWriter::new(&file, 1000, 15_000, Region::Soiled);
        writer.write_all(&[5; 9000]).expect("written");
        writer.restart();
        writer.write_all(&[0; 15_000]).expect("written");
        assert!(contents(&file) == [vec![7; 1000], vec![0; 15_000], vec![7; 4000]].concat());
    }
}
