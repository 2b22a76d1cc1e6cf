//! When an event happened, as its writer states it.

use std::{ops::RangeInclusive, str::FromStr};

/// A point in time in RFC 3339: a date, a time and an offset, such as `2024-05-01T12:00:00.5+02:00`.
/// PostgreSQL stores it to the microsecond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp(Box<str>);

/// The text is not a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a date and time with an offset, such as 2024-05-01T12:00:00Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text;
        let sound = date_time(&mut rest).is_some() && rest.is_empty();
        sound.then(|| Self(text.into())).ok_or(InvalidTimestamp)
    }
}

fn date_time(rest: &mut &str) -> Option<()> {
    let year = number(rest, 4, 1..=9999)?;
    skip(rest, "-")?;
    let month = number(rest, 2, 1..=12)?;
    skip(rest, "-")?;
    number(rest, 2, 1..=days(year, month))?;
    skip(rest, "T").or_else(|| skip(rest, "t"))?;
    number(rest, 2, 0..=23)?;
    skip(rest, ":")?;
    number(rest, 2, 0..=59)?;
    skip(rest, ":")?;
    // A leap second: PostgreSQL reads it as the first second of the next minute.
    number(rest, 2, 0..=60)?;
    if skip(rest, ".").is_some() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        *rest = rest.get(digits..).filter(|_| (1..=9).contains(&digits))?;
    }
    offset(rest)
}

fn offset(rest: &mut &str) -> Option<()> {
    if skip(rest, "Z").or_else(|| skip(rest, "z")).is_some() {
        return Some(());
    }
    skip(rest, "+").or_else(|| skip(rest, "-"))?;
    // PostgreSQL accepts no greater offset.
    number(rest, 2, 0..=15)?;
    skip(rest, ":")?;
    number(rest, 2, 0..=59).map(drop)
}

fn number(rest: &mut &str, digits: usize, range: RangeInclusive<u32>) -> Option<u32> {
    let text = rest.get(..digits).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    *rest = &rest[digits..];
    text.parse().ok().filter(|number| range.contains(number))
}

fn skip(rest: &mut &str, text: &str) -> Option<()> {
    *rest = rest.strip_prefix(text)?;
    Some(())
}

fn days(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_rfc_3339_only() {
        for right in [
            "2024-02-29T12:00:00Z",
            "2024-05-01t12:00:00.123456789z",
            "0001-01-01T00:00:00+00:00",
            "2016-12-31T23:59:60-15:59",
        ] {
            assert!(right.parse::<Timestamp>().is_ok(), "{right} was refused");
        }
        for wrong in [
            "",
            "now",
            "infinity",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2023-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "2024-13-01T12:00:00Z",
            "2024-05-01 12:00:00Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00Z ",
            "2024-05-01T12:00:00+2:00",
            "0000-05-01T12:00:00Z",
            "２024-05-01T12:00:00Z",
        ] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong} was accepted");
        }
    }
}
