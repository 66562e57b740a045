//! `Service`.

use super::*;

#[test]
fn a_service_is_read_with_its_defaults() {
    let spec = json!({"ports": [{"port": 80}], "selector": {"app": "cart"}});
    let Ok(Declared::Service(service)) = judge(Kind::Service, named("cart"), spec) else {
        panic!("refused");
    };
    let port = ServicePort { name: None, port: 80, target_port: 80, app_protocol: None };
    let expect = Service {
        key: Key::new("default", "cart"),
        ports: vec![port],
        selector: [("app".to_owned(), "cart".to_owned())].into(),
        headless: false,
        accounts: ["cart".to_owned()].into(),
        balance: Balance::PeakEwma,
        cluster_ip: None,
        inbound: Default::default(),
        virtual_address: None,
    };
    assert_eq!(service, expect);
}

#[test]
fn a_services_cluster_ip_is_an_address_that_others_can_reach() {
    let with = |address: &str| {
        judge(Kind::Service, named("cart"), json!({"ports": [{"port": 80}], "clusterIP": address}))
    };
    let Ok(Declared::Service(service)) = with("10.96.0.7") else { panic!("refused") };
    assert_eq!((service.cluster_ip, service.headless), (Some([10, 96, 0, 7].into()), false));
    check(with("127.0.0.1"), &[("spec.clusterIP", "127.0.0.1 is a loopback address")]);
    check(with("::ffff:127.0.0.1"), &[("spec.clusterIP", "127.0.0.1 is a loopback address")]);
    check(with("224.0.0.1"), &[("spec.clusterIP", "224.0.0.1 can't be a service's")]);
    check(with("169.254.169.254"), &[("spec.clusterIP", "link-local")]);
}

#[test]
fn a_services_annotations_say_who_serves_it_and_how() {
    let metadata = json!({
        "name": "cart", "namespace": "shop",
        "annotations": {"meshwork.dev/accounts": "cart, cart-canary", "meshwork.dev/balance": "roundRobin"},
    });
    let spec = json!({
        "clusterIP": "None",
        "ports": [
            {"name": "a", "port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c"},
            {"name": "b", "port": 81, "appProtocol": "tcp"},
        ],
    });
    let Ok(Declared::Service(service)) = judge(Kind::Service, metadata, spec) else {
        panic!("refused");
    };
    assert_eq!(service.accounts, ["cart".to_owned(), "cart-canary".to_owned()].into());
    assert_eq!(service.balance, Balance::RoundRobin);
    assert!(service.headless);
    assert_eq!(service.ports[0].target_port, 8080);
    assert_eq!(service.ports[0].app_protocol, Some(AppProtocol::Http2));
    assert_eq!(service.ports[1].app_protocol, Some(AppProtocol::Tcp));
}

#[test]
fn all_problems_of_a_service_are_told_at_once() {
    check_service(
        json!({
            "name": "Cart", "namespace": "a.b", "labels": {"-": "ok", "ok": "-"},
            "annotations": {
                "a b": "", "meshwork.dev/acounts": "x", "meshwork.dev/accounts": "Cart", "meshwork.dev/balance": "random",
            },
        }),
        json!({
            "selector": {"app": "not a value"},
            "ports": [
                {"name": "a", "port": 0},
                {"name": "A", "port": 80, "targetPort": 0},
                {"name": "a", "port": 80, "appProtocol": "quic"},
                {"port": 81},
            ],
        }),
        &[
            ("metadata.name", "not a DNS label"),
            ("metadata.namespace", "not a DNS label"),
            ("metadata.labels[\"-\"]", "not a label's name"),
            ("metadata.labels[\"ok\"]", "not a label's value"),
            ("metadata.annotations[\"a b\"]", "not an annotation's name"),
            ("metadata.annotations[\"meshwork.dev/acounts\"]", "no annotation of that name"),
            ("metadata.annotations[\"meshwork.dev/accounts\"]", "can't be a service account"),
            ("metadata.annotations[\"meshwork.dev/balance\"]", "no way to balance"),
            ("spec.selector[\"app\"]", "not a label's value"),
            ("spec.ports[0].port", "0 is no port"),
            ("spec.ports[0].targetPort", "0 is no port"),
            ("spec.ports[1].targetPort", "0 is no port"),
            ("spec.ports[1].name", "not a DNS label"),
            ("spec.ports[2].port", "twice"),
            ("spec.ports[2].name", "twice"),
            ("spec.ports[2].appProtocol", "\"quic\" is not known"),
            ("spec.ports[3].name", "must name each"),
        ],
    );
    check_service(named("cart"), json!({"ports": []}), &[("spec.ports", "0 entries, not 1 to 128")]);
}

#[test]
fn a_service_says_of_each_port_whether_it_takes_plaintext() {
    let with = |mode: &str| {
        let metadata = json!({"name": "cart", "annotations": {"meshwork.dev/inbound-mode": mode}});
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
        judge(Kind::Service, metadata, json!({"ports": ports}))
    };
    let modes = |mode: &str| match with(mode) {
        Ok(Declared::Service(service)) => [80, 81].map(|port| service.inbound.of(port)),
        other => panic!("{other:?}"),
    };
    let (strict, permissive) = (Some(MtlsMode::Strict), Some(MtlsMode::Permissive));
    assert_eq!(modes("permissive"), [permissive, permissive]);
    assert_eq!(modes("81=permissive"), [None, permissive]);
    assert_eq!(modes("permissive, 80 = strict"), [strict, permissive]);
    let path = "metadata.annotations[\"meshwork.dev/inbound-mode\"]";
    check(with("open"), &[(path, "\"open\" is neither strict nor permissive")]);
    check(with(""), &[(path, "\"\" is neither")]);
    check(with("82=strict"), &[(path, "no port \"82\"")]);
    check(with("http=strict"), &[(path, "no port \"http\"")]);
    check(with("80=strict,80=permissive"), &[(path, "once more")]);
}
