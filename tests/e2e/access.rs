//! Who may do what with a stor, seen from the commands that use it.

use std::fs;
use std::path::Path;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Lab, Mounted, SECRET, Stor, objects, pack, run, run_ok, wait_for};
use crate::tree;

const READER: &str = "geheim-0815";

/// A stor with an account that may write and one that may read only.
fn stor(lab: &Lab) -> Stor {
    let accounts = [format!("writer:{SECRET}:rw"), format!("reader:{READER}:r")];
    Stor::start_with(&lab.dir("stor"), &["--account", &accounts[0], "--account", &accounts[1]])
}

fn url(stor: &Stor, login: &str, passwd: &str) -> String {
    stor.url().replace("http://", &format!("http://{login}:{passwd}@"))
}

#[track_caller]
fn shows_no_password(text: &str) {
    assert!(!text.contains(SECRET) && !text.contains(READER), "{text}");
}

#[test]
fn an_account_may_do_what_it_has_the_right_to() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 60);
    let stor = stor(&lab);
    let (writer, reader) = (url(&stor, "writer", SECRET), url(&stor, "reader", READER));
    let flist = pack(&lab, &source, &writer, "v2");
    let mounted = Mounted::new(&lab, &flist, &reader);
    assert_same(&source, &mounted.point, Fidelity::Everything);
    shows_no_password(&mounted.daemon.log());
    mounted.stop();

    // What is there already needs no right to write.
    assert_eq!(objects(&pack(&lab, &source, &reader, "v2")), objects(&flist));
    fs::write(source.join("new"), b"not there yet").expect("a file");
    let args = ["pack", "--namespace", "test", "--stor", &reader].map(AsRef::as_ref);
    let output =
        run(args.into_iter().chain([source.as_os_str(), "-o".as_ref(), lab.path("new.flist").as_os_str()]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with(&format!("aysfs: cannot store content: {} (test): ", stor.url())), "{said}");
    assert!(said.ends_with(": access denied: check login and passwd of the stor\n"), "{said}");
    shows_no_password(&said);
    assert!(!lab.path("new.flist").exists());
    wait_for("the access log", || stor.daemon.log().contains("status=403"));
    assert!(stor.daemon.log().contains("account=\"reader\""), "{}", stor.daemon.log());
    shows_no_password(&stor.daemon.log());
}

#[test]
fn a_wrong_password_is_an_io_error_with_its_cause() {
    let lab = Lab::new();
    let source = lab.dir("source");
    fs::write(source.join("file"), b"content").expect("a file");
    let stor = stor(&lab);
    let flist = pack(&lab, &source, &url(&stor, "writer", SECRET), "v2");
    let object = &objects(&flist)[Path::new("file")];
    for wrong in [stor.url(), url(&stor, "reader", SECRET), url(&stor, "nobody", READER)] {
        let mut mounted = Mounted::new(&lab, &flist, &wrong);
        let error = mounted.read("file").expect_err("not let in");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let line = mounted.daemon.wait_for_log(&format!(
            "cannot read /file: content {} could not be had: {} (test): {}: access denied: check login and passwd of the stor",
            object.id,
            stor.url(),
            object.key
        ));
        shows_no_password(&line);
        shows_no_password(&mounted.daemon.log());
        mounted.stop();
    }
    shows_no_password(&stor.daemon.log());
}

#[test]
fn a_password_may_come_from_a_file() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 10);
    let stor = stor(&lab);
    let flist = pack(&lab, &source, &url(&stor, "writer", SECRET), "v2");
    let file = lab.file("passwd", format!("{READER}\n"));
    let file = file.to_str().expect("a test path");
    let mounted = Mounted::with(&lab, &flist, &stor.url(), &["--login", "reader", "--passwd-file", file]);
    assert_same(&source, &mounted.point, Fidelity::Everything);
    mounted.stop();
    let text = |path: &Path| path.to_str().expect("a test path").to_owned();
    let copy = text(&lab.path("copy"));
    run_ok([
        "unpack",
        &text(&flist),
        &copy,
        "--namespace",
        "test",
        "--stor",
        &stor.url(),
        "--login",
        "reader",
        "--passwd-file",
        file,
    ]);
    assert_same(&source, Path::new(&copy), Fidelity::Settable);
}
