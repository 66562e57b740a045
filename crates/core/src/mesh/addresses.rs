//! Which addresses stand for which service, at which a workload is, and the networks that they make up.
//!
//! Kept beside the namespaces, as an address says nothing of a namespace. Copied only when an address comes or goes,
//! which a change of health is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Key, Service, Workload};
use crate::virtual_address::VirtualRanges;

/// Networks of one family that sidecars are told. Above it they are told larger ones: an address in them that is
/// nobody's costs its first caller one question, while each address by itself would cost every sidecar of a large mesh
/// a push whenever a workload comes. Only /8s may be more; there are 221.
const RANGES_MAX: usize = 64;

/// The lengths of prefixes that are tried in turn, the finest first: hosts, then what a site, a provider and a
/// registry give out.
const PREFIXES_V4: [u8; 4] = [32, 24, 16, 8];
const PREFIXES_V6: [u8; 5] = [128, 64, 48, 32, 8];

/// Keys by address. Of what is shared, a copy is a count.
type ByAddress = BTreeMap<IpAddr, Arc<BTreeSet<Key>>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Addresses {
    services: ByAddress,
    workloads: ByAddress,
}

impl Addresses {
    pub(super) fn move_service(this: &mut Arc<Self>, old: Option<&Service>, new: Option<&Service>) {
        let Some(key) = old.or(new).map(|service| &service.key) else { return };
        let of = |service: Option<&Service>| service.map(|service| service.addresses().collect());
        let (old, new) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
        if old != new {
            relocate(&mut Arc::make_mut(this).services, key, &old, &new);
        }
    }

    pub(super) fn move_workload(this: &mut Arc<Self>, old: Option<&Workload>, new: Option<&Workload>) {
        let Some(key) = old.or(new).map(|workload| &workload.key) else { return };
        let of = |workload: Option<&Workload>| workload.map(|workload| workload.addresses().collect());
        let (old, new) = (of(old).unwrap_or_default(), of(new).unwrap_or_default());
        if old != new {
            relocate(&mut Arc::make_mut(this).workloads, key, &old, &new);
        }
    }

    pub(super) fn services(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.services.get(&address).into_iter().flat_map(|keys| keys.iter())
    }

    pub(super) fn workloads(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.workloads.get(&address).into_iter().flat_map(|keys| keys.iter())
    }

    /// Ordered, none inside of another.
    pub(super) fn ranges(&self, virtual_ranges: Option<VirtualRanges>) -> Vec<IpNet> {
        let nets: Vec<IpNet> = virtual_ranges.into_iter().flat_map(VirtualRanges::nets).collect();
        let addresses = self.services.keys().chain(self.workloads.keys()).copied();
        // Loopback is each machine's own: in the mesh's ranges, `localhost` of every host would be.
        let outside =
            |address: &IpAddr| !address.is_loopback() && !nets.iter().any(|net| net.contains(address));
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.filter(outside).partition(IpAddr::is_ipv4);
        let mut ranges: BTreeSet<IpNet> = nets.iter().copied().collect();
        ranges.extend(networks(&v4, &PREFIXES_V4));
        ranges.extend(networks(&v6, &PREFIXES_V6));
        ranges.into_iter().collect()
    }
}

fn relocate(by_address: &mut ByAddress, key: &Key, old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>) {
    for address in old.difference(new) {
        let Some(keys) = by_address.get_mut(address) else { continue };
        Arc::make_mut(keys).remove(key);
        if keys.is_empty() {
            by_address.remove(address);
        }
    }
    for address in new.difference(old) {
        Arc::make_mut(by_address.entry(*address).or_default()).insert(key.clone());
    }
}

/// The finest networks that hold all of them and are few enough.
fn networks(addresses: &[IpAddr], prefixes: &[u8]) -> BTreeSet<IpNet> {
    let mut nets = BTreeSet::new();
    for prefix in prefixes {
        // No prefix here is longer than its family's addresses.
        let net = |address: &IpAddr| IpNet::new(*address, *prefix).ok().map(|net| net.trunc());
        nets = addresses.iter().filter_map(net).filter(|net| !has_loopback(net)).collect();
        if nets.len() <= RANGES_MAX {
            break;
        }
    }
    nets
}

/// As `::/8` has, which is where translated IPv4 addresses are.
fn has_loopback(net: &IpNet) -> bool {
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].iter().any(|own| net.contains(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{service, workload};
    use crate::mesh::Mesh;
    use crate::virtual_address::VirtualRange;

    fn texts(mesh: &Mesh) -> Vec<String> {
        mesh.ranges().iter().map(ToString::to_string).collect()
    }

    fn at(name: &str, address: IpAddr) -> Workload {
        let mut made = workload("default", name, 1);
        made.key.name = format!("{name}-{address}").replace(['.', ':'], "-");
        made.ports[0].address.set_ip(address);
        made
    }

    #[test]
    fn the_ranges_are_the_virtual_ones_and_where_somebody_is() {
        let mut mesh = Mesh::new("m", "mesh.local");
        let virtual_ranges = VirtualRanges::new(VirtualRange::default(), "m");
        mesh.set_virtual_ranges(virtual_ranges);
        mesh.put_service(Service {
            cluster_ip: Some([10, 96, 0, 7].into()),
            virtual_address: Some(virtual_ranges.address([240, 0, 0, 7].into())),
            ..service("default", "cart")
        });
        mesh.put_workload(at("cart", [10, 1, 0, 5].into()));
        let v6 = virtual_ranges.nets()[1].to_string();
        assert_eq!(texts(&mesh), ["10.1.0.5/32", "10.96.0.7/32", "240.0.0.0/8", &v6]);
        mesh.remove_workload(&at("cart", [10, 1, 0, 5].into()).key);
        mesh.put_service(service("default", "cart"));
        assert_eq!(texts(&mesh), ["240.0.0.0/8", &v6]);
        assert!(mesh.service_at([240, 0, 0, 7].into()).is_none());
    }

    #[test]
    fn loopback_is_never_among_them() {
        let mut mesh = Mesh::new("m", "mesh.local");
        mesh.put_workload(at("cart", [127, 0, 0, 1].into()));
        mesh.put_workload(at("cart", [127, 64, 3, 4].into()));
        mesh.put_workload(at("cart", "::1".parse().unwrap()));
        mesh.put_workload(at("cart", "::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!(mesh.ranges(), []);
    }

    #[test]
    fn many_addresses_are_told_as_fewer_networks_that_hold_them_all() {
        let mut mesh = Mesh::new("m", "mesh.local");
        for (third, last) in (0..10_u8).flat_map(|third| (0..100).map(move |last| (third, last))) {
            mesh.put_workload(at("cart", [10, 1, third, last].into()));
            mesh.put_workload(at("cart", IpAddr::from([0xfd00, 0, 0, third.into(), 0, 0, 0, last.into()])));
        }
        assert_eq!((texts(&mesh).len(), &*texts(&mesh)[9]), (20, "10.1.9.0/24"));
        assert!(
            mesh.workloads()
                .all(|w| w.addresses().all(|ip| mesh.ranges().iter().any(|net| net.contains(&ip))))
        );
        for first in (1..224).filter(|first| *first != 127) {
            mesh.put_workload(at("far", [first, 2, 3, 4].into()));
        }
        let ranges = mesh.ranges();
        assert!(ranges.iter().all(|net| !net.contains(&IpAddr::from([127, 0, 0, 1]))));
        assert_eq!(ranges.iter().filter(|net| net.prefix_len() == 8).count(), 222);
    }

    #[test]
    fn of_two_that_claim_an_address_the_first_by_name_has_it_whoever_came_first() {
        let claim =
            |name: &str| Service { cluster_ip: Some([10, 96, 0, 7].into()), ..service("default", name) };
        let mut mesh = Mesh::new("m", "mesh.local");
        for name in ["web", "cart", "pay"] {
            mesh.put_service(claim(name));
        }
        assert_eq!(mesh.service_at([10, 96, 0, 7].into()).unwrap().key.name, "cart");
        mesh.remove_service(&Key::new("default", "cart"));
        assert_eq!(mesh.service_at([10, 96, 0, 7].into()).unwrap().key.name, "pay");
    }
}
