//! Every example loads, and means what its comments say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aysfs_config::{Config, ConfigError, Encryption, FlistSource, Lib, Mode, StorUrl};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

fn example(name: &str) -> Config {
    Config::load(Path::new(EXAMPLES).join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("c.toml")).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_example_loads() {
    let names: BTreeSet<_> = fs::read_dir(EXAMPLES)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in &names {
        let config = example(name);
        assert_eq!(config.notices.is_empty(), name != "legacy.toml", "{name}: {:?}", config.notices);
    }
}

#[test]
fn read_only() {
    let config = example("ro.toml");
    let mount = &config.mounts[0];
    assert_eq!(mount.path, Path::new("/opt/app"));
    assert!(
        matches!(&mount.mode, Mode::ReadOnly(flist) if flist.source == FlistSource::File("/etc/aysfs/app.flist".into()))
    );
    assert_eq!(mount.backend.cache_size.map(|size| size.to_string()), Some("10GiB".into()));
    assert_eq!(mount.stors[0].url.to_string(), "https://stor.example.com/");
    assert_eq!(mount.stors[0].account, None);
}

#[test]
fn overlay() {
    let config = example("ol.toml");
    let mount = &config.mounts[0];
    let Mode::Overlay(flist) = &mount.mode else { panic!("{:?}", mount.mode) };
    assert!(matches!(&flist.source, FlistSource::Url(url) if url.path() == "/static/base.flist"));
    assert_eq!(flist.trim.as_deref(), Some(Path::new("/opt")));
    assert_eq!(flist.refresh.as_ref().map(ToString::to_string), Some("@every 10m".into()));
    assert_eq!(mount.stors.iter().map(|stor| &stor.name[..]).collect::<Vec<_>>(), ["near", "far"]);
    assert_eq!(mount.backend.cleanup_older_than, Some(Duration::from_secs(720 * 3600)));
}

#[test]
fn read_write() {
    let config = example("rw.toml");
    let mount = &config.mounts[0];
    assert_eq!(mount.mode, Mode::ReadWrite(None));
    assert!(mount.backend.upload && mount.backend.publish && mount.stors[0].require_tls);
    assert_eq!(mount.backend.encryption, None);
}

#[test]
fn read_write_encrypted() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("user.pem");
    fs::write(&key, "not looked at before it is used").expect("written");
    let text = fs::read_to_string(Path::new(EXAMPLES).join("rw.toml"))
        .expect("read")
        .replace("encrypted = false", "encrypted = true")
        .replace(r#"#user_rsa = "/etc/aysfs/user.pem""#, &format!("user_rsa = {key:?}"));
    let encryption = parse(&text).backends[0].encryption.clone();
    assert_eq!(encryption, Some(Encryption { user_key: key, store_key: None }));
}

#[test]
fn the_old_example_works_unchanged() {
    let config = example("legacy.toml");
    let mount = &config.mounts[0];
    let Mode::Overlay(flist) = &mount.mode else { panic!("{:?}", mount.mode) };
    assert_eq!(mount.path, Path::new("/opt"));
    assert_eq!(flist.source, FlistSource::File("/root/jumpscale__base.flist".into()));
    assert_eq!(flist.trim.as_deref(), Some(Path::new("/opt")));

    let backend = &mount.backend;
    assert_eq!(backend.path, Path::new("/tmp/aysfs_main"));
    assert_eq!(backend.namespace.as_str(), "dedupe");
    assert_eq!(backend.lib, Lib::Fuser);
    assert!(backend.upload);
    assert_eq!(backend.encryption, None);
    assert_eq!(backend.push_schedule.to_string(), "@every 1m");
    assert_eq!(backend.cleanup_schedule.to_string(), "@every 1m");
    assert_eq!(backend.cleanup_older_than, Some(Duration::from_secs(3600)));

    let stor = &mount.stors[0];
    assert_eq!(stor.name, "stor1");
    assert!(matches!(&stor.url, StorUrl::Http(url) if url.as_str() == "http://192.168.122.1:8080/"));
    let account = stor.account.as_ref().expect("an account");
    assert_eq!((&account.login[..], account.password.expose()), ("zaibon", "supersecret"));

    let notices: Vec<_> = config.notices.iter().map(|n| (n.line, n.column, &n.message[..])).collect();
    let in_the_clear =
        "addr: login and password travel unencrypted: use https (and require_tls = true to be sure of it)";
    assert_eq!(notices, [(33, 10, in_the_clear)]);
}

#[test]
fn the_other_examples_of_the_old_readme_work_unchanged() {
    let config = parse(
        r#"
[[mount]]
     path="/opt"
     flist="/root/jumpscale__base.flist"
     backend="main"
     #stor="stor1"
     mode = "OL"

[[mount]]
     path="/data"
     flist="/root/jumpscale__base.flist"
     backend="main"
     stor="storX"
     acl="ro"

[backend.main]
    path="/root/aysfs_main"
    stor="stor1"
    namespace="js8_opt"

    lib="bazil"

[backend.other]
    path="/root/aysfs_other"
    lib="hanwen"

[aydostor.storX]
   addr="http://stor.host/"
   login=""
   passwd=""

[stor.stor1]
   url="http://localhost/"
"#,
    );
    assert_eq!(config.mounts[0].backend.lib, Lib::Fuse3);
    assert_eq!(config.mounts[0].stors[0].name, "stor1");
    assert_eq!(config.mounts[1].stors[0].name, "storX");
    assert_eq!(config.mounts[1].stors[0].account, None);
    assert!(matches!(config.mounts[1].mode, Mode::ReadOnly(_)));
    assert_eq!(config.backends[1].lib, Lib::Fuser);
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "c.toml:14:10: acl: this is the old name of mode: rename it when you next edit the file",
            r#"c.toml:21:9: lib: "bazil" is an old name: "fuse3" takes its place"#,
            r#"c.toml:25:9: lib: "hanwen" is an old name: "fuser" takes its place"#,
        ]
    );
}

#[test]
fn full_toml_shows_the_defaults() {
    let full = example("full.toml");
    let mut minimal = parse(
        r#"
[[mount]]
path = "/opt/app"
backend = "main"
mode = "RO"
flist = "/etc/aysfs/app.flist"
[backend.main]
path = "/var/lib/aysfs/main"
stor = "near"
[stor.near]
url = "https://stor.example.com/"
"#,
    );
    // The one default that depends on who runs this.
    minimal.mounts[0].allow_other = full.mounts[0].allow_other;
    assert_eq!(full, minimal);
}

/// The keys of each table, as the message about an unknown one lists them.
fn keys_of_each_table() -> Vec<Vec<String>> {
    let text = "[[mount]]\n'~' = 0\n[backend.main]\n'~' = 0\n[stor.near]\n'~' = 0\n";
    let Err(ConfigError::Invalid(problems)) = Config::parse(text, Path::new("c.toml")) else {
        panic!("it is invalid");
    };
    let lists = problems.iter().filter_map(|problem| problem.message.split_once("use one of "));
    lists.map(|(_, keys)| keys.split(", ").map(Into::into).collect()).collect()
}

#[test]
fn full_toml_and_the_crate_docs_show_every_key() {
    let full = fs::read_to_string(Path::new(EXAMPLES).join("full.toml")).expect("read");
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let docs = fs::read_to_string(docs).expect("read");
    let tables = keys_of_each_table();
    assert_eq!(tables.len(), 3);
    for key in tables.iter().flatten() {
        assert!(
            full.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = "))),
            "{key}"
        );
        assert!(
            docs.lines().any(|line| line.starts_with("//! |") && line.contains(&format!("`{key}`"))),
            "{key}"
        );
    }
}
