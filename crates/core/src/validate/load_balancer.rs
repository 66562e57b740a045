//! `loadBalancer` of a `TrafficPolicy` -> how endpoints are chosen.

use std::time::Duration;

use super::{Problems, metadata};
use crate::manifest::{Algorithm, Hash, HashType, LoadBalancer, TrafficDistribution};
use crate::model::{Balance, HashKey, HashTable};
use crate::policy::Distribution;

/// Envoy's defaults, but for the longest ring: Envoy's 8 million points would be 128 MiB in each sidecar.
const RING_SIZE_MIN_DEFAULT: u32 = 1_024;
const RING_SIZE_MAX_DEFAULT: u32 = 65_536;
const MAGLEV_SIZE_DEFAULT: u32 = 65_537;

const PATH: &str = "spec.loadBalancer";
/// As long as Gateway API's header names; RFC 6265 sets no limit for cookies.
const NAME_BYTES_MAX: usize = 256;
/// Browsers keep no cookie longer (RFC 6265bis, 5.5).
const TTL_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);

pub(super) fn judge(
    written: Option<&LoadBalancer>,
    problems: &mut Problems,
) -> (Option<Balance>, Distribution) {
    let Some(written) = written else { return Default::default() };
    let distribution = match written.traffic_distribution {
        Some(TrafficDistribution::PreferSameZone) => Distribution::PreferSameZone,
        None => Distribution::Anywhere,
    };
    let table = table(written, problems);
    let balance = match (written.algorithm, table) {
        (_, Some(table)) => hash_key(written.hash.as_ref(), problems).map(|key| Balance::Hash { table, key }),
        (Some(Algorithm::PeakEwma), None) => Some(Balance::PeakEwma),
        (Some(Algorithm::RoundRobin), None) => Some(Balance::RoundRobin),
        (Some(Algorithm::LeastRequest), None) => Some(Balance::LeastRequest),
        (Some(Algorithm::Random), None) => Some(Balance::Random),
        (Some(Algorithm::RingHash | Algorithm::Maglev) | None, None) => None,
    };
    refuse_fields_of_others(written, problems);
    (balance, distribution)
}

fn table(written: &LoadBalancer, problems: &mut Problems) -> Option<HashTable> {
    let mut size = |field: &str, written: Option<u32>, min: u32, default: u32| {
        let cure = "choose one between, or leave the field out for its default";
        let path = format!("{PATH}.{field}");
        problems.number(&path, written, (min, HashTable::SIZE_MAX), cure).unwrap_or(default)
    };
    match written.algorithm? {
        Algorithm::RingHash => {
            let size_min = size("minimumRingSize", written.minimum_ring_size, 1, RING_SIZE_MIN_DEFAULT);
            let size_max = size("maximumRingSize", written.maximum_ring_size, 1, RING_SIZE_MAX_DEFAULT);
            if size_min > size_max {
                let message =
                    format!("the smallest ring, {size_min}, is larger than the largest, {size_max}");
                let cure = "lower it, or give a larger maximumRingSize";
                problems.add(format!("{PATH}.minimumRingSize"), message, cure);
            }
            Some(HashTable::Ring { size_min, size_max })
        }
        Algorithm::Maglev => {
            let size = size("tableSize", written.table_size, 2, MAGLEV_SIZE_DEFAULT);
            if !is_prime(size) {
                let cure = "choose a prime number, such as 65537, or leave the field out";
                problems.add(format!("{PATH}.tableSize"), format!("{size} is not a prime number"), cure);
            }
            Some(HashTable::Maglev { size })
        }
        Algorithm::PeakEwma | Algorithm::RoundRobin | Algorithm::LeastRequest | Algorithm::Random => None,
    }
}

/// `None`: that is a problem, and said.
fn hash_key(written: Option<&Hash>, problems: &mut Problems) -> Option<HashKey> {
    let path = format!("{PATH}.hash");
    let Some(Hash { kind, name, ttl }) = written else {
        let message = "nothing is said of what is hashed".to_owned();
        problems.add(path, message, "write such as hash: {type: header, name: x-user}");
        return None;
    };
    let is_named = name.as_ref().is_some_and(|name| metadata::is_token(name) && name.len() <= NAME_BYTES_MAX);
    if ttl.is_some() && *kind != HashType::Cookie {
        let cure = "write type: cookie, or leave it out";
        problems.add(format!("{path}.ttl"), "ttl is of a cookie only".to_owned(), cure);
    }
    match (kind, name) {
        (HashType::Header, Some(name)) if is_named => Some(HashKey::Header(name.to_ascii_lowercase())),
        (HashType::Cookie, Some(name)) if is_named => {
            let cure = "choose one between; 0s is a cookie for as long as the client runs";
            let given = problems.duration(&format!("{path}.ttl"), *ttl, (Duration::ZERO, TTL_MAX), cure);
            Some(HashKey::Cookie { name: name.clone(), given })
        }
        (HashType::Source, None) => Some(HashKey::Source),
        (HashType::Source, Some(_)) => {
            problems.add(
                format!("{path}.name"),
                "the source has no name".to_owned(),
                "leave it out, or choose type: header or cookie",
            );
            None
        }
        (HashType::Header | HashType::Cookie, name) => {
            let message = match name {
                Some(name) => format!("{name:?} is not the name of a header or cookie"),
                None => "there is no name of a header or cookie".to_owned(),
            };
            problems.add(format!("{path}.name"), message, "write up to 256 letters, digits or '-'");
            None
        }
    }
}

/// A field that does nothing is a mistake.
fn refuse_fields_of_others(written: &LoadBalancer, problems: &mut Problems) {
    let LoadBalancer {
        algorithm,
        hash,
        minimum_ring_size,
        maximum_ring_size,
        table_size,
        traffic_distribution: _,
    } = written;
    let (ring, maglev) = (*algorithm == Some(Algorithm::RingHash), *algorithm == Some(Algorithm::Maglev));
    let fields = [
        ("hash", hash.is_some(), ring || maglev, "ringHash or maglev"),
        ("minimumRingSize", minimum_ring_size.is_some(), ring, "ringHash"),
        ("maximumRingSize", maximum_ring_size.is_some(), ring, "ringHash"),
        ("tableSize", table_size.is_some(), maglev, "maglev"),
    ];
    for (field, _, _, of) in fields.into_iter().filter(|(_, is_written, may, _)| *is_written && !may) {
        let cure = format!("write type: {of}, or leave it out");
        problems.add(format!("{PATH}.{field}"), format!("{field} is of {of} only"), &cure);
    }
}

fn is_prime(number: u32) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
