//! What differs between two versions of a service's endpoints, in place of all of them.
//!
//! A service of a hundred instances changes by one of them at a time; what its callers are told must not grow with the
//! other ninety-nine. Whoever refuses a patch is sent all (`session/server/delta.rs`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use meshwork_core::compile::{Audience, Features};
use meshwork_core::resource::{Endpoint, Endpoints};
use prost::{Message as _, Name as _};

use super::endpoints;
use super::open::{Refused, decode};
use crate::proto::EndpointsPatch;

/// What leads from `old`, known as `base_version`, to `new`; `None`: the audience can't apply it, or it would be no
/// smaller than all of `new`.
pub fn patch(old: &Endpoints, base_version: &str, new: &Endpoints, audience: Audience) -> Option<Vec<u8>> {
    let Audience::Sidecar(features) = audience else { return None };
    if !features.has(Features::PATCHES) {
        return None;
    }
    let before = by_address(&old.endpoints);
    let after = by_address(&new.endpoints);
    let changed = new.endpoints.iter().filter(|endpoint| before.get(&endpoint.address) != Some(endpoint));
    let changed: Vec<Endpoint> = changed.cloned().collect();
    let removed = old.endpoints.iter().filter(|endpoint| !after.contains_key(&endpoint.address));
    let removed: Vec<String> = removed.map(|endpoint| endpoint.address.to_string()).collect();
    // An address is a tenth of an endpoint.
    if changed.len() + removed.len() / 8 >= new.endpoints.len() {
        return None;
    }
    let changed = endpoints::write(&Endpoints { name: new.name.clone(), endpoints: changed }, audience);
    Some(EndpointsPatch { base_version: base_version.to_owned(), changed, removed }.encode_to_vec())
}

pub fn patch_type_url() -> String {
    EndpointsPatch::type_url()
}

/// A patch as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub base_version: String,
    changed: Endpoints,
    removed: Vec<SocketAddr>,
}

impl Patch {
    pub fn read(bytes: &[u8]) -> Result<Self, Refused> {
        let EndpointsPatch { base_version, changed, removed } = decode(bytes)?;
        let mut addresses = Vec::with_capacity(removed.len());
        for (index, text) in removed.iter().enumerate() {
            let address = text.parse();
            addresses.push(address.map_err(|_| {
                Refused::at(format!("removed[{index}]"), format!("is {text:?}, must be IP:PORT"))
            })?);
        }
        Ok(Self { base_version, changed: endpoints::read(&changed)?, removed: addresses })
    }

    /// The whole of the new version.
    pub fn apply(self, base: &Endpoints) -> Result<Endpoints, Refused> {
        let Self { base_version: _, changed, removed } = self;
        if changed.name != base.name {
            return Err(Refused::at("changed", format!("is of {}, must be of {}", changed.name, base.name)));
        }
        let mut endpoints: BTreeMap<SocketAddr, Endpoint> =
            base.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.clone())).collect();
        for address in removed {
            if endpoints.remove(&address).is_none() {
                return Err(Refused::at("removed", format!("has {address}, which is none of its endpoints")));
            }
        }
        endpoints.extend(changed.endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)));
        Ok(Endpoints { name: changed.name, endpoints: endpoints.into_values().collect() })
    }
}

fn by_address(endpoints: &[Endpoint]) -> BTreeMap<SocketAddr, &Endpoint> {
    endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect()
}

#[cfg(test)]
mod tests {
    use meshwork_core::model::{Health, Key, Locality, Transport};
    use meshwork_core::name::PortName;
    use proptest::prelude::*;

    use super::*;

    const SIDECAR: Audience = Audience::Sidecar(Features::ALL);

    fn endpoint(last: u8, weight: u32) -> Endpoint {
        Endpoint {
            address: ([10, 0, 0, last], 15_008).into(),
            app_port: 8_080,
            transports: vec![Transport::MtlsHttp2, Transport::MtlsHttp1, Transport::MtlsTcp],
            health: Health::Healthy,
            weight,
            locality: Locality { region: "eu".to_owned(), zone: format!("z{}", weight % 2) },
            workload: format!("cart-{last}"),
        }
    }

    fn endpoints(weights: &BTreeMap<u8, u32>) -> Endpoints {
        let name = PortName::new(Key::new("default", "cart"), 80);
        Endpoints { name, endpoints: weights.iter().map(|(last, weight)| endpoint(*last, *weight)).collect() }
    }

    #[test]
    fn one_of_a_hundred_costs_as_much_as_one_of_ten() {
        let size = |count: u8| {
            let mut weights: BTreeMap<u8, u32> = (1..=count).map(|last| (last, 1)).collect();
            let old = endpoints(&weights);
            weights.insert(5, 7);
            patch(&old, "0123", &endpoints(&weights), SIDECAR).unwrap().len()
        };
        assert_eq!(size(100), size(10));
        assert!(size(10) < 300, "{}", size(10));
    }

    #[test]
    fn no_patch_for_whom_it_is_not_for_nor_where_all_is_smaller() {
        let (one, other) = (endpoints(&[(1, 1), (2, 1)].into()), endpoints(&[(1, 2), (2, 1)].into()));
        assert!(patch(&one, "v", &other, SIDECAR).is_some());
        assert_eq!(patch(&one, "v", &other, Audience::Grpc), None);
        assert_eq!(
            patch(&one, "v", &other, Audience::Sidecar(Features::ALL.without(Features::PATCHES))),
            None
        );
        assert_eq!(patch(&one, "v", &endpoints(&[(1, 3), (2, 3)].into()), SIDECAR), None);
    }

    #[test]
    fn what_does_not_fit_its_base_is_refused() {
        let (one, other) = (endpoints(&[(1, 1), (2, 1), (3, 1)].into()), endpoints(&[(2, 1), (3, 1)].into()));
        let read = || Patch::read(&patch(&one, "v", &other, SIDECAR).unwrap()).unwrap();
        assert_eq!(read().base_version, "v");
        assert_eq!(read().apply(&one).unwrap(), other);
        assert!(read().apply(&other).is_err(), "10.0.0.1 is not there to be removed");
        let stranger = Endpoints { name: PortName::new(Key::new("default", "web"), 80), ..one.clone() };
        assert!(read().apply(&stranger).is_err());
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_any_version_to_any_other(
            old in proptest::collection::btree_map(1_u8..40, 1_u32..4, 0..30),
            new in proptest::collection::btree_map(1_u8..40, 1_u32..4, 0..30),
        ) {
            let (old, new) = (endpoints(&old), endpoints(&new));
            if let Some(patch) = patch(&old, "v", &new, SIDECAR) {
                prop_assert_eq!(Patch::read(&patch).unwrap().apply(&old).unwrap(), new);
            }
        }
    }
}
