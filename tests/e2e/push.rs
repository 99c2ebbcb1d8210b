//! Mode RW: what one machine writes, another one sees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use aysfs_store::fault::ServerTrouble;
use serde_json::Value;

use crate::compare::{Fidelity, assert_same};
use crate::encryption::{CONTENT, NAME, assert_nothing_shows, keygen, text};
use crate::support::{Daemon, Faulty, LIBS, Lab, Mounted, Stor, is_mounted, run, run_ok, wait_for};
use crate::tree;

/// Far away enough that nothing happens unless it is asked for.
const NEVER: &str = "@every 1000h";

/// A mount in mode RW that is made by a config.
pub(crate) struct Writable {
    pub(crate) daemon: Daemon,
    pub(crate) point: PathBuf,
}

impl Writable {
    /// Mounts `lab/rw`, with `lab/backend` as the backend and namespace `test`; `more` are further keys of the backend.
    pub(crate) fn start(lab: &Lab, stor: &str, cron: &str, more: &str) -> Self {
        let point = lab.dir("rw");
        let config = config(lab, &point, stor, cron, more);
        let mut daemon = Daemon::start(["-config".as_ref(), config.as_os_str()]);
        daemon.wait_for_log("all mounts are up");
        Self { daemon, point }
    }

    /// Pushes now.
    #[track_caller]
    pub(crate) fn push(&self) -> Value {
        let said = run_ok(["push".as_ref(), self.point.as_os_str(), "--json".as_ref()]);
        serde_json::from_str(&said).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn stop(self) {
        self.daemon.stop();
        assert!(!is_mounted(&self.point), "still mounted");
    }
}

pub(crate) fn config(lab: &Lab, point: &Path, stor: &str, cron: &str, more: &str) -> PathBuf {
    let backend = lab.path("backend");
    let text = format!(
        "[[mount]]\npath = {point:?}\nbackend = \"b\"\nmode = \"RW\"\n\n\
         [backend.b]\npath = {backend:?}\nstor = \"s\"\nnamespace = \"test\"\nupload = true\npublish = true\n\
         aydostor_push_cron = {cron:?}\n{more}\n[stor.s]\nurl = {stor:?}\n"
    );
    lab.file("rw.toml", text)
}

/// Where the published list is.
fn published(stor: &str) -> String {
    format!("{stor}static/test.flist")
}

#[test]
fn what_one_machine_writes_another_one_sees_and_the_stor_does_not() {
    let (here, there) = (Lab::new(), Lab::new());
    let key = keygen(&here, "user.pem");
    let root = here.dir("stor");
    let stor = Stor::start(&root);
    let encrypted = format!("encrypted = true\nuser_rsa = {key:?}\n");
    for lib in LIBS {
        let writable = Writable::start(&here, &stor.url(), NEVER, &format!("lib = {lib:?}\n{encrypted}"));
        let own = writable.point.join(lib);
        fs::create_dir(&own).expect("made");
        tree::odd(&own);
        fs::write(own.join(NAME), CONTENT).expect("written");
        fs::write(own.join("long"), CONTENT.repeat(100_000)).expect("written");
        let pushed = writable.push();
        assert_eq!((&pushed["published"], &pushed["waiting"]), (&true.into(), &0.into()), "{pushed}");
        assert_nothing_shows(&root);

        let list = PathBuf::from(published(&stor.url()));
        let elsewhere = Mounted::with(&there, &list, &stor.url(), &["--key", text(&key), "--lib", lib]);
        assert_same(&writable.point, &elsewhere.point, Fidelity::Settable);
        fs::write(own.join("changed"), lib).expect("written");
        fs::rename(own.join("long"), own.join("elsewhere")).expect("renamed");
        fs::remove_file(own.join(NAME)).expect("removed");
        symlink("changed", own.join("new-link")).expect("made");
        let pushed = writable.push();
        assert_eq!((&pushed["files"], &pushed["published"]), (&1.into(), &true.into()), "{pushed}");
        let said = run_ok(["reload".as_ref(), elsewhere.point.as_os_str(), "--json".as_ref()]);
        assert!(!said.contains("\"added\":0"), "{said}");
        assert_same(&writable.point, &elsewhere.point, Fidelity::Settable);
        elsewhere.stop();
        assert_nothing_shows(&root);
        writable.stop();
    }

    let point = there.dir("mnt");
    let (list, stor) = (published(&stor.url()), stor.url());
    let refused = run(["mount", &list, text(&point), "--cache", text(&there.path("other")), "--stor", &stor]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && said.contains("is encrypted") && said.contains("--key"), "{said}");
}

#[test]
fn an_outage_loses_nothing_and_ends_by_itself() {
    let lab = Lab::new();
    let faulty = Faulty::start(&lab.dir("stor"));
    let mut writable = Writable::start(&lab, &faulty.url(), "@every 100ms", "deadline = \"1s\"\n");
    fs::write(writable.point.join("first"), "first").expect("written");
    let list = lab.path("stor/.static/test.flist");
    let names = |name: &str| fs::read_to_string(&list).is_ok_and(|list| list.contains(name));
    wait_for("the first push", || names("first"));

    faulty.set(ServerTrouble::Stopped);
    tree::plain(&writable.point, 20);
    writable.daemon.wait_for_log("cannot push, trying again");
    assert_eq!(fs::read(writable.point.join("first")).expect("it is here"), b"first");
    let refused = run(["push".as_ref(), writable.point.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("cannot push"), "{said}");
    let said = run_ok(["status".as_ref(), writable.point.as_os_str(), "--json".as_ref()]);
    let status: Value = serde_json::from_str(&said).expect("JSON");
    let push = &status["push"];
    // One of them is empty.
    assert_eq!(push["pending"], 19, "{status}");
    assert!(
        push["oldest_seconds"].is_u64() && push["why"].as_str().is_some_and(|why| !why.is_empty()),
        "{push}"
    );
    // What is not pushed survives the process, too.
    writable.stop();
    let writable = Writable::start(&lab, &faulty.url(), "@every 100ms", "deadline = \"1s\"\n");
    fs::write(writable.point.join("last"), "last").expect("written");
    faulty.set(ServerTrouble::None);
    wait_for("the push to go on", || names("last"));
    let elsewhere = Lab::new();
    let mounted = Mounted::new(&elsewhere, &list, &faulty.direct());
    assert_same(&writable.point, &mounted.point, Fidelity::Settable);
    mounted.stop();
    writable.stop();
}

#[test]
fn what_cannot_be_pushed_is_one_clear_error() {
    let lab = Lab::new();
    let stor = Stor::start(&lab.dir("stor"));
    let source = lab.dir("source");
    tree::plain(&source, 3);
    let flist = crate::support::pack(&lab, &source, &stor.url(), "v2");
    let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--mode", "OL"]);
    let refused = run(["push".as_ref(), mounted.point.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is not pushed: that takes mode = \"RW\" and upload = true"), "{said}");
    mounted.stop();

    // Two machines under one namespace: the second is told.
    let writable = Writable::start(&lab, &stor.url(), NEVER, "");
    fs::write(writable.point.join("a"), "a").expect("written");
    writable.push();
    let other = Lab::new();
    let second = Writable::start(&other, &stor.url(), NEVER, "");
    fs::write(second.point.join("b"), "b").expect("written");
    let refused = run(["push".as_ref(), second.point.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("another test.flist") && said.contains("namespace of its own"), "{said}");
    second.stop();
    writable.stop();

    // And two mounts of one config.
    let text = fs::read_to_string(lab.path("rw.toml")).expect("written");
    let twice = format!("{text}\n[[mount]]\npath = {:?}\nbackend = \"b\"\nmode = \"RW\"\n", lab.path("more"));
    let twice = lab.file("twice.toml", twice);
    let refused = run(["-config".as_ref(), twice.as_os_str()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("publishes its tree under the same namespace (test)"), "{said}");
}
