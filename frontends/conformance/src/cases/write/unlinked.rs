//! What has no name any more, but is still in use.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::process::{Command, Stdio};

use memmap2::MmapOptions;
use rustix::fs::{AtFlags, CWD, XattrFlags, fgetxattr, fsetxattr, linkat};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "unlinked":
    everything_works_without_a_name
    a_mapping_outlives_name_and_handle
    a_running_program_outlives_its_name
    a_running_program_is_not_written
    a_file_without_a_name_gets_none_again
    one_name_of_many_files
    a_replaced_file_stays_with_its_users
}

fn made(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("made")
}

fn everything_works_without_a_name(at: &Path) {
    let path = at.join("f");
    let mut file = made(&path);
    fs::remove_file(&path).expect("removed");
    file.write_all(&[7; 100_000]).expect("written");
    file.set_permissions(Permissions::from_mode(0o4711)).expect("changed");
    fchown(&file, Some(5), Some(6)).expect("changed");
    fsetxattr(&file, "user.note", b"v", XattrFlags::empty()).expect("set");
    let mut value = [0; 10];
    assert_eq!(fgetxattr(&file, "user.note", &mut value), Ok(1));
    file.set_len(50_000).expect("shorter");
    file.sync_all().expect("synced");
    let meta = file.metadata().expect("open");
    assert_eq!((meta.nlink(), meta.len(), meta.uid(), meta.gid()), (0, 50_000, 5, 6));
    file.rewind().expect("rewound");
    let mut content = Vec::new();
    file.read_to_end(&mut content).expect("read");
    assert!(content == [7; 50_000]);
    // Reached once more through the process that has it open.
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    assert_eq!(File::open(again).expect("opened").metadata().expect("open").ino(), meta.ino());
}

fn a_mapping_outlives_name_and_handle(at: &Path) {
    let path = at.join("f");
    let file = made(&path);
    file.write_all_at(&[1; 8192], 0).expect("written");
    // SAFETY: nobody shortens the file.
    #[allow(unsafe_code)]
    let mut mapping = unsafe { MmapOptions::new().map_mut(&file).expect("mapped") };
    drop(file);
    fs::remove_file(&path).expect("removed");
    mapping[5000] = 2;
    assert_eq!((mapping[0], mapping[5000], mapping[8191]), (1, 2, 1));
    mapping.flush().expect("synced");
}

fn a_running_program_outlives_its_name(at: &Path) {
    let path = at.join("cat");
    copy_program("/bin/cat", &path);
    let mut process = run(&path);
    fs::remove_file(&path).expect("removed while it runs");
    let mut input = process.stdin.take().expect("piped");
    input.write_all(b"still running").expect("it reads");
    drop(input);
    let output = process.wait_with_output().expect("a child");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"still running");
}

fn a_running_program_is_not_written(at: &Path) {
    let path = at.join("cat");
    copy_program("/bin/cat", &path);
    let mut process = run(&path);
    let refused = OpenOptions::new().write(true).open(&path).expect_err("it runs");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::TXTBSY));
    drop(process.stdin.take());
    assert!(process.wait().expect("a child").success());
    let writing = OpenOptions::new().write(true).open(&path).expect("it has ended");
    let refused = Command::new(&path).stdin(Stdio::null()).status().expect_err("it is written");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::TXTBSY));
    drop(writing);
}

fn copy_program(from: &str, to: &Path) {
    fs::copy(from, to).expect("copied");
    fs::set_permissions(to, Permissions::from_mode(0o755)).expect("executable");
}

/// Runs a program that copies its input, as far as its first output.
fn run(program: &Path) -> std::process::Child {
    let mut process =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    process.stdin.as_mut().expect("piped").write_all(b"x").expect("it reads");
    process.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it writes");
    process
}

fn a_file_without_a_name_gets_none_again(at: &Path) {
    let file = made(&at.join("f"));
    fs::remove_file(at.join("f")).expect("removed");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let linked = linkat(CWD, path, CWD, at.join("g"), AtFlags::SYMLINK_FOLLOW);
    assert_eq!(linked, Err(Errno::NOENT));
    assert!(!at.join("g").exists());
}

fn one_name_of_many_files(at: &Path) {
    let path = at.join("f");
    let files: Vec<File> = (0..50_u8)
        .map(|number| {
            let file = made(&path);
            file.write_all_at(&[number], 0).expect("written");
            fs::remove_file(&path).expect("removed");
            file
        })
        .collect();
    let mut numbers: Vec<u64> = files.iter().map(|file| file.metadata().expect("open").ino()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), files.len(), "all of them exist at once");
    for (number, file) in (0..).zip(&files) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).expect("read");
        assert_eq!(byte, [number]);
    }
}

fn a_replaced_file_stays_with_its_users(at: &Path) {
    fs::write(at.join("f"), "old").expect("written");
    let old = File::open(at.join("f")).expect("opened");
    for round in 0..20 {
        fs::write(at.join("new"), format!("new {round}")).expect("written");
        fs::rename(at.join("new"), at.join("f")).expect("replaced");
        assert_eq!(fs::read_to_string(at.join("f")).expect("read"), format!("new {round}"));
        let mut text = [0; 3];
        old.read_exact_at(&mut text, 0).expect("read");
        assert_eq!(&text, b"old");
    }
    assert_eq!(old.metadata().expect("open").nlink(), 0);
}
