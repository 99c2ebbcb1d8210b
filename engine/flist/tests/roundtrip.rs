//! What is written is what is read.

mod tree;

use aysfs_flist::{
    Ancestor, Content, Dialect, Entry, Flist, Header, Index, Kind, MAX_LINE, MAX_XATTR, ObjectKey, Owner,
    ParseOptions, Source, Timestamp, WriteError, Writer,
};
use proptest::prelude::*;

fn write(dialect: Dialect, header: &Header, entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), dialect, header).expect("memory can be written");
    for entry in entries {
        writer.entry(entry).expect("a valid entry");
    }
    writer.finish().expect("memory can be written")
}

fn parse(bytes: &[u8]) -> Flist {
    Flist::parse(Source::Bytes { name: "t.flist", bytes }, &ParseOptions::default()).expect("a valid list")
}

/// Why the dialect refuses the entry.
fn refusal(dialect: Dialect, entry: &Entry) -> String {
    let mut writer = Writer::new(Vec::new(), dialect, &Header::default()).expect("memory can be written");
    let message = writer.entry(entry).expect_err("refused").to_string();
    let written = String::from_utf8(writer.finish().expect("memory can be written")).expect("text");
    assert!(written.lines().all(|line| line.starts_with('#')), "nothing was written");
    message
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn v2_keeps_everything((header, entries) in tree::list()) {
        let text = write(Dialect::V2, &header, &entries);
        let list = parse(&text);
        prop_assert_eq!(list.dialect, Dialect::V2);
        prop_assert_eq!(&list.header, &header);
        prop_assert_eq!(&list.entries, &entries);
        prop_assert_eq!(write(Dialect::V2, &list.header, &list.entries), text);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(
        start in prop_oneof![Just(""), Just("# aysfs-flist 2\n"), Just("a|||||755|4|0|0|\n")],
        rest in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let text = [start.as_bytes(), &rest].concat();
        let _ = Flist::parse(Source::Bytes { name: "t", bytes: &text }, &ParseOptions::default());
    }

    #[test]
    fn no_damage_makes_the_parser_panic(
        (header, entries) in tree::list(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut text = write(Dialect::V2, &header, &entries);
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let _ = Flist::parse(Source::Bytes { name: "t", bytes: &text }, &ParseOptions::default());
    }
}

#[test]
fn v1_long_keeps_what_it_can_hold() {
    let mut file = Entry::new("usr/bin/ä", Kind::Regular);
    file.size = 5;
    file.content = Some(Content::V1([0xAB; 16]));
    file.perm = 0o4711;
    file.user = Owner { name: Some(b"alice".to_vec()), id: None };
    file.group = Owner { name: None, id: Some(12) };
    file.mtime = Timestamp { secs: 5, nanos: 0 };
    file.ctime = Timestamp { secs: 6, nanos: 0 };
    let mut link = Entry::new("usr/l", Kind::Symlink);
    link.target = b"../x".to_vec();
    let mut entries = vec![
        Entry::new("", Kind::Directory),
        file,
        link,
        Entry::new("dev/null", Kind::CharDevice { major: 1, minor: 3 }),
        Entry::new("p", Kind::Fifo),
    ];
    for entry in &mut entries {
        entry.user.id = entry.user.id.filter(|_| entry.user.name.is_none());
        entry.group.id = entry.group.id.filter(|_| entry.group.name.is_none());
    }
    let text = write(Dialect::V1Long, &Header::default(), &entries);
    assert_eq!(
        String::from_utf8(text.clone()).expect("text"),
        "/||0|root|root|755|4|0|0|\n\
         /usr/bin/ä|abababababababababababababababab|5|alice|12|4711|2|6|5|\n\
         /usr/l||0|root|root|755|1|0|0|../x\n\
         /dev/null||0|root|root|755|5|0|0|1,3\n\
         /p||0|root|root|755|6|0|0|\n"
    );
    assert_eq!(parse(&text).entries, entries);
}

#[test]
fn v1_loses_what_it_never_had() {
    let mut file = Entry::new("f", Kind::Regular);
    file.mtime.nanos = 7;
    file.xattrs = vec![(b"user.a".to_vec(), b"b".to_vec())];
    file.data = Some(vec![]);
    let mut copy = Entry { link: Some(b"f".to_vec()), ..file.clone() };
    copy.path = b"g".to_vec();
    let directory = Entry::new("d", Kind::Directory);
    let text = write(Dialect::V1Short, &Header::default(), &[directory, file, copy]);
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    assert_eq!(String::from_utf8(text).expect("text"), format!("/f|{empty}|0\n/g|{empty}|0\n"));
}

#[test]
fn v1_refuses_what_it_cannot_hold() {
    let fifo = |path: &str| Entry::new(path, Kind::Fifo);
    let unfit = "\"a|b\": it holds a `|`, which v1 long cannot hold: write v2";
    assert_eq!(refusal(Dialect::V1Long, &fifo("a|b")), unfit);
    let unfit = "\"a\\nb\": it holds a line break, which v1 long cannot hold: write v2";
    assert_eq!(refusal(Dialect::V1Long, &fifo("a\nb")), unfit);
    let mut link = Entry::new("l", Kind::Symlink);
    link.target = b"a\rb".to_vec();
    let unfit = "\"l\": it holds a line break, which v1 long cannot hold: write v2";
    assert_eq!(refusal(Dialect::V1Long, &link), unfit);
    let unfit = "\"p\": it is neither a file nor a directory, which v1 short cannot hold: write v2";
    assert_eq!(refusal(Dialect::V1Short, &fifo("p")), unfit);
}

#[test]
fn content_has_the_digest_of_the_dialect() {
    let mut file = Entry::new("f", Kind::Regular);
    file.size = 1;
    let message = "\"f\": the file is not empty, and has no MD5 content to list in v1 short";
    assert_eq!(refusal(Dialect::V1Short, &file), message);
    file.content = Some(Content::Object { sha256: [1; 32], key: ObjectKey::Sha256([2; 32]) });
    let message = "\"f\": the file is not empty, and has no MD5 content to list in v1 long";
    assert_eq!(refusal(Dialect::V1Long, &file), message);
    file.content = None;
    let message = "\"f\": the file is not empty, and has no SHA-256 or MD5 content to list in v2";
    assert_eq!(refusal(Dialect::V2, &file), message);
}

#[test]
fn a_bad_path_is_not_written() {
    for dialect in [Dialect::V1Short, Dialect::V1Long, Dialect::V2] {
        let message = refusal(dialect, &Entry::new("a/../b", Kind::Regular));
        assert_eq!(message, "\"a/../b\": the path has a component `..`");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_index_says_what_the_list_says((header, entries) in tree::list()) {
        let text = write(Dialect::V2, &header, &entries);
        let dir = tempfile::tempdir().expect("a directory");
        let source = Source::Bytes { name: "t", bytes: &text };
        let index = Index::compile(source, &ParseOptions::default(), dir.path()).expect("a valid list");
        prop_assert_eq!(index.header(), &header);

        // Listed again, links may go the other way round, so files of several names are compared by their first.
        let listed: Vec<_> = index.entries().collect::<Result<_, _>>().expect("a sound index");
        let again = write(Dialect::V2, &header, &listed);
        let known = |path: &[u8]| listed.iter().find(|entry| entry.path == path).expect("every entry is listed");
        for entry in &entries {
            let mut original = entry;
            while let Some(link) = &original.link {
                original = entries.iter().find(|entry| entry.path == *link).expect("checked by the parser");
            }
            let found = known(&entry.path);
            let expected = Entry { path: found.path.clone(), link: found.link.clone(), ..original.clone() };
            prop_assert_eq!(found, &expected);
        }

        // The index of the listing is the same tree.
        let source = Source::Bytes { name: "again", bytes: &again };
        let second = Index::compile(source, &ParseOptions::default(), dir.path()).expect("a valid list");
        let second: Vec<_> = second.entries().collect::<Result<_, _>>().expect("a sound index");
        prop_assert_eq!(second, listed);
    }
}

#[test]
fn of_a_file_with_very_many_holes_only_the_holes_are_lost() {
    let content = Content::Object { sha256: [1; 32], key: ObjectKey::Sha256([2; 32]) };
    let with_pieces = |pieces: u64| Entry {
        size: 8192 * pieces,
        content: Some(content),
        data: Some((0..pieces).map(|piece| 8192 * piece..8192 * piece + 4096).collect()),
        ..Entry::new("sparse", Kind::Regular)
    };
    for (pieces, kept) in [(1000, true), (100_000, false)] {
        let entry = with_pieces(pieces);
        let list = parse(&write(Dialect::V2, &Header::default(), std::slice::from_ref(&entry)));
        let expected = if kept { entry } else { Entry { data: None, ..entry } };
        assert_eq!(list.entries, [expected]);
    }
}

#[test]
fn a_line_that_no_reader_takes_is_not_written() {
    let value = vec![0; MAX_XATTR];
    let with_attributes = |count| Entry {
        xattrs: (0..count).map(|number| (format!("user.{number:02}").into_bytes(), value.clone())).collect(),
        ..Entry::new("a/file", Kind::Directory)
    };
    let fits = with_attributes(11);
    assert_eq!(parse(&write(Dialect::V2, &Header::default(), std::slice::from_ref(&fits))).entries, [fits]);
    let message = refusal(Dialect::V2, &with_attributes(12));
    assert!(message.starts_with("\"a/file\": its line would have 1048"), "{message}");

    // The limit itself is one that is read.
    let empty = "# name: ".len();
    for (length, fits) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
        let header = Header { name: Some("n".repeat(length - empty)), ..Header::default() };
        match Writer::new(Vec::new(), Dialect::V2, &header) {
            Ok(writer) => {
                assert!(fits);
                assert_eq!(parse(&writer.finish().expect("memory can be written")).header, header);
            }
            Err(error) => {
                assert!(!fits && matches!(error, WriteError::HeaderTooLong { .. }), "{error}");
            }
        }
    }
    let deep = vec![b"%%%/".repeat(60_000)];
    let moved = deep.into_iter().map(|path| (path.clone(), path)).collect();
    let header = Header { ancestors: vec![Ancestor { sha256: [0; 32], moved }], ..Header::default() };
    let error = Writer::new(Vec::new(), Dialect::V2, &header).expect_err("refused").to_string();
    assert!(error.starts_with("the header line \"# moved %25"), "{error}");
}
