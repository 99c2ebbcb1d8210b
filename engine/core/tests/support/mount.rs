//! The calls of the contract by path, on a base with local changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aysfs_engine::{AysFs, Base, Overlay, Upper};
use aysfs_flist::{Entry as ListEntry, Kind};
use aysfs_vfs::{
    Attr, Caller, DirEntry, DirSink, Entry, ErrorKind, Fh, FileKind, Filled, Ino, Lookup, Name, OpenFlags,
    RenameMode, Result, SetAttr, Vfs,
};
use bytes::Bytes;

use super::Lab;

pub const READ: OpenFlags = OpenFlags::READ;
pub const WRITE: OpenFlags = OpenFlags::READ_WRITE;
pub const TRUNCATE: OpenFlags = OpenFlags { truncate: true, ..WRITE };

/// Shows a base with the local changes of the lab.
pub fn mount(lab: &Lab, entries: &[ListEntry]) -> Mount {
    mount_base(lab, lab.base(entries))
}

pub fn mount_base(lab: &Lab, base: Base) -> Mount {
    mount_in(lab, lab.dir.path(), base)
}

/// The same with the local changes of another backend.
pub fn mount_in(lab: &Lab, backend: &Path, base: Base) -> Mount {
    let lower = AysFs::new(base, lab.cache(), lab.stors());
    let upper = Upper::open(backend, Path::new("/mnt")).expect("free");
    Mount(Arc::new(Overlay::lending_from(1, lower, upper).expect("a root")))
}

/// Calls by path.
pub struct Mount(pub Arc<Overlay>);

impl Mount {
    pub async fn find(&self, path: &str) -> Result<Attr> {
        let mut at = self.0.getattr(Ino::ROOT, None).await?.attr;
        for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
            match self.0.lookup(at.ino, &name(component)).await? {
                Lookup::Found(entry) => at = entry.attr,
                Lookup::Absent(_) => return Err(ErrorKind::NotFound.into()),
            }
        }
        Ok(at)
    }

    pub async fn ino(&self, path: &str) -> Ino {
        self.find(path).await.unwrap_or_else(|error| panic!("{path}: {error}")).ino
    }

    pub async fn parent(&self, path: &str) -> (Ino, Name) {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.ino(parent).await, name(last))
    }

    pub async fn read(&self, path: &str) -> Result<Bytes> {
        let attr = self.find(path).await?;
        self.0.open(attr.ino, READ).await?;
        let read = self.0.read(attr.ino, Fh::NONE, 0, 1 << 20).await;
        self.0.release(attr.ino, Fh::NONE).await?;
        let read = read?;
        assert_eq!(read.len() as u64, attr.size, "{path}: its size is that of its content");
        Ok(read)
    }

    pub async fn write(&self, path: &str, flags: OpenFlags, offset: u64, bytes: &'static [u8]) {
        let ino = match self.find(path).await {
            Ok(attr) => attr.ino,
            Err(_) => {
                let (parent, name) = self.parent(path).await;
                self.0.mknod(ROOT, parent, &name, FileKind::Regular, 0o644).await.expect("made").attr.ino
            }
        };
        self.0.open(ino, flags).await.expect("opened");
        let written = self.0.write(ino, Fh::NONE, offset, Bytes::from_static(bytes)).await.expect("written");
        assert_eq!(written as usize, bytes.len());
        self.0.release(ino, Fh::NONE).await.expect("released");
    }

    pub async fn chmod(&self, path: &str, perm: u16) {
        let changes = SetAttr { perm: Some(perm), ..SetAttr::default() };
        self.0.setattr(self.ino(path).await, None, changes).await.expect("changed");
    }

    pub async fn unlink(&self, path: &str) {
        let (parent, name) = self.parent(path).await;
        self.0.unlink(parent, &name).await.expect("unlinked");
    }

    pub async fn rmdir(&self, path: &str) {
        let (parent, name) = self.parent(path).await;
        self.0.rmdir(parent, &name).await.expect("removed");
    }

    pub async fn mkdir(&self, path: &str) {
        let (parent, name) = self.parent(path).await;
        self.0.mkdir(ROOT, parent, &name, 0o755).await.expect("made");
    }

    pub async fn rename(&self, from: &str, to: &str) {
        let ((from, name), (to, new_name)) = (self.parent(from).await, self.parent(to).await);
        self.0.rename(from, &name, to, &new_name, RenameMode::Replace).await.expect("renamed");
    }

    /// All paths, with the content of files.
    pub async fn tree(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut pending = vec![String::new()];
        while let Some(directory) = pending.pop() {
            let ino = self.ino(&directory).await;
            let fh = self.0.opendir(ino).await.expect("opened").fh;
            let mut names = Names::default();
            self.0.readdir(ino, fh, 0, &mut names).await.expect("listed");
            self.0.releasedir(ino, fh).await.expect("released");
            for name in names.0 {
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                let content = match self.find(&path).await.expect("it was listed").kind {
                    FileKind::Directory => {
                        pending.push(path.clone());
                        "/".to_owned()
                    }
                    _ => match self.read(&path).await {
                        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                        Err(error) => error.kind().to_string(),
                    },
                };
                all.insert(path, content);
            }
        }
        all
    }
}

pub const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };

#[derive(Default)]
struct Names(Vec<String>);

impl DirSink for Names {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, entry: &DirEntry<'_>, _: Option<&Entry>) -> Filled {
        if entry.name != b"." && entry.name != b".." {
            self.0.push(String::from_utf8_lossy(entry.name).into_owned());
        }
        std::ops::ControlFlow::Continue(())
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

pub fn directory(path: &str) -> ListEntry {
    ListEntry::new(path, Kind::Directory)
}

pub fn tree(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

/// What only root's form of the marks can do; said, not passed over.
pub fn has_metacopy() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root copies attributes up without the content");
    }
    root
}
