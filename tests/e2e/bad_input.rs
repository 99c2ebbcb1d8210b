//! Whatever is wrong is said once, clearly, before anything is mounted.

use std::fs;
use std::path::Path;

use crate::support::{Lab, Stor, mounts_below, pack, run};
use crate::tree;

/// Starts the command with this config, which must be refused: returns what it says.
#[track_caller]
fn refused(lab: &Lab, config: &str) -> String {
    let file = lab.file("config.toml", config);
    let output = run(["-config".as_ref(), file.as_os_str()]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mounts_below(&lab.path("")), Vec::<std::path::PathBuf>::new(), "something is mounted");
    String::from_utf8(output.stderr)
        .expect("messages are UTF-8")
        .replace(&file.display().to_string(), "config.toml")
}

fn config(lab: &Lab, flist: &Path, stor: &str) -> String {
    format!(
        "[[mount]]\npath = {:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n\
         [backend.main]\npath = {:?}\nstor = \"one\"\nnamespace = \"test\"\n\
         [stor.one]\nurl = {stor:?}\n",
        lab.dir("mnt"),
        lab.path("backend"),
    )
}
