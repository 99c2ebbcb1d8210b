//! The words of the contract into polyfuse's answers, and its times back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aysfs_vfs::kernel::raw::{self, Xattr};
use aysfs_vfs::{
    Attr, Created, Entry, Error, ErrorKind, KernelCache, Lookup, Name, Opened, Result, SetTime, StatFs, Time,
};
use polyfuse::bytes::{Bytes, FillBytes};
use polyfuse::op::SetAttrTime;
use polyfuse::reply::{AttrOut, EntryOut, FileAttr, OpenOut, StatfsOut, WriteOut, XattrOut};

pub(crate) fn name(name: &OsStr) -> Result<Name> {
    raw::name(name.as_bytes())
}

/// A time as polyfuse passes it on: the bits of the kernel's signed seconds in an unsigned number.
pub(crate) fn time(time: Duration) -> Time {
    Time { secs: time.as_secs().cast_signed(), nanos: time.subsec_nanos() }
}

fn duration(time: Time) -> Duration {
    Duration::new(time.secs.cast_unsigned(), time.nanos)
}

pub(crate) fn set_time(to: SetAttrTime) -> Result<SetTime> {
    match to {
        SetAttrTime::Now => Ok(SetTime::Now),
        SetAttrTime::Timespec(at) => Ok(SetTime::At(time(at))),
        // The enum may grow, the kernel's message cannot.
        _ => Err(ErrorKind::Invalid.into()),
    }
}

fn fill(to: &mut FileAttr, attr: &Attr) {
    to.ino(attr.ino.0);
    to.size(attr.size);
    to.blocks(attr.blocks);
    to.atime(duration(attr.atime));
    to.mtime(duration(attr.mtime));
    to.ctime(duration(attr.ctime));
    to.mode(raw::type_bits(attr.kind) | u32::from(attr.perm));
    to.nlink(attr.nlink);
    to.uid(attr.uid);
    to.gid(attr.gid);
    to.rdev(raw::rdev(attr.kind));
    to.blksize(Attr::BLOCK_SIZE);
}

pub(crate) fn attributes(entry: Entry) -> AttrOut {
    let mut out = AttrOut::default();
    fill(out.attr(), &entry.attr);
    out.ttl(entry.ttl.attr);
    out
}

pub(crate) fn entry(entry: Entry) -> EntryOut {
    let mut out = EntryOut::default();
    fill(out.attr(), &entry.attr);
    out.ino(entry.attr.ino.0);
    out.ttl_attr(entry.ttl.attr);
    out.ttl_entry(entry.ttl.entry);
    out
}

/// # Errors
/// [`ErrorKind::NotFound`] for a name that is absent now, which says nothing about later.
pub(crate) fn found(lookup: Lookup) -> Result<EntryOut> {
    match lookup {
        Lookup::Found(found) => Ok(entry(found)),
        Lookup::Absent(Duration::ZERO) => Err(ErrorKind::NotFound.into()),
        // An entry without an inode: the kernel remembers that there is none.
        Lookup::Absent(ttl) => {
            let mut nothing = EntryOut::default();
            nothing.ttl_entry(ttl);
            Ok(nothing)
        }
    }
}

pub(crate) fn file(opened: Opened) -> OpenOut {
    let mut out = OpenOut::default();
    out.fh(opened.fh.0);
    match opened.cache {
        KernelCache::Keep => out.keep_cache(true),
        KernelCache::Fresh => {}
        KernelCache::Direct => out.direct_io(true),
    }
    out
}

pub(crate) fn directory(opened: Opened) -> OpenOut {
    let mut out = OpenOut::default();
    out.fh(opened.fh.0);
    match opened.cache {
        KernelCache::Keep => {
            out.cache_dir(true);
            out.keep_cache(true);
        }
        KernelCache::Fresh => out.cache_dir(true),
        KernelCache::Direct => {}
    }
    out
}

pub(crate) fn created(created: Created) -> (EntryOut, OpenOut) {
    (entry(created.entry), file(created.opened))
}

pub(crate) fn written(bytes: u32) -> WriteOut {
    let mut out = WriteOut::default();
    WriteOut::size(&mut out, bytes);
    out
}

pub(crate) fn copied(bytes: u64) -> Result<WriteOut> {
    let bytes = u32::try_from(bytes).map_err(|error| Error::new(ErrorKind::Io, error))?;
    Ok(written(bytes))
}

pub(crate) fn space(space: StatFs) -> StatfsOut {
    let mut out = StatfsOut::default();
    let to = out.statfs();
    to.bsize(space.block_size);
    to.frsize(space.block_size);
    to.blocks(space.blocks);
    to.bfree(space.blocks_free);
    to.bavail(space.blocks_available);
    to.files(space.files);
    to.ffree(space.files_free);
    to.namelen(space.name_max);
    out
}

/// One of the two.
pub(crate) fn xattr(answer: Xattr) -> (Option<XattrOut>, Option<Content>) {
    match answer {
        Xattr::Length(length) => {
            let mut out = XattrOut::default();
            XattrOut::size(&mut out, length);
            (Some(out), None)
        }
        Xattr::Value(value) => (None, Some(Content(value))),
    }
}

/// Bytes of a file, a symlink or an attribute, sent from where they are.
pub(crate) struct Content(pub(crate) bytes::Bytes);

impl Bytes for Content {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn count(&self) -> usize {
        1
    }

    fn fill_bytes<'a>(&'a self, to: &mut dyn FillBytes<'a>) {
        to.put(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_go_both_ways() {
        for secs in [i64::MIN, -5, -1, 0, 1, i64::MAX] {
            let at = Time { secs, nanos: 250_000_000 };
            assert_eq!(time(duration(at)), at);
        }
    }
}
