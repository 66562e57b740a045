//! What an address stands for: a service, one instance of it, or nothing.

use super::*;
use crate::model::{Transport, WorkloadPort};
use crate::names::Named;

/// `cart` at 240.0.0.7 and 10.96.0.7 with two instances on hosts of their own.
fn mesh() -> Mesh {
    let mut mesh = super::mesh();
    mesh.put_service(Service {
        virtual_address: Some(fixture::virtual_ranges().address([240, 0, 0, 7].into())),
        cluster_ip: Some([10, 96, 0, 7].into()),
        ..service("default", "cart")
    });
    mesh.put_workload(workload("default", "cart", 3));
    mesh
}

#[test]
fn an_address_of_a_service_is_as_good_as_its_name() {
    let mesh = mesh();
    let v6 = fixture::virtual_ranges().address([240, 0, 0, 7].into()).v6;
    for name in ["240.0.0.7:80", "10.96.0.7:80", &format!("[{v6}]:80")] {
        check_listener(&mesh, name, "default", Some("default/cart:80"));
        check_listener(&mesh, name, "shop", Some("default/cart:80"));
    }
    for name in ["240.0.0.7", "240.0.0.7:81", "240.0.0.8:80", "[::ffff:240.0.0.7]:80", "240.0.0.007:80"] {
        check_listener(&mesh, name, "default", None);
    }
}

#[test]
fn by_address_too_a_namespace_has_its_own_view() {
    let mut mesh = mesh();
    mesh.put_route(route("shop", "mine", "default", "cart"));
    check_listener(&mesh, "240.0.0.7:80", "shop", Some("default/cart:80?from=shop"));
    check_listener(&mesh, "240.0.0.7:80", "default", Some("default/cart:80"));
}

#[test]
fn an_instances_own_address_leads_to_it_alone_past_all_routes() {
    let mut mesh = mesh();
    mesh.put_route(route("default", "split", "default", "web"));
    let one = "default/cart:80?instance=cart-1";
    check_listener(&mesh, "10.0.0.1:80", "default", Some(one));
    check_listener(&mesh, "10.0.0.1:8080", "shop", Some(one));
    check_listener(&mesh, "10.0.0.3:80", "default", Some("default/cart:80?instance=cart-3"));
    check_listener(&mesh, "10.0.0.2:80", "default", Some("shop/cart:80?instance=cart-2"));
    for name in ["10.0.0.1:81", "10.0.0.1:15008", "10.0.0.4:80"] {
        check_listener(&mesh, name, "default", None);
    }
    let rules = rules(&mesh, one).unwrap();
    assert_eq!((rules.len(), rules[0].name.as_str()), (1, "default"));
    assert_eq!(rules[0].backends[0].cluster.to_string(), one);
    let Some(Resource::Cluster(cluster)) = compiled(&mesh, ResourceType::Cluster, one) else { panic!() };
    let whole = compiled(&mesh, ResourceType::Cluster, "default/cart:80");
    let Some(Resource::Cluster(whole)) = whole else { panic!() };
    assert_eq!((&cluster.identities, &cluster.traffic), (&whole.identities, &whole.traffic));
    let Some(Resource::Endpoints(endpoints)) = compiled(&mesh, ResourceType::Endpoints, one) else {
        panic!()
    };
    let workloads: Vec<_> = endpoints.endpoints.iter().map(|endpoint| endpoint.workload.as_str()).collect();
    assert_eq!(workloads, ["cart-1"]);
}

#[test]
fn an_instance_is_there_only_while_it_may_serve() {
    let mut mesh = mesh();
    for one in
        ["default/cart:80?instance=cart-9", "default/cart:81?instance=cart-1", "shop/cart:80?instance=cart-1"]
    {
        for resource_type in [ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoints] {
            assert_eq!(compiled(&mesh, resource_type, one), None, "{resource_type:?} {one}");
        }
    }
    mesh.put_workload(Workload { account: "web".to_owned(), ..workload("default", "cart", 1) });
    check_listener(&mesh, "10.0.0.1:80", "default", None);
    assert_eq!(compiled(&mesh, ResourceType::Cluster, "default/cart:80?instance=cart-1"), None);
}

/// On 10.0.0.1 beside `cart-1`, which listens at 8080.
fn beside(name: &str, app_port: u16) -> Workload {
    let mut made = workload("default", name, 1);
    made.ports[0] =
        WorkloadPort { app_port, address: ([10, 0, 0, 1], 15_009).into(), ..made.ports[0].clone() };
    made
}

#[test]
fn what_several_on_one_host_could_mean_is_nobody() {
    let mut mesh = mesh();
    let mut web = service("default", "web");
    web.ports[0].target_port = 9090;
    mesh.put_service(web);
    mesh.put_workload(beside("web", 9090));
    check_listener(&mesh, "10.0.0.1:80", "default", None);
    check_listener(&mesh, "10.0.0.1:8080", "default", Some("default/cart:80?instance=cart-1"));
    check_listener(&mesh, "10.0.0.1:9090", "default", Some("default/web:80?instance=web-1"));
    // An application's own port goes before a service's.
    let mut web = service("default", "web");
    web.ports[0].target_port = 80;
    mesh.put_service(web);
    mesh.put_workload(beside("web", 80));
    check_listener(&mesh, "10.0.0.1:80", "default", Some("default/web:80?instance=web-1"));
}

#[test]
fn whoever_came_back_under_another_name_is_meant_not_the_one_before() {
    let mut mesh = mesh();
    let mut again = beside("cart", 8080);
    again.key.name = "cart-0".to_owned();
    mesh.put_workload(again);
    check_listener(&mesh, "10.0.0.1:8080", "default", None);
    mesh.put_workload(Workload { health: Health::Unhealthy, ..workload("default", "cart", 1) });
    check_listener(&mesh, "10.0.0.1:8080", "default", Some("default/cart:80?instance=cart-0"));
}

#[test]
fn a_workload_of_two_services_is_one_instance_of_the_first_by_name() {
    let mut mesh = mesh();
    let mut all = service("default", "all");
    all.selector = fixture::labels(&[("app", "cart")]);
    all.accounts = ["cart".to_owned()].into();
    mesh.put_service(all);
    check_listener(&mesh, "10.0.0.1:8080", "default", Some("default/all:80?instance=cart-1"));
}

#[test]
fn a_sidecar_from_before_is_told_no_instances_and_no_names() {
    let mesh = mesh();
    let before = Audience::Sidecar(Features::HTTP2.and(Features::TRAFFIC));
    let compiled = |resource_type, name| super::super::compile(&mesh, resource_type, name, "default", before);
    assert_eq!(compiled(ResourceType::Listener, "10.0.0.1:80"), Ok(None));
    assert!(compiled(ResourceType::Listener, "240.0.0.7:80").unwrap().is_some());
    assert_eq!(compiled(ResourceType::NameTable, "default"), Ok(None));
}

fn names(mesh: &Mesh, namespace: &str) -> Vec<(String, Named)> {
    match compiled(mesh, ResourceType::NameTable, namespace) {
        Some(Resource::NameTable(table)) => {
            assert_eq!(table.namespace, namespace);
            table.services.into_iter().collect()
        }
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_namespaces_names_are_its_services_that_have_an_address() {
    let mut mesh = mesh();
    let found = names(&mesh, "default");
    let address = fixture::virtual_ranges().address([240, 0, 0, 7].into());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.as_str(), found[0].1.v4, found[0].1.v6), ("cart", address.v4, address.v6));
    assert!(found[0].1.ports.is_empty() && !found[0].1.headless && found[0].1.instances.is_empty());
    assert_eq!(names(&mesh, "shop"), [], "its cart got no address");
    assert_eq!(names(&mesh, "nowhere"), []);
    let mut named = Service { virtual_address: Some(address), ..service("default", "cart") };
    named.ports[0].name = Some("http".to_owned());
    mesh.put_service(named);
    assert_eq!(names(&mesh, "default")[0].1.ports, [("http".to_owned(), 80)].into());
}

#[test]
fn a_headless_services_name_stands_for_its_instances() {
    let mut mesh = mesh();
    let address = fixture::virtual_ranges().address([240, 0, 0, 7].into());
    mesh.put_service(Service {
        headless: true,
        virtual_address: Some(address),
        ..service("default", "cart")
    });
    mesh.put_workload(Workload { health: Health::Unhealthy, ..workload("default", "cart", 3) });
    mesh.put_workload(Workload { health: Health::Draining, ..workload("default", "cart", 4) });
    mesh.put_workload(Workload { account: "web".to_owned(), ..workload("default", "cart", 5) });
    let mut clear = workload("default", "cart", 6);
    clear.ports[0].transports = vec![Transport::Plaintext];
    mesh.put_workload(clear);
    let expect: [(&str, [u8; 4]); 3] =
        [("cart-1", [10, 0, 0, 1]), ("cart-3", [10, 0, 0, 3]), ("cart-6", [10, 0, 0, 6])];
    let expect = expect.map(|(name, ip)| (name.to_owned(), ip.into()));
    assert_eq!(names(&mesh, "default")[0].1.instances, expect.into());
}
