//! What the old system encrypted, named by flists of the old and of the new form.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::support::{Lab, Mounted, run_ok};

#[derive(Deserialize)]
struct Fixture {
    user_rsa_der_base64: String,
    store_rsa_der_base64: String,
    files: Vec<Object>,
}

/// A file that the old system stored.
#[derive(Deserialize)]
struct Object {
    name: String,
    size: u64,
    sha256: String,
    hash: String,
    user_key: String,
    store_key: String,
    object_base64: String,
}

/// A stor as the old system left it, the keys of both recipients, and a flist with one more file that is not encrypted.
struct Legacy {
    objects: Vec<Object>,
    user: PathBuf,
    store: PathBuf,
    stor: String,
    flist: PathBuf,
}

/// MD5 of `plain`, and its content.
const PLAIN: (&str, &str) = ("8fc42c6ddf9966db3b09e84365034357", "the");

impl Legacy {
    fn new(lab: &Lab) -> Self {
        let fixture = include_str!("../../engine/store/tests/data/v1-encrypted.json");
        let fixture: Fixture = serde_json::from_str(fixture).expect("the fixture");
        let key = |name, der: &str| {
            let label = "RSA PRIVATE KEY";
            let file =
                lab.file(name, format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", folded(der)));
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("set");
            file
        };
        let (user, store) =
            (key("user.pem", &fixture.user_rsa_der_base64), key("store.pem", &fixture.store_rsa_der_base64));
        let root = lab.dir("stor");
        let put = |hash: &str, body: &[u8]| {
            let directory = root.join("test").join(&hash[..2]).join(&hash[2..4]);
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join(hash), body).expect("written");
        };
        let (md5, text) = PLAIN;
        put(md5, text.as_bytes());
        let mut list = format!("/plain|{md5}|{}|root|root|644|2|0|0|\n", text.len());
        for Object { name, size, hash, user_key, store_key, object_base64, .. } in &fixture.files {
            put(hash, &STANDARD.decode(object_base64).expect("base64"));
            list += &format!("/{name}|{hash}|{size}|root|root|644|2|0|0||ukey={user_key}|skey={store_key}\n");
        }
        let flist = lab.file("old.flist", list);
        let stor = format!("file://{}", root.display());
        Self { objects: fixture.files, user, store, stor, flist }
    }

    /// Everything in a tree is what it was.
    #[track_caller]
    fn assert_shown(&self, tree: &Path) {
        for Object { name, sha256, .. } in &self.objects {
            let read = fs::read(tree.join(name)).expect(name);
            assert_eq!(hex::encode(digest(&SHA256, &read)), *sha256, "{name}");
        }
        assert_eq!(fs::read_to_string(tree.join("plain")).expect("readable"), PLAIN.1);
    }
}

/// In lines of 64 characters, as PEM has it.
fn folded(text: &str) -> String {
    let lines = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII"));
    lines.collect::<Vec<_>>().join("\n")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test path")
}

#[test]
fn both_recipients_read_it_and_what_a_commit_takes_over_stays_readable() {
    let lab = Lab::new();
    let legacy = Legacy::new(&lab);
    for key in [&legacy.user, &legacy.store] {
        let mounted = Mounted::with(&lab, &legacy.flist, &legacy.stor, &["--key", text(key)]);
        legacy.assert_shown(&mounted.point);
        mounted.stop();
        fs::remove_dir_all(lab.path("cache")).expect("removed");
    }
    let copy = lab.path("copy");
    let args = ["unpack", text(&legacy.flist), text(&copy), "--stor", &legacy.stor, "--namespace", "test"];
    run_ok(args.iter().chain(&["--key", text(&legacy.user)]));
    legacy.assert_shown(&copy);

    let more = ["--mode", "OL", "--key", text(&legacy.user)];
    let mounted = Mounted::with(&lab, &legacy.flist, &legacy.stor, &more);
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(mounted.point.join("hello.txt"), mode).expect("only its attributes are changed");
    fs::write(mounted.point.join("new"), "new").expect("written");
    let committed = lab.path("committed.flist");
    run_ok(["commit", text(&mounted.point), "-o", text(&committed)]);
    mounted.stop();
    fs::remove_dir_all(lab.path("cache")).expect("removed");
    let mounted = Mounted::with(&lab, &committed, &legacy.stor, &["--key", text(&legacy.store)]);
    legacy.assert_shown(&mounted.point);
    mounted.stop();
}

#[test]
fn without_a_key_only_what_is_encrypted_cannot_be_read() {
    let lab = Lab::new();
    let legacy = Legacy::new(&lab);
    let other = lab.path("other.pem");
    run_ok(["keygen", text(&other)]);
    for (more, is_warned) in [(&[][..], true), (&["--key", text(&other)], false)] {
        let mut mounted = Mounted::with(&lab, &legacy.flist, &legacy.stor, more);
        assert_eq!(mounted.daemon.log().contains("some content is encrypted"), is_warned);
        assert_eq!(mounted.read("plain").expect("not encrypted"), PLAIN.1.as_bytes());
        let error = mounted.read("hello.txt").expect_err("no key");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        mounted.daemon.wait_for_log("it is encrypted, and no key here opens it: name the private key");
        mounted.stop();
        fs::remove_dir_all(lab.path("cache")).expect("removed");
    }
}
