//! The operations of a load: one system call each, so that each of them has happened or has not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastrand::Rng;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, copy_file_range, fallocate, linkat, mkdirat, openat, removexattr, renameat_with,
    setxattr, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::tree;

/// How many files a worker has open at once.
pub(super) const SLOTS: usize = 4;
/// What a worker takes away from the permissions that it asks for.
pub(super) const UMASK: u32 = 0o027;

const DIRECTORIES: [&str; 6] = ["", "a", "b", "a/c", "new", "b/new"];
const NAMES: [&str; 9] = ["f0", "f1", "f2", "f3", "hard1", "hard2", "a", "c", "new"];
const PERMS: [u32; 6] = [0o600, 0o644, 0o755, 0o700, 0o666, 0o740];
const LARGEST: u64 = 300_000;

/// One system call. Paths are below the worker's own directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Op {
    Create { path: String, slot: usize, perm: u32 },
    Open { path: String, slot: usize, how: How },
    Close { slot: usize },
    Write { slot: usize, offset: u64, seed: u64, length: usize },
    Copy { from: usize, to: usize, source: u64, target: u64, length: usize },
    Punch { slot: usize, offset: u64, length: u64 },
    Resize { slot: usize, size: u64 },
    Sync { slot: usize, data_only: bool },
    SyncDirectory { path: String },
    Mkdir { path: String, perm: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Symlink { path: String, target: String },
    Link { from: String, to: String },
    Rename { from: String, to: String, how: Renaming },
    Chmod { path: String, perm: u32 },
    Chown { path: String, uid: u32, gid: u32 },
    Touch { path: String, secs: i64, nanos: i64 },
    SetXattr { path: String, name: String, seed: u64 },
    RemoveXattr { path: String, name: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Read,
    Write,
    Truncate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

impl Op {
    /// Any operation that makes sense on what is open; `privileged` workers give files away.
    pub(super) fn random(rng: &mut Rng, is_open: [bool; SLOTS], privileged: bool) -> Self {
        let slot = rng.usize(..SLOTS);
        // Most operations on closed files would say nothing.
        if !is_open[slot] || rng.u8(..4) == 0 {
            return Self::on_names(rng, slot, privileged);
        }
        let (offset, length) = (rng.u64(..LARGEST / 2), rng.usize(1..60_000));
        match rng.u8(..14) {
            0..=6 => Self::Write { slot, offset, seed: rng.u64(..), length },
            7 => Self::Copy {
                from: slot,
                to: rng.usize(..SLOTS),
                source: offset,
                target: rng.u64(..LARGEST / 2),
                length,
            },
            8 => Self::Punch { slot, offset, length: length as u64 },
            9 => Self::Resize { slot, size: rng.u64(..LARGEST) },
            10 | 11 => Self::Sync { slot, data_only: rng.bool() },
            _ => Self::Close { slot },
        }
    }

    fn on_names(rng: &mut Rng, slot: usize, privileged: bool) -> Self {
        let path = path(rng);
        let perm = PERMS[rng.usize(..PERMS.len())];
        match rng.u8(..30) {
            0..=4 => Self::Create { path, slot, perm },
            5..=8 => Self::Open { path, slot, how: How::Write },
            9 => Self::Open { path, slot, how: How::Read },
            10 => Self::Open { path, slot, how: How::Truncate },
            11 | 12 => Self::Mkdir { path, perm: perm | 0o700 },
            13 => Self::Rmdir { path },
            14 | 15 => Self::Unlink { path },
            16 => Self::Symlink { path, target: format!("nowhere-{}", rng.u32(..)) },
            17 | 18 => Self::Link { from: path, to: self::path(rng) },
            19..=22 => {
                let how = match rng.u8(..6) {
                    0 => Renaming::NoReplace,
                    1 => Renaming::Exchange,
                    _ => Renaming::Replace,
                };
                Self::Rename { from: path, to: self::path(rng), how }
            }
            23 => Self::Chmod { path, perm: perm | 0o700 },
            24 if privileged => Self::Chown { path, uid: rng.u32(1..4), gid: rng.u32(1..4) },
            24 => Self::SyncDirectory { path },
            25 => Self::Touch { path, secs: rng.i64(1..2_000_000_000), nanos: rng.i64(0..1_000_000_000) },
            26 => Self::SetXattr { path, name: xattr_name(rng), seed: rng.u64(..) },
            27 => Self::RemoveXattr { path, name: xattr_name(rng) },
            28 => Self::SyncDirectory { path },
            _ => Self::Close { slot },
        }
    }

    /// How many bytes it is to move.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Write { length, .. } | Self::Copy { length, .. } => *length,
            _ => 0,
        }
    }

    /// Does it below `own`, the worker's directory. Returns how many bytes were moved.
    pub(super) fn run(&self, own: &Path, open: &mut [Option<File>; SLOTS]) -> io::Result<usize> {
        let at = |path: &str| own.join(path);
        let file = |slot: usize| open[slot].as_ref().ok_or(Errno::BADF);
        match self {
            Self::Create { path, slot, perm } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                open[*slot] = Some(openat(CWD, at(path), flags, Mode::from_raw_mode(*perm))?.into());
            }
            Self::Open { path, slot, how } => {
                let flags = match how {
                    How::Read => OFlags::RDONLY,
                    How::Write => OFlags::RDWR,
                    How::Truncate => OFlags::RDWR | OFlags::TRUNC,
                };
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open[*slot] = Some(openat(CWD, at(path), flags, Mode::empty())?.into());
            }
            Self::Close { slot } => open[*slot] = None,
            Self::Write { slot, offset, seed, length } => {
                return file(*slot)?.write_at(&tree::noise(*seed, *length), *offset);
            }
            Self::Copy { from, to, source, target, length } => {
                let (mut source, mut target) = (*source, *target);
                let (from, to) = (file(*from)?, file(*to)?);
                return Ok(copy_file_range(from, Some(&mut source), to, Some(&mut target), *length)?);
            }
            Self::Punch { slot, offset, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file(*slot)?, flags, *offset, *length)?;
            }
            Self::Resize { slot, size } => file(*slot)?.set_len(*size)?,
            Self::Sync { slot, data_only: true } => file(*slot)?.sync_data()?,
            Self::Sync { slot, data_only: false } => file(*slot)?.sync_all()?,
            Self::SyncDirectory { path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::fsync(openat(CWD, at(path), flags, Mode::empty())?)?;
            }
            Self::Mkdir { path, perm } => mkdirat(CWD, at(path), Mode::from_raw_mode(*perm))?,
            Self::Rmdir { path } => unlinkat(CWD, at(path), AtFlags::REMOVEDIR)?,
            Self::Unlink { path } => unlinkat(CWD, at(path), AtFlags::empty())?,
            Self::Symlink { path, target } => symlinkat(target, CWD, at(path))?,
            Self::Link { from, to } => linkat(CWD, at(from), CWD, at(to), AtFlags::empty())?,
            Self::Rename { from, to, how } => {
                let flags = match how {
                    Renaming::Replace => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                renameat_with(CWD, at(from), CWD, at(to), flags)?;
            }
            Self::Chmod { path, perm } => {
                chmodat(CWD, at(path), Mode::from_raw_mode(*perm), AtFlags::empty())?;
            }
            Self::Chown { path, uid, gid } => {
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                chownat(CWD, at(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::Touch { path, secs, nanos } => {
                let time = Timespec { tv_sec: *secs, tv_nsec: *nanos };
                let times = Timestamps { last_access: time, last_modification: time };
                utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Self::SetXattr { path, name, seed } => {
                setxattr(at(path), name.as_str(), &xattr_value(*seed), XattrFlags::empty())?;
            }
            Self::RemoveXattr { path, name } => removexattr(at(path), name.as_str())?,
        }
        Ok(0)
    }
}

/// What [`Op::SetXattr`] sets.
pub(super) fn xattr_value(seed: u64) -> Vec<u8> {
    tree::noise(seed, usize::try_from(seed % 300).expect("small"))
}

fn xattr_name(rng: &mut Rng) -> String {
    format!("user.{}", ["one", "two"][rng.usize(..2)])
}

fn path(rng: &mut Rng) -> String {
    let directory = DIRECTORIES[rng.usize(..DIRECTORIES.len())];
    let name = NAMES[rng.usize(..NAMES.len())];
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}
