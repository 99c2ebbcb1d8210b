//! A stor in a local directory: `file:///path`.
//!
//! The layout is that of `aysfs stor`, which keeps its objects through the same [`Disk`]: a directory may be served
//! over HTTP and used directly at the same time.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::fit::Digesting;
use crate::store::part_of;
use crate::{
    Body, ETag, Fault, Key, Listed, Named, Namespace, Precondition, StaticName, Store, StoreError, Stored,
    Upload,
};

mod disk;
mod incoming;

pub(crate) use disk::{Disk, Found, read_file};
pub(crate) use incoming::Incoming;

/// How much is read from a file, or written to it, at once.
pub(crate) const PIECE: usize = 256 << 10;
/// How many objects of a listing wait for their reader.
const LISTED_AHEAD: usize = 1024;

/// One namespace of a directory.
#[derive(Clone, Debug)]
pub struct DirStore {
    disk: Arc<Disk>,
    namespace: Namespace,
    name: String,
}

impl DirStore {
    /// Opens the stor in `root`, an absolute path, and makes it if need be. This blocks on the disk, shortly.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub fn open(root: &Path, namespace: &Namespace) -> io::Result<Self> {
        Ok(Self {
            disk: Arc::new(Disk::open(root)?),
            namespace: namespace.clone(),
            name: format!("file://{} ({namespace})", root.display()),
        })
    }

    /// Runs `call` where it may block.
    async fn call<T: Send + 'static>(
        &self,
        subject: impl ToString,
        call: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        let outcome = blocking(move || call(&this)).await;
        outcome.map_err(|fault| self.error(subject, fault))
    }

    fn error(&self, subject: impl ToString, fault: Fault) -> StoreError {
        StoreError { stor: self.name.clone(), subject: subject.to_string(), fault }
    }

    /// The bytes of `file` in `range`, with failures that name `subject`.
    fn body(&self, subject: impl ToString, file: Arc<File>, range: Range<u64>) -> Body {
        let (this, subject) = (self.clone(), subject.to_string());
        Body {
            length: Some(range.end - range.start),
            stream: file_stream(file, range)
                .map_err(move |error| this.error(&subject, Fault::Local(error)))
                .boxed(),
        }
    }
}

#[async_trait]
impl Store for DirStore {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Body, StoreError> {
        let wanted = key.clone();
        let (file, range) = self
            .call(key, move |this| {
                let Found { file, length } =
                    this.disk.object(&this.namespace, &wanted)?.ok_or(Fault::NotFound)?;
                let range = part_of(range, length)?;
                Ok((file, range))
            })
            .await?;
        Ok(self.body(key, file, range))
    }

    async fn put(&self, key: &Key, body: &Upload) -> Result<Stored, StoreError> {
        let (wanted, body) = (key.clone(), body.clone());
        let created = self
            .call(key, move |this| {
                let mut incoming = this.disk.incoming(Digesting::of(&wanted))?;
                read_upload(&body, |bytes| incoming.write(bytes))?;
                this.disk.publish(&this.namespace, &wanted, incoming)
            })
            .await?;
        Ok(Stored { key: key.clone(), created })
    }

    async fn has(&self, keys: &[Key]) -> Result<Vec<bool>, StoreError> {
        let keys = keys.to_vec();
        self.call(format!("{} objects", keys.len()), move |this| {
            let present = |key| Ok(this.disk.object(&this.namespace, key)?.is_some());
            keys.iter().map(present).collect()
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let wanted = key.clone();
        self.call(key, move |this| Ok(this.disk.remove(&this.namespace, &wanted)?)).await
    }

    async fn list(&self) -> Result<BoxStream<'static, Result<Listed, StoreError>>, StoreError> {
        let this = self.clone();
        let objects = list_stream(self.disk.clone(), self.namespace.clone());
        Ok(objects.map_err(move |error| this.error("list", Fault::Local(error))).boxed())
    }

    async fn read_named(&self, name: &StaticName, known: Option<&ETag>) -> Result<Named, StoreError> {
        let wanted = name.clone();
        let (found, etag) =
            self.call(name, move |this| this.disk.read_named(&wanted)?.ok_or(Fault::NotFound)).await?;
        if known == Some(&etag) {
            return Ok(Named::Unchanged);
        }
        Ok(Named::Found { body: self.body(name, found.file, 0..found.length), etag })
    }

    async fn write_named(
        &self,
        name: &StaticName,
        body: &Upload,
        condition: Precondition,
    ) -> Result<ETag, StoreError> {
        let (wanted, body) = (name.clone(), body.clone());
        self.call(name, move |this| {
            let mut incoming = this.disk.incoming(Digesting::sha256())?;
            read_upload(&body, |bytes| incoming.write(bytes))?;
            Ok(this.disk.write_named(&wanted, incoming, &condition)?.0)
        })
        .await
    }
}

/// Runs `call` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(call).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(Fault::Local(io::Error::other(cancelled))),
        },
    }
}

/// The bytes of an upload, in pieces. Blocks.
pub(crate) fn read_upload(body: &Upload, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    match body {
        Upload::Bytes(bytes) => piece(bytes),
        Upload::File { file, length } => read_file(file, *length, piece),
    }
}

/// The bytes of `file` in `range`, read in pieces on a thread that may block.
pub(crate) fn file_stream(
    file: Arc<File>,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let wanted = usize::try_from(range.end - range.start).map_or(PIECE, |left| left.min(PIECE));
        let reader = file.clone();
        let offset = range.start;
        let piece = tokio::task::spawn_blocking(move || {
            let mut piece = BytesMut::zeroed(wanted);
            reader.read_exact_at(&mut piece, offset).map(|()| piece.freeze())
        });
        let piece = piece.await.map_err(io::Error::other)??;
        Ok(Some((piece, (file, offset + wanted as u64..range.end))))
    })
}

/// The objects of a namespace, found by a thread that runs a little ahead of the reader, and ends with it.
pub(crate) fn list_stream(
    disk: Arc<Disk>,
    namespace: Namespace,
) -> impl Stream<Item = io::Result<Listed>> + Send + 'static {
    let (sender, mut receiver) = mpsc::channel(LISTED_AHEAD);
    tokio::task::spawn_blocking(move || {
        let outcome = disk.list(&namespace, |object| match sender.blocking_send(Ok(object)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        if let Err(error) = outcome {
            // The reader may be gone, and with it the interest in the error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::contract::{bytes_of, noise, sha256, suite, upload};

    fn ns() -> Namespace {
        "ns".parse().expect("valid")
    }

    fn store_in(root: &Path) -> DirStore {
        DirStore::open(root, &ns()).expect("opened")
    }

    fn files_in(directory: &Path) -> usize {
        fs::read_dir(directory).expect("readable").count()
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        suite(|| async {
            let root = tempfile::tempdir().expect("a directory");
            let store: Arc<dyn Store> = Arc::new(store_in(&root.path().join("made/as/needed")));
            (store, root)
        })
        .await;
    }

    #[tokio::test]
    async fn the_layout_is_the_documented_one() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        let key = sha256(b"x");
        store.put(&key, &upload(b"x")).await.expect("put");
        let digits = key.as_str();
        let path = root.path().join("ns").join(&digits[..2]).join(&digits[2..4]).join(digits);
        assert_eq!(fs::read(path).expect("there"), b"x");
        let name = "a.flist".parse().expect("valid");
        let etag = store.write_named(&name, &upload(b"x"), Precondition::None).await.expect("written");
        assert_eq!(etag.0, digits, "the version of a named file is its SHA-256");
        assert_eq!(fs::read(root.path().join(".static/a.flist")).expect("there"), b"x");
        assert_eq!(files_in(&root.path().join(".incoming")), 0);
    }

    #[tokio::test]
    async fn no_symlink_below_the_root_is_followed() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        let key = sha256(b"x");
        store.put(&key, &upload(b"x")).await.expect("put");
        let digits = key.as_str().to_owned();
        let chain = [
            root.path().join("ns"),
            root.path().join("ns").join(&digits[..2]),
            root.path().join("ns").join(&digits[..2]).join(&digits[2..4]),
            root.path().join("ns").join(&digits[..2]).join(&digits[2..4]).join(&digits),
        ];
        for (n, path) in chain.iter().enumerate() {
            let moved = outside.path().join(n.to_string());
            fs::rename(path, &moved).expect("moved");
            symlink(&moved, path).expect("linked");
            let error = store.get(&key, None).await.expect_err("not to be followed");
            assert!(matches!(error.fault, Fault::Local(_)), "{error}");
            assert!(error.to_string().contains(&digits), "{error}");
            fs::remove_file(path).expect("removed");
            fs::rename(&moved, path).expect("moved back");
        }
        symlink("/etc/passwd", root.path().join(".static/a.flist")).expect("linked");
        let name = "a.flist".parse().expect("valid");
        assert!(store.read_named(&name, None).await.is_err());
        store.put(&key, &upload(b"x")).await.expect("all is as before");
    }

    #[tokio::test]
    async fn an_object_that_the_disk_damaged_is_repaired_by_a_put() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        let key = sha256(b"good");
        store.put(&key, &upload(b"good")).await.expect("put");
        let path =
            root.path().join("ns").join(&key.as_str()[..2]).join(&key.as_str()[2..4]).join(key.as_str());
        fs::write(&path, b"evil").expect("damaged");
        assert!(!store.put(&key, &upload(b"good")).await.expect("put").created);
        let body = store.get(&key, None).await.expect("got");
        assert_eq!(bytes_of(body).await.expect("read"), b"good");
    }

    #[tokio::test]
    async fn a_named_file_changed_by_hand_has_another_version() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        let name = "a.flist".parse().expect("valid");
        let first = store.write_named(&name, &upload(b"one"), Precondition::None).await.expect("written");
        let path = root.path().join(".static/a.flist");
        let old = SystemTime::now() - Duration::from_secs(60);
        for text in ["two", "six"] {
            fs::write(&path, text).expect("written");
            fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(old)).expect("dated");
            let Named::Found { etag, .. } = store.read_named(&name, Some(&first)).await.expect("read") else {
                panic!("{text} is another version");
            };
            assert_eq!(etag.0, sha256(text.as_bytes()).as_str());
        }
    }

    #[tokio::test]
    async fn what_an_interrupted_upload_left_goes_after_a_day() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        for _ in 0..2 {
            let mut incoming = store.disk.incoming(Digesting::sha256()).expect("begun");
            incoming.write(b"half").expect("written");
            std::mem::forget(incoming);
        }
        let left = root.path().join(".incoming");
        let first = fs::read_dir(&left).expect("readable").next().expect("two").expect("readable").path();
        let old = SystemTime::now() - Duration::from_secs(25 * 3600);
        fs::File::options().write(true).open(first).and_then(|file| file.set_modified(old)).expect("dated");
        let store = store_in(root.path());
        assert_eq!(files_in(&left), 1, "the younger one may still be written");
        assert!(!store.has(&[sha256(b"half")]).await.expect("answered")[0]);
    }

    #[tokio::test]
    async fn an_upload_that_fails_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let store = store_in(root.path());
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, &noise(1, 100_000)).expect("written");
        let shorter = Upload::File { file: Arc::new(file), length: 200_000 };
        let error = store.put(&sha256(b"x"), &shorter).await.expect_err("the file is too short");
        assert!(matches!(error.fault, Fault::Local(_)), "{error}");
        assert_eq!(files_in(&root.path().join(".incoming")), 0);
        assert!(!root.path().join("ns").exists());
    }
}
