//! The bytes of one regular file: pages, and holes where there is none.
//!
//! Invariant: bytes behind the size are zero or not there, so that growing a file never shows old content.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::{ErrorKind, FallocateMode, Result, SeekWhence};

/// Unit of allocation, in bytes.
pub(super) const PAGE: u64 = 4096;

const PAGE_LEN: usize = 4096;

/// `MAX_LFS_FILESIZE`: offsets are signed in the kernel.
const MAX_SIZE: u64 = i64::MAX.cast_unsigned();

/// A page that takes up space.
enum Page {
    /// Allocated, never written: reads as zeros, and is a hole for `lseek`.
    Reserved,
    /// Written.
    Data(Box<[u8; PAGE_LEN]>),
}

impl Page {
    fn bytes_mut(&mut self) -> &mut [u8; PAGE_LEN] {
        if let Self::Reserved = self {
            *self = Self::Data(Box::new([0; PAGE_LEN]));
        }
        match self {
            Self::Data(bytes) => bytes,
            Self::Reserved => unreachable!("it was given bytes above"),
        }
    }
}

/// The content of a regular file.
#[derive(Default)]
pub(super) struct Content {
    size: u64,
    pages: BTreeMap<u64, Page>,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Space in use, in pages.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(super) fn read(&self, offset: u64, len: u64) -> Bytes {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return Bytes::new();
        }
        let mut bytes = vec![0; in_memory(end - offset)];
        for (&index, page) in self.pages.range(pages_touched(offset..end)) {
            let Page::Data(data) = page else { continue };
            let part = part_of_page(index, offset..end);
            let at = in_memory(index * PAGE + part.start as u64 - offset);
            bytes[at..at + part.len()].copy_from_slice(&data[part]);
        }
        bytes.into()
    }

    /// Writes all of `data`, or nothing if that takes more than `free` pages.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], free: u64) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let range = checked(offset, data.len() as u64)?;
        self.afford(&range, free)?;
        for index in pages_touched(range.clone()) {
            let part = part_of_page(index, range.clone());
            let from = in_memory(index * PAGE + part.start as u64 - offset);
            let page = self.pages.entry(index).or_insert(Page::Reserved);
            page.bytes_mut()[part.clone()].copy_from_slice(&data[from..from + part.len()]);
        }
        self.size = self.size.max(range.end);
        Ok(())
    }

    pub(super) fn resize(&mut self, size: u64) -> Result<()> {
        checked(size, 0)?;
        if size < self.size {
            self.pages.split_off(&size.div_ceil(PAGE));
            self.clear(size..size.next_multiple_of(PAGE));
        }
        self.size = size;
        Ok(())
    }

    pub(super) fn fallocate(&mut self, offset: u64, len: u64, mode: FallocateMode, free: u64) -> Result<()> {
        if len == 0 {
            return Err(ErrorKind::Invalid.into());
        }
        let range = checked(offset, len)?;
        match mode {
            FallocateMode::Allocate { keep_size } => {
                self.afford(&range, free)?;
                self.reserve(&range);
                self.grow(range.end, keep_size);
            }
            FallocateMode::ZeroRange { keep_size } => {
                self.afford(&range, free)?;
                self.clear(range.clone());
                self.reserve(&range);
                self.grow(range.end, keep_size);
            }
            FallocateMode::PunchHole => self.clear(range),
            FallocateMode::CollapseRange => {
                if !aligned(&range) || range.end >= self.size {
                    return Err(ErrorKind::Invalid.into());
                }
                let behind = self.pages.split_off(&(range.end / PAGE));
                self.pages.split_off(&(range.start / PAGE));
                self.pages.extend(behind.into_iter().map(|(index, page)| (index - len / PAGE, page)));
                self.size -= len;
            }
            FallocateMode::InsertRange => {
                if !aligned(&range) || range.start >= self.size {
                    return Err(ErrorKind::Invalid.into());
                }
                let size = checked(self.size, len)?.end;
                let behind = self.pages.split_off(&(range.start / PAGE));
                self.pages.extend(behind.into_iter().map(|(index, page)| (index + len / PAGE, page)));
                self.size = size;
            }
        }
        Ok(())
    }

    pub(super) fn seek(&self, offset: u64, whence: SeekWhence) -> Result<u64> {
        if offset >= self.size {
            return Err(ErrorKind::NothingThere.into());
        }
        let mut data = self
            .pages
            .range(pages_touched(offset..self.size))
            .filter_map(|(&index, page)| matches!(page, Page::Data(_)).then_some(index));
        match whence {
            SeekWhence::Data => match data.next() {
                Some(index) => Ok(offset.max(index * PAGE)),
                None => Err(ErrorKind::NothingThere.into()),
            },
            SeekWhence::Hole => {
                let first = offset / PAGE;
                let run =
                    (first..).zip(data).take_while(|(expected, index)| expected == index).count() as u64;
                Ok(offset.max((first + run) * PAGE).min(self.size))
            }
        }
    }

    /// Refuses a change that needs more new pages than `free`.
    fn afford(&self, range: &Range<u64>, free: u64) -> Result<()> {
        let touched = pages_touched(range.clone());
        let wanted = touched.end - touched.start;
        // The count of present pages is worth its time only where space is short.
        if wanted > free && wanted - self.pages.range(touched).count() as u64 > free {
            return Err(ErrorKind::NoSpace.into());
        }
        Ok(())
    }

    fn reserve(&mut self, range: &Range<u64>) {
        for index in pages_touched(range.clone()) {
            self.pages.entry(index).or_insert(Page::Reserved);
        }
    }

    fn grow(&mut self, end: u64, keep_size: bool) {
        if !keep_size {
            self.size = self.size.max(end);
        }
    }

    /// Makes the range read as zeros: whole pages become holes, the rest is overwritten.
    fn clear(&mut self, range: Range<u64>) {
        let touched: Vec<u64> =
            self.pages.range(pages_touched(range.clone())).map(|(&index, _)| index).collect();
        for index in touched {
            let part = part_of_page(index, range.clone());
            if part.len() == PAGE_LEN {
                self.pages.remove(&index);
            } else if let Some(Page::Data(bytes)) = self.pages.get_mut(&index) {
                bytes[part].fill(0);
            }
        }
    }
}

fn checked(offset: u64, len: u64) -> Result<Range<u64>> {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_SIZE => Ok(offset..end),
        _ => Err(ErrorKind::FileTooLarge.into()),
    }
}

fn aligned(range: &Range<u64>) -> bool {
    range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE)
}

fn pages_touched(range: Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / PAGE..range.end.div_ceil(PAGE) }
}

/// The part of `range` that lies in page `index`, relative to the page.
fn part_of_page(index: u64, range: Range<u64>) -> Range<usize> {
    let start = range.start.saturating_sub(index * PAGE);
    let end = (range.end - index * PAGE).min(PAGE);
    in_memory(start)..in_memory(end)
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("what is held in memory can be addressed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 1000;

    fn holding(parts: &[(u64, &[u8])]) -> Content {
        let mut content = Content::default();
        for (offset, data) in parts {
            content.write(*offset, data, PLENTY).expect("there is space");
        }
        content
    }

    #[test]
    fn holes_read_as_zeros_and_take_no_space() {
        let content = holding(&[(PAGE - 2, b"abcd"), (10 * PAGE, b"end")]);
        assert_eq!(content.size(), 10 * PAGE + 3);
        assert_eq!(content.allocated(), 3);
        assert_eq!(&content.read(PAGE - 3, 6)[..], b"\0abcd\0");
        assert!(content.read(5 * PAGE, PAGE).iter().all(|b| *b == 0));
        assert_eq!(&content.read(10 * PAGE, 100)[..], b"end");
        assert!(content.read(10 * PAGE + 3, 1).is_empty());
        assert!(content.read(u64::MAX, u64::MAX).is_empty());
    }

    #[test]
    fn writing_nothing_behind_the_end_does_not_grow_the_file() {
        assert_eq!(holding(&[(0, b"abc"), (10, b"")]).size(), 3);
    }

    #[test]
    fn shrinking_and_growing_shows_zeros() {
        let mut content = holding(&[(0, &[7; 3 * PAGE_LEN])]);
        content.resize(PAGE + 10).expect("a size");
        assert_eq!(content.allocated(), 2);
        content.resize(3 * PAGE).expect("a size");
        assert!(content.read(PAGE + 10, 2 * PAGE).iter().all(|b| *b == 0));
        assert_eq!(&content.read(PAGE + 8, 4)[..], &[7, 7, 0, 0]);
        content.resize(0).expect("a size");
        assert_eq!(content.allocated(), 0);
        assert_eq!(content.resize(MAX_SIZE + 1).expect_err("too large").kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn data_and_holes_are_found() {
        let content = holding(&[(2 * PAGE, &[1; 2 * PAGE_LEN]), (6 * PAGE, b"x")]);
        let data = |offset| content.seek(offset, SeekWhence::Data).ok();
        let hole = |offset| content.seek(offset, SeekWhence::Hole).ok();
        assert_eq!(data(0), Some(2 * PAGE));
        assert_eq!(data(2 * PAGE + 5), Some(2 * PAGE + 5));
        assert_eq!(data(4 * PAGE), Some(6 * PAGE));
        assert_eq!(data(6 * PAGE + 1), None);
        assert_eq!(hole(0), Some(0));
        assert_eq!(hole(5), Some(5));
        assert_eq!(hole(2 * PAGE + 5), Some(4 * PAGE));
        assert_eq!(hole(6 * PAGE), Some(6 * PAGE + 1));
        assert_eq!(hole(6 * PAGE + 1), None);
        let mut tail = holding(&[(0, b"x")]);
        tail.resize(3 * PAGE).expect("a size");
        assert_eq!(tail.seek(PAGE, SeekWhence::Data).expect_err("a hole").kind(), ErrorKind::NothingThere);
    }

    #[test]
    fn space_is_refused_before_anything_changes() {
        let mut content = holding(&[(0, b"old")]);
        let refused = content.write(0, &[9; 3 * PAGE_LEN], 1).expect_err("two pages are missing");
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(&content.read(0, 10)[..], b"old");
        content.write(0, &[9; 3 * PAGE_LEN], 2).expect("one page was there");
    }

    #[test]
    fn fallocate_modes() {
        let allocate = |keep_size| FallocateMode::Allocate { keep_size };
        let mut content = holding(&[(0, b"data")]);
        content.fallocate(0, 4 * PAGE, allocate(true), PLENTY).expect("space");
        assert_eq!((content.size(), content.allocated()), (4, 4));
        content.fallocate(0, 4 * PAGE, allocate(false), PLENTY).expect("space");
        assert_eq!(content.size(), 4 * PAGE);
        assert_eq!(content.seek(4, SeekWhence::Hole).expect("reserved space is a hole"), PAGE);
        assert_eq!(
            content.fallocate(0, 0, allocate(false), PLENTY).expect_err("empty").kind(),
            ErrorKind::Invalid
        );

        let mut content = holding(&[(0, &[1; 3 * PAGE_LEN])]);
        content.fallocate(PAGE - 1, PAGE + 2, FallocateMode::PunchHole, PLENTY).expect("a hole");
        assert_eq!((content.size(), content.allocated()), (3 * PAGE, 2));
        assert_eq!(&content.read(PAGE - 2, 2)[..], &[1, 0]);
        assert_eq!(&content.read(2 * PAGE, 2)[..], &[0, 1]);

        let mut content = holding(&[(0, &[1; 2 * PAGE_LEN])]);
        content
            .fallocate(PAGE, 2 * PAGE, FallocateMode::ZeroRange { keep_size: false }, PLENTY)
            .expect("zeros");
        assert_eq!((content.size(), content.allocated()), (3 * PAGE, 3));
        assert!(content.read(PAGE, 2 * PAGE).iter().all(|b| *b == 0));
    }

    #[test]
    fn ranges_collapse_and_are_inserted() {
        let mut content = holding(&[(0, &[1; PAGE_LEN]), (PAGE, &[2; PAGE_LEN]), (2 * PAGE, &[3; 5])]);
        content.fallocate(PAGE, PAGE, FallocateMode::InsertRange, PLENTY).expect("aligned");
        assert_eq!(content.size(), 3 * PAGE + 5);
        assert_eq!([0, 1, 2, 3].map(|page| content.read(page * PAGE, 1)[0]), [1, 0, 2, 3]);
        content.fallocate(0, 2 * PAGE, FallocateMode::CollapseRange, PLENTY).expect("aligned");
        assert_eq!([0, 1].map(|page| content.read(page * PAGE, 1)[0]), [2, 3]);
        assert_eq!(content.size(), PAGE + 5);
        for (offset, len) in [(1, PAGE), (0, 1), (PAGE, PAGE)] {
            let refused = content.fallocate(offset, len, FallocateMode::CollapseRange, PLENTY);
            assert_eq!(refused.expect_err("unaligned or at the end").kind(), ErrorKind::Invalid);
        }
    }
}
