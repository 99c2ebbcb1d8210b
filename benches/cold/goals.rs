//! What is to be reached. Nothing fails if it is not: the machine decides, too.
//!
//! Ratios are to what was measured in the same run. Times and speeds are those of the best other filesystem of this kind on two
//! cores, and what was promised beyond them.

use std::time::Duration;

use crate::bench::Measured;
use crate::report::{median, table};
use crate::row::Row;
use crate::variant::Variant;

/// Without a delay.
const NEAR: u64 = 0;
/// The delay that the goals are about, in milliseconds.
const FAR: u64 = 20;

/// What a goal is about.
enum Measure {
    /// Seconds, at most so many.
    Seconds(f64),
    /// Files or bytes a second, at least so many.
    PerSecond(f64),
    /// At most so many times the yardstick.
    Yardstick(f64),
    /// At most so many times the yardstick and the same work on the local disk, one after the other: less than its own work no
    /// program can do.
    YardstickAndWork(f64),
    /// At most so much longer than the yardstick, in seconds.
    Longer(f64),
    /// At least so many times as fast as v1.
    FasterThanV1(f64),
    /// MB fetched, at most.
    Megabytes(f64),
    /// MB of memory, at most.
    Memory(f64),
}

use Measure::{FasterThanV1, Longer, Megabytes, Memory, PerSecond, Seconds, Yardstick, YardstickAndWork};

/// Milliseconds of the round trip, row, variant, what.
const GOALS: &[(u64, Row, Variant, Measure)] = &[
    (NEAR, Row::Python, Variant::V2, Seconds(0.62)),
    (NEAR, Row::Python, Variant::V2, Megabytes(25.7)),
    (FAR, Row::Python, Variant::V2, Seconds(1.39)),
    (FAR, Row::Python, Variant::V2, FasterThanV1(4.0)),
    (FAR, Row::Python, Variant::Profiled, Yardstick(1.5)),
    (FAR, Row::Python, Variant::Profiled, YardstickAndWork(1.5)),
    (NEAR, Row::First, Variant::V2, Longer(0.005)),
    (FAR, Row::First, Variant::V2, Longer(0.005)),
    (NEAR, Row::Middle, Variant::V2, Longer(0.005)),
    (FAR, Row::Middle, Variant::V2, Longer(0.005)),
    (NEAR, Row::Sequential, Variant::V2, Yardstick(1.3)),
    (FAR, Row::Sequential, Variant::V2, Yardstick(1.3)),
    (NEAR, Row::Sequential, Variant::V2, PerSecond(350e6)),
    (FAR, Row::Sequential, Variant::V2, PerSecond(306e6)),
    (NEAR, Row::Sequential, Variant::V2, Memory(44.0)),
    (NEAR, Row::Small, Variant::V2, PerSecond(12_000.0)),
    (FAR, Row::Small, Variant::V2, PerSecond(6_000.0)),
    (NEAR, Row::Small, Variant::V2, Memory(44.0)),
];

/// Prints which of them were measured, and which of those were reached.
pub(crate) fn print(measured: &[Measured]) {
    let rows: Vec<Vec<String>> = GOALS.iter().filter_map(|goal| judged(goal, measured)).collect();
    if !rows.is_empty() {
        println!();
        table(&["", "goal", "measured", "reached"].map(String::from), rows.into_iter());
    }
}

fn judged(
    (delay, row, variant, measure): &(u64, Row, Variant, Measure),
    all: &[Measured],
) -> Option<Vec<String>> {
    let measured = all.iter().find(|measured| {
        // A bandwidth is another network than the one of the goals.
        let link = measured.link;
        let same = link.round_trip == Duration::from_millis(*delay) && link.bandwidth.is_none();
        same && measured.row == *row
    })?;
    let of = |variant| measured.columns.iter().find(|column| column.variant == variant);
    let column = of(*variant)?;
    let seconds = column.median(|sample| Some(sample.seconds))?;
    let yardstick = || median(measured.yardstick.clone());
    let (goal, found, reached) = match *measure {
        Seconds(most) => (format!("{most} s"), format!("{seconds:.2} s"), seconds <= most),
        PerSecond(least) => {
            (row.figure(row.amount() / least), row.figure(seconds), row.amount() / seconds >= least)
        }
        Yardstick(most) => {
            let ratio = column.median(|sample| sample.ratio)?;
            (format!("{most} times the yardstick"), format!("{ratio:.2}"), ratio <= most)
        }
        YardstickAndWork(most) => {
            let ratio = seconds / (yardstick()? + median(measured.native.clone())?);
            (format!("{most} times yardstick + local disk"), format!("{ratio:.2}"), ratio <= most)
        }
        Longer(most) => {
            let longer = seconds - yardstick()?;
            let show = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
            (format!("one request + {}", show(most)), format!("+ {}", show(longer)), longer <= most)
        }
        FasterThanV1(least) => {
            let ratio = of(Variant::V1)?.median(|sample| Some(sample.seconds))? / seconds;
            (format!("{least} times as fast as v1"), format!("{ratio:.1}"), ratio >= least)
        }
        Megabytes(most) => {
            let moved = column.median(|sample| Some(sample.traffic.down as f64 / 1e6))?;
            (format!("{most} MB fetched"), format!("{moved:.1} MB"), moved <= most)
        }
        Memory(most) => {
            let memory = column.median(|sample| Some(sample.memory as f64 / 1e6))?;
            (format!("{most} MB of memory"), format!("{memory:.0} MB"), memory <= most)
        }
    };
    let name = format!("{}, {}, {}", measured.link, row.name(), variant.name());
    Some(vec![name, goal, found, if reached { "yes" } else { "no" }.into()])
}
