//! Which meshes to measure: the whole curve, unless `SIZES` or `BENCH_SECONDS` cut it.

use std::fmt;
use std::path::PathBuf;

use crate::failure::{Failure, Result, fail};

/// One that a laptop has, the one that is promised, and on to where it bends.
const SIZES: [Size; 4] = [
    Size { sidecars: 100, services: 50, endpoints: 500 },
    Size { sidecars: 1_000, services: 500, endpoints: 5_000 },
    Size { sidecars: 2_500, services: 1_250, endpoints: 25_000 },
    Size { sidecars: 5_000, services: 2_500, endpoints: 50_000 },
];

/// The size for which there are goals.
pub(super) const PROMISED: Size = SIZES[1];

/// Of changes at the promised size; the others have a third of it.
const SECONDS_DEFAULT: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) sidecars: usize,
    pub(super) services: usize,
    /// The sidecars' own among them.
    pub(super) endpoints: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sidecars, services, endpoints } = self;
        write!(f, "{sidecars} sidecars, {services} services, {endpoints} endpoints")
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) sizes: Vec<Size>,
    seconds: u64,
    pub(super) root: PathBuf,
    pub(super) meshwork: PathBuf,
}

impl Settings {
    /// `variable` is the environment, so that reading it can be tested without one.
    pub(super) fn read(root: PathBuf, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let meshwork =
            given("BENCH_BINARY").map_or_else(|| root.join("target/release/meshwork"), PathBuf::from);
        let seconds = match given("BENCH_SECONDS") {
            None => SECONDS_DEFAULT,
            Some(text) => match text.trim().parse() {
                Ok(seconds) if seconds >= 3 => seconds,
                _ => return fail(format!("BENCH_SECONDS={text} is no number of seconds from 3 on")),
            },
        };
        let sizes = match given("SIZES") {
            None => SIZES.to_vec(),
            Some(text) => {
                text.split([',', ' ']).filter(|word| !word.is_empty()).map(size).collect::<Result<_>>()?
            }
        };
        Ok(Self { sizes, seconds, root, meshwork })
    }

    /// How long changes come.
    pub(super) fn seconds(&self, size: Size) -> u64 {
        if size == PROMISED { self.seconds } else { (self.seconds / 3).max(3) }
    }

    /// A whole run may write the document; one that was cut must not replace its table by less.
    pub(super) fn is_whole(&self) -> bool {
        self.sizes == SIZES && self.seconds >= SECONDS_DEFAULT
    }
}

/// A number of sidecars; one of the curve's has the curve's services and endpoints.
fn size(word: &str) -> Result<Size> {
    let sidecars = word.parse().ok().filter(|sidecars| (10..=20_000).contains(sidecars));
    let sidecars = sidecars
        .ok_or_else(|| Failure(format!("SIZES: {word} is no number of sidecars from 10 to 20000")))?;
    let known = SIZES.into_iter().find(|size| size.sidecars == sidecars);
    Ok(known.unwrap_or_else(|| Size { sidecars, services: sidecars.div_ceil(2), endpoints: sidecars * 5 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read("/repository".into(), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn nothing_said_is_the_whole_curve() {
        let settings = read(&[]).unwrap();
        assert!(settings.is_whole());
        assert_eq!((settings.seconds(PROMISED), settings.seconds(SIZES[3])), (60, 20));
    }

    #[test]
    fn a_cut_is_not_whole() {
        let settings = read(&[("SIZES", "1000, 40"), ("BENCH_SECONDS", "6")]).unwrap();
        assert_eq!(settings.sizes, [PROMISED, Size { sidecars: 40, services: 20, endpoints: 200 }]);
        assert!(!settings.is_whole() && !read(&[("BENCH_SECONDS", "6")]).unwrap().is_whole());
        assert!(read(&[("SIZES", "1")]).is_err() && read(&[("BENCH_SECONDS", "x")]).is_err());
    }
}
