//! Amounts with units: durations and byte sizes.
//!
//! Decimal fractions (`1.5h`, `0.5GiB`) are exact: nothing here passes through floating point.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// In nanoseconds. Those of Go's `time.ParseDuration`, and days.
const TIME_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// In bytes, as the coreutils read them: `K` and `KiB` are 1024, `kB` is 1000.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Why a text is not an amount.
enum Malformed {
    /// It is not a number with a unit.
    Syntax,
    /// It is more than 64 bits hold.
    Overflow,
}

/// Takes one number with its unit off the front of `text`; returns the amount and the rest.
fn take_amount<'a>(text: &'a str, units: &[(&str, u64)]) -> Result<(u64, &'a str), Malformed> {
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !numeric(c)).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(numeric).unwrap_or(rest.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(Malformed::Syntax);
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(Malformed::Syntax)?;

    // 10^18 parts of the largest unit still fit into 128 bits; further digits are below the smallest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
    let whole = digits(whole).map_err(|_| Malformed::Overflow)?;
    let parts = digits(fraction).map_err(|_| Malformed::Overflow)?;
    let places = u32::try_from(fraction.len()).map_err(|_| Malformed::Overflow)?;
    let scale = u128::from(*scale);
    let amount = u128::from(whole) * scale + u128::from(parts) * scale / 10_u128.pow(places);
    Ok((u64::try_from(amount).map_err(|_| Malformed::Overflow)?, rest))
}

/// Reads a duration longer than zero, written as in Go (`90s`, `1h30m`, `1.5h`), or with days (`1d12h`).
///
/// # Errors
/// It is malformed, not longer than zero, or longer than 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.into());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(malformed());
    }
    // Go's only duration without a unit.
    if rest == "0" {
        rest = "";
    }
    while !rest.is_empty() {
        let (amount, next) = take_amount(rest, TIME_UNITS).map_err(|e| match e {
            Malformed::Syntax => malformed(),
            Malformed::Overflow => DurationError::TooLong(text.into()),
        })?;
        total = total.checked_add(amount).ok_or_else(|| DurationError::TooLong(text.into()))?;
        rest = next;
    }
    if negative || total == 0 {
        return Err(DurationError::NotPositive(text.into()));
    }
    Ok(Duration::from_nanos(total))
}

/// Why a text is not a duration that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not numbers with units.
    #[error(
        "{0:?} is not a duration: write numbers with units, such as \"90s\", \"1h30m\" or \"1d\" \
         (units: ns, us, ms, s, m, h, d)"
    )]
    Malformed(String),
    /// Zero, or less.
    #[error("{0:?} is too short: a duration must be longer than zero")]
    NotPositive(String),
    /// More than 64 bits of nanoseconds.
    #[error("{0:?} is too long: durations reach to 584 years")]
    TooLong(String),
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Reads `10GiB`, `1.5G` (powers of 1024), `500MB` (powers of 1000), or plain bytes; case does not matter.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        match take_amount(&text.to_ascii_lowercase(), SIZE_UNITS) {
            Ok((bytes, "")) => Ok(Self(bytes)),
            Ok(_) | Err(Malformed::Syntax) => Err(SizeError::Malformed(text.into())),
            Err(Malformed::Overflow) => Err(SizeError::TooLarge(text.into())),
        }
    }
}

/// Exact, in the largest unit that needs no fraction: `1536MiB`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let exact = |(_, scale): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*scale);
        match units.iter().find(exact) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Why a text is not a byte size that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error(
        "{0:?} is not a size: write a number with a unit, such as \"10GiB\" or \"500MB\" \
         (K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; kB, MB, GB, TB of 1000)"
    )]
    Malformed(String),
    /// More than 64 bits of bytes.
    #[error("{0:?} is too large: sizes reach to 16 EiB")]
    TooLarge(String),
}

/// How much of a disk is to stay free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// So much of its size: 0 to 99.
    Percent(u8),
    /// So many bytes.
    Bytes(ByteSize),
}

impl FromStr for MinFree {
    type Err = MinFreeError;

    fn from_str(text: &str) -> Result<Self, MinFreeError> {
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 0..=99) => Ok(Self::Percent(percent)),
                _ => Err(MinFreeError::Percent(text.into())),
            },
            None => Ok(Self::Bytes(text.parse()?)),
        }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

/// Why a text does not say how much is to stay free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MinFreeError {
    /// It ends with `%`, but is no percentage.
    #[error("{0:?} is not a percentage of a disk: write a whole number from \"0%\" to \"99%\"")]
    Percent(String),
    /// It is no size either.
    #[error(transparent)]
    Size(#[from] SizeError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let cases = [
            ("90s", 90_000),
            ("1m", 60_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("+2ms", 2),
            ("1d12h", 129_600_000),
            ("1h15m30.918s", 4_530_918),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("1µs1μs1us1ns"), Ok(Duration::from_nanos(3_001)));
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for text in ["", "-", "+", "10", "s", ".s", "1 h", "1.2.3s", "1w", "1H", "1h-3m", "1e3s", "∞"] {
            assert_eq!(parse_duration(text), Err(DurationError::Malformed(text.into())), "{text}");
        }
        for text in ["0", "0s", "-0", "-1m", "0.0000000001s"] {
            assert_eq!(parse_duration(text), Err(DurationError::NotPositive(text.into())), "{text}");
        }
        for text in ["99999999999999999999s", "300000d", "200000d200000d"] {
            assert_eq!(parse_duration(text), Err(DurationError::TooLong(text.into())), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        let cases = [
            ("0", 0),
            ("1000", 1_000),
            ("12B", 12),
            ("1K", 1_024),
            ("1KiB", 1_024),
            ("1kB", 1_000),
            ("500MB", 500_000_000),
            ("1.5g", 3 << 29),
            ("0.1kb", 100),
            ("2TiB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "1 GiB", "-1G", "1X", "1G1M", "1.2.3G", "5%"] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::Malformed(text.into())), "{text}");
        }
        assert_eq!("16777216TiB".parse::<ByteSize>(), Err(SizeError::TooLarge("16777216TiB".into())));
        assert_eq!(ByteSize(3 << 29).to_string(), "1536MiB");
        assert_eq!(ByteSize(0).to_string(), "0B");
    }

    #[test]
    fn min_free_is_a_percentage_or_a_size() {
        assert_eq!("5%".parse(), Ok(MinFree::Percent(5)));
        assert_eq!("10G".parse(), Ok(MinFree::Bytes(ByteSize(10 << 30))));
        for text in ["%", "100%", "-1%", "1.5%"] {
            assert_eq!(text.parse::<MinFree>(), Err(MinFreeError::Percent(text.into())), "{text}");
        }
        for text in ["0%", "99%", "10GiB"] {
            assert_eq!(text.parse::<MinFree>().map(|free| free.to_string()), Ok(text.into()));
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn durations_round_trip(nanos in 1..u64::MAX) {
            let duration = Duration::from_nanos(nanos);
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            prop_assert_eq!(parse_duration(&format!("{nanos}ns")), Ok(duration));
            prop_assert_eq!(parse_duration(&format!("{seconds}.{rest:09}s")), Ok(duration));
            let parts = format!(
                "{}d{}h{}m{}s{rest}ns",
                seconds / 86_400,
                seconds / 3_600 % 24,
                seconds / 60 % 60,
                seconds % 60,
            );
            prop_assert_eq!(parse_duration(&parts), Ok(duration));
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC*", amount in "[-+0-9.]{0,30}[a-zA-Zµ]{0,3}") {
            for text in [text, amount] {
                let _ = (parse_duration(&text), text.parse::<ByteSize>(), text.parse::<MinFree>());
            }
        }
    }
}
