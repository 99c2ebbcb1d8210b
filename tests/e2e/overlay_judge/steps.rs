//! What is done to both mounts, at random.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e e"];
const OWNERS: [u32; 3] = [0, 1, 1234];
const PERMS: [u32; 6] = [0o755, 0o644, 0o2775, 0o4711, 0o700, 0o1777];
const ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";

#[derive(Clone, Debug)]
pub(super) enum Step {
    Mkdir { at: PathBuf, perm: u32 },
    Create { at: PathBuf, perm: u32, exclusive: bool },
    Mknod { at: PathBuf, kind: Special },
    Symlink { at: PathBuf, target: &'static str },
    Link { from: PathBuf, to: PathBuf },
    Unlink(PathBuf),
    Rmdir(PathBuf),
    RemoveAll(PathBuf),
    Rename { from: PathBuf, to: PathBuf, flags: RenameFlags },
    Write { at: PathBuf, offset: u64, length: usize, byte: u8 },
    Append { at: PathBuf, byte: u8 },
    Overwrite { at: PathBuf, length: usize },
    Truncate { at: PathBuf, size: u64 },
    Punch { at: PathBuf, offset: u64, length: u64 },
    Copy { from: PathBuf, to: PathBuf },
    SetPerm { at: PathBuf, perm: u32 },
    SetOwner { at: PathBuf, uid: u32, gid: u32 },
    SetTime { at: PathBuf, mtime: i64 },
    SetXattr { at: PathBuf, name: &'static str, length: usize, flags: XattrFlags },
    RemoveXattr { at: PathBuf, name: &'static str },
    SetAcl { at: PathBuf, name: &'static str, user: u32 },
    List(PathBuf),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    Fifo,
    Socket,
    Device,
}

/// A path of names that meet: mostly one to three levels deep.
fn path(random: &mut Rng) -> PathBuf {
    let depth = [1, 1, 2, 2, 2, 3, 3, 4][random.usize(..8)];
    (0..depth).map(|_| NAMES[random.usize(..NAMES.len())]).collect()
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

/// A path that may be there: `known` is what was there a few steps ago.
fn probable(random: &mut Rng, known: &[PathBuf]) -> PathBuf {
    let there = known.get(random.usize(..known.len().max(1))).cloned().unwrap_or_default();
    match random.u32(..10) {
        0..6 => there,
        6..9 => there.join(pick(random, &NAMES)),
        _ => path(random),
    }
}

pub(super) fn random_step(random: &mut Rng, known: &[PathBuf], privileged: bool) -> Step {
    let mut path = || loop {
        let path = probable(random, known);
        // The roots are compared as well, but not moved or removed.
        if path.as_os_str().is_empty() {
            continue;
        }
        return path;
    };
    let (at, other) = (path(), path());
    let attributes: &[&str] = if privileged {
        &["user.a", "user.b", "trusted.c", "trusted.overlay.opaque", "user.overlay.opaque"]
    } else {
        // Those of `trusted.*` are not for us.
        &["user.a", "user.b", "user.overlay.opaque", "user.overlay.overlay.x"]
    };
    match random.u32(..100) {
        0..12 => Step::Mkdir { at, perm: pick(random, &PERMS) },
        12..22 => Step::Create { at, perm: pick(random, &PERMS), exclusive: random.bool() },
        22..24 => Step::Mknod { at, kind: pick(random, &[Special::Fifo, Special::Socket, Special::Device]) },
        24..27 => Step::Symlink { at, target: pick(random, &["a", "../b", "/x/y"]) },
        27..32 => Step::Link { from: at, to: other },
        32..40 => Step::Unlink(at),
        40..47 => Step::Rmdir(at),
        47..49 => Step::RemoveAll(at),
        49..66 => {
            let none = RenameFlags::empty();
            let flags = [none, none, none, RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
            Step::Rename { from: at, to: other, flags: pick(random, &flags) }
        }
        66..70 => {
            let (offset, length) = (random.u64(..20_000), random.usize(1..9000));
            Step::Write { at, offset, length, byte: random.u8(..) }
        }
        70..72 => Step::Append { at, byte: random.u8(..) },
        72..74 => Step::Overwrite { at, length: random.usize(..9000) },
        74..77 => Step::Truncate { at, size: pick(random, &[0, 1, 4096, 10_000]) },
        77..78 => Step::Punch { at, offset: random.u64(..8192), length: random.u64(1..8192) },
        78..80 => Step::Copy { from: at, to: other },
        80..84 => Step::SetPerm { at, perm: pick(random, &PERMS) },
        84..87 => {
            let (uid, gid) = (pick(random, &OWNERS), pick(random, &OWNERS));
            Step::SetOwner { at, uid, gid }
        }
        87..90 => Step::SetTime { at, mtime: random.i64(-1_000_000..1_000_000_000) },
        90..94 => {
            let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
            let (name, length) = (pick(random, attributes), random.usize(..300));
            Step::SetXattr { at, name, length, flags: pick(random, &flags) }
        }
        94..96 => Step::RemoveXattr { at, name: pick(random, attributes) },
        96..98 => Step::SetAcl {
            at,
            name: pick(random, &[ACL, DEFAULT_ACL]),
            user: if privileged { pick(random, &OWNERS) } else { 0 },
        },
        _ => Step::List(at),
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Step {
    pub(super) fn run(&self, root: &Path) -> Result<(), Errno> {
        match self {
            Self::Mkdir { at, perm } => rustix::fs::mkdir(root.join(at), Mode::from_raw_mode(*perm)),
            Self::Create { at, perm, exclusive } => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).create_new(*exclusive).truncate(false).mode(*perm);
                open(&options, root, at).map(drop)
            }
            Self::Mknod { at, kind } => {
                let (kind, device) = match kind {
                    Special::Fifo => (FileType::Fifo, 0),
                    Special::Socket => (FileType::Socket, 0),
                    Special::Device => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                };
                rustix::fs::mknodat(CWD, root.join(at), kind, Mode::from_raw_mode(0o640), device)
            }
            Self::Symlink { at, target } => rustix::fs::symlink(*target, root.join(at)),
            Self::Link { from, to } => rustix::fs::link(root.join(from), root.join(to)),
            Self::Unlink(at) => rustix::fs::unlink(root.join(at)),
            Self::Rmdir(at) => rustix::fs::rmdir(root.join(at)),
            Self::RemoveAll(at) => fs::remove_dir_all(root.join(at)).map_err(errno),
            Self::Rename { from, to, flags } => {
                rustix::fs::renameat_with(CWD, root.join(from), CWD, root.join(to), *flags)
            }
            Self::Write { at, offset, length, byte } => {
                let file = open(OpenOptions::new().read(true).write(true), root, at)?;
                file.write_all_at(&vec![*byte; *length], *offset).map_err(errno)
            }
            Self::Append { at, byte } => {
                let mut file = open(OpenOptions::new().append(true), root, at)?;
                io::Write::write_all(&mut file, &[*byte; 700]).map_err(errno)
            }
            Self::Overwrite { at, length } => {
                let mut file = open(OpenOptions::new().write(true).truncate(true), root, at)?;
                io::Write::write_all(&mut file, &vec![b'w'; *length]).map_err(errno)
            }
            Self::Truncate { at, size } => {
                open(OpenOptions::new().write(true), root, at)?.set_len(*size).map_err(errno)
            }
            Self::Punch { at, offset, length } => {
                let file = open(OpenOptions::new().write(true), root, at)?;
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, flags, *offset, *length)
            }
            Self::Copy { from, to } => {
                let from = open(OpenOptions::new().read(true), root, from)?;
                let to = open(OpenOptions::new().write(true).create(true).truncate(false), root, to)?;
                match rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 0), 1 << 20) {
                    // Onto itself.
                    Err(Errno::INVAL) => Ok(()),
                    copied => copied.map(drop),
                }
            }
            Self::SetPerm { at, perm } => {
                fs::symlink_metadata(root.join(at)).map_err(errno).and_then(|meta| match meta.is_symlink() {
                    true => Ok(()),
                    false => {
                        let perm = fs::Permissions::from_mode(*perm);
                        fs::set_permissions(root.join(at), perm).map_err(errno)
                    }
                })
            }
            Self::SetOwner { at, uid, gid } => {
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                rustix::fs::chownat(CWD, root.join(at), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::SetTime { at, mtime } => {
                let time = Timespec { tv_sec: *mtime, tv_nsec: 5 };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, root.join(at), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Self::SetXattr { at, name, length, flags } => {
                rustix::fs::lsetxattr(root.join(at), *name, &vec![b'v'; *length], *flags)
            }
            Self::RemoveXattr { at, name } => rustix::fs::lremovexattr(root.join(at), *name),
            Self::SetAcl { at, name, user } => {
                rustix::fs::lsetxattr(root.join(at), *name, &acl(*user), XattrFlags::empty())
            }
            Self::List(at) => match fs::read_dir(root.join(at)) {
                Ok(mut names) => names.try_for_each(|entry| entry.map(drop)).map_err(errno),
                Err(error) => Err(errno(error)),
            },
        }
    }
}

/// A path that is no fifo, which would be waited for.
fn regular(root: &Path, at: &Path) -> Result<PathBuf, Errno> {
    let path = root.join(at);
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() || meta.is_dir() => Ok(path),
        // Not that of the symlink's target, either: it may lead out of the mount.
        Ok(_) => Err(Errno::INVAL),
        Err(error) => Err(errno(error)),
    }
}

fn open(options: &OpenOptions, root: &Path, at: &Path) -> Result<File, Errno> {
    let path = match regular(root, at) {
        Err(Errno::NOENT) => root.join(at),
        path => path?,
    };
    options.open(path).map_err(errno)
}

/// Version 2: user, one more user, group, mask, others.
fn acl(user: u32) -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 6, user), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// A tree to begin with, old enough to tell it from what is changed.
pub(super) fn lower_tree(root: &Path, random: &mut Rng, privileged: bool) {
    let mut made = vec![root.to_owned()];
    for _ in 0..60 {
        let at = root.join(path(random));
        let step = match random.u32(..12) {
            0..6 => rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755)),
            6..10 => {
                let length = pick(random, &[0, 1, 100, 4096, 5000, 70_000]);
                let byte = random.u8(..);
                let written = if at.exists() { Ok(()) } else { fs::write(&at, vec![byte; length]) };
                written.map_err(errno)
            }
            10 => rustix::fs::symlink("somewhere", &at),
            _ => rustix::fs::mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o600), 0),
        };
        if step.is_ok() && !made.contains(&at) {
            made.push(at);
        }
    }
    for (number, path) in made.iter().enumerate().rev() {
        let meta = path.symlink_metadata().expect("made");
        if privileged && random.u32(..4) == 0 {
            std::os::unix::fs::lchown(path, Some(1234), Some(1)).expect("an owner");
        }
        if !meta.is_symlink() {
            let perm = if meta.is_dir() { [0o755, 0o2775, 0o1777] } else { [0o644, 0o4755, 0o600] };
            fs::set_permissions(path, fs::Permissions::from_mode(pick(random, &perm))).expect("a mode");
        }
        if (meta.is_file() || meta.is_dir()) && random.u32(..4) == 0 {
            xattr::set(path, "user.a", b"from below").expect("an attribute");
        }
        if privileged && random.u32(..8) == 0 {
            xattr::set(path, "trusted.c", b"from below").ok();
        }
        if meta.is_dir() && random.u32(..6) == 0 {
            xattr::set(path, DEFAULT_ACL, &acl(0)).expect("an ACL");
        }
        let time = Timespec { tv_sec: 1_000_000_000 + number as i64, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
    }
}
