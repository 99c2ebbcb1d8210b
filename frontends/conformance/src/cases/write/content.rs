//! Reading, writing and everything that changes bytes or space.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom as Seeking, fallocate, seek};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "content":
    what_is_written_is_read
    appending_goes_to_the_end
    sizes_change
    holes_are_found
    space_is_changed
    punched_holes_are_found
    ranges_are_copied
    mappings_are_coherent
    a_mapping_of_an_append_handle_keeps_its_place
    direct_io_works
    syncing_succeeds
    programs_run
    locks_exclude
    writers_do_not_disturb_each_other
}

const PAGE: usize = 4096;

/// Bytes that differ from page to page and are not aligned to anything.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().zip(0_usize..len).map(|(byte, i)| if i % 4099 == 0 { 255 } else { byte }).collect()
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("opened")
}

fn shared_mapping(file: &File) -> MmapMut {
    // SAFETY: nobody shortens the file while the test maps it.
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().map_mut(file).expect("mapped")
    }
}

fn what_is_written_is_read(at: &Path) {
    let data = pattern(5 * 1024 * 1024 + 123);
    fs::write(at.join("f"), &data).expect("written");
    assert!(fs::read(at.join("f")).expect("read") == data);
    let file = read_write(&at.join("f"));
    let mut part = vec![0; 70_000];
    file.read_exact_at(&mut part, 1_234_567).expect("read");
    assert!(part == data[1_234_567..1_304_567]);
    assert_eq!(file.read_at(&mut part, data.len() as u64 - 5).expect("read"), 5);
    assert_eq!(file.read_at(&mut part, data.len() as u64 + 5).expect("read"), 0);
    file.write_all_at(b"overwritten", 999_999).expect("written");
    let mut expected = data;
    expected[999_999..1_000_010].copy_from_slice(b"overwritten");
    assert!(fs::read(at.join("f")).expect("read") == expected);
    assert_eq!(fs::metadata(at.join("f")).expect("it exists").len(), expected.len() as u64);
}

fn appending_goes_to_the_end(at: &Path) {
    let open = || OpenOptions::new().append(true).create(true).open(at.join("log")).expect("opened");
    let (mut a, mut b) = (open(), open());
    for _ in 0..100 {
        a.write_all(b"aaa\n").expect("written");
        b.write_all(b"bb\n").expect("written");
    }
    assert_eq!(fs::read_to_string(at.join("log")).expect("read"), "aaa\nbb\n".repeat(100));
}

fn sizes_change(at: &Path) {
    let path = at.join("f");
    fs::write(&path, pattern(10_000)).expect("written");
    let file = read_write(&path);
    file.set_len(5000).expect("shorter");
    file.set_len(9000).expect("longer");
    let mut expected = pattern(5000);
    expected.resize(9000, 0);
    assert!(fs::read(&path).expect("read") == expected);
    file.set_len(1 << 40).expect("sparse");
    assert_eq!(file.metadata().expect("open").len(), 1 << 40);
    assert!(file.metadata().expect("open").blocks() < 100);
    let mut end = [1; 10];
    file.read_exact_at(&mut end, (1 << 40) - 10).expect("read");
    assert_eq!(end, [0; 10]);
    File::create(&path).expect("truncated by open");
    assert_eq!(file.metadata().expect("open").len(), 0);
    assert_eq!(fs::read(&path).expect("read"), b"");
}

fn holes_are_found(at: &Path) {
    const FAR: u64 = 1 << 30;
    let file = read_write(&at.join("f"));
    file.write_all_at(&pattern(PAGE), 0).expect("written");
    file.write_all_at(b"end", FAR).expect("written");
    assert_eq!(seek(&file, Seeking::Data(0)), Ok(0));
    assert_eq!(seek(&file, Seeking::Hole(0)), Ok(PAGE as u64));
    assert_eq!(seek(&file, Seeking::Data(PAGE as u64)), Ok(FAR));
    assert_eq!(seek(&file, Seeking::Hole(FAR)), Ok(FAR + 3));
    assert_eq!(seek(&file, Seeking::Data(FAR + 3)), Err(Errno::NXIO));
    let mut hole = vec![1; PAGE];
    file.read_exact_at(&mut hole, FAR / 2).expect("read");
    assert!(hole.iter().all(|b| *b == 0));
}

fn space_is_changed(at: &Path) {
    const LEN: u64 = 4 * PAGE as u64;
    let file = read_write(&at.join("f"));
    let size = || file.metadata().expect("open").len();
    let blocks = || file.metadata().expect("open").blocks();
    fallocate(&file, FallocateFlags::empty(), 0, LEN).expect("allocated");
    assert_eq!((size(), blocks()), (LEN, LEN / 512));
    fallocate(&file, FallocateFlags::KEEP_SIZE, LEN, LEN).expect("allocated");
    assert_eq!((size(), blocks()), (LEN, 2 * LEN / 512));
    file.write_all_at(&vec![7; 4 * PAGE], 0).expect("written");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, PAGE as u64, PAGE as u64).expect("punched");
    fallocate(&file, FallocateFlags::ZERO_RANGE, 2 * PAGE as u64 + 1, 10).expect("zeroed");
    let mut expected = vec![7; 4 * PAGE];
    expected[PAGE..2 * PAGE].fill(0);
    expected[2 * PAGE + 1..2 * PAGE + 11].fill(0);
    assert!(fs::read(at.join("f")).expect("read") == expected);
    assert_eq!(fallocate(&file, FallocateFlags::UNSHARE_RANGE, 0, LEN), Err(Errno::OPNOTSUPP));
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
}

fn punched_holes_are_found(at: &Path) {
    let file = read_write(&at.join("f"));
    file.write_all_at(&vec![7; 4 * PAGE], 0).expect("written");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, PAGE as u64, PAGE as u64).expect("punched");
    assert_eq!(seek(&file, Seeking::Hole(0)), Ok(PAGE as u64));
    assert_eq!(seek(&file, Seeking::Data(PAGE as u64)), Ok(2 * PAGE as u64));
}

fn ranges_are_copied(at: &Path) {
    let data = pattern(3 * 1024 * 1024 + 7);
    fs::write(at.join("from"), &data).expect("written");
    let from = File::open(at.join("from")).expect("opened");
    let to = read_write(&at.join("to"));
    let (mut read_at, mut write_at) = (1000, 5);
    loop {
        let copied =
            rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), 10 << 20);
        if copied.expect("copied") == 0 {
            break;
        }
    }
    let mut expected = vec![0; 5];
    expected.extend_from_slice(&data[1000..]);
    assert!(fs::read(at.join("to")).expect("read") == expected);
    fs::copy(at.join("from"), at.join("copy")).expect("copied");
    assert!(fs::read(at.join("copy")).expect("read") == data);
}

fn mappings_are_coherent(at: &Path) {
    let path = at.join("f");
    fs::write(&path, pattern(3 * PAGE)).expect("written");
    let file = read_write(&path);
    let mut mapping = shared_mapping(&file);
    assert!(mapping[..] == pattern(3 * PAGE));
    mapping[PAGE..PAGE + 6].copy_from_slice(b"mapped");
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, PAGE as u64).expect("read");
    assert_eq!(&seen, b"mapped");
    file.write_all_at(b"written", 2 * PAGE as u64).expect("written");
    assert_eq!(&mapping[2 * PAGE..2 * PAGE + 7], b"written");
    mapping.flush().expect("synced");
    drop((mapping, file));
    let content = fs::read(&path).expect("read");
    assert_eq!(
        (&content[PAGE..PAGE + 6], &content[2 * PAGE..2 * PAGE + 7]),
        (&b"mapped"[..], &b"written"[..])
    );
}

fn a_mapping_of_an_append_handle_keeps_its_place(at: &Path) {
    let path = at.join("f");
    fs::write(&path, pattern(2 * PAGE)).expect("written");
    let file = OpenOptions::new().read(true).append(true).open(&path).expect("opened");
    let mut mapping = shared_mapping(&file);
    mapping[..5].copy_from_slice(b"first");
    mapping.flush().expect("synced");
    drop((mapping, file));
    let mut expected = pattern(2 * PAGE);
    expected[..5].copy_from_slice(b"first");
    assert!(fs::read(&path).expect("read") == expected);
}

fn direct_io_works(at: &Path) {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(at.join("f"))
        .expect("opened");
    // Anonymous memory is aligned to pages, as O_DIRECT may want it.
    let mut buffer = MmapMut::map_anon(2 << 20).expect("memory");
    buffer.copy_from_slice(&pattern(2 << 20));
    direct.write_all_at(&buffer, 0).expect("written");
    buffer.fill(0);
    direct.read_exact_at(&mut buffer, 0).expect("read");
    assert!(buffer[..] == pattern(2 << 20));
    assert!(fs::read(at.join("f")).expect("read") == pattern(2 << 20));
    direct.write_all_at(&buffer[..PAGE], 2 << 20).expect("it grows");
    assert_eq!(direct.metadata().expect("open").len(), (2 << 20) + PAGE as u64);
}

fn syncing_succeeds(at: &Path) {
    let mut file = File::create(at.join("f")).expect("made");
    file.write_all(b"x").expect("written");
    file.sync_data().expect("synced");
    file.sync_all().expect("synced");
    File::open(at).expect("a directory").sync_all().expect("synced");
}

fn programs_run(at: &Path) {
    let program = at.join("true");
    fs::copy("/bin/true", &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    assert!(Command::new(&program).status().expect("it runs").success());
}

fn locks_exclude(at: &Path) {
    let first = File::create(at.join("f")).expect("made");
    let second = File::open(at.join("f")).expect("opened");
    first.lock().expect("locked");
    assert!(second.try_lock().is_err());
    first.unlock().expect("unlocked");
    second.try_lock().expect("free");
}

fn writers_do_not_disturb_each_other(at: &Path) {
    const WRITERS: u8 = 8;
    const ROUNDS: u8 = 20;
    const CHUNK: usize = 64 * 1024 + 1;
    let shared = read_write(&at.join("shared"));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let shared = &shared;
            scope.spawn(move || {
                let own = at.join(format!("own{writer}"));
                let data = vec![writer + 1; CHUNK];
                for round in 0..ROUNDS {
                    shared
                        .write_all_at(&data, (usize::from(round * WRITERS + writer) * CHUNK) as u64)
                        .expect("written");
                    fs::write(&own, &data).expect("written");
                    assert!(fs::read(&own).expect("read") == data);
                    let mut file = File::open(&own).expect("opened");
                    file.seek(SeekFrom::End(-1)).expect("seeked");
                    assert_eq!(file.read(&mut [0; 9]).expect("read"), 1);
                    fs::remove_file(&own).expect("removed");
                }
            });
        }
    });
    let content = fs::read(at.join("shared")).expect("read");
    assert_eq!(content.len(), usize::from(ROUNDS * WRITERS) * CHUNK);
    for (index, chunk) in content.chunks(CHUNK).enumerate() {
        let writer = index % usize::from(WRITERS);
        assert!(chunk.iter().all(|b| usize::from(*b) == writer + 1), "chunk {index}");
    }
}
