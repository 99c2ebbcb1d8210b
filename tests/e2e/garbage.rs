//! `aysfs fsck`, `gc` and `repack`: the real command with the real stor.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::compare::{Fidelity, assert_same};
use crate::support::{LIBS, Lab, Mounted, Stor, pack, run, run_ok};

/// Files of noise: packs and objects of a size that says what is in them.
fn tree(dir: &Path, files: std::ops::Range<u64>) {
    fs::create_dir_all(dir).expect("a directory");
    for number in files {
        let mut random = fastrand::Rng::with_seed(number);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000).collect();
        fs::write(dir.join(format!("file{number}")), content).expect("written");
    }
}

fn list(lab: &Lab, source: &Path, url: &str, name: &str) -> PathBuf {
    let packed = pack(lab, source, url, "v2");
    let path = lab.path(name);
    fs::rename(packed, &path).expect("renamed");
    path
}

fn with_stor<'a>(command: &'a str, url: &'a str, more: &[&'a OsStr]) -> Vec<&'a OsStr> {
    let stor = [command, "--json", "--namespace", "test", "--stor", url].map(OsStr::new);
    stor.into_iter().chain(more.iter().copied()).collect()
}

#[track_caller]
fn json(args: Vec<&OsStr>) -> Value {
    let said = run_ok(args);
    serde_json::from_str(said.lines().last().expect("a result")).expect("JSON")
}

/// Where the stor keeps its objects.
fn stored(root: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(root.join("test")).into_iter().map(|entry| entry.expect("listed"));
    files.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

const ACCOUNTS: [&str; 4] = ["--account", "all:secret:rwd", "--account", "writer:secret:rw"];

fn url_of(stor: &Stor, account: &str) -> String {
    format!("http://{account}:secret@{}/", stor.address)
}

#[test]
fn garbage_goes_and_everything_else_stays() {
    let lab = Lab::new();
    let (old, new, root) = (lab.path("old"), lab.path("new"), lab.dir("stor"));
    tree(&old, 0..40);
    tree(&new, 35..60);
    let stor = Stor::start_with(&root, &ACCOUNTS);
    let url = url_of(&stor, "all");
    let (old_list, new_list) = (list(&lab, &old, &url, "old.flist"), list(&lab, &new, &url, "new.flist"));
    let before = stored(&root).len();

    // Both are in use.
    let both = [old_list.as_os_str(), new_list.as_os_str(), "--grace".as_ref(), "0s".as_ref()];
    assert_eq!(json(with_stor("gc", &url, &both))["deleted"]["objects"], 0);
    assert_eq!(stored(&root).len(), before);
    // By default, what was put just now stays.
    assert_eq!(json(with_stor("gc", &url, &[new_list.as_os_str()]))["deleted"]["objects"], 0);
    assert_eq!(stored(&root).len(), before);
    let only_new = [new_list.as_os_str(), "--grace".as_ref(), "0s".as_ref()];
    let dry = json(with_stor("gc", &url, &[&only_new[..], &["--dry-run".as_ref()]].concat()));
    assert_eq!(stored(&root).len(), before);
    // Who may not delete, does not.
    let writer = url_of(&stor, "writer");
    let refused = run(with_stor("gc", &writer, &only_new));
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(stored(&root).len() - before, 1, "what marked the beginning");

    let done = json(with_stor("gc", &url, &only_new));
    assert_eq!(done["named"], dry["named"]);
    let number = |value: &Value| value["objects"].as_u64().expect("a number");
    assert!(
        number(&done["deleted"]) > number(&dry["deleted"]) && number(&dry["deleted"]) > 0,
        "{done} {dry}"
    );
    assert_eq!(stored(&root).len() as u64, number(&done["named"]));
    let checked = json(with_stor("fsck", &url, &["--full".as_ref(), new_list.as_os_str()]));
    assert_eq!((&checked["problems"], &checked["files"]), (&Value::from(0), &Value::from(25)));
    let gone = run(with_stor("fsck", &url, &[old_list.as_os_str()]));
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stdout).contains("it is not in the stor"));

    // What was deleted can be packed again.
    let again = list(&lab, &old, &url, "again.flist");
    let checked = json(with_stor("fsck", &url, &["--sample".as_ref(), "100".as_ref(), again.as_os_str()]));
    assert_eq!(checked["problems"], 0);
    assert_eq!(checked["verified"], checked["chunks"]);
}

#[test]
fn what_is_packed_again_before_the_second_collection_stays() {
    let lab = Lab::new();
    let (source, other, root) = (lab.path("source"), lab.path("other"), lab.dir("stor"));
    tree(&source, 0..10);
    tree(&other, 10..12);
    let stor = Stor::start_with(&root, &ACCOUNTS);
    let url = url_of(&stor, "all");
    let lists = (list(&lab, &source, &url, "list"), list(&lab, &other, &url, "other.flist"));
    // As if all that is there had been put long ago.
    let age = |lists: &Path| {
        let since = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000_000);
        for path in stored(&root) {
            fs::File::open(path).expect("opened").set_modified(since).expect("set");
        }
        if lists.exists() {
            let text = fs::read_to_string(lists).expect("text");
            let lines = text.lines().map(|line| match line.split_once(' ') {
                Some((key, _)) if key != "#" => format!("{key} 1000\n"),
                _ => format!("{line}\n"),
            });
            fs::write(lists, lines.collect::<String>()).expect("written");
        }
    };
    let named = |name: &str| {
        let find = walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.expect("listed").into_path());
        find.into_iter().find(|path| path.file_name() == Some(name.as_ref()))
    };
    age(Path::new(""));
    let found = json(with_stor("gc", &url, &[lists.1.as_os_str()]));
    let waiting = found["waiting"]["objects"].as_u64().expect("a number");
    assert!(waiting > 0 && found["deleted"]["objects"] == 0, "{found}");
    let candidates = named("test.gc").expect("noted");
    age(&candidates);
    let before = stored(&root).len();
    let again = list(&lab, &source, &url, "again");
    assert_eq!(stored(&root).len(), before, "nothing had to be sent");
    let found = json(with_stor("gc", &url, &[lists.1.as_os_str()]));
    assert_eq!(found["deleted"]["objects"], 0, "it was struck off when it was packed again");
    assert_eq!(json(with_stor("fsck", &url, &["--full".as_ref(), again.as_os_str()]))["problems"], 0);
    // Nobody needs it after all.
    age(&candidates);
    let found = json(with_stor("gc", &url, &[lists.1.as_os_str()]));
    assert_eq!(found["deleted"]["objects"], waiting);
}

#[test]
fn a_repacked_list_shows_the_same_and_the_old_packs_go() {
    let lab = Lab::new();
    let (source, root) = (lab.path("source"), lab.dir("stor"));
    tree(&source, 0..50);
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(source.join("large"), &large).expect("written");
    let stor = Stor::start_with(&root, &ACCOUNTS);
    let url = url_of(&stor, "all");
    let first = list(&lab, &source, &url, "first.flist");
    // A list on top of it that needs little of its packs.
    let mounted = Mounted::with(&lab, &first, &url, &["--mode", "OL", "--lib", LIBS[0]]);
    for number in 5..50 {
        fs::remove_file(mounted.point.join(format!("file{number}"))).expect("removed");
    }
    fs::write(mounted.point.join("new"), "new").expect("written");
    let second = lab.path("second.flist");
    run_ok(["commit".as_ref(), mounted.point.as_os_str(), "-o".as_ref(), second.as_os_str()]);
    mounted.stop();
    fs::remove_dir_all(lab.path("cache")).expect("removed");

    let third = lab.path("third.flist");
    let to = [second.as_os_str(), "-o".as_ref(), third.as_os_str(), "--below".as_ref(), "100%".as_ref()];
    let dry = json(with_stor("repack", &url, &[&to[..], &["--dry-run".as_ref()]].concat()));
    assert!(!third.exists());
    let done = json(with_stor("repack", &url, &to));
    assert_eq!(done["left"], dry["left"]);
    assert!(
        done["left"].as_u64() > Some(0) && done["new_bytes"].as_u64() < done["left_bytes"].as_u64(),
        "{done}"
    );
    for list in [&second, &third] {
        assert_eq!(json(with_stor("fsck", &url, &["--full".as_ref(), list.as_os_str()]))["problems"], 0);
    }
    let gone = json(with_stor("gc", &url, &[third.as_os_str(), "--grace".as_ref(), "0s".as_ref()]));
    assert!(gone["deleted"]["objects"].as_u64() > Some(0), "{gone}");

    for number in 5..50 {
        fs::remove_file(source.join(format!("file{number}"))).expect("removed");
    }
    fs::write(source.join("new"), "new").expect("written");
    let mounted = Mounted::new(&lab, &third, &url);
    assert_same(&source, &mounted.point, Fidelity::Content);
    mounted.stop();
}

#[test]
fn what_makes_the_marking_incomplete_ends_it() {
    let lab = Lab::new();
    let (source, root) = (lab.path("source"), lab.dir("stor"));
    tree(&source, 0..5);
    let stor = Stor::start_with(&root, &ACCOUNTS);
    let url = url_of(&stor, "all");
    let flist = list(&lab, &source, &url, "list");
    let key = lab.path("key");
    run_ok(["keygen".as_ref(), key.as_os_str()]);
    let secret = lab.path("secret.flist");
    let args = ["pack", "--stor", &url, "--namespace", "test", "--encrypt-for"].map(OsStr::new);
    run_ok(args.into_iter().chain([key.as_os_str(), source.as_os_str(), "-o".as_ref(), secret.as_os_str()]));
    let before = stored(&root);
    let at_once = ["--grace", "0s"].map(OsStr::new);
    for (wrong, expected) in [
        (lab.path("missing"), "missing"),
        (lab.file("bad", "# aysfs-flist 2\nnonsense\n"), "bad"),
        (lab.file("cut", "# aysfs-flist 2"), "cut short"),
        (lab.file("empty", "# aysfs-flist 2\n"), "names no object"),
        (secret.clone(), "is encrypted"),
    ] {
        let lists = [flist.as_os_str(), wrong.as_os_str()];
        let ended = run(with_stor("gc", &url, &[&lists[..], &at_once].concat()));
        assert!(!ended.status.success(), "{expected}");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains(expected) && !said.contains("secret@"), "{said}");
        assert_eq!(stored(&root), before, "{expected}");
    }
    assert_eq!(run(with_stor("gc", &url, &at_once)).status.code(), Some(2), "no list");
    let unpublished = run(with_stor("gc", &url, &[&["--published".as_ref()], &at_once[..]].concat()));
    assert_eq!(unpublished.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unpublished.stderr).into_owned();
    assert!(said.contains("has no static/test.flist"), "{said}");
    let other = run(["gc", "--stor", &url, "--namespace", "other", "--grace", "0s"]
        .map(OsStr::new)
        .into_iter()
        .chain([flist.as_os_str()]));
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(stored(&root), before);
    let lists = [flist.as_os_str(), secret.as_os_str(), "--key".as_ref(), key.as_os_str()];
    assert_eq!(json(with_stor("gc", &url, &[&lists[..], &at_once].concat()))["deleted"]["objects"], 0);
    let checked = json(with_stor(
        "fsck",
        &url,
        &["--full".as_ref(), "--key".as_ref(), key.as_os_str(), secret.as_os_str()],
    ));
    assert_eq!(checked["problems"], 0);
}
