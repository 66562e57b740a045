//! Which endpoints are near, and how much of the load those that are near still bear.
//!
//! As with Envoy's priorities: an own zone of which two thirds can't serve keeps less than half of the requests, and the
//! region takes the rest, then everybody. Endpoints are taken to have room for 1.4 times their share, so that nothing
//! leaves the zone before more than a quarter of it is gone.

use crate::model::Locality;
use crate::resource::Endpoint;

/// The zone, the region, everywhere.
pub const LEVELS: usize = 3;

/// Envoy's `overprovisioning_factor`.
const OVERPROVISIONED_PERCENT: u64 = 140;

/// Who wants endpoints near itself, and where it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Near<'a>(Option<&'a Locality>);

impl<'a> Near<'a> {
    /// Everybody is equally near.
    pub const ANYWHERE: Self = Self(None);

    pub fn to(own: &'a Locality) -> Self {
        // Who does not know where it is has nothing near.
        Self(Some(own).filter(|own| **own != Locality::default()))
    }

    /// 0 is nearest.
    pub fn level(self, endpoint: &Endpoint) -> usize {
        let (Some(own), there) = (self.0, &endpoint.locality) else { return 0 };
        match (own.region == there.region, own.zone == there.zone) {
            (true, true) if !own.zone.is_empty() => 0,
            (true, _) if !own.region.is_empty() => 1,
            _ => LEVELS - 1,
        }
    }
}

/// How many endpoints of a level can serve, of how many that should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Strength {
    pub(super) fit: u64,
    pub(super) known: u64,
}

/// Which level takes a request, by a number of 0..100; of levels that are all empty, the first.
pub(super) fn level(strengths: [Strength; LEVELS], percent: u64) -> usize {
    let loads = loads(strengths);
    let mut end = 0;
    let ends = loads.iter().position(|load| {
        end += load;
        percent < end
    });
    ends.unwrap_or(0)
}

/// The percentage of the requests that each level bears; together 100, or 0 where nobody is fit.
fn loads(strengths: [Strength; LEVELS]) -> [u64; LEVELS] {
    let health = strengths.map(|Strength { fit, known }| {
        (OVERPROVISIONED_PERCENT * fit).checked_div(known).unwrap_or(0).min(100)
    });
    let total = health.iter().sum::<u64>().min(100);
    let Some(first) = health.iter().position(|health| *health > 0) else { return [0; LEVELS] };
    let mut left = 100;
    let mut loads = health.map(|health| {
        let load = (health * 100 / total).min(left);
        left -= load;
        load
    });
    loads[first] += left; // of rounding
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Health, Transport};

    #[test]
    fn the_own_zone_is_nearest_then_the_region() {
        let locality = |text: &str| {
            let (region, zone) = text.split_once('/').unwrap_or((text, ""));
            Locality { region: region.to_owned(), zone: zone.to_owned() }
        };
        let check = |own: &str, there: &str, expect| {
            let endpoint = Endpoint {
                address: ([127, 0, 0, 1], 80).into(),
                app_port: 80,
                transports: vec![Transport::Plaintext],
                health: Health::Healthy,
                weight: 1,
                locality: locality(there),
                workload: "cart".to_owned(),
            };
            assert_eq!(Near::to(&locality(own)).level(&endpoint), expect, "{own:?} {there:?}");
            assert_eq!(Near::ANYWHERE.level(&endpoint), 0);
        };
        check("eu/a", "eu/a", 0);
        check("eu/a", "eu/b", 1);
        check("eu/a", "us/a", 2); // zones are named within their region
        check("eu/a", "", 2);
        check("eu", "eu/a", 1);
        check("eu", "eu", 1);
        check("eu", "us", 2);
        check("", "eu/a", 0);
        check("/a", "/a", 0);
        check("/a", "/b", 2);
    }

    #[test]
    fn load_leaves_the_zone_by_the_share_of_its_health() {
        let check = |strengths: [(u64, u64); LEVELS], expect: [u64; LEVELS]| {
            let strengths = strengths.map(|(fit, known)| Strength { fit, known });
            assert_eq!(loads(strengths), expect, "{strengths:?}");
        };
        check([(4, 4), (4, 4), (4, 4)], [100, 0, 0]);
        // The rows of Envoy's documentation on priorities, with a factor of 1.4.
        check([(72, 100), (100, 100), (0, 0)], [100, 0, 0]);
        check([(71, 100), (100, 100), (0, 0)], [99, 1, 0]);
        check([(50, 100), (50, 100), (0, 0)], [70, 30, 0]);
        check([(25, 100), (100, 100), (0, 0)], [35, 65, 0]);
        check([(0, 100), (100, 100), (0, 0)], [0, 100, 0]);
        check([(5, 100), (0, 100), (0, 0)], [100, 0, 0]);
        check([(20, 100), (20, 100), (10, 100)], [40, 40, 20]);
        check([(25, 100), (25, 100), (50, 100)], [35, 35, 30]);
        // Nobody of ours at all.
        check([(0, 0), (2, 2), (9, 9)], [0, 100, 0]);
        check([(0, 0), (0, 0), (1, 9)], [0, 0, 100]);
        check([(0, 3), (0, 0), (0, 0)], [0, 0, 0]);
    }
}
