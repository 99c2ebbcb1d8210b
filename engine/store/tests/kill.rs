//! A stor directory whose writer is killed at any moment holds whole objects only.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aysfs_store::contract::{bytes_of, noise, sha256, upload};
use aysfs_store::{DirStore, Key, Store};
use futures::TryStreamExt;
use support::ns;

const ROOT: &str = "AYSFS_TEST_KILL_ROOT";

/// Ends the writer however the test ends.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_killed_writer_leaves_whole_objects_only() {
    let root = tempfile::tempdir().expect("a directory");
    for acknowledged in [1, 3, 9] {
        let program = std::env::current_exe().expect("this test");
        let child = Command::new(program)
            .args(["--exact", "puts_until_it_is_killed", "--ignored", "--nocapture"])
            .env(ROOT, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut writer = Writer(child);
        let output = BufReader::new(writer.0.stdout.take().expect("piped"));
        let lines = output.lines().map(|line| line.expect("text"));
        // The test harness may write on the same line.
        let keys = lines.filter_map(|line| line.split(' ').next_back()?.parse::<Key>().ok());
        let keys: Vec<_> = keys.take(acknowledged).collect();
        drop(writer);
        assert_eq!(keys.len(), acknowledged, "the writer writes");

        let store = DirStore::open(root.path(), &ns()).expect("opened");
        let present = store.has(&keys).await.expect("answered");
        assert!(present.iter().all(|present| *present), "what was acknowledged is there");
        let listed: Vec<_> = store.list().await.expect("listed").try_collect().await.expect("listed");
        assert_eq!(listed.len(), files_below(&root.path().join("ns")).len(), "nothing but objects");
        for object in listed {
            let body = store.get(&object.key, None).await.expect("got");
            assert_eq!(sha256(&bytes_of(body).await.expect("read")), object.key);
        }
    }
}

#[tokio::test]
#[ignore = "the other half of a_killed_writer_leaves_whole_objects_only"]
async fn puts_until_it_is_killed() {
    let root = std::env::var_os(ROOT).expect("run by the other half");
    let store = DirStore::open(Path::new(&root), &ns()).expect("opened");
    for seed in (u64::from(std::process::id()) << 32).. {
        let bytes = noise(seed, 3_000_000);
        let key = sha256(&bytes);
        store.put(&key, &upload(&bytes)).await.expect("put");
        println!("put {key}");
    }
}
