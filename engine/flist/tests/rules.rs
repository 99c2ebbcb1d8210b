//! Every rule of the three dialects, with the exact text that its breach is reported with.

use std::path::PathBuf;

use aysfs_flist::{
    Content, Dialect, Entry, Flist, FlistError, Kind, MAX_LINE, Owner, ParseOptions, Source, TimeOrder,
    Times, Timestamp, V1Keys,
};

const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";
const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse_with(text: impl AsRef<[u8]>, options: &ParseOptions) -> Result<Flist, FlistError> {
    Flist::parse(Source::Bytes { name: "t.flist", bytes: text.as_ref() }, options)
}

fn parse(text: impl AsRef<[u8]>) -> Flist {
    parse_with(text, &ParseOptions::default()).expect("a valid list")
}

/// The message for a list without what all of them begin with.
fn error(text: impl AsRef<[u8]>) -> String {
    let message = parse_with(text, &ParseOptions::default()).expect_err("a bad list").to_string();
    message.strip_prefix("t.flist: ").expect("the file is named").to_owned()
}

fn paths(list: &Flist) -> Vec<String> {
    list.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

fn v1(path: &str) -> String {
    format!("{path}|{MD5}|3|root|root|755|2|0|0|\n")
}

fn v1_dir(path: &str) -> String {
    format!("{path}||0|root|root|755|4|0|0|\n")
}

fn v2(entries: &str) -> String {
    format!("# aysfs-flist 2\n{entries}\n")
}

/// A v2 list with one file that has these columns.
fn v2_file(columns: &str) -> String {
    v2(&format!("a|{SHA256}|100|root|root|644|2|0|0|{columns}"))
}

#[test]
fn v1_short_has_three_fields() {
    let list = parse(format!("/usr/bin/a|{MD5}|12\nb|{}|0\n", MD5.to_uppercase()));
    assert_eq!(list.dialect, Dialect::V1Short);
    let content = Some(Content::V1(hex::decode(MD5).expect("hex").try_into().expect("16 bytes")));
    let file = |path: &str, size| Entry { size, content, ..Entry::new(path, Kind::Regular) };
    assert_eq!(list.entries, [file("usr/bin/a", 12), file("b", 0)]);
    assert_eq!(list.entries[0].perm, 0o755);
    assert_eq!(list.entries[0].user, Owner { name: Some(b"root".to_vec()), id: Some(0) });
}

#[test]
fn v1_long_has_ten_fields_and_maybe_more() {
    let list = parse(format!(
        "/f|{MD5}|12|alice|1000|100644|2|20|10|\n\
         /d||4096|root|root|40755|4|20|10||ignored|ignored\n\
         /l||4|root|root|777|1|20|10|f\n\
         /b||0|root|root|660|3|20|10|8,1\n\
         /c||0|root|root|660|5|20|10|1,3\n\
         /s||0|root|root|755|0|20|10|\n\
         /p||0|||755|6|20.5|-10|\n"
    ));
    assert_eq!(list.dialect, Dialect::V1Long);
    let kinds: Vec<_> = list.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Regular,
            Kind::Directory,
            Kind::Symlink,
            Kind::BlockDevice { major: 8, minor: 1 },
            Kind::CharDevice { major: 1, minor: 3 },
            Kind::Socket,
            Kind::Fifo,
        ]
    );
    let [file, dir, link, .., fifo] = &list.entries[..] else { panic!("seven entries") };
    assert_eq!((file.perm, file.size), (0o644, 12));
    assert_eq!(file.user, Owner { name: Some(b"alice".to_vec()), id: None });
    assert_eq!(file.group, Owner { name: None, id: Some(1000) });
    assert_eq!((dir.perm, dir.size), (0o755, 0));
    assert_eq!(link.target, b"f");
    assert_eq!(fifo.user, Owner::default());
    assert_eq!(fifo.ctime, Timestamp { secs: 20, nanos: 500_000_000 });
    assert_eq!(fifo.mtime, Timestamp { secs: -10, nanos: 0 });
}

#[test]
fn v2_has_a_header_and_columns() {
    let list = parse(format!(
        "# aysfs-flist 2\n# name: app%0A1\n# version: 7\n# created: 2026-01-01T00:00:00Z\n# later: unknown\n#\n\
         # pack 3 {SHA256} 1000\n# start: 3\n\
         a%7Cb|{SHA256}|100|alice|%31|4755|2|-1.000000001|5|\
         |uid=7|later=unknown|at=3:900:100|x.user.a%3D=YWI=|data=0+10,50+50\n\
         hard|{SHA256}|100|||644|2|0|0||link=/a%7cb\n"
    ));
    assert_eq!(list.dialect, Dialect::V2);
    assert_eq!(list.header.name.as_deref(), Some("app\n1"));
    assert_eq!(list.header.version, Some(7));
    assert_eq!(list.header.created.as_deref(), Some("2026-01-01T00:00:00Z"));
    let pack = &list.header.packs[0];
    let key = SHA256.parse().expect("a key");
    assert_eq!((pack.key, pack.bytes), (key, 1000));
    assert_eq!(list.header.start, [key]);
    let [file, link] = &list.entries[..] else { panic!("two entries") };
    assert_eq!(file.path, b"a|b");
    assert_eq!(file.perm, 0o4755);
    assert_eq!(file.user, Owner { name: Some(b"alice".to_vec()), id: Some(7) });
    assert_eq!(file.group, Owner { name: Some(b"1".to_vec()), id: None });
    assert_eq!(file.ctime, Timestamp { secs: -1, nanos: 1 });
    assert_eq!(file.xattrs, [(b"user.a=".to_vec(), b"ab".to_vec())]);
    assert_eq!(file.data, Some(vec![0..10, 50..100]));
    assert!(
        matches!(file.content, Some(Content::Pack { at, .. }) if (at.pack, at.offset, at.stored) == (key, 900, 100))
    );
    assert_eq!(link.link.as_deref(), Some(&b"a|b"[..]));
}

#[test]
fn an_empty_file_is_no_empty_tree() {
    let message = "the flist is empty; an empty tree is written as the line `# aysfs-flist 2`";
    assert_eq!(error(""), message);
    assert_eq!(error("\n\r\n\n"), message);
    assert_eq!(parse("# aysfs-flist 2\n").entries, []);
    assert_eq!(parse("# aysfs-flist 2\n").entries, []);
}

#[test]
fn line_ends_are_those_of_the_first_line() {
    let unix = format!("a|{MD5}|1\n\nb|{MD5}|1");
    assert_eq!(parse(unix.replace('\n', "\r\n")), parse(unix));
    let v2 = v2("a|||||755|4|0|0|\n");
    assert_eq!(parse(v2.replace('\n', "\r\n")), parse(&v2));
    assert_eq!(
        error(format!("a|{MD5}|1\nb|{MD5}|1\r\n")),
        "line 2, column 36: bad size \"1\\r\": expected a number of bytes"
    );
}

#[test]
fn the_first_line_tells_the_dialect() {
    assert_eq!(
        error("a|b|c|d"),
        "line 1, column 1: expected 3 fields (v1 short), 10 or more (v1 long), or `# aysfs-flist 2` (v2), but \
         found 4 field(s)"
    );
    for newer in ["3", "2.1", ""] {
        assert_eq!(
            error(format!("# aysfs-flist {newer}\na|b|c")),
            format!(
                "line 1, column 1: this is flist format {newer}, and this aysfs knows 2: install a newer aysfs"
            )
        );
    }
}

#[test]
fn a_line_has_the_fields_of_its_dialect() {
    assert_eq!(
        error(format!("a|{MD5}|1\nb|{MD5}|1|x")),
        "line 2, column 1: expected exactly 3 fields, but found 4"
    );
    assert_eq!(error(v1("a") + "b|c"), "line 2, column 1: expected at least 10 fields, but found 2");
    assert_eq!(error(v2("a|b|c")), "line 2, column 1: expected at least 10 fields, but found 3");
}

#[test]
fn a_line_has_a_longest_length() {
    let longest = "x".repeat(MAX_LINE - v1("a").len() + 1);
    let line = v1("a").replace("|\n", &format!("|{longest}\n"));
    assert_eq!(line.len(), MAX_LINE + 1);
    assert_eq!(paths(&parse(&line)), ["a"]);
    let too_long = "line 2, column 1048577: the line is longer than 1048576 bytes";
    for more in [1, MAX_LINE, 5 * MAX_LINE] {
        let line = line.replace("|x", &format!("|{}", "x".repeat(more + 1)));
        assert_eq!(error(v1("b") + &line), too_long);
    }
    assert_eq!(error(format!("# aysfs-flist 2\n# {}", "x".repeat(MAX_LINE))), too_long);
}

#[test]
fn paths_stay_inside_the_tree() {
    let long = "x".repeat(256);
    let deep = ["d"; 1025].join("/");
    for (path, reason) in [
        ("/a//b", "the path has an empty component"),
        ("//a", "the path has an empty component"),
        ("a/", "the path has an empty component"),
        (".", "the path has a component `.`"),
        ("a/./b", "the path has a component `.`"),
        ("..", "the path has a component `..`"),
        ("/../etc/passwd", "the path has a component `..`"),
        ("a/..", "the path has a component `..`"),
        ("a\0b", "the path holds a NUL byte"),
        (&*format!("a/{long}"), "a component of the path is longer than 255 bytes"),
        (&*deep, "the path has more than 1024 components"),
    ] {
        let expected = format!("line 2, column 1: {reason}");
        assert_eq!(error(v1("first") + &v1(path)), expected, "{path:?}");
        let escaped = path.replace('\0', "%00");
        assert_eq!(error(v2(&format!("{escaped}|||||755|4|0|0|"))), expected, "{path:?}");
    }
    assert_eq!(error(v2("a%2F..|||||755|4|0|0|")), "line 2, column 1: the path has a component `..`");
    let good = [&long[1..], &deep[2..], "...", "a b", "#"];
    assert_eq!(paths(&parse(good.map(v1).concat())), good);
}

#[test]
fn no_path_is_there_twice() {
    let expected = "line 3, column 1: \"a/b\" is in line 1 already";
    assert_eq!(error([v1("a/b"), v1("c"), v1("/a/b")].concat()), expected);
    assert_eq!(error([v1("a/b"), v1("c"), v1_dir("a/b")].concat()), expected);
    let twice = [v1_dir("d"), v1("d/x"), v1_dir("d")].concat();
    assert_eq!(error(twice), "line 3, column 1: \"d\" is in line 1 already");
    let root = [v1_dir("/"), v1("x"), v1_dir("")].concat();
    assert_eq!(error(root), "line 3, column 1: \"\" is in line 1 already");
}

#[test]
fn nothing_is_below_what_is_no_directory() {
    assert_eq!(
        error([v1("a"), v1("b"), v1("a/b/c")].concat()),
        "line 3, column 1: the parent \"a\" (line 1) is not a directory"
    );
    assert_eq!(
        error([v1("b"), v1("x/a/b/c"), v1("x/a")].concat()),
        "line 3, column 1: \"x/a\" is not a directory, but line 2 puts an entry below it"
    );
    let below_link = "f|||||755|6|0|0|\nl|||||755|6|0|0||link=f\nl/x|||||755|4|0|0|";
    assert_eq!(error(v2(below_link)), "line 4, column 1: the parent \"l\" (line 3) is not a directory");
}

#[test]
fn parents_may_come_later_or_never() {
    let list = parse([v1("a/b/c"), v1_dir("a"), v1("a/d")].concat());
    assert_eq!(paths(&list), ["a/b/c", "a", "a/d"]);
}

#[test]
fn the_root_is_a_directory() {
    let list = parse([v1_dir("/"), v1("a")].concat());
    assert_eq!((list.entries[0].path.as_slice(), list.entries[0].kind), (&b""[..], Kind::Directory));
    for root in [v1("/"), v1(""), "/||0|root|root|755|6|0|0|\n".into()] {
        assert_eq!(error(root), "line 1, column 1: the root must be a directory");
    }
    assert_eq!(error(format!("/|{MD5}|1")), "line 1, column 1: the root must be a directory");
    assert_eq!(
        error(v2("f|||||755|6|0|0|\n|||||755|4|0|0||link=f")),
        "line 3, column 1: the root must be a directory"
    );
}

#[test]
fn values_are_what_they_should_be() {
    // Fields of a v1 long line, by their column.
    for (field, value, message) in [
        (1, "xyz", "column 3: bad hash \"xyz\": expected 32 hex digits"),
        (
            1,
            &SHA256[..33],
            "column 3: bad hash \"e3b0c44298fc1c149afbf4c8996fb9242\": expected 32 hex digits",
        ),
        (1, "", "column 3: a file that is not empty needs a hash"),
        (2, "-1", "column 36: bad size \"-1\": expected a number of bytes"),
        (2, "", "column 36: bad size \"\": expected a number of bytes"),
        (2, "+1", "column 36: bad size \"+1\": expected a number of bytes"),
        (2, "9223372036854775808", "column 36: bad size \"9223372036854775808\": expected a number of bytes"),
        (3, "4294967296", "column 38: bad user or group number \"4294967296\": expected 0 to 4294967295"),
        (3, "a\0", "column 38: a user or group name holds a NUL byte"),
        (4, "99999999999", "column 43: bad user or group number \"99999999999\": expected 0 to 4294967295"),
        (5, "", "column 48: bad mode \"\": expected octal digits, at most 177777"),
        (5, "8", "column 48: bad mode \"8\": expected octal digits, at most 177777"),
        (5, "200000", "column 48: bad mode \"200000\": expected octal digits, at most 177777"),
        (6, "7", "column 52: bad type \"7\": expected 0 to 6"),
        (6, "", "column 52: bad type \"\": expected 0 to 6"),
        (6, "02", "column 52: bad type \"02\": expected 0 to 6"),
        (6, "1", "column 58: a symlink needs a target of 1 to 4095 bytes without NUL"),
        (6, "3", "column 58: bad device number \"\": expected major,minor"),
        (7, "x", "column 54: bad time \"x\": expected seconds or seconds.nanoseconds"),
        (8, "", "column 56: bad time \"\": expected seconds or seconds.nanoseconds"),
        (8, "1.", "column 56: bad time \"1.\": expected seconds or seconds.nanoseconds"),
        (8, "1.0123456789", "column 56: bad time \"1.0123456789\": expected seconds or seconds.nanoseconds"),
        (8, "--1", "column 56: bad time \"--1\": expected seconds or seconds.nanoseconds"),
        (
            8,
            "9223372036854775808",
            "column 56: bad time \"9223372036854775808\": expected seconds or seconds.nanoseconds",
        ),
    ] {
        let line = v1("a");
        let mut fields: Vec<_> = line.trim_end().split('|').collect();
        fields[field] = value;
        assert_eq!(error(fields.join("|")), format!("line 1, {message}"), "field {field}");
    }
    for device in ["1", "1,", "1,2,3", "-1,2", "1,4294967296"] {
        let line = format!("a||0|r|r|755|5|0|0|{device}");
        assert_eq!(
            error(line),
            format!("line 1, column 20: bad device number \"{device}\": expected major,minor")
        );
    }
    let long_target = "x".repeat(4096);
    assert_eq!(
        error(format!("a||0|r|r|755|1|0|0|{long_target}")),
        "line 1, column 20: a symlink needs a target of 1 to 4095 bytes without NUL"
    );
    assert_eq!(error("a||?|r|r|755|4|0|0|"), "line 1, column 4: bad size \"?\": expected a number of bytes");
    assert_eq!(parse("a||0|r|r|755|2|0|0|").entries[0].content, None, "an empty file needs no hash");
    assert_eq!(
        error(format!("a|{}|1", "x".repeat(100))),
        format!("line 1, column 3: bad hash \"{}...\": expected 32 hex digits", "x".repeat(80))
    );
}

#[test]
fn v2_is_exact() {
    for (line, message) in [
        ("a|||||10755|4|0|0|", "column 7: bad mode \"10755\": expected octal digits, at most 7777"),
        ("a%zz|||||755|4|0|0|", "column 2: bad escape \"%zz\": expected `%` and two hex digits"),
        ("a|||%4|||4|0|0|", "column 5: bad escape \"%4\": expected `%` and two hex digits"),
        ("a\u{1}|||||755|4|0|0|", "column 2: unescaped control byte: write it as %01"),
        ("a|||||755|4|0|0|\r", "column 17: unescaped control byte: write it as %0D"),
        ("a|||||755|4|0|0||x", "column 18: bad column \"x\": expected key=value"),
        ("a|||||755|4|0|0||", "column 18: bad column \"\": expected key=value"),
        ("a|||||755|4|0|0||uid=1|uid=1", "column 24: the column uid= is given twice"),
        ("a|||||755|4|0|0||uid=x", "column 22: bad user or group number \"x\": expected 0 to 4294967295"),
        (
            "a|||||755|4|0|0||x.=",
            "column 18: the name of an extended attribute must have 1 to 255 bytes without NUL",
        ),
        (
            "a|||||755|4|0|0||x.a%00=",
            "column 18: the name of an extended attribute must have 1 to 255 bytes without NUL",
        ),
        ("a|||||755|4|0|0||x.a=YQ", "column 22: the value of an extended attribute is not base64"),
        ("a|||||755|4|0|0||x.a=YQ==|x.%61=YQ==", "column 27: the column x.%61= is given twice"),
        ("a|||||755|4|0|0||data=", "column 18: the column data= is only for regular files"),
        ("a|||||755|4|0|0||link=b", "column 23: link= names \"b\", which no earlier line names"),
        ("a|||||755|4|0|0||link=..", "column 23: the path has a component `..`"),
    ] {
        assert_eq!(error(v2(line)), format!("line 2, {message}"), "{line:?}");
    }
    let key = "obj=d41d8cd98f00b204e9800998ecf8427e";
    let object = format!("a|{SHA256}|1|||755|4|0|0||{key}");
    assert_eq!(error(v2(&object)), "line 2, column 83: the column obj= is only for regular files");
    let value = "A".repeat(4 * 21846);
    assert_eq!(
        error(v2(&format!("a|||||755|4|0|0||x.a={value}"))),
        "line 2, column 22: the value of an extended attribute is longer than 65536 bytes"
    );
}

#[test]
fn a_v2_list_whose_last_line_does_not_end_is_cut_short() {
    let whole = v2("a|||||755|4|0|0|\nb|||||755|4|0|0|");
    assert_eq!(parse(&whole).entries.len(), 2);
    let cut = "the flist is cut short: its last line does not end; get it again, or, if it was written by hand, end it with a newline";
    for text in [whole.trim_end(), "# aysfs-flist 2", "# aysfs-flist 2\n# version: 1"] {
        assert_eq!(error(text), cut, "{text:?}");
    }
    // Old builders may have written none.
    assert_eq!(parse(v1("a").trim_end()).entries.len(), 1);
}

#[test]
fn a_file_of_one_chunk_has_a_size_that_fits_into_memory() {
    let list = |size: u64| {
        let pack = format!("# aysfs-flist 2\n# pack 1 {SHA256} 10\n");
        format!("{pack}a|{SHA256}|{size}|root|root|644|2|0|0||at=1:0:10\n")
    };
    assert_eq!(parse(list(16 << 20)).entries[0].size, 16 << 20);
    assert_eq!(
        error(list((16 << 20) + 1)),
        "line 3, column 98: a file of 16777217 bytes is too large for at=, which takes 16777216: it needs chunks="
    );
}

#[test]
fn v2_says_where_content_is() {
    let pack = format!("# aysfs-flist 2\n# pack 1 {SHA256} 10\n");
    let file = |columns: &str| format!("{pack}{}", v2_file(columns).split_once('\n').expect("two lines").1);
    for (columns, message) in [
        ("", "column 3: no column says where the content is: expected obj=, at= or chunks="),
        (
            "|obj=D41D8CD98F00B204E9800998ECF8427E",
            "column 97: bad object key \"D41D8CD98F00B204E9800998ECF8427E\": expected 32 or 64 lowercase hex digits",
        ),
        ("|at=1:2", "column 96: bad place \"1:2\": expected pack:offset:stored length"),
        ("|at=1:2:3:4", "column 96: bad place \"1:2:3:4\": expected pack:offset:stored length"),
        ("|at=2:0:1", "column 96: pack 2 is not in the header"),
        ("|at=1:5:6", "column 96: the place ends outside of pack 1, which has 10 bytes"),
        (
            "|chunks=1:18446744073709551615:1",
            "column 100: the place ends outside of pack 1, which has 10 bytes",
        ),
        ("|at=1:0:0", "column 96: the place ends outside of pack 1, which has 10 bytes"),
        ("|chunks=1:0:10", "column 93: chunks= and table= belong together: one of them is missing"),
        ("|table=5:00", "column 99: bad chunk table \"5:00\": expected <bytes>:<sha256>"),
        ("|at=1:0:10|at=1:0:10", "column 103: the column at= is given twice"),
        ("|at=1:0:10|chunks=1:0:10", "column 103: more than one of the columns obj=, at= and chunks="),
        ("|at=1:0:1|data=5", "column 107: bad data segments \"5\": expected offset+length,..."),
        ("|at=1:0:1|data=0+1,", "column 107: bad data segments \"0+1,\": expected offset+length,..."),
        (
            "|at=1:0:1|data=1+18446744073709551615",
            "column 107: bad data segments \"1+18446744073709551615\": expected offset+length,...",
        ),
        (
            "|at=1:0:1|data=5+5,0+5",
            "column 102: data segments must be in order, not overlapping, not empty, and inside the file",
        ),
        (
            "|at=1:0:1|data=0+6,5+5",
            "column 102: data segments must be in order, not overlapping, not empty, and inside the file",
        ),
        (
            "|at=1:0:1|data=5+0",
            "column 102: data segments must be in order, not overlapping, not empty, and inside the file",
        ),
        (
            "|at=1:0:1|data=99+2",
            "column 102: data segments must be in order, not overlapping, not empty, and inside the file",
        ),
    ] {
        assert_eq!(error(file(columns)), format!("line 3, {message}"), "{columns}");
    }
    assert_eq!(
        error(file("|at=1:0:1").replace(&format!("a|{SHA256}"), "a|")),
        "line 3, column 3: a file that is not empty needs a hash"
    );
    assert_eq!(
        error(file("|at=1:0:1").replace(&format!("a|{SHA256}"), "a|12")),
        "line 3, column 3: bad hash \"12\": expected 64 hex digits"
    );
    let old = file("").replace(&format!("a|{SHA256}"), "a|d41d8cd98f00b204e9800998ecf8427e");
    let content = parse(&old).entries[0].content;
    assert!(matches!(content, Some(Content::V1(_))), "an object of a v1 list: {content:?}");
    assert_eq!(
        error(old.replace("d41d8", "xyz12")),
        "line 3, column 3: bad hash \"xyz12cd98f00b204e9800998ecf8427e\": expected 32 hex digits"
    );
    for encrypted in [
        format!("{}|ukey=01ab|skey=02\n", old.trim_end()),
        format!("a|{MD5}|1|||644|2|0|0|||ukey=01AB|x|skey=02"),
    ] {
        let keys = V1Keys { user: vec![1, 0xAB], store: vec![2] };
        assert_eq!(parse(&encrypted).entries[0].v1_keys, keys, "{encrypted}");
        let bad = error(encrypted.replace("skey=02", "skey=2"));
        assert!(bad.ends_with("bad wrapped key: expected hex digits of at most 2048 bytes"), "{bad}");
    }
    assert!(parse(file("|at=1:0:1|ukey=01")).entries[0].v1_keys.is_empty(), "of no use there, and dropped");
    assert_eq!(parse(file("|at=1:0:1|data=")).entries[0].data, Some(vec![]), "a hole from end to end");
}

#[test]
fn v2_says_what_it_was_made_from() {
    for (lines, message) in [
        ("# from abc", "line 2, column 3: bad line: expected `# from <sha256>`"),
        (
            "# moved a b",
            "line 2, column 3: bad line: expected `# moved <old path> <new path>` behind a line `# from <sha256>`",
        ),
        (
            "# from SHA\n# moved a",
            "line 3, column 3: bad line: expected `# moved <old path> <new path>` behind a line `# from <sha256>`",
        ),
        (
            "# from SHA\n# moved a b c",
            "line 3, column 3: bad line: expected `# moved <old path> <new path>` behind a line `# from <sha256>`",
        ),
        ("# from SHA\n# moved a ../b", "line 3, column 3: the path has a component `..`"),
        (
            "# from SHA\n# moved a %zz",
            "line 3, column 3: bad escape \"%zz\": expected `%` and two hex digits",
        ),
    ] {
        assert_eq!(error(v2(&lines.replace("SHA", SHA256))), message, "{lines}");
    }
    let header = parse(v2(&format!("# from {SHA256}\n# moved /a%20b c%0A\n# from {SHA256}"))).header;
    assert_eq!(header.ancestors.len(), 2);
    assert_eq!(header.ancestors[0].moved, [(b"a b".to_vec(), b"c\n".to_vec())]);
}

#[test]
fn links_go_to_earlier_files() {
    let list = parse(v2("d/f|||||755|6|0|0|\na|||||755|6|0|0||link=/d/f\nb|||||755|6|0|0||link=a"));
    assert_eq!(list.entries[2].link.as_deref(), Some(&b"a"[..]));
    for (lines, message) in [
        (
            "a|||||755|6|0|0||link=b\nb|||||755|6|0|0|",
            "line 2, column 23: link= names \"b\", which no earlier line names",
        ),
        ("a|||||755|6|0|0||link=a", "line 2, column 23: link= names \"a\", which no earlier line names"),
        (
            "b|||||755|4|0|0|\na|||||755|6|0|0||link=b",
            "line 3, column 23: link= names \"b\", which is a directory",
        ),
        (
            "b/c|||||755|4|0|0|\na|||||755|6|0|0||link=b",
            "line 3, column 23: link= names \"b\", which is a directory",
        ),
        ("a|||||755|6|0|0||link=", "line 2, column 23: link= names \"\", which is a directory"),
    ] {
        assert_eq!(error(v2(lines)), message);
    }
}

#[test]
fn the_header_is_checked() {
    for (header, message) in [
        ("# version: -1", "column 12: bad value \"-1\" of the header line \"version\""),
        ("# version: 1\n# version: 1", "the header line \"version\" is given twice"),
        ("# name: %ff", "column 9: bad value \"%ff\" of the header line \"name\""),
        ("# name: %f", "column 9: bad escape \"%f\": expected `%` and two hex digits"),
        ("# pack 1 abc 5", "column 3: bad pack line: expected `# pack <number> <key> <bytes>`"),
        (&*format!("# pack 1 {SHA256} 5\n# pack 1 {SHA256} 5"), "column 3: pack 1 is given twice"),
        (&*format!("# pack 1 {SHA256} 5\n# pack 2 {SHA256} 5"), "column 3: pack 2 is given twice"),
        (
            &*format!("# pack 1 {SHA256} 5\n# start: 1 2"),
            "column 10: bad value \"1 2\" of the header line \"start\"",
        ),
        (
            "a|||||755|4|0|0|\n# name: x",
            "column 1: a header line after the first entry; a path that begins with `#` is written with %23",
        ),
    ] {
        let found = error(format!("# aysfs-flist 2\n{header}\n"));
        assert!(found.ends_with(message), "{found}");
    }
}

#[test]
fn the_first_bad_line_is_named() {
    let mut text = v1("a");
    text += "b|c\n";
    text += &"x".repeat(2 * MAX_LINE);
    assert_eq!(error(text), "line 2, column 1: expected at least 10 fields, but found 2");
    let many: String = (0..50_000).map(|number| v1(&format!("dir{}/file{number}", number % 100))).collect();
    assert_eq!(parse(&many).entries.len(), 50_000);
    assert_eq!(
        error(many.clone() + &v1("dir7/file7") + &many),
        "line 50001, column 1: \"dir7/file7\" is in line 8 already"
    );
}

#[test]
fn times_are_ordered_as_most_lines_say() {
    let line = |name: &str, first: i64, second: i64| format!("{name}|{MD5}|1|r|r|755|2|{first}|{second}|\n");
    let mtimes = |text: &str, times| {
        let list = parse_with(text, &ParseOptions { times, ..ParseOptions::default() }).expect("valid");
        (list.times, list.entries.iter().map(|entry| entry.mtime.secs).collect::<Vec<_>>())
    };
    let swapped = [line("a", 1, 2), line("b", 5, 5), line("c", 3, 9), line("d", 9, 3)].concat();
    assert_eq!(mtimes(&swapped, Times::Auto), (TimeOrder::Swapped, vec![1, 5, 3, 9]));
    assert_eq!(mtimes(&swapped, Times::Spec), (TimeOrder::Spec, vec![2, 5, 9, 3]));
    let spec = [line("a", 2, 1), line("b", 5, 5)].concat();
    assert_eq!(mtimes(&spec, Times::Auto), (TimeOrder::Spec, vec![1, 5]));
    assert_eq!(mtimes(&spec, Times::Swapped), (TimeOrder::Swapped, vec![2, 5]));
    assert_eq!(mtimes(&line("a", 5, 5), Times::Auto).0, TimeOrder::Spec);
    let v2 = v2("a|||||755|4|1|2|");
    assert_eq!(mtimes(&v2, Times::Swapped), (TimeOrder::Spec, vec![2]), "v2 is never swapped");
}

#[test]
fn trimming_takes_whole_components() {
    let trimmed = |lines: &[String], trim_base: Option<&str>, trim: Option<&str>| {
        let options = ParseOptions {
            trim: trim.map(PathBuf::from),
            trim_base: trim_base.map(PathBuf::from),
            ..ParseOptions::default()
        };
        parse_with(lines.concat(), &options).map(|list| paths(&list))
    };
    let lines = [v1_dir("/"), v1_dir("/opt"), v1("/opt/app/a"), v1("/optional/b"), v1("/usr/c")];
    let got = trimmed(&lines, Some("/opt"), None).expect("valid");
    assert_eq!(got, ["", "app/a", "optional/b", "usr/c"]);
    let got = trimmed(&lines, None, Some("/opt/app/")).expect("valid");
    assert_eq!(got, ["a", "optional/b", "usr/c"]);
    let got = trimmed(&lines, Some("/opt"), Some("app")).expect("valid");
    assert_eq!(got, ["a", "optional/b", "usr/c"], "one after the other");
    assert_eq!(trimmed(&lines, Some("/"), None).expect("valid").len(), 5);

    let clash = [v1("/opt/a"), v1("/a")];
    let error = trimmed(&clash, Some("/opt"), None).expect_err("the same path twice").to_string();
    assert_eq!(error, "t.flist: line 2, column 1: \"a\" is in line 1 already");
    let file = [v1("/opt")];
    let error = trimmed(&file, Some("/opt"), None).expect_err("a file as root").to_string();
    assert_eq!(error, "t.flist: line 1, column 1: the root must be a directory");

    let linked = v2("opt/a|||||755|6|0|0|\nopt/b|||||755|6|0|0||link=opt/a");
    assert_eq!(trimmed(&[linked], Some("/opt"), None).expect("links are trimmed, too"), ["a", "b"]);
}

#[test]
fn a_compressed_list_is_the_list() {
    let text = [v1("a"), v1("b/c")].concat();
    let packed = zstd::encode_all(text.as_bytes(), 0).expect("compressed");
    assert_eq!(parse(&packed), parse(&text));
    let cut = &packed[..packed.len() - 3];
    let message = parse_with(cut, &ParseOptions::default()).expect_err("cut short").to_string();
    assert!(message.starts_with("cannot read the flist t.flist: "), "{message}");
}

#[test]
fn a_missing_list_is_named() {
    let message =
        Flist::parse("/nonexistent/x.flist", &ParseOptions::default()).expect_err("missing").to_string();
    assert_eq!(message, "cannot read the flist /nonexistent/x.flist: No such file or directory (os error 2)");
}
