//! When a job runs: `@every 1h30m`, `@daily`, or cron.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::{SignedDuration, Zoned, civil};

use crate::quantity::{DurationError, parse_duration};

/// When a job runs.
///
/// - `@every <duration>`: so long after the last run. Less than a second means one second.
/// - `@hourly`, `@daily` (or `@midnight`), `@weekly` (Sunday), `@monthly`, `@yearly` (or `@annually`).
/// - Cron with the 5 fields minute, hour, day of month, month, day of week (0 and 7 are Sunday; names work), or
///   with 6, seconds first. If both the day of month and the day of week are restricted, one of them suffices,
///   as in every cron.
///
/// All but `@every` follow the local clock. A time that a change of the clock skips is made up for right after
/// the gap, and one that it repeats counts once; a job that runs every so many minutes or hours follows the clock
/// through both.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: Box<str>,
    rule: Rule,
}

#[derive(Clone, PartialEq, Eq)]
enum Rule {
    Every(Duration),
    Cron(Box<Cron>),
}

impl Schedule {
    /// The first time after `now` at which the job is due, in the time zone of `now`. `None`: never again.
    ///
    /// Whoever runs jobs passes the clock in, and with it the time zone, which is what cron is about and a
    /// `SystemTime` lacks.
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        match &self.rule {
            Rule::Every(interval) => now.checked_add(SignedDuration::try_from(*interval).ok()?).ok(),
            Rule::Cron(cron) => cron.find_next_occurrence(now, false).ok(),
        }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let rule = match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["@every", interval] => Rule::Every(parse_duration(interval)?.max(Duration::from_secs(1))),
            ["@hourly"] => cron(text, "0 * * * *")?,
            ["@daily" | "@midnight"] => cron(text, "0 0 * * *")?,
            ["@weekly"] => cron(text, "0 0 * * 0")?,
            ["@monthly"] => cron(text, "0 0 1 * *")?,
            ["@yearly" | "@annually"] => cron(text, "0 0 1 1 *")?,
            [first, ..] if first.starts_with('@') => return Err(ScheduleError::Nickname(text.into())),
            [_, _, _, _, _] | [_, _, _, _, _, _] => cron(text, text)?,
            _ => return Err(ScheduleError::Fields(text.into())),
        };
        Ok(Self { text: text.into(), rule })
    }
}

/// The fields of cron, seconds first, and what may be in them.
const FIELDS: [(&str, &str); 6] = [
    ("a second", "0 to 59"),
    ("a minute", "0 to 59"),
    ("an hour", "0 to 23"),
    ("a day", "1 to 31"),
    ("a month", "1 to 12, or jan to dec"),
    ("a weekday", "0 to 7, or sun to sat"),
];

/// Reads a pattern of 5 or 6 fields; `text` is what was written.
fn cron(text: &str, pattern: &str) -> Result<Rule, ScheduleError> {
    let parser = CronParser::builder().year(Year::Disallowed).build();
    let cron = parser.parse(pattern).map_err(|_| {
        // The parser does not say which field it means: the one that is wrong on its own as well.
        let fields: Vec<_> = pattern.split_whitespace().collect();
        let names = &FIELDS[FIELDS.len() - fields.len()..];
        let wrong = fields.iter().zip(names).enumerate().find(|(position, (field, _))| {
            let mut alone = vec!["*"; fields.len()];
            alone[*position] = field;
            parser.parse(&alone.join(" ")).is_err()
        });
        match wrong {
            Some((_, (field, (name, values)))) => {
                ScheduleError::Field { text: text.into(), field: (*field).into(), name, values }
            }
            None => ScheduleError::Fields(text.into()),
        }
    })?;
    // A field that lists no value at all would make the search below try every second of a year.
    let fields = &cron.pattern;
    let all_have_values = [&fields.seconds, &fields.minutes, &fields.hours, &fields.months]
        .into_iter()
        .all(|field| !field.values().is_empty())
        && [&fields.days, &fields.days_of_week]
            .into_iter()
            .all(|field| !field.values().is_empty() || field.has_modifiers());
    // Where the years are counted from does not matter: the calendar repeats.
    let start = civil::datetime(2000, 1, 1, 0, 0, 0, 0);
    if all_have_values && cron.find_next_occurrence(&start, true).is_ok() {
        Ok(Rule::Cron(Box::new(cron)))
    } else {
        Err(ScheduleError::Never(text.into()))
    }
}

/// As it was written.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?})", self.text)
    }
}

/// Why a text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// `@every` with a bad duration.
    #[error("@every: {0}")]
    Every(#[from] DurationError),
    /// Something else that begins with `@`.
    #[error(
        "{0:?} is not a schedule: use \"@every <duration>\", @hourly, @daily, @midnight, @weekly, @monthly, \
         @yearly, @annually, or cron fields"
    )]
    Nickname(String),
    /// Neither 5 nor 6 fields.
    #[error(
        "{0:?} is not a schedule: use \"@every <duration>\", or cron with 5 fields (minute, hour, day, month, \
         weekday), or 6 with seconds first"
    )]
    Fields(String),
    /// A field is wrong.
    #[error("{text:?}: {field:?} is not {name}: use {values}, *, lists (1,2), ranges (1-5) and steps (*/5)")]
    Field {
        /// What was written.
        text: String,
        /// The field of it that is wrong.
        field: String,
        /// What it should have been.
        name: &'static str,
        /// Which values it may have.
        values: &'static str,
    },
    /// No day of any year fits.
    #[error("{0:?} never happens: correct its day, month or weekday")]
    Never(String),
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    /// The next times of `schedule` after `now`, in a zone with daylight saving time, one word each.
    fn next(schedule: &str, now: &str, count: usize) -> Vec<String> {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a valid zone");
        let schedule: Schedule = schedule.parse().expect("a valid schedule");
        let mut now = now.parse::<civil::DateTime>().expect("a time").to_zoned(zone).expect("in range");
        std::iter::repeat_with(|| {
            now = schedule.next_after(&now).expect("a next time");
            now.strftime("%FT%T%:z").to_string()
        })
        .take(count)
        .collect()
    }

    #[test]
    fn every_counts_from_now() {
        assert_eq!(next("@every 1h30m", "2024-01-01T10:00:00", 1), ["2024-01-01T11:30:00+01:00"]);
        assert_eq!(next("  @every  1d ", "2024-01-01T10:00:00", 1), ["2024-01-02T10:00:00+01:00"]);
        assert_eq!(next("@every 10ms", "2024-01-01T10:00:00", 1), ["2024-01-01T10:00:01+01:00"]);
        // A day is 24 hours, also when the clock changes.
        assert_eq!(next("@every 1d", "2024-03-30T12:00:00", 1), ["2024-03-31T13:00:00+02:00"]);
    }

    #[test]
    fn nicknames_follow_the_local_calendar() {
        let now = "2024-02-28T10:20:30"; // a Wednesday
        for (nickname, expected) in [
            ("@hourly", "2024-02-28T11:00:00+01:00"),
            ("@daily", "2024-02-29T00:00:00+01:00"),
            ("@midnight", "2024-02-29T00:00:00+01:00"),
            ("@weekly", "2024-03-03T00:00:00+01:00"),
            ("@monthly", "2024-03-01T00:00:00+01:00"),
            ("@yearly", "2025-01-01T00:00:00+01:00"),
            ("@annually", "2025-01-01T00:00:00+01:00"),
        ] {
            assert_eq!(next(nickname, now, 1), [expected], "{nickname}");
        }
    }

    #[test]
    fn five_fields_are_minutes_first_and_six_are_seconds_first() {
        let now = "2024-02-28T10:20:30";
        assert_eq!(next("30 4 * * *", now, 1), ["2024-02-29T04:30:00+01:00"]);
        assert_eq!(next("15 30 4 * * *", now, 1), ["2024-02-29T04:30:15+01:00"]);
        assert_eq!(
            next("*/20 * * * * *", now, 2),
            ["2024-02-28T10:20:40+01:00", "2024-02-28T10:21:00+01:00"]
        );
        assert_eq!(next("0 9 * mar mon-fri", now, 1), ["2024-03-01T09:00:00+01:00"]);
        assert_eq!(next("0 0 * * 7", now, 1), ["2024-03-03T00:00:00+01:00"]);
    }

    #[test]
    fn a_day_of_month_and_a_day_of_week_are_alternatives() {
        let both = next("0 0 15 * 5", "2024-03-10T00:00:00", 3);
        assert_eq!(
            both,
            ["2024-03-15T00:00:00+01:00", "2024-03-22T00:00:00+01:00", "2024-03-29T00:00:00+01:00"]
        );
        assert_eq!(next("0 0 13 * 5", "2024-03-10T00:00:00", 1), ["2024-03-13T00:00:00+01:00"]);
    }

    #[test]
    fn a_changing_clock_neither_skips_nor_doubles_a_daily_job() {
        assert_eq!(
            next("30 2 * * *", "2024-03-30T12:00:00", 2),
            ["2024-03-31T03:00:00+02:00", "2024-04-01T02:30:00+02:00"]
        );
        assert_eq!(
            next("30 2 * * *", "2024-10-26T12:00:00", 2),
            ["2024-10-27T02:30:00+02:00", "2024-10-28T02:30:00+01:00"]
        );
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        for (text, message) in [
            (
                "",
                r#""" is not a schedule: use "@every <duration>", or cron with 5 fields (minute, hour, day, month, weekday), or 6 with seconds first"#,
            ),
            (
                "* * * *",
                r#""* * * *" is not a schedule: use "@every <duration>", or cron with 5 fields (minute, hour, day, month, weekday), or 6 with seconds first"#,
            ),
            (
                "0 0 1 1 * * 2030",
                r#""0 0 1 1 * * 2030" is not a schedule: use "@every <duration>", or cron with 5 fields (minute, hour, day, month, weekday), or 6 with seconds first"#,
            ),
            (
                "@fortnightly",
                r#""@fortnightly" is not a schedule: use "@every <duration>", @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or cron fields"#,
            ),
            ("@every 0s", r#"@every: "0s" is too short: a duration must be longer than zero"#),
            ("@every -1m", r#"@every: "-1m" is too short: a duration must be longer than zero"#),
            (
                "@every 5",
                r#"@every: "5" is not a duration: write numbers with units, such as "90s", "1h30m" or "1d" (units: ns, us, ms, s, m, h, d)"#,
            ),
            (", * * * *", r#"", * * * *" never happens: correct its day, month or weekday"#),
            ("0 0 30 2 *", r#""0 0 30 2 *" never happens: correct its day, month or weekday"#),
        ] {
            assert_eq!(text.parse::<Schedule>().expect_err(text).to_string(), message);
        }
        for (text, wrong) in [
            ("61 * * * *", r#""61" is not a minute: use 0 to 59, "#),
            ("61 * * * * *", r#""61" is not a second: use 0 to 59, "#),
            ("* 24 * * *", r#""24" is not an hour: use 0 to 23, "#),
            ("* * 0 * *", r#""0" is not a day: use 1 to 31, "#),
            ("* * * 1-13 *", r#""1-13" is not a month: use 1 to 12, or jan to dec, "#),
            ("* * * * 1 funday", r#""funday" is not a weekday: use 0 to 7, or sun to sat, "#),
            ("*/0 * * * *", r#""*/0" is not a minute: use 0 to 59, "#),
        ] {
            let message = text.parse::<Schedule>().expect_err(text).to_string();
            let expected = format!("{text:?}: {wrong}*, lists (1,2), ranges (1-5) and steps (*/5)");
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_schedule_is_shown_as_it_was_written() {
        for text in ["@every 60m", "@daily", "0 9 * mar mon-fri"] {
            assert_eq!(text.parse::<Schedule>().map(|schedule| schedule.to_string()), Ok(text.into()));
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_has_a_next_time(
            fields in proptest::collection::vec("[0-9*/,LW#?+-]{1,4}|[0-9]{1,2}|\\*|MON-FRI", 5..7)
        ) {
            if let Ok(schedule) = fields.join(" ").parse::<Schedule>() {
                let now = civil::datetime(2024, 2, 28, 10, 20, 30, 0).to_zoned(TimeZone::UTC).expect("in range");
                prop_assert!(schedule.next_after(&now).is_some_and(|next| next > now), "{schedule}");
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let _ = text.parse::<Schedule>();
        }
    }
}
