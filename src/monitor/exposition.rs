//! Numbers in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Written by hand: the totals are atomic numbers where they are counted, and a crate that wants to own them would bring locks
//! into the way of a read.

use std::fmt::{Display, Write};

/// The text so far.
#[derive(Default)]
pub(super) struct Exposition(String);

/// How a number is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Labels and their values.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family of samples; all of them follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        Family { text: self, name }
    }

    pub(super) fn text(self) -> String {
        self.0
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("memory takes everything");
    }
}

/// A family that is being written.
pub(super) struct Family<'a> {
    text: &'a mut Exposition,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample of a histogram: `_bucket`, `_sum` or `_count`.
    pub(super) fn part(&mut self, part: &str, labels: &Labels<'_>, value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let name = self.name;
        if labels.is_empty() {
            self.text.line(format_args!("{name}{part} {value}"));
        } else {
            self.text.line(format_args!("{name}{part}{{{}}} {value}", labels.join(",")));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut text = Exposition::default();
        let mut family = text.family("a_total", Kind::Counter, "one\nline \\");
        family.sample(&[], 1);
        family.sample(&[("path", "a\"b\\c\nd"), ("x", "")], 0.5);
        family.part("_sum", &[("le", "+Inf")], 2);
        let expected = concat!(
            "# HELP a_total one\\nline \\\\\n",
            "# TYPE a_total counter\n",
            "a_total 1\n",
            "a_total{path=\"a\\\"b\\\\c\\nd\",x=\"\"} 0.5\n",
            "a_total_sum{le=\"+Inf\"} 2\n",
        );
        assert_eq!(text.text(), expected);
    }
}
