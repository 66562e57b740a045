//! A registration as the documents that it stands for: the `Workload`, and the `Service` that it makes if
//! there is none. Pure.

use std::collections::BTreeMap;

use meshwork_core::manifest::{
    Locality, Manifest, Metadata, Service, ServicePort, ServiceSpec, TargetPort, Workload, WorkloadPort,
    WorkloadSpec,
};
use meshwork_core::model::{Key, SpiffeId, Transport};
use meshwork_core::validate;
use meshwork_xds::proto;

use super::Refused;
use crate::manifest::{MANAGED_BY, REGISTRATION};

/// What a workload's labels say its service is; the selector of a service that the registry makes.
const SERVICE_LABEL: &str = "app";

/// A registration that holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Registration {
    pub(super) workload: Workload,
    pub(super) service: Key,
    ports: Vec<ServicePort>,
}

impl Registration {
    /// Reads what a sidecar says, as far as its certificate lets it say that.
    pub(super) fn read(id: &SpiffeId, register: &proto::Register) -> Result<Self, Refused> {
        let proto::Register { workload, service, ports, labels, region, zone, .. } = register;
        if service != id.account() {
            return Err(Refused::OtherService {
                id: id.clone(),
                service: service.chars().take(64).collect(),
            });
        }
        let invalid = Refused::Invalid;
        let mut labels: BTreeMap<String, String> = labels.clone().into_iter().collect();
        if labels.insert(SERVICE_LABEL.to_owned(), service.clone()).is_some_and(|given| given != *service) {
            return Err(invalid(format!(
                "label {SERVICE_LABEL} is {service} for every workload of {service}"
            )));
        }
        labels.insert(MANAGED_BY.to_owned(), REGISTRATION.to_owned());
        let metadata = Metadata {
            name: workload.clone(),
            namespace: Some(id.namespace().to_owned()),
            labels,
            ..Metadata::default()
        };
        let spec = WorkloadSpec {
            address: None,
            ports: ports.iter().map(workload_port).collect::<Result<_, _>>().map_err(invalid)?,
            service_account: Some(id.account().to_owned()),
            locality: Some(Locality { region: region.clone(), zone: zone.clone() })
                .filter(|locality| *locality != Locality::default()),
            weight: None,
        };
        let workload = Workload::new(metadata, spec);
        validate::workload(&workload).map_err(|problems| invalid(told(&problems)))?;
        Ok(Self {
            workload,
            service: Key::new(id.namespace(), service),
            ports: ports.iter().map(service_port).collect::<Result<_, _>>().map_err(invalid)?,
        })
    }
}

/// The service with the registration's ports added; `None`: a new one.
pub(super) fn with_ports(known: Option<Manifest>, registration: &Registration) -> Result<Manifest, String> {
    let Registration { service: Key { namespace, name }, ports, .. } = registration;
    let mut service = match known {
        Some(Manifest::Service(service)) => service,
        Some(
            Manifest::Workload(_)
            | Manifest::HttpRoute(_)
            | Manifest::TrafficPolicy(_)
            | Manifest::MeshConfig(_),
        )
        | None => Service::new(
            Metadata {
                name: name.clone(),
                namespace: Some(namespace.clone()),
                labels: BTreeMap::from([(MANAGED_BY.to_owned(), REGISTRATION.to_owned())]),
                ..Metadata::default()
            },
            ServiceSpec {
                selector: BTreeMap::from([(SERVICE_LABEL.to_owned(), name.clone())]),
                ..ServiceSpec::default()
            },
        ),
    };
    for port in ports {
        if service.spec.ports.iter().all(|known| known.port != port.port) {
            service.spec.ports.push(port.clone());
        }
    }
    // Replicas that start together in any order make the same service.
    service.spec.ports.sort_by_key(|port| port.port);
    validate::service(&service).map_err(|problems| told(&problems))?;
    Ok(Manifest::Service(service))
}

fn workload_port(port: &proto::RegisteredPort) -> Result<WorkloadPort, String> {
    let proto::RegisteredPort { service_port, app_port, app_protocol: _, address, alpn } = port;
    let address = address.parse().map_err(|_| format!("{address:?} is no address of the form IP:PORT"))?;
    // An ALPN ID that is not known here is a newer sidecar's; it also speaks one that is.
    let transports: Vec<Transport> = alpn.iter().filter_map(|protocol| transport(protocol)).collect();
    if transports.is_empty() {
        return Err(format!(
            "port {app_port} offers no transport that this control plane knows ({})",
            alpn.join(", ")
        ));
    }
    Ok(WorkloadPort {
        service_port: Some(number(*service_port)?),
        port: number(*app_port)?,
        address: Some(address),
        transports: Some(transports),
        health_check: None,
    })
}

fn service_port(port: &proto::RegisteredPort) -> Result<ServicePort, String> {
    let number_ = number(port.service_port)?;
    let app_protocol = Some(port.app_protocol.clone()).filter(|protocol| !protocol.is_empty());
    Ok(ServicePort {
        name: Some(format!("port-{number_}")),
        port: number_,
        target_port: Some(TargetPort(number(port.app_port)?)),
        protocol: None,
        app_protocol,
    })
}

fn number(port: u32) -> Result<u16, String> {
    u16::try_from(port).map_err(|_| format!("{port} is no port"))
}

fn transport(alpn: &str) -> Option<Transport> {
    match alpn {
        "h2" => Some(Transport::MtlsHttp2),
        "http/1.1" => Some(Transport::MtlsHttp1),
        "meshwork-tcp/1" => Some(Transport::MtlsTcp),
        _ => None,
    }
}

fn told(problems: &[validate::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SpiffeId {
        SpiffeId::new("mesh.local", "shop", "cart").unwrap()
    }

    fn register() -> proto::Register {
        let port = |service_port, app_port| proto::RegisteredPort {
            service_port,
            app_port,
            app_protocol: "http".to_owned(),
            address: format!("10.0.0.1:{app_port}"),
            alpn: vec!["h2".to_owned(), "http/1.1".to_owned(), "new/9".to_owned()],
        };
        proto::Register {
            workload: "cart-7f3a1b".to_owned(),
            service: "cart".to_owned(),
            ports: vec![port(81, 8081), port(80, 8080)],
            ..proto::Register::default()
        }
    }

    fn refused(change: impl FnOnce(&mut proto::Register)) -> String {
        let mut register = register();
        change(&mut register);
        Registration::read(&id(), &register).unwrap_err().to_string()
    }

    #[test]
    fn a_registration_is_a_workload_of_its_certificates_namespace() {
        let registration = Registration::read(&id(), &register()).unwrap();
        assert_eq!(registration.workload.key(), Key::new("shop", "cart-7f3a1b"));
        assert_eq!(registration.workload.metadata.labels["app"], "cart");
        let ports = &registration.workload.spec.ports;
        assert_eq!(ports[0].transports, Some(vec![Transport::MtlsHttp2, Transport::MtlsHttp1]));
    }

    #[test]
    fn a_new_service_has_the_ports_in_order_and_later_ones_are_added() {
        let first = Registration::read(&id(), &register()).unwrap();
        let service = with_ports(None, &first).unwrap();
        let mut later = register();
        later.ports[0].service_port = 79;
        later.ports[1].app_port = 9999;
        let later = Registration::read(&id(), &later).unwrap();
        let Manifest::Service(service) = with_ports(Some(service), &later).unwrap() else { unreachable!() };
        let ports: Vec<_> = service.spec.ports.iter().map(|port| (port.port, port.target_port)).collect();
        let target = |port| Some(TargetPort(port));
        assert_eq!(ports, [(79, target(8081)), (80, target(8080)), (81, target(8081))]);
    }

    #[test]
    fn another_services_name_is_refused() {
        let message = refused(|register| register.service = "payments".to_owned());
        assert!(
            message.contains("spiffe://mesh.local/ns/shop/sa/cart may register for service cart only"),
            "{message}"
        );
    }

    #[test]
    fn what_does_not_hold_is_refused_with_a_sentence() {
        let label = |register: &mut proto::Register| {
            register.labels.insert("app".to_owned(), "web".to_owned());
        };
        assert!(refused(label).contains("label app"));
        assert!(refused(|register| register.workload = "Cart 1".to_owned()).contains("metadata.name"));
        assert!(refused(|register| register.ports[0].address = "cart:80".to_owned()).contains("IP:PORT"));
        assert!(
            refused(|register| register.ports[0].address = "0.0.0.0:80".to_owned())
                .contains("can't be an endpoint")
        );
        assert!(refused(|register| register.ports[0].service_port = 70_000).contains("70000 is no port"));
        assert!(refused(|register| register.ports[0].alpn.clear()).contains("no transport"));
    }
}
