//! What is said about each kind of mistake, word for word.

use std::fs;
use std::path::Path;

use aysfs_config::{Config, ConfigError};
use proptest::prelude::*;

/// A config without mistakes, in which each case changes something.
const GOOD: &str = r#"
[[mount]]
path = "/opt"
backend = "main"
mode = "OL"
flist = "base.flist"
[backend.main]
path = "/var/lib/aysfs"
stor = "near"
[stor.near]
url = "https://stor.example.com/"
"#;

fn problems(text: &str) -> String {
    match Config::parse(text, Path::new("c.toml")) {
        Ok(config) => panic!("nothing is wrong with {text}: {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// Replaces one line of [`GOOD`] and expects exactly these problems.
#[track_caller]
fn case(line: &str, replacement: &str, expected: &[&str]) {
    let with = |line: &str| format!("\n{line}\n");
    assert!(GOOD.contains(&with(line)), "no line {line}");
    assert_eq!(problems(&GOOD.replacen(&with(line), &with(replacement), 1)), expected.join("\n"));
}

#[test]
fn the_config_that_the_cases_change_is_good() {
    let config = Config::parse(GOOD, Path::new("c.toml")).expect("valid");
    assert!(config.notices.is_empty());
}

#[test]
fn toml_syntax() {
    case(
        r#"path = "/opt""#,
        r#"path = "/opt"#,
        &["c.toml:3:13: not TOML: invalid basic string, expected `\"`"],
    );
    case("[backend.main]", "[backend.main", &["c.toml:7:14: not TOML: unclosed table, expected `]`"]);
    case(
        r#"mode = "OL""#,
        "mode = OL",
        &["c.toml:5:8: not TOML: string values must be quoted, expected literal string"],
    );
    case(r#"mode = "OL""#, "mode = 'OL'\nmode = 'RO'", &["c.toml:6:1: not TOML: duplicate key"]);
}

#[test]
fn unknown_keys_and_tables() {
    case(
        r#"flist = "base.flist""#,
        "flist = 'b'\nfloww = 1",
        &[r#"c.toml:7:1: unknown key "floww" in [[mount]]: did you mean "flist"?"#],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\n  CacheSize = '1G'",
        &[r#"c.toml:10:3: unknown key "CacheSize" in [backend.main]: did you mean "cache_size"?"#],
    );
    case(
        "[stor.near]",
        "[stor.near]\npassword = 'x'",
        &[r#"c.toml:11:1: unknown key "password" in [stor.near]: did you mean "passwd"?"#],
    );
    case(
        "[stor.near]",
        "[stor.near]\n'~' = 'x'",
        &[
            r#"c.toml:11:1: unknown key "~" in [stor.near]: use one of url, addr, login, passwd, passwd_file, ca, require_tls"#,
        ],
    );
    case(
        "[backend.main]",
        "[backends.x]\n[backend.main]",
        &[r#"c.toml:7:2: unknown table "backends" in the file: did you mean "backend"?"#],
    );
}

#[test]
fn missing_keys() {
    case(
        r#"path = "/opt""#,
        "",
        &[r#"c.toml:2:1: [[mount]] has no "path": add path = "/opt", the directory to mount on"#],
    );
    case(
        r#"backend = "main""#,
        "",
        &[
            r#"c.toml:2:1: [[mount]] has no "backend": add backend = "NAME", one of the tables [backend.NAME]"#,
        ],
    );
    case(
        r#"mode = "OL""#,
        "",
        &[
            r#"c.toml:2:1: [[mount]] has no "mode": add mode = "RO" (read-only), "OL" (overlay) or "RW" (read-write)"#,
        ],
    );
    case(
        r#"flist = "base.flist""#,
        "",
        &[
            r#"c.toml:2:1: [[mount]] has no "flist": add flist = "FILE or http(s) URL", which this mode needs"#,
        ],
    );
    case(
        r#"path = "/var/lib/aysfs""#,
        "",
        &[
            r#"c.toml:7:1: [backend.main] has no "path": add path = "/var/lib/aysfs/NAME", the directory of the cache and of local changes"#,
        ],
    );
    case(
        r#"stor = "near""#,
        "",
        &[r#"c.toml:2:1: [[mount]] has no "stor": add stor = "NAME" here or in [backend.main]"#],
    );
    case(
        r#"url = "https://stor.example.com/""#,
        "",
        &[r#"c.toml:10:1: [stor.near] has no "url": add url = "http://host:port/", the address of the stor"#],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\nencrypted = true",
        &[
            r#"c.toml:7:1: [backend.main] has no "user_rsa": add user_rsa = "FILE": encrypted = true needs it"#,
        ],
    );
    assert_eq!(
        problems(""),
        r#"c.toml:1:1: the file has no "mount": add a table [[mount]] with path, backend, mode and flist"#
    );
}

#[test]
fn an_rw_mount_needs_no_flist() {
    let text = GOOD.replace("\"OL\"", "\"rw\"").replace("flist = \"base.flist\"\n", "");
    Config::parse(&text, Path::new("c.toml")).expect("valid");
}

#[test]
fn wrong_types() {
    case(r#"path = "/opt""#, "path = 5", &["c.toml:3:8: path: expected a string, found an integer"]);
    case(
        r#"mode = "OL""#,
        "mode = 'OL'\ntrim_base = 'yes'",
        &["c.toml:6:13: trim_base: expected true or false, found a string"],
    );
    case(
        r#"mode = "OL""#,
        "mode = 'OL'\ntrusted_keys = 'x'",
        &["c.toml:6:16: trusted_keys: expected a list of strings, found a string"],
    );
    case(
        r#"stor = "near""#,
        "stor = 1.5",
        &["c.toml:9:8: stor: expected a string or a list of strings, found a float"],
    );
    case(
        r#"stor = "near""#,
        "stor = ['near', 2024-01-01, []]",
        &[
            "c.toml:9:17: stor: expected only strings in the list, found a date",
            "c.toml:9:29: stor: expected only strings in the list, found a list",
        ],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\ncleanup_older_than = '1h'",
        &["c.toml:10:22: cleanup_older_than: expected a whole number, found a string"],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\ncleanup_older_than = -1",
        &["c.toml:10:22: cleanup_older_than: -1 is out of range: use 0 to 4294967295"],
    );
    case(
        "[[mount]]",
        "[mount]",
        &["c.toml:2:1: mount: expected a list of tables, found a table: write [[mount]], with two brackets"],
    );
    case(
        "[[mount]]",
        "mount = [7]\n[x]",
        &[
            "c.toml:2:10: mount: expected a list of tables, found an integer: write [[mount]], with two brackets",
            r#"c.toml:3:2: unknown table "x" in the file: use one of stor, aydostor, backend, mount"#,
        ],
    );
    case(
        "[stor.near]",
        "[stor]\nnear = true\n[aydostor.far]",
        &[r#"c.toml:11:1: "near" in [stor] is a boolean: keys belong below a name, as in [stor.NAME]"#],
    );
    assert_eq!(
        problems("stor = 1\nmount = []"),
        "c.toml:1:8: stor: expected tables, found an integer: write [stor.NAME]"
    );
}

#[test]
fn paths() {
    case(
        r#"path = "/opt""#,
        r#"path = "opt""#,
        &[r#"c.toml:3:8: path: "opt" is not an absolute path: begin it with /"#],
    );
    case(
        r#"path = "/opt""#,
        r#"path = "/opt/../etc""#,
        &[r#"c.toml:3:8: path: "/opt/../etc" contains "..": write the path without"#],
    );
    case(
        r#"path = "/opt""#,
        r#"path = """#,
        &["c.toml:3:8: path: the path is empty: write one, or remove the key"],
    );
    case(
        r#"path = "/opt""#,
        r#"path = "/o\u0000t""#,
        &["c.toml:3:8: path: the path contains a NUL character: remove it"],
    );
    case(
        "[[mount]]",
        "[[mount]]\npath = '/./opt/'\nbackend = 'main'\nmode = 'RW'\n[[mount]]",
        &[r#"c.toml:7:8: path: line 3 mounts on "/opt" already: give each mount a directory of its own"#],
    );
    case(
        r#"path = "/var/lib/aysfs""#,
        r#"path = "/opt/cache""#,
        &[
            r#"c.toml:4:11: backend: its directory "/opt/cache" would be hidden by the mount: move one of them"#,
        ],
    );
    case(
        "[backend.main]",
        "[backend.two]\npath = '/var/lib/aysfs/'\n[backend.main]",
        &[r#"c.toml:8:8: path: backend "main" is there already: give each its own"#],
    );
}

#[test]
fn values_that_are_one_of_a_few_words() {
    case(r#"mode = "OL""#, r#"mode = "rx""#, &[r#"c.toml:5:8: mode: "rx" is not one of RO, RW, OL"#]);
    case(
        r#"mode = "OL""#,
        "mode = 'OL'\nacl = 'OL'",
        &["c.toml:6:7: acl: mode is set as well: remove one of them"],
    );
    case(
        r#"mode = "OL""#,
        "mode = 'OL'\nflist_times = 'x'",
        &[r#"c.toml:6:15: flist_times: "x" is not one of auto, spec, swapped"#],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\nlib = 'fuse'",
        &[r#"c.toml:10:7: lib: "fuse" is not one of fuser, fuse3, polyfuse"#],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\npassthrough = 'on'",
        &[r#"c.toml:10:15: passthrough: "on" is not one of auto, off"#],
    );
    case(
        r#"stor = "near""#,
        "stor = 'near'\ncompression = 'gzip'",
        &[r#"c.toml:10:15: compression: "gzip" is not one of zstd, brotli, none"#],
    );
}

#[test]
fn names_that_lead_nowhere() {
    case(
        r#"backend = "main""#,
        r#"backend = "mian""#,
        &[r#"c.toml:4:11: backend: unknown backend "mian": did you mean "main"?"#],
    );
    case(
        r#"mode = "OL""#,
        "mode = 'OL'\nstor = ['far', 'near']",
        &[r#"c.toml:6:9: stor: unknown stor "far": did you mean "near"?"#],
    );
    case(
        r#"stor = "near""#,
        "stor = ['near', 'near']",
        &[r#"c.toml:9:17: stor: "near" is in the list already: remove it"#],
    );
    case(
        r#"stor = "near""#,
        "stor = []",
        &["c.toml:9:8: stor: the list is empty: name a stor, or remove the key"],
    );
    case(
        "[stor.near]",
        "[stor.near]\nurl = 'https://x'\n[aydostor.near]",
        &[r#"c.toml:12:1: stor "near" is in [stor] as well: rename one of them"#],
    );
    assert_eq!(
        problems("[[mount]]\npath = '/opt'\nbackend = 'a b'\nmode = 'rw'\nstor = 'x'\n"),
        "c.toml:3:11: backend: unknown backend \"a b\": add a table [backend.\"a b\"]\n\
         c.toml:5:8: stor: unknown stor \"x\": add a table [stor.x]"
    );
}

#[test]
fn a_name_that_leads_to_something_broken_is_not_a_second_problem() {
    case(
        r#"url = "https://stor.example.com/""#,
        r#"url = "stor""#,
        &[
            "c.toml:11:7: url: not a URL (relative URL without a base): write it as http://host:port/, https://host/, file:///dir or s3://bucket/prefix",
        ],
    );
}

#[test]
fn flists() {
    let flist = r#"flist = "base.flist""#;
    case(
        flist,
        "flist = 'ftp://x/y'",
        &[r#"c.toml:6:9: flist: unknown scheme "ftp": a flist is a path, or at http:// or https://"#],
    );
    case(
        flist,
        "flist = 'http://'",
        &["c.toml:6:9: flist: not a URL (empty host): write it as https://host/name.flist, or as a path"],
    );
    case(
        flist,
        "flist = 'https://u:hunter2@x/y'",
        &[
            "c.toml:6:9: flist: a flist URL holds no login: put it into login and passwd of the stor that the flist is on",
        ],
    );
    case(flist, "flist = ''", &["c.toml:6:9: flist: the path is empty: write one, or remove the key"]);
    case(
        flist,
        "flist = 'x'\ntrim_base = true\ntrim = '/x'",
        &["c.toml:8:8: trim: trim_base = true strips the mount path already: remove one of them"],
    );
    case(
        flist,
        "flist = 'x'\ntrusted_keys = ['RWx']",
        &["c.toml:7:17: trusted_keys: not a minisign public key: copy the second line of the .pub file"],
    );
    case(
        flist,
        "flist = 'x'\nflist_refresh = 'always'",
        &[
            r#"c.toml:7:17: flist_refresh: "always" is not a schedule: use "@every <duration>", or cron with 5 fields (minute, hour, day, month, weekday), or 6 with seconds first"#,
        ],
    );
}

#[test]
fn schedules_durations_and_sizes() {
    let stor = r#"stor = "near""#;
    case(
        stor,
        "stor = 'near'\naydostor_push_cron = '@every 0s'",
        &[
            r#"c.toml:10:22: aydostor_push_cron: @every: "0s" is too short: a duration must be longer than zero"#,
        ],
    );
    case(
        stor,
        "stor = 'near'\ncleanup_cron = '61 * * * *'",
        &[
            r#"c.toml:10:16: cleanup_cron: "61 * * * *": "61" is not a minute: use 0 to 59, *, lists (1,2), ranges (1-5) and steps (*/5)"#,
        ],
    );
    case(
        stor,
        "stor = 'near'\ncleanup_cron = '0 0 31 2 *'",
        &[r#"c.toml:10:16: cleanup_cron: "0 0 31 2 *" never happens: correct its day, month or weekday"#],
    );
    case(
        stor,
        "stor = 'near'\ndeadline = '30'",
        &[
            r#"c.toml:10:12: deadline: "30" is not a duration: write numbers with units, such as "90s", "1h30m" or "1d" (units: ns, us, ms, s, m, h, d)"#,
        ],
    );
    case(
        stor,
        "stor = 'near'\ncache_size = '10 Gigabytes'",
        &[
            r#"c.toml:10:14: cache_size: "10 Gigabytes" is not a size: write a number with a unit, such as "10GiB" or "500MB" (K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB, GB, TB of 1000)"#,
        ],
    );
    case(
        stor,
        "stor = 'near'\ncache_min_free = '100%'",
        &[
            r#"c.toml:10:18: cache_min_free: "100%" is not a percentage of a disk: write a whole number from "0%" to "99%""#,
        ],
    );
    case(
        stor,
        "stor = 'near'\nnamespace = 'a/b'",
        &[
            r#"c.toml:10:13: namespace: "a/b" is not a valid name: use 1 to 128 ASCII letters, digits, '.', '_' or '-', not beginning with '.'"#,
        ],
    );
}

#[test]
fn stors() {
    let url = r#"url = "https://stor.example.com/""#;
    case(
        url,
        "addr = 'gopher://h'",
        &[
            r#"c.toml:11:8: addr: unknown scheme "gopher": use http, https, file, s3, gs or az, as in http://host:port/"#,
        ],
    );
    case(
        url,
        "addr = 'https://h'\nurl = 'https://h'",
        &["c.toml:11:8: addr: url is set as well: remove one of them"],
    );
    case(
        url,
        "url = 'https://h'\nlogin = 'u'",
        &["c.toml:12:9: login: the password is missing: add passwd or passwd_file"],
    );
    case(
        url,
        "url = 'https://h'\npasswd = 'hunter2'",
        &["c.toml:12:10: passwd: the login is missing: add login"],
    );
    case(
        url,
        "url = 'https://u:hunter2@h'\nlogin = 'u'",
        &["c.toml:12:9: login: the URL names a user as well: remove one of them"],
    );
    case(
        url,
        "url = 'https://u:hunter2@h'\npasswd = 'u'",
        &["c.toml:12:10: passwd: the URL holds a password as well: remove one of them"],
    );
    case(
        url,
        "url = 'https://u@h'",
        &["c.toml:11:7: url: the password is missing: add passwd or passwd_file"],
    );
    case(
        url,
        "url = 'file:///srv'\nlogin = 'u'\npasswd = 'hunter2'",
        &["c.toml:11:7: url: a directory asks for no login: remove login and passwd"],
    );
    case(
        url,
        "url = 'http://h'\nrequire_tls = true",
        &["c.toml:11:7: url: require_tls refuses plain http to another machine: use https"],
    );
    case(
        url,
        "url = 'https://h'\nlogin = 'u'\npasswd = 5",
        &["c.toml:13:10: passwd: expected a string, found an integer"],
    );
}

#[test]
fn files_that_a_config_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let missing = directory.path().join("missing");
    let (missing, here) = (missing.to_str().expect("UTF-8"), directory.path().to_str().expect("UTF-8"));
    let (empty, binary) = (file("empty", b"\n"), file("binary", b"\xff"));

    let stor = r#"stor = "near""#;
    case(
        stor,
        &format!("stor = 'near'\nencrypted = true\nuser_rsa = '{missing}'\nstore_rsa = '{here}'"),
        &[
            &format!(
                "c.toml:11:12: user_rsa: cannot read {missing:?} (No such file or directory (os error 2)): \
             create it with `aysfs keygen`, or correct the path"
            ),
            &format!(
                "c.toml:12:13: store_rsa: {here:?} is not a file: create it with `aysfs keygen`, or correct the path"
            ),
        ],
    );

    let url = r#"url = "https://stor.example.com/""#;
    let with = |rest: &str| format!("url = 'https://h'\n{rest}");
    case(
        url,
        &with(&format!("ca = '{missing}'")),
        &[&format!(
            "c.toml:12:6: ca: cannot read {missing:?} (No such file or directory (os error 2)): create it, or correct the path"
        )],
    );
    case(
        url,
        &format!("url = 'http://127.0.0.1'\nca = '{binary}'"),
        &["c.toml:11:7: url: ca is for https: change the URL, or remove ca"],
    );
    case(
        url,
        &format!("url = 'file:///srv'\nca = '{binary}'"),
        &["c.toml:11:7: url: a directory needs no ca: remove it"],
    );
    case(
        url,
        &with(&format!("login = 'u'\npasswd_file = '{missing}'")),
        &[&format!(
            "c.toml:13:15: passwd_file: cannot read {missing:?} (No such file or directory (os error 2)): create it, or correct the path"
        )],
    );
    case(
        url,
        &with(&format!("login = 'u'\npasswd_file = '{empty}'")),
        &[&format!("c.toml:13:15: passwd_file: {empty:?} is empty: write the password into it")],
    );
    case(
        url,
        &with(&format!("login = 'u'\npasswd_file = '{binary}'")),
        &[&format!("c.toml:13:15: passwd_file: {binary:?} is not UTF-8: write the password into it as text")],
    );
    case(
        url,
        &with(&format!("login = 'u'\npasswd = 'hunter2'\npasswd_file = '{binary}'")),
        &["c.toml:14:15: passwd_file: passwd is set as well: remove one of them"],
    );
}

#[test]
fn a_password_file_is_read_without_its_last_newline() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("passwd");
    for (content, password) in [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a", " a")] {
        fs::write(&path, content).expect("written");
        let text = GOOD.to_owned() + &format!("login = 'u'\npasswd_file = {path:?}\n");
        let config = Config::parse(&text, Path::new("c.toml")).expect("valid");
        let account = config.mounts[0].stors[0].account.as_ref().expect("an account");
        assert_eq!(account.password.expose(), password);
    }
}

#[test]
fn a_user_in_the_url_is_an_account() {
    for text in ["url = 'https://u:p%40ss@h/'", "url = 'https://u@h/'\npasswd = 'p@ss'"] {
        let text = GOOD.replace(r#"url = "https://stor.example.com/""#, text);
        let config = Config::parse(&text, Path::new("c.toml")).expect("valid");
        let stor = &config.mounts[0].stors[0];
        let account = stor.account.as_ref().expect("an account");
        assert_eq!((&account.login[..], account.password.expose()), ("u", "p@ss"));
        assert_eq!(stor.url.to_string(), "https://h/");
    }
}

#[test]
fn credentials_in_the_clear_are_noticed_and_never_shown() {
    let text = GOOD.replace("https://stor.example.com", "http://u:hunter2@stor.example.com");
    let config = Config::parse(&text, Path::new("c.toml")).expect("valid");
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "c.toml:11:7: url: login and password travel unencrypted: use https (and require_tls = true to be sure of it)",
        ]
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    for harmless in
        ["http://u:hunter2@127.0.0.1", "https://u:hunter2@stor.example.com", "http://stor.example.com"]
    {
        let text = GOOD.replace("https://stor.example.com", harmless);
        assert_eq!(Config::parse(&text, Path::new("c.toml")).expect("valid").notices, []);
    }
}

#[test]
fn key_files_are_not_looked_at_unless_encrypted() {
    let text = GOOD.replace("stor = \"near\"", "stor = 'near'\nuser_rsa = 'none'\nstore_rsa = 'none'");
    assert_eq!(Config::parse(&text, Path::new("c.toml")).expect("valid").backends[0].encryption, None);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    // A tab and a letter of two bytes count as one column each.
    let text = r#"
[stor.near]
  url = "ftp://h"
  pasword = "x"
[backend.main]
  stor = ["é", "fra", 7]
	deadline = "-1s"
  cleanup_cron = "@sometimes"
[[mount]]
  path = "opt"
  backend = "man"
  mode = "XX"
[[mount]]
  path = "/opt"
  backend = "main"
  mode = "ro"
  suid = 1
[unknown]
"#;
    let expected = [
        r#"c.toml:3:9: url: unknown scheme "ftp": use http, https, file, s3, gs or az, as in http://host:port/"#,
        r#"c.toml:4:3: unknown key "pasword" in [stor.near]: did you mean "passwd"?"#,
        r#"c.toml:5:1: [backend.main] has no "path": add path = "/var/lib/aysfs/NAME", the directory of the cache and of local changes"#,
        r#"c.toml:6:11: stor: unknown stor "é": use one of near"#,
        r#"c.toml:6:16: stor: unknown stor "fra": use one of near"#,
        r#"c.toml:6:23: stor: expected only strings in the list, found an integer"#,
        r#"c.toml:7:13: deadline: "-1s" is too short: a duration must be longer than zero"#,
        r#"c.toml:8:18: cleanup_cron: "@sometimes" is not a schedule: use "@every <duration>", @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or cron fields"#,
        r#"c.toml:10:10: path: "opt" is not an absolute path: begin it with /"#,
        r#"c.toml:11:13: backend: unknown backend "man": did you mean "main"?"#,
        r#"c.toml:12:10: mode: "XX" is not one of RO, RW, OL"#,
        r#"c.toml:13:1: [[mount]] has no "flist": add flist = "FILE or http(s) URL", which this mode needs"#,
        r#"c.toml:17:10: suid: expected true or false, found an integer"#,
        r#"c.toml:18:2: unknown table "unknown" in the file: use one of stor, aydostor, backend, mount"#,
    ];
    assert_eq!(problems(text), expected.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = Config::load("/nonexistent/c.toml").expect_err("no such file");
    assert!(matches!(error, ConfigError::Read { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read the config file /nonexistent/c.toml: create it, or name another one"
    );

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("c.toml");
    fs::write(&path, b"\xef\xbb\xbf# a\n\xc3\xa4\xff").expect("written");
    let error = Config::load(&path).expect_err("not UTF-8");
    assert_eq!(error.to_string(), format!("{}:2:2: not UTF-8: save the file as UTF-8", path.display()));
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "\\PC*") {
        let _ = Config::parse(&text, Path::new("c.toml"));
    }

    #[test]
    fn no_damage_is_too_strange(at in 0..GOOD.len(), length in 0..20_usize, noise in "[\\[\\]{}=.'\"#\\\\\na-z0-9é]{0,8}") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..(at + length).min(GOOD.len()), &noise);
        if let Err(ConfigError::Invalid(problems)) = Config::parse(&text, Path::new("c.toml")) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
        }
    }

    #[test]
    fn no_value_is_too_strange(key in "[a-z_]{1,9}", value in "'\\PC{0,9}'|[0-9]{1,30}|\\[.{0,5}\\]|\\{\\}|true") {
        let value = value.replace('\'', "\"");
        for line in ["path = \"/opt\"", "stor = \"near\"", "url = \"https://stor.example.com/\""] {
            let text = GOOD.replacen(line, &format!("{line}\n{key} = {value}"), 1);
            let _ = Config::parse(&text, Path::new("c.toml"));
        }
    }
}
