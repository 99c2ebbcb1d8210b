//! Who has a file open, or mapped, sees what others make of it later, and nothing of what they make of other files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memmap2::{Mmap, MmapOptions};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::case::cases;

cases!(Change "open_files":
    a_reader_sees_what_is_written_later
    a_reader_sees_a_file_grow_and_shrink
    a_reader_sees_a_file_emptied
    a_mapping_shows_what_is_written_later
    a_mapping_outlives_its_handle_and_shows_what_is_written_later
    attributes_can_change_before_the_content_does
    a_reader_can_change_attributes_of_a_file_without_a_name
    a_reader_follows_a_file_to_its_new_name
    hard_links_of_an_open_file_stay_one_file
    files_with_the_same_content_are_different_files
    readers_of_a_file_see_nothing_of_what_is_written_to_its_twin
    a_running_program_can_change_its_attributes_and_then_its_content
    a_writer_that_came_first_and_a_reader_agree
    direct_io_and_the_page_cache_agree);

const FILE: &str = "size-131073";
/// Two files with the same content.
const TWINS: [&str; 2] = ["twin-1", "twin-2"];
const LATER: &[u8] = b"written later";

/// Has it read once, so that its content is near when it is opened again.
fn warm(path: &Path) -> Vec<u8> {
    // The kernel tells of a closed file a moment later.
    for _ in 0..3 {
        fs::read(path).expect("read");
    }
    fs::read(path).expect("read")
}

fn writer(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).expect("opened")
}

fn all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().expect("open").len()).expect("small") + 1];
    let read = file.read_at(&mut bytes, 0).expect("read");
    bytes.truncate(read);
    bytes
}

fn mapped(file: &File) -> Mmap {
    // SAFETY: nobody shortens the file while it is mapped.
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().map(file).expect("mapped")
    }
}

/// What a file is after [`LATER`] was written at an offset.
fn changed(mut content: Vec<u8>, offset: usize) -> Vec<u8> {
    content[offset..][..LATER.len()].copy_from_slice(LATER);
    content
}

fn a_reader_sees_what_is_written_later(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let readers = [File::open(&path).expect("opened"), File::open(&path).expect("opened")];
    let ino = readers[0].metadata().expect("open").ino();
    assert!(all(&readers[0]) == content);
    let writer = writer(&path);
    writer.write_all_at(LATER, 100_000).expect("written");
    let expected = changed(content, 100_000);
    for reader in readers.iter().chain([&File::open(&path).expect("opened")]) {
        assert!(all(reader) == expected);
        assert_eq!(reader.metadata().expect("open").ino(), ino);
    }
    drop(writer);
    assert!(fs::read(&path).expect("read") == expected);
}

fn a_reader_sees_a_file_grow_and_shrink(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let reader = File::open(&path).expect("opened");
    let mut appending = OpenOptions::new().append(true).open(&path).expect("opened");
    appending.write_all(LATER).expect("written");
    assert!(all(&reader) == [&content, LATER].concat());
    appending.set_len(10).expect("shortened");
    assert!(all(&reader) == content[..10]);
    appending.write_all(LATER).expect("written");
    assert!(all(&reader) == [&content[..10], LATER].concat());
    assert_eq!(reader.metadata().expect("open").len(), 10 + LATER.len() as u64);
}

fn a_reader_sees_a_file_emptied(at: &Path, _tree: &Path) {
    for (name, by_open) in [(FILE, true), ("size-4097", false)] {
        let path = at.join(name);
        let content = warm(&path);
        let reader = File::open(&path).expect("opened");
        assert!(all(&reader) == content);
        if by_open {
            fs::write(&path, LATER).expect("written");
        } else {
            writer(&path).set_len(0).expect("emptied");
            assert!(all(&reader).is_empty());
            writer(&path).write_all_at(LATER, 0).expect("written");
        }
        assert_eq!(all(&reader), LATER, "{name}");
        assert_eq!(fs::read(&path).expect("read"), LATER);
    }
}

fn a_mapping_shows_what_is_written_later(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let reader = File::open(&path).expect("opened");
    let mapping = mapped(&reader);
    assert!(mapping[..] == content);
    writer(&path).write_all_at(LATER, 70_000).expect("written");
    assert!(mapping[..] == changed(content, 70_000));
    assert!(all(&reader) == mapping[..]);
}

fn a_mapping_outlives_its_handle_and_shows_what_is_written_later(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let mapping = mapped(&File::open(&path).expect("opened"));
    assert!(fs::read(&path).expect("read") == content);
    writer(&path).write_all_at(LATER, 70_000).expect("written");
    assert!(mapping[..] == changed(content, 70_000));
    writer(&path).write_all_at(LATER, 0).expect("written");
    assert_eq!(mapping[..LATER.len()], *LATER);
    let again = mapped(&File::open(&path).expect("opened"));
    assert!(again[..] == mapping[..]);
}

fn attributes_can_change_before_the_content_does(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let reader = File::open(&path).expect("opened");
    fs::set_permissions(&path, Permissions::from_mode(0o4711)).expect("changed");
    xattr::set(&path, "user.note", b"set").expect("set");
    assert!(all(&reader) == content);
    let meta = reader.metadata().expect("open");
    assert_eq!((meta.mode() & 0o7777, meta.len()), (0o4711, content.len() as u64));
    writer(&path).write_all_at(LATER, 5).expect("written");
    assert!(all(&reader) == changed(content, 5));
    assert_eq!(xattr::get(&path, "user.note").expect("read").as_deref(), Some(&b"set"[..]));
    let names: Vec<_> = xattr::list(&path).expect("listed").collect();
    assert_eq!(names, ["user.note"], "and nothing else");
}

fn a_reader_can_change_attributes_of_a_file_without_a_name(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let reader = File::open(&path).expect("opened");
    fs::remove_file(&path).expect("removed");
    assert!(all(&reader) == content);
    reader.set_permissions(Permissions::from_mode(0o640)).expect("changed");
    fchown(&reader, Some(7), Some(8)).expect("changed");
    let meta = reader.metadata().expect("open");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.nlink()), (0o640, 7, 8, 0));
    assert!(all(&reader) == content);
    fs::write(&path, LATER).expect("another file");
    assert!(all(&reader) == content);
}

fn a_reader_follows_a_file_to_its_new_name(at: &Path, _tree: &Path) {
    let (path, moved) = (at.join(FILE), at.join("dir/moved"));
    let content = warm(&path);
    let reader = File::open(&path).expect("opened");
    fs::rename(&path, &moved).expect("renamed");
    fs::write(&path, "a new file").expect("made");
    assert!(all(&reader) == content);
    writer(&moved).write_all_at(LATER, 9).expect("written");
    assert!(all(&reader) == changed(content, 9));
    assert_eq!(fs::read(&path).expect("read"), b"a new file");
}

fn hard_links_of_an_open_file_stay_one_file(at: &Path, _tree: &Path) {
    let names = ["hard", "hard-again", "dir/hard-too"];
    assert_eq!(warm(&at.join(names[0])), b"three names");
    let readers = names.map(|name| File::open(at.join(name)).expect("opened"));
    let mapping = mapped(&readers[1]);
    writer(&at.join(names[2])).write_all_at(b"one", 0).expect("written");
    assert_eq!(&mapping[..5], b"oneee");
    for (name, reader) in names.iter().zip(&readers) {
        assert_eq!(all(reader), b"oneee names");
        assert_eq!(fs::read(at.join(name)).expect("read"), b"oneee names");
        assert_eq!(reader.metadata().expect("open").nlink(), 3);
    }
}

fn files_with_the_same_content_are_different_files(at: &Path, _tree: &Path) {
    let [one, other] = TWINS.map(|name| at.join(name));
    let content = warm(&one);
    assert!(warm(&other) == content);
    let readers = [&one, &other].map(|path| File::open(path).expect("opened"));
    let mappings = readers.each_ref().map(mapped);
    writer(&one).write_all_at(LATER, 4096).expect("written");
    let written = changed(content.clone(), 4096);
    assert!(all(&readers[0]) == written && mappings[0][..] == written);
    assert!(all(&readers[1]) == content && mappings[1][..] == content);
    assert!(fs::read(&other).expect("read") == content);
    writer(&other).write_all_at(LATER, 0).expect("written");
    assert!(all(&readers[1]) == changed(content, 0) && all(&readers[0]) == written);
}

fn readers_of_a_file_see_nothing_of_what_is_written_to_its_twin(at: &Path, _tree: &Path) {
    let [one, other] = TWINS.map(|name| at.join(name));
    let content = warm(&one);
    let (done, start) = (AtomicBool::new(false), std::sync::Barrier::new(4));
    thread::scope(|scope| {
        for number in 0..3 {
            let (other, content, done, start) = (&other, &content, &done, &start);
            scope.spawn(move || {
                start.wait();
                let held = File::open(other).expect("opened");
                while !done.load(Ordering::Relaxed) {
                    match number {
                        0 => assert!(fs::read(other).expect("read") == *content),
                        1 => assert!(all(&held) == *content),
                        _ => assert!(mapped(&File::open(other).expect("opened"))[..] == *content),
                    }
                }
            });
        }
        start.wait();
        let reader = File::open(&one).expect("opened");
        let writer = writer(&one);
        for round in 0..50 {
            writer.write_all_at(&vec![round; content.len()], 0).expect("written");
            assert!(all(&reader).iter().all(|byte| *byte == round));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Runs a program that copies its input, as far as its first output.
fn run(program: &Path) -> Child {
    let mut process =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    process.stdin.as_mut().expect("piped").write_all(b"x").expect("it reads");
    process.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it writes");
    process
}

fn a_running_program_can_change_its_attributes_and_then_its_content(at: &Path, tree: &Path) {
    let path = at.join("bin/cat");
    assert!(Command::new(&path).stdin(Stdio::null()).status().expect("it runs").success());
    let mut process = run(&path);
    let refused = OpenOptions::new().write(true).open(&path).expect_err("it runs");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::TXTBSY));
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("changed");
    let mut another = run(&path);
    for process in [&mut process, &mut another] {
        process.stdin.as_mut().expect("piped").write_all(b"still running").expect("it reads");
        drop(process.stdin.take());
        let mut output = String::new();
        process.stdout.as_mut().expect("piped").read_to_string(&mut output).expect("it writes");
        assert_eq!(output, "still running");
        assert!(process.wait().expect("a child").success());
    }
    assert!(fs::read(&path).expect("read") == fs::read(tree.join("bin/cat")).expect("read"));
    fs::write(&path, "#!/bin/sh\necho changed\n").expect("written");
    let output = Command::new(&path).output().expect("it runs");
    assert_eq!(output.stdout, b"changed\n");
}

fn a_writer_that_came_first_and_a_reader_agree(at: &Path, _tree: &Path) {
    let path = at.join(FILE);
    let content = warm(&path);
    let writer = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
    let reader = File::open(&path).expect("opened");
    let mapping = mapped(&reader);
    writer.write_all_at(LATER, 50_000).expect("written");
    let expected = changed(content, 50_000);
    assert!(all(&reader) == expected && mapping[..] == expected && all(&writer) == expected);
    drop(writer);
    assert!(all(&reader) == expected);
}

fn direct_io_and_the_page_cache_agree(at: &Path, _tree: &Path) {
    let path = at.join("size-1048576");
    let content = warm(&path);
    let flags = OFlags::DIRECT.bits().cast_signed();
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).expect("opened");
    let cached = File::open(&path).expect("opened");
    assert!(all(&cached) == content);
    writer(&path).write_all_at(LATER, 8192).expect("written");
    // Anonymous memory is aligned to pages, as O_DIRECT may want it.
    let mut page = MmapOptions::new().len(4096).map_anon().expect("memory");
    assert_eq!(reader.read_at(&mut page, 8192).expect("read"), 4096);
    let expected = changed(content, 8192);
    assert!(page[..] == expected[8192..8192 + 4096]);
    assert!(all(&cached) == expected);
}
