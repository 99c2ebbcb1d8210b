//! The figures, as tables in Markdown.

use crate::bench::{Column, Measured, Sample};
use crate::variant::Variant;
use crate::yardstick::Yardstick;

/// Prints all that was measured, network by network.
pub(crate) fn print(measured: &[Measured]) {
    for of_link in measured.chunk_by(|one, other| one.link == other.link) {
        let link = of_link[0].link.to_string();
        println!("\nTime or speed; how many times the yardstick it takes: median (lowest-highest).\n");
        table(&head([&link, "local disk", "yardstick"]), of_link.iter().map(speeds));
        println!("\nRequests / connections / MB moved / MB of memory / ms to the mount:\n");
        table(&head([&link]), of_link.iter().map(costs));
    }
    println!(
        "\nYardsticks: for a program and for all files one download of the fewest bytes that a variant moved, for a page a request on an \
         open\nconnection, for the large file a download of it compressed while it is decompressed."
    );
    for Measured { link, row, columns, .. } in measured {
        for Column { variant, failure, .. } in columns {
            if let Some(failure) = failure {
                println!("failed: {link}, {}, {}: {failure}", row.name(), variant.name());
            }
        }
    }
}

fn head<const N: usize>(first: [&str; N]) -> Vec<String> {
    first.into_iter().chain(Variant::ALL.map(Variant::name)).map(str::to_owned).collect()
}

/// The columns in the order of the head, and none where there is nothing to show.
fn cells(measured: &Measured, show: impl Fn(&Column) -> String) -> Vec<String> {
    let cell = |variant| {
        let column = measured.columns.iter().find(|column| column.variant == variant)?;
        Some(if column.samples.is_empty() { "failed".into() } else { show(column) })
    };
    Variant::ALL.map(|variant| cell(variant).unwrap_or_else(|| "-".into())).into()
}

fn speeds(measured: &Measured) -> Vec<String> {
    let row = measured.row;
    let seconds = |seconds: &[f64]| median(seconds.to_vec()).map_or("-".into(), |time| row.figure(time));
    let ours = cells(measured, |column| {
        let time = column.median(|sample| Some(sample.seconds)).map(|time| row.figure(time));
        let ratio = spread(column.samples.iter().filter_map(|sample| sample.ratio).collect());
        [time, ratio].into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    let sign = match row.yardstick() {
        Yardstick::Download => "",
        Yardstick::RoundTrip => " (one request)",
        Yardstick::Decompressed => " (decompressed)",
    };
    let first = [row.name().into(), seconds(&measured.native), seconds(&measured.yardstick) + sign];
    first.into_iter().chain(ours).collect()
}

/// Median, and in parentheses the smallest and the largest.
fn spread(mut ratios: Vec<f64>) -> Option<String> {
    ratios.sort_by(f64::total_cmp);
    let show = |ratio: f64| if ratio < 100.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") };
    let [lowest, highest] = [ratios.first(), ratios.last()].map(|ratio| ratio.copied().map(show));
    Some(format!("{}x ({}-{})", show(median(ratios)?), lowest?, highest?))
}

fn costs(measured: &Measured) -> Vec<String> {
    let ours = cells(measured, |column| {
        let number = |of: fn(&Sample) -> f64| column.median(|sample| Some(of(sample))).unwrap_or_default();
        let part = if column.samples.iter().all(|sample| sample.whole) { "" } else { " (of a part)" };
        format!(
            "{} / {} / {:.1} / {:.0} / {:.0}{part}",
            number(|sample| sample.traffic.requests as f64),
            number(|sample| sample.traffic.connections as f64),
            number(|sample| sample.traffic.bytes() as f64 / 1e6),
            number(|sample| sample.memory as f64 / 1e6),
            number(|sample| sample.ready.as_secs_f64() * 1e3),
        )
    });
    [measured.row.name().into()].into_iter().chain(ours).collect()
}

impl Column {
    /// The median of what the samples have.
    pub(crate) fn median(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(of).collect())
    }
}

/// The middle one; of two in the middle, the larger one.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Prints a table, its columns as wide as they have to be.
pub(crate) fn table(head: &[String], rows: impl Iterator<Item = Vec<String>>) {
    let line = vec!["---".into(); head.len()];
    let rows: Vec<Vec<String>> = [head.to_vec(), line].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("| {cell:width$} "));
        println!("{}|", cells.collect::<String>());
    }
}
