//! Bytes that come by unusual ways.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom as Seeking, fallocate, seek};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "data":
    vectors_are_written_in_order
    pipes_flow_into_files
    direct_and_cached_io_see_each_other
    ranges_are_inserted_and_collapsed
    truncating_by_open_keeps_the_inode
    far_offsets_are_reached
    handles_do_only_what_they_were_opened_for
    mappings_of_two_handles_are_one
    a_private_mapping_changes_nothing
    writing_through_a_mapping_moves_the_times
    synchronous_writes_arrive
    small_writes_make_a_large_file
    a_shrunk_file_shows_no_old_bytes
}

const PAGE: usize = 4096;

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("opened")
}

fn mapped(file: &File) -> MmapMut {
    // SAFETY: nobody shortens the file while it is mapped.
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().map_mut(file).expect("mapped")
    }
}

fn vectors_are_written_in_order(at: &Path) {
    let mut file = read_write(&at.join("f"));
    let parts: Vec<Vec<u8>> = (0..20_u8).map(|part| vec![part; 1000 * usize::from(part)]).collect();
    let expected = parts.concat();
    let vector: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    assert_eq!(file.write_vectored(&vector).expect("written"), expected.len());
    assert!(fs::read(at.join("f")).expect("read") == expected);
}

fn pipes_flow_into_files(at: &Path) {
    let data: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let (mut reader, mut writer) = io::pipe().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&data).expect("written");
            drop(writer);
        });
        let mut file = read_write(&at.join("f"));
        assert_eq!(io::copy(&mut reader, &mut file).expect("copied"), 1 << 20);
    });
    assert!(fs::read(at.join("f")).expect("read") == data);
    let (mut reader, mut writer) = io::pipe().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut file = File::open(at.join("f")).expect("opened");
            io::copy(&mut file, &mut writer).expect("copied");
        });
        let mut found = Vec::new();
        reader.read_to_end(&mut found).expect("read");
        assert!(found == data);
    });
}

fn direct_and_cached_io_see_each_other(at: &Path) {
    let path = at.join("f");
    let cached = read_write(&path);
    cached.write_all_at(&[1; 4 * PAGE], 0).expect("written");
    let flags = OFlags::DIRECT.bits().cast_signed();
    let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).expect("opened");
    // Anonymous memory is aligned to pages, as O_DIRECT may want it.
    let mut buffer = MmapMut::map_anon(4 * PAGE).expect("memory");
    direct.read_exact_at(&mut buffer, 0).expect("read");
    assert!(buffer.iter().all(|byte| *byte == 1));
    buffer.fill(2);
    direct.write_all_at(&buffer[..PAGE], PAGE as u64).expect("written");
    let mut found = vec![0; 4 * PAGE];
    cached.read_exact_at(&mut found, 0).expect("read");
    let expected: Vec<u8> = [1, 2, 1, 1].iter().flat_map(|byte| [*byte; PAGE]).collect();
    assert!(found == expected);
    cached.write_all_at(&[3; PAGE], 2 * PAGE as u64).expect("written");
    direct.read_exact_at(&mut buffer, 0).expect("read");
    assert!(buffer[2 * PAGE..3 * PAGE] == [3; PAGE]);
}

fn ranges_are_inserted_and_collapsed(at: &Path) {
    let file = read_write(&at.join("f"));
    let pages = |numbers: &[u8]| numbers.iter().flat_map(|number| [*number; PAGE]).collect::<Vec<_>>();
    file.write_all_at(&pages(&[1, 2, 3]), 0).expect("written");
    let page = PAGE as u64;
    match fallocate(&file, FallocateFlags::INSERT_RANGE, page, page) {
        // Not every local filesystem can.
        Err(Errno::OPNOTSUPP) => return,
        inserted => inserted.expect("inserted"),
    }
    assert!(fs::read(at.join("f")).expect("read") == pages(&[1, 0, 2, 3]));
    fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, page).expect("collapsed");
    assert!(fs::read(at.join("f")).expect("read") == pages(&[0, 2, 3]));
    assert_eq!(file.metadata().expect("open").len(), 3 * page);
    let refused = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 1, page);
    assert_eq!(refused, Err(Errno::INVAL), "only whole blocks");
    let refused = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, page, 2 * page);
    assert_eq!(refused, Err(Errno::INVAL), "not up to the end");
}

fn truncating_by_open_keeps_the_inode(at: &Path) {
    let path = at.join("f");
    fs::write(&path, vec![1; 10_000]).expect("written");
    let before = fs::metadata(&path).expect("it exists");
    let reader = File::open(&path).expect("opened");
    let emptied = OpenOptions::new().write(true).truncate(true).open(&path).expect("opened");
    let after = fs::metadata(&path).expect("it exists");
    assert_eq!((after.ino(), after.mode(), after.len()), (before.ino(), before.mode(), 0));
    assert_eq!(reader.read_at(&mut [0; 10], 0).expect("read"), 0);
    emptied.write_all_at(b"new", 5).expect("written");
    let mut found = [9; 8];
    reader.read_exact_at(&mut found, 0).expect("read");
    assert_eq!(&found, b"\0\0\0\0\0new");
}

fn far_offsets_are_reached(at: &Path) {
    let mut file = read_write(&at.join("f"));
    let places = [(1_u64 << 31) - 2, (1 << 32) - 2, 1 << 33, (1 << 40) + 1];
    for place in places {
        file.write_all_at(b"here", place).expect("written");
    }
    for place in places {
        let mut found = [9; 6];
        let expected: &[u8] = if place == places[3] { b"\0here" } else { b"\0here\0" };
        let read = file.read_at(&mut found, place - 1).expect("read");
        assert_eq!(&found[..read], expected, "at {place}");
    }
    assert_eq!(file.seek(SeekFrom::End(-4)).expect("seeked"), places[3]);
    assert!(file.metadata().expect("open").blocks() < 1000);
    let refused = file.write_at(b"x", i64::MAX as u64).expect_err("nothing can be there");
    assert!([Some(Errno::FBIG), Some(Errno::INVAL)].contains(&Errno::from_io_error(&refused)));
}

fn handles_do_only_what_they_were_opened_for(at: &Path) {
    let path = at.join("f");
    fs::write(&path, "text").expect("written");
    let (reader, writer) = (File::open(&path).expect("opened"), OpenOptions::new().write(true).open(&path));
    let writer = writer.expect("opened");
    let errno = |result: io::Result<usize>| Errno::from_io_error(&result.expect_err("not opened for it"));
    assert_eq!(errno(reader.write_at(b"x", 0)), Some(Errno::BADF));
    assert_eq!(errno(writer.read_at(&mut [0], 0)), Some(Errno::BADF));
    let refused = reader.set_len(0).expect_err("not opened for it");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::INVAL));
    let path_only = OFlags::PATH.bits().cast_signed();
    let path_only = File::options().read(true).custom_flags(path_only).open(&path).expect("found");
    assert_eq!(errno(path_only.read_at(&mut [0], 0)), Some(Errno::BADF));
    assert_eq!(path_only.metadata().expect("found").len(), 4);
    assert_eq!(fs::read(&path).expect("read"), b"text");
}

fn mappings_of_two_handles_are_one(at: &Path) {
    let path = at.join("f");
    fs::write(&path, [0; 2 * PAGE]).expect("written");
    let (mut a, mut b) = (mapped(&read_write(&path)), mapped(&read_write(&path)));
    a[10] = 1;
    assert_eq!(b[10], 1);
    b[PAGE] = 2;
    assert_eq!(a[PAGE], 2);
    a.flush().expect("synced");
    b.flush().expect("synced");
    drop((a, b));
    let content = fs::read(&path).expect("read");
    assert_eq!((content[10], content[PAGE]), (1, 2));
}

fn a_private_mapping_changes_nothing(at: &Path) {
    let path = at.join("f");
    fs::write(&path, [1; PAGE]).expect("written");
    let file = File::open(&path).expect("opened");
    // SAFETY: a private copy, of a file that nobody shortens.
    #[allow(unsafe_code)]
    let mut private = unsafe { MmapOptions::new().map_copy(&file).expect("mapped") };
    private.fill(2);
    assert!(fs::read(&path).expect("read") == [1; PAGE]);
    assert!(private.iter().all(|byte| *byte == 2));
}

fn writing_through_a_mapping_moves_the_times(at: &Path) {
    let path = at.join("f");
    fs::write(&path, [1; PAGE]).expect("written");
    let file = read_write(&path);
    let before = file.metadata().expect("open");
    let mut mapping = mapped(&file);
    mapping[7] = 2;
    mapping.flush().expect("synced");
    let after = file.metadata().expect("open");
    let modified = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec());
    let changed = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec());
    assert!(modified(&after) > modified(&before) && changed(&after) > changed(&before));
}

fn synchronous_writes_arrive(at: &Path) {
    for flag in [OFlags::SYNC, OFlags::DSYNC] {
        let flags = flag.bits().cast_signed();
        let path = at.join("f");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags)
            .open(&path)
            .expect("opened");
        for _ in 0..10 {
            file.write_all(b"line\n").expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("read"), "line\n".repeat(10));
    }
}

fn small_writes_make_a_large_file(at: &Path) {
    let mut file = read_write(&at.join("f"));
    let mut expected = Vec::new();
    for number in 0..5000_u32 {
        let line = format!("{number}\n");
        file.write_all(line.as_bytes()).expect("written");
        expected.extend(line.into_bytes());
    }
    assert!(fs::read(at.join("f")).expect("read") == expected);
}

fn a_shrunk_file_shows_no_old_bytes(at: &Path) {
    let path = at.join("f");
    let file = read_write(&path);
    for (long, short) in [(3 * PAGE, 100), (2 * PAGE, PAGE), (PAGE, 1), (5 * PAGE, 2 * PAGE + 1)] {
        file.write_all_at(&vec![9; long], 0).expect("written");
        file.set_len(short as u64).expect("shorter");
        // By a write behind the end, and by a new size.
        file.write_all_at(b"end", long as u64 - 3).expect("written");
        file.set_len(long as u64 + 10).expect("longer");
        let content = fs::read(&path).expect("read");
        assert!(content[..short].iter().all(|byte| *byte == 9));
        assert!(content[short..long - 3].iter().all(|byte| *byte == 0), "{long} to {short}");
        assert_eq!(&content[long - 3..], b"end\0\0\0\0\0\0\0\0\0\0");
        let data = seek(&file, Seeking::Data(0));
        assert_eq!(data, Ok(0));
        file.set_len(0).expect("emptied");
    }
}
