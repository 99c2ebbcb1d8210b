//! Copying parts of local files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

/// Copies a part of a file to the same place in another one, without moving the bytes where the filesystem can.
pub(crate) fn copy_segment(from: &File, to: &File, segment: &Range<u64>) -> io::Result<()> {
    let (mut source, mut target) = (segment.start, segment.start);
    while source < segment.end {
        let length = usize::try_from(segment.end - source).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_bytes(from, to, source..segment.end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What `copy_file_range` does, for filesystems that do not (two of different kinds, for one).
fn copy_bytes(from: &File, to: &File, mut segment: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while !segment.is_empty() {
        let length = usize::try_from(segment.end - segment.start).unwrap_or(usize::MAX).min(buffer.len());
        // The position of `from` is shared with others who read it.
        from.read_exact_at(&mut buffer[..length], segment.start)?;
        to.write_all_at(&buffer[..length], segment.start)?;
        segment.start += length as u64;
    }
    Ok(())
}
