//! Extended attributes.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::case::cases;

cases! { Write "xattrs":
    attributes_are_set_and_listed
    flags_are_honoured
    buffers_are_respected
    attributes_belong_to_the_inode
    changes_are_seen_at_once
}

/// Asks for the size first, then for the value.
fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    xattr::get(path, name).expect("readable")
}

fn list(path: &Path) -> Vec<String> {
    let names = xattr::list(path).expect("listed").map(|name| name.into_string().expect("a plain name"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn attributes_are_set_and_listed(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    fs::create_dir(at.join("d")).expect("made");
    assert_eq!(list(&file), [""; 0]);
    for path in [&file, &at.join("d")] {
        setxattr(path, "user.one", b"1\0\xff", XattrFlags::empty()).expect("set");
        setxattr(path, "user.empty", b"", XattrFlags::empty()).expect("set");
        setxattr(path, "trusted.two", b"2", XattrFlags::empty()).expect("set");
        assert_eq!(get(path, "user.one"), Some(b"1\0\xff".to_vec()));
        assert_eq!(get(path, "user.empty"), Some(Vec::new()));
        assert_eq!(list(path), ["trusted.two", "user.empty", "user.one"]);
        removexattr(path, "user.one").expect("removed");
        assert_eq!(get(path, "user.one"), None);
        assert_eq!(removexattr(path, "user.one"), Err(Errno::NODATA));
    }
    let large = vec![b'v'; 3000];
    setxattr(&file, "user.large", &large, XattrFlags::empty()).expect("most that fits a block of ext4");
    assert!(get(&file, "user.large") == Some(large));
    assert_eq!(setxattr(&file, "nonsense.x", b"", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
}

fn flags_are_honoured(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    let set = |flags| setxattr(&file, "user.a", b"v", flags);
    assert_eq!(set(XattrFlags::REPLACE), Err(Errno::NODATA));
    set(XattrFlags::CREATE).expect("it is new");
    assert_eq!(set(XattrFlags::CREATE), Err(Errno::EXIST));
    set(XattrFlags::REPLACE).expect("it is there");
}

fn buffers_are_respected(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    setxattr(&file, "user.a", b"0123456789", XattrFlags::empty()).expect("set");
    let (mut small, mut exact) = ([0_u8; 5], [0_u8; 10]);
    assert_eq!(getxattr(&file, "user.a", &mut exact), Ok(10));
    assert_eq!(getxattr(&file, "user.a", &mut small), Err(Errno::RANGE));
    assert_eq!(listxattr(&file, &mut exact), Ok(7));
    assert_eq!(listxattr(&file, &mut small), Err(Errno::RANGE));
}

fn attributes_belong_to_the_inode(at: &Path) {
    let file = at.join("f");
    let handle = File::create(&file).expect("made");
    setxattr(&file, "user.a", b"v", XattrFlags::empty()).expect("set");
    fs::hard_link(&file, at.join("g")).expect("linked");
    fs::rename(&file, at.join("h")).expect("renamed");
    assert_eq!(get(&at.join("g"), "user.a"), Some(b"v".to_vec()));
    assert_eq!(get(&at.join("h"), "user.a"), Some(b"v".to_vec()));
    rustix::fs::fsetxattr(&handle, "user.a", b"by handle", XattrFlags::empty()).expect("set");
    assert_eq!(get(&at.join("g"), "user.a"), Some(b"by handle".to_vec()));
    File::create(&file).expect("made");
    assert_eq!(get(&file, "user.a"), None, "another file of the same name");
    std::os::unix::fs::symlink("g", at.join("link")).expect("linked");
    assert_eq!(get(&at.join("link"), "user.a"), None, "the link itself has none");
    assert_eq!(getxattr(at.join("link"), "user.a", &mut [0_u8; 20]), Ok(9), "but where it leads to");
}

fn changes_are_seen_at_once(at: &Path) {
    let file = at.join("f");
    File::create(&file).expect("made");
    for round in 0..50_u8 {
        setxattr(&file, "user.a", &[round], XattrFlags::empty()).expect("set");
        assert_eq!(get(&file, "user.a"), Some(vec![round]));
        let name = format!("user.{round}");
        setxattr(&file, &name, b"", XattrFlags::empty()).expect("set");
        assert_eq!(list(&file), [name.as_str(), "user.a"]);
        removexattr(&file, &name).expect("removed");
    }
}
