//! NameTable: a message of our own. Addresses are bytes, as a namespace of thousands of services is one message.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meshwork_core::name::is_label;
use meshwork_core::names::{NameTable, Named};
use prost::Message as _;

use super::common::read_port;
use super::open::{Refused, Under, decode};
use crate::proto;

pub(super) fn write(table: &NameTable) -> Vec<u8> {
    let NameTable { namespace, services } = table;
    let services = services.iter().map(|(name, named)| write_service(name, named));
    proto::NameTable { namespace: namespace.clone(), services: services.collect() }.encode_to_vec()
}

fn write_service(name: &str, named: &Named) -> proto::NamedService {
    let Named { v4, v6, ports, instances, headless } = named;
    let port = |(name, port): (&String, &u16)| proto::NamedPort { name: name.clone(), port: (*port).into() };
    let instance = |(workload, address): (&String, &IpAddr)| proto::NamedInstance {
        workload: workload.clone(),
        address: match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        },
    };
    proto::NamedService {
        name: name.to_owned(),
        v4: v4.octets().to_vec(),
        v6: v6.octets().to_vec(),
        ports: ports.iter().map(port).collect(),
        instances: instances.iter().map(instance).collect(),
        headless: *headless,
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<NameTable, Refused> {
    let proto::NameTable { namespace, services } = decode(bytes)?;
    label("namespace", &namespace)?;
    let services = read_map("services", services, |service| {
        let proto::NamedService { name, .. } = &service;
        let name = name.clone();
        Ok((name, read_service(service)?))
    })?;
    Ok(NameTable { namespace, services })
}

fn read_service(service: proto::NamedService) -> Result<Named, Refused> {
    let proto::NamedService { name, v4, v6, ports, instances, headless } = service;
    label("name", &name)?;
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (read_ip("v4", &v4)?, read_ip("v6", &v6)?) else {
        return Err(Refused::at("v4", "and v6 are each of the other's family"));
    };
    let ports = read_map("ports", ports, |proto::NamedPort { name, port }| {
        label("name", &name)?;
        Ok((name, read_port("port", port)?))
    })?;
    let instances = read_map("instances", instances, |proto::NamedInstance { workload, address }| {
        label("workload", &workload)?;
        Ok((workload, read_ip("address", &address)?))
    })?;
    if !headless && !instances.is_empty() {
        return Err(Refused::at("instances", "are told, but the service is not headless"));
    }
    Ok(Named { v4, v6, ports, instances, headless })
}

/// A list as a map; what stands twice would be lost.
fn read_map<M, T>(
    field: &str,
    list: Vec<M>,
    read: impl Fn(M) -> Result<(String, T), Refused>,
) -> Result<BTreeMap<String, T>, Refused> {
    let mut map = BTreeMap::new();
    for (index, message) in list.into_iter().enumerate() {
        let (name, value) = read(message).under(format_args!("{field}[{index}]"))?;
        if map.contains_key(&name) {
            return Err(Refused::at(format_args!("{field}[{index}]"), format!("is {name:?} once more")));
        }
        map.insert(name, value);
    }
    Ok(map)
}

fn label(field: &str, name: &str) -> Result<(), Refused> {
    if is_label(name) {
        return Ok(());
    }
    let excerpt: String = name.chars().take(64).collect();
    Err(Refused::at(field, format!("is {excerpt:?}, must be a DNS label")))
}

fn read_ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Refused> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).map_err(|_| {
        Refused::at(field, format!("has {} bytes, must have 4 or 16 as an IP address does", bytes.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> proto::NameTable {
        let port = proto::NamedPort { name: "http".to_owned(), port: 80 };
        let instance = proto::NamedInstance { workload: "cart-0".to_owned(), address: vec![10, 0, 0, 1] };
        let service = proto::NamedService {
            name: "cart".to_owned(),
            v4: vec![240, 0, 0, 7],
            v6: vec![0xfd; 16],
            ports: vec![port],
            instances: vec![instance],
            headless: true,
        };
        proto::NameTable { namespace: "default".to_owned(), services: vec![service] }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut proto::NameTable), path: &str) {
        let mut message = message();
        change(&mut message);
        let refused = read(&message.encode_to_vec()).unwrap_err();
        assert_eq!(refused.path, path, "{refused}");
    }

    #[test]
    fn what_is_no_table_of_names_is_refused_by_its_field() {
        assert!(read(&message().encode_to_vec()).is_ok());
        check(|table| table.namespace = "a.b".to_owned(), "namespace");
        check(|table| table.services[0].name.clear(), "services[0].name");
        check(|table| table.services.push(message().services[0].clone()), "services[1]");
        check(|table| table.services[0].v4 = vec![1, 2, 3], "services[0].v4");
        check(|table| table.services[0].v4 = vec![0; 16], "services[0].v4");
        check(|table| table.services[0].v6 = vec![0; 4], "services[0].v4");
        check(|table| table.services[0].ports[0].port = 0, "services[0].ports[0].port");
        check(|table| table.services[0].ports[0].name = "A".to_owned(), "services[0].ports[0].name");
        check(|table| table.services[0].instances[0].address.clear(), "services[0].instances[0].address");
        check(|table| table.services[0].headless = false, "services[0].instances");
    }
}
