//! The kernel's messages, as polyfuse decodes them, into calls of the contract.

use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use aysfs_vfs::kernel;
use aysfs_vfs::kernel::raw;
use aysfs_vfs::{Caller, Fh, FileRange, Ino, SetAttr};
use bytes::Bytes;
use polyfuse::{Operation, Request};
use rustix::io::Errno;

use crate::convert::{self, Content};
use crate::listing::Page;
use crate::requests::{Found, Interrupts};
use crate::session::{Shared, refuse};

impl Shared {
    /// Starts the call that a message asks for; its answer may come later.
    pub(crate) fn handle(self: &Arc<Self>, request: Request) {
        // A message is decoded by reference, and its request travels with the call: what the call needs of it is copied.
        let operation = match request.operation() {
            Ok(operation) => operation,
            Err(error) => {
                tracing::error!(%error, "a message of the kernel is answered with EIO");
                return refuse(&request, Errno::IO);
            }
        };
        match operation {
            Operation::Lookup(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                self.query((request, "lookup", parent), |vfs| async move {
                    convert::found(vfs.lookup(parent, &name?).await?)
                });
            }
            Operation::Forget(forgets) => {
                for forget in forgets.iter() {
                    self.vfs.forget(Ino(forget.ino()), forget.nlookup());
                }
            }
            Operation::Getattr(op) => {
                let (ino, fh) = (Ino(op.ino()), op.fh().map(Fh));
                self.query((request, "getattr", ino), |vfs| async move {
                    vfs.getattr(ino, fh).await.map(convert::attributes)
                });
            }
            Operation::Setattr(op) => {
                let (ino, fh) = (Ino(op.ino()), op.fh().map(Fh));
                let (atime, mtime) = (op.atime().map(convert::set_time), op.mtime().map(convert::set_time));
                let changes = SetAttr {
                    perm: op.mode().map(raw::perm),
                    uid: op.uid(),
                    gid: op.gid(),
                    size: op.size(),
                    atime: None,
                    mtime: None,
                    ctime: op.ctime().map(convert::time),
                };
                self.change((request, "setattr", ino), |vfs| async move {
                    let changes = SetAttr { atime: atime.transpose()?, mtime: mtime.transpose()?, ..changes };
                    vfs.setattr(ino, fh, changes).await.map(convert::attributes)
                });
            }
            Operation::Readlink(op) => {
                let ino = Ino(op.ino());
                self.query(
                    (request, "readlink", ino),
                    |vfs| async move { vfs.readlink(ino).await.map(Content) },
                );
            }
            Operation::Symlink(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                let (caller, target) = (caller(&request, 0), op.link().as_bytes().to_vec());
                self.change((request, "symlink", parent), |vfs| async move {
                    vfs.symlink(caller, parent, &name?, &target).await.map(convert::entry)
                });
            }
            Operation::Mknod(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                let caller = caller(&request, self.umask(op.umask()));
                let (perm, kind) = (raw::perm(op.mode()), raw::kind(op.mode(), op.rdev()));
                self.change((request, "mknod", parent), |vfs| async move {
                    vfs.mknod(caller, parent, &name?, kind?, perm).await.map(convert::entry)
                });
            }
            Operation::Mkdir(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                let (caller, perm) = (caller(&request, self.umask(op.umask())), raw::perm(op.mode()));
                self.change((request, "mkdir", parent), |vfs| async move {
                    vfs.mkdir(caller, parent, &name?, perm).await.map(convert::entry)
                });
            }
            Operation::Unlink(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                self.change(
                    (request, "unlink", parent),
                    |vfs| async move { vfs.unlink(parent, &name?).await },
                );
            }
            Operation::Rmdir(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                self.change((request, "rmdir", parent), |vfs| async move { vfs.rmdir(parent, &name?).await });
            }
            Operation::Rename(op) => {
                let (from, name) = (Ino(op.parent()), convert::name(op.name()));
                let (to, new_name) = (Ino(op.newparent()), convert::name(op.newname()));
                let mode = raw::rename_mode(op.flags());
                self.change((request, "rename", from), |vfs| async move {
                    vfs.rename(from, &name?, to, &new_name?, mode?).await
                });
            }
            Operation::Link(op) => {
                let (ino, parent, name) = (Ino(op.ino()), Ino(op.newparent()), convert::name(op.newname()));
                self.change((request, "link", ino), |vfs| async move {
                    vfs.link(ino, parent, &name?).await.map(convert::entry)
                });
            }
            Operation::Open(_) if self.agreed.no_open => refuse(&request, Errno::NOSYS),
            Operation::Open(op) => {
                let (ino, flags) = (Ino(op.ino()), raw::open_flags(op.flags()));
                let interrupts = if flags.truncate { Interrupts::AreIgnored } else { Interrupts::EndIt };
                self.run((request, "open", ino), interrupts, |vfs| async move {
                    vfs.open(ino, flags).await.map(convert::file)
                });
            }
            Operation::Create(op) => {
                let (parent, name) = (Ino(op.parent()), convert::name(op.name()));
                let (caller, perm) = (caller(&request, self.umask(op.umask())), raw::perm(op.mode()));
                let flags = raw::open_flags(op.open_flags());
                self.change((request, "create", parent), |vfs| async move {
                    vfs.create(caller, parent, &name?, perm, flags).await.map(convert::created)
                });
            }
            Operation::Read(op) => {
                let (ino, fh, offset, size) = (Ino(op.ino()), Fh(op.fh()), op.offset(), op.size());
                self.query((request, "read", ino), |vfs| async move {
                    vfs.read(ino, fh, offset, size).await.map(Content)
                });
            }
            Operation::Write(op, mut data) => {
                let (ino, fh, offset) = (Ino(op.ino()), Fh(op.fh()), op.offset());
                let data = data.fill_buf().map(Bytes::copy_from_slice);
                self.change((request, "write", ino), |vfs| async move {
                    vfs.write(ino, fh, offset, data?).await.map(convert::written)
                });
            }
            Operation::Flush(_) if self.agreed.no_open => refuse(&request, Errno::NOSYS),
            Operation::Flush(op) => {
                let (ino, fh) = (Ino(op.ino()), Fh(op.fh()));
                self.change((request, "flush", ino), |vfs| async move { vfs.flush(ino, fh).await });
            }
            Operation::Fsync(op) => {
                let (ino, fh, data_only) = (Ino(op.ino()), Fh(op.fh()), op.datasync());
                self.change(
                    (request, "fsync", ino),
                    |vfs| async move { vfs.fsync(ino, fh, data_only).await },
                );
            }
            Operation::Release(op) => {
                let (ino, fh) = (Ino(op.ino()), Fh(op.fh()));
                self.change((request, "release", ino), |vfs| async move { vfs.release(ino, fh).await });
            }
            Operation::Opendir(_) if self.agreed.no_opendir => refuse(&request, Errno::NOSYS),
            Operation::Opendir(op) => {
                let ino = Ino(op.ino());
                self.query((request, "opendir", ino), |vfs| async move {
                    vfs.opendir(ino).await.map(convert::directory)
                });
            }
            Operation::Readdir(op) => {
                let (ino, fh, cookie) = (Ino(op.ino()), Fh(op.fh()), op.offset());
                let (size, mode) = (op.size(), op.mode());
                let vfs = Arc::clone(&self.vfs);
                self.drive((request, "readdir", ino), Interrupts::EndIt, |asked| async move {
                    let mut page = Page::new(asked, size, mode);
                    let listed = vfs.readdir(ino, fh, cookie, &mut page).await;
                    page.end(listed);
                });
            }
            Operation::Fsyncdir(op) => {
                let (ino, fh, data_only) = (Ino(op.ino()), Fh(op.fh()), op.datasync());
                self.change((request, "fsyncdir", ino), |vfs| async move {
                    vfs.fsyncdir(ino, fh, data_only).await
                });
            }
            Operation::Releasedir(op) => {
                let (ino, fh) = (Ino(op.ino()), Fh(op.fh()));
                self.change((request, "releasedir", ino), |vfs| async move { vfs.releasedir(ino, fh).await });
            }
            Operation::Statfs(op) => {
                let ino = Ino(op.ino());
                self.query((request, "statfs", ino), |vfs| async move {
                    vfs.statfs(ino).await.map(convert::space)
                });
            }
            Operation::Fallocate(op) => {
                let (ino, fh, offset, len) = (Ino(op.ino()), Fh(op.fh()), op.offset(), op.length());
                let mode = raw::fallocate_mode(op.mode());
                self.change((request, "fallocate", ino), |vfs| async move {
                    vfs.fallocate(ino, fh, offset, len, mode?).await
                });
            }
            Operation::CopyFileRange(op) => {
                let from = FileRange { ino: Ino(op.ino_in()), fh: Fh(op.fh_in()), offset: op.offset_in() };
                let to = FileRange { ino: Ino(op.ino_out()), fh: Fh(op.fh_out()), offset: op.offset_out() };
                let len = op.length().min(kernel::MAX_COPY);
                self.change((request, "copy_file_range", from.ino), |vfs| async move {
                    convert::copied(vfs.copy_file_range(from, to, len).await?)
                });
            }
            Operation::Setxattr(op) => {
                let (ino, name) = (Ino(op.ino()), op.name().as_bytes().to_vec());
                let (value, mode) = (op.value().to_vec(), raw::xattr_mode(op.flags()));
                self.change((request, "setxattr", ino), |vfs| async move {
                    vfs.setxattr(ino, &name, &value, mode?).await
                });
            }
            Operation::Getxattr(op) => {
                let (ino, name, room) = (Ino(op.ino()), op.name().as_bytes().to_vec(), op.size());
                self.query((request, "getxattr", ino), |vfs| async move {
                    raw::xattr(room, vfs.getxattr(ino, &name).await?).map(convert::xattr)
                });
            }
            Operation::Listxattr(op) => {
                let (ino, room) = (Ino(op.ino()), op.size());
                self.query((request, "listxattr", ino), |vfs| async move {
                    raw::xattr(room, vfs.listxattr(ino).await?).map(convert::xattr)
                });
            }
            Operation::Removexattr(op) => {
                let (ino, name) = (Ino(op.ino()), op.name().as_bytes().to_vec());
                self.change(
                    (request, "removexattr", ino),
                    |vfs| async move { vfs.removexattr(ino, &name).await },
                );
            }
            Operation::Interrupt(op) => match self.requests.interrupt(op.unique()) {
                Found::Yes => {}
                Found::No => refuse(&request, Errno::AGAIN),
            },
            // The answer to a question that we do not ask.
            Operation::NotifyReply(..) => {}
            // Never: the kernel does without, for the life of the mount. Locks and access checks are its own business, every
            // file is ready (poll) as local ones are. polyfuse does not say what is behind the others: lseek, which the
            // kernel then answers by the size; ioctl, for which it makes ENOTTY of it; and what is newer than polyfuse.
            _ => refuse(&request, Errno::NOSYS),
        }
    }

    /// The umask that is left to apply.
    fn umask(&self, sent: u32) -> u16 {
        if self.agreed.umask_is_ours { raw::perm(sent) & 0o777 } else { 0 }
    }
}

fn caller(request: &Request, umask: u16) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}
