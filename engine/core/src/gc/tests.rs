use std::collections::HashSet;

use aysfs_flist::Entry;
use aysfs_store::Fault;
use aysfs_store::fault::{Gate, Trouble};
use aysfs_store::garbage::{Garbage, Rescuing, Version};
use proptest::prelude::*;

use super::*;
use crate::testing::{Lab, long_ago, noise, small};

const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const AT_ONCE: Duration = Duration::ZERO;

fn namespace() -> Namespace {
    "test".parse().expect("a namespace")
}

impl Lab {
    async fn collect(&self, lists: &[&[Entry]], grace: Duration, mode: Mode) -> Result<Summary, GcError> {
        let mut collection = Collection::begin(self.stor.clone(), &namespace(), mode).await?;
        let collect = async {
            for list in lists {
                collection.mark("test.flist", &self.base(list), &self.stors()).await?;
            }
            collection.sweep(grace).await
        };
        let collected = collect.await;
        collection.end().await;
        collected
    }

    async fn garbage(&self) -> Version {
        let name = garbage::name(&namespace()).expect("short");
        Version::read(&*self.objects, &name).await.expect("read")
    }

    async fn set_garbage(&self, change: impl FnOnce(&mut Garbage)) {
        let (version, name) = (self.garbage().await, garbage::name(&namespace()).expect("short"));
        let mut garbage = version.garbage.clone();
        change(&mut garbage);
        version.replace(&*self.objects, &name, garbage).await.expect("replaced");
    }

    /// As if a grace time had passed since the last collection.
    async fn wait(&self) {
        self.set_garbage(|garbage| {
            garbage.candidates.values_mut().for_each(|since| *since -= GRACE.as_secs());
        })
        .await;
    }

    fn has(&self, key: &Key) -> bool {
        self.objects.keys().contains(key)
    }
}

/// A list with two packs, one of which only a chunk table names, and a pack that no list names.
struct Stor {
    lab: Lab,
    list: Vec<Entry>,
    named: Vec<Key>,
    dead: Key,
}

impl Stor {
    fn new() -> Self {
        let lab = Lab::new();
        let (one, two, three) =
            (lab.pack(&[noise(1, 100)]), lab.pack(&[noise(2, 100)]), lab.pack(&[noise(3, 100)]));
        let mut list = vec![small("a", &one[0]), lab.object("b", b"an object")];
        list.extend(lab.large(&[("c", vec![two[0].clone()])]));
        let dead = three[0].key.clone();
        let named = lab.objects.keys().into_iter().filter(|key| *key != dead).collect();
        Self { lab, list, named, dead }
    }

    fn assert_named(&self) {
        for key in &self.named {
            assert!(self.lab.has(key), "{key} was deleted");
        }
    }
}

#[tokio::test]
async fn garbage_is_deleted_by_the_second_collection_a_grace_time_later() {
    let Stor { lab, list, dead, .. } = &Stor::new();
    let size = lab.bytes(dead).len() as u64;
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!((summary.deleted.objects, summary.waiting), (0, Amount { objects: 1, bytes: size }));
    assert_eq!(summary.named.objects, 4);
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!((summary.deleted.objects, summary.waiting.objects), (0, 1), "at once it is not old enough");
    assert!(lab.has(dead));
    lab.wait().await;
    let dry = lab.collect(&[list], GRACE, Mode::DryRun).await.expect("collected");
    assert!(lab.has(dead));
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!(summary.deleted, Amount { objects: 1, bytes: size });
    assert_eq!(dry, summary);
    assert!(!lab.has(dead));
    assert_eq!(lab.objects.keys().len(), 4, "nothing is left of the collections");
    assert_eq!(lab.garbage().await.garbage, Garbage::default());
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let Stor { lab, list, .. } = &Stor::new();
    let before = lab.objects.keys();
    let summary = lab.collect(&[list], AT_ONCE, Mode::DryRun).await.expect("collected");
    assert_eq!((summary.deleted.objects, summary.named.objects), (1, 4));
    assert_eq!(lab.objects.keys(), before);
    assert_eq!(lab.garbage().await.garbage, Garbage::default());
}

#[tokio::test]
async fn what_is_young_is_not_even_a_candidate() {
    let Stor { lab, list, dead, .. } = &Stor::new();
    lab.objects.insert(dead.clone(), "put just now");
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!((summary.young.objects, summary.waiting.objects), (1, 0));
    lab.collect(&[list], AT_ONCE, Mode::Delete).await.expect("collected");
    assert!(!lab.has(dead));
}

#[tokio::test]
async fn what_is_named_again_is_no_candidate_any_more() {
    let stor = Stor::new();
    let Stor { lab, list, .. } = &stor;
    lab.collect(&[&list[..2]], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!(lab.garbage().await.garbage.candidates.len(), 3);
    lab.wait().await;
    lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    stor.assert_named();
    lab.collect(&[&list[..2]], GRACE, Mode::Delete).await.expect("collected");
    stor.assert_named();
}

#[tokio::test]
async fn what_a_writer_relies_on_is_struck_off() {
    let Stor { lab, list, dead, .. } = &Stor::new();
    lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    lab.wait().await;
    let writer = Rescuing::around(lab.stor.clone(), &namespace());
    assert_eq!(writer.has(std::slice::from_ref(dead)).await.expect("asked"), [true]);
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!((summary.deleted.objects, summary.waiting.objects), (0, 1), "it has the grace time again");
    assert!(lab.has(dead));
}

/// A writer that comes at any moment of a collection either keeps an object, or learns that it is not there.
#[tokio::test(start_paused = true)]
async fn a_writer_at_any_moment_is_told_the_truth() {
    let mut told = HashSet::new();
    for calls in 0.. {
        let Stor { lab, list, dead, .. } = &Stor::new();
        lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
        lab.wait().await;
        // The collection stops before one of its calls, and the writer looks meanwhile.
        let gate = Gate::default();
        lab.stor.script(std::iter::repeat_n(Trouble::None, calls).chain([Trouble::Wait(gate.clone())]));
        let writer = Rescuing::around(lab.objects.clone(), &namespace());
        let lists: [&[Entry]; 1] = [list];
        let mut collecting = std::pin::pin!(lab.collect(&lists, GRACE, Mode::Delete));
        tokio::select! {
            ended = &mut collecting => {
                ended.expect("collected");
                assert_eq!(told.len(), 2, "both answers were seen");
                return;
            }
            () = gate.reached_by(1) => {}
        }
        let open = async {
            tokio::task::yield_now().await;
            gate.open();
        };
        let (there, (), collected) = futures::join!(writer.has(std::slice::from_ref(dead)), open, collecting);
        collected.expect("collected");
        let there = there.expect("answered")[0];
        assert_eq!(lab.has(dead), there, "{calls}");
        told.insert(there);
    }
}

#[tokio::test]
async fn without_a_list_nothing_happens() {
    let Stor { lab, .. } = &Stor::new();
    let error = lab.collect(&[], AT_ONCE, Mode::Delete).await.expect_err("everything would go");
    assert!(matches!(error, GcError::NothingNamed), "{error}");
    assert_eq!(lab.objects.keys().len(), 5);
}

#[tokio::test]
async fn a_list_that_names_nothing_is_none_unless_it_is_the_published_one() {
    let Stor { lab, list, .. } = &Stor::new();
    let cut = lab.read(b"# aysfs-flist 2\n");
    for with in [vec![], vec![&list[..]]] {
        let mut collection =
            Collection::begin(lab.stor.clone(), &namespace(), Mode::Delete).await.expect("begun");
        for list in with {
            collection.mark("test.flist", &lab.base(list), &lab.stors()).await.expect("marked");
        }
        let error = collection.mark("cut.flist", &cut, &lab.stors()).await.expect_err("it may be cut short");
        assert!(error.to_string().starts_with("the flist cut.flist names no object: "), "{error}");
        collection.end().await;
    }
    assert_eq!(lab.objects.keys().len(), 5);
    let mut collection =
        Collection::begin(lab.stor.clone(), &namespace(), Mode::Delete).await.expect("begun");
    collection.mark_published("static/test.flist", &cut, &lab.stors()).await.expect("it is meant");
    assert_eq!(collection.sweep(AT_ONCE).await.expect("swept").deleted.objects, 5);
    collection.end().await;
}

#[tokio::test]
async fn a_list_of_another_stor_ends_it() {
    let (Stor { lab, list, .. }, other) = (&Stor::new(), Lab::new());
    let foreign = [other.object("f", b"elsewhere")];
    let error = lab.collect(&[list, &foreign], AT_ONCE, Mode::Delete).await.expect_err("not of this stor");
    assert!(matches!(error, GcError::Elsewhere { .. }), "{error}");
    assert_eq!(lab.objects.keys().len(), 5);
}

#[tokio::test]
async fn a_table_that_cannot_be_read_ends_it() {
    let stor = Stor::new();
    let Some(aysfs_flist::Content::Chunks { table, .. }) = stor.list[2].content else { panic!("large") };
    let tables = crate::listed::key(table.at.pack);
    stor.lab.change(&tables, |bytes| bytes[5] ^= 1);
    let error = stor.lab.collect(&[&stor.list], AT_ONCE, Mode::Delete).await.expect_err("not certain");
    assert!(matches!(&error, GcError::Table { path, .. } if path == "/c"), "{error}");
    stor.lab.objects.delete(&tables).await.expect("deleted");
    stor.lab.collect(&[&stor.list], AT_ONCE, Mode::Delete).await.expect_err("not certain");
    assert!(stor.lab.has(&stor.dead));
}

#[tokio::test]
async fn a_listing_that_fails_ends_it() {
    let Stor { lab, list, .. } = &Stor::new();
    for calls in 0..10 {
        let fail = Trouble::Fail(|| Fault::Protocol("no".into()));
        lab.stor.script(std::iter::repeat_n(Trouble::None, calls).chain([fail]));
        lab.collect(&[list], AT_ONCE, Mode::Delete).await.ok();
        let left = lab.objects.keys().len();
        lab.stor.script([]);
        assert!(left >= 4, "{calls}");
    }
}

#[tokio::test]
async fn who_may_not_delete_dooms_nothing_for_good() {
    let Stor { lab, list, dead, .. } = &Stor::new();
    lab.stor.set_for(dead, Trouble::Fail(|| Fault::Denied));
    let error = lab.collect(&[list], AT_ONCE, Mode::Delete).await.expect_err("denied");
    assert!(matches!(&error, GcError::Store(error) if matches!(error.fault, Fault::Denied)), "{error}");
    let left = lab.garbage().await.garbage;
    assert!(left.doomed.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_may_be_under_way_stays_doomed_whatever_else_was_denied() {
    for order in 0..2 {
        let Stor { lab, list, dead, .. } = &Stor::new();
        let more = lab.pack(&[noise(4, 100)])[0].key.clone();
        let keys = if order == 0 { [dead, &more] } else { [&more, dead] };
        lab.stor.set_for(keys[0], Trouble::Fail(|| Fault::Denied));
        lab.stor.set_for(keys[1], Trouble::Fail(|| Fault::Silent(Duration::from_secs(1))));
        let error = lab.collect(&[list], AT_ONCE, Mode::Delete).await.expect_err("neither is deleted");
        assert!(
            matches!(&error, GcError::Store(error) if matches!(error.fault, Fault::Silent(_))),
            "{error}"
        );
        assert!(lab.garbage().await.garbage.doomed.contains(keys[1]), "who wants it waits");
    }
}

#[tokio::test]
async fn what_was_interrupted_is_finished_an_hour_later() {
    let Stor { lab, list, dead, .. } = &Stor::new();
    let now = seconds(SystemTime::now());
    let doom = |since: u64| {
        move |garbage: &mut Garbage| {
            *garbage = Garbage::default();
            garbage.doomed = HashSet::from([dead.clone()]);
            garbage.doomed_since = since;
        }
    };
    lab.set_garbage(doom(now - 60)).await;
    let error = lab.collect(&[list], GRACE, Mode::Delete).await.expect_err("it may still be at work");
    assert!(matches!(error, GcError::Busy), "{error}");
    lab.set_garbage(doom(now - 3700)).await;
    let summary = lab.collect(&[list], GRACE, Mode::Delete).await.expect("collected");
    assert_eq!(summary.deleted.objects, 1);
    assert_eq!(lab.garbage().await.garbage, Garbage::default());
}

#[tokio::test]
async fn many_objects_go_in_batches() {
    let Stor { lab, list, .. } = &Stor::new();
    for byte in 0..1200_u32 {
        let key = Key::sha256(Sha256::digest(byte.to_le_bytes()).into());
        lab.objects.insert_at(key, "dead", long_ago());
    }
    let summary = lab.collect(&[list], AT_ONCE, Mode::Delete).await.expect("collected");
    assert_eq!(summary.deleted.objects, 1201);
    assert_eq!(lab.objects.keys().len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the lists are, and however they change: what one of them names stays, and what none names goes.
    #[test]
    fn what_a_list_names_is_never_deleted(
        rounds in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..8_usize, 1..4), 1..4), 1..4),
        large in 0..8_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let lab = Lab::new();
            let packs: Vec<_> = (0..8).map(|seed| lab.pack(&[noise(seed, 60), noise(seed + 100, 60)])).collect();
            let mut gone = HashSet::new();
            for lists in rounds {
                // A list cannot name what is gone.
                let lists: Vec<Vec<usize>> = lists.into_iter()
                    .map(|list| list.into_iter().filter(|pack| !gone.contains(pack)).collect::<Vec<_>>())
                    .filter(|list| !list.is_empty())
                    .collect();
                if lists.is_empty() {
                    continue;
                }
                let entries: Vec<Vec<Entry>> = lists.iter().map(|list| {
                    let mut list = list.clone();
                    list.sort_unstable();
                    list.dedup();
                    list.iter().flat_map(|pack| {
                        let name = format!("f{pack}");
                        if *pack == large {
                            lab.large(&[(&name, vec![packs[*pack][1].clone()])])
                        } else {
                            vec![small(&name, &packs[*pack][0])]
                        }
                    }).collect()
                }).collect();
                let entries: Vec<&[Entry]> = entries.iter().map(Vec::as_slice).collect();
                lab.collect(&entries, AT_ONCE, Mode::Delete).await.expect("collected");
                let named: HashSet<usize> = lists.into_iter().flatten().collect();
                for (number, pack) in packs.iter().enumerate() {
                    assert_eq!(lab.has(&pack[0].key), named.contains(&number), "pack {number}");
                }
                gone.extend((0..8).filter(|pack| !named.contains(pack)));
            }
        });
    }
}
