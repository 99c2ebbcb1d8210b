use std::io;
use std::sync::{Mutex, PoisonError};

use aysfs_store::crypt::{PrivateKey, Sealing};
use aysfs_store::fault::Trouble;
use aysfs_store::{Fault, Store, garbage};

use super::*;
use crate::fsck::{self, Depth, Problem, fsck};
use crate::testing::{Lab, noise, small};

/// What is written to it, for who holds a clone.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Repacks; returns the new list.
async fn repacked(lab: &Lab, base: &Base, below: f64) -> Result<(Base, Summary), RepackError> {
    let (written, stors) = (Written::default(), lab.stors());
    let plan = Plan::of(base, &stors, below).await?;
    let summary = plan.carry_out(&stors, None, written.clone(), &Progress::default()).await?;
    let list = written.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((lab.read(&list), summary))
}

async fn assert_sound(lab: &Lab, base: &Base) {
    let mut problems = Vec::new();
    let report = |problem: Problem| problems.push(problem.to_string());
    fsck(base, &lab.stors(), Depth::Full, &fsck::Progress::default(), report).await.expect("looked");
    assert_eq!(problems, [""; 0]);
}

fn packs(base: &Base) -> Vec<Key> {
    base.index().header().packs.iter().map(|pack| listed::key(pack.key)).collect()
}

/// What is shown: all but where it is.
fn shown(base: &Base) -> Vec<(Vec<u8>, u64, Option<aysfs_store::ContentId>)> {
    let entry = |entry: Result<Entry, Corrupt>| {
        let entry = entry.expect("sound");
        let id = entry.content.as_ref().map(listed::content_id);
        (entry.path, entry.size, id)
    };
    base.index().entries().map(entry).collect()
}

/// A full pack; one of which a tenth is needed, by a small file and by a large one; and a pack with the table.
struct Sparse {
    lab: Lab,
    full: Vec<Chunk>,
    poor: Vec<Chunk>,
    entries: Vec<Entry>,
}

impl Sparse {
    fn new(lab: Lab) -> Self {
        let full = lab.pack(&[noise(1, 5000), noise(2, 5000)]);
        let poor = lab.pack(&[noise(3, 1000), noise(4, 30_000), noise(5, 1000), noise(6, 1000)]);
        let mut entries = vec![small("a", &full[0]), small("b", &full[1]), small("c", &poor[0])];
        entries.extend(lab.large(&[("d", vec![full[0].clone(), poor[2].clone(), poor[3].clone()])]));
        entries.push(lab.object("e", b"an object of its own"));
        entries.push(small("f", &poor[0]));
        Self { lab, full, poor, entries }
    }
}

#[tokio::test]
async fn what_is_needed_of_a_poor_pack_is_copied() {
    let Sparse { lab, full, poor, entries } = &Sparse::new(Lab::new());
    let base = lab.base(entries);
    let before = lab.objects.keys();
    let (new, summary) = repacked(lab, &base, 0.5).await.expect("repacked");
    assert_eq!(shown(&new), shown(&base));
    assert_sound(lab, &new).await;
    assert_sound(lab, &base).await;
    assert_eq!((summary.packs, summary.left, summary.new_packs), (3, 1, 2), "chunks, and a table");
    assert_eq!(summary.needed_bytes, 3 * 1001);
    assert!(packs(&new).contains(&full[0].key) && !packs(&new).contains(&poor[0].key));
    assert_eq!(new.index().header().version, Some(8));
    assert_eq!(
        new.index().header().ancestors.last().map(|list| list.sha256),
        Some(base.index().list_digest())
    );
    assert!(before.iter().all(|key| lab.objects.keys().contains(key)), "nothing is deleted");
    // As it is stored.
    let copy = lab.bytes(
        &new.packs()
            .content(new.index().entries().nth(3).expect("c").expect("sound").content, 1000)
            .expect("content")
            .chunks[0]
            .key,
    );
    assert_eq!(copy[..1001], lab.bytes(&poor[0].key)[..1001]);
    // Doing it again finds nothing to do.
    let stors = lab.stors();
    assert_eq!(Plan::of(&new, &stors, 0.5).await.expect("planned").summary().left, 0);
}

#[tokio::test]
async fn everything_can_be_copied() {
    let Sparse { lab, entries, .. } = &Sparse::new(Lab::new());
    let base = lab.base(entries);
    let (new, summary) = repacked(lab, &base, 1.1).await.expect("repacked");
    assert_eq!((summary.packs, summary.left), (3, 3));
    assert_eq!(shown(&new), shown(&base));
    assert_sound(lab, &new).await;
    for pack in packs(&base) {
        lab.objects.delete(&pack).await.expect("deleted");
    }
    assert_sound(lab, &new).await;
}

#[tokio::test]
async fn what_a_mount_fetches_first_stays_but_tables_do_not() {
    let Sparse { lab, poor, entries, .. } = &mut Sparse::new(Lab::new());
    entries.remove(1);
    let base = lab.base(entries);
    let header = base.index().header().clone();
    let poor = poor[0].key.as_str().parse().expect("a key");
    let table_pack = header.packs[2].key;
    let base = lab.base_with(Header { start: vec![poor, table_pack], ..header }, entries);
    let (new, summary) = repacked(lab, &base, 1.1).await.expect("repacked");
    assert_eq!(summary.left, 2);
    let start = &new.index().header().start;
    assert_eq!((start.len(), start[0]), (2, poor));
    assert!(start[1] != table_pack && new.index().header().packs.iter().any(|pack| pack.key == start[1]));
    assert_sound(lab, &new).await;
}

#[tokio::test]
async fn what_is_encrypted_stays_so() {
    let mut lab = Lab::new();
    let key = PrivateKey::generate().expect("random");
    lab.sealing = Some(Sealing::new([&key.public()]).expect("sealed"));
    let Sparse { lab, entries, .. } = &Sparse::new(lab);
    let base = lab.base(entries);
    let (written, stors) = (Written::default(), lab.stors());
    let plan = Plan::of(&base, &stors, 0.5).await.expect("planned");
    plan.carry_out(&stors, None, written.clone(), &Progress::default()).await.expect("repacked");
    let list = written.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (list, _) = Sealing::open(&list, &[key]).expect("for the same recipient");
    let new = lab.read(&list);
    assert_eq!(shown(&new), shown(&base));
    assert_sound(lab, &new).await;
}

#[tokio::test]
async fn damage_is_not_copied() {
    let Sparse { lab, poor, entries, .. } = &Sparse::new(Lab::new());
    lab.change(&poor[0].key, |bytes| bytes[500] ^= 1);
    let before = lab.objects.keys();
    let error = repacked(lab, &lab.base(entries), 0.5).await.expect_err("damaged");
    assert!(matches!(&error, RepackError::Chunk { path, .. } if path == "/c"), "{error}");
    assert_eq!(lab.objects.keys(), before);
}

#[tokio::test]
async fn packs_that_stay_are_relied_on_and_have_to_be_there() {
    let Sparse { lab, full, entries, .. } = &Sparse::new(Lab::new());
    let base = lab.base(entries);
    let namespace = "test".parse().expect("a namespace");
    let name = garbage::name(&namespace).expect("short");
    let candidates: HashMap<Key, u64> = lab.objects.keys().into_iter().map(|key| (key, 5)).collect();
    let version = garbage::Version::read(&*lab.objects, &name).await.expect("none yet");
    let found = garbage::Garbage { candidates, ..Default::default() };
    version.replace(&*lab.objects, &name, found).await.expect("replaced");
    let stors = Arc::new(Mirror::new(garbage::Rescuing::around(lab.stor.clone(), &namespace), []));
    let written = Written::default();
    let plan = Plan::of(&base, &stors, 0.5).await.expect("planned");
    plan.carry_out(&stors, None, written.clone(), &Progress::default()).await.expect("repacked");
    let new = lab.read(&written.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let left = garbage::Version::read(&*lab.objects, &name).await.expect("read").garbage;
    for pack in packs(&new) {
        assert!(!left.mentions(&pack), "{pack} would be deleted");
    }
    lab.objects.delete(&full[0].key).await.expect("deleted");
    let error = repacked(lab, &base, 0.5).await.expect_err("a part of the tree is lost");
    assert!(matches!(&error, RepackError::Gone { pack, .. } if *pack == full[0].key), "{error}");
}

#[tokio::test]
async fn one_that_fails_leaves_the_old_list_as_it_was() {
    let Sparse { lab, entries, .. } = &Sparse::new(Lab::new());
    let base = lab.base(entries);
    for calls in 0..8 {
        let fail = Trouble::Fail(|| Fault::Denied);
        lab.stor.script(std::iter::repeat_n(Trouble::None, calls).chain([fail]));
        let failed = repacked(lab, &base, 0.5).await;
        // What is left of the script is used up.
        for _ in 0..=calls {
            lab.stor.has(&[]).await.ok();
        }
        assert_sound(lab, &base).await;
        if let Ok((new, _)) = failed {
            assert_sound(lab, &new).await;
        }
    }
}

#[test]
fn what_is_needed_counts_once() {
    let pack = Pack { key: aysfs_flist::ObjectKey::Md5([0; 16]), bytes: 100 };
    let needed = |ranges: &[(u64, u64)]| Use { pack, ranges: ranges.to_vec() }.needed();
    assert_eq!(needed(&[]), 0);
    assert_eq!(needed(&[(10, 20), (0, 10), (0, 10)]), 20);
    assert_eq!(needed(&[(5, 50), (0, 10), (20, 30), (60, 61)]), 51);
}
