//! Encrypted flists and objects: recipients see the tree, the stor and everybody else see nothing of it.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Daemon, LIBS, Lab, Mounted, Stor, run, run_ok};
use crate::tree;

/// In the content of files, and in their names.
pub(crate) const CONTENT: &str = "content-that-nobody-may-see";
pub(crate) const NAME: &str = "name-that-nobody-may-see";

/// Makes a key pair; returns the private key.
pub(crate) fn keygen(lab: &Lab, name: &str) -> PathBuf {
    let file = lab.path(name);
    run_ok(["keygen".as_ref(), file.as_os_str()]);
    file
}

pub(crate) fn public(key: &Path) -> PathBuf {
    let mut path = key.as_os_str().to_owned();
    path.push(".pub");
    path.into()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a test path")
}

/// A tree with what nobody may see.
fn source(lab: &Lab) -> PathBuf {
    let source = lab.path("source");
    tree::odd(&source);
    fs::write(source.join(NAME), CONTENT).expect("written");
    fs::write(source.join("long"), CONTENT.repeat(100_000)).expect("written");
    source
}

/// Packs for some recipients; returns the flist, and how many objects were new.
fn pack(lab: &Lab, tree: &Path, stor: &str, name: &str, more: &[&str]) -> (PathBuf, u64) {
    let flist = lab.path(name);
    let args = ["pack", text(tree), "-o", text(&flist), "--stor", stor, "--namespace", "test", "--json"];
    let said = run_ok(args.iter().chain(more));
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    (flist, said["new_objects"].as_u64().expect("a number"))
}

fn pack_for(lab: &Lab, tree: &Path, stor: &str, key: &Path) -> PathBuf {
    pack(lab, tree, stor, "sealed.flist", &["--encrypt-for", text(&public(key))]).0
}

/// Neither names nor content below `path` hold anything that nobody may see.
#[track_caller]
pub(crate) fn assert_nothing_shows(path: &Path) {
    let mut files = 0;
    for entry in WalkDir::new(path) {
        let entry = entry.expect("readable");
        let mut bytes = entry.file_name().as_bytes().to_vec();
        if entry.file_type().is_file() {
            files += 1;
            bytes.extend(fs::read(entry.path()).expect("readable"));
        }
        for secret in [CONTENT, NAME] {
            let shows = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!shows, "{secret} shows in {}", entry.path().display());
        }
    }
    assert!(files > 0, "there is nothing below {}", path.display());
}

/// The command fails, with one line that holds all of `texts`.
#[track_caller]
fn assert_refused(args: &[&str], texts: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for text in texts {
        assert!(said.contains(text), "{said}");
    }
}

fn mount_args<'a>(flist: &'a Path, point: &'a Path, cache: &'a Path, stor: &'a str) -> Vec<&'a str> {
    vec!["mount", text(flist), text(point), "--cache", text(cache), "--namespace", "test", "--stor", stor]
}

#[test]
fn recipients_see_the_tree_and_the_stor_does_not() {
    let lab = Lab::new();
    let source = source(&lab);
    let (user, operator) = (keygen(&lab, "user.pem"), keygen(&lab, "operator.pem"));
    let root = lab.dir("stor");
    let stor = Stor::start(&root);
    let more = ["--encrypt-for", text(&user), "--encrypt-for", &format!("{}.pub", text(&operator))];
    let (flist, _) = pack(&lab, &source, &stor.url(), "sealed.flist", &more);
    assert_nothing_shows(&root);
    assert_nothing_shows(&flist);

    for lib in LIBS {
        // Not every library shows where holes are.
        let (key, fidelity) =
            if lib == LIBS[0] { (&operator, Fidelity::Everything) } else { (&user, Fidelity::Seconds) };
        let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--key", text(key), "--lib", lib]);
        assert_same(&source, &mounted.point, fidelity);
        mounted.stop();
        fs::remove_dir_all(lab.path("cache")).expect("removed");
    }
    let copy = lab.path("copy");
    let args = ["unpack", text(&flist), text(&copy), "--stor", &stor.url(), "--namespace", "test"];
    run_ok(args.iter().chain(&["--key", text(&user)]));
    assert_same(&source, &copy, Fidelity::Settable);

    assert!(run_ok(["flist", "check", text(&flist), "--key", text(&user)]).contains("fine (v2"));
    assert!(run_ok(["flist", "show", text(&flist), "--key", text(&user)]).contains(NAME));
}

#[test]
fn without_the_key_there_is_one_clear_error() {
    let lab = Lab::new();
    let source = source(&lab);
    let (user, other) = (keygen(&lab, "user.pem"), keygen(&lab, "other.pem"));
    let stor = format!("file://{}", lab.dir("stor").display());
    let flist = pack_for(&lab, &source, &stor, &user);
    let (point, cache, copy) = (lab.dir("mnt"), lab.path("cache"), lab.path("copy"));
    let mount = mount_args(&flist, &point, &cache, &stor);
    let unpack = vec!["unpack", text(&flist), text(&copy), "--stor", &stor, "--namespace", "test"];
    let (check, show) = (vec!["flist", "check", text(&flist)], vec!["flist", "show", text(&flist)]);
    for args in [mount, unpack, check, show] {
        assert_refused(&args, &["is encrypted", "--key", "user_rsa"]);
        let others = [&args[..], &["--key", text(&other)]].concat();
        assert_refused(&others, &["was not encrypted for this key"]);
        let public = public(&user);
        let only_public = [&args[..], &["--key", text(&public)]].concat();
        assert_refused(&only_public, &["holds a public key"]);
    }
    assert!(!copy.join(NAME).exists());
    // What the backend remembers of the failure tells nothing either.
    fs::write(lab.path("cache/made"), "").expect("the backend was made");
    assert_nothing_shows(&cache);

    // A list that was changed is no list.
    let mut bytes = fs::read(&flist).expect("a flist");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&flist, bytes).expect("written");
    assert_refused(
        &["flist", "check", text(&flist), "--key", text(&user)],
        &["it was changed or cut after it was encrypted"],
    );
}

#[test]
fn objects_that_were_changed_or_swapped_are_an_io_error() {
    let lab = Lab::new();
    let source = lab.dir("source");
    for name in ["one", "two"] {
        // Alike in everything but their content.
        fs::write(source.join(name), format!("{CONTENT} {name}")).expect("written");
    }
    let key = keygen(&lab, "user.pem");
    let root = lab.dir("stor");
    let stor = format!("file://{}", root.display());
    let flist = pack_for(&lab, &source, &stor, &key);
    let files = WalkDir::new(&root).into_iter().map(|entry| entry.expect("readable"));
    let objects: Vec<_> =
        files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.path().to_owned()).collect();
    assert_eq!(objects.len(), 1, "one pack");
    let pack = fs::read(&objects[0]).expect("a pack");
    let (one, two) = pack.split_at(pack.len() / 2);
    assert_eq!((one[0], two[0]), (128, 128), "two chunks of one length");
    let mut changed = pack.clone();
    changed[pack.len() - 1] ^= 1;
    let mut without_mark = pack.clone();
    without_mark[0] -= 128;
    let (swapped, twice) = ([two, one].concat(), [two, two].concat());
    let short = &pack[..pack.len() - 1];
    for (bad, bad_files) in [
        (&changed[..], Some(1)),
        (&without_mark, Some(1)),
        (&twice, Some(1)),
        (&swapped, Some(2)),
        (short, None),
        (b"", Some(2)),
        (CONTENT.as_bytes(), Some(2)),
    ] {
        fs::write(&objects[0], bad).expect("written");
        let mounted = Mounted::with(&lab, &flist, &stor, &["--key", text(&key)]);
        let read = ["one", "two"].map(|name| mounted.read(name));
        let errors: Vec<_> = read.iter().filter_map(|read| read.as_ref().err()).collect();
        assert!(!errors.is_empty() && bad_files.is_none_or(|count| errors.len() == count), "{bad:?}");
        for error in errors {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        }
        mounted.stop();
        fs::remove_dir_all(lab.path("cache")).expect("removed");
    }
}

#[test]
fn one_secret_stores_equal_content_once_and_two_do_not() {
    let lab = Lab::new();
    let source = source(&lab);
    let (user, friend) = (keygen(&lab, "user.pem"), keygen(&lab, "friend.pem"));
    let stor = format!("file://{}", lab.dir("stor").display());
    let (first, all) = pack(&lab, &source, &stor, "first.flist", &["--encrypt-for", text(&user)]);
    assert!(all > 0);
    let (_, again) = pack(&lab, &source, &stor, "other.flist", &["--encrypt-for", text(&user)]);
    assert_eq!(again, all, "another secret has nothing in common with the first");

    fs::write(source.join("new"), "new").expect("written");
    let more = [
        "--secret-of",
        text(&first),
        "--key",
        text(&user),
        "--base",
        text(&first),
        "--encrypt-for",
        &format!("{}.pub", text(&friend)),
    ];
    let (second, new) = pack(&lab, &source, &stor, "second.flist", &more);
    assert_eq!(new, 1);
    for key in [&user, &friend] {
        assert!(run_ok(["flist", "show", text(&second), "--key", text(key)]).contains("/new"));
    }
    let clear = crate::support::pack(&lab, &source, &stor, "v2");
    let third = lab.path("third.flist");
    let again = ["pack", text(&source), "-o", text(&third), "--stor", &stor, "--namespace", "test"];
    let refused = |more: &[&str], texts: &[&str]| assert_refused(&[&again[..], more].concat(), texts);
    refused(&["--base", text(&first)], &["--base", "is encrypted", "--key"]);
    refused(&["--base", text(&first), "--key", text(&user)], &["another secret", "--secret-of"]);
    refused(&["--base", text(&clear), "--encrypt-for", text(&user)], &["is not encrypted"]);
    assert_refused(
        &["flist", "check", text(&first), "--key", text(&friend)],
        &["was not encrypted for this key"],
    );
}

#[test]
fn a_commit_of_an_encrypted_mount_is_encrypted_for_the_same_recipients() {
    let lab = Lab::new();
    let source = source(&lab);
    let (user, operator) = (keygen(&lab, "user.pem"), keygen(&lab, "operator.pem"));
    let root = lab.dir("stor");
    let stor = Stor::start(&root);
    let more = ["--encrypt-for", text(&user), "--encrypt-for", text(&operator)];
    let (flist, _) = pack(&lab, &source, &stor.url(), "sealed.flist", &more);
    let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--mode", "OL", "--key", text(&user)]);
    for at in [&source, &mounted.point] {
        fs::write(at.join("new"), format!("{CONTENT}, and new")).expect("written");
        fs::rename(at.join("long"), at.join(format!("{NAME}-too"))).expect("renamed");
    }
    let committed = lab.path("committed.flist");
    run_ok(["commit", text(&mounted.point), "-o", text(&committed)]);
    mounted.stop();
    assert_nothing_shows(&root);
    assert_nothing_shows(&committed);
    fs::remove_dir_all(lab.path("cache")).expect("removed");
    let mounted = Mounted::with(&lab, &committed, &stor.url(), &["--key", text(&operator)]);
    assert_same(&source, &mounted.point, Fidelity::Content);
    mounted.stop();
}

/// A config with one encrypted backend.
fn config(lab: &Lab, flist: &Path, stor: &str, user: &Path, mode: &str) -> PathBuf {
    let (point, backend) = (lab.dir("mnt"), lab.path("backend"));
    let (point, backend, flist, user) = (text(&point), text(&backend), text(flist), text(user));
    lab.file(
        "config.toml",
        format!(
            "[[mount]]\npath = {point:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = {mode:?}\n\
             [backend.main]\npath = {backend:?}\nstor = \"stor1\"\nnamespace = \"test\"\n\
             encrypted = true\nuser_rsa = {user:?}\n[stor.stor1]\nurl = {stor:?}\n"
        ),
    )
}

#[test]
fn a_config_with_encrypted_reads_what_is_and_commits_encrypted() {
    for mode in ["OL", "RW"] {
        read_and_commit_encrypted(mode);
    }
}

fn read_and_commit_encrypted(mode: &str) {
    let lab = Lab::new();
    let source = source(&lab);
    let user = keygen(&lab, "user.pem");
    let root = lab.dir("stor");
    let stor = Stor::start(&root);
    // A flist that is not encrypted, as a first step from the old to the new.
    let empty = lab.dir("empty");
    let (plain, _) = pack(&lab, &empty, &stor.url(), "plain.flist", &[]);
    // The public key suffices to write.
    let file = config(&lab, &plain, &stor.url(), &public(&user), mode);
    let mut daemon = Daemon::start(["-config", text(&file)]);
    daemon.wait_for_log("all mounts are up");
    assert!(!daemon.log().contains("without effect"), "{}", daemon.log());
    let point = lab.path("mnt");
    for name in [NAME, "long"] {
        fs::copy(source.join(name), point.join(name)).expect("copied");
    }
    let committed = lab.path("committed.flist");
    run_ok(["commit", text(&point), "-o", text(&committed)]);
    daemon.stop();
    assert_nothing_shows(&root);
    assert_nothing_shows(&committed);

    // And the private one to read.
    let file = config(&lab, &committed, &stor.url(), &public(&user), "RO");
    assert_refused(&["-l", "0", "-config", text(&file)], &["is encrypted", "user_rsa"]);
    let file = config(&lab, &committed, &stor.url(), &user, "RO");
    let mut daemon = Daemon::start(["-config", text(&file)]);
    daemon.wait_for_log("all mounts are up");
    for name in [NAME, "long"] {
        assert_eq!(
            fs::read(point.join(name)).expect("readable"),
            fs::read(source.join(name)).expect("readable")
        );
    }
    daemon.stop();
}

#[test]
fn keys_are_their_owners_alone_and_never_replaced() {
    let lab = Lab::new();
    let user = keygen(&lab, "user.pem");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&user), 0o600);
    let before = fs::read(&user).expect("a key");
    let output = run(["keygen".as_ref(), user.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists"));
    assert_eq!(fs::read(&user).expect("a key"), before);
    let pem = String::from_utf8(before).expect("text");

    let stor = format!("file://{}", lab.dir("stor").display());
    let source = lab.dir("source");
    let flist = pack_for(&lab, &source, &stor, &user);
    fs::set_permissions(&user, Permissions::from_mode(0o640)).expect("set");
    let file = config(&lab, &flist, &stor, &user, "RO");
    let (point, cache) = (lab.dir("mnt"), lab.path("cache"));
    let mount = [&mount_args(&flist, &point, &cache, &stor)[..], &["--key", text(&user)]].concat();
    for args in [&mount[..], &["-l", "0", "-config", text(&file)]] {
        assert_refused(args, &["can be read or written by others (mode 0640)", "chmod 600"]);
    }
    fs::set_permissions(&user, Permissions::from_mode(0o600)).expect("set");

    // Nothing of a key is ever logged, not even with everything else.
    let mounted = Mounted::with(&lab, &flist, &stor, &["--key", text(&user), "-l", "5"]);
    let log = mounted.daemon.log();
    for line in pem.lines().filter(|line| !line.starts_with('-')) {
        assert!(!log.contains(line), "a part of the key is in the log");
    }
    mounted.stop();
}

#[test]
fn old_dialects_are_never_encrypted() {
    let lab = Lab::new();
    let (source, user) = (lab.dir("source"), keygen(&lab, "user.pem"));
    let stor = format!("file://{}", lab.dir("stor").display());
    let flist = lab.path("v1.flist");
    for format in ["v1", "v1-long"] {
        let args = ["pack", text(&source), "-o", text(&flist), "--stor", &stor, "--format", format];
        assert_refused(&[&args[..], &["--encrypt-for", text(&user)]].concat(), &["are for v2"]);
    }
    assert!(!flist.exists());
}
