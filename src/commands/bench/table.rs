//! The table: a row for each kind of work and pass, a column for each library, grouped by mode.
//!
//! Groups that do not fit beside each other follow one below the other, each with the rows' names and the directory's
//! figures again.

use std::fmt::Write as _;

use aysfs_engine::Mode;

use super::measure::{Measured, mode_name};
use super::report::{Figure, Report};
use super::workload::{Pass, Workload};

/// Between columns.
const GAP: &str = "  ";

/// Marks work that was measured with a filesystem in memory.
pub(super) const IN_MEMORY: char = '*';

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
    let rows: Vec<(Workload, Pass)> = Workload::ALL
        .into_iter()
        .filter(|workload| report.columns.iter().any(|column| workload.serves(column.column.mode).is_some()))
        .flat_map(|workload| workload.passes().iter().map(move |pass| (workload, *pass)))
        .collect();
    let names = Group { title: String::new(), columns: names(report, &rows) };
    let groups: Vec<Group> = [Mode::ReadOnly, Mode::Overlay]
        .into_iter()
        .filter_map(|mode| {
            let columns: Vec<_> = report
                .columns
                .iter()
                .filter(|column| column.column.mode == mode)
                .map(|column| figures(column, &rows))
                .collect();
            (!columns.is_empty()).then(|| Group { title: format!("mode {} ", mode_name(mode)), columns })
        })
        .collect();

    let (mut parts, mut part): (Vec<Vec<&Group>>, _) = (Vec::new(), vec![&names]);
    for group in &groups {
        let wide = part.iter().map(|group| group.width() + GAP.len()).sum::<usize>() + group.width();
        if part.len() > 1 && wide > width {
            parts.push(std::mem::replace(&mut part, vec![&names]));
        }
        part.push(group);
    }
    parts.push(part);
    parts.iter().map(|part| drawn(part)).collect::<Vec<_>>().join("\n")
}

/// The columns on the left: work, unit, pass, and the directory's figures.
fn names(report: &Report, rows: &[(Workload, Pass)]) -> Vec<Text> {
    let in_memory = |workload: Workload| {
        report.columns.iter().any(|column| Report::behind(workload, column.column.mode) == Some("memory"))
    };
    let mut columns =
        [Align::Left, Align::Left, Align::Left, Align::Right].map(|align| Text { lines: Vec::new(), align });
    let mut line =
        |cells: [String; 4]| columns.iter_mut().zip(cells).for_each(|(column, cell)| column.lines.push(cell));
    line(["", "", "", "native"].map(String::from));
    line([""; 4].map(String::from));
    for (workload, pass) in rows {
        let first = *pass == Pass::First;
        let mark = if in_memory(*workload) { String::from(IN_MEMORY) } else { String::new() };
        let twice = workload.passes().len() > 1;
        line([
            if first { format!("{}{mark}", workload.name()) } else { String::new() },
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

fn drawn(groups: &[&Group]) -> String {
    let titles = groups.iter().map(|group| {
        let fill = if group.title.is_empty() { ' ' } else { '-' };
        let free = group.width().saturating_sub(group.title.chars().count());
        format!("{}{}", group.title, String::from(fill).repeat(free))
    });
    let mut text = titles.collect::<Vec<_>>().join(GAP);
    text.push('\n');
    let columns: Vec<&Text> = groups.iter().flat_map(|group| &group.columns).collect();
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
        ..0.1 => format!("{ratio:.3}x"),
        ..10.0 => format!("{ratio:.2}x"),
        _ => format!("{ratio:.1}x"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (value, expected) in [(0.0123, "0.012x"), (0.567, "0.57x"), (1.0, "1.00x"), (12.34, "12.3x")] {
            assert_eq!(ratio(value), expected);
        }
    }
}
