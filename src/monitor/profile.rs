//! Profiles as `go tool pprof` reads them: a gzipped protobuf message
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::protos::{Function, Line, Location, Message, Profile, Sample, ValueType};
use serde::Deserialize;

/// What `/debug/pprof/` shows.
pub(super) const INDEX: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>aysfs: profiles</title></head><body>
<h1>Profiles</h1>
<p>For <code>go tool pprof http://ADDRESS/debug/pprof/NAME</code>; <code>?debug=1</code> is text.</p>
<ul>
<li><a href="profile?seconds=10">profile</a>: where CPU time goes; <code>?seconds=N</code>, 30 if not given</li>
<li><a href="heap?debug=1">heap</a>: memory by mapping; this allocator does not know who asked for it</li>
<li><a href="threads?debug=1">threads</a>: threads by name and by what they wait for, with their CPU time</li>
</ul>
<p><a href="/">status</a></p>
</body></html>
"#;

/// How a profile is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Form {
    #[serde(default)]
    debug: u32,
}

/// A profile of what has a name instead of a call stack.
pub(super) struct Named {
    /// What each sample has: a name and a unit. The first counts unless the reader chooses another.
    kinds: &'static [(&'static str, &'static str)],
    comment: &'static str,
    samples: Vec<(Vec<String>, Vec<u64>)>,
}

impl Named {
    pub(super) fn new(kinds: &'static [(&'static str, &'static str)], comment: &'static str) -> Self {
        Self { kinds, comment, samples: Vec::new() }
    }

    /// Adds to what is known under these names, innermost first: one value of each kind.
    pub(super) fn add(&mut self, names: Vec<String>, values: &[u64]) {
        debug_assert_eq!(values.len(), self.kinds.len());
        match self.samples.iter_mut().find(|(known, _)| *known == names) {
            Some((_, sums)) => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
            None => self.samples.push((names, values.to_vec())),
        }
    }

    /// The answer to a client.
    pub(super) fn answer(mut self, form: &Form) -> Response {
        self.samples.sort_by(|(_, one), (_, other)| other.cmp(one));
        if form.debug == 0 { encoded(&self.message()) } else { self.text().into_response() }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.comment);
        for (kind, unit) in self.kinds {
            write!(text, "{:>20}", format!("{kind}/{unit}")).expect("memory takes everything");
        }
        text.push('\n');
        for (names, values) in &self.samples {
            for value in values {
                write!(text, "{value:>20}").expect("memory takes everything");
            }
            writeln!(text, "  {}", names.join(" < ")).expect("memory takes everything");
        }
        text
    }

    fn message(&self) -> Profile {
        let mut strings = Strings::new();
        let mut profile = Profile {
            comment: vec![strings.index(self.comment)],
            default_sample_type: strings.index(self.kinds[0].0),
            time_nanos: now(),
            ..Profile::default()
        };
        for (kind, unit) in self.kinds {
            profile.sample_type.push(ValueType { ty: strings.index(kind), unit: strings.index(unit) });
        }
        // One function, and one place in it, for each name.
        let mut places = HashMap::new();
        for (names, values) in &self.samples {
            let stack = names.iter().map(|name| {
                *places.entry(name).or_insert_with(|| {
                    let id = profile.function.len() as u64 + 1;
                    let name = strings.index(name);
                    profile.function.push(Function { id, name, system_name: name, ..Function::default() });
                    let line = vec![Line { function_id: id, line: 0 }];
                    profile.location.push(Location { id, line, ..Location::default() });
                    id
                })
            });
            let location_id = stack.collect();
            let value = values.iter().map(|value| i64::try_from(*value).unwrap_or(i64::MAX)).collect();
            profile.sample.push(Sample { location_id, value, label: Vec::new() });
        }
        profile.string_table = strings.table;
        profile
    }
}

/// The strings of a message, each once; the first is empty, as the format wants it.
struct Strings {
    table: Vec<String>,
    known: HashMap<String, i64>,
}

impl Strings {
    fn new() -> Self {
        Self { table: vec![String::new()], known: HashMap::from([(String::new(), 0)]) }
    }

    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        let index = i64::try_from(self.table.len()).expect("fewer strings than bytes of memory");
        self.table.push(text.to_owned());
        self.known.insert(text.to_owned(), index);
        index
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A profile on its way to a client.
pub(super) fn encoded(profile: &Profile) -> Response {
    let zip = || -> io::Result<Vec<u8>> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&profile.encode_to_vec())?;
        out.finish()
    };
    match zip() {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(error) => failed(&error.into()),
    }
}

/// What a client is told of a profile that could not be taken.
pub(super) fn failed(error: &anyhow::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Named {
        let mut named = Named::new(&[("space", "bytes"), ("objects", "count")], "what it is");
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        named.add(names(&["a", "all"]), &[1, 2]);
        named.add(names(&["b", "all"]), &[10, 1]);
        named.add(names(&["a", "all"]), &[3, u64::MAX / 2]);
        named
    }

    #[test]
    fn equal_names_are_one_sample_and_every_index_leads_somewhere() {
        let profile = sample().message();
        assert_eq!(profile.string_table[0], "");
        let text = |index: i64| profile.string_table[usize::try_from(index).expect("an index")].as_str();
        assert_eq!(profile.sample.len(), 2);
        assert_eq!(text(profile.comment[0]), "what it is");
        assert_eq!(text(profile.default_sample_type), "space");
        assert_eq!(profile.sample[0].value, [4, i64::MAX], "more than fits is the most");
        let names = |sample: &Sample| -> Vec<&str> {
            let place = |id: &u64| profile.location.iter().find(|place| place.id == *id).expect("a location");
            let function = |id| profile.function.iter().find(|function| function.id == id).expect("one");
            sample.location_id.iter().map(|id| text(function(place(id).line[0].function_id).name)).collect()
        };
        assert_eq!(names(&profile.sample[0]), ["a", "all"]);
        assert_eq!(names(&profile.sample[1]), ["b", "all"]);
        assert_eq!(profile.function.len(), 3, "a name is one function");
    }

    #[test]
    fn text_has_a_line_for_each() {
        let text = sample().text();
        assert!(text.starts_with("what it is\n"), "{text}");
        assert!(text.contains("  b < all\n"), "{text}");
    }
}
