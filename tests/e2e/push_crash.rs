//! A pusher that is killed at random moments, with a stor that fails a fifth of all calls, loses nothing and leaves nothing half
//! made: in the end the published list is the tree.
//!
//! The number of kills is `AYSFS_PUSH_KILLS`, the seed `AYSFS_PUSH_SEED`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::{env, iter};

use aysfs_flist::{Content, Flist, Kind, ParseOptions, Source};
use fastrand::Rng;
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::compare::{Fidelity, assert_same};
use crate::push::Writable;
use crate::support::{Faulty, LIBS, Lab, Mounted};
use crate::tree;

/// How often it is killed if nobody says.
const KILLS: usize = 12;

/// The share of calls that fail.
const SHARE: f64 = 0.2;

/// How many names there are.
const NAMES: usize = 24;

/// What must be there.
#[derive(Default)]
struct Model {
    files: BTreeMap<String, Vec<u8>>,
    /// Digests of all contents that any file had at a time when nobody wrote to it.
    ever: BTreeSet<[u8; 32]>,
}

impl Model {
    fn note(&mut self, name: String, content: Vec<u8>) {
        self.ever.insert(Sha256::digest(&content).into());
        self.files.insert(name, content);
    }

    /// Changes something on the mount.
    fn change(&mut self, point: &Path, rng: &mut Rng) {
        let name = |rng: &mut Rng| format!("d{}/f{}", rng.usize(..3), rng.usize(..NAMES));
        let content = |rng: &mut Rng| {
            let length = if rng.u8(..10) == 0 { rng.usize(..3 << 20) } else { rng.usize(1..20_000) };
            tree::noise(rng.u64(..), length)
        };
        let one = name(rng);
        match rng.u8(..10) {
            0..5 => {
                let content = content(rng);
                fs::write(point.join(&one), &content).expect("written");
                self.note(one, content);
            }
            5..7 if self.files.contains_key(&one) => {
                let more = content(rng);
                let mut file = OpenOptions::new().append(true).open(point.join(&one)).expect("opened");
                file.write_all(&more).expect("written");
                let content = [&self.files[&one][..], &more].concat();
                self.note(one, content);
            }
            7..9 if self.files.contains_key(&one) => {
                let other = name(rng);
                fs::rename(point.join(&one), point.join(&other)).expect("renamed");
                let content = self.files.remove(&one).expect("it is there");
                self.files.insert(other, content);
            }
            _ if self.files.remove(&one).is_some() => {
                fs::remove_file(point.join(&one)).expect("removed");
            }
            _ => {}
        }
    }

    fn assert_shown(&self, point: &Path) {
        let mut shown = BTreeMap::new();
        for entry in WalkDir::new(point) {
            let entry = entry.expect("readable");
            if entry.file_type().is_file() {
                let path =
                    entry.path().strip_prefix(point).expect("below it").to_str().expect("a name of ours");
                shown.insert(path.to_owned(), fs::read(entry.path()).expect("readable"));
            }
        }
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&shown), names(&self.files));
        for (name, content) in &self.files {
            assert!(shown[name] == *content, "{name} is not what it was");
        }
    }
}

#[test]
fn kills_of_the_pusher_lose_nothing_and_the_list_ends_as_the_tree() {
    let number = |name| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let kills = number("AYSFS_PUSH_KILLS").map_or(KILLS, |kills| usize::try_from(kills).expect("a few"));
    let seed = number("AYSFS_PUSH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("AYSFS_PUSH_SEED={seed}");
    let mut rng = Rng::with_seed(seed);

    let lab = Lab::new();
    let root = lab.dir("stor");
    let faulty = Faulty::start(&root);
    faulty.fail_sometimes(seed, SHARE);
    let start = |lib: &str| Writable::start(&lab, &faulty.url(), "@every 20ms", &format!("lib = {lib:?}\n"));
    let mut model = Model::default();
    for (number, lib) in (0..kills).zip(iter::repeat(LIBS).flatten()) {
        let mut writable = start(lib);
        for directory in 0..3 {
            fs::create_dir_all(writable.point.join(format!("d{directory}"))).expect("made");
        }
        model.assert_shown(&writable.point);
        for _ in 0..rng.usize(1..12) {
            model.change(&writable.point, &mut rng);
            thread::sleep(Duration::from_micros(rng.u64(..8000)));
        }
        if rng.bool() {
            thread::sleep(Duration::from_millis(rng.u64(..150)));
        }
        writable.daemon.signal(Signal::KILL);
        assert!(!writable.daemon.wait().success(), "kill {number}");
    }

    // In the end, without trouble.
    let writable = start(LIBS[0]);
    model.assert_shown(&writable.point);
    faulty.fail_sometimes(seed, 0.0);
    let pushed = writable.push();
    assert_eq!(pushed["waiting"], 0, "{pushed}");
    let again = writable.push();
    assert_eq!((&again["files"], &again["published"]), (&0.into(), &false.into()), "{again}");

    let elsewhere = Lab::new();
    let list = root.join(".static/test.flist");
    let mounted = Mounted::new(&elsewhere, &list, &faulty.direct());
    assert_same(&writable.point, &mounted.point, Fidelity::Settable);
    model.assert_shown(&mounted.point);
    mounted.stop();
    writable.stop();

    // Every object is named by the list, or was noted as about to be sent. What the list names is a whole content that a file had.
    let published = Flist::parse(Source::File(&list), &ParseOptions::default()).expect("a good list");
    let mut files = 0;
    for entry in published.entries.iter().filter(|entry| entry.kind == Kind::Regular && entry.size > 0) {
        files += 1;
        let Some(Content::Pack { sha256, .. } | Content::Chunks { sha256, .. }) = entry.content else {
            panic!("{entry:?} is not in packs");
        };
        assert!(model.ever.contains(&sha256), "{entry:?} is no content that a file ever had");
    }
    let named: BTreeSet<String> = published.header.packs.iter().map(|pack| pack.key.to_string()).collect();
    let journal = fs::read_dir(lab.path("backend/push")).expect("there").next().expect("one mount");
    let journal = fs::read_to_string(journal.expect("listed").path().join("journal")).expect("readable");
    let mut objects = 0;
    for entry in WalkDir::new(root.join("test")) {
        let entry = entry.expect("readable");
        if !entry.file_type().is_file() {
            continue;
        }
        objects += 1;
        let key = entry.file_name().to_str().expect("hex digits");
        let is_noted = named.contains(key) || journal.lines().any(|line| line.starts_with(key));
        assert!(is_noted, "{key} is in neither the list nor the journal");
    }
    assert!(objects >= named.len(), "{objects} objects");
    assert_eq!(files, model.files.values().filter(|content| !content.is_empty()).count());
}
