//! Whatever is wrong is said once, clearly, before anything is mounted; and no message shows a password.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::support::{Daemon, Faulty, Lab, Mounted, SECRET, is_mounted, mounts_below, pack, run, run_ok};
use crate::tree;

/// A MD5 that something could have.
const MD5: &str = "764efa883dda1e11db47671c4a3bbd9e";

/// Done, it could not be done, what was asked for is wrong.
const FAILED: i32 = 1;
const REFUSED: i32 = 2;

/// Runs the command with these arguments, in which `LAB` is the directory of the test. It must fail with this exit
/// code and this message, which must not be followed by anything, and leave nothing mounted.
#[track_caller]
fn refuses(lab: &Lab, args: &str, code: i32, message: &str) {
    let said = fails(lab, args, code);
    assert_eq!(said, format!("aysfs: {message}\n"), "aysfs {args}");
}

/// Runs the command with these arguments, which must fail; returns what it says.
#[track_caller]
fn fails(lab: &Lab, args: &str, code: i32) -> String {
    let here = lab.path("").display().to_string();
    let here = here.trim_end_matches('/');
    let before = mounts_below(&lab.path(""));
    let output = run(args.split(' ').map(|arg| arg.replace("LAB", here)));
    let said = String::from_utf8(output.stderr).expect("messages are UTF-8").replace(here, "LAB");
    assert_eq!(output.status.code(), Some(code), "aysfs {args}\n{said}");
    assert_eq!(mounts_below(&lab.path("")), before, "aysfs {args}\n{said}");
    assert!(!said.contains(SECRET), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "aysfs {args}");
    said
}

/// A lab with a mount point, and a stor that needs no server.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.dir("mnt");
    lab.dir("stor");
    lab
}

const MOUNT: &str = "LAB/mnt --stor file://LAB/stor --cache LAB/cache";

/// A config with one mount, and what else is written into its tables.
fn config(lab: &Lab, flist: &Path, in_mount: &str, in_backend: &str) -> PathBuf {
    let text = format!(
        "[[mount]]\npath = {:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n{in_mount}\n\
         [backend.main]\npath = {:?}\nstor = \"one\"\n{in_backend}\n\
         [stor.one]\nurl = \"file://{}\"\n",
        lab.dir("mnt"),
        lab.path("backend"),
        lab.dir("stor").display(),
    );
    lab.file("config.toml", text)
}

#[test]
fn a_bad_flist_is_refused_with_its_place() {
    let lab = lab();
    let long_line = "x".repeat(3 << 20);
    let cases: [(&str, &[u8], &str); 12] = [
        (
            "dots",
            b"a|764efa883dda1e11db47671c4a3bbd9e|3\n../b|764efa883dda1e11db47671c4a3bbd9e|3\n",
            "LAB/dots: line 2, column 1: the path has a component `..`",
        ),
        (
            "twice",
            b"a|764efa883dda1e11db47671c4a3bbd9e|3\n/a|764efa883dda1e11db47671c4a3bbd9e|3\n",
            "LAB/twice: line 2, column 1: \"a\" is in line 1 already",
        ),
        (
            "fields",
            b"a|764efa883dda1e11db47671c4a3bbd9e|3\nb|764efa883dda1e11db47671c4a3bbd9e\n",
            "LAB/fields: line 2, column 1: expected exactly 3 fields, but found 2",
        ),
        (
            "hash",
            b"a|764efa88|3\n",
            "LAB/hash: line 1, column 3: bad hash \"764efa88\": expected 32 hex digits",
        ),
        (
            "size",
            b"a|764efa883dda1e11db47671c4a3bbd9e|many\n",
            "LAB/size: line 1, column 36: bad size \"many\": expected a number of bytes",
        ),
        (
            "below",
            b"# aysfs-flist 2\nd||0|root|root|777|1|0|0|/etc\nd/passwd||0|root|root|644|2|0|0|\n",
            "LAB/below: line 3, column 1: the parent \"d\" (line 2) is not a directory",
        ),
        (
            "newer",
            b"# aysfs-flist 3\n",
            "LAB/newer: line 1, column 1: this is flist format 3, and this aysfs knows 2: install a newer aysfs",
        ),
        (
            "web-page",
            b"<html>\n<body>404</body>\n</html>\n",
            "LAB/web-page: line 1, column 1: expected 3 fields (v1 short), 10 or more (v1 long), or `# aysfs-flist 2` \
             (v2), but found 1 field(s)",
        ),
        (
            "binary",
            b"\x7fELF\x02\x01\x01\0\0\0\0\xff\xfe\xfd",
            "LAB/binary: line 1, column 1: expected 3 fields (v1 short), 10 or more (v1 long), or `# aysfs-flist 2` \
             (v2), but found 1 field(s)",
        ),
        (
            "empty",
            b"",
            "LAB/empty: the flist is empty; an empty tree is written as the line `# aysfs-flist 2`",
        ),
        (
            "long",
            long_line.as_bytes(),
            "LAB/long: line 1, column 1048577: the line is longer than 1048576 bytes",
        ),
        // The beginning of a compressed file.
        ("cut.zst", b"\x28\xb5\x2f\xfd\x04\x00\x41", "cannot read the flist LAB/cut.zst: incomplete frame"),
    ];
    for (name, bytes, message) in cases {
        let flist = lab.file(name, bytes);
        refuses(&lab, &format!("mount LAB/{name} {MOUNT}"), REFUSED, &format!("LAB/mnt: {message}"));
        refuses(&lab, &format!("flist check LAB/{name}"), REFUSED, message);
        refuses(&lab, &format!("unpack LAB/{name} LAB/out --stor file://LAB/stor"), REFUSED, message);
        assert!(!lab.path("out").exists(), "something was unpacked");
        config(&lab, &flist, "", "");
        refuses(&lab, "-config LAB/config.toml", REFUSED, &format!("LAB/mnt: {message}"));
    }
}

#[test]
fn a_missing_flist_is_refused() {
    let lab = lab();
    let message = "cannot read the flist LAB/nope: No such file or directory (os error 2)";
    refuses(&lab, &format!("mount LAB/nope {MOUNT}"), REFUSED, &format!("LAB/mnt: {message}"));
    refuses(&lab, "flist check LAB/nope", REFUSED, message);
    refuses(&lab, "flist show LAB/nope", REFUSED, message);
    let directory = "cannot read the flist LAB/stor: Is a directory (os error 21)";
    refuses(&lab, &format!("mount LAB/stor {MOUNT}"), REFUSED, &format!("LAB/mnt: {directory}"));
}

#[test]
fn every_problem_of_a_config_is_told_with_its_place() {
    let lab = lab();
    let text = r#"
[[mount]]
path = "/opt"
flist = "f.flist"
backend = "mian"
mode = "RX"
flists = 3
[[mount]]
path = "relative"
flist = "ftp://h/x"
backend = "main"
mode = "RO"
trusted_keys = ["nonsense"]
[backend.main]
path = "/var/lib/aysfs"
stor = "tow"
encrypted = true
user_rsa = "/nope/key.pem"
deadline = "soon"
[stor.two]
url = "gopher://tester:geheim-4711@x/"
[stor.three]
url = "http://h/"
login = "x"
passwd_file = "/nope/passwd"
[stor.four]
url = "http://127.0.0.1/"
login = "tester"
passwd = "geheim-4711"
passwrd = "geheim-4711"
"#;
    let expected = r#"LAB/config.toml:5:11: backend: unknown backend "mian": did you mean "main"?
LAB/config.toml:6:8: mode: "RX" is not one of RO, RW, OL
LAB/config.toml:7:1: unknown key "flists" in [[mount]]: did you mean "flist"?
LAB/config.toml:9:8: path: "relative" is not an absolute path: begin it with /
LAB/config.toml:10:9: flist: unknown scheme "ftp": a flist is a path, or at http:// or https://
LAB/config.toml:13:17: trusted_keys: not a minisign public key: copy the second line of the .pub file
LAB/config.toml:16:8: stor: unknown stor "tow": did you mean "two"?
LAB/config.toml:18:12: user_rsa: cannot read "/nope/key.pem" (No such file or directory (os error 2)): create it with `aysfs keygen`, or correct the path
LAB/config.toml:19:12: deadline: "soon" is not a duration: write numbers with units, such as "90s", "1h30m" or "1d" (units: ns, us, ms, s, m, h, d)
LAB/config.toml:21:7: url: unknown scheme "gopher": use http, https, file, s3, gs or az, as in http://host:port/
LAB/config.toml:25:15: passwd_file: cannot read "/nope/passwd" (No such file or directory (os error 2)): create it, or correct the path
LAB/config.toml:30:1: unknown key "passwrd" in [stor.four]: did you mean "passwd"?"#;
    lab.file("config.toml", text);
    refuses(&lab, "-config LAB/config.toml", REFUSED, expected);
    refuses(&lab, "config check LAB/config.toml", REFUSED, expected);

    lab.file("config.toml", format!("[stor.one]\npasswd = \"{SECRET}\n"));
    let expected = "LAB/config.toml:2:22: not TOML: invalid basic string, expected `\"`";
    refuses(&lab, "-config LAB/config.toml", REFUSED, expected);
    let missing = "cannot read the config file LAB/nope: create it, or name another one: No such file or directory (os error 2)";
    refuses(&lab, "-config LAB/nope", REFUSED, missing);
}

#[test]
fn a_bad_key_or_certificate_is_refused() {
    let lab = lab();
    let flist = lab.file("flist", "# aysfs-flist 2\n");
    let missing = "cannot read \"LAB/nope.pem\" (No such file or directory (os error 2))";
    config(&lab, &flist, "", &format!("encrypted = true\nuser_rsa = {:?}", lab.path("nope.pem")));
    let message = format!(
        "LAB/config.toml:11:12: user_rsa: {missing}: create it with `aysfs keygen`, or correct the path"
    );
    refuses(&lab, "-config LAB/config.toml", REFUSED, &message);
    config(&lab, &flist, "", "encrypted = true");
    let message = "LAB/config.toml:7:1: [backend.main] has no \"user_rsa\": add user_rsa = \"FILE\": encrypted = true needs it";
    refuses(&lab, "-config LAB/config.toml", REFUSED, message);

    let https = "mount LAB/flist LAB/mnt --cache LAB/cache --stor https://localhost:1/";
    let message = "LAB/mnt: ca \"LAB/nope.pem\" cannot be read: No such file or directory (os error 2)";
    refuses(&lab, &format!("{https} --ca LAB/nope.pem"), REFUSED, message);
    let message = "LAB/mnt: ca \"LAB/flist\" holds no PEM certificate";
    refuses(&lab, &format!("{https} --ca LAB/flist"), REFUSED, message);
    let message = "cannot read the password file LAB/nope: No such file or directory (os error 2)";
    refuses(&lab, &format!("{https} --login tester --passwd-file LAB/nope"), REFUSED, message);
}

#[test]
fn a_bad_address_is_refused() {
    let lab = lab();
    lab.file("flist", "# aysfs-flist 2\n");
    let with = |stor: &str| format!("mount LAB/flist LAB/mnt --cache LAB/cache --stor {stor}");
    for (stor, message) in [
        (
            "127.0.0.1:8080",
            "--stor: not a URL (relative URL without a base): write it as http://host:port/, https://host/, \
             file:///dir or s3://bucket/prefix",
        ),
        (
            "ftp://tester:geheim-4711@h/",
            "--stor: unknown scheme \"ftp\": use http, https, file, s3, gs or az, as in http://host:port/",
        ),
        (
            "http://tester:geheim-4711@h/?a=b",
            "--stor: the address of an HTTP stor has no query and no fragment: remove what follows ? or #",
        ),
        (
            "http://tester:geheim-4711@h:port/",
            "--stor: not a URL (invalid port number): write it as http://host:port/, https://host/, file:///dir or s3://bucket/prefix",
        ),
        (
            "s3://key:geheim-4711@bucket/prefix",
            "LAB/mnt: s3://bucket/prefix: stors of kind \"s3\" are not supported: use http://, https:// or file://",
        ),
    ] {
        refuses(&lab, &with(stor), REFUSED, message);
    }
    let login = "mount http://tester:geheim-4711@h/flist LAB/mnt --cache LAB/cache --stor http://h/";
    let message = "the flist: a flist URL holds no login: put it into login and passwd of the stor that the flist is on";
    refuses(&lab, login, REFUSED, message);
    refuses(&lab, &login.replace("mount", "unpack").replace(" --cache LAB/cache", ""), REFUSED, message);
    let message = "the flist: unknown scheme \"ftp\": a flist is a path, or at http:// or https://";
    refuses(&lab, &format!("mount ftp://h/flist {MOUNT}"), REFUSED, message);
    // The disk of a stor that is a directory is no matter of its address.
    lab.file("file", "");
    let message = "LAB/mnt: the stor directory cannot be used: LAB/file: File exists (os error 17)";
    refuses(&lab, &with("file://LAB/file"), FAILED, message);
}

#[test]
fn a_stor_that_cannot_be_reached_matters_only_to_those_who_need_it_at_the_start() {
    let lab = lab();
    let flist = lab.file("flist", format!("file|{MD5}|3\n"));
    let stor = format!("http://tester:{SECRET}@127.0.0.1:1/");
    let mounted = Mounted::with(&lab, &flist, &stor, &["--deadline", "300ms"]);
    assert_eq!(fs::metadata(mounted.point.join("file")).expect("stat").len(), 3);
    let error = mounted.read("file").expect_err("nobody has it");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(!mounted.daemon.log().contains(SECRET));
    mounted.stop();

    let url = "http://127.0.0.1:1/static/flist";
    let said =
        fails(&lab, &format!("mount {url} LAB/mnt --cache LAB/cache --deadline 300ms --stor {stor}"), FAILED);
    assert!(
        said.starts_with(&format!("aysfs: LAB/mnt: cannot fetch the flist {url}: {url}: GET: unavailable: ")),
        "{said}"
    );
    assert!(said.ends_with("Connection refused (os error 111)\n") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_mount_point_that_cannot_be_used_is_named() {
    let lab = lab();
    let flist = lab.file("flist", "# aysfs-flist 2\n");
    let at = |point: &str| format!("mount LAB/flist {point} --stor file://LAB/stor --cache LAB/cache");
    let message = "LAB/nope: cannot use the mount point: make the directory first: No such file or directory (os error 2)";
    refuses(&lab, &at("LAB/nope"), FAILED, message);
    refuses(&lab, &at("LAB/flist"), FAILED, "LAB/flist: the mount point is not a directory");

    let stor = format!("file://{}", lab.path("stor").display());
    let mounted = Mounted::new(&lab, &flist, &stor);
    std::os::unix::fs::symlink(&mounted.point, lab.path("link")).expect("a symlink");
    let already = "an aysfs is mounted there already: unmount it first (aysfs umount LAB/mnt)";
    refuses(&lab, &at("LAB/mnt"), FAILED, &format!("LAB/mnt: {already}"));
    refuses(&lab, &at("LAB/link"), FAILED, &format!("LAB/link: {already}"));
    mounted.stop();

    lab.file("file", "");
    let message = "LAB/mnt: cannot make the backend directory LAB/file: File exists (os error 17)";
    refuses(&lab, "mount LAB/flist LAB/mnt --stor file://LAB/stor --cache LAB/file", FAILED, message);
}

#[test]
fn every_problem_of_a_mount_is_told() {
    let lab = lab();
    let message = "LAB/nope: cannot use the mount point: make the directory first: No such file or directory (os error 2)\n       \
                   LAB/nope: s3://bucket: stors of kind \"s3\" are not supported: use http://, https:// or file://\n       \
                   LAB/nope: cannot read the flist LAB/none: No such file or directory (os error 2)";
    refuses(&lab, "mount LAB/none LAB/nope --stor s3://bucket --cache LAB/cache", REFUSED, message);
}

#[test]
fn one_bad_mount_of_several_keeps_all_from_being_mounted() {
    let lab = lab();
    let good = lab.file("good.flist", "# aysfs-flist 2\n");
    lab.file("bad.flist", "bad\n");
    let second = |point: &str, flist: &str| {
        let first = fs::read_to_string(config(&lab, &good, "", "")).expect("a config");
        let (point, flist) = (lab.path(point), lab.path(flist));
        let text = format!(
            "{first}[[mount]]\npath = {point:?}\nflist = {flist:?}\nbackend = \"main\"\nmode = \"RO\"\n"
        );
        lab.file("config.toml", text);
    };
    lab.dir("other");
    second("other", "bad.flist");
    let message = "LAB/other: LAB/bad.flist: line 1, column 1: expected 3 fields (v1 short), 10 or more (v1 long), or \
                   `# aysfs-flist 2` (v2), but found 1 field(s)";
    refuses(&lab, "-config LAB/config.toml", REFUSED, message);
    second("nope", "bad.flist");
    let missing = "LAB/nope: cannot use the mount point: make the directory first: No such file or directory (os error 2)";
    let both = format!("{missing}\n       {}", message.replace("LAB/other", "LAB/nope"));
    refuses(&lab, "-config LAB/config.toml", REFUSED, &both);
    // Only when the first is mounted it shows that it has no directory for the second.
    second("mnt/inside", "good.flist");
    let said = fails(&lab, "-config LAB/config.toml", FAILED);
    assert!(said.contains("INFO aysfs::mounts: mounted LAB/mnt "), "{said}");
    assert!(said.ends_with(&format!("aysfs: {}\n", missing.replace("LAB/nope", "LAB/mnt/inside"))), "{said}");
}

/// Signs as minisign does (<https://jedisct1.github.io/minisign/#signature-format>), the file itself.
struct Signer(Ed25519KeyPair);

impl Signer {
    const ID: &[u8] = b"Ed\x01\x02\x03\x04\x05\x06\x07\x08";

    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any seed will do"))
    }

    fn public(&self) -> String {
        STANDARD.encode([Self::ID, self.0.public_key().as_ref()].concat())
    }

    fn sign(&self, file: &Path) {
        let signature = self.0.sign(&fs::read(file).expect("a file"));
        let comment = "trusted by the test";
        let all = self.0.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let signature = STANDARD.encode([Self::ID, signature.as_ref()].concat());
        let text = format!(
            "untrusted comment: of the test\n{signature}\ntrusted comment: {comment}\n{}\n",
            STANDARD.encode(all)
        );
        fs::write(signature_of(file), text).expect("written");
    }
}

fn signature_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

#[test]
fn a_flist_that_is_not_to_be_trusted_is_refused() {
    let lab = lab();
    let (ours, theirs) = (Signer::new(1), Signer::new(2));
    let version = |number: u64| {
        lab.file("flist", format!("# aysfs-flist 2\n# version: {number}\nd||0|root|root|755|4|0|0|\n"))
    };
    let flist = version(2);
    config(&lab, &flist, &format!("trusted_keys = [{:?}]", ours.public()), "");
    let mounts = || {
        let mut daemon = Daemon::start(["-config".as_ref(), lab.path("config.toml").as_os_str()]);
        daemon.wait_for_log("all mounts are up");
        assert!(lab.path("mnt/d").is_dir());
        daemon.stop();
        assert!(!is_mounted(&lab.path("mnt")));
    };
    let refused = |why: &str| {
        refuses(&lab, "-config LAB/config.toml", REFUSED, &format!("LAB/mnt: the flist LAB/flist {why}"))
    };

    refused("is not to be trusted: it has no signature in LAB/flist.minisig");
    theirs.sign(&flist);
    refused("is not to be trusted: the signature is wrong: the flist or its .minisig was changed");
    fs::write(signature_of(&flist), "trust me").expect("written");
    refused("is not to be trusted: not a minisign signature: expected the content of a .minisig file");
    ours.sign(&flist);
    mounts();
    mounts();
    version(3);
    refused("is not to be trusted: the signature is wrong: the flist or its .minisig was changed");
    ours.sign(&flist);
    mounts();
    version(2);
    ours.sign(&flist);
    refused("has version 2, but version 3 was mounted before: somebody may be replaying an old list");

    let other = Signer::ID.to_vec();
    let foreign = STANDARD
        .encode([&other[..2], b"\x09\x09\x09\x09\x09\x09\x09\x09", theirs.0.public_key().as_ref()].concat());
    config(&lab, &flist, &format!("trusted_keys = [{foreign:?}]"), "");
    refused("is not to be trusted: signed with a key that is not among trusted_keys");
}

#[test]
fn a_flist_with_a_url_is_fetched_with_the_account_of_its_stor() {
    let lab = lab();
    let source = lab.dir("source");
    fs::write(source.join("file"), b"one").expect("a file");
    let stor = Faulty::start(&lab.path("stor"));
    let named = lab.path("stor/.static/app.flist");
    let publish = || fs::copy(pack(&lab, &source, &stor.direct(), "v2"), &named).expect("published");
    publish();
    let url = PathBuf::from(format!("{}static/app.flist", stor.shown()));
    let options = ["--deadline", "3s"];
    let mounted = Mounted::with(&lab, &url, &stor.url(), &options);
    assert_eq!(mounted.read("file").expect("read"), b"one");
    fs::write(source.join("file"), b"two").expect("a file");
    publish();
    assert_eq!(mounted.read("file").expect("read"), b"one");
    mounted.stop();
    let mounted = Mounted::with(&lab, &url, &stor.url(), &options);
    assert_eq!(mounted.read("file").expect("read"), b"two");
    mounted.stop();

    stor.set(aysfs_store::fault::ServerTrouble::Stopped);
    let mounted = Mounted::with(&lab, &url, &stor.url(), &options);
    assert_eq!(mounted.read("file").expect("it is cached"), b"two");
    assert!(
        mounted.daemon.log().contains("the copy of an earlier mount is used"),
        "{}",
        mounted.daemon.log()
    );
    assert!(!mounted.daemon.log().contains(SECRET));
    mounted.stop();

    stor.set(aysfs_store::fault::ServerTrouble::None);
    let refused = |url: &str, stor: &str, why: &str| {
        let args = format!("mount {url} LAB/mnt --cache LAB/fresh --deadline 3s --stor {stor}");
        refuses(&lab, &args, REFUSED, &format!("LAB/mnt: cannot fetch the flist {url}: {url}: GET: {why}"));
    };
    let url = url.display().to_string();
    refused(&url.replace("app", "none"), &stor.url(), "not found");
    let denied = "access denied: check login and passwd of the stor";
    refused(&url, &stor.shown(), denied);
    refused(&url, &stor.url().replace(SECRET, "wrong"), denied);
}

#[test]
fn a_misused_command_line_is_refused() {
    let lab = lab();
    lab.file("flist", "# aysfs-flist 2\n");
    let duration =
        "write numbers with units, such as \"90s\", \"1h30m\" or \"1d\" (units: ns, us, ms, s, m, h, d)";
    for (args, message) in [
        ("--deadline 3parsecs", format!("--deadline: \"3parsecs\" is not a duration: {duration}")),
        ("--deadline 0s", "--deadline: \"0s\" is too short: a duration must be longer than zero".into()),
        (
            "--namespace ../x",
            "--namespace: \"../x\" is not a valid name: expected 1 to 128 ASCII letters, digits, '.', '_' or '-', not \
             beginning with '.'"
                .into(),
        ),
    ] {
        refuses(&lab, &format!("mount LAB/flist {MOUNT} {args}"), REFUSED, &message);
    }
    let message = "--name and --version are for v2: a v1 flist has no header";
    refuses(&lab, "pack LAB/mnt -o LAB/out --stor file://LAB/stor --format v1 --version 3", REFUSED, message);
    assert!(!lab.path("out").exists());
    // These are told by the parser of the command line, with its own words about how to go on.
    for (args, message) in [
        (
            "mount LAB/flist",
            "error: the following required arguments were not provided:\n  --stor <URL>\n  <MOUNTPOINT>\n",
        ),
        (
            "mount LAB/flist LAB/mnt --stor file://LAB/stor --mode RW",
            "error: invalid value 'RW' for '--mode <MODE>'\n",
        ),
        (
            "mount LAB/flist LAB/mnt --stor file://LAB/stor --lib bazzil",
            "error: invalid value 'bazzil' for '--lib <LIB>': \"bazzil\" is not one of fuser, fuse3, polyfuse\n",
        ),
        (
            "mount LAB/flist LAB/mnt --stor http://h/ --login tester",
            "error: the following required arguments were not provided:\n  --passwd-file <FILE>\n",
        ),
        ("frobnicate", "error: unrecognized subcommand 'frobnicate'\n"),
        ("-config", "error: a value is required for '--config <FILE>' but none was supplied\n"),
        (
            "-config LAB/config.toml umount LAB/mnt",
            "error: a subcommand cannot be used with '--config <FILE>'\n",
        ),
        ("-v", "error: either a subcommand or '--config <FILE>' is needed\n"),
        (
            "stor --listen nowhere --root LAB/stor",
            "error: invalid value 'nowhere' for '--listen <ADDR:PORT>': invalid socket address syntax\n",
        ),
    ] {
        let said = fails(&lab, args, REFUSED);
        assert!(said.starts_with(message), "{said}");
    }
}

#[test]
fn a_pack_that_fails_leaves_the_flist_as_it_was() {
    let lab = lab();
    let source = lab.dir("source");
    tree::plain(&source, 50);
    let stor = Faulty::start(&lab.path("stor"));
    let flist = lab.file("app.flist", "as it was");
    let before = fs::read_dir(lab.path("")).expect("listed").count();
    let to =
        |stor: &str| format!("pack LAB/source -o LAB/app.flist --namespace test --deadline 2s --stor {stor}");
    let shown = stor.shown();

    let said = fails(&lab, &to(&format!("http://tester:{SECRET}@127.0.0.1:1/")), FAILED);
    assert!(said.starts_with("aysfs: cannot store content: http://127.0.0.1:1/ (test): "), "{said}");
    assert!(said.ends_with("Connection refused (os error 111)\n"), "{said}");
    let said = fails(&lab, &to(&stor.url().replace(SECRET, "wrong")), FAILED);
    assert!(said.starts_with(&format!("aysfs: cannot store content: {shown} (test): ")), "{said}");
    assert!(said.ends_with(": access denied: check login and passwd of the stor\n"), "{said}");
    stor.set(aysfs_store::fault::ServerTrouble::Status(507));
    let said = fails(&lab, &to(&stor.url()), FAILED);
    assert!(said.ends_with("refused: 507 Insufficient Storage: trouble was asked for\n"), "{said}");
    stor.set(aysfs_store::fault::ServerTrouble::Silence);
    let said = fails(&lab, &to(&stor.url()), FAILED);
    assert!(said.ends_with("no answer within 2s\n"), "{said}");

    assert_eq!(fs::read_to_string(&flist).expect("a file"), "as it was");
    assert_eq!(fs::read_dir(lab.path("")).expect("listed").count(), before, "something was left behind");
}

#[test]
fn a_pack_of_nothing_or_to_nowhere_is_named() {
    let lab = lab();
    lab.file("file", "");
    let pack = |what: &str, to: &str| format!("pack {what} -o {to} --stor file://LAB/stor");
    refuses(&lab, &pack("LAB/nope", "LAB/out"), FAILED, "LAB/nope is not a directory");
    refuses(&lab, &pack("LAB/file", "LAB/out"), FAILED, "LAB/file is not a directory");
    refuses(&lab, &pack("LAB/mnt", "LAB/stor"), REFUSED, "LAB/stor is a directory: name a file to write");
    for nowhere in ["LAB/nope", "LAB/file", "/proc"] {
        let said = fails(&lab, &pack("LAB/mnt", &format!("{nowhere}/out")), FAILED);
        assert!(said.starts_with(&format!("aysfs: cannot write the flist into {nowhere}: ")), "{said}");
    }
    assert!(!lab.path("out").exists());
}

#[test]
fn unpack_touches_nothing_that_is_there_already() {
    let lab = lab();
    lab.file("flist", "# aysfs-flist 2\nd||0|root|root|755|4|0|0|\n");
    fs::write(lab.path("mnt/precious"), b"kept").expect("a file");
    let to = |target: &str| format!("unpack LAB/flist {target} --stor file://LAB/stor");
    refuses(&lab, &to("LAB/mnt"), FAILED, "LAB/mnt is not empty: name a directory that does not exist yet");
    assert_eq!(fs::read(lab.path("mnt/precious")).expect("a file"), b"kept");
    refuses(&lab, &to("LAB/flist"), FAILED, "cannot write LAB/flist: File exists (os error 17)");
    let said = fails(&lab, &to("LAB/nope/out"), FAILED);
    assert!(
        said.starts_with("aysfs: cannot write into LAB/nope: No such file or directory (os error 2)"),
        "{said}"
    );
    // A symlink would lead what is unpacked elsewhere.
    std::os::unix::fs::symlink(lab.dir("elsewhere"), lab.path("link")).expect("a symlink");
    for hostile in [
        "# aysfs-flist 2\nd||0|root|root|777|1|0|0|LAB/elsewhere\nd/x||0|root|root|644|2|0|0|\n",
        "# aysfs-flist 2\nd/x||0|root|root|644|2|0|0|\nd||0|root|root|777|1|0|0|LAB/elsewhere\n",
        "# aysfs-flist 2\n../elsewhere/x||0|root|root|644|2|0|0|\n",
        "# aysfs-flist 2\n%2e%2e/elsewhere/x||0|root|root|644|2|0|0|\n",
        "# aysfs-flist 2\nd||0|root|root|777|1|0|0|LAB/elsewhere\ne||0|root|root|644|2|0|0||link=d/x\n",
    ] {
        lab.file("flist", hostile.replace("LAB", &lab.path("").display().to_string()));
        let said = fails(&lab, &to("LAB/out"), REFUSED);
        assert!(said.starts_with("aysfs: LAB/flist: line ") && said.lines().count() == 1, "{said}");
        assert_eq!(fs::read_dir(lab.path("elsewhere")).expect("listed").count(), 0, "{hostile}");
        assert!(!lab.path("out").exists());
    }
}

#[test]
fn what_is_not_there_is_not_shown_and_not_unmounted() {
    let lab = lab();
    lab.file("flist", "# aysfs-flist 2\nd||0|root|root|755|4|0|0|\n");
    refuses(&lab, "flist show LAB/flist nope", FAILED, "LAB/flist: no entry nope in this flist");
    refuses(&lab, "flist show LAB/flist ../d", FAILED, "LAB/flist: no entry ../d in this flist");
    let path = lab.path("flist").display().to_string();
    assert!(run_ok(["flist", "show", &path, "/d"]).ends_with(" /d\n"));
    refuses(&lab, "umount LAB/mnt", FAILED, "LAB/mnt is not mounted");
    refuses(&lab, "umount LAB/nope", FAILED, "LAB/nope is not mounted");
    refuses(
        &lab,
        "umount LAB/nope/deeper",
        FAILED,
        "cannot find LAB/nope: No such file or directory (os error 2)",
    );
}

#[test]
fn a_stor_that_cannot_be_served_says_why() {
    let lab = lab();
    lab.file("file", "");
    let stor = |more: &str| format!("stor --listen 127.0.0.1:0 --root LAB/stor {more}");
    let form = "an account is NAME:PASSWORD:RIGHTS, each not empty";
    let good = format!("--account good:{SECRET}:r");
    for (more, message) in [
        (format!("{good} --account tester"), format!("--account number 2: {form}")),
        (format!("--account tester:{SECRET}"), format!("--account number 1: {form}")),
        (format!("--account :{SECRET}:rw"), format!("--account number 1: {form}")),
        (
            format!("{good} --account tester:{SECRET}:rwx"),
            "--account number 2: 'x' is not a right: use r (read), w (write), d (delete)".into(),
        ),
        (format!("{good} {good}w"), "--account number 2: \"good\" is there already".into()),
        (
            "--tls-cert LAB/nope --tls-key LAB/file".into(),
            "TLS: \"LAB/nope\": I/O error: No such file or directory (os error 2)".into(),
        ),
        ("--tls-cert LAB/file --tls-key LAB/file".into(), "TLS: \"LAB/file\": no items found".into()),
        (
            "--max-object 3bananas".into(),
            "--max-object: \"3bananas\" is not a size: write a number with a unit, such as \"10GiB\" or \"500MB\" (K, M, \
             G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB, GB, TB of 1000)"
                .into(),
        ),
    ] {
        refuses(&lab, &stor(&more), REFUSED, &message);
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("an address");
    let message = format!(
        "cannot listen on {address}: choose another address or port: Address already in use (os error 98)"
    );
    refuses(&lab, &format!("stor --listen {address} --root LAB/stor"), FAILED, &message);
    let message = "the stor directory cannot be used: LAB/file: File exists (os error 17)";
    refuses(&lab, "stor --listen 127.0.0.1:0 --root LAB/file", FAILED, message);
}
