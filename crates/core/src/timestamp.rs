//! Moments of the calendar as RFC 3339 writes them (`2026-11-22T22:00:00Z`), in seconds since the epoch.
//! Leap seconds do not exist here, as in POSIX.

/// Seconds since the epoch; `None` if it is no such text or before the epoch. Fractions are cut off.
pub fn parse(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        let value = |sum: i64, digit: &u8| sum * 10 + i64::from(digit - b'0');
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, value))
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let separated = separators.iter().all(|(at, separator)| bytes.get(*at) == Some(separator));
    if !separated || !matches!(bytes.get(10), Some(b'T' | b't')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days_known = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !days_known || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let offset = offset_seconds(skip_fraction(&bytes[19..])?)?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    u64::try_from(seconds).ok()
}

fn skip_fraction(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            (digits > 0).then(|| &fraction[digits..])
        }
        _ => Some(rest),
    }
}

/// `Z`, `+hh:mm` or `-hh:mm`.
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    let two = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    match *zone {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            let seconds = hours * 3_600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Leap days before the year, less those before 1970 (477).
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - 477;
    let months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    (year - 1970) * 365 + leap_days + months + day - 1
}

/// In UTC: `2026-11-22T22:00:00Z`.
pub fn format(seconds: u64) -> String {
    let (mut days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // 400 years are 146,097 days: whole ones first, so that what is left to count is short.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expect: Option<u64>) {
        assert_eq!(parse(text), expect, "{text}");
    }

    #[test]
    fn a_timestamp_is_read() {
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T12:00:00Z", Some(951_825_600));
        check("2026-11-22T22:00:00Z", Some(1_795_384_800));
        check("2026-11-22t22:00:00.123z", Some(1_795_384_800));
        check("2026-11-23T00:30:00+02:30", Some(1_795_384_800));
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "2026-11-22",
            "2026-11-22 22:00:00Z",
            "2026-11-22T22:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T22:00:00.Z",
            "2026-11-22T22:00:00+2:30",
            "1969-12-31T23:59:59Z",
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn a_timestamp_is_read_as_it_was_written(seconds in 0..250_000_000_000_u64) {
            prop_assert_eq!(parse(&format(seconds)), Some(seconds));
        }
    }
}
