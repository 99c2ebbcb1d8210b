//! What the numbers mean, and which library to choose: said from what was measured, whichever libraries there are.

use aysfs_config::Lib;

use super::measure::median;
use super::report::{Figure, Report};
use super::table::number;
use super::workload::{Pass, Workload};
use crate::cli::Mode;

/// What differs by less is alike: the machine does other things, too.
const ALIKE: f64 = 1.1;

/// Rounds that differ by more than this part of their median say little.
const UNSTEADY: f64 = 0.5;

const READS: &[Workload] = &[
    Workload::Sequential,
    Workload::Random(1),
    Workload::Random(4),
    Workload::Stat,
    Workload::Find,
    Workload::ReadSmall,
];
const WRITES: &[Workload] = &[Workload::Create, Workload::Write];

/// How lines after the first of a paragraph begin.
const INDENT: &str = "  ";

/// The text below the table, in lines of at most `width` characters.
pub(super) fn text(report: &Report, width: usize) -> String {
    let mut paragraphs = legend(report);
    paragraphs.push(String::new());
    paragraphs.extend(messages(report));
    for mode in Mode::ALL {
        paragraphs.extend(comparison(report, mode));
    }
    paragraphs.extend(choice(report));
    paragraphs.extend(doubt(report));
    paragraphs.iter().map(|paragraph| wrapped(paragraph, width)).collect()
}

/// What the words of the table stand for, as far as they are in it, and what is missing in it.
fn legend(report: &Report) -> Vec<String> {
    let has = |mode| report.measured().any(|column| column.column.mode == mode);
    let passthrough = report.measured().any(|column| column.passthrough() == Some(true));
    let lines = [
        (true, "native: the directory itself, kept in memory by the kernel. x: as a part of native.".into()),
        (
            true,
            "first: on a new mount, of which the kernel knows nothing yet; the content is in aysfs's cache."
                .into(),
        ),
        (true, "again: the same once more, with what the kernel has kept.".into()),
        (has(Mode::ReadOnly), "mode RO: nothing can change, so files are read without being opened.".into()),
        (has(Mode::Overlay), "mode OL: files are opened with a message, since they may change.".into()),
        (passthrough, "passthrough: the kernel reads cached files itself, without a message.".into()),
    ];
    let failures = report.columns.iter().filter_map(|column| {
        column
            .failure
            .as_ref()
            .map(|failure| format!("{} could not be measured: {failure}", column.column.name()))
    });
    lines.into_iter().filter_map(|(applies, line)| applies.then_some(line)).chain(failures).collect()
}

/// What a message costs: the time of a read that was one.
fn messages(report: &Report) -> Option<String> {
    let mut costs: Vec<(Lib, f64)> = Vec::new();
    for column in report.measured().filter(|column| column.passthrough() == Some(false)) {
        let known = costs.iter().any(|(lib, _)| *lib == column.column.lib);
        if let (false, Some(figure)) = (known, column.figure(Workload::Random(1), Pass::First)) {
            costs.push((column.column.lib, 1e6 / figure.value));
        }
    }
    let costs: Vec<_> =
        costs.iter().map(|(lib, microseconds)| format!("{} µs with {lib}", number(*microseconds))).collect();
    (!costs.is_empty()).then(|| {
        format!(
            "What the kernel does not know by itself is a message to aysfs and back. On this machine, that takes {}.",
            listed(&costs)
        )
    })
}

/// How the libraries differ in one mode.
fn comparison(report: &Report, mode: Mode) -> Option<String> {
    let kinds = [
        ("before the kernel knows the files (first)", READS, Pass::First),
        ("once it knows them (again)", READS, Pass::Again),
        ("where files are written", WRITES, Pass::First),
    ];
    let found: Vec<_> = kinds
        .into_iter()
        .filter_map(|(when, work, pass)| {
            Some(format!("{when}, {}", ranked(&ranking(report, mode, work, pass))?))
        })
        .collect();
    (!found.is_empty()).then(|| format!("Mode {}: {}.", mode.name(), found.join("; ")))
}

/// The library that is ahead everywhere, or why there is none.
fn choice(report: &Report) -> Option<String> {
    let mut best: Vec<(Mode, Lib)> = Vec::new();
    for mode in Mode::ALL {
        // Both passes count alike: most mounts begin with the first, and live on the second.
        let [first, again] = [Pass::First, Pass::Again].map(|pass| ranking(report, mode, READS, pass));
        let both = first.iter().filter_map(|(lib, speed)| {
            let (_, other) = again.iter().find(|(found, _)| found == lib)?;
            Some((*lib, (speed * other).sqrt()))
        });
        let both: Vec<_> = both.collect();
        if both.len() < 2 {
            continue;
        }
        let top = both.iter().map(|(_, speed)| *speed).fold(0.0, f64::max);
        let ahead: Vec<Lib> =
            both.iter().filter(|(_, speed)| top / speed < ALIKE).map(|(lib, _)| *lib).collect();
        // Where it does not matter, what everyone else uses is best tried.
        let default = Lib::default();
        best.extend(
            if ahead.contains(&default) { Some(default) } else { ahead.first().copied() }
                .map(|lib| (mode, lib)),
        );
    }
    let by_mode = |(mode, lib): &(Mode, Lib)| format!("lib = \"{lib}\" for mode {}", mode.name());
    match best.as_slice() {
        [] => None,
        [(_, one), (_, other)] if one == other => {
            Some(format!("Reads on this machine speak for lib = \"{one}\" in both modes."))
        }
        best => {
            let best: Vec<_> = best.iter().map(by_mode).collect();
            Some(format!("Reads on this machine speak for {}.", listed(&best)))
        }
    }
}

/// Whether the figures are worth much.
fn doubt(report: &Report) -> Option<String> {
    let figures = report.measured().flat_map(|column| {
        Workload::ALL.into_iter().flat_map(move |workload| {
            workload.passes().iter().filter_map(move |pass| column.figure(workload, *pass))
        })
    });
    let spreads: Vec<_> =
        figures.map(|Figure { ratio, .. }| (ratio.highest - ratio.lowest) / ratio.median).collect();
    let spread = median(&spreads).filter(|spread| *spread > UNSTEADY)?;
    Some(format!(
        "The rounds differ by {:.0} %, so the machine was busy: measure again when it is idle, or with more --runs.",
        spread * 100.0
    ))
}

/// The libraries by their speed, as a part of native: the geometric mean over the work. The fastest is first.
fn ranking(report: &Report, mode: Mode, work: &[Workload], pass: Pass) -> Vec<(Lib, f64)> {
    let mut ranking: Vec<_> = report
        .measured()
        .filter(|column| column.column.mode == mode)
        .filter_map(|column| {
            let logarithms = work.iter().map(|work| Some(column.figure(*work, pass)?.ratio.median.ln()));
            let sum: f64 = logarithms.sum::<Option<f64>>()?;
            Some((column.column.lib, (sum / work.len() as f64).exp()))
        })
        .collect();
    ranking.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranking
}

/// Says who is ahead, and by how much; nothing if there is nothing to compare.
fn ranked(ranking: &[(Lib, f64)]) -> Option<String> {
    let [(_, top), _, ..] = ranking else { return None };
    let names =
        |libs: &[(Lib, f64)]| listed(&libs.iter().map(|(lib, _)| lib.to_string()).collect::<Vec<_>>());
    let ahead = ranking.iter().take_while(|(_, speed)| top / speed < ALIKE).count();
    let (ahead, behind) = ranking.split_at(ahead);
    if behind.is_empty() {
        return Some(format!("{} are alike", names(ahead)));
    }
    let behind: Vec<_> =
        behind.iter().map(|(lib, speed)| format!("{:.1} times as fast as {lib}", top / speed)).collect();
    let verb = if ahead.len() == 1 { "is" } else { "are" };
    Some(format!("{} {verb} {}", names(ahead), listed(&behind)))
}

/// `a, b and c`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A paragraph in lines that are not too long; words that are stay whole.
fn wrapped(paragraph: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        let line = lines.last_mut().expect("there always is one");
        let used = line.chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(format!("{INDENT}{word}"));
        } else {
            line.push_str(if used > 0 { " " } else { "" });
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_compared_by_what_was_measured() {
        let ranked = |speeds: &[(Lib, f64)]| ranked(speeds);
        assert_eq!(ranked(&[(Lib::Fuser, 0.5)]), None);
        assert_eq!(
            ranked(&[(Lib::Fuse3, 0.5), (Lib::Fuser, 0.49)]).as_deref(),
            Some("fuse3 and fuser are alike")
        );
        assert_eq!(
            ranked(&[(Lib::Fuser, 0.6), (Lib::Polyfuse, 0.4), (Lib::Fuse3, 0.2)]).as_deref(),
            Some("fuser is 1.5 times as fast as polyfuse and 3.0 times as fast as fuse3")
        );
        assert_eq!(
            ranked(&[(Lib::Fuser, 0.6), (Lib::Polyfuse, 0.58), (Lib::Fuse3, 0.2)]).as_deref(),
            Some("fuser and polyfuse are 3.0 times as fast as fuse3")
        );
    }

    #[test]
    fn paragraphs_are_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 9), "one two\n  three\n");
        assert_eq!(wrapped("a-very-long-word and", 9), "a-very-long-word\n  and\n");
        assert_eq!(wrapped("", 9), "\n");
    }
}
