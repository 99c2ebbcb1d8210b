//! What the old system had works unchanged.

use std::fs;

use crate::compare::{Fidelity, assert_same};
use crate::support::{Daemon, Lab, Stor, is_mounted, pack};
use crate::tree;

/// The example of the old README; only paths and the address are to be changed.
const OLD_EXAMPLE: &str = include_str!("../../config/examples/legacy.toml");

#[test]
fn the_old_example_mounts_after_changing_paths_and_address() {
    let lab = Lab::new();
    let source = lab.dir("source");
    tree::plain(&source, 120);
    let stor = Stor::start_with(&lab.dir("stor"), &["--account", "zaibon:supersecret:rwd"]);
    let with_account = stor.url().replace("http://", "http://zaibon:supersecret@");
    let list = pack(&lab, &source, &with_account, "v1-long");
    fs::rename(lab.path("stor/test"), lab.path("stor/dedupe")).expect("the namespace of the example");

    // The old builders wrote absolute paths; `trim_base` takes the mount point off again.
    let point = lab.dir("opt");
    let text = fs::read_to_string(list).expect("a flist");
    let absolute: String = text.lines().map(|line| format!("{}{line}\n", point.display())).collect();
    let flist = lab.file("jumpscale__base.flist", absolute);

    let config = OLD_EXAMPLE
        .replace("\"/opt\"", &format!("{point:?}"))
        .replace("\"/root/jumpscale__base.flist\"", &format!("{flist:?}"))
        .replace("\"/tmp/aysfs_main\"", &format!("{:?}", lab.path("aysfs_main")))
        .replace("\"http://192.168.122.1:8080/\"", &format!("{:?}", stor.url()));
    let config = lab.file("config.toml", config);

    let mut daemon = Daemon::start(["-config".as_ref(), config.as_os_str()]);
    daemon.wait_for_log("mounted");
    assert_same(&source, &point, Fidelity::Content);
    daemon.stop();
    assert!(!is_mounted(&point));
}
