//! Numbers of documents, read so that a wrong one is told in a sentence at its place (`invalid u16` is none).

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// `port: 80`
pub(super) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = deserializer.deserialize_any(Number { wanted: PORT, max: u16::MAX.into() })?;
    Ok(number as u16)
}

/// Of a field that may be left out, together with `#[serde(default)]`.
pub(super) fn optional_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    port(deserializer).map(Some)
}

/// `weight: 90`, which may be left out, together with `#[serde(default)]`.
pub(super) fn optional_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = deserializer.deserialize_any(Number { wanted: WEIGHT, max: u32::MAX.into() })?;
    Ok(Some(number as u32))
}

/// `attempts: 2`, which may be left out, together with `#[serde(default)]`.
pub(super) fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = deserializer.deserialize_any(Number { wanted: WHOLE, max: u32::MAX.into() })?;
    Ok(Some(number as u32))
}

/// `codes: [502, 503]`, one of them.
pub(super) fn status_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = deserializer.deserialize_any(Number { wanted: STATUS_CODE, max: u16::MAX.into() })?;
    Ok(number as u16)
}

pub(super) const PORT: &str = "a port as a number, 1 to 65535, without quotes";
const WHOLE: &str = "a whole number, 0 or more, without quotes";
const STATUS_CODE: &str = "a status as a number, 400 to 599, without quotes";
const WEIGHT: &str = "a weight as a number, 0 to 1000000, without quotes";

/// A whole number of at most `max`.
struct Number {
    wanted: &'static str,
    max: u64,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        if number <= self.max {
            Ok(number)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &self))
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}
