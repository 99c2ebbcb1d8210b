//! Content, by every way there is to it.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::fs::{Advice, OFlags, SeekFrom as Seeking, copy_file_range, fadvise, seek, sendfile};
use rustix::io::Errno;

use super::tree::files;
use crate::case::cases;
use crate::nobody::NOBODY;

cases! { Read "reading":
    every_file_has_its_content
    any_part_can_be_read
    reading_ends_at_the_end
    files_can_be_mapped
    direct_io_works
    data_and_holes_are_found
    the_kernel_copies_and_reads_ahead
    programs_run
    set_uid_is_ignored
    a_file_is_open_as_often_as_one_likes
    locks_exclude
}

const PAGE: usize = 4096;
const LARGE: &str = "size-5243003";

fn every_file_has_its_content(at: &Path, tree: &Path) {
    let mut total = 0;
    // Twice: it is fetched for the first reader, and on the local disk for the second one.
    for _ in 0..2 {
        for path in files(tree) {
            let expected = fs::read(tree.join(&path)).expect("read");
            let found = fs::read(at.join(&path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert!(found == expected, "{path:?}");
            total += found.len();
        }
    }
    assert!(total > 100 << 20, "the sample is large");
}

fn any_part_can_be_read(at: &Path, tree: &Path) {
    let expected = fs::read(tree.join(LARGE)).expect("read");
    let file = File::open(at.join(LARGE)).expect("opened");
    for (offset, len) in [
        (0, 1),
        (1, 1),
        (PAGE - 1, 2),
        (12_345, 67_890),
        (131_071, 131_073),
        ((1 << 20) - 1, (1 << 20) + 2),
        (expected.len() - 1, 1),
        (3 << 20, 10),
        (0, 3 << 20),
    ] {
        let mut part = vec![0; len];
        file.read_exact_at(&mut part, offset as u64).expect("read");
        assert!(part == expected[offset..offset + len], "{len} bytes at {offset}");
    }
    let mut file = file;
    file.seek(SeekFrom::End(-100_000)).expect("seeked");
    let (mut a, mut b) = (vec![0; 60_000], vec![0; 50_000]);
    let read = file.read_vectored(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]).expect("read");
    assert_eq!(read, 100_000);
    assert!([&a[..], &b[..40_000]].concat() == expected[expected.len() - 100_000..]);
    // Backwards, so that nothing is read ahead.
    for page in (0..expected.len() / PAGE).rev().step_by(17) {
        let mut found = [0; PAGE];
        file.read_exact_at(&mut found, (page * PAGE) as u64).expect("read");
        assert!(found[..] == expected[page * PAGE..(page + 1) * PAGE], "page {page}");
    }
}

fn reading_ends_at_the_end(at: &Path, tree: &Path) {
    for path in files(tree) {
        let file = File::open(at.join(&path)).expect("opened");
        let size = file.metadata().expect("open").len();
        let mut more = [1; 100];
        assert_eq!(file.read_at(&mut more, size).expect("read"), 0, "{path:?}");
        assert_eq!(file.read_at(&mut more, size + 5000).expect("read"), 0, "{path:?}");
        assert_eq!(file.read_at(&mut more, i64::MAX as u64 - 200).expect("read"), 0, "{path:?}");
        if size >= 7 {
            assert_eq!(file.read_at(&mut more, size - 7).expect("read"), 7, "{path:?}");
        }
        assert_eq!(more[50..], [1; 50], "nothing behind the end is touched");
    }
}

fn mapped(file: &File) -> Mmap {
    // SAFETY: nobody changes the files of the sample.
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().map(file).expect("mapped")
    }
}

fn files_can_be_mapped(at: &Path, tree: &Path) {
    for name in ["size-1", "size-4096", "size-4097", LARGE, "sparse", "hole"] {
        let expected = fs::read(tree.join(name)).expect("read");
        let file = File::open(at.join(name)).expect("opened");
        let mapping = mapped(&file);
        drop(file);
        assert!(mapping[..] == expected, "{name}");
    }
    let file = File::open(at.join(LARGE)).expect("opened");
    // SAFETY: a private copy, of a file that nobody changes.
    #[allow(unsafe_code)]
    let mut private = unsafe { MmapOptions::new().map_copy(&file).expect("mapped") };
    private[PAGE] ^= 1;
    let original = mapped(&file)[PAGE];
    assert_eq!(private[PAGE], original ^ 1, "the file does not change with it");
    // SAFETY: as above; it is refused anyway.
    #[allow(unsafe_code)]
    let refused = unsafe { MmapOptions::new().map_mut(&file) }.expect_err("the file is not open for writing");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ACCESS));
}

fn direct_io_works(at: &Path, tree: &Path) {
    let flags = OFlags::DIRECT.bits().cast_signed();
    for name in ["size-0", "size-4096", "size-1048576", LARGE] {
        let expected = fs::read(tree.join(name)).expect("read");
        let file = File::options().read(true).custom_flags(flags).open(at.join(name)).expect("opened");
        // Anonymous memory is aligned to pages, as O_DIRECT may want it.
        let mut buffer = MmapMut::map_anon(expected.len().next_multiple_of(PAGE) + PAGE).expect("memory");
        let mut filled = 0;
        loop {
            let read = file.read_at(&mut buffer[filled..], filled as u64).expect("read");
            filled += read;
            // Behind the end there may be no aligned place to read at.
            if read == 0 || filled % PAGE != 0 {
                break;
            }
        }
        assert!(buffer[..filled] == expected, "{name}");
    }
}

fn data_and_holes_are_found(at: &Path, tree: &Path) {
    let segments = |path: &Path| {
        let file = File::open(path).expect("opened");
        let mut found = Vec::new();
        let mut place = 0;
        loop {
            let data = match seek(&file, Seeking::Data(place)) {
                Ok(data) => data,
                Err(Errno::NXIO) => return found,
                Err(errno) => panic!("{}: {errno}", path.display()),
            };
            place = seek(&file, Seeking::Hole(data)).expect("data ends");
            found.push(data..place);
        }
    };
    for path in files(tree) {
        assert_eq!(segments(&at.join(&path)), segments(&tree.join(&path)), "{path:?}");
    }
    let sparse = File::open(at.join("sparse")).expect("opened");
    let size = sparse.metadata().expect("open").len();
    assert_eq!(seek(&sparse, Seeking::Hole(0)), Ok(0));
    assert_eq!(seek(&sparse, Seeking::Data(size)), Err(Errno::NXIO));
    assert_eq!(seek(&sparse, Seeking::Hole(size)), Err(Errno::NXIO));
    assert_eq!(seek(&sparse, Seeking::End(-3)), Ok(size - 3));
}

fn the_kernel_copies_and_reads_ahead(at: &Path, tree: &Path) {
    let expected = fs::read(tree.join(LARGE)).expect("read");
    let file = File::open(at.join(LARGE)).expect("opened");
    fadvise(&file, 0, None, Advice::WillNeed).expect("advice is free");
    let mut sent = tempfile::tempfile().expect("a local file");
    let mut offset = 0;
    while sendfile(&sent, &file, Some(&mut offset), 1 << 20).expect("sent") > 0 {}
    let mut content = Vec::new();
    sent.rewind().expect("rewound");
    sent.read_to_end(&mut content).expect("read");
    assert!(content == expected);

    let copy = tempfile::tempfile().expect("a local file");
    let (mut from, mut to) = (1000, 0);
    let copied = copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 10_000);
    if copied != Err(Errno::XDEV) {
        let mut content = vec![0; copied.expect("copied, or another device")];
        copy.read_exact_at(&mut content, 0).expect("read");
        assert!(!content.is_empty() && content == expected[1000..1000 + content.len()]);
    }
    fadvise(&file, 0, None, Advice::DontNeed).expect("advice is free");
    assert!(fs::read(at.join(LARGE)).expect("read") == expected);
}

fn programs_run(at: &Path, _: &Path) {
    for _ in 0..2 {
        assert!(Command::new(at.join("bin/true")).status().expect("it runs").success());
        let output = Command::new(at.join("bin/script")).arg("runs").output().expect("it runs");
        assert_eq!(output.stdout, b"script runs\n");
    }
    let refused = Command::new(at.join("file")).status().expect_err("it has no x bit");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ACCESS));
    let inside = Command::new("pwd").arg("-P").current_dir(at.join("dir/sub")).output().expect("it runs");
    assert!(inside.stdout.ends_with(b"/dir/sub\n"));
}

fn set_uid_is_ignored(at: &Path, _: &Path) {
    let id = |program: &str| {
        let mut command = Command::new(at.join(program));
        command.arg("-u").uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
        String::from_utf8(command.output().expect("it runs").stdout).expect("a number")
    };
    assert_eq!(id("bin/id").trim(), NOBODY.to_string());
    assert_eq!(id("bin/setuid-id").trim(), NOBODY.to_string());
}

fn a_file_is_open_as_often_as_one_likes(at: &Path, tree: &Path) {
    let expected = fs::read(tree.join("size-4097")).expect("read");
    let mut files: Vec<File> = (0..500).map(|_| File::open(at.join("size-4097")).expect("opened")).collect();
    let again = files[0].try_clone().expect("duplicated");
    for file in files.iter_mut().step_by(50) {
        let mut content = Vec::new();
        file.read_to_end(&mut content).expect("read");
        assert!(content == expected);
    }
    drop(files);
    let mut byte = [0];
    again.read_exact_at(&mut byte, 4096).expect("still open");
    assert_eq!(byte[0], expected[4096]);
}

fn locks_exclude(at: &Path, _: &Path) {
    let first = File::open(at.join("file")).expect("opened");
    let second = File::open(at.join("file")).expect("opened");
    first.lock().expect("locked");
    assert!(second.try_lock().is_err());
    first.unlock().expect("unlocked");
    second.try_lock().expect("free");
}
