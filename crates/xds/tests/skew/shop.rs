//! The mesh that is recorded with every release, and what a sidecar does in it: the same for recorder and replay. Only what
//! releases on both sides of a recording can say: `record_wire` of the older one compiles this file, too.

use meshwork_core::mesh::Mesh;
use meshwork_core::model::{
    BackendRef, Balance, Check, HeaderModifier, Health, HttpRoute, Key, Labels, Locality, ParentRef,
    PathMatch, RouteMatch, RouteRule, Service, ServicePort, Transport, Workload, WorkloadPort,
};
use meshwork_core::resource::ResourceType;

pub(crate) const WORKLOAD: &str = "default/web-1";
pub(crate) const TRUST_DOMAIN: &str = "mesh.local";

/// What the application calls, in this order; the last one is nobody's.
pub(crate) const CALLED: [&str; 3] = ["cart:80", "pay.shop:9000", "gone:80"];

/// Stands between what was said before the change and after it.
pub(crate) const CHANGED: &str = "# changed\n";

/// Before anything changes.
pub(crate) fn mesh() -> Mesh {
    let mut mesh = Mesh::new("mesh-1", TRUST_DOMAIN);
    mesh.set_roots(vec![vec![1, 2, 3]]);
    mesh.put_service(service("default", "cart", 80, Balance::PeakEwma));
    mesh.put_service(service("shop", "pay", 9000, Balance::RoundRobin));
    for (namespace, service, number) in
        [("default", "cart", 1), ("default", "cart", 2), ("shop", "pay", 3), ("default", "web", 1)]
    {
        mesh.put_workload(workload(namespace, service, number));
    }
    mesh.put_route(route());
    mesh
}

/// What happens next: an instance goes, one is drained, and what was nobody's is somebody's.
pub(crate) fn change(mesh: &mut Mesh) {
    drop(mesh.remove_workload(&Key::new("default", "cart-2")));
    mesh.put_workload(Workload { health: Health::Draining, ..workload("shop", "pay", 3) });
    mesh.put_service(service("default", "gone", 80, Balance::PeakEwma));
}

/// What the change is about, at least.
pub(crate) fn concerns(resource_type: ResourceType, name: &str) -> bool {
    resource_type == ResourceType::Endpoints || name.contains("gone")
}

fn labels(service: &str) -> Labels {
    [("app".to_owned(), service.to_owned())].into()
}

fn workload(namespace: &str, service: &str, number: u8) -> Workload {
    Workload {
        key: Key::new(namespace, format!("{service}-{number}")),
        labels: labels(service),
        account: service.to_owned(),
        ports: vec![WorkloadPort {
            service_port: None,
            app_port: 8080,
            address: ([10, 0, 0, number], 15_008).into(),
            transports: vec![Transport::MtlsHttp2, Transport::MtlsHttp1, Transport::MtlsTcp],
            check: Check::Unasked,
            health: Health::Healthy,
        }],
        locality: Locality::default(),
        health: Health::Healthy,
        weight: 1 + u32::from(number),
    }
}

/// Testers' requests, with a header more, go to one service and all others to two.
fn route() -> HttpRoute {
    let backend = |namespace: &str, name: &str, port, weight| BackendRef {
        service: Key::new(namespace, name),
        port,
        weight,
    };
    let testers = RouteMatch {
        path: PathMatch::Prefix("/a".to_owned()),
        method: Some("POST".to_owned()),
        headers: vec![("x-tester".to_owned(), "yes".to_owned())],
    };
    let rule = |matches, backends| RouteRule {
        matches: vec![matches],
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        backends,
        timeouts: Default::default(),
        retry: None,
    };
    HttpRoute {
        key: Key::new("default", "to-cart"),
        parents: vec![ParentRef { service: Key::new("default", "cart"), port: None }],
        rules: vec![
            rule(testers, vec![backend("default", "cart", 80, 1)]),
            rule(
                RouteMatch::default(),
                vec![backend("default", "cart", 80, 9), backend("shop", "pay", 9000, 1)],
            ),
        ],
        created: 0,
    }
}

fn service(namespace: &str, name: &str, port: u16, balance: Balance) -> Service {
    Service {
        key: Key::new(namespace, name),
        ports: vec![ServicePort { name: None, port, target_port: 8080, app_protocol: None }],
        selector: labels(name),
        headless: false,
        accounts: [name.to_owned()].into(),
        balance,
        cluster_ip: None,
        inbound: Default::default(),
        virtual_address: None,
    }
}
