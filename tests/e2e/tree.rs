//! Trees to pack: plain ones, and one with everything that a filesystem can hold.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{self as unix, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// Bytes that differ from file to file, and compress about as well as program code.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 16);
    while out.len() < length {
        // xorshift64: repeatable, and no library needed.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
        out.extend_from_slice(b"aysfs   ");
    }
    out.truncate(length);
    out
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// `count` regular files of up to 4 KiB, 50 to a directory.
pub(crate) fn plain(root: &Path, count: usize) {
    for number in 0..count {
        let dir = root.join(format!("d{:03}/e{:02}", number / 500, number / 50 % 10));
        if number % 50 == 0 {
            fs::create_dir_all(&dir).expect("a directory");
        }
        let length = number * 37 % 4096;
        fs::write(dir.join(format!("file{number}.dat")), bytes(number as u64, length)).expect("a file");
    }
}

/// One of everything: kinds, modes, owners, times, links, attributes, holes, names.
pub(crate) fn odd(root: &Path) {
    fs::create_dir_all(root).expect("a directory");
    let at = |name: &str| root.join(name);
    let write = |name: &str, content: &[u8]| fs::write(at(name), content).expect("a file");

    // Sizes around every boundary that a codec or a page has.
    for size in [0, 1, 4095, 4096, 4097, 65_536, 131_072, 1_048_575, 1_048_576, 1_048_577, 5_000_000] {
        write(&format!("compressible-{size}"), &bytes(size as u64, size));
        write(&format!("noise-{size}"), &noise(size as u64, size));
    }
    write("zeros", &vec![0; 200_000]);
    write("same-1", b"the same content");
    write("same-2", b"the same content");

    for mode in [0o000, 0o400, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o7777] {
        let name = format!("mode-{mode:o}");
        write(&name, name.as_bytes());
        fs::set_permissions(at(&name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    fs::create_dir(at("sticky")).expect("a directory");
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).expect("a mode");
    fs::create_dir(at("empty-dir")).expect("a directory");

    for (name, uid, gid) in [("daemons", 1, 1), ("nobodys", 65_534, 65_534), ("strangers", 123_456, 654_321)]
    {
        write(name, name.as_bytes());
        unix::chown(at(name), Some(uid), Some(gid)).expect("an owner");
    }

    unix::symlink("compressible-1", at("link")).expect("a symlink");
    unix::symlink("/does/not/exist", at("dangling")).expect("a symlink");
    unix::symlink("x".repeat(4000), at("long-link")).expect("a symlink");
    write("hard-1", b"three names");
    fs::create_dir(at("other")).expect("a directory");
    fs::hard_link(at("hard-1"), at("hard-2")).expect("a hard link");
    fs::hard_link(at("hard-1"), at("other/hard-3")).expect("a hard link");

    let mknod = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).expect("a node");
    };
    mknod("fifo", FileType::Fifo, 0);
    mknod("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    mknod("block", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    drop(UnixListener::bind(at("socket")).expect("a socket"));
    rustix::fs::mknodat(CWD, at("fifo-2"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a node");
    fs::hard_link(at("fifo"), at("other/fifo-again")).expect("a hard link");

    write("attributes", b"with attributes");
    xattr::set(at("attributes"), "user.note", b"plain").expect("an attribute");
    xattr::set(at("attributes"), "user.empty", b"").expect("an attribute");
    xattr::set(at("attributes"), "user.binary|\u{e9}", &noise(1, 900)).expect("an attribute");
    xattr::set(at("attributes"), "trusted.secret", b"root only").expect("an attribute");
    xattr::set(at("sticky"), "user.dir", b"on a directory").expect("an attribute");
    // Version 2: tag USER_OBJ, USER 1 (rw), GROUP_OBJ, MASK, OTHER.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 6, 1), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    write("acl", b"with an ACL");
    xattr::set(at("acl"), "system.posix_acl_access", &acl).expect("an ACL");

    let mut holes = File::create(at("holes")).expect("a file");
    for offset in [64 * 1024, 1024 * 1024, 30 * 1024 * 1024] {
        holes.seek(SeekFrom::Start(offset)).expect("a place");
        holes.write_all(&noise(offset, 5000)).expect("some data");
    }
    holes.set_len(100 * 1024 * 1024 + 123).expect("a hole at the end");
    File::create(at("all-hole")).expect("a file").set_len(10_000_000).expect("nothing but a hole");

    let names: [&[u8]; 9] = [
        b"pipe|in|name",
        b"new\nline",
        b"percent%41%",
        b" leading and trailing ",
        "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{4e16}\u{754c} \u{1f980}".as_bytes(),
        b"not utf-8 \xff\xfe\x80",
        b"#hash",
        b"back\\slash\ttab\x01\x7f",
        b"-dash=equals,comma",
    ];
    fs::create_dir(at("names|\n%")).expect("a directory");
    for name in names {
        let path = at("names|\n%").join(OsString::from_vec(name.to_vec()));
        fs::write(path, name).expect("a file with an odd name");
    }
    write(&"n".repeat(255), b"the longest name");
    let mut deep = root.to_owned();
    for level in 0..60 {
        deep.push(format!("level{level}"));
        fs::create_dir(&deep).expect("a directory");
    }
    fs::write(deep.join("bottom"), b"deep").expect("a file");

    for (number, (secs, nanos)) in
        [(0, 0), (1, 999_999_999), (-1, 1), (-2_000_000_000, 123_456_789), (4_102_444_800, 7)]
            .into_iter()
            .enumerate()
    {
        let name = format!("time-{number}");
        write(&name, b"when?");
        set_times(&at(&name), secs, nanos);
    }
    set_times(&at("link"), 1_000_000_000, 42);
    set_times(&at("other"), 1_234_567_890, 987_654_321);
    set_times(root, 1_111_111_111, 222_222_222);
}

fn set_times(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
}
