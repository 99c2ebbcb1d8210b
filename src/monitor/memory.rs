//! `/debug/pprof/heap`: where memory goes, as far as the kernel knows.
//!
//! The allocator is that of the C library, which keeps no record of who asked for memory. To sample that needs another
//! allocator for the whole program, in every process that never looks at a profile. So what is shown is what the kernel knows of each
//! mapping: the heap as a whole, stacks, and by name each file that is mapped, such as the compiled flists.

use std::fs;

use anyhow::Context;
use axum::extract::Query;
use axum::response::Response;

use super::profile::{Form, Named, failed};

const KINDS: [(&str, &str); 3] =
    [("inuse_space", "bytes"), ("private_space", "bytes"), ("mapped_space", "bytes")];

const COMMENT: &str = "Memory by mapping (proc_pid_smaps(5)): resident, resident and of this process alone, reserved. \
    The allocator keeps no call stacks.";

pub(super) async fn profile(Query(form): Query<Form>) -> Response {
    match fs::read_to_string("/proc/self/smaps").context("cannot read the mappings of this process") {
        Ok(smaps) => memory(&smaps).answer(&form),
        Err(error) => failed(&error),
    }
}

/// One sample for each name, and the kind of mapping it is.
fn memory(smaps: &str) -> Named {
    let mut named = Named::new(&KINDS, COMMENT);
    let mut mapping: Option<(String, [u64; 3])> = None;
    let mut take = |mapping: Option<(String, [u64; 3])>| {
        if let Some((name, sizes)) = mapping {
            let (leaf, kind) = names(&name);
            named.add(vec![leaf, kind.to_owned()], &sizes);
        }
    };
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // A field: "Rss:   12 kB".
            Some(field) if field.ends_with(':') => {
                let bytes = words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
                let Some((_, [resident, private, mapped])) = &mut mapping else { continue };
                match field {
                    "Rss:" => *resident += bytes,
                    "Private_Clean:" | "Private_Dirty:" => *private += bytes,
                    "Size:" => *mapped += bytes,
                    _ => {}
                }
            }
            // A mapping: addresses, access, offset, device, inode, and what is left is a name.
            Some(_) => {
                let name = line.splitn(6, ' ').nth(5).unwrap_or_default().trim_start();
                take(mapping.replace((name.to_owned(), [0; 3])));
            }
            None => {}
        }
    }
    take(mapping);
    named
}

/// What a mapping is called, and what kind it is.
fn names(name: &str) -> (String, &'static str) {
    match name {
        // The C library takes memory for its other threads this way, and so does everything that asks for much at once.
        "" => ("heap and stacks of threads".to_owned(), "anonymous"),
        "[heap]" => ("heap of the main thread".to_owned(), "anonymous"),
        "[stack]" => ("stack of the main thread".to_owned(), "anonymous"),
        file if file.starts_with('/') => (file.to_owned(), "file"),
        other => (other.to_owned(), "kernel"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_one_name_are_one_sample() {
        let smaps = "\
55d000-55e000 r--p 00000000 fe:00 42                         /usr/bin/a b\n\
Size:                  4 kB\nRss:                   4 kB\nPrivate_Clean:         1 kB\nPrivate_Dirty:         2 kB\n\
VmFlags: rd mr mw me\n\
55e000-55f000 r-xp 00001000 fe:00 42                         /usr/bin/a b\n\
Size:                  8 kB\nRss:                   0 kB\n\
7f0000-7f1000 rw-p 00000000 00:00 0 \n\
Size:               1024 kB\nRss:                  16 kB\nPrivate_Dirty:        16 kB\n";
        let text = {
            let response = memory(smaps).answer(&serde_json::from_str(r#"{"debug":1}"#).expect("a form"));
            let body = futures::executor::block_on(axum::body::to_bytes(response.into_body(), 1 << 20));
            String::from_utf8(body.expect("a body").to_vec()).expect("text")
        };
        let rows: Vec<Vec<&str>> =
            text.lines().skip(3).map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert_eq!(rows[0][..3], ["16384", "16384", "1048576"], "{text}");
        assert_eq!(rows[1], ["4096", "3072", "12288", "/usr/bin/a", "b", "<", "file"], "{text}");
    }
}
