//! The table: a row for each kind of work and pass, a column for each library, grouped by mode.
//!
//! Groups that do not fit beside each other follow one below the other, each with the rows' names and the directory's
//! figures again.

use std::fmt::Write as _;

use super::measure::Measured;
use super::report::{Figure, Report};
use super::workload::{Pass, Workload};
use crate::cli::Mode;

/// Between columns.
const GAP: &str = "  ";

/// One column of text. All have the same number of lines.
struct Text {
    lines: Vec<String>,
    align: Align,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Columns that belong together, with a line above them.
struct Group {
    title: String,
    columns: Vec<Text>,
}

/// Lines above the figures in each column: the library, and what is special about it.
const HEAD: usize = 2;

/// The table, in as many parts as it takes to stay within `width` characters.
pub(super) fn table(report: &Report, width: usize) -> String {
    let mut parts: Vec<Part> = Vec::new();
    for mode in Mode::ALL {
        if report.columns.iter().all(|column| column.column.mode != mode) {
            continue;
        }
        let wider = parts.last().map(|last| Part::of(report, [&last.modes[..], &[mode]].concat()));
        match wider.filter(|wider| wider.width() <= width) {
            Some(wider) => *parts.last_mut().expect("it was made wider") = wider,
            None => parts.push(Part::of(report, vec![mode])),
        }
    }
    parts.iter().map(Part::drawn).collect::<Vec<_>>().join("\n")
}

/// Groups beside each other, behind the names of the rows.
struct Part {
    modes: Vec<Mode>,
    groups: Vec<Group>,
}

impl Part {
    fn of(report: &Report, modes: Vec<Mode>) -> Self {
        let rows: Vec<(Workload, Pass)> = Workload::ALL
            .into_iter()
            .filter(|workload| modes.iter().any(|mode| workload.runs_in(*mode)))
            .flat_map(|workload| workload.passes().iter().map(move |pass| (workload, *pass)))
            .collect();
        let mut groups = vec![Group { title: String::new(), columns: names(report, &rows) }];
        groups.extend(modes.iter().map(|mode| {
            let columns = report.columns.iter().filter(|column| column.column.mode == *mode);
            let columns = columns.map(|column| figures(column, &rows)).collect();
            Group { title: format!("mode {} ", mode.name()), columns }
        }));
        Self { modes, groups }
    }

    fn width(&self) -> usize {
        let groups: usize = self.groups.iter().map(Group::width).sum();
        groups + GAP.len() * self.groups.len().saturating_sub(1)
    }

    fn drawn(&self) -> String {
        let titles = self.groups.iter().map(|group| {
            let fill = if group.title.is_empty() { ' ' } else { '-' };
            let free = group.width().saturating_sub(group.title.chars().count());
            format!("{}{}", group.title, String::from(fill).repeat(free))
        });
        let mut text = titles.collect::<Vec<_>>().join(GAP);
        text.push('\n');
        let columns: Vec<&Text> = self.groups.iter().flat_map(|group| &group.columns).collect();
        let lines = columns.first().map_or(0, |column| column.lines.len());
        for number in 0..lines {
            let cells = columns.iter().map(|column| {
                let (cell, width) = (&column.lines[number], column.width());
                match column.align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            // Nothing may be special about any column.
            if number >= HEAD || !line.trim().is_empty() {
                writeln!(text, "{}", line.trim_end()).expect("text takes everything");
            }
        }
        text
    }
}

/// The columns on the left: work, unit, pass, and the directory's figures.
fn names(report: &Report, rows: &[(Workload, Pass)]) -> Vec<Text> {
    let mut columns =
        [Align::Left, Align::Left, Align::Left, Align::Right].map(|align| Text { lines: Vec::new(), align });
    let mut line =
        |cells: [String; 4]| columns.iter_mut().zip(cells).for_each(|(column, cell)| column.lines.push(cell));
    line(["", "", "", "native"].map(String::from));
    line([""; 4].map(String::from));
    for (workload, pass) in rows {
        let first = *pass == Pass::First;
        let twice = workload.passes().len() > 1;
        line([
            if first { workload.name().into() } else { String::new() },
            if first { workload.unit().name().into() } else { String::new() },
            if twice { pass.name().into() } else { String::new() },
            report.native(*workload).filter(|_| first).map(number).unwrap_or_default(),
        ]);
    }
    columns.into()
}

fn figures(measured: &Measured, rows: &[(Workload, Pass)]) -> Text {
    let figures: Vec<Option<Figure>> =
        rows.iter().map(|(workload, pass)| measured.figure(*workload, *pass)).collect();
    let ratios: Vec<String> = figures.iter().flatten().map(|figure| ratio(figure.ratio.median)).collect();
    let width = ratios.iter().map(String::len).max().unwrap_or_default();
    let note = match (measured.failure.is_some(), measured.passthrough()) {
        (true, _) => "failed",
        (false, Some(true)) => "passthrough",
        (false, _) => "",
    };
    let mut lines = vec![measured.column.lib.to_string(), note.to_owned()];
    let cells = figures.into_iter().map(|figure| match figure {
        Some(figure) => format!("{} {:>width$}", number(figure.value), ratio(figure.ratio.median)),
        None => "-".into(),
    });
    lines.extend(cells);
    Text { lines, align: Align::Right }
}

impl Text {
    fn width(&self) -> usize {
        self.lines.iter().map(|line| line.chars().count()).max().unwrap_or_default()
    }
}

impl Group {
    fn width(&self) -> usize {
        let columns: usize = self.columns.iter().map(Text::width).sum();
        columns + GAP.len() * self.columns.len().saturating_sub(1)
    }
}

/// Three digits that count.
pub(super) fn number(value: f64) -> String {
    let (value, unit) = match value {
        ..1e4 => (value, ""),
        ..1e6 => (value / 1e3, "k"),
        _ => (value / 1e6, "M"),
    };
    match value {
        ..10.0 => format!("{value:.2}{unit}"),
        ..100.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

pub(super) fn ratio(ratio: f64) -> String {
    match ratio {
        ..0.01 => format!("{ratio:.3}x"),
        ..10.0 => format!("{ratio:.2}x"),
        _ => format!("{ratio:.1}x"),
    }
}

#[cfg(test)]
mod tests {
    use aysfs_config::Lib;
    use aysfs_workload::Machine;

    use super::*;
    use crate::commands::bench::measure::{Column, Sample};

    /// All there can be.
    fn report(failed: (Lib, Mode)) -> Report {
        let measured = |lib, mode| {
            let speeds = |workload: Workload| {
                workload.passes().iter().map(move |pass| Sample {
                    workload,
                    pass: *pass,
                    native: 1.4e6,
                    speed: 1.357e6,
                })
            };
            let samples = Workload::ALL.into_iter().filter(|workload| workload.runs_in(mode));
            let messages = if (lib, mode) == (Lib::Fuser, Mode::Overlay) { vec![0.1] } else { vec![1.0] };
            Measured {
                column: Column { lib, mode },
                samples: samples.flat_map(speeds).collect(),
                native: Workload::ALL.map(|workload| (workload, 1.4e7)).into(),
                messages,
                failure: ((lib, mode) == failed).then(|| "no fusermount3".into()),
            }
        };
        let modes = Mode::ALL;
        Report {
            machine: Machine::this(),
            filesystem: "ext4".into(),
            dir: "/var/tmp".into(),
            files: 1,
            small_bytes: 1,
            large_bytes: 1,
            runs: 1,
            columns: modes.iter().flat_map(|mode| Lib::ALL.map(|lib| measured(lib, *mode))).collect(),
        }
    }

    #[test]
    fn modes_are_side_by_side_where_there_is_room() {
        let report = report((Lib::Polyfuse, Mode::Overlay));
        for (width, parts) in [(120, 1), (80, 2), (10, 2)] {
            let text = table(&report, width);
            println!("{text}");
            assert_eq!(text.matches("native").count(), parts);
            for word in ["mode RO", "mode OL", "passthrough"] {
                assert_eq!(text.matches(word).count(), 1);
            }
            let longest = text.lines().map(|line| line.chars().count()).max().expect("lines");
            assert!(longest <= width.max(80), "{longest}");
            assert!(text.lines().all(|line| line.trim_end() == line));
        }
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, expected) in [
            (0.0, "0.00"),
            (9.994, "9.99"),
            (52.04, "52.0"),
            (8213.4, "8213"),
            (10_000.0, "10.0k"),
            (123_456.0, "123k"),
            (1_234_567.0, "1.23M"),
            (45_678_901.0, "45.7M"),
        ] {
            assert_eq!(number(value), expected);
        }
        for (value, expected) in
            [(0.0023, "0.002x"), (0.0123, "0.01x"), (0.567, "0.57x"), (1.0, "1.00x"), (12.34, "12.3x")]
        {
            assert_eq!(ratio(value), expected);
        }
    }
}
