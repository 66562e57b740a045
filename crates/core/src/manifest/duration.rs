//! Durations as Gateway API writes them (GEP-2257): `24h`, `1h30m`, `1500ms`.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Up to four numbers of up to five digits, each with a unit: `h`, `m`, `s` or `ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub time::Duration);

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("not a duration: {0:?} (want numbers with units h, m, s or ms: 24h, 1h30m, 500ms)")]
pub struct InvalidDuration(String);

/// (unit, its milliseconds). `ms` before `m`, of which it is the longer.
const UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1_000)];

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse_millis(text)
            .map(|millis| Self(time::Duration::from_millis(millis)))
            .ok_or_else(|| InvalidDuration(text.chars().take(64).collect()))
    }
}

fn parse_millis(text: &str) -> Option<u64> {
    let (mut rest, mut millis) = (text, 0);
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok().filter(|_| digits <= 5)?;
        let unit_and_rest = &rest[digits..];
        let (unit, unit_millis) = UNITS.iter().find(|(unit, _)| unit_and_rest.starts_with(unit))?;
        millis += number * unit_millis;
        rest = &unit_and_rest[unit.len()..];
        if rest.is_empty() {
            return Some(millis);
        }
    }
    None
}

/// In GEP-2257's canonical form: the largest units first, none that is zero.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if millis >= length {
                write!(f, "{}{unit}", millis / length)?;
                millis %= length;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&str>) {
        let read = text.parse::<Duration>().ok().map(|duration| duration.to_string());
        assert_eq!(read.as_deref(), expect, "{text}");
    }

    #[test]
    fn a_duration_is_numbers_with_units() {
        check("24h", Some("24h"));
        check("90m", Some("1h30m"));
        check("1500ms", Some("1s500ms"));
        check("1h1m1s1ms", Some("1h1m1s1ms"));
        check("0s", Some("0s"));
        for text in ["", "1", "h", "-1h", "1.5h", "1d", "1h ", "123456s", "1h1m1s1ms1s", "1µs"] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_as_it_was_written(millis in 0..300_000_000_u64) {
            let duration = Duration(time::Duration::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
