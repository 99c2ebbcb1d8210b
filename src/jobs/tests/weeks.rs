//! All forms of a schedule over simulated weeks, compared with a search that looks at each second of them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::*;

/// Time zones as POSIX writes them: no database is needed.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
/// Its clock is changed by half an hour.
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";

/// The cron forms that `@` stands for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 0 * * * *"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@monthly", "0 0 0 1 * *"),
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
];

const CRON: [&str; 24] = [
    "* * * * *",
    "*/7 * * * *",
    "5-50/15 * * * *",
    "30 2 * * *",
    "0 3 * * *",
    "15 2 * * 0",
    "59 23 * * *",
    "0 0,12 * * *",
    "10,40 1-3 * * *",
    "0 */5 * * mon-fri",
    "0 9 * mar,apr,oct,jan *",
    "0 0 1 * *",
    "0 0 1 * 5",
    "30 12 28-31 * *",
    "0 6 * * sun,Wed",
    "0 0 * * 7",
    "0 22 * Dec SAT",
    "45 1 * * 1-5/2",
    "0 30 4 * * *",
    "15,45 0 */8 * * *",
    "*/20 59 * * * *",
    "10-13 0 0 * * 6",
    "30 30 2 * * *",
    "59 59 23 * * *",
];

const EVERY: [(&str, u64); 7] = [
    ("@every 1h30m", 5400),
    ("@every 90s", 90),
    ("@every 1.5h", 5400),
    ("@every 1d", 86_400),
    ("@every 1d12h", 129_600),
    ("@every 61m1s", 3661),
    ("@every 2h0m0.000s", 7200),
];

struct Week {
    start: Zoned,
    /// What a clock on the wall shows, second by second, from one second after the start on.
    seconds: Vec<DateTime>,
}

impl Week {
    fn new(zone: &str, start: &str) -> Self {
        let zone = TimeZone::posix(zone).expect("a zone");
        let start = start.parse::<DateTime>().expect("a time").to_zoned(zone.clone()).expect("in range");
        let first = start.timestamp().as_second();
        let seconds = (first + 1..=first + 7 * 86_400)
            .map(|second| zone.to_datetime(Timestamp::from_second(second).expect("in range")))
            .collect();
        Self { start, seconds }
    }

    /// The seconds after the start at which a job begins.
    async fn fired(&self, text: &str) -> Vec<u64> {
        let end = &self.start + SignedDuration::from_secs(7 * 86_400);
        let clock = SimulatedClock::new(self.start.clone(), end);
        let fired = Arc::<Mutex<Vec<u64>>>::default();
        let (log, own, start) = (fired.clone(), clock.clone(), self.start.clone());
        let job = Job::start("test", schedule(text), clock.clone(), move || {
            let after = Duration::try_from(start.duration_until(&own.now())).expect("later");
            assert_eq!(after.subsec_nanos(), 0, "schedules know whole seconds");
            log.lock().expect("not poisoned").push(after.as_secs());
            async { Ok(()) }
        });
        clock.0.is_over.notified().await;
        job.stop().await;
        std::mem::take(&mut *fired.lock().expect("not poisoned"))
    }

    /// The same, found by looking at each second.
    fn expected(&self, cron: &Cron) -> Vec<u64> {
        let mut latest = self.start.datetime();
        let mut found = Vec::new();
        for (after, shown) in (1..).zip(&self.seconds) {
            let fires = if cron.is_one_time_of_day() {
                // What is shown again counts once, and what is never shown as soon as it is over.
                let mut due = false;
                while latest < *shown {
                    latest = latest + SignedDuration::from_secs(1);
                    due |= cron.fits(latest);
                }
                due
            } else {
                cron.fits(*shown)
            };
            if fires {
                found.push(after);
            }
        }
        found
    }
}

/// Cron with six fields.
struct Cron {
    text: String,
    fields: [BTreeSet<i8>; 6],
}

impl Cron {
    fn parse(text: &str) -> Self {
        let text = if text.split(' ').count() == 5 { format!("0 {text}") } else { text.to_owned() };
        let mut fields = text.split(' ');
        let ranges = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
        let fields = ranges.map(|(first, last)| Self::field(fields.next().expect("six"), first, last));
        Self { text, fields }
    }

    fn field(text: &str, first: i8, last: i8) -> BTreeSet<i8> {
        const MONTHS: [&str; 12] =
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let number = |word: &str| -> i8 {
            let word = word.to_ascii_lowercase();
            let month = (1..).zip(MONTHS).find(|(_, name)| *name == word).map(|(number, _)| number);
            let day = (0..).zip(DAYS).find(|(_, name)| *name == word).map(|(number, _)| number);
            month.or(day).unwrap_or_else(|| word.parse().expect("a number"))
        };
        let mut values = BTreeSet::new();
        for part in text.split(',') {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (first, last),
                Some((from, to)) => (number(from), number(to)),
                None => (number(range), number(range)),
            };
            values.extend((from..=to).step_by(step.parse().expect("a step")));
        }
        if (first, last) == (0, 7) && values.remove(&7) {
            values.insert(0);
        }
        values
    }

    fn is_one_time_of_day(&self) -> bool {
        self.fields[..3].iter().all(|field| field.len() == 1)
    }

    fn fits(&self, shown: DateTime) -> bool {
        let time = [shown.second(), shown.minute(), shown.hour()];
        let weekday = shown.weekday().to_sunday_zero_offset();
        let [day, fits_weekday] = [self.fields[3].contains(&shown.day()), self.fields[5].contains(&weekday)];
        let is_restricted = |field| self.text.split(' ').nth(field) != Some("*");
        let fits_day = match (is_restricted(3), is_restricted(5)) {
            (true, true) => day || fits_weekday,
            _ => day && fits_weekday,
        };
        fits_day
            && self.fields[4].contains(&shown.month())
            && self.fields.iter().zip(time).all(|(field, value)| field.contains(&value))
    }
}

async fn compare(zone: &str, start: &str) {
    let week = Week::new(zone, start);
    let crons = CRON.into_iter().map(|text| (text, text)).chain(NICKNAMES);
    for (text, meaning) in crons {
        let (fired, expected) = (week.fired(text).await, week.expected(&Cron::parse(meaning)));
        assert_eq!(fired, expected, "{text} from {}", week.start);
    }
    for (text, seconds) in EVERY {
        let expected: Vec<_> = (1..=7 * 86_400 / seconds).map(|number| number * seconds).collect();
        assert_eq!(week.fired(text).await, expected, "{text} from {}", week.start);
    }
}

#[tokio::test]
async fn a_week_without_a_change_of_the_clock() {
    compare("UTC0", "2024-02-26T00:00:00").await;
}

#[tokio::test]
async fn a_week_in_which_a_month_and_summer_time_begin() {
    compare(BERLIN, "2024-03-27T10:20:30").await;
}

#[tokio::test]
async fn a_week_in_which_summer_time_ends() {
    compare(BERLIN, "2024-10-22T23:59:59").await;
}

#[tokio::test]
async fn a_week_in_which_a_year_begins() {
    compare(BERLIN, "2023-12-28T12:00:00").await;
}

#[tokio::test]
async fn weeks_in_which_the_clock_changes_by_half_an_hour() {
    compare(LORD_HOWE, "2024-10-02T01:00:00").await;
    compare(LORD_HOWE, "2024-04-03T01:00:00").await;
}

#[tokio::test]
async fn every_second_of_a_week() {
    let week = Week::new("UTC0", "2024-02-26T00:00:00");
    let all: Vec<u64> = (1..=7 * 86_400).collect();
    for text in ["* * * * * *", "@every 1s", "@every 10ms"] {
        assert!(week.fired(text).await == all, "{text}");
    }
}
