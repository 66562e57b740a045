//! What to measure: all of it, unless `ROUNDS`, `LOADS`, `PEERS` or `BENCH_SECONDS` cut it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::failure::{Failure, Result, fail};
use crate::load::Load;
use crate::topology::Topology;

/// Fewer would have no median that means anything.
const ROUNDS_DEFAULT: u32 = 3;

/// Long enough that one tick of the kernel's clock is no hundredth of what is measured.
const SECONDS_DEFAULT: u32 = 6;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    /// Of one measurement; its warm-up comes before it.
    pub(crate) seconds: u32,
    pub(crate) loads: Vec<Load>,
    pub(crate) topologies: Vec<Topology>,
    /// The repository: results and the document are written there, and everything else below its `target`.
    pub(crate) root: PathBuf,
    /// The binary to measure.
    pub(crate) meshwork: PathBuf,
}

impl Settings {
    /// `variable` is the environment, so that reading it can be tested without one.
    pub(crate) fn read(root: PathBuf, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let meshwork =
            given("BENCH_BINARY").map_or_else(|| root.join("target/release/meshwork"), PathBuf::from);
        Ok(Self {
            rounds: number("ROUNDS", given("ROUNDS"), ROUNDS_DEFAULT)?,
            seconds: number("BENCH_SECONDS", given("BENCH_SECONDS"), SECONDS_DEFAULT)?,
            loads: list("LOADS", given("LOADS"), &Load::ALL)?,
            topologies: list("PEERS", given("PEERS"), &Topology::ALL)?,
            root,
            meshwork,
        })
    }

    /// A whole run may write the document; one that was cut must not replace its tables by fewer.
    pub(crate) fn is_whole(&self) -> bool {
        self.rounds >= ROUNDS_DEFAULT
            && self.loads.len() == Load::ALL.len()
            && self.topologies.len() == Topology::ALL.len()
    }
}

fn number(name: &str, text: Option<String>, default: u32) -> Result<u32> {
    let Some(text) = text else { return Ok(default) };
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => fail(format!("{name}={text} is no number above 0")),
    }
}

/// Words between blanks or commas, each once, in the order of `all`.
fn list<T: FromStr<Err = Failure> + Copy + PartialEq>(
    name: &str,
    text: Option<String>,
    all: &[T],
) -> Result<Vec<T>> {
    let Some(text) = text else { return Ok(all.to_vec()) };
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let wanted = words.map(T::from_str).collect::<Result<Vec<T>>>();
    let wanted = wanted.map_err(|failure| Failure(format!("{name}={text}: {failure}")))?;
    Ok(all.iter().copied().filter(|one| wanted.contains(one)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(PathBuf::from("/repository"), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn nothing_said_is_everything() {
        let settings = read(&[]).unwrap();
        assert!(settings.is_whole());
        assert_eq!((settings.rounds, settings.loads.len(), settings.topologies.len()), (3, 7, 8));
        assert_eq!(settings.meshwork, PathBuf::from("/repository/target/release/meshwork"));
    }

    #[test]
    fn a_cut_keeps_the_order_and_is_not_whole() {
        let settings = read(&[("LOADS", "rate-2000, h1-128"), ("PEERS", "meshwork-pair-h2 direct")]).unwrap();
        assert_eq!(settings.loads, [Load::H1Small, Load::Rate]);
        assert_eq!(settings.topologies, [Topology::Direct, Topology::MeshworkH2]);
        assert!(!settings.is_whole());
        assert!(!read(&[("ROUNDS", "1")]).unwrap().is_whole());
    }

    #[test]
    fn a_word_that_is_none_is_refused_with_those_that_are() {
        let failure = read(&[("LOADS", "h1-129")]).unwrap_err().to_string();
        assert!(failure.contains("h1-129") && failure.contains("h1-128"), "{failure}");
        assert!(read(&[("ROUNDS", "0")]).is_err());
    }
}
